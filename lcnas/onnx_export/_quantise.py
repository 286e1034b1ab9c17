"""Eight-bit models by onnxruntime's static quantisation."""

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
from lcnas.onnx_export._bias import Means, correct
from lcnas.onnx_export._file import (
    NCHW,
    File,
    called,
    dims,
    interface,
    metadata,
    read,
    single_input,
)

Array = NDArray[np.float32]

SCHEMES = ("dense", "all")  # what is computed in integers; see `quantise`
RANGES = (
    "extremes",
    "mean",
)  # how the range of a feature map follows from the calibration images
WEIGHTS = ("7bit", "8bit")  # how many bits weights have; see `quantise`
_OPSET = 13  # the first whose dequantisation knows scales per channel
_AT_ONCE = 16  # calibration images at once where the file takes any number

_DENSE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LINEAR = ("Gemm", "MatMul")
# Not here: Mul, Sigmoid, HardSigmoid and the global mean, which are squeeze-and-excite.
_ALL = (
    *_DENSE,
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
_MEANS = ("GlobalAveragePool", "ReduceMean")
_GATE_NODES = 12  # the most that a squeeze-and-excite has; what is longer is something else


def quantise(
    source: File,
    calibration: Iterable[NDArray[Any]],
    *,
    scheme: str = "dense",
    ranges: str = "extremes",
    weights: str = "7bit",
    reduce_range: bool | None = None,
) -> bytes:
    """Return an int8 file: quantise and dequantise nodes around what is computed in integers.

    Weights get a scale a channel (of the output), feature maps one scale and zero point. The schemes:

    - "dense": linear layers and convolutions that mix channels take 8 bits and give float32; depthwise
      convolutions, sums and activations stay in float32. Nearly all multiplications are then in integers,
      and a map is rounded only where every weight sees all of it. What lies between a pointwise and a
      depthwise convolution differs widely between the channels of a trained PP-LCNet, so that one scale for
      all of them leaves most with a handful of values.
    - "all": those too, inputs and outputs, as onnxruntime's own kernels need it to compute in integers at all
      (OpenVINO does not). In front of h-swish and h-sigmoid ranges end at -3, below which both are constant.

    In both the little network of a squeeze-and-excite stays in float32, since an error in a gate is an error
    of a whole channel, and so do the outputs of linear layers, so that logits are not rounded to 256 steps.

    Weights are signed, feature maps unsigned. Processors without VNNI (Intel's before Cascade Lake, AMD's
    before Zen 4) add two of their products in signed 16 bits, which overflow where weights use all 8 bits. So
    weights have

    - "7bit": -64 to 64, right everywhere, at the same speed;
    - "8bit": -127 to 127, half the rounding error, for processors with VNNI or of other kinds.
      :func:`int8_warning` tells where such a file does not fit.

    Biases take back what rounding the weights shifts on the calibration images.

    Args:
        source: a file, its bytes, or a model, ours or anybody's, with one float32 input.
        calibration: batches of any length, of images as the network will see them: normalised float32
            (n, height, width, 3) or in the file's own layout, or uint8 (n, any, any, 3) where the file
            records its normalisation. A few hundred images of the training set.
        scheme: what is computed in integers, one of SCHEMES.
        ranges: of a feature map: "extremes" from the lowest to the highest value of all images; "mean" from
            the mean of each batch's lowest to the mean of each batch's highest, which outliers move less.
        weights: how many bits weights have, one of WEIGHTS; recorded in ``lcnas.calibration``.
        reduce_range: onnxruntime's word for the same: True for "7bit", False for "8bit".

    Raises:
        OnnxError: not ONNX, quantised already, images that do not fit, none at all, or onnxruntime fails.
    """
    what = called(source)
    weights = _weights_of(weights, reduce_range)
    chosen = (
        ("scheme", scheme, SCHEMES),
        ("ranges", ranges, RANGES),
        ("weights", weights, WEIGHTS),
    )
    for name, value, allowed in chosen:
        if value not in allowed:
            raise OnnxError(not_among(name, value, allowed))
    given = read(source)
    if is_quantised(given):
        raise OnnxError(f"{what}: is quantised already")
    model, kept = _prepared(given, scheme, what)
    means = _means(model, kept, what)
    feeds = _Feeds(model, calibration, what, means.add)
    settings = {
        "op_types_to_quantize": list(_DENSE if scheme == "dense" else _ALL),
        "nodes_to_exclude": kept,
        "reduce_range": weights == "7bit",
        "extra_options": {
            "OpTypesToExcludeOutputQuantization": list(_DENSE if scheme == "dense" else _LINEAR),
            "CalibMovingAverage": ranges == "mean",
        },
    }
    made = _quantised(model, feeds, settings, what)
    correct(made, model, means)
    how = {"pictures": feeds.images, "scheme": scheme, "ranges": ranges, "weights": weights}
    about = {"lcnas.precision": "int8", "lcnas.calibration": json.dumps(how)}
    helper.set_model_props(made, metadata(given) | about)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _weights_of(weights: str, reduce_range: bool | None) -> str:
    """Return how many bits weights have, said in either way."""
    if reduce_range is None:
        return weights
    if weights != WEIGHTS[0]:
        raise OnnxError(f"reduce_range: given beside weights {weights!r}; give one of the two")
    return "7bit" if reduce_range else "8bit"


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether a model computes in integers already."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _quantised(
    model: onnx.ModelProto, feeds: _Feeds, settings: Mapping[str, Any], what: str
) -> onnx.ModelProto:
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder, _silent():
        before, behind = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(model.SerializeToString(deterministic=True))
        try:
            quantization.quantize_static(
                str(before),
                str(behind),
                feeds,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                **settings,
            )
        except OnnxError:
            raise
        except Exception as error:  # noqa: BLE001 - onnxruntime's quantiser raises of all kinds
            raise _refused(what, error) from None
        return onnx.load(behind)


def _means(model: onnx.ModelProto, kept: list[str], what: str) -> Means:
    try:
        return Means(model, kept)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        raise _refused(what, error) from None


def _refused(what: str, error: Exception) -> OnnxError:
    return OnnxError(f"{what}: cannot be quantised: {reason(error)}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep onnxruntime's advice on pre-processing off the screen."""
    before, quiet = logging.root.manager.disable, logging.NullHandler()
    logging.disable(logging.WARNING)
    logging.root.addHandler(quiet)  # else the first message sets up the root logger for good
    try:
        yield
    finally:
        logging.root.removeHandler(quiet)
        logging.disable(before)


# -- the calibration images ----------------------------------------------------------------------


class _Feeds:
    """Calibration images as onnxruntime asks for them, one batch a call."""

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Iterable[NDArray[Any]],
        what: str,
        watch: Callable[[Mapping[str, Array], int], None],
    ) -> None:
        """Take batches; ``watch`` sees each that is handed out, and how many of its rows are new images."""
        self.images = 0
        self._watch = watch
        self._model, self._what = model, what
        given = single_input(model, what)
        self._name, self._dims = given.name, dims(given)
        self._left = self._feeds(batches)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch by the input's name, or None behind the last."""
        feed = next(self._left, None)
        if feed is None and not self.images:
            raise OnnxError("calibration: there is no image")
        return feed

    def _feeds(self, batches: Iterable[NDArray[Any]]) -> Iterator[dict[str, Array]]:
        for batch in batches:
            x = self._fitting(np.asarray(batch))
            size = self._dims[0] or min(_AT_ONCE, len(x))
            self.images += len(x)
            rows = np.arange(-(-len(x) // size) * size) % len(x)  # whole batches: the first again
            for i in range(0, len(rows), size):
                feed = {self._name: np.ascontiguousarray(x[rows[i : i + size]])}
                self._watch(feed, min(size, len(x) - i))
                yield feed

    def _fitting(self, x: NDArray[Any]) -> Array:
        """Return a batch of images as the graph takes it."""
        if x.dtype == np.uint8:
            told = interface(self._model, self._what)
            if not told.has_normalization:
                raise OnnxError(
                    "calibration: uint8 images, but the file does not record its normalisation"
                )
            x = told.preprocessing()(x)
            return x.transpose(0, 3, 1, 2) if told.layout == NCHW else x
        turned = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
        for candidate in (x, turned):
            if self._fits(candidate):
                return candidate
        wanted = ("n", *("?" if n is None else n for n in self._dims[1:]))
        raise OnnxError(
            f"calibration: {x.dtype} {x.shape} is neither float32 ({', '.join(map(str, wanted))}) nor that "
            "with the channels last"
        )

    def _fits(self, x: NDArray[Any]) -> bool:
        sides = zip(x.shape[1:], self._dims[1:], strict=False)
        return (
            x.dtype == np.float32
            and x.ndim == len(self._dims)
            and len(x) > 0
            and all(wanted in (None, n) for n, wanted in sides)
        )


# -- the graph before quantisation -----------------------------------------------------------------


def _prepared(model: onnx.ModelProto, scheme: str, what: str) -> tuple[onnx.ModelProto, list[str]]:
    """Return a model that quantises well, and the names of its nodes that stay in float32."""
    made = _raised(model, what)
    for i, node in enumerate(made.graph.node):
        node.name = node.name or f"node_{i}"
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    stays = _is_depthwise if scheme == "dense" else _is_shift
    kept = [node.name for node in made.graph.node if stays(node, weights)]
    for pool in made.graph.node:
        kept += _gate(made.graph, pool, set(weights))
    if scheme == "all":
        _clip(made.graph, set(kept))
    return made, kept


def _raised(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Return a copy of the model, of an operator set that can be quantised."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    version = next((o.version for o in made.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= _OPSET:
        return made
    try:
        return onnx.version_converter.convert_version(made, _OPSET)
    except Exception as error:  # noqa: BLE001 - the converter raises of all kinds
        raise OnnxError(
            f"{what}: operator set {version} cannot be raised to {_OPSET}: {reason(error)}"
        ) from None


def _is_depthwise(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type != "Conv" or groups == 1 or node.input[1] not in weights:
        return False
    return bool(weights[node.input[1]].dims[1] == 1)  # (out, in / groups, height, width)


def _is_shift(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Return whether a node adds a constant: a part of something, such as a GELU, and no shortcut."""
    return node.op_type == "Add" and any(name in weights for name in node.input)


def _gate(graph: onnx.GraphProto, pool: onnx.NodeProto, weights: set[str]) -> list[str]:
    """Return the nodes of the squeeze-and-excite that begins at a global mean; none where it is another.

    They are what the mean leads to, up to the product with something that it does not lead to.
    """
    if pool.op_type not in _MEANS:
        return []
    derived, inside, found = set(pool.output), [pool.name], False
    for node in graph.node:  # in topological order
        inputs = [name for name in node.input if name and name not in weights]
        if not derived.intersection(inputs):
            continue
        inside.append(node.name)
        if node.op_type == "Mul" and not derived.issuperset(inputs):
            found = True
        else:
            derived.update(node.output)
    return inside if found and len(inside) <= _GATE_NODES else []


def _clip(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Put a clip at -3 in front of h-swish (and at 3 too in front of h-sigmoid): it changes no value.

    The quantiser then takes the range behind the clip for the convolution and drops the clip.
    """
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    ends = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        x = node.input[0] if node.input else ""
        maker = makers.get(x)
        bounds = _BOUNDS.get(node.op_type, _no_bounds)(node)
        alone = readers.get(x) == 1 and x not in ends
        if bounds and alone and maker is not None and _integers(maker, kept):
            nodes.append(_clip_node(graph, node, bounds))
        nodes.append(node)
    made = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(made)


def _integers(node: onnx.NodeProto, kept: set[str]) -> bool:
    """Return whether a node will be computed in integers up to its output."""
    return node.op_type in ("Conv", "Add") and node.name not in kept


def _clip_node(
    graph: onnx.GraphProto, node: onnx.NodeProto, bounds: tuple[float, ...]
) -> onnx.NodeProto:
    """Return a clip of a node's input, whose output the node now reads."""
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
    """Return where max(0, min(1, alpha x + beta)) is constant outside."""
    values = {a.name: a.f for a in node.attribute}
    alpha, beta = values.get("alpha", 0.2), values.get("beta", 0.5)
    return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 and 0 <= beta <= 1 else ()


_BOUNDS: Mapping[str, Callable[[onnx.NodeProto], tuple[float, ...]]] = {
    "HardSwish": lambda _: (-3.0,),
    "HardSigmoid": _hard_sigmoid,
}
