"""Counts against published figures, closed forms, and sums over blocks."""

import numpy as np
import pytest

from lcnas import blocks, cost, spaces, zoo
from lcnas.arch import Arch, walk
from lcnas.errors import ArchError

# PP-LCNet at 224 px, 1,000 classes: params, MACs, and the column "FLOPs (M)" of table 3 of
# arXiv 2109.15099.
PPLCNET = [
    ("0.25", 1_521_184, 16_773_440, 18),
    ("0.35", 1_643_090, 27_357_832, 29),
    ("0.5", 1_879_576, 44_731_008, 47),
    ("0.75", 2_357_008, 94_786_496, 99),
    ("1.0", 2_952_520, 155_700_480, 161),
    ("1.5", 4_499_832, 334_188_416, 342),
    ("2.0", 6_521_512, 580_194_816, 590),
    ("2.5", 9_017_560, 893_719_680, 906),
]


@pytest.mark.parametrize(("scale", "params", "macs", "paper_mflops"), PPLCNET)
def test_pplcnet_counts_exactly(scale, params, macs, paper_mflops):
    arch = zoo.load(f"pplcnet_{scale}x")
    assert cost.params(arch) == params
    assert cost.macs(arch) == macs
    assert round(cost.paddle_flops(arch) / 1e6) == paper_mflops


def net(*later, resolution=8):
    """A network of these blocks and an 8-channel 1x1 convolution (and nothing else) before them."""
    return Arch.of({"first": [blocks.ConvNormAct(8, 1)], "then": later}, resolution)


def beyond(figure, *later):
    """What the blocks add to a figure that is a sum."""
    return figure(net(*later)) - figure(net())


# -- paddle.flops ----------------------------------------------------------------------------------

AREA = 8 * 8


@pytest.mark.parametrize(
    ("block", "extra"),
    [
        (blocks.ConvNormAct(16), 2 * AREA * 16),  # batch norm: two a value
        (blocks.ConvNormAct(16, norm=False), AREA * 16),  # bias: one a value
        (blocks.Pool(2, 2, "avg"), 4 * 4 * 8),  # average: one a value written
        (blocks.Pool(2, 2, "max"), 0),
        (blocks.LocalResponseNorm(), 0),
        # mean: a value read, a value written; two biases
        (blocks.DepthwiseSeparable(8, se=True), 4 * AREA * 8 + (AREA * 8 + 8 + 2 + 8)),
        (blocks.DepthwiseSeparable(8, branches=(3, 1)), 4 * AREA * 8),
        (blocks.DenseHead(), AREA * 8 + 8),
        (blocks.DenseHead((4,), pool=False), 0),
        (blocks.BasicBlock(8), 4 * AREA * 8),  # additions and activations are free
    ],
    ids=repr,
)
def test_what_paddle_counts_beyond_the_macs(block, extra):
    assert beyond(cost.paddle_flops, block) - beyond(cost.macs, block) == extra


# -- activations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "written"),
    [
        (blocks.ConvNormAct(16, stride=2), 16 * 16),
        (blocks.DepthwiseSeparable(16, stride=(2, 1), se=True), 32 * 8 + 32 * 16 + 2 + 8),
        (blocks.DepthwiseSeparable(8, branches=(3, 1)), 2 * AREA * 8),
        (blocks.InvertedResidual(8, stride=2), AREA * 48 + 16 * 48 + 16 * 8),
        (blocks.ShuffleV2Unit(8), 3 * AREA * 4),
        (blocks.Pool(2), 0),
        (blocks.DenseHead((4,)), 0),
    ],
    ids=repr,
)
def test_activations_are_what_convolutions_write(block, written):
    assert beyond(cost.activations, block) == written


# -- peak memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "values"),
    [
        (blocks.ConvNormAct(16), AREA * (8 + 16)),
        (blocks.ConvNormAct(16, stride=2), AREA * 8 + 16 * 16),
        (blocks.DepthwiseSeparable(16), AREA * (8 + 16)),  # the depthwise one takes 8 + 8
        (blocks.DepthwiseSeparable(16, se=True), AREA * (8 + 16)),
        (blocks.DepthwiseSeparable(8, shortcut=True), AREA * 8 * 3),  # the input waits
        # wide inside: 48 in, 48 out of the depthwise convolution
        (blocks.InvertedResidual(8), AREA * 96),
        (blocks.InvertedResidual(8, shortcut=True), AREA * (8 + 96)),
        (blocks.InvertedResidual(8, stride=2), AREA * 48 + 16 * 48),
        (blocks.BasicBlock(8), AREA * 8 * 3),
        # input, and in the body 16 read and 16 written on a quarter of the area
        (blocks.BasicBlock(16, stride=2), AREA * 8 + 16 * 16 + 16 * 16),
        (blocks.ConvStem(32, convs=2), AREA * 8 + 16 * 32),
        (blocks.Pool(2), AREA * 8 + 16 * 8),
        (blocks.LocalResponseNorm(), AREA * 8),
        (blocks.ShuffleV2Unit(16), AREA * (8 + 8 + 16)),  # two halves and what they are joined to
        (blocks.DenseHead(), AREA * 8 + 8),
    ],
    ids=repr,
)
def test_peak_memory_is_that_of_the_maps_alive_at_once(block, values):
    arch = net(block)
    (_, placed) = walk(arch, classes=1)
    assert cost.of(placed).peak_memory == 4 * values


def test_peak_memory_of_a_network_is_its_worst_block():
    arch = zoo.load("pplcnet_1.0x")
    each = [c.peak_memory for c in cost.per_block(arch)]
    # the first pointwise convolution: 16 channels in, 32 out
    assert cost.peak_memory(arch) == max(each) == each[1] == 4 * 112 * 112 * (16 + 32)


# -- arguments -------------------------------------------------------------------------------------


def test_the_whole_is_the_sum_of_the_blocks():
    for name in ("pplcnet_0.5x", "pplcnet_32_0.5x"):
        arch, each = zoo.load(name), cost.per_block(zoo.load(name), classes=10)
        total = cost.total(arch, classes=10)
        for figure in ("params", "macs", "activations", "paddle_flops"):
            assert getattr(total, figure) == sum(getattr(c, figure) for c in each)
            assert getattr(total, figure) == getattr(cost, figure)(arch, classes=10)
        assert total.peak_memory == cost.peak_memory(arch, classes=10)


def test_each_class_is_one_row_of_the_last_layer():
    arch = zoo.load("pplcnet_0.5x")
    assert cost.params(arch, 1000) - cost.params(arch, 10) == 990 * (1280 + 1)
    assert cost.macs(arch) - cost.macs(arch, classes=10) == 990 * 1280
    assert cost.paddle_flops(arch) - cost.paddle_flops(arch, classes=10) == 990 * 1280
    assert cost.activations(arch) == cost.activations(arch, classes=10)


def test_resolution_changes_what_depends_on_the_area():
    arch = zoo.load("pplcnet_0.5x")
    for figure in (cost.macs, cost.activations, cost.peak_memory, cost.paddle_flops):
        assert figure(arch, 128) == figure(arch.at(128)) < figure(arch)
        assert figure(arch, (128, 256)) == figure(arch, (256, 128))
        assert figure(arch, 224) == figure(arch)
    assert cost.params(arch.at(128)) == cost.params(arch)
    # every convolution before the pooling has four times the pixels, nothing else does
    fixed = cost.macs(Arch.of({"head": [arch.blocks[-1]]}, 1))
    head = fixed + (256 - 3) * 1280
    se = sum(2 * c * (c // 4) for c in (128, 256))
    assert cost.macs(arch, 128) - head - se == 4 * (cost.macs(arch, 64) - head - se)


@pytest.mark.parametrize("figure", [cost.macs, cost.params, cost.activations, cost.peak_memory])
def test_arguments_are_checked(figure):
    arch = zoo.load("pplcnet_0.5x")
    with pytest.raises(ArchError, match=r"^classes: 0 is not"):
        figure(arch, classes=0)
    if figure is not cost.params:
        with pytest.raises(ArchError, match=r"^resolution: -1 is outside"):
            figure(arch, -1)


def test_training_counts_the_branches():
    block = blocks.ConvNormAct(8, branches=(3, 1, 0))
    arch = net(block)
    three, one, norm = 9 * 64 + 16, 64 + 16, 16
    assert cost.params(arch) - cost.params(net()) == three
    assert cost.params(arch, training=True) - cost.params(net()) == three + one + norm
    unbranched = zoo.load("pplcnet_0.5x")
    assert cost.params(unbranched, training=True) == cost.params(unbranched)
    assert cost.params(arch, 10, training=True) == cost.params(arch, training=True)
    assert cost.macs(arch) == cost.macs(net(blocks.ConvNormAct(8)))


# -- arrays of codes -------------------------------------------------------------------------------

CODED = ("params", "macs", "activations", "peak_memory", "paddle_flops")


@pytest.mark.parametrize(
    ("name", "classes"), [("pplcnet", 1000), ("lcnet_next", 10), ("mobilenetv3", 1000)]
)
def test_figures_of_codes_are_those_of_the_networks(name, classes):
    space = spaces.load(name)
    codes = space.sample_codes(12, np.random.default_rng(0))
    archs = space.decode(codes)
    for figure in CODED:
        coded = getattr(cost, f"{figure}_codes")(space, codes, classes)
        assert coded.tolist() == [getattr(cost.total(a, classes=classes), figure) for a in archs]
