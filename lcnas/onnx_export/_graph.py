"""The ONNX interpreter of the primitive layers: builds a graph from named blocks and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lcnas import layers
from lcnas.errors import ExportError
from lcnas.layers import Layer, Padding, Pair, Shape
from lcnas.onnx_export._weights import Array, NamedBlocks

INPUT, OUTPUT = "input", "output"


def value_shape(shape: Shape, batch: int | None) -> list[int | str]:
    """Return a layer's shape in ONNX order: (batch, channels, height, width) or (batch, features)."""
    first: int | str = "batch" if batch is None else batch
    if len(shape) == 3:
        height, width, channels = shape
        return [first, channels, height, width]
    return [first, *shape]


def _tensor(name: str, array: NDArray[Any]) -> TensorProto:
    """Return an initializer; its bytes are little-endian on every machine."""
    floating = array.dtype == np.float32
    tensor = TensorProto()
    tensor.name = name
    tensor.dims.extend(array.shape)
    tensor.data_type = TensorProto.FLOAT if floating else TensorProto.INT64
    tensor.raw_data = array.astype("<f4" if floating else "<i8", copy=False).tobytes()
    return tensor


def _pads(padding: Padding) -> list[int]:
    """Return (top, bottom, left, right) in ONNX's order: top and left, then bottom and right."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]


def _window(kernel: Pair, stride: Pair, padding: Padding, **others: int) -> dict[str, Any]:
    return {"kernel_shape": kernel, "strides": stride, "pads": _pads(padding), **others}


def _floored(pool: layers.Pool, shape: Shape) -> Padding:
    """Return the padding with which rounding down gives the pool's windows.

    With ceil, a window may reach beyond the padding at the end, or be dropped, and engines have differed in
    both. So the padding at the end is set to what the last window needs.
    """
    if not pool.ceil:
        return pool.padding
    sides = []
    for axis, out in enumerate(pool.out_shape(shape)[:2]):
        before = pool.padding[2 * axis]
        needed = (out - 1) * pool.stride[axis] + pool.kernel[axis]
        sides.append((before, max(0, needed - before - shape[axis])))
    return (*sides[0], *sides[1])


class GraphBuilder:
    """Collects nodes and initializers; the method of a layer returns the name of the layer's output."""

    def __init__(self, weights: Mapping[str, Array], opset: int) -> None:
        self.weights = weights
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._taken = {INPUT, OUTPUT, *weights}

    def _unique_name(self, name: str) -> str:
        free, i = name, 2
        while free in self._taken:
            free, i = f"{name}_{i}", i + 1
        self._taken.add(free)
        return free

    def node(self, op: str, inputs: Sequence[str], path: str, **attributes: Any) -> str:
        """Add a node that is named after its path and operator; returns the name of its output."""
        name = self._unique_name(f"{path}/{op}")
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, array: Array | None = None) -> str:
        """Add a weight, with the values of ``array`` if it is given; returns its name."""
        self.initializers[name] = _tensor(name, self.weights[name] if array is None else array)
        return name

    def number(self, value: float) -> str:
        """Return the name of a constant scalar; equal constants are shared."""
        return self._constant(f"constant/{value}", np.asarray(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a constant int64 vector."""
        name = "constant/" + "x".join(map(str, values))
        return self._constant(f"{name}/int64", np.asarray(values, np.int64))

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.initializers:
            self._taken.add(name)
            self.initializers[name] = _tensor(name, array)
        return name

    # -- activations ---------------------------------------------------------------------------------

    def act(self, name: str, x: str, path: str) -> str:
        """Add an activation."""
        match name:
            case "identity":
                return x
            case "relu6":
                return self.node("Clip", [x, self.number(0), self.number(6)], path)
            case "hard_sigmoid":
                return self.node("HardSigmoid", [x], path, alpha=1 / 6, beta=0.5)
            case "silu":
                return self.node("Mul", [x, self.node("Sigmoid", [x], path)], path)
            case "gelu":
                return self._gelu(x, path)
        simple = {"relu": "Relu", "hard_swish": "HardSwish", "sigmoid": "Sigmoid"}
        if name not in simple:
            raise ExportError(f"the ONNX export does not know the activation {name!r}")
        return self.node(simple[name], [x], path)

    def _gelu(self, x: str, path: str) -> str:
        """Add GELU with the exact error function: x * (1 + erf(x / sqrt 2)) / 2."""
        if self.opset >= 20:
            return self.node("Gelu", [x], path)
        # onnxruntime and OpenVINO recognise this pattern as one operation.
        scaled = self.node("Div", [x, self.number(2**0.5)], path)
        shifted = self.node("Add", [self.node("Erf", [scaled], path), self.number(1)], path)
        return self.node("Mul", [self.node("Mul", [x, shifted], path), self.number(0.5)], path)

    # -- layers --------------------------------------------------------------------------------------

    def layer(self, layer: Layer, x: str, shape: Shape, path: str) -> str:
        """Add a layer over the value ``x`` of ``shape``; returns the name of its output."""
        handler = _HANDLERS.get(type(layer))
        if handler is None:
            raise ExportError(f"the ONNX export does not know the layer {type(layer).__name__}")
        return handler(self, layer, x, shape, path)

    def pass_through(self, _layer: Layer, x: str, _shape: Shape, _path: str) -> str:
        return x

    def conv(self, conv: layers.Conv, x: str, _shape: Shape, path: str) -> str:
        y = self.act(conv.act, self._convolved(conv, x, path), path)
        if not conv.affine:
            return y
        y = self.node("Mul", [y, self.weight(f"{path}/gain")], path)
        return self.node("Add", [y, self.weight(f"{path}/offset")], path)

    def _convolved(self, conv: layers.Conv, x: str, path: str) -> str:
        kernel = self.weights[f"{path}/kernel"].transpose(3, 2, 0, 1)
        inputs = [x, self.weight(f"{path}/kernel", kernel)]
        if f"{path}/bias" in self.weights:
            inputs.append(self.weight(f"{path}/bias"))
        window = _window(conv.kernel, conv.stride, conv.padding, group=conv.groups)
        return self.node("Conv", inputs, path, **window)

    def reparam(self, layer: layers.Reparam, x: str, shape: Shape, path: str) -> str:
        return self.conv(layer.merged, x, shape, path)

    def batch_norm(self, _layer: layers.BatchNorm, x: str, _shape: Shape, path: str) -> str:
        scale, shift = (
            self.weight(name, self.weights[name].reshape(-1, 1, 1))
            for name in (f"{path}/scale", f"{path}/shift")
        )
        return self.node("Add", [self.node("Mul", [x, scale], path), shift], path)

    def activation(self, layer: layers.Act, x: str, _shape: Shape, path: str) -> str:
        return self.act(layer.act, x, path)

    def squeeze_excite(self, layer: layers.SqueezeExcite, x: str, shape: Shape, path: str) -> str:
        gate = self.node("GlobalAveragePool", [x], path)
        for part, width, act in (
            ("reduce", layer.hidden, layer.act),
            ("expand", shape[2], layer.gate),
        ):
            conv = layers.Conv(width, bias=True, norm=False, act=act)
            gate = self.conv(conv, gate, shape, f"{path}/{part}")
        return self.node("Mul", [x, gate], path)

    def pool(self, pool: layers.Pool, x: str, shape: Shape, path: str) -> str:
        window = _window(pool.kernel, pool.stride, _floored(pool, shape))
        if pool.mode == "max":
            return self.node("MaxPool", [x], path, **window)
        return self.node("AveragePool", [x], path, count_include_pad=0, **window)

    def global_pool(self, _layer: Layer, x: str, _shape: Shape, path: str) -> str:
        return self.node("GlobalAveragePool", [x], path)

    def flatten(self, _layer: Layer, x: str, shape: Shape, path: str) -> str:
        return self.node("Flatten", [x], path, axis=1) if len(shape) == 3 else x

    def linear(self, layer: layers.Linear, x: str, _shape: Shape, path: str) -> str:
        inputs = [x, self.weight(f"{path}/kernel"), self.weight(f"{path}/bias")]
        return self.act(layer.act, self.node("Gemm", inputs, path), path)

    def local_response_norm(
        self, layer: layers.LocalResponseNorm, x: str, _shape: Shape, path: str
    ) -> str:
        if (
            layer.size % 2 == 0
        ):  # onnxruntime refuses even sizes, and their centre is a matter of convention
            raise ExportError(
                f"local response norm: ONNX engines take odd sizes only, got {layer.size}"
            )
        settings = {"alpha": layer.alpha, "beta": layer.beta, "bias": layer.bias}
        return self.node("LRN", [x], path, size=layer.size, **settings)

    def channel_shuffle(self, layer: layers.ChannelShuffle, x: str, shape: Shape, path: str) -> str:
        height, width, channels = shape  # a 0 in a Reshape copies the batch
        grouped = (0, layer.groups, channels // layer.groups, height, width)
        x = self.node("Reshape", [x, self.integers(grouped)], path)
        x = self.node("Transpose", [x], path, perm=(0, 2, 1, 3, 4))
        return self.node("Reshape", [x, self.integers((0, channels, height, width))], path)

    # -- layers of layers ----------------------------------------------------------------------------

    def chain(self, chain: layers.Chain, x: str, shape: Shape, path: str) -> str:
        for i, inner in enumerate(chain.layers):
            x = self.layer(inner, x, shape, f"{path}/{i}")
            shape = inner.out_shape(shape)
        return x

    def add(self, add: layers.Add, x: str, shape: Shape, path: str) -> str:
        terms = [
            self.layer(branch, x, shape, f"{path}/{i}") for i, branch in enumerate(add.branches)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = self.node("Add", [total, term], path)
        return self.act(add.act, total, path)

    def concat(self, layer: layers.Concat | layers.Split, x: str, shape: Shape, path: str) -> str:
        parts = self._parts(layer, x, shape, path)
        return self.node("Concat", parts, path, axis=1) if len(parts) > 1 else parts[0]

    def _parts(self, layer: Layer, x: str, shape: Shape, path: str) -> list[str]:
        """Return the values whose concatenation is the layer's output; nested ones become one."""
        match layer:
            case layers.Concat():
                work = [(branch, x, shape) for branch in layer.branches]
            case layers.Split():
                pieces = self._split(layer, x, path)
                work = list(zip(layer.branches, pieces, layer.parts(shape), strict=True))
            case layers.Chain(layers=(*before, last)) if isinstance(last, _JOINS):
                x = self.chain(layers.Chain(tuple(before)), x, shape, path)
                shape = layers.Chain(tuple(before)).out_shape(shape)
                return self._parts(last, x, shape, f"{path}/{len(before)}")
            case _:
                return [self.layer(layer, x, shape, path)]
        parts: list[str] = []
        for i, (branch, part, part_shape) in enumerate(work):
            parts += self._parts(branch, part, part_shape, f"{path}/{i}")
        return parts

    def _split(self, split: layers.Split, x: str, path: str) -> list[str]:
        if len(split.sizes) == 1:
            return [x]
        name = self._unique_name(f"{path}/Split")
        outputs = [self._unique_name(f"{name}:{i}") for i in range(len(split.sizes))]
        inputs = [x, self.integers(split.sizes)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, name=name, axis=1))
        return outputs

    # -- finished graph ------------------------------------------------------------------------------

    def finish(self, named: NamedBlocks, x: str, batch: int | None) -> onnx.GraphProto:
        """Return the graph with the value ``x`` as its output."""
        producer = next((n for n in self.nodes if x in n.output), None)
        if producer is None:
            self.nodes.append(helper.make_node("Identity", [x], [OUTPUT], name="Identity"))
        else:
            producer.output[list(producer.output).index(x)] = OUTPUT
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value_shape(shape, batch))
            for name, shape in ((INPUT, named.in_shape), (OUTPUT, named.out_shape))
        ]
        return helper.make_graph(
            self.nodes, "lcnas", values[:1], values[1:], list(self.initializers.values())
        )


_JOINS = (layers.Concat, layers.Split)

Handler = Callable[[GraphBuilder, Any, str, Shape, str], str]
_HANDLERS: dict[type[Layer], Handler] = {
    layers.Identity: GraphBuilder.pass_through,
    layers.Dropout: GraphBuilder.pass_through,
    layers.Conv: GraphBuilder.conv,
    layers.Reparam: GraphBuilder.reparam,
    layers.BatchNorm: GraphBuilder.batch_norm,
    layers.Act: GraphBuilder.activation,
    layers.SqueezeExcite: GraphBuilder.squeeze_excite,
    layers.Pool: GraphBuilder.pool,
    layers.GlobalPool: GraphBuilder.global_pool,
    layers.Flatten: GraphBuilder.flatten,
    layers.Linear: GraphBuilder.linear,
    layers.LocalResponseNorm: GraphBuilder.local_response_norm,
    layers.ChannelShuffle: GraphBuilder.channel_shuffle,
    layers.Chain: GraphBuilder.chain,
    layers.Add: GraphBuilder.add,
    layers.Concat: GraphBuilder.concat,
    layers.Split: GraphBuilder.concat,
}


def build(
    named: NamedBlocks, weights: Mapping[str, Array], batch: int | None, opset: int
) -> onnx.GraphProto:
    """Return the ONNX graph of named blocks with their weights outside training."""
    builder = GraphBuilder(weights, opset)
    x = INPUT
    for name, placed in zip(named.names, named.placed, strict=True):
        x = builder.layer(placed.layer, x, placed.in_shape, name)
    return builder.finish(named, x, batch)
