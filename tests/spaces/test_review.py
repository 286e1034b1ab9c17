"""Cases that once went wrong, or that are easy to get wrong: several resolutions, near misses, odd rules."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from lcnas import blocks, cost, spaces, zoo
from lcnas.arch import Arch, walk
from lcnas.blocks import Block, ConvNormAct, DepthwiseSeparable, _base
from lcnas.errors import SpaceError
from lcnas.layers import Layer, Shape
from lcnas.zoo.pplcnet import pplcnet

from .small import PER_BLOCK


def test_codes_and_rows_agree_with_networks_over_several_resolutions_and_stem_strides():
    space = spaces.load("lcnet_next", [112, 224])
    codes = space.sample_codes(300, np.random.default_rng(0))
    archs = space.decode(codes)
    assert cost.macs_codes(space, codes).tolist() == [cost.macs(a) for a in archs]
    placed_blocks = space.placed_blocks()
    for arch, ids in zip(archs, space.block_ids(codes).tolist(), strict=True):
        assert [placed_blocks[i] for i in ids if i >= 0] == list(walk(arch))
    (low, least), (high, most) = space.extremes([cost.of(p).macs for p in placed_blocks])
    assert (cost.macs(least), cost.macs(most)) == (low, high)
    assert low <= min(cost.macs(a) for a in archs) <= max(cost.macs(a) for a in archs) <= high
    small = space.restrict(resolution=112)
    assert small.extremes([cost.of(p).macs for p in small.placed_blocks()])[0][0] == low


def changed(arch: Arch, number: int, **fields: object) -> Arch:
    """Return the network with one block changed, under stage names of no meaning."""
    blocks = list(arch.blocks)
    blocks[number] = dataclasses.replace(blocks[number], **fields)
    return Arch.of({"all": blocks}, arch.resolution)


# Of PP-LCNet 0.5x: number of the block, what is changed, and how the answer has to begin.
NEAR = [
    (1, {"width": 100}, "stage1_width: all block 2 has width 100, allowed: 8, 16, 24"),
    (
        3,
        {"width": 24},
        "stage2_width: all block 3 has width 32, but the rest of the stage goes with width 24",
    ),
    (3, {"stride": 2}, "stage2_stride: all block 4 has stride 2, allowed: 1"),
    (4, {"kernel": 7}, "stage3_kernel: all block 5 has kernel 7, allowed: 3"),
    (5, {"act": "relu"}, "stage3_act: all block 6 has act relu, allowed: hard_swish"),
    (9, {"stride": 2}, "stage4_stride: all block 10 has stride 2, allowed: 1"),
    (8, {"shortcut": True}, "stage4_shortcut: all block 9 has shortcut true, allowed: false"),
    (2, {"se": True}, "se_only_in_the_last_stage: all block 3"),
    (6, {"kernel": 5}, "large_kernels_only_in_the_tail: all block 7"),
    (
        14,
        {"width": 1000},
        "head_width: all block 15 has width 1000, allowed: 0, 640, 960, 1280, 1536",
    ),
]


@pytest.mark.parametrize(("number", "fields", "expected"), NEAR)
def test_why_not_names_the_block_that_was_changed_and_its_field(number, fields, expected):
    why = spaces.load("pplcnet_tail").why_not(changed(pplcnet(0.5), number, **fields))
    assert str(why).startswith(expected)


@pytest.mark.parametrize(
    "name", ["pplcnet", "pplcnet_tail", "pplcnet_free", "lcnet_next", "mobilenetv3"]
)
def test_why_not_answers_every_one_field_change_in_one_line(name):
    space = spaces.load(name)
    rng = np.random.default_rng(1)
    arch = space.sample(rng)
    named = 0
    for number, block in list(enumerate(arch.blocks))[
        :: 3 if name in ("pplcnet", "lcnet_next") else 1
    ]:
        for field, value in _other_values(block):
            other = changed(arch, number, **{field: value})
            why = space.why_not(other)
            assert (why is None) == (other in space)
            if why is not None:
                assert "\n" not in why
                named += field in why and f"block {number + 1}" in why
    assert named > 5


def _other_values(block: Block) -> list[tuple[str, object]]:
    values = {"width": 8 * 37, "stride": 3, "kernel": 9, "se": True, "act": "gelu"}
    names = {f.name for f in dataclasses.fields(block)}
    return [(k, v) for k, v in values.items() if k in names and getattr(block, k) != v]


def test_what_is_allowed_is_reported_over_all_network_wide_choices():
    why = spaces.load("pplcnet").why_not(changed(pplcnet(0.5), 0, width=64))
    assert str(why).startswith("stem_width: all block 1 has width 64, allowed: 8, 16, 24, 32, 40")
    why = spaces.load("pplcnet").why_not(changed(pplcnet(0.5), 4, act="relu"))
    assert str(why) == (
        "stage3_act: all block 5 has act relu, but the rest of the network goes with act hard_swish"
    )
    why = spaces.load("pplcnet_tail").why_not(zoo.load("mobilenet_v3_small"))
    assert str(why).startswith(
        "block: stage1 is 'inverted_residual', of which the space has none; it has "
    )


def test_a_restriction_may_leave_genes_without_effect():
    space = spaces.load("lcnet_next")
    small = space.restrict(stage1_depth=[1])
    # at depth 1 with and without shortcut are one network
    assert small.size * (3 + 4 + 4) == space.size * 3
    arch = small.sample(np.random.default_rng(0))
    assert small.decode(small.encode(arch)) == [arch]


def test_restrict_takes_numpy_numbers_single_choices_and_pairs():
    space = spaces.load("pplcnet_tail", [224, (80, 160)])
    assert space.restrict(stem_width=np.int64(8)).size * 5 == space.size
    assert space.restrict(resolution=(80, 160)).resolutions == ((80, 160),)
    assert space.restrict(stem_width=np.array([8, 16])).size * 5 == space.size * 2
    with pytest.raises(SpaceError, match="gene stem_width: None is not among 8, 16"):
        space.restrict(stem_width=None)
    with pytest.raises(SpaceError, match=r"gene stem_width: '8' is not among .*did you mean 8"):
        space.restrict(stem_width="8")


SPELT_TWICE = """
version = 1
resolution = [32]
[network.s]
choices = [1, 2]
[blocks.a]
type = "depthwise_separable"
first = { width = 16 }
rest = { width = "$width" }
[blocks.b]
type = "depthwise_separable"
rest = { width = 128 }
[stem]
block = "conv"
width = 8
[[stages]]
block = "a"
depth = { from = 1, to = 2 }
stride = 1
width = { gene = "s", base = 32 }
[[stages]]
block = "b"
depth = { from = 1, to = 3 }
stride = 1
width = { gene = "s", base = 64 }
[head]
block = "classifier"
"""


def test_a_border_that_two_network_wide_choices_cut_differently_is_refused():
    with pytest.raises(SpaceError, match="one network could have two spellings"):
        spaces.loads(SPELT_TWICE, "twice")


@dataclass(frozen=True, repr=False)
class LateRelu(Block):
    """A 1x1 convolution whose ReLU has no effect where it strides."""

    width: blocks.Width
    stride: blocks.Stride = 1
    relu: bool = False

    def check(self) -> None:
        if self.stride != 1:
            self._forget("relu")

    def lower(self, in_shape: Shape) -> Layer:
        act = "relu" if self.relu else "identity"
        return ConvNormAct(self.width, kernel=1, stride=self.stride, act=act).lower(in_shape)


# Behind a stem of stride 2 the stage strides, and its two choices are one block; behind one of stride 4 two.
BEHIND_TWO_STEMS = """
version = 1
resolution = [32]
[stem]
block = "conv_stem"
width = 8
convs = { choices = [1, 2] }
[[stages]]
block = "late_relu"
total_stride = 4
width = 16
relu = { choices = [false, true] }
[head]
block = "classifier"
"""


def test_blocks_that_are_equal_behind_one_stem_and_differ_behind_another_are_refused(monkeypatch):
    monkeypatch.setattr(_base, "_vocabulary", dict(_base._vocabulary))
    blocks.register("late_relu")(LateRelu)
    message = r"stages\[1\]: two of its choices give the same first block after one stem and not"
    with pytest.raises(SpaceError, match=message) as caught:
        spaces.loads(BEHIND_TWO_STEMS, "two_stems")
    assert "\n" not in str(caught.value)
    # Behind either stem alone each network has one spelling, or the file is refused for another reason.
    stride_4 = BEHIND_TWO_STEMS.replace("{ choices = [1, 2] }", "2")
    assert spaces.loads(stride_4, "stride_4").size == 2
    with pytest.raises(SpaceError, match=r"gene 'stage1_relu': .* always give the same network"):
        spaces.loads(BEHIND_TWO_STEMS.replace("{ choices = [1, 2] }", "1"), "stride_2")
    # A stride of its own, not the one that is left of a total, is the same behind both stems.
    own = BEHIND_TWO_STEMS.replace("total_stride = 4", "stride = 1")
    assert spaces.loads(own, "own").size == 4


IGNORED = """
version = 1
resolution = [32]
[stem]
block = "conv"
width = 8
[[stages]]
block = "depthwise_separable"
stride = 2
width = 16
kernel = { choices = [3, 5] }
[[stages]]
block = { choices = ["depthwise_separable", "ghost_module"] }
stride = 1
width = 24
kernel = { choices = [3, 5] }
[head]
block = "classifier"
"""


def test_a_parameter_that_a_block_ignores_breaks_no_rule():
    grow = IGNORED + '[[rules]]\nname = "grow"\nnon_decreasing = "kernel"\n'
    space = spaces.loads(grow, "grow")
    # (3, 3), (3, 5), (5, 5), and a ghost module behind either kernel
    assert space.size == 5
    names = [gene.name for gene in space.genes]
    codes = np.zeros(len(names), dtype=np.int64)
    codes[names.index("stage1_kernel")] = 1
    codes[names.index("stage2_block")] = 1
    (arch,) = space.decode(codes)
    assert arch in space
    small = IGNORED + '[[rules]]\nname = "small"\nlimit = "kernel"\nto = [3]\nin = ["stage2"]\n'
    limited = spaces.loads(small, "small")
    assert limited.size == 2 * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[stem]", '[network.stem_width]\nchoices = [1, 2]\n[stem]', "two genes are called 'stem_width'"),
        ("[stem]", '[network.resolution]\nchoices = [1]\n[stem]', "'resolution' cannot name a gene"),
        ("[stem]", '[network."a b"]\nchoices = [1]\n[stem]', "'a b' cannot name a gene"),
        ("[stem]", '[blocks."a\\nb"]\ntype = "conv"\nkernal = 3\n[stem]', "unknown key: 'kernal'"),
        ("[stem]", '[blocks.k]\ntype = "conv"\n[stem]', r"blocks\.k: is the block of no stage"),
        ("version = 1", "version = 1.0", "version: 1.0 is not 1"),
        ('in = ["stage1.first"]', 'except = ["stage1", "stage2"]', "holds nowhere; leave the rule out"),
    ],
)  # fmt: skip
def test_more_mistakes_in_files(old, new, message):
    text = PER_BLOCK
    if "stem_width" in new:
        text = text.replace("stride = 2\n", 'stride = 2\nact = { gene = "stem_width" }\n', 1)
        new = new.replace("[1, 2]", '["relu", "gelu"]')
    assert old in text
    with pytest.raises(SpaceError, match=message) as caught:
        spaces.loads(text.replace(old, new), "bad")
    assert "\n" not in str(caught.value)


def test_a_limit_on_depth_is_about_stages():
    text = PER_BLOCK + '\n[[rules]]\nname = "short"\nlimit = "depth"\nto = [1, 2]\n'
    assert spaces.loads(text, "short").size == 2 * 3 * 3 * 20 * 2


def test_a_limit_on_the_rest_binds_a_stage_wide_choice_and_is_named():
    text = IGNORED.replace(
        "stride = 2\nwidth = 16", "stride = 2\ndepth = { from = 1, to = 2 }\nwidth = 16"
    ).replace("width = 24", "width = 48")
    rule = '[[rules]]\nname = "small_rest"\nlimit = "kernel"\nto = [3]\nin = ["stage1.rest"]\n'
    whole, limited = spaces.loads(text, "whole"), spaces.loads(text + rule, "limited")
    for arch in whole.enumerate():
        kernels = {b.kernel for b in arch.stages[1].blocks if isinstance(b, DepthwiseSeparable)}
        assert (arch in limited) == (kernels == {3})
        if arch not in limited:
            assert str(limited.why_not(arch)).startswith("small_rest: stage1")


def test_spaces_are_let_go():
    space = spaces.load("pplcnet")
    space.why_not(zoo.load("resnet18"))
    space.placed_blocks()
    gone = weakref.ref(space), weakref.ref(space._structure)
    del space
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
