"""The primitive layers that every block lowers to.

A block becomes a tree of these layers, and the interpreters (:mod:`lcnas.cost`, the ONNX exporter, the Flax
builder) handle these and nothing else. A layer computes its output shape from its input shape and raises
:class:`~lcnas.errors.ShapeError` for an input that it cannot take.

A shape is ``(height, width, channels)``, or ``(features,)`` after :class:`Flatten`; the batch is never
part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from lcnas.errors import ShapeError

Shape = tuple[int, ...]  # (height, width, channels) or (features,)
Pair = tuple[int, int]  # (vertical, horizontal)
Padding = tuple[int, int, int, int]  # (top, bottom, left, right)

ACTIVATIONS = (
    "identity",
    "relu",
    "relu6",
    "hard_swish",
    "hard_sigmoid",
    "sigmoid",
    "silu",
    "gelu",
)


def format_shape(shape: Shape) -> str:
    """Return ``112x112x16`` for ``(112, 112, 16)``."""
    return "x".join(str(n) for n in shape)


def same_padding(kernel: Pair) -> Padding:
    """Return the padding that keeps the size at stride 1: ``k // 2`` before, ``(k - 1) // 2`` after.

    For odd kernels that is symmetric, as in PyTorch and Paddle.
    """
    (kh, kw) = kernel
    return (kh // 2, (kh - 1) // 2, kw // 2, (kw - 1) // 2)


def _spatial(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ShapeError(
            f"{layer.kind} needs a (height, width, channels) input, got {format_shape(shape)}"
        )
    return shape[0], shape[1], shape[2]


def _window(layer: Layer, size: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    """Return the number of window positions along one side."""
    span = size + pad - kernel
    if span < 0:
        raise ShapeError(
            f"{layer.kind}: kernel {kernel} is larger than its padded input {size + pad}"
        )
    return (math.ceil(span / stride) if ceil else span // stride) + 1


@dataclass(frozen=True)
class Layer:
    """Base of the primitive layers."""

    kind: ClassVar[str] = "layer"

    def out_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of ``shape``."""
        return shape

    def children(self) -> tuple[Layer, ...]:
        """Return the layers directly inside this one."""
        return ()


@dataclass(frozen=True)
class Identity(Layer):
    """Returns its input."""

    kind: ClassVar[str] = "identity"


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution, bias or batch norm, activation, and an optional learnable affine, in this order.

    The weights are (kernel height, kernel width, channels in / groups, width).
    """

    kind: ClassVar[str] = "convolution"

    width: int  # output channels
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    groups: int = 1
    bias: bool = False
    norm: bool = True  # batch norm after the convolution
    act: str = "identity"
    affine: bool = (
        False  # one learnable scale and one shift for the whole map, after the activation
    )

    def out_shape(self, shape: Shape) -> Shape:
        h, w, channels = _spatial(self, shape)
        if channels % self.groups or self.width % self.groups:
            raise ShapeError(
                f"{self.kind}: {channels} channels in and {self.width} out cannot be split "
                f"into {self.groups} groups"
            )
        top, bottom, left, right = self.padding
        return (
            _window(self, h, self.kernel[0], self.stride[0], top + bottom, ceil=False),
            _window(self, w, self.kernel[1], self.stride[1], left + right, ceil=False),
            self.width,
        )


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch norm on its own: one scale and one shift per channel."""

    kind: ClassVar[str] = "batch norm"

    def out_shape(self, shape: Shape) -> Shape:
        return _spatial(self, shape)


@dataclass(frozen=True)
class Reparam(Layer):
    """A convolution that is a sum of parallel branches in training, and a single convolution otherwise.

    Counts, tables and exported graphs use ``merged``. Each branch is a :class:`Conv` with batch
    norm and no activation, or a :class:`BatchNorm`; the activation of ``merged`` follows their sum.
    """

    kind: ClassVar[str] = "re-parameterised convolution"

    merged: Conv
    branches: tuple[Conv | BatchNorm, ...]

    def out_shape(self, shape: Shape) -> Shape:
        out = self.merged.out_shape(shape)
        for branch in self.branches:
            if branch.out_shape(shape) != out:
                raise ShapeError(
                    f"{self.kind}: a branch ({branch.kind}) gives "
                    f"{format_shape(branch.out_shape(shape))}, the merged convolution {format_shape(out)}"
                )
        return out

    def children(self) -> tuple[Layer, ...]:
        return (self.merged,)


@dataclass(frozen=True)
class Act(Layer):
    """An activation on its own."""

    kind: ClassVar[str] = "activation"

    act: str


@dataclass(frozen=True)
class SqueezeExcite(Layer):
    """Squeeze-and-excitation: global mean, 1x1 to ``hidden``, act, 1x1 back, gate, scale (with biases)."""

    kind: ClassVar[str] = "squeeze-and-excite"

    hidden: int  # channels of the bottleneck
    act: str = "relu"
    gate: str = "hard_sigmoid"

    def out_shape(self, shape: Shape) -> Shape:
        return _spatial(self, shape)


@dataclass(frozen=True)
class Pool(Layer):
    """Max or average pooling; an average excludes the padding."""

    kind: ClassVar[str] = "pooling"

    mode: str  # "max" or "avg"
    kernel: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)
    ceil: bool = False  # round the number of windows up

    def out_shape(self, shape: Shape) -> Shape:
        h, w, channels = _spatial(self, shape)
        top, bottom, left, right = self.padding
        return (
            self._side(h, self.kernel[0], self.stride[0], top, bottom),
            self._side(w, self.kernel[1], self.stride[1], left, right),
            channels,
        )

    def _side(self, size: int, kernel: int, stride: int, before: int, after: int) -> int:
        if max(before, after) >= kernel:  # a window of only padding has neither mean nor maximum
            raise ShapeError(
                f"{self.kind}: padding {max(before, after)} is not smaller than the kernel {kernel}"
            )
        count = _window(self, size, kernel, stride, before + after, self.ceil)
        # With ceil, a last window that starts in the padding after is dropped (as in PyTorch and ONNX).
        return count - 1 if self.ceil and (count - 1) * stride >= size + before else count


@dataclass(frozen=True)
class GlobalPool(Layer):
    """Mean over height and width; the output is 1x1."""

    kind: ClassVar[str] = "global pooling"

    def out_shape(self, shape: Shape) -> Shape:
        return (1, 1, _spatial(self, shape)[2])


@dataclass(frozen=True)
class Flatten(Layer):
    """All values of an image as one vector, in the order (channels, height, width) of published weights."""

    kind: ClassVar[str] = "flatten"

    def out_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class Linear(Layer):
    """A fully connected layer with bias and activation; ``width`` None: one output per class."""

    kind: ClassVar[str] = "linear"

    width: int | None
    act: str = "identity"

    def out_shape(self, shape: Shape) -> Shape:
        if self.width is None:
            raise ShapeError(f"{self.kind}: the number of classes is not set; see with_classes()")
        if len(shape) != 1:
            raise ShapeError(f"{self.kind} needs a flat input, got {format_shape(shape)}")
        return (self.width,)


@dataclass(frozen=True)
class Dropout(Layer):
    """Zeroes a share of the values in training; the identity otherwise."""

    kind: ClassVar[str] = "dropout"

    rate: float


@dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """Local response normalisation over channels (Krizhevsky et al. 2012, section 3.3)."""

    kind: ClassVar[str] = "local response norm"

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def out_shape(self, shape: Shape) -> Shape:
        return _spatial(self, shape)


@dataclass(frozen=True)
class ChannelShuffle(Layer):
    """Channels as (groups, n), transposed to (n, groups) (ShuffleNet, arXiv 1707.01083)."""

    kind: ClassVar[str] = "channel shuffle"

    groups: int

    def out_shape(self, shape: Shape) -> Shape:
        channels = _spatial(self, shape)[2]
        if channels % self.groups:
            raise ShapeError(
                f"{self.kind}: {channels} channels cannot be split into {self.groups} groups"
            )
        return shape


@dataclass(frozen=True)
class Chain(Layer):
    """Layers in sequence."""

    kind: ClassVar[str] = "chain"

    layers: tuple[Layer, ...]

    def out_shape(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.out_shape(shape)
        return shape

    def children(self) -> tuple[Layer, ...]:
        return self.layers


@dataclass(frozen=True)
class Add(Layer):
    """The sum of branches over the same input, and an activation."""

    kind: ClassVar[str] = "add"

    branches: tuple[Layer, ...]
    act: str = "identity"

    def out_shape(self, shape: Shape) -> Shape:
        shapes = [branch.out_shape(shape) for branch in self.branches]
        if any(s != shapes[0] for s in shapes):
            raise ShapeError(
                f"{self.kind} needs branches of equal shape, got "
                + " and ".join(format_shape(s) for s in shapes)
            )
        return shapes[0]

    def children(self) -> tuple[Layer, ...]:
        return self.branches


def _joined(layer: Layer, shapes: list[Shape]) -> Shape:
    if any(len(s) != 3 or s[:2] != shapes[0][:2] for s in shapes):
        raise ShapeError(
            f"{layer.kind} needs branches of equal height and width, got "
            + " and ".join(format_shape(s) for s in shapes)
        )
    return (*shapes[0][:2], sum(s[2] for s in shapes))


@dataclass(frozen=True)
class Concat(Layer):
    """Branches over the same input, concatenated along the channels."""

    kind: ClassVar[str] = "concat"

    branches: tuple[Layer, ...]

    def out_shape(self, shape: Shape) -> Shape:
        return _joined(self, [branch.out_shape(shape) for branch in self.branches])

    def children(self) -> tuple[Layer, ...]:
        return self.branches


@dataclass(frozen=True)
class Split(Layer):
    """Channels split into parts, each through its own branch, concatenated along the channels."""

    kind: ClassVar[str] = "split"

    sizes: tuple[int, ...]  # channels of each part; they sum to the channels of the input
    branches: tuple[Layer, ...]

    def parts(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the shape of each part."""
        h, w, channels = _spatial(self, shape)
        if sum(self.sizes) != channels or len(self.sizes) != len(self.branches):
            raise ShapeError(
                f"{self.kind}: parts of {', '.join(map(str, self.sizes))} channels for "
                f"{len(self.branches)} branches do not make up the {channels} channels of the input"
            )
        return tuple((h, w, size) for size in self.sizes)

    def out_shape(self, shape: Shape) -> Shape:
        parts = self.parts(shape)
        return _joined(self, [b.out_shape(p) for b, p in zip(self.branches, parts, strict=True)])

    def children(self) -> tuple[Layer, ...]:
        return self.branches


def visit(layer: Layer, shape: Shape) -> Iterator[tuple[Layer, Shape, Shape]]:
    """Yield (layer, input shape, output shape) of each primitive that computes, in order of execution.

    :class:`Add`, :class:`Concat` and :class:`Split` follow their branches; a :class:`Reparam` is one layer.
    """
    if isinstance(layer, Chain):
        for inner in layer.layers:
            yield from visit(inner, shape)
            shape = inner.out_shape(shape)
    elif isinstance(layer, Add | Concat):
        for branch in layer.branches:
            yield from visit(branch, shape)
        yield layer, shape, layer.out_shape(shape)
    elif isinstance(layer, Split):
        for branch, part in zip(layer.branches, layer.parts(shape), strict=True):
            yield from visit(branch, part)
        yield layer, shape, layer.out_shape(shape)
    else:
        yield layer, shape, layer.out_shape(shape)


def with_classes(layer: Layer, classes: int) -> Layer:
    """Return the layer with ``classes`` outputs in each :class:`Linear` of a chain whose width is open."""
    if isinstance(layer, Linear) and layer.width is None:
        return Linear(classes, layer.act)
    if isinstance(layer, Chain):
        return Chain(tuple(with_classes(inner, classes) for inner in layer.layers))
    return layer


def is_open(layer: Layer) -> bool:
    """Return whether the layer's output depends on the number of classes."""
    if isinstance(layer, Linear):
        return layer.width is None
    return isinstance(layer, Chain) and any(is_open(inner) for inner in layer.layers)
