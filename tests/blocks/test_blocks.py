"""The block vocabulary: what each block lowers to, counted by hand; spellings; what is refused."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from lcnas import blocks, cost, layers
from lcnas.arch import Arch, place
from lcnas.blocks import _base
from lcnas.errors import BlockError, ShapeError

B = blocks
OURS = tuple(name for name in B.types() if B.find(name).__module__.startswith("lcnas."))

# -- params and MACs by hand -----------------------------------------------------------------------


def conv(k, i, o, norm=2):
    """Params of a k-tap convolution from i to o channels with batch norm (norm=1: bias, 0: neither)."""
    return k * i * o + norm * o


def dw(k, c):
    """Params of a k-tap depthwise convolution with batch norm."""
    return k * c + 2 * c


def se(c, hidden):
    """Params of squeeze-and-excite: two 1x1 convolutions with bias."""
    return c * hidden + hidden + hidden * c + c


# (block, input, output, params, MACs); 10 classes.
COUNTED = [
    (B.ConvNormAct(16, 3, 2), (8, 8, 3), (4, 4, 16), conv(9, 3, 16), 16 * 27 * 16),
    (
        B.ConvNormAct(8, (5, 1), norm=False, affine=True),
        (6, 6, 4),
        (6, 6, 8),
        conv(5, 4, 8, norm=1) + 2,
        36 * 5 * 4 * 8,
    ),
    (B.ConvNormAct(8, groups=2), (4, 4, 6), (4, 4, 8), conv(9, 3, 8), 16 * 9 * 3 * 8),
    (B.ConvNormAct(6, groups=0), (4, 4, 6), (4, 4, 6), dw(9, 6), 16 * 9 * 6),
    (
        B.ConvNormAct(8, 2, padding=(0, 1, 0, 1)),
        (4, 4, 3),
        (4, 4, 8),
        conv(4, 3, 8),
        16 * 4 * 3 * 8,
    ),
    (
        B.ConvStem(8, convs=2),
        (16, 16, 3),
        (4, 4, 8),
        conv(9, 3, 8) + conv(9, 8, 8),
        64 * 27 * 8 + 16 * 72 * 8,
    ),
    (B.Pool(3), (8, 8, 5), (4, 4, 5), 0, 0),
    (B.Pool(3, ceil=True, padding=(0, 0, 0, 0)), (8, 8, 5), (4, 4, 5), 0, 0),
    (B.Pool(2, padding=(0, 0, 0, 0), mode="avg"), (8, 6, 5), (4, 3, 5), 0, 0),
    (B.LocalResponseNorm(), (8, 8, 5), (8, 8, 5), 0, 0),
    (
        B.DepthwiseSeparable(32, 5, 2, se=True),
        (8, 8, 16),
        (4, 4, 32),
        dw(25, 16) + se(16, 4) + conv(1, 16, 32),
        16 * 25 * 16 + 2 * 16 * 4 + 16 * 16 * 32,
    ),
    (
        B.DepthwiseSeparable(16, shortcut=True),
        (8, 8, 16),
        (8, 8, 16),
        dw(9, 16) + conv(1, 16, 16),
        64 * (9 * 16 + 16 * 16),
    ),
    (
        B.SplitPointwise(32, 5, 2, se=True),
        (8, 8, 16),
        (4, 4, 32),
        dw(25, 16) + se(16, 4) + conv(1, 16, 16) + conv(1, 16, 32),
        16 * 25 * 16 + 2 * 16 * 4 + 16 * 16 * 16 + 16 * 16 * 32,
    ),
    (
        B.SplitPointwise(32, ratio=0),
        (4, 4, 16),
        (4, 4, 32),
        dw(9, 16) + conv(1, 16, 32),
        16 * (9 * 16 + 16 * 32),
    ),
    (
        B.ExpandCompress(16, se=True, shortcut=True),
        (4, 4, 16),
        (4, 4, 16),
        dw(9, 16) + se(16, 4) + conv(1, 16, 32) + conv(1, 32, 16),
        16 * 9 * 16 + 2 * 16 * 4 + 16 * 16 * 32 * 2,
    ),
    (
        B.InvertedResidual(24, 3, 2),
        (8, 8, 16),
        (4, 4, 24),
        conv(1, 16, 96) + dw(9, 96) + conv(1, 96, 24),
        64 * 16 * 96 + 16 * (9 * 96 + 96 * 24),
    ),
    # MobileNetV3-large's fourth block, 72 wide, SE 72 / 4 = 18 -> 24 (never below 90 % of it)
    (
        B.InvertedResidual(40, 5, 2, act="relu", expanded=72, se=True),
        (8, 8, 24),
        (4, 4, 40),
        conv(1, 24, 72) + dw(25, 72) + se(72, 24) + conv(1, 72, 40),
        64 * 24 * 72 + 16 * 25 * 72 + 2 * 72 * 24 + 16 * 72 * 40,
    ),
    (
        B.InvertedResidual(16, expansion=1, shortcut=True),
        (4, 4, 16),
        (4, 4, 16),
        dw(9, 16) + conv(1, 16, 16),
        16 * (9 * 16 + 16 * 16),
    ),
    (
        B.InvertedResidual(16, expansion=1, always_expand=True),
        (4, 4, 16),
        (4, 4, 16),
        conv(1, 16, 16) + dw(9, 16) + conv(1, 16, 16),
        16 * (16 * 16 + 9 * 16 + 16 * 16),
    ),
    # 3 x 20 = 60 -> 64
    (
        B.InvertedResidual(20, expansion=3, divisor=8),
        (4, 4, 20),
        (4, 4, 20),
        conv(1, 20, 64) + dw(9, 64) + conv(1, 64, 20),
        16 * (20 * 64 + 9 * 64 + 64 * 20),
    ),
    # EfficientNet: SE is a quarter of the 16 channels that come in, not of the 96 inside
    (
        B.MBConv(24, 3, 2),
        (8, 8, 16),
        (4, 4, 24),
        conv(1, 16, 96) + dw(9, 96) + se(96, 4) + conv(1, 96, 24),
        64 * 16 * 96 + 16 * 9 * 96 + 2 * 96 * 4 + 16 * 96 * 24,
    ),
    (
        B.MBConv(16, expansion=1, se_ratio=0, shortcut=True),
        (4, 4, 16),
        (4, 4, 16),
        dw(9, 16) + conv(1, 16, 16),
        16 * (9 * 16 + 16 * 16),
    ),
    # 48 channels in three parts of 16; the last 1x1 in two halves
    (
        B.MixConv(24, (3, 5, 7), 2, expansion=3, project_groups=2, se_ratio=0.5),
        (8, 8, 16),
        (4, 4, 24),
        conv(1, 16, 48) + dw(9, 16) + dw(25, 16) + dw(49, 16) + se(48, 8) + 2 * conv(1, 24, 12),
        64 * 16 * 48 + 16 * 16 * (9 + 25 + 49) + 2 * 48 * 8 + 16 * 2 * 24 * 12,
    ),
    # 10 channels in three parts: 4, 3, 3
    (
        B.MixConv(8, (3, 5, 7), expansion=1),
        (4, 4, 10),
        (4, 4, 8),
        dw(9, 4) + dw(25, 3) + dw(49, 3) + conv(1, 10, 8),
        16 * (9 * 4 + 25 * 3 + 49 * 3 + 10 * 8),
    ),
    # ExtraDW: the stride lies in the inner convolution
    (
        B.UniversalInvertedBottleneck(24, 3, 5, 2),
        (8, 8, 16),
        (4, 4, 24),
        dw(25, 16) + conv(1, 16, 64) + dw(9, 64) + conv(1, 64, 24),
        64 * (25 * 16 + 16 * 64) + 16 * (9 * 64 + 64 * 24),
    ),
    # ConvNext-like: it lies in the outer one
    (
        B.UniversalInvertedBottleneck(24, 0, 3, 2),
        (8, 8, 16),
        (4, 4, 24),
        dw(9, 16) + conv(1, 16, 64) + conv(1, 64, 24),
        16 * (9 * 16 + 16 * 64 + 64 * 24),
    ),
    # FFN
    (
        B.UniversalInvertedBottleneck(16, 0, expansion=2, shortcut=True),
        (4, 4, 16),
        (4, 4, 16),
        conv(1, 16, 32) + conv(1, 32, 16),
        16 * 2 * 16 * 32,
    ),
    (
        B.UniversalInvertedBottleneck(16, expansion=2, se=True),
        (4, 4, 16),
        (4, 4, 16),
        conv(1, 16, 32) + dw(9, 32) + se(32, 8) + conv(1, 32, 16),
        16 * (16 * 32 + 9 * 32 + 32 * 16) + 2 * 32 * 8,
    ),
    # 24 -> 240 at stride 2: 216 computed, 24 pooled; bottleneck 60
    (
        B.ShuffleV1Unit(240, first_groups=1, stride=2),
        (8, 8, 24),
        (4, 4, 240),
        conv(1, 24, 60) + dw(9, 60) + conv(1, 20, 216),
        64 * 24 * 60 + 16 * (9 * 60 + 20 * 216),
    ),
    (
        B.ShuffleV1Unit(240),
        (4, 4, 240),
        (4, 4, 240),
        conv(1, 80, 60) + dw(9, 60) + conv(1, 20, 240),
        16 * (80 * 60 + 9 * 60 + 20 * 240),
    ),
    (
        B.ShuffleV2Unit(48),
        (4, 4, 48),
        (4, 4, 48),
        2 * conv(1, 24, 24) + dw(9, 24),
        16 * (2 * 24 * 24 + 9 * 24),
    ),
    (
        B.ShuffleV2Unit(48, stride=2),
        (8, 8, 24),
        (4, 4, 48),
        dw(9, 24) + conv(1, 24, 24) + conv(1, 24, 24) + dw(9, 24) + conv(1, 24, 24),
        16 * (9 * 24 + 24 * 24) + 64 * 24 * 24 + 16 * (9 * 24 + 24 * 24),
    ),
    (
        B.GhostModule(32),
        (4, 4, 8),
        (4, 4, 32),
        conv(1, 8, 16) + dw(9, 16),
        16 * (8 * 16 + 9 * 16),
    ),
    # SE 72 / 4 = 18 -> 20 in multiples of 4
    (
        B.GhostBottleneck(40, 72, 5, 2, se=True),
        (8, 8, 24),
        (4, 4, 40),
        (conv(1, 24, 36) + dw(9, 36))
        + dw(25, 72)
        + se(72, 20)
        + (conv(1, 72, 20) + dw(9, 20))
        + (dw(25, 24) + conv(1, 24, 40)),
        64 * (24 * 36 + 9 * 36)
        + 16 * 25 * 72
        + 2 * 72 * 20
        + 16 * (72 * 20 + 9 * 20)
        + 16 * (25 * 24 + 24 * 40),
    ),
    (
        B.GhostBottleneck(16, 48),
        (4, 4, 16),
        (4, 4, 16),
        conv(1, 16, 24) + dw(9, 24) + conv(1, 48, 8) + dw(9, 8),
        16 * (16 * 24 + 9 * 24 + 48 * 8 + 9 * 8),
    ),
    (
        B.BasicBlock(64),
        (4, 4, 64),
        (4, 4, 64),
        2 * conv(9, 64, 64),
        16 * 2 * 9 * 64 * 64,
    ),
    (
        B.BasicBlock(128, stride=2),
        (8, 8, 64),
        (4, 4, 128),
        conv(9, 64, 128) + conv(9, 128, 128) + conv(1, 64, 128),
        16 * (9 * 64 * 128 + 9 * 128 * 128 + 64 * 128),
    ),
    # GoogLeNet's inception 3a: 163,328 weights and 368 biases
    (
        B.Inception(64, 96, 128, 16, 32, 32),
        (28, 28, 192),
        (28, 28, 256),
        163_328 + 368,
        784 * 163_328,
    ),
    (
        B.HGStem(16, 8),
        (16, 16, 3),
        (4, 4, 16),
        conv(9, 3, 8) + conv(4, 8, 4) + conv(4, 4, 8) + conv(9, 16, 8) + conv(1, 8, 16) + 5 * 2,
        64 * (27 * 8 + 4 * 8 * 4 + 4 * 4 * 8) + 16 * (9 * 16 * 8 + 8 * 16),
    ),
    # two layers of 8 behind 16 channels: 16 + 8 + 8 are joined
    (
        B.HGBlock(24, 8, depth=2),
        (4, 4, 16),
        (4, 4, 24),
        conv(9, 16, 8) + conv(9, 8, 8) + conv(1, 32, 12) + conv(1, 12, 24) + 4 * 2,
        16 * (9 * 16 * 8 + 9 * 8 * 8 + 32 * 12 + 12 * 24),
    ),
    (
        B.HGBlock(16, 8, depth=1, kernel=5, light=True, downsample=2, affine=False, shortcut=True),
        (8, 8, 16),
        (4, 4, 16),
        dw(9, 16) + conv(1, 16, 8) + dw(25, 8) + conv(1, 24, 8) + conv(1, 8, 16),
        16 * (9 * 16 + 16 * 8 + 25 * 8 + 24 * 8 + 8 * 16),
    ),
    (
        B.Classifier(),
        (7, 7, 32),
        (10,),
        conv(1, 32, 1280, norm=0) + 1280 * 10 + 10,
        32 * 1280 + 1280 * 10,
    ),
    (
        B.Classifier(96, norm=True, pool_after=True),
        (7, 7, 32),
        (10,),
        conv(1, 32, 96) + 96 * 10 + 10,
        49 * 32 * 96 + 96 * 10,
    ),
    (
        B.Classifier(96, bias=True, affine=True),
        (7, 7, 32),
        (10,),
        conv(1, 32, 96, norm=1) + 2 + 970,
        32 * 96 + 960,
    ),
    (B.Classifier(0), (7, 7, 32), (10,), 330, 320),
    (B.DenseHead(), (7, 7, 32), (10,), 330, 320),
    (
        B.DenseHead((64, 16), pool=False),
        (3, 2, 32),
        (10,),
        192 * 64 + 64 + 64 * 16 + 16 + 16 * 10 + 10,
        192 * 64 + 64 * 16 + 16 * 10,
    ),
]


@pytest.mark.parametrize(
    ("block", "shape", "out", "params", "macs"), COUNTED, ids=lambda v: getattr(v, "type", None)
)
def test_output_params_and_macs_are_those_counted_by_hand(block, shape, out, params, macs):
    placed = place(block, shape, 10)
    assert placed.out_shape == out
    assert (cost.of(placed).params, cost.of(placed).macs) == (params, macs)


def test_every_block_is_counted():
    assert {block.type for block, *_ in COUNTED} == set(OURS)


def kinds(block, shape):
    layer = place(block, shape, 10).layer
    return [leaf.kind for leaf, _, _ in layers.visit(layer, shape)]


def test_the_order_of_layers():
    assert kinds(B.DepthwiseSeparable(16, se=True, shortcut=True), (4, 4, 16)) == [
        "identity",
        "convolution",
        "squeeze-and-excite",
        "convolution",
        "add",
    ]
    full = ["global pooling", "convolution", "flatten", "dropout", "linear"]
    assert kinds(B.Classifier(), (4, 4, 16)) == full
    assert kinds(B.Classifier(0), (4, 4, 16)) == ["global pooling", "flatten", "linear"]
    after = ["convolution", "global pooling", "flatten", "linear"]
    assert kinds(B.Classifier(pool_after=True, dropout=0), (4, 4, 16)) == after
    assert kinds(B.DenseHead((8,), dropout=0.5), (4, 4, 16)) == [
        "global pooling",
        "flatten",
        "linear",
        "dropout",
        "linear",
    ]


def leaves(block, shape):
    return [leaf for leaf, _, _ in layers.visit(place(block, shape).layer, shape)]


def test_channels_are_joined_and_shuffled():
    *_, split, shuffle = leaves(B.ShuffleV2Unit(8), (4, 4, 8))
    assert split.branches[0] == layers.Identity()
    assert shuffle == layers.ChannelShuffle(2)
    assert leaves(B.ShuffleV2Unit(8, stride=2), (4, 4, 8))[-1] == layers.ChannelShuffle(2)
    _, first, shuffle, *_, add = leaves(B.ShuffleV1Unit(12, first_groups=1), (4, 4, 12))
    assert (first.groups, shuffle, add.act) == (1, layers.ChannelShuffle(3), "relu")
    pool, *_, act = leaves(B.ShuffleV1Unit(24, stride=2), (4, 4, 12))
    assert (pool.mode, act) == ("avg", layers.Act("relu"))
    *_, concat = leaves(B.GhostModule(8), (4, 4, 8))  # the pointwise half comes first
    assert concat.branches[0] == layers.Identity()


def test_resnet_activates_behind_the_sum_and_no_other_shortcut_does():
    assert leaves(B.BasicBlock(8), (4, 4, 8))[-1].act == "relu"
    assert leaves(B.BasicBlock(8, stride=2), (4, 4, 8))[-1].act == "relu"
    for cls in (B.DepthwiseSeparable, B.ExpandCompress, B.InvertedResidual, B.MBConv):
        assert leaves(cls(8, shortcut=True), (4, 4, 8))[-1].act == "identity"


def acts(block, shape):
    layer = place(block, shape).layer
    return [leaf.act for leaf, _, _ in layers.visit(layer, shape) if isinstance(leaf, layers.Conv)]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (B.DepthwiseSeparable(8), ["hard_swish", "hard_swish"]),
        (B.SplitPointwise(8), ["relu", "relu", "relu"]),
        (B.ExpandCompress(8), ["identity", "gelu", "identity"]),
        (B.InvertedResidual(8), ["relu6", "relu6", "identity"]),
        (B.MBConv(8), ["silu", "silu", "identity"]),
        (B.UniversalInvertedBottleneck(8, 3, 3), ["identity", "relu", "relu", "identity"]),
        (B.BasicBlock(8), ["relu", "identity"]),
        (B.ShuffleV2Unit(8), ["relu", "identity", "relu"]),
        (B.GhostBottleneck(8, 8), ["relu", "relu", "identity", "identity"]),
        (B.Classifier(), ["hard_swish"]),
    ],
    ids=lambda v: getattr(v, "type", None),
)
def test_which_convolutions_have_an_activation(block, expected):
    assert acts(block, (4, 4, 8)) == expected


@pytest.mark.parametrize(
    ("block", "gate"),
    [
        (B.DepthwiseSeparable(8, se=True), "hard_sigmoid"),
        (B.SplitPointwise(8, se=True), "sigmoid"),
        (B.SplitPointwise(8, se=True, gate="hard_sigmoid"), "hard_sigmoid"),
        (B.InvertedResidual(8, se=True), "hard_sigmoid"),
        (B.MBConv(8), "sigmoid"),
    ],
    ids=repr,
)
def test_the_gate_of_squeeze_and_excite(block, gate):
    layer = block.lower((4, 4, 8))
    gates = [leaf.gate for leaf, _, _ in layers.visit(layer, (4, 4, 8)) if hasattr(leaf, "gate")]
    assert gates == [gate]


@pytest.mark.parametrize(
    ("value", "rounded"),
    # 0.35 x 32 = 11.2 -> 8 is below 90 % of it -> 16; 0.35 x 256 = 89.6 -> 88
    [(1, 8), (8, 8), (11.2, 16), (12, 16), (18, 24), (19.9, 24), (89.6, 88), (22.4, 24)],
)
def test_rounding_to_eights(value, rounded):
    assert B.make_divisible(value) == rounded


# -- one spelling ----------------------------------------------------------------------------------

SAME = [
    (B.ConvNormAct(8, stride=(2, 2)), B.ConvNormAct(8, stride=2)),
    (B.ConvNormAct(8, kernel=(3, 3)), B.ConvNormAct(8)),
    (B.ConvNormAct(8, kernel=(5, 3), padding=(2, 2, 1, 1)), B.ConvNormAct(8, kernel=(5, 3))),
    (B.Pool(2, padding=(1, 0, 1, 0)), B.Pool(2)),
    (
        B.DepthwiseSeparable(8, branches=(3, 1), act="hard_swish"),
        B.DepthwiseSeparable(8, branches=(3, 1)),
    ),
    (B.SplitPointwise(8, gate="hard_sigmoid"), B.SplitPointwise(8)),
    (B.SplitPointwise(8, ratio=-0.0), B.SplitPointwise(8, ratio=0)),
    (B.InvertedResidual(8, expansion=6), B.InvertedResidual(8)),
    (B.InvertedResidual(8, se_divisor=4, gate="sigmoid"), B.InvertedResidual(8)),
    (
        B.InvertedResidual(8, expanded=24, expansion=3, divisor=8),
        B.InvertedResidual(8, expanded=24),
    ),
    (B.InvertedResidual(8, always_expand=True), B.InvertedResidual(8)),
    (
        B.MixConv(8, expansion=1, expand_groups=2),
        B.MixConv(8, expansion=1),
    ),
    (
        B.Classifier(0, "relu", bias=True, norm=True, dropout=0.5, pool_after=True, affine=True),
        B.Classifier(0),
    ),
    (B.DenseHead(act="gelu"), B.DenseHead()),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_one_network_has_one_spelling(a, b):
    assert a == b
    assert hash(a) == hash(b)
    assert json.dumps(B.to_data(a)) == json.dumps(B.to_data(b))
    assert Arch.of({"all": [a]}).id == Arch.of({"all": [b]}).id


DIFFERENT = [
    (B.ConvNormAct(8, stride=(2, 1)), B.ConvNormAct(8, stride=(1, 2))),
    (B.ConvNormAct(8, padding=(0, 0, 0, 0)), B.ConvNormAct(8)),
    (B.ConvNormAct(8, branches=(3, 1)), B.ConvNormAct(8)),
    (B.InvertedResidual(8, expansion=1, always_expand=True), B.InvertedResidual(8, expansion=1)),
    (B.InvertedResidual(8, expanded=8, always_expand=True), B.InvertedResidual(8, expanded=8)),
    (B.InvertedResidual(8, se=True, se_divisor=4), B.InvertedResidual(8, se=True)),
    (B.MixConv(8, (3,), expand_groups=2), B.MixConv(8, (3,))),
    (B.DenseHead((8,), act="gelu"), B.DenseHead((8,))),
    (B.Classifier(8, dropout=0), B.Classifier(8)),
    (B.GhostModule(8), B.ShuffleV2Unit(8)),  # equal fields, other type
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_networks_have_different_spellings(a, b):
    assert a != b
    assert Arch.of({"all": [a]}).id != Arch.of({"all": [b]}).id


def test_repr_names_what_is_not_at_its_default():
    block = B.DepthwiseSeparable(32, stride=(2, 1), se=True)
    assert repr(block) == "depthwise_separable(width=32, stride=(2, 1), se=True)"


# A value other than the default for every field, by annotation, and ones for blocks with rules.
OTHER = {
    "Width": 12,
    "Count": 6,
    "Stride": (2, 1),
    "Kernel": (5, 7),
    "OptionalKernel": 5,
    "Kernels": (3, 1, 0),
    "Widths": (5, 7),
    "Sides": (1, 2, 0, 1),
    "Activation": "sigmoid",
    "Ratio": 1.25,
    "Share": 0.125,
    "bool": None,  # the other one
}
SPECIAL = {"gate": ("sigmoid", "hard_sigmoid"), "mode": ("max", "avg")}


def other_value(field):
    if field.name in SPECIAL:
        return next(v for v in SPECIAL[field.name] if v != field.default)
    if field.type == "bool":
        return not field.default
    if "Between" in field.type:
        return 0.75 if field.default != 0.75 else 0.5
    return OTHER[field.type]


def full(name):
    """The block with every field off its default, as far as its rules allow."""
    cls = B.find(name)
    fields = {f.name: other_value(f) for f in dataclasses.fields(cls)}
    if name == "conv":
        fields["norm"] = True
    return cls(**fields)


@pytest.mark.parametrize("name", OURS)
def test_round_trip_of_every_field(name):
    block = full(name)
    data = json.loads(json.dumps(B.to_data(block)))
    assert data["type"] == name
    assert B.from_data(data) == block
    # All fields are in the data but those that have no effect here.
    without_effect = {"inverted_residual": {"expansion", "divisor"}, "conv": {"norm"}}
    assert set(B.field_names(type(block))) - set(data) == without_effect.get(name, set())


@pytest.mark.parametrize("name", OURS)
def test_defaults_are_left_out_of_the_data(name):
    cls = B.find(name)
    needed = {
        f.name: other_value(f) for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING
    }
    assert B.to_data(cls(**needed)).keys() == {"type", *needed}


# -- what is refused -------------------------------------------------------------------------------

HUGE = 10**400
WRONG = [
    (B.ConvNormAct, dict(width=0), ("conv.width", "0", "1 to 1048576")),
    (B.ConvNormAct, dict(width=8.0), ("conv.width", "8.0", "whole number")),
    (B.ConvNormAct, dict(width=True), ("conv.width", "True", "whole number")),
    (B.ConvNormAct, dict(width="8"), ("conv.width", "'8'", "whole number")),
    (B.ConvNormAct, dict(width=None), ("conv.width", "None", "whole number")),
    (B.ConvNormAct, dict(width=HUGE), ("conv.width", "1000", "1 to 1048576")),
    (B.ConvNormAct, dict(width=8, groups=-1), ("conv.groups", "-1", "0 to 1048576")),
    (B.ConvNormAct, dict(width=8, stride=0), ("conv.stride", "0", "1 to")),
    (B.ConvNormAct, dict(width=8, stride=(2, 0)), ("conv.stride", "0", "1 to")),
    (B.ConvNormAct, dict(width=8, stride=(1, 2, 3)), ("conv.stride", "(1, 2, 3)", "pair")),
    (B.ConvNormAct, dict(width=8, kernel=[]), ("conv.kernel", "[]", "pair")),
    (B.ConvNormAct, dict(width=8, act="relu7"), ("conv.act", "'relu7'", "relu6", "did you mean")),
    (B.ConvNormAct, dict(width=8, act=3), ("conv.act", "3", "relu6")),
    (B.ConvNormAct, dict(width=8, act="a\nb" * 99), ("conv.act", "a\\nb", "relu6")),
    (B.ConvNormAct, dict(width=8, norm=1), ("conv.norm", "1", "true nor false")),
    (B.ConvNormAct, dict(width=8, padding=(1, 1)), ("conv.padding", "(1, 1)", "4")),
    (B.ConvNormAct, dict(width=8, padding=1), ("conv.padding", "1", "list of whole numbers")),
    (B.ConvNormAct, dict(width=8, padding=(0, 0, -1, 0)), ("conv.padding", "-1", "0 to")),
    (B.ConvNormAct, dict(width=8, branches=3), ("conv.branches", "3", "list")),
    (B.ConvNormAct, dict(width=8, branches=(3,), norm=False), ("conv.branches", "norm = true")),
    (B.ConvStem, dict(width=8, convs=17), ("conv_stem.convs", "17", "1 to 16")),
    (B.Pool, dict(kernel=3, mode="mean"), ("pool.mode", "'mean'", "max, avg")),
    (B.Pool, dict(kernel=3, mode="avgs"), ("pool.mode", "'avgs'", "did you mean 'avg'")),
    (B.LocalResponseNorm, dict(alpha=-1), ("local_response_norm.alpha", "-1", "0.0 to 1024.0")),
    (B.MBConv, dict(width=8, expansion=0), ("mbconv.expansion", "0", "to 1024")),
    (B.MBConv, dict(width=8, expansion=math.nan), ("mbconv.expansion", "nan", "to 1024")),
    (B.MBConv, dict(width=8, expansion=math.inf), ("mbconv.expansion", "inf", "to 1024")),
    (B.MBConv, dict(width=8, expansion=HUGE), ("mbconv.expansion", "1000", "to 1024")),
    (B.MBConv, dict(width=8, expansion="6"), ("mbconv.expansion", "'6'", "number")),
    (B.MBConv, dict(width=8, se_ratio=1.5), ("mbconv.se_ratio", "1.5", "0.0 to 1.0")),
    (B.MixConv, dict(width=8, kernels=()), ("mixconv.kernels", "[]", "at least one")),
    (B.MixConv, dict(width=8, kernels=(0,)), ("mixconv.kernels", "0", "1 to")),
    (
        B.InvertedResidual,
        dict(width=8, gate="hard_swish"),
        ("inverted_residual.gate", "'hard_swish'", "hard_sigmoid, sigmoid"),
    ),
    (
        B.UniversalInvertedBottleneck,
        dict(width=8, kernel=0, stride=2),
        ("universal_inverted_bottleneck.stride", "2", "depthwise"),
    ),
    (
        B.UniversalInvertedBottleneck,
        dict(width=8, kernel=0, branches=(1,)),
        ("universal_inverted_bottleneck.branches", "no inner"),
    ),
    (
        B.UniversalInvertedBottleneck,
        dict(width=8, start_branches=(1,)),
        ("universal_inverted_bottleneck.start_branches", "no outer"),
    ),
    (B.ShuffleV1Unit, dict(width=3), ("shufflenet_v1_unit.width", "3", "at least 4")),
    (B.ShuffleV2Unit, dict(width=7), ("shufflenet_v2_unit.width", "7", "even")),
    (B.GhostModule, dict(width=7), ("ghost_module.width", "7", "even")),
    (B.GhostBottleneck, dict(width=8, expanded=7), ("ghost_bottleneck.expanded", "7", "even")),
    (B.HGStem, dict(width=8, middle=1), ("hg_stem.middle", "1", "at least 2")),
    (B.HGBlock, dict(width=8, middle=8, depth=99), ("hg_block.depth", "99", "1 to 32")),
    (B.Classifier, dict(dropout=1.0), ("classifier.dropout", "1.0", "0.0 to 0.99")),
    (B.DenseHead, dict(widths=(8, 0)), ("dense_head.widths", "0", "1 to")),
]


@pytest.mark.parametrize(("cls", "fields", "words"), WRONG)
def test_a_wrong_field_is_reported_in_one_line(cls, fields, words):
    with pytest.raises(BlockError) as caught:
        cls(**fields)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    for word in words:
        assert word in message
    with pytest.raises(BlockError):  # JSON goes the same way
        B.from_data({"type": cls.type, **fields})


BAD: tuple[object, ...] = (None, "nonsense", -5, {}, [[]], math.nan)


@pytest.mark.parametrize("name", OURS)
def test_every_field_is_checked(name):
    cls = B.find(name)
    good = B.to_data(full(name))
    for field in B.field_names(cls):
        for bad in BAD:
            with pytest.raises(BlockError, match=rf"^{name}\.{field}: "):
                B.from_data({**good, field: bad})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"type": "conv", "width": 8, "kernal": 3}, ("conv", "'kernal'", "did you mean 'kernel'")),
        ({"type": "conv"}, ("conv", "missing width", "kernel")),
        ({"type": "inception", "ones": 1}, ("inception", "missing reduce3, threes", "pooled")),
        ({"type": "depthwise_seperable"}, ("did you mean 'depthwise_separable'",)),
        ({"type": ["conv"]}, ("block type", "['conv']")),
        ({"width": 8}, ("needs a type", "conv")),
        ([], ("table", "[]")),
        (None, ("table", "None")),
    ],
)
def test_wrong_block_data_is_reported_in_one_line(data, words):
    with pytest.raises(BlockError) as caught:
        B.from_data(data)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("block", "shape", "words"),
    [
        (B.DepthwiseSeparable(8, shortcut=True), (4, 4, 6), ("shortcut", "4x4x6", "4x4x8")),
        (B.MBConv(8, stride=2, shortcut=True), (4, 4, 8), ("shortcut", "4x4x8", "2x2x8")),
        (B.ConvNormAct(8, groups=3), (4, 4, 9), ("9 channels", "8 out", "3 groups")),
        (B.ShuffleV1Unit(8, stride=2), (4, 4, 8), ("width 8", "8 channels")),
        (B.MixConv(8, (3,) * 9, expansion=1), (4, 4, 8), ("8 channels", "9 parts")),
        (B.MixConv(8, project_groups=99, expansion=1), (4, 4, 8), ("8 channels", "99 parts")),
        (B.ConvNormAct(8, 3, branches=(5,)), (4, 4, 8), ("5x5 branch", "3x3 convolution")),
        (B.ConvNormAct(8, 3, branches=(2,)), (4, 4, 8), ("2x2 branch", "3x3 convolution")),
        (B.ConvNormAct(8, (1, 5), branches=(3,)), (4, 4, 8), ("3x3 branch", "1x5 convolution")),
        (B.ConvNormAct(8, 5, branches=(3, 0)), (4, 4, 8), ("branches [3, 0]", "5x5")),
        (
            B.ConvNormAct(8, 3, padding=(0, 0, 0, 0), branches=(1,)),
            (4, 4, 8),
            ("1x1 branch", "padding", "(0, 0, 0, 0)"),
        ),
        (B.Pool(3, padding=(3, 0, 0, 0)), (4, 4, 8), ("padding 3", "kernel 3")),
    ],
    ids=lambda v: getattr(v, "type", None),
)
def test_what_a_block_cannot_take_is_reported_in_one_line(block, shape, words):
    with pytest.raises(ShapeError) as caught:
        place(block, shape)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", OURS)
def test_no_block_takes_a_flat_input(name):
    cls = B.find(name)
    needed = {f.name: 8 for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
    with pytest.raises(ShapeError, match=rf"^{name} needs a .* got 100$"):
        place(cls(**needed), (100,))


# -- branches in training --------------------------------------------------------------------------


def training_params(block, shape):
    arch = Arch.of({"first": [B.ConvNormAct(shape[2], 1), block]}, resolution=shape[:2])
    both = cost.params(arch, training=True), cost.params(arch)
    first = conv(1, 3, shape[2])
    return tuple(count - first for count in both)


@pytest.mark.parametrize(
    ("block", "trained", "merged"),
    [
        (
            B.ConvNormAct(8, branches=(3, 1, 0)),
            conv(9, 8, 8) + conv(1, 8, 8) + 2 * 8,
            conv(9, 8, 8),
        ),
        (B.ConvNormAct(8, stride=2, branches=(3, 1, 0)), conv(9, 8, 8) + conv(1, 8, 8), 592),
        (B.ConvNormAct(16, branches=(3, 0)), conv(9, 8, 16), conv(9, 8, 16)),
        (B.ConvNormAct(8, branches=(3, 3), affine=True), 2 * conv(9, 8, 8) + 2, conv(9, 8, 8) + 2),
        (
            B.DepthwiseSeparable(16, 5, branches=(5, 3, 1, 0)),
            dw(25, 8) + dw(9, 8) + dw(1, 8) + 2 * 8 + conv(1, 8, 16),
            dw(25, 8) + conv(1, 8, 16),
        ),
        (
            B.SplitPointwise(16, branches=(3, 1), stride=2),
            dw(9, 8) + dw(1, 8) + conv(1, 8, 8) + conv(1, 8, 16),
            dw(9, 8) + conv(1, 8, 8) + conv(1, 8, 16),
        ),
        (
            B.UniversalInvertedBottleneck(8, 3, 5, branches=(3, 0), start_branches=(5, 1)),
            dw(25, 8) + dw(1, 8) + conv(1, 8, 32) + dw(9, 32) + 2 * 32 + conv(1, 32, 8),
            dw(25, 8) + conv(1, 8, 32) + dw(9, 32) + conv(1, 32, 8),
        ),
    ],
    ids=repr,
)
def test_branches_count_in_training_only(block, trained, merged):
    assert training_params(block, (4, 4, 8)) == (trained, merged)


def test_what_is_merged_is_one_convolution_with_batch_norm_and_the_activation():
    layer: Any = B.ConvNormAct(8, 5, 2, branches=(5, 3, 1)).lower((8, 8, 4))
    assert layer.merged == layers.Conv(8, (5, 5), (2, 2), (2, 2, 2, 2), norm=True, act="relu")
    assert [b.kernel[0] for b in layer.branches] == [5, 3, 1]
    assert [b.padding for b in layer.branches] == [(2,) * 4, (1,) * 4, (0,) * 4]
    for branch in layer.branches:
        assert branch.stride == (2, 2)
        assert (branch.norm, branch.bias, branch.act) == (True, False, "identity")


@pytest.mark.parametrize(
    ("block", "exists"),
    [
        (B.DepthwiseSeparable(16, branches=(3, 0)), True),  # a depthwise one keeps its channels
        (B.DepthwiseSeparable(16, stride=(1, 2), branches=(3, 0)), False),
        (B.ConvNormAct(16, branches=(3, 0)), False),
        (B.ConvNormAct(8, branches=(3, 0)), True),
    ],
    ids=repr,
)
def test_batch_norm_alone_is_a_branch_only_where_the_shape_stays(block, exists):
    steps = layers.visit(place(block, (4, 4, 8)).layer, (4, 4, 8))
    (reparam,) = (leaf for leaf, _, _ in steps if isinstance(leaf, layers.Reparam))
    assert (layers.BatchNorm() in reparam.branches) == exists


# -- the vocabulary --------------------------------------------------------------------------------


@pytest.fixture
def vocabulary(monkeypatch):
    """A copy that the test may change."""
    monkeypatch.setattr(_base, "_vocabulary", dict(_base._vocabulary))


def make(name="tests_own"):
    @dataclass(frozen=True, repr=False)
    class Own(B.Block):
        width: B.Width

    return B.register(name)(Own)


@pytest.mark.usefixtures("vocabulary")
def test_a_taken_name_is_refused():
    with pytest.raises(BlockError, match=r"'conv' is taken by lcnas\.blocks\.conv\.ConvNormAct$"):
        make("conv")
    assert B.find("conv") is B.ConvNormAct


@pytest.mark.usefixtures("vocabulary")
def test_a_class_may_be_entered_again():
    make()
    again = make()  # as when a notebook's cell is run twice
    assert B.find("tests_own") is again


@pytest.mark.usefixtures("vocabulary")
def test_an_annotation_without_a_check_is_refused():
    @dataclass(frozen=True, repr=False)
    class Own(B.Block):
        width: int

    with pytest.raises(BlockError, match=r"Own\.width: the annotation .*FIELD_TYPES"):
        B.register("tests_own")(Own)


@pytest.mark.usefixtures("vocabulary")
def test_a_block_without_lower_says_so():
    block = make()(3)
    with pytest.raises(NotImplementedError, match="Own has no lower"):
        place(block, (4, 4, 3))


def test_an_inherited_name_does_not_pass_for_the_parent():
    @dataclass(frozen=True, repr=False)
    class Wider(B.ConvNormAct):
        def lower(self, in_shape):
            return layers.Conv(2 * self.width)

    with pytest.raises(BlockError, match="Wider is not in the vocabulary"):
        Wider(8)


def test_field_types_are_names_of_the_package():
    for name in B.FIELD_TYPES:
        assert hasattr(B, name)
        assert name in B.__all__
