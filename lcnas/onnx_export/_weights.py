"""The names of a network's weights, random weights, and the check of weights from outside."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import layers
from lcnas.arch import Arch, PlacedBlock, Resolution, labels, walk
from lcnas.errors import ExportError, listing, nearest, shorten
from lcnas.layers import Layer, Shape, format_shape

CLASSES = 1000  # default number of an arch's classes
EPSILON = 1e-5  # added to the variance in every batch norm

Array = NDArray[np.float32]
Weights = Mapping[str, NDArray[np.float32]]
NetworkOrBlocks = Arch | PlacedBlock | Sequence[PlacedBlock]  # blocks: a chain

# -- names of blocks -------------------------------------------------------------------------------


def block_names(arch: Arch) -> tuple[str, ...]:
    """Return the names of the blocks in the order of the walk, as weights and ONNX nodes use them.

    A name is the block's label, such as "stage4_block_2"; characters other than letters, digits and "_.-"
    become "_". If two blocks would share a name, all are named by their index.

    Examples:
        >>> from lcnas import zoo
        >>> block_names(zoo.load("pplcnet_0.5x"))[:3]
        ('stem', 'stage1', 'stage2_block_1')
    """
    all_names = tuple(re.sub(r"[^\w.-]", "_", label) for label in labels(arch))
    return all_names if len(set(all_names)) == len(all_names) else _indexes(len(all_names))


def _indexes(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


@dataclass(frozen=True)
class NamedBlocks:
    """Placed blocks and their names."""

    placed: tuple[PlacedBlock, ...]
    names: tuple[str, ...]

    @property
    def in_shape(self) -> Shape:
        return self.placed[0].in_shape

    @property
    def out_shape(self) -> Shape:
        return self.placed[-1].out_shape

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are logits of classes."""
        return self.placed[-1].depends_on_classes

    def leaves(self) -> Iterator[tuple[str, Layer, Shape]]:
        """Yield (path, layer, input shape) of each primitive layer, in order of execution."""
        for name, placed in zip(self.names, self.placed, strict=True):
            yield from _leaves(placed.layer, placed.in_shape, name)


def named_blocks(
    source: NetworkOrBlocks, classes: int = CLASSES, resolution: Resolution | None = None
) -> NamedBlocks:
    """Return the placed blocks of a network or chain, with their names.

    Raises:
        ArchError: the blocks of an arch do not fit together.
        ExportError: no blocks, blocks that do not fit together, or a resolution for placed blocks.
    """
    if isinstance(source, Arch):
        return NamedBlocks(walk(source, resolution, classes), block_names(source))
    if resolution is not None:
        raise ExportError(
            f"resolution: {shorten(resolution)} is only for an Arch; placed blocks have their shapes"
        )
    chain = (source,) if isinstance(source, PlacedBlock) else tuple(source)
    if not chain:
        raise ExportError("there is no block to export")
    named = NamedBlocks(chain, _indexes(len(chain)))
    for i, (before, after) in enumerate(itertools.pairwise(chain)):
        if before.out_shape != after.in_shape:
            raise ExportError(
                f"block {i} gives {format_shape(before.out_shape)}, "
                f"block {i + 1} ({after}) takes {format_shape(after.in_shape)}"
            )
    if named.has_classes and classes not in (CLASSES, *named.out_shape):
        raise ExportError(
            f"classes: {shorten(classes)}, but the last block gives {named.out_shape[0]}"
        )
    return named


def _leaves(layer: Layer, shape: Shape, path: str) -> Iterator[tuple[str, Layer, Shape]]:
    match layer:
        case layers.Chain():
            for i, inner in enumerate(layer.layers):
                yield from _leaves(inner, shape, f"{path}/{i}")
                shape = inner.out_shape(shape)
        case layers.Add() | layers.Concat():
            for i, branch in enumerate(layer.branches):
                yield from _leaves(branch, shape, f"{path}/{i}")
        case layers.Split():
            parts = zip(layer.branches, layer.parts(shape), strict=True)
            for i, (branch, part) in enumerate(parts):
                yield from _leaves(branch, part, f"{path}/{i}")
        case _:
            yield path, layer, shape


# -- weights of a layer ----------------------------------------------------------------------------


def _norm_shapes(channels: int) -> dict[str, Shape]:
    return dict.fromkeys(("scale", "shift", "mean", "var"), (channels,))


def conv_shapes(conv: layers.Conv, channels: int) -> dict[str, Shape]:
    """Return name -> shape of a convolution's weights, without those of its affine."""
    shapes: dict[str, Shape] = {"kernel": (*conv.kernel, channels // conv.groups, conv.width)}
    if conv.bias:
        shapes["bias"] = (conv.width,)
    if conv.norm:
        shapes |= _norm_shapes(conv.width)
    return shapes


def _branch_shapes(branch: layers.Conv | layers.BatchNorm, channels: int) -> dict[str, Shape]:
    if isinstance(branch, layers.Conv):
        return conv_shapes(branch, channels)
    return _norm_shapes(channels)


def _prefixed(path: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {f"{path}/{name}": shape for name, shape in shapes.items()}


def _affine_shapes(conv: layers.Conv) -> dict[str, Shape]:
    return {"gain": (), "offset": ()} if conv.affine else {}


def layer_shapes(layer: Layer, shape: Shape) -> dict[str, Shape]:
    """Return name -> shape of the weights of one layer, in a fixed order."""
    match layer:
        case layers.Conv():
            return conv_shapes(layer, shape[2]) | _affine_shapes(layer)
        case layers.Reparam():
            shapes: dict[str, Shape] = {}
            for i, branch in enumerate(layer.branches):
                shapes |= _prefixed(f"branch{i}", _branch_shapes(branch, shape[2]))
            return shapes | _affine_shapes(layer.merged)
        case layers.BatchNorm():
            return _norm_shapes(shape[2])
        case layers.SqueezeExcite():
            channels, hidden = shape[2], layer.hidden
            return {
                "reduce/kernel": (1, 1, channels, hidden),
                "reduce/bias": (hidden,),
                "expand/kernel": (1, 1, hidden, channels),
                "expand/bias": (channels,),
            }
        case layers.Linear():
            width = prod(layer.out_shape(shape))
            return {"kernel": (shape[0], width), "bias": (width,)}
    return {}


def weight_shapes(named: NamedBlocks) -> dict[str, Shape]:
    """Return name -> shape of all weights of named blocks."""
    shapes: dict[str, Shape] = {}
    for path, layer, shape in named.leaves():
        shapes |= _prefixed(path, layer_shapes(layer, shape))
    return shapes


def names(
    source: NetworkOrBlocks, classes: int = CLASSES, resolution: Resolution | None = None
) -> dict[str, Shape]:
    """Return name -> shape of every weight, in order of execution.

    A name is ``block/path/weight``. The block is named as in :func:`block_names` (by its index in a chain of
    placed blocks). The path holds the indices of the layers that lead to the weight in the block's tree, each
    followed by "/". The weights are

    - of a convolution ``kernel`` (height, width, in / groups, out) and ``bias`` (out,), of its batch norm
      ``scale``, ``shift``, ``mean`` and ``var`` (out,), of its affine ``gain`` and ``offset`` ();
    - of a re-parameterised convolution the same under ``branch0/``, ``branch1/`` ... for each branch, and the
      affine after their sum without that prefix;
    - of a separate batch norm ``scale``, ``shift``, ``mean``, ``var``;
    - of squeeze-and-excite ``reduce/kernel``, ``reduce/bias``, ``expand/kernel``, ``expand/bias``;
    - of a linear layer ``kernel`` (in, out) and ``bias`` (out,).

    All weights are trained but ``mean`` and ``var``, which are running statistics.

    Examples:
        >>> from lcnas import blocks
        >>> from lcnas.arch import place
        >>> names(place(blocks.DepthwiseSeparable(8, branches=(3, 0)), (4, 4, 2)))[
        ...     "0/0/branch0/kernel"
        ... ]
        (3, 3, 1, 2)
    """
    return weight_shapes(named_blocks(source, classes, resolution))


# -- check of weights ------------------------------------------------------------------------------


def _array(name: str, value: object) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:
        raise ExportError(f"weights: {name!r} is not an array of numbers") from None


def checked_weights(named: NamedBlocks, weights: Weights) -> dict[str, Array]:
    """Return the weights as arrays in the order of :func:`names`.

    Raises:
        ExportError: a weight is missing, unexpected, not finite, or has another shape or type; or a variance
            is negative.
    """
    shapes = weight_shapes(named)
    unexpected = [name for name in weights if name not in shapes]
    missing = [name for name in shapes if name not in weights]
    if unexpected:
        hint = nearest(unexpected[0], missing)
        raise ExportError(f"weights: the network has no {listing(map(repr, unexpected))}{hint}")
    if missing:
        raise ExportError(f"weights: missing {listing(map(repr, missing))}")
    arrays = {name: _array(name, weights[name]) for name in shapes}
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise ExportError(f"weights: {name!r} has the shape {array.shape}, not {shapes[name]}")
        if array.dtype != np.float32:
            raise ExportError(f"weights: {name!r} is {array.dtype}, not float32")
        if not np.isfinite(array).all():
            raise ExportError(f"weights: {name!r} holds values that are not finite")
        if name.endswith("/var") and (array < 0).any():
            raise ExportError(f"weights: {name!r}, a variance, holds negative values")
    return arrays


# -- random weights --------------------------------------------------------------------------------


@functools.cache
def _power_after(act: str, power: float) -> float:
    """Return the mean square of an activation's output; its input has mean 0 and mean square ``power``.

    The input is assumed to be Laplacian: few kernels are alike, so feature maps have heavier tails than a
    normal distribution.
    """
    samples = np.linspace(-8, 8, 1001)
    density = np.exp(-(2**0.5) * np.abs(samples))
    x = samples * sqrt(power)
    sigmoid = 1 / (1 + np.exp(-np.clip(x, -80, 80)))
    hard = np.clip(x / 6 + 0.5, 0, 1)
    value = {
        "identity": x,
        "relu": np.maximum(x, 0),
        "relu6": np.clip(x, 0, 6),
        "hard_swish": x * hard,
        "hard_sigmoid": hard,
        "sigmoid": sigmoid,
        "silu": x * sigmoid,
        "gelu": x / (1 + np.exp(-np.clip(1.702 * x, -80, 80))),  # approximate
    }[act]
    mean_square = float((value**2 * density).sum() / density.sum())
    return float(f"{mean_square:.6e}")  # rounded: the same weights on every processor


def _after(act: str, power: float) -> float:
    return power if act == "identity" else _power_after(act, float(f"{power:.1e}"))


class _Init:
    """Draws weights; tracks the mean square ("power") of feature maps so that the norms' statistics fit."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.weights: dict[str, Array] = {}

    def run(self, layer: Layer, shape: Shape, path: str, power: float) -> float:
        """Draw the layer's weights and return the power of its output."""
        match layer:
            case layers.Chain():
                for i, inner in enumerate(layer.layers):
                    power = self.run(inner, shape, f"{path}/{i}", power)
                    shape = inner.out_shape(shape)
                return power
            case layers.Add():
                return _after(layer.act, sum(self._branches(layer, shape, path, power)))
            case layers.Concat() | layers.Split():
                return float(np.mean(self._branches(layer, shape, path, power)))
        return self._leaf(layer, shape, path, power)

    def _branches(
        self,
        layer: layers.Add | layers.Concat | layers.Split,
        shape: Shape,
        path: str,
        power: float,
    ) -> list[float]:
        inputs = [shape for _ in layer.branches]
        if isinstance(layer, layers.Split):
            inputs = list(layer.parts(shape))
        work = enumerate(zip(layer.branches, inputs, strict=True))
        return [self.run(branch, part, f"{path}/{i}", power) for i, (branch, part) in work]

    def _leaf(self, layer: Layer, shape: Shape, path: str, power: float) -> float:
        match layer:
            case layers.Conv():
                return self._affine(layer, path, self._conv(layer, shape[2], path, power))
            case layers.Reparam():
                return self._reparam(layer, shape, path, power)
            case layers.BatchNorm():
                return self._norm(path, shape[2], power)
            case layers.SqueezeExcite():
                return self._squeeze(layer, shape[2], path, power)
            case layers.Linear():
                width = prod(layer.out_shape(shape))
                power = self._dense(path, (shape[0], width), shape[0], power)
                return _after(layer.act, power)
            case layers.Act():
                return _after(layer.act, power)
        return power

    def _uniform(self, shape: Shape, limit: float) -> Array:
        array: Array = self.rng.random(shape, dtype=np.float32)
        array -= np.float32(0.5)
        array *= np.float32(2 * limit)
        return array

    def _kernel(self, path: str, shape: Shape, fan_in: int, power: float) -> float:
        """He et al. (arXiv 1502.01852): uniform, with the variance 2 / fan in."""
        self.weights[f"{path}/kernel"] = self._uniform(shape, sqrt(6 / fan_in))
        return 2 * power

    def _dense(self, path: str, shape: Shape, fan_in: int, power: float) -> float:
        power = self._kernel(path, shape, fan_in, power)
        self.weights[f"{path}/bias"] = self._uniform((shape[-1],), 0.2 * sqrt(power))
        return power

    def _norm(self, path: str, channels: int, power: float) -> float:
        """Draw statistics near those of the feature map, scale near 1 and shift near 0."""
        size, deviation = (channels,), sqrt(power)
        self.weights[f"{path}/scale"] = 1 + self._uniform(size, 0.3)
        self.weights[f"{path}/shift"] = self._uniform(size, 0.4)
        self.weights[f"{path}/mean"] = self._uniform(size, 0.3 * deviation)
        self.weights[f"{path}/var"] = (1 + self._uniform(size, 0.5)) * np.float32(power)
        return 1.0

    def _conv(self, conv: layers.Conv, channels: int, path: str, power: float) -> float:
        shape = conv_shapes(conv, channels)["kernel"]
        draw = self._dense if conv.bias else self._kernel
        power = draw(path, shape, prod(shape[:3]), power)
        return self._norm(path, conv.width, power) if conv.norm else power

    def _affine(self, conv: layers.Conv, path: str, power: float) -> float:
        if conv.affine:
            self.weights[f"{path}/gain"] = np.asarray(1 + self._uniform((), 0.2), np.float32)
            self.weights[f"{path}/offset"] = np.asarray(self._uniform((), 0.2), np.float32)
        return _after(conv.act, power)

    def _reparam(self, layer: layers.Reparam, shape: Shape, path: str, power: float) -> float:
        total = 0.0
        for i, branch in enumerate(layer.branches):
            inner = f"{path}/branch{i}"
            if isinstance(branch, layers.Conv):
                total += self._conv(branch, shape[2], inner, power)
            else:
                total += self._norm(inner, shape[2], power)
        return self._affine(layer.merged, path, total)

    def _squeeze(
        self, layer: layers.SqueezeExcite, channels: int, path: str, power: float
    ) -> float:
        hidden = layer.hidden
        self._dense(f"{path}/reduce", (1, 1, channels, hidden), channels, power)
        self._dense(f"{path}/expand", (1, 1, hidden, channels), hidden, 1.0)
        return power * _after(layer.gate, 1.0)


def random_weights(named: NamedBlocks, rng: np.random.Generator) -> dict[str, Array]:
    """Return random weights of named blocks."""
    init = _Init(rng)
    power = 1.0
    for name, placed in zip(named.names, named.placed, strict=True):
        power = init.run(placed.layer, placed.in_shape, name, power)
    return init.weights


def init(
    source: NetworkOrBlocks,
    rng: np.random.Generator,
    classes: int = CLASSES,
    resolution: Resolution | None = None,
) -> dict[str, Array]:
    """Return random weights for a standard normal input, named and shaped as in :func:`names`.

    Use them instead of trained weights where only latency or structure matter. Kernels are drawn after He et
    al., batch norms get statistics that roughly fit their feature maps, and everything else is near its usual
    initial value, but nothing is exactly 0 or 1. Signals neither vanish nor overflow at the depth of any
    published network.

    Args:
        source: network, placed block, or chain of placed blocks.
        rng: source of randomness.
        classes: outputs of an arch's last layer.
        resolution: resolution of an arch, pixels; None: its own.
    """
    return random_weights(named_blocks(source, classes, resolution), rng)
