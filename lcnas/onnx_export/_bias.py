"""Biases that take back what rounding the weights shifts.

Rounded weights w' give an output that is off by (w' - w) x; its mean over the calibration images is
(w' - w) mean(x), a constant of each channel, which goes into the bias. With 7 bits, a trained network's
log-odds are off by up to 16 % without and 3 % with it (tests/onnx_export/test_quantise.py). Known as bias
correction: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lcnas.onnx_export._overflow import along, axis_of

_MEAN = "lcnas/mean/"  # before the name of what it is the mean of
_INT32 = np.iinfo(np.int32)


class Means:
    """The mean of each input channel of the layers that are rounded, over the calibration images."""

    def __init__(self, model: onnx.ModelProto, kept: Collection[str]) -> None:
        """Begin to watch a model in float32, but for its nodes that are kept so."""
        import onnxruntime

        weights = {tensor.name for tensor in model.graph.initializer}
        nodes = [n for n in model.graph.node if n.name not in kept]
        self.nodes = [n for n in nodes if _is_corrected(n, weights)]
        watched, self._names = _with_means(model, self.nodes)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is told by exceptions
        self._session = onnxruntime.InferenceSession(
            watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._sums: dict[str, Any] = dict.fromkeys(self._names, np.zeros(()))
        self._images = 0

    def add(self, feed: Mapping[str, NDArray[Any]], images: int) -> None:
        """Take in the first images of a batch; the rest only fills it."""
        if not self._names:
            return
        made = self._session.run([_MEAN + name for name in self._names], dict(feed))
        for name, values in zip(self._names, made, strict=True):
            for one in values[:images].astype(np.float64):  # one by one: in any batches the same
                self._sums[name] = self._sums[name] + one.reshape(-1)
        self._images += images

    def of(self, name: str) -> NDArray[np.float64]:
        """Return the means of a layer's input, (channels,)."""
        made: NDArray[np.float64] = self._sums[name] / self._images
        return made


def correct(made: onnx.ModelProto, model: onnx.ModelProto, means: Means) -> None:
    """Change the biases of a quantised model by what its rounded weights shift.

    Args:
        made: the quantised model, whose layers are called as in ``model``.
        model: the model in float32.
        means: of the inputs of its layers.
    """
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded = {node.name: node for node in made.graph.node}
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    makers = {output: node for node in made.graph.node for output in node.output}
    readers = [name for node in made.graph.node for name in node.input]
    for node in means.nodes:
        _, weight, bias = (makers.get(name) for name in rounded[node.name].input)
        if not _is_dequantised(weight, tensors) or not _is_dequantised(bias, tensors):
            continue
        assert weight is not None
        assert bias is not None
        if readers.count(bias.input[0]) > 1 or readers.count(bias.output[0]) > 1:
            continue  # a bias of several layers
        off = _dequantised(weight, tensors) - exact[node.input[1]]
        shift = _shift(node, off, means.of(node.input[0]))
        if not np.isfinite(shift).all():
            continue
        scale = along(numpy_helper.to_array(tensors[bias.input[1]]), 1, 0).astype(np.float64)
        values = np.round((exact[node.input[2]].reshape(-1) - shift) / scale)
        whole = np.clip(values, _INT32.min, _INT32.max).astype(np.int32)
        old = tensors[bias.input[0]]
        old.CopyFrom(numpy_helper.from_array(whole.reshape(tuple(old.dims)), old.name))


def _is_corrected(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    """Return whether a layer has a bias whose shift is known: a convolution, or a plain linear layer."""
    if len(node.input) != 3 or not set(node.input[1:]).issubset(weights):
        return False
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = not values.get("transA") and values.get("alpha", 1) == values.get("beta", 1) == 1
    return node.op_type == "Conv" or (node.op_type == "Gemm" and plain)


def _with_means(
    model: onnx.ModelProto, nodes: Collection[onnx.NodeProto]
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a model that gives the means of its layers' inputs as well, and the names of those."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    names: dict[str, str] = {}
    for node in nodes:
        names[node.input[0]] = "GlobalAveragePool" if node.op_type == "Conv" else "Identity"
    for name, how in names.items():
        made.graph.node.append(helper.make_node(how, [name], [_MEAN + name]))
        made.graph.output.append(helper.make_empty_tensor_value_info(_MEAN + name))
    return made, list(names)


def _is_dequantised(node: onnx.NodeProto | None, tensors: Mapping[str, Any]) -> bool:
    """Return whether a node dequantises a constant."""
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in tensors


def _dequantised(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> NDArray[Any]:
    whole, scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input)
    scale, zero = (along(part, whole.ndim, axis_of(node)) for part in (scale, zero))
    made: NDArray[Any] = (whole.astype(np.float64) - zero) * scale
    return made


def _shift(node: onnx.NodeProto, off: NDArray[Any], mean: NDArray[np.float64]) -> NDArray[Any]:
    """Return by how much the mean of each output is off, (outputs,).

    At the edges of a map, where a kernel sees zeros, it is less; that is left out.
    """
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    made: NDArray[Any]
    if node.op_type == "Gemm":
        made = (off if values.get("transB") else off.T) @ mean
        return made
    groups = values.get("group", 1)
    kernels = off.reshape(*off.shape[:2], -1).sum(axis=2)  # (outputs, inputs of a group)
    parts = kernels.reshape(groups, -1, kernels.shape[1])
    made = np.einsum("goi,gi->go", parts, mean.reshape(groups, -1)).reshape(-1)
    return made
