"""Bias correction: biases that compensate for the rounding of weights.

Rounded weights w' change an output by (w' - w) x. The mean of this over the calibration images is
(w' - w) mean(x), a constant for each channel, which is subtracted from the bias. With 7 bits, the error of a
trained network's log-odds is up to 16 % without and 3 % with the correction
(tests/onnx_export/test_quantise.py). Source: Nagel et al., Data-free quantization through weight equalization
and bias correction, ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lcnas.onnx_export._overflow import along, axis_of

_MEAN = "lcnas/mean/"  # prefix of the name of a mean; the rest is the name of the value
_INT32 = np.iinfo(np.int32)


class InputMeans:
    """The mean of each input channel of the rounded layers, over the calibration images."""

    def __init__(self, model: onnx.ModelProto, kept: Collection[str]) -> None:
        """Prepare a float32 model.

        Args:
            model: the model before quantisation.
            kept: names of the nodes that stay in float32, which are left out.
        """
        import onnxruntime

        weights = {tensor.name for tensor in model.graph.initializer}
        rounded = [n for n in model.graph.node if n.name not in kept]
        self.nodes = [n for n in rounded if _is_corrected(n, weights)]
        model_with_means, self._names = _with_means(model, self.nodes)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised as exceptions
        self._session = onnxruntime.InferenceSession(
            model_with_means.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._sums: dict[str, Any] = dict.fromkeys(self._names, np.zeros(()))
        self._images = 0

    def add(self, feed: Mapping[str, NDArray[Any]], images: int) -> None:
        """Add the first images of a batch; the rest only fills it."""
        if not self._names:
            return
        outputs = self._session.run([_MEAN + name for name in self._names], dict(feed))
        for name, values in zip(self._names, outputs, strict=True):
            # One image at a time, so that the sum does not depend on the batches.
            for mean in values[:images].astype(np.float64):
                self._sums[name] = self._sums[name] + mean.reshape(-1)
        self._images += images

    def of(self, name: str) -> NDArray[np.float64]:
        """Return the mean of a layer's input, (channels,)."""
        mean: NDArray[np.float64] = self._sums[name] / self._images
        return mean


def correct(quantised: onnx.ModelProto, model: onnx.ModelProto, means: InputMeans) -> None:
    """Correct the biases of a quantised model for the rounding of its weights.

    Args:
        quantised: the quantised model, changed in place; its layers have the same names as in ``model``.
        model: the model in float32.
        means: means of the layers' inputs.
    """
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded_nodes = {node.name: node for node in quantised.graph.node}
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    makers = {output: node for node in quantised.graph.node for output in node.output}
    readers = [name for node in quantised.graph.node for name in node.input]
    for node in means.nodes:
        _, weight, bias = (makers.get(name) for name in rounded_nodes[node.name].input)
        if not _is_dequantised(weight, tensors) or not _is_dequantised(bias, tensors):
            continue
        assert weight is not None
        assert bias is not None
        if readers.count(bias.input[0]) > 1 or readers.count(bias.output[0]) > 1:
            continue  # several layers share this bias
        weight_errors = _dequantised(weight, tensors) - exact[node.input[1]]
        shift = _output_shift(node, weight_errors, means.of(node.input[0]))
        if not np.isfinite(shift).all():
            continue
        scale = along(numpy_helper.to_array(tensors[bias.input[1]]), 1, 0).astype(np.float64)
        values = np.round((exact[node.input[2]].reshape(-1) - shift) / scale)
        integers = np.clip(values, _INT32.min, _INT32.max).astype(np.int32)
        tensor = tensors[bias.input[0]]
        tensor.CopyFrom(numpy_helper.from_array(integers.reshape(tuple(tensor.dims)), tensor.name))


def _is_corrected(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    """Return whether a layer has a bias that can be corrected: a convolution, or a simple linear layer."""
    if len(node.input) != 3 or not set(node.input[1:]).issubset(weights):
        return False
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    is_simple = not values.get("transA") and values.get("alpha", 1) == values.get("beta", 1) == 1
    return node.op_type == "Conv" or (node.op_type == "Gemm" and is_simple)


def _with_means(
    model: onnx.ModelProto, nodes: Collection[onnx.NodeProto]
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a model that also outputs the means of its layers' inputs, and the names of these inputs."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    names: dict[str, str] = {}
    for node in nodes:
        names[node.input[0]] = "GlobalAveragePool" if node.op_type == "Conv" else "Identity"
    for name, op in names.items():
        extended.graph.node.append(helper.make_node(op, [name], [_MEAN + name]))
        extended.graph.output.append(helper.make_empty_tensor_value_info(_MEAN + name))
    return extended, list(names)


def _is_dequantised(node: onnx.NodeProto | None, tensors: Mapping[str, Any]) -> bool:
    """Return whether a node dequantises a constant."""
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in tensors


def _dequantised(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> NDArray[Any]:
    integers, scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input)
    scale, zero = (along(part, integers.ndim, axis_of(node)) for part in (scale, zero))
    values: NDArray[Any] = (integers.astype(np.float64) - zero) * scale
    return values


def _output_shift(
    node: onnx.NodeProto, errors: NDArray[Any], mean: NDArray[np.float64]
) -> NDArray[Any]:
    """Return the shift of each output's mean, (outputs,).

    At the edges of a feature map, where a kernel reads zeros, the shift is smaller; this is ignored.
    """
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    shift: NDArray[Any]
    if node.op_type == "Gemm":
        shift = (errors if values.get("transB") else errors.T) @ mean
        return shift
    groups = values.get("group", 1)
    kernels = errors.reshape(*errors.shape[:2], -1).sum(axis=2)  # (outputs, inputs of a group)
    grouped = kernels.reshape(groups, -1, kernels.shape[1])
    shift = np.einsum("goi,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1)
    return shift
