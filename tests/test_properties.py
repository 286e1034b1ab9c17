"""Random networks, random spaces, and broken files."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lcnas import blocks, cost, paths, spaces, zoo
from lcnas.arch import Arch, walk
from lcnas.errors import ArchError, LcnasError, SpaceError
from tests.spaces.small import SMALL

# -- random networks -------------------------------------------------------------------------------

strides = st.sampled_from([1, 2, (1, 2), (2, 1)])
kernels = st.sampled_from([1, 3, 5, 7, (3, 5)])
acts = st.sampled_from(["relu", "hard_swish", "gelu", "silu"])
widths = st.integers(1, 12).map(lambda n: 8 * n)

body_blocks = st.one_of(
    st.builds(blocks.ConvNormAct, widths, kernels, strides, acts, norm=st.booleans()),
    st.builds(blocks.DepthwiseSeparable, widths, kernels, strides, acts, st.booleans()),
    st.builds(
        blocks.DepthwiseSeparable, widths, st.just(3), branches=st.sampled_from([(3, 1, 0), (3, 3)])
    ),
    st.builds(
        blocks.InvertedResidual, widths, kernels, strides, acts, st.sampled_from([1, 3, 4.5, 6])
    ),
    st.builds(blocks.MBConv, widths, kernels, strides, se_ratio=st.sampled_from([0.0, 0.25])),
    st.builds(blocks.UniversalInvertedBottleneck, widths, kernels, kernels, strides, acts),
    st.builds(blocks.ExpandCompress, widths, kernels, strides, acts, se=st.booleans()),
    st.builds(blocks.SplitPointwise, widths, kernels, strides),
    st.builds(blocks.ShuffleV2Unit, widths, kernels, strides),
    st.builds(blocks.GhostBottleneck, widths, widths, kernels, strides, st.booleans()),
    st.builds(blocks.MixConv, widths, st.sampled_from([(3,), (3, 5), (3, 5, 7)]), strides),
    st.builds(blocks.BasicBlock, widths, strides),
    st.builds(blocks.Pool, st.sampled_from([2, 3]), mode=st.sampled_from(["max", "avg"])),
)
heads = st.one_of(
    st.builds(
        blocks.Classifier, st.sampled_from([0, 64, 1280]), acts, st.booleans(), st.booleans()
    ),
    st.builds(blocks.DenseHead, st.sampled_from([(), (32, 16)])),
)


@st.composite
def archs(draw: st.DrawFn) -> Arch:
    stages = {"stem": [draw(body_blocks)]}
    for i in range(draw(st.integers(1, 3))):
        stages[f"stage{i + 1}"] = draw(st.lists(body_blocks, min_size=1, max_size=3))
    stages["head"] = [draw(heads)]
    side = st.integers(16, 64)
    resolution = draw(st.one_of(side, st.tuples(side, side)))
    return Arch.of(stages, resolution, draw(st.text('ab_0.5 é"\\×', max_size=8)))


@given(archs())
@settings(max_examples=150, deadline=None)
def test_networks_survive_json(arch):
    again = Arch.from_json(arch.to_json())
    assert again == arch
    assert again.id == arch.id
    assert hash(again) == hash(arch)
    assert (again.stages, again.name) == (arch.stages, arch.name)
    # The id comes from what the text says, not from how it is laid out.
    assert Arch.from_json(json.dumps(json.loads(arch.to_json()), indent=3)).id == arch.id


@given(archs(), st.integers(2, 500))
@settings(max_examples=100, deadline=None)
def test_a_walk_chains_shapes_and_costs_add_up(arch, classes):
    placed = walk(arch, None, classes)
    for before, behind in itertools.pairwise(placed):
        assert before.out_shape == behind.in_shape
    assert placed[-1].out_shape == (classes,)
    per_block = cost.per_block(arch, None, classes)
    assert cost.params(arch, classes) == sum(c.params for c in per_block)
    assert cost.macs(arch, None, classes) == sum(c.macs for c in per_block)
    assert cost.params(arch, classes, training=True) >= cost.params(arch, classes)
    assert cost.peak_memory(arch) == max(c.peak_memory for c in cost.per_block(arch))


@given(archs(), archs())
@settings(max_examples=100, deadline=None)
def test_ids_are_equal_exactly_for_equal_networks(a, b):
    assert (a.id == b.id) == (a == b)
    assert a.at(48).id == a.at((48, 48)).id
    assert a.at(48).id != a.at(49).id


# -- random spaces ---------------------------------------------------------------------------------


def _choice(values: list[object], per_block: bool = False) -> str:
    texts = [json.dumps(v) for v in values]
    if len(texts) == 1:
        return texts[0]
    per = ', per = "block"' if per_block else ""
    return f"{{ choices = [{', '.join(texts)}]{per} }}"


def _some(values: list[object], most: int = 3) -> st.SearchStrategy[list[object]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)


KINDS = {
    "short": '[blocks.short]\ntype = "depthwise_separable"\nrest = { shortcut = true }',
    "fixed": '[blocks.fixed]\ntype = "depthwise_separable"\nkernel = 7',
}


@st.composite
def stage_texts(draw: st.DrawFn) -> str:
    kinds = draw(_some(["depthwise_separable", "expand_compress", "short", "fixed"], 3))
    low = draw(st.integers(1, 2))
    high = draw(st.integers(low, low + 2))
    depth = str(low) if low == high else f"{{ from = {low}, to = {high} }}"
    lines = [
        "[[stages]]",
        f"block = {_choice(kinds)}",
        f"depth = {depth}",
        f"stride = {draw(st.sampled_from(['1', '2', '[1, 2]']))}",
        f"width = {_choice(draw(_some([8, 16, 24])))}",
        *(
            [f"kernel = {_choice(draw(_some([3, 5])), draw(st.booleans()))}"]
            if kinds != ["fixed"]
            else []
        ),
        f"act = {_choice(draw(_some(['relu', 'hard_swish'], 2)))}",
        f"se = {_choice(draw(_some([False, True])), draw(st.booleans()))}",
    ]
    return "\n".join(lines)


@st.composite
def space_texts(draw: st.DrawFn) -> str:
    stages = draw(st.lists(stage_texts(), min_size=1, max_size=2))
    rules = draw(st.sampled_from(["", '[[rules]]\nname = "grow"\nnon_decreasing = "width"\n']))
    resolutions = draw(st.sampled_from([[16], [16, 32], [[16, 32]], [24, [16, 32]]]))
    return "\n".join(
        [
            f"version = 1\nresolution = {json.dumps(resolutions)}",
            *(text for name, text in KINDS.items() if any(f'"{name}"' in s for s in stages)),
            f'[stem]\nblock = "conv"\nwidth = {_choice(draw(_some([8, 16])))}\nstride = 2',
            *stages,
            '[head]\nblock = "classifier"\nwidth = { choices = [0, 64] }',
            rules,
        ]
    )


@given(space_texts(), st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_random_spaces_count_draw_and_change_inside(text, seed):
    try:
        space = spaces.loads(text)
    except SpaceError as error:
        assert (
            "spelling" in str(error) or "always give the same" in str(error) or "grow" in str(error)
        )
        assume(False)
    rng = np.random.default_rng(seed)
    codes = space.sample_codes(20, rng)
    drawn = space.decode(codes)
    assert (space.encode(drawn) == codes).all()
    assert (space.canonical(codes) == codes).all()
    assert cost.macs_codes(space, codes).tolist() == [cost.macs(a) for a in drawn]
    assert all(space.why_not(a) is None for a in drawn)
    if len(space.genes) > 1 and space.size > 1:
        assert space.mutate(drawn[0], rng) in space
    assert space.crossover(drawn[0], drawn[1], rng) in space
    assert Arch.from_json(drawn[0].to_json()) in space
    if space.size <= 1500:
        listed = set(space.enumerate())
        assert len(listed) == space.size
        assert set(drawn) <= listed


# -- broken files ----------------------------------------------------------------------------------

WORDS = [
    "0", "1", "-1", "3", "64", "1e400", "nan", "inf", "true", "false", '""', '"relu"', '"block"',
    '"$kernel"', "[]", "{}", "[[]]", "[1, 2]", "{ choices = [] }", "{ choices = [1, 2] }", "=", ",",
    "depth", "width", "kernel", "[stem]", "[[stages]]", "null", '"\\u0000"', "99999999999999999999",
    "1979-05-27", "0.5", "{ from = 1, to = 64 }", '{ gene = "act" }', "conv", '"classifier"',
]  # fmt: skip


def _broken(text: str, rng: random.Random) -> str:
    """Return a text with one to three random changes: characters, words or lines."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(6):
            case 0:
                text = text[:at] + text[at + rng.randint(1, 6) :]
            case 1:
                text = text[:at] + rng.choice(WORDS) + text[at:]
            case 2:
                words = text.split(" ")
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                text = " ".join(words)
            case 3:
                lines = text.split("\n")
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
                text = "\n".join(lines)
            case 4:
                lines = text.split("\n")
                del lines[rng.randrange(len(lines))]
                text = "\n".join(lines)
            case 5:
                text = (
                    text[:at] + chr(rng.choice([0, 10, 34, 91, 123, 0x1F600, 0xD7FF])) + text[at:]
                )
    return text


TOML_BASES = [
    *(text for text, _ in SMALL.values()),
    *(
        (paths.spaces_dir() / f"{name}.toml").read_text()
        for name in ("pplcnet_tail", "mobilenetv3")
    ),
]


@pytest.mark.parametrize("part", range(4))
def test_broken_space_files_end_in_a_space_or_in_our_error(part):
    rng = random.Random(part)
    outcomes = {True: 0, False: 0}
    for i in range(400):
        text = _broken(TOML_BASES[i % len(TOML_BASES)], rng)
        try:
            space = spaces.loads(text, "fuzz")
        except LcnasError as error:
            assert "\n" not in str(error), text
            assert str(error).startswith("fuzz: "), str(error)
            outcomes[False] += 1
        else:
            arch = space.sample(np.random.default_rng(i))
            assert space.why_not(arch) is None
            outcomes[True] += 1
    assert min(outcomes.values()) > 20  # both ends are reached


def test_broken_network_files_end_in_a_network_or_in_our_error():
    rng = random.Random(99)
    names = ("pplcnet_0.5x", "mobilenet_v3_small", "mixnet_s")
    bases = [zoo.load(name).to_json() for name in names]
    outcomes = {True: 0, False: 0}
    for i in range(1500):
        text = _broken(bases[i % len(bases)], rng)
        try:
            arch = Arch.from_json(text, "fuzz")
            walk(arch)
        except LcnasError as error:
            assert "\n" not in str(error), text
            outcomes[False] += 1
        else:
            assert Arch.from_json(arch.to_json()) == arch
            outcomes[True] += 1
    assert min(outcomes.values()) > 20


KEYS = ["format", "version", "name", "resolution", "stages", "blocks", "type", "x"]
leaves = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=300, deadline=None)
def test_any_data_is_a_network_or_our_error(data):
    try:
        Arch.from_data(data)
    except ArchError as error:
        assert "\n" not in str(error)
