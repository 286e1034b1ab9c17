"""Blocks run by a small interpreter that counts what it does, against what lcnas computes in advance.

The interpreter knows the primitive layers only from their docstrings: it makes the weights, slides the
windows and counts each multiply-add. Beside it, a second one that keeps a list of live feature maps.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lcnas import blocks, cost, layers
from lcnas.arch import place

SQUASH: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": np.tanh,  # the exact curve does not matter here
}


@dataclass
class Interpreter:
    """Runs layers on (height, width, channels) arrays and counts."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    macs: int = 0
    params: int = 0
    written: int = 0  # values that convolutions wrote

    def weight(self, *shape):
        array = self.rng.normal(size=shape)
        self.params += array.size
        return array

    def run(self, layer, x):
        return getattr(self, type(layer).__name__.lower())(layer, x)

    def conv(self, layer, x):
        share = x.shape[2] // layer.groups
        kernel = self.weight(*layer.kernel, share, layer.width)
        y = self.slide(x, kernel, layer.stride, layer.padding, layer.groups)
        if layer.bias:
            y = y + self.weight(layer.width)
        if layer.norm:
            y = self.batchnorm(None, y)
        y = SQUASH[layer.act](y)
        return y * self.weight(1) + self.weight(1) if layer.affine else y

    def slide(self, x, kernel, stride, padding, groups):
        top, bottom, left, right = padding
        x = np.pad(x, ((top, bottom), (left, right), (0, 0)))
        kh, kw, share, width = kernel.shape
        rows = range(0, x.shape[0] - kh + 1, stride[0])
        columns = range(0, x.shape[1] - kw + 1, stride[1])
        y = np.empty((len(rows), len(columns), width))
        for (i, r), (j, c), o in itertools.product(
            enumerate(rows), enumerate(columns), range(width)
        ):
            first = o // (width // groups) * share
            window = x[r : r + kh, c : c + kw, first : first + share]
            self.macs += window.size
            y[i, j, o] = np.sum(window * kernel[..., o])
        self.written += y.size
        return y

    def batchnorm(self, _, x):
        return x * self.weight(x.shape[2]) + self.weight(x.shape[2])

    def reparam(self, layer, x):
        return self.conv(layer.merged, x)

    def squeezeexcite(self, layer, x):
        mean = x.mean(axis=(0, 1))
        hidden = SQUASH[layer.act](self.dense(mean, layer.hidden))
        gate = SQUASH[layer.gate](self.dense(hidden, x.shape[2]))
        self.written += hidden.size + gate.size
        return x * gate

    def dense(self, x, width):
        weights = self.weight(x.size, width)
        self.macs += weights.size
        return x @ weights + self.weight(width)

    def linear(self, layer, x):
        assert x.ndim == 1
        return SQUASH[layer.act](self.dense(x, layer.width))

    def pool(self, layer, x):
        top, bottom, left, right = layer.padding
        kh, kw = layer.kernel
        sh, sw = layer.stride
        extra = (sh - 1, sw - 1) if layer.ceil else (0, 0)  # room for one window more
        h, w, _ = x.shape
        padded = ((top, bottom + extra[0]), (left, right + extra[1]), (0, 0))
        x = np.pad(x, padded, constant_values=np.nan)
        rows = [r for r in range(0, x.shape[0] - kh + 1, sh) if not layer.ceil or r < h + top]
        columns = [c for c in range(0, x.shape[1] - kw + 1, sw) if not layer.ceil or c < w + left]
        reduce: Any = np.nanmax if layer.mode == "max" else np.nanmean
        windows = [[reduce(x[r : r + kh, c : c + kw], axis=(0, 1)) for c in columns] for r in rows]
        return np.array(windows)

    def chain(self, layer, x):
        for inner in layer.layers:
            x = self.run(inner, x)
        return x

    def add(self, layer, x):
        return SQUASH[layer.act](sum(self.run(branch, x) for branch in layer.branches))

    def concat(self, layer, x):
        return np.concatenate([self.run(branch, x) for branch in layer.branches], axis=2)

    def split(self, layer, x):
        parts = np.split(x, np.cumsum(layer.sizes)[:-1], axis=2)
        return np.concatenate(
            [self.run(b, part) for b, part in zip(layer.branches, parts, strict=True)], axis=2
        )

    def channelshuffle(self, layer, x):
        h, w, c = x.shape
        return x.reshape(h, w, layer.groups, -1).swapaxes(2, 3).reshape(h, w, c)

    def localresponsenorm(self, layer, x):
        out = np.empty_like(x)
        for c in range(x.shape[2]):
            near = x[..., max(0, c - layer.size // 2) : c + layer.size // 2 + 1]
            energy = layer.bias + layer.alpha * (near**2).sum(axis=2) / layer.size
            out[..., c] = x[..., c] / energy**layer.beta
        return out

    def act(self, layer, x):
        return SQUASH[layer.act](x)

    def identity(self, _, x):
        return x

    def dropout(self, _, x):
        return x

    def globalpool(self, _, x):
        return x.mean(axis=(0, 1), keepdims=True)

    def flatten(self, _, x):
        return x.transpose(2, 0, 1).ravel()


B = blocks
CASES = [
    B.ConvNormAct(5),
    B.ConvNormAct(6, kernel=(3, 5), stride=(1, 2), groups=2, norm=False, affine=True),
    B.ConvNormAct(8, kernel=2, groups=0, branches=(2,), padding=(1, 0, 0, 1)),
    B.ConvStem(3, convs=2),
    B.Pool(3, ceil=True),
    B.Pool((3, 2), stride=(1, 3), mode="avg", ceil=True),
    B.LocalResponseNorm(),
    B.DepthwiseSeparable(4, kernel=5, stride=(2, 1), se=True),
    B.DepthwiseSeparable(8, shortcut=True, branches=(3, 1, 0)),
    B.SplitPointwise(6, se=True, ratio=0.5, kernel=(1, 3)),
    B.SplitPointwise(6, ratio=0.0),
    B.ExpandCompress(8, se=True, shortcut=True, expansion=1.5),
    B.InvertedResidual(4, expansion=1.25, se=True, se_divisor=1),
    B.InvertedResidual(8, expanded=8, always_expand=True, shortcut=True),
    B.MBConv(4, expansion=1.5, stride=2),
    B.MBConv(8, expansion=1, se_ratio=0, shortcut=True),
    B.MixConv(8, (3, 5, 7), expansion=1.5, expand_groups=2, project_groups=2, se_ratio=0.5),
    B.UniversalInvertedBottleneck(8, start_kernel=3, expansion=2, se=True, shortcut=True),
    B.UniversalInvertedBottleneck(4, kernel=0, start_kernel=5, stride=2, expansion=1),
    B.ShuffleV1Unit(16, groups=4, first_groups=1, stride=2),
    B.ShuffleV1Unit(8, groups=2, first_groups=2),
    B.ShuffleV2Unit(8),
    B.ShuffleV2Unit(12, stride=2, kernel=5),
    B.GhostModule(6),
    B.GhostBottleneck(8, 12, se=True),
    B.GhostBottleneck(6, 8, stride=2, kernel=5),
    B.BasicBlock(8),
    B.BasicBlock(4, stride=2),
    B.Inception(1, 2, 3, 1, 2, 2),
    B.HGStem(4, 6),
    B.HGBlock(8, 2, depth=3, light=True, shortcut=True),
    B.HGBlock(4, 3, depth=2, downsample=2, affine=False),
    B.Classifier(7, bias=True),
    B.Classifier(5, norm=True, pool_after=True),
    B.Classifier(0),
    B.DenseHead((4, 3), dropout=0.5, pool=False),
]


def test_every_block_of_the_vocabulary_is_run():
    ours = {name for name in blocks.types() if blocks.find(name).__module__.startswith("lcnas.")}
    assert {block.type for block in CASES} == ours


@pytest.mark.parametrize("block", CASES, ids=repr)
def test_shape_macs_params_and_activations_are_what_a_run_counts(block):
    shape = (5, 6, 8)
    placed = place(block, shape, 3)
    interpreter = Interpreter()
    y = interpreter.run(placed.layer, np.random.default_rng(1).normal(size=shape))
    assert y.shape == placed.out_shape
    assert np.isfinite(y).all()
    counted = cost.of(placed)
    assert counted.macs == interpreter.macs
    assert counted.params == interpreter.params
    assert counted.activations == interpreter.written


# -- re-parameterised convolutions -----------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        B.ConvNormAct(4, kernel=5, branches=(5, 3, 1, 0)),
        B.ConvNormAct(6, kernel=3, stride=2, branches=(3, 1), groups=2),
        B.ConvNormAct(4, kernel=5, stride=(1, 2), branches=(5, 3)),
        B.ConvNormAct(4, kernel=4, branches=(4, 2)),
        B.ConvNormAct(4, kernel=5, padding=(3, 2, 2, 4), branches=(5, 3, 1)),
        B.ConvNormAct(4, kernel=7, groups=0, branches=(7, 5, 3, 3, 0)),
    ],
    ids=repr,
)
def test_branches_merge_into_one_kernel(block):
    """Their sum is the convolution with the sum of their kernels, each put into the middle."""
    x = np.random.default_rng(0).normal(size=(8, 9, 4))
    layer: Any = place(block, x.shape).layer
    interpreter = Interpreter()
    merged = layer.merged
    share = x.shape[2] // merged.groups
    total, summed = np.zeros((*merged.kernel, share, merged.width)), np.zeros(1)
    for branch in layer.branches:
        if isinstance(branch, layers.BatchNorm):  # in the middle: each channel from itself
            small = np.zeros((1, 1, share, merged.width))
            for o in range(merged.width):
                small[0, 0, o % share, o] = 1
            summed = summed + x
        else:
            small = interpreter.weight(*branch.kernel, share, branch.width)
            summed = summed + interpreter.slide(
                x, small, branch.stride, branch.padding, branch.groups
            )
        top, left = ((k - s) // 2 for k, s in zip(merged.kernel, small.shape[:2], strict=True))
        total[top : top + small.shape[0], left : left + small.shape[1]] += small
    out = interpreter.slide(x, total, merged.stride, merged.padding, merged.groups)
    np.testing.assert_allclose(summed, out, atol=1e-12)


# -- peak memory -----------------------------------------------------------------------------------

IN_PLACE = (
    layers.Act,
    layers.SqueezeExcite,
    layers.BatchNorm,
    layers.Dropout,
    layers.LocalResponseNorm,
)


class Memory:
    """Feature maps and who reads them: first a list of steps, then who is alive at each."""

    def __init__(self, layer, shape):
        self.sizes = []
        self.steps = []  # (maps read, maps that may take the result, map written)
        start = self.new(shape)
        self.result = self.emit(layer, start, shape)

    def new(self, shape):
        self.sizes.append(int(np.prod(shape)))
        return len(self.sizes) - 1

    def step(self, reads, reusable, shape):
        written = self.new(shape)
        self.steps.append((reads, reusable, written))
        return written

    def emit(self, layer, x, shape, part=False):
        """Add the layer's steps and return the map with its result."""
        match layer:
            case layers.Chain():
                for i, inner in enumerate(layer.layers):
                    x = self.emit(inner, x, shape, part and i == 0)
                    shape = inner.out_shape(shape)
                return x
            case layers.Identity() | layers.Flatten():
                return x
            case layers.Add() | layers.Concat():
                results = [self.emit(branch, x, shape, part) for branch in layer.branches]
                terms = [m for m in results if m != x or not part]
                reusable = terms if isinstance(layer, layers.Add) else []
                return self.step(results, reusable, layer.out_shape(shape))
            case layers.Split():
                parts = layer.parts(shape)
                work = zip(layer.branches, parts, strict=True)
                results = [self.emit(branch, x, p, part=True) for branch, p in work]
                self.step([x], [], (0,))  # the parts lie in one map: it stays until all are done
                return self.step(results, [], layer.out_shape(shape))
        return self.step(
            [x], [x] if isinstance(layer, IN_PLACE) and not part else [], layer.out_shape(shape)
        )

    def peak(self):
        home = list(range(len(self.sizes)))  # the memory that a map lies in
        last: dict[int, int] = {}
        for i, (reads, _, _) in enumerate(self.steps):
            last |= dict.fromkeys(reads, i)
        last[self.result] = len(self.steps)
        alive, most = {0}, self.sizes[0]
        for i, (_, reusable, written) in enumerate(self.steps):
            free = [home[m] for m in reusable if last[m] == i]
            home[written] = free[0] if free else written
            alive.add(home[written])
            most = max(most, sum(self.sizes[m] for m in alive))
            needed = {home[m] for m in range(written + 1) if last.get(m, -1) > i}
            alive &= needed
        return most


def conv(width, stride=1):
    return layers.Conv(width, stride=(stride, stride))


IDENTITY, RELU = layers.Identity(), layers.Act("relu")
TREES = [
    conv(5),
    RELU,
    layers.Chain((conv(9), conv(2), RELU, conv(4))),
    layers.Add((IDENTITY, conv(4))),
    layers.Add((IDENTITY, layers.Chain((conv(20), RELU, conv(4))))),
    layers.Add((layers.Chain((RELU, conv(4))), IDENTITY)),
    layers.Add((conv(4), conv(4), conv(4))),
    layers.Add((conv(4), RELU)),
    layers.Chain((layers.Add((layers.Chain((conv(9), conv(6))), conv(6))), conv(1))),
    layers.Concat((IDENTITY, conv(7))),
    layers.Concat((conv(3), layers.Chain((conv(11), conv(2))))),
    layers.Concat((conv(3, 2), layers.Pool("max", (2, 2), (2, 2)))),
    layers.Split((1, 3), (IDENTITY, layers.Chain((conv(8), conv(3))))),
    layers.Split((2, 2), (conv(6), conv(1))),
    layers.Chain((layers.Split((2, 2), (RELU, RELU)), conv(3))),
    layers.Add((IDENTITY, layers.Concat((conv(1), layers.Add((IDENTITY, RELU)))))),
]


def _number(item):
    return str(TREES.index(item))


@pytest.mark.parametrize("tree", TREES[:-1], ids=_number)
def test_peak_memory_of_a_tree_is_that_of_its_live_maps(tree):
    assert cost._peak(tree, (4, 4, 4)) == Memory(tree, (4, 4, 4)).peak()


@pytest.mark.parametrize("block", CASES, ids=repr)
def test_peak_memory_of_a_block_is_that_of_its_live_maps(block):
    placed = place(block, (8, 8, 8), 3)
    assert cost.of(placed).peak_memory == 4 * Memory(placed.layer, (8, 8, 8)).peak()


def random_tree(rng, channels, depth):
    """A tree that keeps height and width, and the channels it ends with."""
    kind = rng.choice(["conv", "act", "chain", "add", "concat", "split"])
    if depth == 0 or kind in ("conv", "act"):
        width = int(rng.integers(1, 9))
        return (RELU, channels) if kind == "act" else (conv(width), width)
    if kind == "chain":
        results = []
        for _ in range(rng.integers(2, 4)):
            layer, channels = random_tree(rng, channels, depth - 1)
            results.append(layer)
        return layers.Chain(tuple(results)), channels
    if kind == "split" and channels > 1:
        size = int(rng.integers(1, channels))
        (a, out_a), (b, out_b) = (random_tree(rng, n, depth - 1) for n in (size, channels - size))
        if rng.random() < 0.3:
            a, out_a = IDENTITY, size
        return layers.Split((size, channels - size), (a, b)), out_a + out_b
    results = [random_tree(rng, channels, depth - 1) for _ in range(rng.integers(1, 3))]
    if kind == "concat":
        results += [(IDENTITY, channels)] if rng.random() < 0.5 or len(results) < 2 else []
        return layers.Concat(tuple(m for m, _ in results)), sum(n for _, n in results)
    branches: list[layers.Layer] = [layers.Chain((layer, conv(channels))) for layer, _ in results]
    branches += [IDENTITY] if rng.random() < 0.5 or len(results) < 2 else []
    return layers.Add(tuple(branches)), channels


def test_peak_memory_of_random_trees_is_that_of_their_live_maps():
    rng = np.random.default_rng(0)
    for _ in range(500):
        tree, _ = random_tree(rng, 4, 3)
        assert cost._peak(tree, (1, 1, 4)) == Memory(tree, (1, 1, 4)).peak(), tree
