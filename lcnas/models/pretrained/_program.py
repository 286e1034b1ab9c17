"""Tracing of Paddle programs: their computation as layers of lcnas, with the layers' tensors.

A program is interpreted operation by operation: each value has the steps that compute it from
the input. So a network is recognised by its computation, not by the names of its tensors, and
strides, paddings, activations and epsilons are the program's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lcnas import layers
from lcnas.errors import PretrainedError, listing, shorten
from lcnas.layers import Layer, Padding, Pair, Shape
from lcnas.onnx_export import EPSILON

OIHW = (2, 3, 1, 0)  # axes that transpose a kernel (out, in, height, width) to ours
MAX_OPS = 4096
_NEAR = 1e-6  # relative tolerance of constants that were float32


@dataclass(frozen=True)
class Weight:
    """The tensor of a weight in a file, and its conversion."""

    tensor: str
    axes: tuple[int, ...] | None = None  # transposition; None: none
    factor: float = 1.0
    shift: float = 0.0  # added after the factor
    flat: bool = False  # of a 1x1 kernel: the tensor is a linear layer's, without height and width
    less: str = ""  # name of a tensor of the same shape that is subtracted

    def source_shape(self, shape: Shape) -> Shape:
        """Return the shape of the tensor for a weight of ``shape``."""
        if self.flat:
            shape = shape[2:]
        if self.axes is None:
            return shape
        source = [0] * len(shape)
        for ours, theirs in enumerate(self.axes):
            source[theirs] = shape[ours]
        return tuple(source)


@dataclass(frozen=True)
class Param:
    """A tensor that a program reads from the file beside it."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Op:
    """An operation, with Paddle's name; its inputs and its (first) output are names of values."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, object]


@dataclass(frozen=True)
class Program:
    """Operations in order of execution, and the tensors they read."""

    params: Mapping[str, Param]  # by name of the value
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Step:
    """A layer and its tensors, by the last part of our names; a sum has inner steps."""

    layer: Layer
    weights: Mapping[str, Weight] = field(default_factory=dict)
    body: tuple[Step, ...] = ()


@dataclass(frozen=True)
class TracedNetwork:
    """The computation of a program: its steps, and its input size."""

    steps: tuple[Step, ...]
    size: tuple[int, int] | None  # (height, width); None: any
    dropout: float | None  # rate; None: none


@dataclass(frozen=True)
class _Value:
    """A value of the program: its steps, and a factor that the next weights have to absorb."""

    steps: tuple[Step, ...]
    factor: float = 1.0
    ended: bool = False  # after the softmax


SUM = layers.Add(())  # the input of a sum plus its body, in a Step

_ACTS = {
    "relu": "relu",
    "relu6": "relu6",
    "hardswish": "hard_swish",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
}
# Attributes that must have these values if a program has them.
_FIXED: dict[str, dict[str, object]] = {
    "conv2d": {"dilations": [1, 1], "data_format": "NCHW"},
    "batch_norm": {"data_format": "NCHW"},
    "relu6": {"threshold": 6.0},
    "hardswish": {"threshold": 6.0, "scale": 6.0, "offset": 3.0},
    "swish": {"beta": 1.0},
    "gelu": {"approximate": False},
    "pool2d": {"pooling_type": "avg", "data_format": "NCHW"},
    "flatten": {"start_axis": 1},
    "matmul": {"transpose_x": False, "transpose_y": False},
    "scale": {"bias": 0.0},
}


class _Tracer:
    """Interprets a program; see :func:`trace`."""

    def __init__(self, program: Program) -> None:
        self.params = dict(program.params)
        self.values: dict[str, _Value] = {}
        self.constants: dict[str, object] = {}
        self.size: tuple[int, int] | None = None
        self.dropout: float | None = None
        self.result: _Value | None = None

    # -- inputs --------------------------------------------------------------------------------

    def value(self, op: Op, index: int = 0, carries: bool = False) -> _Value:
        """Return an input value of the operation; ``carries``: a factor may pass through it."""
        name = op.inputs[index] if index < len(op.inputs) else ""
        if name not in self.values:
            raise PretrainedError(f"{op.kind} reads {shorten(name)}, which nothing computes")
        value = self.values[name]
        if value.ended:
            raise PretrainedError(f"{op.kind} after the softmax")
        if value.factor != 1.0 and not carries:
            raise PretrainedError(f"{op.kind} after a scale, or a dropout that scales")
        return value

    def param(self, op: Op, index: int) -> Param:
        """Return an input tensor of the operation, from the file."""
        name = op.inputs[index] if index < len(op.inputs) else ""
        if name not in self.params:
            raise PretrainedError(
                f"{op.kind} reads {shorten(name)}, which is not a tensor of the file"
            )
        return self.params[name]

    def split(self, op: Op) -> tuple[_Value | None, Param | None]:
        """Return the value and the tensor of two inputs, or (None, None) if they are not one each."""
        tensors = [name for name in op.inputs if name in self.params]
        if len(tensors) != 1 or len(op.inputs) != 2:
            return None, None
        index = op.inputs.index(tensors[0])
        return self.value(op, 1 - index), self.params[tensors[0]]

    # -- layers --------------------------------------------------------------------------------

    def data(self, op: Op) -> _Value:
        if self.size is not None or self.values:
            raise PretrainedError("more than one input")
        shape = _numbers(op, "shape")
        if len(shape) != 4 or shape[1] != 3:
            raise PretrainedError(f"an input of the shape {shape}, not (batch, 3, height, width)")
        if min(shape[2:]) > 0:
            self.size = (shape[2], shape[3])
        return _Value(())

    def conv(self, op: Op) -> _Value:
        before = self.value(op, 0, carries=True)
        kernel = self.param(op, 1)
        if len(kernel.shape) != 4:
            raise PretrainedError(f"a kernel of the shape {kernel.shape}")
        layer = layers.Conv(
            kernel.shape[0],
            (kernel.shape[2], kernel.shape[3]),
            _pair(op, "strides"),
            _padding(op),
            groups=_number(op, "groups", 1),
            norm=False,
        )
        return _then(before, Step(layer, {"kernel": Weight(kernel.name, OIHW, before.factor)}))

    def norm(self, op: Op) -> _Value:
        before = self.value(op)
        conv = _bare(op, before)
        epsilon = _float(op, "epsilon", EPSILON)
        shift = 0.0 if math.isclose(epsilon, EPSILON, rel_tol=_NEAR) else epsilon - EPSILON
        mean, var, scale, offset = (self.param(op, i).name for i in range(1, 5))
        weights = {
            "scale": Weight(scale),
            "shift": Weight(offset),
            "mean": Weight(mean),
            "var": Weight(var, shift=shift),
        }
        return _instead(before, dataclasses.replace(conv, norm=True), weights)

    def act(self, op: Op) -> _Value:
        return _activated(self.value(op), _ACTS[op.kind])

    def hard_sigmoid(self, op: Op) -> _Value:
        """Clip(slope x + 1/2): ours has the slope 1/6, so the layer before absorbs the rest."""
        before = self.value(op)
        slope, offset = _float(op, "slope", 1 / 6), _float(op, "offset", 0.5)
        if not math.isclose(offset, 0.5, rel_tol=_NEAR) or not slope > 0:
            raise PretrainedError(f"a hard sigmoid of slope {slope} and offset {offset}")
        if not math.isclose(slope * 6, 1.0, rel_tol=_NEAR):
            before = _scaled(op, before, slope * 6)
        return _activated(before, "hard_sigmoid")

    def add(self, op: Op) -> _Value:
        before, bias = self.split(op)
        if before is not None and bias is not None:
            return _biased(op, before, bias)
        first, second = self.value(op, 0), self.value(op, 1)
        short, long = sorted((first, second), key=lambda value: len(value.steps))
        body = _behind(short, long)
        if not body:
            raise PretrainedError("a sum of two branches that is not a shortcut")
        return _then(short, Step(SUM, body=body))

    def multiply(self, op: Op) -> _Value:
        first, second = self.value(op, 0), self.value(op, 1)
        short, long = sorted((first, second), key=lambda value: len(value.steps))
        return _then(short, _squeeze_excite(_behind(short, long)))

    def pool(self, op: Op) -> _Value:
        before = self.value(op, carries=True)
        kernel = self.constants.get(op.inputs[1]) if len(op.inputs) > 1 else op.attrs.get("ksize")
        everything = op.attrs.get("adaptive") is True and kernel in ([1, 1], [1])
        if not everything and op.attrs.get("global_pooling") is not True:
            raise PretrainedError("a pooling that is not the mean of the whole map")
        return _then(before, Step(layers.GlobalPool()))

    def flatten(self, op: Op) -> _Value:
        if _number(op, "stop_axis", -1) not in (-1, 3):
            raise PretrainedError("a flatten of some sides only")
        return _then(self.value(op, carries=True), Step(layers.Flatten()))

    def matmul(self, op: Op) -> _Value:
        before = self.value(op, carries=True)
        kernel = self.param(op, 1)
        if len(kernel.shape) != 2:
            raise PretrainedError(f"a linear layer of the shape {kernel.shape}")
        weights = {"kernel": Weight(kernel.name, None, before.factor)}
        return _then(before, Step(layers.Linear(kernel.shape[1]), weights))

    def drop(self, op: Op) -> _Value:
        """Identity, or the factor 1 - rate of Paddle's "downgrade_in_infer"."""
        before = self.value(op, carries=True)
        rate = self.constants.get(op.inputs[2]) if len(op.inputs) > 2 else op.attrs.get("p")
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise PretrainedError(f"a dropout of rate {shorten(rate)}")
        self.dropout = float(np.float32(rate))
        if op.attrs.get("mode", "downgrade_in_infer") == "upscale_in_train":
            return before
        return dataclasses.replace(before, factor=before.factor * (1 - rate))

    def scale(self, op: Op) -> _Value:
        before = self.value(op, carries=True)
        factor = self.constants.get(op.inputs[1]) if len(op.inputs) > 1 else op.attrs.get("scale")
        if not isinstance(factor, int | float) or not math.isfinite(factor):
            raise PretrainedError(f"a scale by {shorten(factor)}")
        return dataclasses.replace(before, factor=before.factor * factor)

    def softmax(self, op: Op) -> _Value:
        return dataclasses.replace(self.value(op), ended=True)

    # -- the run -------------------------------------------------------------------------------

    def constant(self, op: Op) -> None:
        self.constants[op.output] = op.attrs.get("value")

    def reshape(self, op: Op) -> None:
        """Reshape a bias, as Paddle does before adding it; ours keeps its shape."""
        param = self.param(op, 0)
        if math.prod(param.shape) != max(param.shape, default=0):
            raise PretrainedError(f"a reshape of {shorten(param.name)}, which is not a bias")
        self.params[op.output] = param

    def fetch(self, op: Op) -> None:
        if self.result is not None:
            raise PretrainedError("more than one output")
        value = self.values.get(op.inputs[0] if op.inputs else "")
        if value is None or value.factor != 1.0:
            raise PretrainedError("an output that nothing computes")
        self.result = value

    def follow(self, op: Op) -> None:
        """Interpret one operation."""
        for name, value in _FIXED.get(op.kind.removeprefix("depthwise_"), {}).items():
            if name in op.attrs and not _same(op.attrs[name], value):
                raise PretrainedError(
                    f"{op.kind} with {name} {shorten(op.attrs[name])}, where only {value} is supported"
                )
        if op.kind in _QUIET:
            _QUIET[op.kind](self, op)
        elif op.kind in _LAYERS:
            self.values[op.output] = _LAYERS[op.kind](self, op)
        else:
            raise PretrainedError(
                f"the operation {shorten(op.kind)} is not among {listing(sorted(_LAYERS))}"
            )


_LAYERS: dict[str, Callable[[_Tracer, Op], _Value]] = {
    "data": _Tracer.data,
    "conv2d": _Tracer.conv,
    "depthwise_conv2d": _Tracer.conv,
    "batch_norm": _Tracer.norm,
    **dict.fromkeys(_ACTS, _Tracer.act),
    "hardsigmoid": _Tracer.hard_sigmoid,
    "add": _Tracer.add,
    "multiply": _Tracer.multiply,
    "pool2d": _Tracer.pool,
    "flatten": _Tracer.flatten,
    "matmul": _Tracer.matmul,
    "dropout": _Tracer.drop,
    "scale": _Tracer.scale,
    "softmax": _Tracer.softmax,
}
_QUIET: dict[str, Callable[[_Tracer, Op], None]] = {
    "full": _Tracer.constant,
    "full_int_array": _Tracer.constant,
    "reshape": _Tracer.reshape,
    "fetch": _Tracer.fetch,
}


def trace(program: Program, source: str) -> TracedNetwork:
    """Return the computation of a program up to its logits, without a final softmax.

    Args:
        program: the operations.
        source: name of its origin, for errors.

    Raises:
        PretrainedError: an operation, or a use of one, that is not a layer of lcnas.
    """
    run = _Tracer(program)
    if len(program.ops) > MAX_OPS:
        raise PretrainedError(f"{source}: {len(program.ops)} operations, more than {MAX_OPS}")
    try:
        for op in program.ops:
            run.follow(op)
        if run.result is None:
            raise PretrainedError("no output")
    except PretrainedError as error:
        raise PretrainedError(f"{source}: {error}") from None
    return TracedNetwork(run.result.steps, run.size, run.dropout)


# -- steps -----------------------------------------------------------------------------------------


def _then(value: _Value, step: Step) -> _Value:
    """Return the value after one more step; a factor passes a step that has no weights to absorb it."""
    return _Value((*value.steps, step), 1.0 if step.weights else value.factor)


def _instead(value: _Value, layer: Layer, weights: Mapping[str, Weight]) -> _Value:
    """Return the value with its last step replaced by ``layer``, with more weights."""
    last = value.steps[-1]
    step = Step(layer, {**last.weights, **weights}, last.body)
    return dataclasses.replace(value, steps=(*value.steps[:-1], step))


def _bare(op: Op, value: _Value) -> layers.Conv:
    """Return the last layer, which must be a convolution without batch norm, bias and activation."""
    last = value.steps[-1].layer if value.steps else None
    if not isinstance(last, layers.Conv):
        raise PretrainedError(f"{op.kind} that does not follow a convolution")
    if last.norm or last.bias or last.act != "identity":
        raise PretrainedError(f"{op.kind} that does not directly follow its convolution")
    return last


def _activated(value: _Value, act: str) -> _Value:
    last = value.steps[-1].layer if value.steps else None
    if isinstance(last, layers.Conv | layers.Linear | layers.Add) and last.act == "identity":
        return _instead(value, dataclasses.replace(last, act=act), {})
    return _then(value, Step(layers.Act(act)))


def _biased(op: Op, value: _Value, bias: Param) -> _Value:
    last = value.steps[-1].layer if value.steps else None
    more = {"bias": Weight(bias.name)}
    if isinstance(last, layers.Linear) and "bias" not in value.steps[-1].weights:
        return _instead(value, last, more)
    return _instead(value, dataclasses.replace(_bare(op, value), bias=True), more)


def _scaled(op: Op, value: _Value, factor: float) -> _Value:
    """Return the value times a factor, which the kernel and the bias of the last step absorb."""
    last = value.steps[-1] if value.steps else None
    conv = last.layer if last else None
    is_bare = isinstance(conv, layers.Conv) and not conv.norm and conv.act == "identity"
    if last is None or not is_bare:
        raise PretrainedError(
            f"{op.kind} of another slope than 1/6 that does not follow a convolution"
        )
    taken = {
        name: dataclasses.replace(weight, factor=weight.factor * factor)
        for name, weight in last.weights.items()
    }
    return _instead(value, last.layer, taken)


def _behind(short: _Value, long: _Value) -> tuple[Step, ...]:
    """Return the steps from one value to the other, or () if the other does not continue the first."""
    count = len(short.steps)
    return long.steps[count:] if long.steps[:count] == short.steps else ()


def _squeeze_excite(steps: tuple[Step, ...]) -> Step:
    """Return squeeze-and-excite for the steps pool, 1x1, act, 1x1, gate."""
    shape = [type(step.layer) for step in steps]
    if shape != [layers.GlobalPool, layers.Conv, layers.Conv]:
        raise PretrainedError("a product that is not squeeze-and-excite")
    reduce, expand = steps[1], steps[2]
    if not (isinstance(reduce.layer, layers.Conv) and isinstance(expand.layer, layers.Conv)):
        raise AssertionError("the types were compared")
    for conv in (reduce.layer, expand.layer):
        expected = layers.Conv(conv.width, bias=True, norm=False, act=conv.act)
        if conv != expected:
            raise PretrainedError(
                "a squeeze-and-excite with convolutions that are not 1x1 with a bias"
            )
    layer = layers.SqueezeExcite(reduce.layer.width, reduce.layer.act, expand.layer.act)
    named = {f"reduce/{name}": weight for name, weight in reduce.weights.items()}
    return Step(
        layer, named | {f"expand/{name}": weight for name, weight in expand.weights.items()}
    )


# -- attributes ------------------------------------------------------------------------------------


def _same(value: object, expected: object) -> bool:
    if isinstance(expected, float) and isinstance(value, int | float):
        return math.isclose(value, expected, rel_tol=_NEAR, abs_tol=0.0)
    if expected == "NCHW":
        return value in ("NCHW", "AnyLayout")
    return value == expected


def _numbers(op: Op, name: str) -> list[int]:
    numbers = op.attrs.get(name)
    if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
        raise PretrainedError(f"{op.kind}: {name}: {shorten(numbers)} is not a list of numbers")
    return numbers


def _number(op: Op, name: str, default: int) -> int:
    number = op.attrs.get(name, default)
    if not isinstance(number, int):
        raise PretrainedError(f"{op.kind}: {name}: {shorten(number)} is not a whole number")
    return number


def _float(op: Op, name: str, default: float) -> float:
    number = op.attrs.get(name, default)
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise PretrainedError(f"{op.kind}: {name}: {shorten(number)} is not a number")
    return float(number)


def _pair(op: Op, name: str) -> Pair:
    numbers = _numbers(op, name)
    if len(numbers) != 2 or min(numbers) < 1:
        raise PretrainedError(f"{op.kind}: {name}: {numbers} is not a pair")
    return (numbers[0], numbers[1])


def _padding(op: Op) -> Padding:
    """Return (top, bottom, left, right)."""
    algorithm = op.attrs.get("padding_algorithm", "EXPLICIT")
    if algorithm == "VALID":
        return (0, 0, 0, 0)
    sides = _numbers(op, "paddings")
    if algorithm != "EXPLICIT" or len(sides) not in (2, 4) or min(sides) < 0:
        raise PretrainedError(f"{op.kind} with the padding {shorten(algorithm)} {sides}")
    top, bottom, left, right = (
        sides if len(sides) == 4 else (sides[0], sides[0], sides[1], sides[1])
    )
    return (top, bottom, left, right)
