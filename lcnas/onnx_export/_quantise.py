"""int8 models by onnxruntime's static quantisation."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lcnas.errors import OnnxError, not_among, reason
from lcnas.onnx_export._bias import InputMeans, correct
from lcnas.onnx_export._file import (
    NCHW,
    File,
    dims,
    display_name,
    interface,
    metadata,
    read,
    single_input,
)

Array = NDArray[np.float32]

SCHEMES = ("dense", "all")  # parts that are computed in integers; see `quantise`
RANGES = ("extremes", "mean")  # of feature maps over the calibration images; see `quantise`
WEIGHTS = ("7bit", "8bit")  # bits of a weight; see `quantise`
_OPSET = 13  # the first with dequantisation per channel
_BATCH = 16  # batch size of calibration if the file takes any

_DENSE_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LINEAR_OPERATORS = ("Gemm", "MatMul")
# Without Mul, Sigmoid, HardSigmoid and the global mean, which squeeze-and-excite consists of.
_ALL_OPERATORS = (
    *_DENSE_OPERATORS,
    "Add",
    "Relu",
    "Clip",
    "Concat",
    "Split",
    "MaxPool",
    "AveragePool",
    "Pad",
    "Resize",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
)
_MEAN_OPERATORS = ("GlobalAveragePool", "ReduceMean")
_MAX_GATE_NODES = 12  # maximum nodes of a squeeze-and-excite; a longer path is something else


def quantise(
    source: File,
    calibration: Iterable[NDArray[Any]],
    *,
    scheme: str = "dense",
    ranges: str = "extremes",
    weights: str = "7bit",
    reduce_range: bool | None = None,
) -> bytes:
    """Return an int8 file, with quantise and dequantise nodes around the layers that compute in integers.

    Weights get one scale per output channel, feature maps one scale and zero point. The schemes are

    - "dense": linear layers and convolutions that mix channels take 8 bits and return float32; depthwise
      convolutions, sums and activations stay in float32. Nearly all multiplications are in integers, and a
      feature map is rounded only where every weight reads all of it. Between a pointwise and a depthwise
      convolution of a trained PP-LCNet, channels differ so widely that one scale for all of them leaves most
      channels with a handful of values.
    - "all": the others too, both inputs and outputs, without which onnxruntime's own kernels do not compute
      in integers (OpenVINO does). Before h-swish and h-sigmoid ranges end at -3, below which both are
      constant.

    In both schemes squeeze-and-excite stays in float32, because an error of a gate is an error of a whole
    channel, and so do the outputs of linear layers, so that logits are not rounded to 256 steps.

    Weights are signed, feature maps unsigned. Processors without VNNI (Intel before Cascade Lake, AMD before
    Zen 4) add two of their products in signed 16 bits, which overflow if weights use all 8 bits. So weights
    have

    - "7bit": -64 to 64, correct everywhere, at the same latency;
    - "8bit": -127 to 127, half the rounding error, for processors with VNNI or of other architectures.
      :func:`int8_warning` warns if such a file overflows.

    Biases compensate for the shift that rounding the weights causes on the calibration images.

    Args:
        source: a file, its bytes, or a model, of any origin, with one float32 input.
        calibration: batches of any length, of images as the network takes them: normalised float32
            (n, height, width, 3) or in the file's own layout, or uint8 (n, any, any, 3) if the file records
            its normalisation. Use a few hundred images of the training set.
        scheme: parts that are computed in integers, one of SCHEMES.
        ranges: range of a feature map: "extremes" from the lowest to the highest value of all images; "mean"
            from the mean of the batches' lowest values to the mean of their highest, which is less sensitive
            to outliers.
        weights: bits of a weight, one of WEIGHTS; recorded in ``lcnas.calibration``.
        reduce_range: onnxruntime's name for it: True for "7bit", False for "8bit".

    Raises:
        OnnxError: the file is not ONNX or is quantised already, the images do not fit or there are none, or
            onnxruntime fails.
    """
    what = display_name(source)
    weights = _weight_bits(weights, reduce_range)
    settings_to_check = (
        ("scheme", scheme, SCHEMES),
        ("ranges", ranges, RANGES),
        ("weights", weights, WEIGHTS),
    )
    for name, value, allowed in settings_to_check:
        if value not in allowed:
            raise OnnxError(not_among(name, value, allowed))
    original = read(source)
    if is_quantised(original):
        raise OnnxError(f"{what}: is quantised already")
    model, kept = _prepare(original, scheme, what)
    means = _input_means(model, kept, what)
    batches = _CalibrationBatches(model, calibration, what, means.add)
    settings = {
        "op_types_to_quantize": list(_DENSE_OPERATORS if scheme == "dense" else _ALL_OPERATORS),
        "nodes_to_exclude": kept,
        "reduce_range": weights == "7bit",
        "extra_options": {
            "OpTypesToExcludeOutputQuantization": list(
                _DENSE_OPERATORS if scheme == "dense" else _LINEAR_OPERATORS
            ),
            "CalibMovingAverage": ranges == "mean",
        },
    }
    quantised = _quantised(model, batches, settings, what)
    correct(quantised, model, means)
    calibration_record = {
        "pictures": batches.images,
        "scheme": scheme,
        "ranges": ranges,
        "weights": weights,
    }
    properties = {"lcnas.precision": "int8", "lcnas.calibration": json.dumps(calibration_record)}
    helper.set_model_props(quantised, metadata(original) | properties)
    data: bytes = quantised.SerializeToString(deterministic=True)
    return data


def _weight_bits(weights: str, reduce_range: bool | None) -> str:
    """Return the bits of a weight, given by either argument."""
    if reduce_range is None:
        return weights
    if weights != WEIGHTS[0]:
        raise OnnxError(f"reduce_range: given beside weights {weights!r}; give one of the two")
    return "7bit" if reduce_range else "8bit"


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether a model is quantised already."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _quantised(
    model: onnx.ModelProto, batches: _CalibrationBatches, settings: Mapping[str, Any], what: str
) -> onnx.ModelProto:
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        float_path, int8_path = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        float_path.write_bytes(model.SerializeToString(deterministic=True))
        try:
            quantization.quantize_static(
                str(float_path),
                str(int8_path),
                batches,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                **settings,
            )
        except OnnxError:
            raise
        except Exception as error:  # noqa: BLE001 - onnxruntime's quantiser raises of all kinds
            raise _failure(what, error) from None
        return onnx.load(int8_path)


def _input_means(model: onnx.ModelProto, kept: list[str], what: str) -> InputMeans:
    try:
        return InputMeans(model, kept)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        raise _failure(what, error) from None


def _failure(what: str, error: Exception) -> OnnxError:
    return OnnxError(f"{what}: cannot be quantised: {reason(error)}")


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Suppress onnxruntime's advice on pre-processing."""
    disabled, handler = logging.root.manager.disable, logging.NullHandler()
    logging.disable(logging.WARNING)
    # Without a handler, the first message would configure the root logger permanently.
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        logging.disable(disabled)


# -- the calibration images ----------------------------------------------------------------------


class _CalibrationBatches:
    """Calibration images as a reader for onnxruntime, one batch per call."""

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Iterable[NDArray[Any]],
        what: str,
        on_batch: Callable[[Mapping[str, Array], int], None],
    ) -> None:
        """Read from batches.

        Args:
            model: the model that the images are for.
            batches: batches of images, as for :func:`quantise`.
            what: name of the model in messages.
            on_batch: called with each batch, and the number of its images that are not repeated.
        """
        self.images = 0
        self._on_batch = on_batch
        self._model, self._what = model, what
        value = single_input(model, what)
        self._name, self._dims = value.name, dims(value)
        self._remaining = self._feeds(batches)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch by the input's name, or None after the last."""
        feed = next(self._remaining, None)
        if feed is None and not self.images:
            raise OnnxError("calibration: there is no image")
        return feed

    def _feeds(self, batches: Iterable[NDArray[Any]]) -> Iterator[dict[str, Array]]:
        for batch in batches:
            x = self._converted(np.asarray(batch))
            batch_size = self._dims[0] or min(_BATCH, len(x))
            self.images += len(x)
            # Full batches: the last one repeats the first images.
            order = np.arange(-(-len(x) // batch_size) * batch_size) % len(x)
            for i in range(0, len(order), batch_size):
                feed = {self._name: np.ascontiguousarray(x[order[i : i + batch_size]])}
                self._on_batch(feed, min(batch_size, len(x) - i))
                yield feed

    def _converted(self, x: NDArray[Any]) -> Array:
        """Return a batch of images in the layout of the graph."""
        if x.dtype == np.uint8:
            file_interface = interface(self._model, self._what)
            if not file_interface.has_normalization:
                raise OnnxError(
                    "calibration: uint8 images, but the file does not record its normalisation"
                )
            x = file_interface.preprocessing()(x)
            return x.transpose(0, 3, 1, 2) if file_interface.layout == NCHW else x
        channels_first = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
        for candidate in (x, channels_first):
            if self._fits(candidate):
                return candidate
        shape = ("n", *("?" if n is None else n for n in self._dims[1:]))
        raise OnnxError(
            f"calibration: {x.dtype} {x.shape} is neither float32 ({', '.join(map(str, shape))}) nor that "
            "with the channels last"
        )

    def _fits(self, x: NDArray[Any]) -> bool:
        pairs = zip(x.shape[1:], self._dims[1:], strict=False)
        return (
            x.dtype == np.float32
            and x.ndim == len(self._dims)
            and len(x) > 0
            and all(side in (None, n) for n, side in pairs)
        )


# -- the graph before quantisation -----------------------------------------------------------------


def _prepare(model: onnx.ModelProto, scheme: str, what: str) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of the model, ready to quantise, and the names of its nodes that stay in float32."""
    prepared = _raise_opset(model, what)
    for i, node in enumerate(prepared.graph.node):
        node.name = node.name or f"node_{i}"
    weights = {tensor.name: tensor for tensor in prepared.graph.initializer}
    stays_float = _is_depthwise if scheme == "dense" else _is_constant_add
    kept = [node.name for node in prepared.graph.node if stays_float(node, weights)]
    for pool in prepared.graph.node:
        kept += _squeeze_excite_nodes(prepared.graph, pool, set(weights))
    if scheme == "all":
        _insert_clips(prepared.graph, set(kept))
    return prepared, kept


def _raise_opset(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Return a copy of the model, with an operator set that can be quantised."""
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    version = next((o.version for o in raised.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= _OPSET:
        return raised
    try:
        return onnx.version_converter.convert_version(raised, _OPSET)
    except Exception as error:  # noqa: BLE001 - the converter raises of all kinds
        raise OnnxError(
            f"{what}: operator set {version} cannot be raised to {_OPSET}: {reason(error)}"
        ) from None


def _is_depthwise(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type != "Conv" or groups == 1 or node.input[1] not in weights:
        return False
    return bool(weights[node.input[1]].dims[1] == 1)  # (out, in / groups, height, width)


def _is_constant_add(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Return whether a node adds a constant: it is then a part of, for example, a GELU and no shortcut."""
    return node.op_type == "Add" and any(name in weights for name in node.input)


def _squeeze_excite_nodes(
    graph: onnx.GraphProto, pool: onnx.NodeProto, weights: set[str]
) -> list[str]:
    """Return the nodes of the squeeze-and-excite that starts at a global mean; empty if it is another mean.

    They are the nodes that depend on the mean, up to a product with a value that does not depend on it.
    """
    if pool.op_type not in _MEAN_OPERATORS:
        return []
    derived, names, has_product = set(pool.output), [pool.name], False
    for node in graph.node:  # in topological order
        inputs = [name for name in node.input if name and name not in weights]
        if not derived.intersection(inputs):
            continue
        names.append(node.name)
        if node.op_type == "Mul" and not derived.issuperset(inputs):
            has_product = True
        else:
            derived.update(node.output)
    return names if has_product and len(names) <= _MAX_GATE_NODES else []


def _insert_clips(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Insert a clip at -3 before h-swish, and at -3 and 3 before h-sigmoid, which changes no output.

    The quantiser then takes the range after the clip for the convolution, and removes the clip.
    """
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    output_names = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        x = node.input[0] if node.input else ""
        maker = makers.get(x)
        bounds = _CONSTANT_BEYOND.get(node.op_type, _no_bounds)(node)
        is_only_reader = readers.get(x) == 1 and x not in output_names
        if bounds and is_only_reader and maker is not None and _is_integer(maker, kept):
            nodes.append(_clip_node(graph, node, bounds))
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_integer(node: onnx.NodeProto, kept: set[str]) -> bool:
    """Return whether a node will be computed in integers, including its output."""
    return node.op_type in ("Conv", "Add") and node.name not in kept


def _clip_node(
    graph: onnx.GraphProto, node: onnx.NodeProto, bounds: tuple[float, ...]
) -> onnx.NodeProto:
    """Return a clip of a node's input; the node is changed to read its output."""
    x = node.input[0]
    names = []
    for bound in bounds:
        names.append(f"lcnas/clip/{bound}")
        if names[-1] not in {tensor.name for tensor in graph.initializer}:
            array = np.asarray(bound, np.float32)
            graph.initializer.append(numpy_helper.from_array(array, names[-1]))
    node.input[0] = f"{x}/clipped"
    return helper.make_node("Clip", [x, *names], [node.input[0]], name=f"{node.name}/clip")


def _no_bounds(_node: onnx.NodeProto) -> tuple[float, ...]:
    return ()


def _hard_sigmoid(node: onnx.NodeProto) -> tuple[float, ...]:
    """Return the bounds beyond which max(0, min(1, alpha x + beta)) is constant."""
    values = {a.name: a.f for a in node.attribute}
    alpha, beta = values.get("alpha", 0.2), values.get("beta", 0.5)
    return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 and 0 <= beta <= 1 else ()


_CONSTANT_BEYOND: Mapping[str, Callable[[onnx.NodeProto], tuple[float, ...]]] = {
    "HardSwish": lambda _: (-3.0,),
    "HardSigmoid": _hard_sigmoid,
}
