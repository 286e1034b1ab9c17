"""Whether the 8-bit weights of a file, ours or anybody's, overflow where a processor has no VNNI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from lcnas.onnx_export._file import File, read

MOST = 64  # of a weight: 255 x 64 x 2 is 32,640 and fits signed 16 bits; 255 x 65 x 2 is 33,150
_EIGHT_BITS = (TensorProto.UINT8, TensorProto.INT8)
_PASSING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze")  # between a weight and where it is used

# What multiplies 8-bit values: two that are dequantised, or as they are (the inputs that may be weights).
_DEQUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WHOLE = {
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),  # this and the rest are onnxruntime's own
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (1,),
    "QAttention": (1,),
}


def has_vnni(isa: str) -> bool:
    """Return whether products of 8 bits are added in 32 bits: x86 with VNNI, and other architectures.

    Args:
        isa: an instruction set as :mod:`lcnas.latency.machine` names it.
    """
    left = isa.rpartition("-")[2]  # behind "-" stands what a cap leaves
    if left.startswith(("amx", "avx512bf16", "avx512fp16", "avx512vnni", "avxvnni")):
        return True
    return not left.startswith(("avx", "sse", "x86_64", "amd64"))


def int8_warning(source: File, isa: str) -> str | None:
    """Return one line where a file's 8-bit weights overflow on a processor, so that its answers are wrong.

    Told by the weights themselves, of files of others too. Without VNNI, kernels multiply activations of 0 to
    255 (signed ones are shifted there) with signed weights and add two products in signed 16 bits, which
    weights beyond 64 may overflow. None where all is well.

    Args:
        source: a file, its bytes, or a model.
        isa: the instruction set that the engine uses, as :attr:`lcnas.latency.Engine.isa` names it.

    Raises:
        OnnxError: the file cannot be read.

    Example:
        >>> from lcnas import onnx_export, zoo
        >>> model = onnx_export.export(zoo.load("pplcnet_0.25x", resolution=32), classes=10)
        >>> int8_warning(model, "avx2") is None
        True
    """
    if has_vnni(isa):
        return None
    largest = [int(np.abs(found).max(initial=0)) for found in eight_bit_weights(read(source))]
    over = sum(most > MOST for most in largest)
    if not over:
        return None
    return (
        f"8-bit weights of the full range in {over} of {len(largest)} layers: without VNNI (here: {isa}) "
        "sums of their products overflow 16 bits, and answers may be wrong; quantise it with 7-bit weights "
        f"(-{MOST} to {MOST})"
    )


def eight_bit_weights(model: onnx.ModelProto) -> Iterator[NDArray[np.int32]]:
    """Yield the signed 8-bit weights that are multiplied with 8-bit activations, as int32."""
    graph = _Graph.of(model)
    for node in model.graph.node:
        if node.op_type in _DEQUANTISED:
            first, second = node.input[:2]
            pairs = [(second, first), (first, second)]
            found = [graph.weights(one) for one, other in pairs if graph.is_eight_bits(other)]
        else:
            places = _WHOLE.get(node.op_type, ())
            found = [graph.whole(node.input[i]) for i in places if i < len(node.input)]
        yield from (weights.astype(np.int32) for weights in found if weights is not None)


@dataclass(frozen=True)
class _Graph:
    """What makes the values of a graph."""

    makers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, TensorProto]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Graph:
        makers = {output: node for node in model.graph.node for output in node.output}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        return cls(makers, constants)

    def whole(self, name: str) -> NDArray[Any] | None:
        """Return a constant of signed 8 bits, or one that is quantised to such when the file is loaded."""
        tensor, maker = self.constants.get(name), self._maker(name)
        if tensor is not None:
            return numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.INT8 else None
        if maker is None or maker.op_type != "QuantizeLinear":
            return None
        parts = [self.constants[x] for x in maker.input if x in self.constants]
        if len(parts) < 3 or parts[2].data_type != TensorProto.INT8:
            return None
        values, scale, zero = (numpy_helper.to_array(part) for part in parts)
        return _quantised(values, scale, zero, axis_of(maker))

    def weights(self, name: str) -> NDArray[Any] | None:
        """Return the signed 8-bit constant behind a dequantised value."""
        maker = self._dequantiser(name)
        return None if maker is None else self.whole(maker.input[0])

    def is_eight_bits(self, name: str) -> bool:
        """Return whether a value is dequantised from 8 bits."""
        maker = self._dequantiser(name)
        if maker is None:
            return False
        zero = self.constants.get(maker.input[2]) if len(maker.input) > 2 else None
        return zero is None or zero.data_type in _EIGHT_BITS

    def _dequantiser(self, name: str) -> onnx.NodeProto | None:
        maker = self._maker(name)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    def _maker(self, name: str) -> onnx.NodeProto | None:
        """Return what makes a value, before it was turned."""
        maker = self.makers.get(name)
        while maker is not None and maker.op_type in _PASSING:
            maker = self.makers.get(maker.input[0])
        return maker


def axis_of(node: onnx.NodeProto) -> int:
    """Return the axis along which a (de)quantisation has its scales."""
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def along(values: NDArray[Any], dims: int, axis: int) -> NDArray[Any]:
    """Return scales or zero points so that they go with an array of as many dimensions."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % dims else 1 for i in range(dims)])


def _quantised(
    values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int
) -> NDArray[Any]:
    """Return what QuantizeLinear makes of a constant, in signed 8 bits."""
    scale, zero = (along(part, values.ndim, axis) for part in (scale, zero))
    made: NDArray[Any] = np.clip(np.round(values / scale) + zero, -128, 127)
    return made
