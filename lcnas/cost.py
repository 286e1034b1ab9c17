"""The cost of a network, counted from its primitive layers: params, MACs, activations, peak memory.

Each figure exists for a network, for its blocks, and for an array of a space's codes:

=================  =======================================================================================
figure             what is counted
=================  =======================================================================================
params             trained values; includes batch norm's scale and shift
macs               multiply-accumulates of convolutions and linear layers; includes squeeze-and-excite
activations        values that convolutions write (arXiv 2003.13678, section 3.1, of convolutions only)
peak_memory        maximum bytes of feature maps that are alive at once, batch 1
paddle_flops       output of ``paddle.flops``: the "FLOPs" of PP-LCNet's paper
=================  =======================================================================================

``paddle_flops`` adds to the MACs one operation per value for a bias, two for batch norm, one per
output value for average pooling, and one per input and output value for global pooling; activations
are free. Source: Paddle, ``python/paddle/hapi/dynamic_flops.py``. The eight scales of PP-LCNet
agree with the paper's table (18, 29, 47, 99, 161, 342, 590, 906 M; see tests/test_cost.py).

Re-parameterised convolutions count as the single convolution that they are outside training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas import layers
from lcnas.arch import Arch, PlacedBlock, Resolution, walk
from lcnas.errors import LcnasError
from lcnas.layers import Layer, Shape

BYTES = 4  # of a float32 value


@dataclass(frozen=True)
class Cost:
    """The cost of a placed block, or of a whole network."""

    params: int  # trained values
    macs: int  # multiply-accumulates
    activations: int  # values written by convolutions
    peak_memory: int  # bytes, float32, batch 1
    paddle_flops: int  # operations by paddle.flops


# -- one primitive layer ---------------------------------------------------------------------------


def _conv_params(conv: layers.Conv, channels: int) -> int:
    weights = prod(conv.kernel) * (channels // conv.groups) * conv.width
    extra = conv.width * (conv.bias + 2 * conv.norm) + 2 * conv.affine
    return weights + extra


def _squeeze_params(channels: int, hidden: int) -> int:
    return 2 * channels * hidden + hidden + channels


def _params(layer: Layer, shape: Shape, training: bool) -> int:
    match layer:
        case layers.Conv():
            return _conv_params(layer, shape[2])
        case layers.Reparam() if training:
            affine = 2 * layer.merged.affine
            return sum(_params(branch, shape, training) for branch in layer.branches) + affine
        case layers.Reparam():
            return _conv_params(layer.merged, shape[2])
        case layers.BatchNorm():
            return 2 * shape[2]
        case layers.SqueezeExcite():
            return _squeeze_params(shape[2], layer.hidden)
        case layers.Linear():
            return (shape[0] + 1) * (layer.width or 0)
    return 0


def _conv_macs(conv: layers.Conv, channels: int, out: Shape) -> int:
    return prod(out) * prod(conv.kernel) * (channels // conv.groups)


def _macs(layer: Layer, shape: Shape, out: Shape) -> int:
    match layer:
        case layers.Conv():
            return _conv_macs(layer, shape[2], out)
        case layers.Reparam():
            return _conv_macs(layer.merged, shape[2], out)
        case layers.SqueezeExcite():
            return 2 * shape[2] * layer.hidden
        case layers.Linear():
            return shape[0] * (layer.width or 0)
    return 0


def _activations(layer: Layer, shape: Shape, out: Shape) -> int:
    match layer:
        case layers.Conv() | layers.Reparam():
            return prod(out)
        case layers.SqueezeExcite():
            return layer.hidden + shape[2]
    return 0


def _paddle_extra(layer: Layer, shape: Shape, out: Shape) -> int:
    """Return the operations that paddle.flops counts in addition to the MACs."""
    match layer:
        case layers.Conv():
            return prod(out) * (layer.bias + 2 * layer.norm)
        case layers.Reparam():
            return _paddle_extra(layer.merged, shape, out)
        case layers.BatchNorm():
            return 2 * prod(shape)
        case layers.SqueezeExcite():
            return prod(shape) + shape[2] + layer.hidden + shape[2]
        case layers.GlobalPool():
            return prod(shape) + prod(out)
        case layers.Pool(mode="avg"):
            return prod(out)
    return 0


_IN_PLACE = (
    layers.Act,
    layers.SqueezeExcite,
    layers.BatchNorm,
    layers.Dropout,
    layers.LocalResponseNorm,
)


def _peak(layer: Layer, shape: Shape, keep: bool = False) -> int:
    """Return the maximum number of values alive while the layer runs, with its input and output.

    Layers run one after another; a map is alive from the layer that writes it to the last one that reads
    it. ``keep``: the input is still needed afterwards. Activations, squeeze-and-excite and
    separate norms overwrite their input if nothing else needs it; additions overwrite a term. The
    parts of a split are one map, which is alive until the last branch has run.
    """
    size = prod(shape)
    match layer:
        case layers.Chain():
            peak = 0
            for i, inner in enumerate(layer.layers):
                held = size if keep and i else 0
                peak = max(peak, held + _peak(inner, shape, keep and not i))
                shape = inner.out_shape(shape)
            return peak
        case layers.Add() | layers.Concat() | layers.Split():
            return _peak_of_branches(layer, shape, keep)
        case layers.Identity() | layers.Flatten():
            return size
        case _ if isinstance(layer, _IN_PLACE) and not keep:
            return size
    return size + prod(layer.out_shape(shape))


def _peak_of_branches(
    layer: layers.Add | layers.Concat | layers.Split, shape: Shape, keep: bool
) -> int:
    size = prod(shape)
    cut = isinstance(layer, layers.Split)  # its branches read parts of the input
    parts = (
        layer.parts(shape) if isinstance(layer, layers.Split) else (shape,) * len(layer.branches)
    )
    work = [
        (b, p)
        for b, p in zip(layer.branches, parts, strict=True)
        if not isinstance(b, layers.Identity)
    ]
    passes = len(work) < len(layer.branches)  # the input itself goes into the join
    written = 0  # values written by the branches so far
    peak = size
    for i, (branch, part) in enumerate(work):
        needed = keep or passes or cut or i + 1 < len(work)
        peak = max(peak, written + size - prod(part) + _peak(branch, part, needed))
        written += prod(branch.out_shape(part))
    joined = written + (size if passes or keep else 0)
    if isinstance(layer, layers.Add):
        return max(peak, joined)
    return max(peak, joined + prod(layer.out_shape(shape)))


# -- placed blocks and networks --------------------------------------------------------------------


@functools.lru_cache(maxsize=1 << 16)
def of(placed: PlacedBlock) -> Cost:
    """Return the cost of one placed block."""
    steps = list(layers.visit(placed.layer, placed.in_shape))
    macs = sum(_macs(*step) for step in steps)
    return Cost(
        params=sum(_params(layer, shape, training=False) for layer, shape, _ in steps),
        macs=macs,
        activations=sum(_activations(*step) for step in steps),
        peak_memory=BYTES * _peak(placed.layer, placed.in_shape),
        paddle_flops=macs + sum(_paddle_extra(*step) for step in steps),
    )


def per_block(
    arch: Arch, resolution: Resolution | None = None, classes: int = 1000
) -> tuple[Cost, ...]:
    """Return the cost of each block, in the order of :func:`lcnas.arch.walk`."""
    return tuple(of(placed) for placed in walk(arch, resolution, classes))


def total(arch: Arch, resolution: Resolution | None = None, classes: int = 1000) -> Cost:
    """Return the cost of the network: sums over its blocks, and the maximum of the peak memory.

    Examples:
        >>> from lcnas import cost, zoo
        >>> total = cost.total(zoo.load("pplcnet_0.5x"))
        >>> total.macs, total.peak_memory
        (44731008, 1204224)
    """
    costs = per_block(arch, resolution, classes)
    return Cost(
        params=sum(c.params for c in costs),
        macs=sum(c.macs for c in costs),
        activations=sum(c.activations for c in costs),
        peak_memory=max(c.peak_memory for c in costs),
        paddle_flops=sum(c.paddle_flops for c in costs),
    )


def params(arch: Arch, classes: int = 1000, training: bool = False) -> int:
    """Return the number of trained values.

    Args:
        arch: the network.
        classes: outputs of the last layer.
        training: count re-parameterised branches instead of the convolutions that they merge to.

    Examples:
        >>> from lcnas import zoo
        >>> params(zoo.load("pplcnet_1.0x"))
        2952520
    """
    placed = walk(arch, None, classes)
    if not training:
        return sum(of(p).params for p in placed)
    return sum(
        _params(layer, shape, training=True)
        for p in placed
        for layer, shape, _ in layers.visit(p.layer, p.in_shape)
    )


def macs(arch: Arch, resolution: Resolution | None = None, classes: int = 1000) -> int:
    """Return the multiply-accumulates of convolutions and linear layers, batch 1.

    Args:
        arch: the network.
        resolution: pixels, a side or (height, width); None: the arch's own.
        classes: outputs of the last layer.

    Examples:
        >>> from lcnas import cost, zoo
        >>> cost.macs(zoo.load("pplcnet_0.5x")), cost.macs(zoo.load("pplcnet_0.5x"), resolution=128)
        (44731008, 15716352)
    """
    return total(arch, resolution, classes).macs


def activations(arch: Arch, resolution: Resolution | None = None, classes: int = 1000) -> int:
    """Return the number of values that convolutions write, batch 1."""
    return total(arch, resolution, classes).activations


def peak_memory(arch: Arch, resolution: Resolution | None = None, classes: int = 1000) -> int:
    """Return the maximum bytes of float32 feature maps that are alive at once, batch 1."""
    return total(arch, resolution, classes).peak_memory


def paddle_flops(arch: Arch, resolution: Resolution | None = None, classes: int = 1000) -> int:
    """Return the operations that ``paddle.flops`` counts: the "FLOPs" column of PP-LCNet's paper."""
    return total(arch, resolution, classes).paddle_flops


# -- arrays of codes -------------------------------------------------------------------------------


class CodedSpace(Protocol):
    """The part of a :class:`lcnas.spaces.Space` that the functions over codes use."""

    def placed_blocks(self, classes: int = 1000) -> Sequence[PlacedBlock]: ...

    def block_ids(self, codes: NDArray[np.integer]) -> NDArray[np.int32]: ...


Ints = NDArray[np.int64]


def _block_figures(space: CodedSpace, classes: int, figure: Callable[[Cost], int]) -> Ints:
    """Return a figure of each placed block of the space, and a 0 at the end for absent blocks (id -1)."""
    figures = [figure(of(placed)) for placed in space.placed_blocks(classes)]
    if max(figures, default=0) > np.iinfo(np.int64).max >> 8:
        raise LcnasError("a block of this space costs too much to be summed in 64 bits")
    return np.array([*figures, 0], dtype=np.int64)


def params_codes(space: CodedSpace, codes: NDArray[np.integer], classes: int = 1000) -> Ints:
    """Return the params of each network of an (n, genes) array of codes."""
    ids = space.block_ids(codes)
    out: Ints = _block_figures(space, classes, lambda c: c.params)[ids].sum(axis=1, dtype=np.int64)
    return out


def macs_codes(space: CodedSpace, codes: NDArray[np.integer], classes: int = 1000) -> Ints:
    """Return the MACs of each network of an (n, genes) array of codes, at its own resolution.

    Examples:
        >>> import numpy as np
        >>> from lcnas import cost, spaces
        >>> space = spaces.load("pplcnet_tail")
        >>> codes = space.sample_codes(1000, np.random.default_rng(0))
        >>> cost.macs_codes(space, codes).shape
        (1000,)
    """
    ids = space.block_ids(codes)
    out: Ints = _block_figures(space, classes, lambda c: c.macs)[ids].sum(axis=1, dtype=np.int64)
    return out


def activations_codes(space: CodedSpace, codes: NDArray[np.integer], classes: int = 1000) -> Ints:
    """Return the activation count of each network of an (n, genes) array of codes."""
    ids = space.block_ids(codes)
    out: Ints = _block_figures(space, classes, lambda c: c.activations)[ids].sum(
        axis=1, dtype=np.int64
    )
    return out


def peak_memory_codes(space: CodedSpace, codes: NDArray[np.integer], classes: int = 1000) -> Ints:
    """Return the peak memory in bytes of each network of an (n, genes) array of codes."""
    ids = space.block_ids(codes)
    out: Ints = _block_figures(space, classes, lambda c: c.peak_memory)[ids].max(axis=1)
    return out


def paddle_flops_codes(space: CodedSpace, codes: NDArray[np.integer], classes: int = 1000) -> Ints:
    """Return the operations that ``paddle.flops`` counts, of each network of an (n, genes) array of codes."""
    ids = space.block_ids(codes)
    out: Ints = _block_figures(space, classes, lambda c: c.paddle_flops)[ids].sum(
        axis=1, dtype=np.int64
    )
    return out
