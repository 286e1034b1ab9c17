"""Reading ONNX files of any origin: input, layout, metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lcnas.errors import ImageError, OnnxError, shorten
from lcnas.onnx_export._images import CROP, Preprocessing, constants
from lcnas.onnx_export._others import loadable, lower_versions

File = str | Path | bytes | onnx.ModelProto
NCHW, NHWC = "NCHW", "NHWC"
FLOATS = ("float32", "float16", "float64")  # accepted types of an input, as NumPy names them

# Operators after a softmax that keep its outputs probabilities.
_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")


def display_name(source: File) -> str:
    """Return the name of a model in messages: its path, or "model"."""
    return str(source) if isinstance(source, str | Path) else "model"


def read(source: File) -> onnx.ModelProto:
    """Return the model of a file or of its bytes, in a form that the installed onnxruntime loads.

    Weights in other files beside it are read in, and versions that are too new are lowered.

    Raises:
        OnnxError: there is no such file, it is not an ONNX model, its weights cannot be read, or its versions
            are too new.
    """
    what = display_name(source)
    if isinstance(source, str | Path):
        return loadable(_parse(_bytes(Path(source)), what), Path(source).parent, what)
    model = (
        _check_graph(source, what) if isinstance(source, onnx.ModelProto) else _parse(source, what)
    )
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise OnnxError(
            f"{what}: keeps its weights in other files; save it as one: "
            "onnx.save(onnx.load(path), other_path)"
        )
    return lower_versions(model, what)


def engine_bytes(path: Path, size: tuple[int, int] | None = None, batch: int = 1) -> bytes:
    """Return the model of a file as engines load it; unchanged if nothing has to be done.

    In addition to :func:`read`, an open batch, height and width are fixed.

    Raises:
        OnnxError: as :func:`read`; there are several inputs, the input has another type, or height and width
            are open and ``size`` is None.
    """
    data, what = _bytes(path), str(path)
    model = _parse(data, what)
    prepared = loadable(model, path.parent, what)
    if None in dims(single_input(prepared, what, FLOATS)):
        prepared = with_fixed_shape(prepared, size, what, batch)
    return data if prepared is model else bytes(prepared.SerializeToString())


def takes_any_size(path: Path) -> bool:
    """Return whether height or width of a file are open; also true for a file that cannot be read."""
    try:
        return None in dims(single_input(read(path), str(path), FLOATS))[1:]
    except OnnxError:
        return True


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OnnxError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no base in onnx
        raise OnnxError(f"{what}: is not an ONNX model: {shorten(str(error), 120)}") from None
    return _check_graph(model, what)


def _check_graph(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    if not model.graph.node or not model.graph.output:
        raise OnnxError(f"{what}: is not an ONNX model: it has no graph from an input to an output")
    return model


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model."""
    return {prop.key: prop.value for prop in model.metadata_props}


def dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of a graph's input or output; None: an open dimension."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def single_input(
    model: onnx.ModelProto, what: str = "model", types: Sequence[str] = ("float32",)
) -> onnx.ValueInfoProto:
    """Return the single input that is not a weight.

    Raises:
        OnnxError: there is no input, there are several, or it is not a tensor of one of ``types``.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [v for v in model.graph.input if v.name not in weights]
    if len(inputs) != 1:
        problem = (
            f"{len(inputs)} inputs, not one: {[v.name for v in inputs]}" if inputs else "no input"
        )
        raise OnnxError(f"{what}: has {problem}")
    dtype = type_name(inputs[0])
    if dtype not in types:
        raise OnnxError(
            f"{what}: its input {inputs[0].name!r} is {dtype}, not {' or '.join(types)}"
        )
    return inputs[0]


def type_name(value: onnx.ValueInfoProto) -> str:
    """Return the type of a graph's input or output in words, such as "float32" or "a sequence"."""
    field = value.type.WhichOneof("value")
    if field != "tensor_type":
        return (
            "of no type" if field is None else f"a {field.removesuffix('_type').replace('_', ' ')}"
        )
    number = value.type.tensor_type.elem_type
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    return {"float": "float32", "double": "float64"}.get(
        names.get(number, ""), str(names.get(number))
    )


@dataclass(frozen=True)
class Interface:
    """The input and the metadata of an image classifier."""

    what: str  # its name in messages
    input: str  # name of the input
    layout: str  # "NCHW" or "NHWC"
    batch: int | None  # batch size; None: any
    size: tuple[int | None, int | None]  # (height, width) in pixels; None: open
    softmax: bool  # whether the graph ends in a softmax
    metadata: Mapping[str, str]
    dtype: str = "float32"  # type of the input, one of FLOATS

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The recorded name of each class, in order."""
        text = self.metadata.get("lcnas.class_names")
        if text is None:
            return None
        names = self._json("lcnas.class_names", text)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise OnnxError(f"{self.what}: metadata: lcnas.class_names is not a list of texts")
        return tuple(names)

    @property
    def is_int8(self) -> bool:
        """Whether the file comes from :func:`lcnas.onnx_export.quantise`."""
        return self.metadata.get("lcnas.precision") == "int8"

    @property
    def int8_weights(self) -> str | None:
        """Bits of the weights of our int8 files, "7bit" or "8bit"; None: not recorded.

        Files without this record may overflow without VNNI: :func:`lcnas.onnx_export.int8_warning` looks at
        the weights themselves.
        """
        weights = self._object("lcnas.calibration").get("weights")
        return weights if isinstance(weights, str) else None

    @property
    def precision(self) -> str:
        """The precision that the file was tested in: "int8", "bf16", or "fp32" if none is recorded."""
        recorded = self.metadata.get("lcnas.precision")
        return recorded if recorded in ("int8", "bf16") else "fp32"

    @property
    def has_normalization(self) -> bool:
        """Whether the file records the normalisation of its images."""
        return "lcnas.normalization" in self.metadata

    def preprocessing(self, size: tuple[int, int] | None = None) -> Preprocessing:
        """Return the recorded preprocessing; settings without a record are those of ImageNet.

        Args:
            size: (height, width) in pixels if the file leaves them open.

        Raises:
            OnnxError: the metadata are broken, or neither the file nor ``size`` gives height and width.
        """
        height, width = self.size
        if height is None or width is None:
            if size is None:
                raise OnnxError(f"{self.what}: takes any height and width; give a size")
            height, width = height or size[0], width or size[1]
        normalization = self._object("lcnas.normalization")
        resize = self._object("lcnas.resize")
        channel_constants: dict[str, Any] = {
            key: self._constants(normalization[key], key)
            for key in ("mean", "std")
            if key in normalization
        }
        try:
            return Preprocessing(
                (height, width),
                crop=resize.get("crop", CROP),
                squash=bool(resize.get("squash", False)),
                **channel_constants,
            )
        except ImageError as error:
            raise OnnxError(f"{self.what}: metadata: lcnas.resize: {error}") from None

    def _constants(self, values: Any, key: str) -> tuple[float, float, float]:
        try:
            return constants(values, f"lcnas.normalization: {key}")
        except ImageError as error:
            raise OnnxError(f"{self.what}: metadata: {error}") from None

    def _object(self, key: str) -> dict[str, Any]:
        value = self._json(key, self.metadata.get(key, "{}"))
        if not isinstance(value, dict):
            raise OnnxError(f"{self.what}: metadata: {key} is not a JSON object")
        return value

    def _json(self, key: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise OnnxError(f"{self.what}: metadata: {key} is not JSON: {shorten(text)}") from None


def interface(model: onnx.ModelProto, what: str = "model") -> Interface:
    """Return the interface of an image classifier.

    Raises:
        OnnxError: its only input is not floating-point colour images, or its output is not a tensor.
    """
    value = single_input(model, what, FLOATS)
    output = type_name(model.graph.output[0])
    if output.startswith("a "):
        raise OnnxError(f"{what}: its first output is {output}, not a tensor (images, classes)")
    shape = dims(value)
    if len(shape) != 4:
        raise OnnxError(f"{what}: its input has {len(shape)} dimensions; a batch of images has 4")
    layout = _layout(model.graph, value.name, shape, what)
    height, width = shape[2:] if layout == NCHW else shape[1:3]
    has_softmax = _ends_in_softmax(model.graph)
    size, dtype = (height, width), type_name(value)
    return Interface(what, value.name, layout, shape[0], size, has_softmax, metadata(model), dtype)


def _layout(graph: onnx.GraphProto, name: str, shape: Sequence[int | None], what: str) -> str:
    """Return the layout: by the position of the 3 channels, or, if it is open, by the first node."""
    first, last = shape[1], shape[3]
    if (first == 3) != (last == 3):
        return NCHW if first == 3 else NHWC
    if None not in (first, last) and first != 3:
        raise OnnxError(
            f"{what}: its input is {_shape_text(shape)}; colour images have 3 channels, second or last"
        )
    reader = next((node for node in graph.node if name in node.input), None)
    if reader is not None and reader.op_type == "Transpose":
        perm = next((list(a.ints) for a in reader.attribute if a.name == "perm"), [])
        return NHWC if perm == [0, 3, 1, 2] else NCHW
    if first == 3 or (reader is not None and reader.op_type == "Conv"):
        return NCHW
    raise OnnxError(
        f"{what}: its input is {_shape_text(shape)}, which leaves the position of the channels open"
    )


def _shape_text(shape: Sequence[int | None]) -> str:
    return "x".join("?" if n is None else str(n) for n in shape)


def _ends_in_softmax(graph: onnx.GraphProto) -> bool:
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING and node.input:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def with_fixed_shape(
    model: onnx.ModelProto,
    size: tuple[int, int] | None,
    what: str = "model",
    batch: int | None = None,
) -> onnx.ModelProto:
    """Return a model whose open height and width are those of ``size``.

    Engines need to know them, and some accept an open batch only as a name, not as -1 or 0.

    Args:
        model: a model with one input, which must be images if more than the batch is open.
        size: (height, width) in pixels; None: unknown.
        what: name of the model in messages.
        batch: batch size if it is open; None: it stays open.

    Raises:
        OnnxError: height and width are open and ``size`` is None, or another dimension is open.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    value = single_input(fixed, what, FLOATS)
    fields = value.type.tensor_type.shape.dim
    sides = _dimensions(fixed.graph, value, size, what)
    for i, (field, side) in enumerate(zip(fields, sides, strict=True)):
        if field.dim_value > 0:
            continue
        if i > 0:
            field.dim_value = side
        elif batch is not None:
            field.dim_value = batch
        else:
            field.dim_param = field.dim_param or "batch"
    return fixed


def _dimensions(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, size: tuple[int, int] | None, what: str
) -> tuple[int, ...]:
    """Return the sizes of the input's open dimensions; the batch size is not among them."""
    shape = dims(value)
    if None not in shape[1:]:
        return (0,) * len(shape)
    problem = f"{what}: its input {value.name!r} is {_shape_text(shape)}"
    if len(shape) != 4:
        raise OnnxError(f"{problem}; only height and width of images, and the batch, can be closed")
    if size is None:
        raise OnnxError(f"{problem}: height and width are open; give them with --resolution")
    first, last = shape[1], shape[3]
    if first is not None and last is None:
        layout = NCHW
    elif last is not None and first is None:
        layout = NHWC
    else:
        layout = _layout(graph, value.name, shape, what)
    return (0, 3, *size) if layout == NCHW else (0, *size, 3)
