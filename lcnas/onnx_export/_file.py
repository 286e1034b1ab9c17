"""What an ONNX file is: its input, its layout, its metadata; ours or anybody's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lcnas.errors import ImageError, OnnxError, shorten
from lcnas.onnx_export._images import CROP, Preprocessing, constants
from lcnas.onnx_export._others import lowered, prepared

File = str | Path | bytes | onnx.ModelProto
NCHW, NHWC = "NCHW", "NHWC"
FLOATS = ("float32", "float16", "float64")  # of an input, by NumPy's names

# What a value may go through on its way out without being another one.
_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")


def called(source: File) -> str:
    """Return what to call a model in messages: its path, or "model"."""
    return str(source) if isinstance(source, str | Path) else "model"


def read(source: File) -> onnx.ModelProto:
    """Return the model of a file or of its bytes, such that the installed onnxruntime takes it.

    Weights that a file keeps in others beside it are put in, and versions that are too new are lowered.

    Raises:
        OnnxError: there is no such file, it is no ONNX model, its weights cannot be had, or its versions are
            too new.
    """
    what = called(source)
    if isinstance(source, str | Path):
        return prepared(_parsed(_bytes(Path(source)), what), Path(source).parent, what)
    model = _checked(source, what) if isinstance(source, onnx.ModelProto) else _parsed(source, what)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise OnnxError(
            f"{what}: keeps its weights in other files; save it as one: "
            "onnx.save(onnx.load(path), other_path)"
        )
    return lowered(model, what)


def engine_bytes(path: Path, size: tuple[int, int] | None = None, batch: int = 1) -> bytes:
    """Return the model of a file as engines load it: as it is, where nothing has to be done.

    Beyond what :func:`read` does, the batch and height and width are closed where they are open.

    Raises:
        OnnxError: as :func:`read`; several inputs or one of another type; open sides and no size.
    """
    data, what = _bytes(path), str(path)
    model = _parsed(data, what)
    made = prepared(model, path.parent, what)
    if None in dims(single_input(made, what, FLOATS)):
        made = closed(made, size, what, batch)
    return data if made is model else bytes(made.SerializeToString())


def takes_any_size(path: Path) -> bool:
    """Return whether height or width of a file are open; one that cannot be read counts as such."""
    try:
        return None in dims(single_input(read(path), str(path), FLOATS))[1:]
    except OnnxError:
        return True


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OnnxError(f"{path}: cannot be read: {error.strerror}") from None


def _parsed(data: bytes, what: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no base in onnx
        raise OnnxError(f"{what}: is not an ONNX model: {shorten(str(error), 120)}") from None
    return _checked(model, what)


def _checked(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    if not model.graph.node or not model.graph.output:
        raise OnnxError(f"{what}: is not an ONNX model: it has no graph from an input to an output")
    return model


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model."""
    return {prop.key: prop.value for prop in model.metadata_props}


def dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of a graph's input or output; None where it is open."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def single_input(
    model: onnx.ModelProto, what: str = "model", types: Sequence[str] = ("float32",)
) -> onnx.ValueInfoProto:
    """Return the one input that is not a weight.

    Raises:
        OnnxError: there is none, there are several, or it is no tensor of one of ``types``.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    given: list[onnx.ValueInfoProto] = [v for v in model.graph.input if v.name not in weights]
    if len(given) != 1:
        found = f"{len(given)} inputs, not one: {[v.name for v in given]}" if given else "no input"
        raise OnnxError(f"{what}: has {found}")
    made = type_of(given[0])
    if made not in types:
        raise OnnxError(f"{what}: its input {given[0].name!r} is {made}, not {' or '.join(types)}")
    return given[0]


def type_of(value: onnx.ValueInfoProto) -> str:
    """Return the type of a graph's input or output, such as "float32", or "a sequence"."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return "of no type" if kind is None else f"a {kind.removesuffix('_type').replace('_', ' ')}"
    number = value.type.tensor_type.elem_type
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    return {"float": "float32", "double": "float64"}.get(
        names.get(number, ""), str(names.get(number))
    )


@dataclass(frozen=True)
class Interface:
    """How a classifier of images is called."""

    what: str  # as messages call it
    input: str
    layout: str  # "NCHW" or "NHWC"
    batch: int | None  # images at once; None: any number
    size: tuple[int | None, int | None]  # (height, width) in pixels; None: open
    softmax: bool  # whether the graph ends in one
    metadata: Mapping[str, str]
    dtype: str = "float32"  # of its input, one of FLOATS

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
        """Whether :func:`lcnas.onnx_export.quantise` made it."""
        return self.metadata.get("lcnas.precision") == "int8"

    @property
    def int8_weights(self) -> str | None:
        """How many bits the weights of our int8 files have, "7bit" or "8bit"; None where it is not said.

        Files from before this was recorded may overflow without VNNI: :func:`lcnas.onnx_export.int8_warning`
        tells by the weights.
        """
        found = self._table("lcnas.calibration").get("weights")
        return found if isinstance(found, str) else None

    @property
    def precision(self) -> str:
        """The precision that the file was made for: "int8", "bf16", or "fp32" where it does not say."""
        told = self.metadata.get("lcnas.precision")
        return told if told in ("int8", "bf16") else "fp32"

    @property
    def has_normalization(self) -> bool:
        """Whether the file says how its images are normalised."""
        return "lcnas.normalization" in self.metadata

    def preprocessing(self, size: tuple[int, int] | None = None) -> Preprocessing:
        """Return the recorded preprocessing; what is not recorded is ImageNet's.

        Args:
            size: (height, width) where the file leaves them open.

        Raises:
            OnnxError: metadata that are broken, or no size in the file and none given.
        """
        height, width = self.size
        if height is None or width is None:
            if size is None:
                raise OnnxError(f"{self.what}: takes any height and width; give a size")
            height, width = height or size[0], width or size[1]
        norm = self._table("lcnas.normalization")
        resize = self._table("lcnas.resize")
        made: dict[str, Any] = {
            key: self._constants(norm[key], key) for key in ("mean", "std") if key in norm
        }
        try:
            return Preprocessing(
                (height, width),
                crop=resize.get("crop", CROP),
                squash=bool(resize.get("squash", False)),
                **made,
            )
        except ImageError as error:
            raise OnnxError(f"{self.what}: metadata: lcnas.resize: {error}") from None

    def _constants(self, values: Any, key: str) -> tuple[float, float, float]:
        try:
            return constants(values, f"lcnas.normalization: {key}")
        except ImageError as error:
            raise OnnxError(f"{self.what}: metadata: {error}") from None

    def _table(self, key: str) -> dict[str, Any]:
        made = self._json(key, self.metadata.get(key, "{}"))
        if not isinstance(made, dict):
            raise OnnxError(f"{self.what}: metadata: {key} is not a JSON object")
        return made

    def _json(self, key: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise OnnxError(f"{self.what}: metadata: {key} is not JSON: {shorten(text)}") from None


def interface(model: onnx.ModelProto, what: str = "model") -> Interface:
    """Return how a classifier of images is called.

    Raises:
        OnnxError: it does not take colour images in floating-point numbers, alone, or gives no tensor.
    """
    given = single_input(model, what, FLOATS)
    output = type_of(model.graph.output[0])
    if output.startswith("a "):
        raise OnnxError(f"{what}: its first output is {output}, not a tensor (images, classes)")
    shape = dims(given)
    if len(shape) != 4:
        raise OnnxError(f"{what}: its input has {len(shape)} dimensions; a batch of images has 4")
    layout = _layout(model.graph, given.name, shape, what)
    height, width = shape[2:] if layout == NCHW else shape[1:3]
    ends = _ends_in_softmax(model.graph)
    size, dtype = (height, width), type_of(given)
    return Interface(what, given.name, layout, shape[0], size, ends, metadata(model), dtype)


def _layout(graph: onnx.GraphProto, name: str, shape: Sequence[int | None], what: str) -> str:
    """Return the layout: where the 3 channels are; where that is open, what the first node takes."""
    first, last = shape[1], shape[3]
    if (first == 3) != (last == 3):
        return NCHW if first == 3 else NHWC
    if None not in (first, last) and first != 3:
        raise OnnxError(
            f"{what}: its input is {_spelt(shape)}; colour images have 3 channels, second or last"
        )
    reader = next((node for node in graph.node if name in node.input), None)
    if reader is not None and reader.op_type == "Transpose":
        perm = next((list(a.ints) for a in reader.attribute if a.name == "perm"), [])
        return NHWC if perm == [0, 3, 1, 2] else NCHW
    if first == 3 or (reader is not None and reader.op_type == "Conv"):
        return NCHW
    raise OnnxError(
        f"{what}: its input is {_spelt(shape)}, which does not tell the channels' place"
    )


def _spelt(shape: Sequence[int | None]) -> str:
    return "x".join("?" if n is None else str(n) for n in shape)


def _ends_in_softmax(graph: onnx.GraphProto) -> bool:
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING and node.input:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def closed(
    model: onnx.ModelProto,
    size: tuple[int, int] | None,
    what: str = "model",
    batch: int | None = None,
) -> onnx.ModelProto:
    """Return a model whose height and width are those of ``size`` where they were open.

    Engines want them known, and some know a batch of -1 or 0 only by a name.

    Args:
        model: with one input; images where more than the batch is open.
        size: (height, width) in pixels; None where none is known.
        what: how messages call the model.
        batch: images at once where that is open; None: it stays open.

    Raises:
        OnnxError: sides are open and no size is given, or something else than height and width is open.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    given = single_input(made, what, FLOATS)
    fields = given.type.tensor_type.shape.dim
    wanted = _sides(made.graph, given, size, what)
    for i, (field, side) in enumerate(zip(fields, wanted, strict=True)):
        if field.dim_value > 0:
            continue
        if i > 0:
            field.dim_value = side
        elif batch is not None:
            field.dim_value = batch
        else:
            field.dim_param = field.dim_param or "batch"
    return made


def _sides(
    graph: onnx.GraphProto, given: onnx.ValueInfoProto, size: tuple[int, int] | None, what: str
) -> tuple[int, ...]:
    """Return what the dimensions of the input are where they are open; the batch does not matter."""
    shape = dims(given)
    if None not in shape[1:]:
        return (0,) * len(shape)
    told = f"{what}: its input {given.name!r} is {_spelt(shape)}"
    if len(shape) != 4:
        raise OnnxError(f"{told}; only height and width of images, and the batch, can be closed")
    if size is None:
        raise OnnxError(f"{told}: height and width are open; say them with --resolution")
    first, last = shape[1], shape[3]
    if first is not None and last is None:
        layout = NCHW
    elif last is not None and first is None:
        layout = NHWC
    else:
        layout = _layout(graph, given.name, shape, what)
    return (0, 3, *size) if layout == NCHW else (0, *size, 3)
