"""Whether the 8-bit weights of an ONNX file of any origin overflow on processors without VNNI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from lcnas.onnx_export._file import File, read

MAX_WEIGHT = 64  # 255 x 64 x 2 is 32,640 and fits signed 16 bits; 255 x 65 x 2 is 33,150
_EIGHT_BITS = (TensorProto.UINT8, TensorProto.INT8)
_PASSING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze")  # between a weight and its use

# Operators that multiply 8-bit values: dequantised ones, or directly (with the inputs that may be weights).
_DEQUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGER_OPERATORS = {
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),  # this one and those below are onnxruntime's own
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (1,),
    "QAttention": (1,),
}


def has_vnni(isa: str) -> bool:
    """Return whether 8-bit products are added in 32 bits: on x86 with VNNI, and on other architectures.

    Args:
        isa: instruction set, as named by :mod:`lcnas.latency.machine`.
    """
    usable = isa.rpartition("-")[2]  # after "-": what a cap leaves
    if usable.startswith(("amx", "avx512bf16", "avx512fp16", "avx512vnni", "avxvnni")):
        return True
    return not usable.startswith(("avx", "sse", "x86_64", "amd64"))


def int8_warning(source: File, isa: str) -> str | None:
    """Return a warning if a file's 8-bit weights overflow on a processor, so that its outputs are wrong.

    The check looks at the weights themselves, so it works for files of any origin. Without VNNI, kernels
    multiply activations of 0 to 255 (signed ones are shifted to that range) with signed weights and add two
    products in signed 16 bits, which weights beyond 64 may overflow.

    Args:
        source: a file, its bytes, or a model.
        isa: instruction set that the engine uses, as in :attr:`lcnas.latency.Engine.isa`.

    Returns:
        The warning, one line; None if nothing overflows.

    Raises:
        OnnxError: the file cannot be read.

    Examples:
        >>> from lcnas import onnx_export, zoo
        >>> model = onnx_export.export(zoo.load("pplcnet_0.25x", resolution=32), classes=10)
        >>> int8_warning(model, "avx2") is None
        True
    """
    if has_vnni(isa):
        return None
    largest = [int(np.abs(weights).max(initial=0)) for weights in int8_weights(read(source))]
    overflowing = sum(value > MAX_WEIGHT for value in largest)
    if not overflowing:
        return None
    return (
        f"8-bit weights of the full range in {overflowing} of {len(largest)} layers: "
        f"without VNNI (here: {isa}) sums of their products overflow 16 bits, and predictions may be wrong; "
        "quantise it with 7-bit weights "
        f"(-{MAX_WEIGHT} to {MAX_WEIGHT})"
    )


def int8_weights(model: onnx.ModelProto) -> Iterator[NDArray[np.int32]]:
    """Yield the signed 8-bit weights that are multiplied with 8-bit activations, as int32."""
    producers = _Producers.of(model)
    for node in model.graph.node:
        if node.op_type in _DEQUANTISED:
            first, second = node.input[:2]
            pairs = [(second, first), (first, second)]
            arrays = [
                producers.dequantised_weights(weight)
                for weight, activation in pairs
                if producers.is_eight_bits(activation)
            ]
        else:
            positions = _INTEGER_OPERATORS.get(node.op_type, ())
            arrays = [
                producers.int8_constant(node.input[i]) for i in positions if i < len(node.input)
            ]
        yield from (weights.astype(np.int32) for weights in arrays if weights is not None)


@dataclass(frozen=True)
class _Producers:
    """The nodes and constants that produce the values of a graph."""

    nodes: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, TensorProto]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Producers:
        nodes = {output: node for node in model.graph.node for output in node.output}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        return cls(nodes, constants)

    def int8_constant(self, name: str) -> NDArray[Any] | None:
        """Return a constant of signed 8 bits, also one that is quantised to it when the file is loaded."""
        tensor, node = self.constants.get(name), self._producer(name)
        if tensor is not None:
            return numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.INT8 else None
        if node is None or node.op_type != "QuantizeLinear":
            return None
        parts = [self.constants[x] for x in node.input if x in self.constants]
        if len(parts) < 3 or parts[2].data_type != TensorProto.INT8:
            return None
        values, scale, zero = (numpy_helper.to_array(part) for part in parts)
        return _quantise_constant(values, scale, zero, axis_of(node))

    def dequantised_weights(self, name: str) -> NDArray[Any] | None:
        """Return the signed 8-bit constant of a dequantised value."""
        node = self._dequantiser(name)
        return None if node is None else self.int8_constant(node.input[0])

    def is_eight_bits(self, name: str) -> bool:
        """Return whether a value is dequantised from 8 bits."""
        node = self._dequantiser(name)
        if node is None:
            return False
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        return zero is None or zero.data_type in _EIGHT_BITS

    def _dequantiser(self, name: str) -> onnx.NodeProto | None:
        node = self._producer(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that produces a value, before transposing and reshaping."""
        node = self.nodes.get(name)
        while node is not None and node.op_type in _PASSING:
            node = self.nodes.get(node.input[0])
        return node


def axis_of(node: onnx.NodeProto) -> int:
    """Return the axis of the scales of a (de)quantisation."""
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def along(values: NDArray[Any], dims: int, axis: int) -> NDArray[Any]:
    """Return scales or zero points, reshaped to broadcast against an array of ``dims`` dimensions."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % dims else 1 for i in range(dims)])


def _quantise_constant(
    values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int
) -> NDArray[Any]:
    """Return a constant after QuantizeLinear, in signed 8 bits."""
    scale, zero = (along(part, values.ndim, axis) for part in (scale, zero))
    quantised: NDArray[Any] = np.clip(np.round(values / scale) + zero, -128, 127)
    return quantised
