"""The six spaces: sizes, placed blocks, and which published networks belong to which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lcnas import cost, spaces, zoo
from lcnas.arch import Arch
from lcnas.errors import SpaceError
from lcnas.zoo.pplcnet import SCALES, pplcnet

DATA = Path(__file__).parent.parent / "data"

# Sizes as products of what the files list, worked out by hand.
TAIL = 5 * 7 * (8 * 3) * (8 * 3) * (8 * (2**8 - 2)) * (8 * (4 + 16 + 64)) * 5
STAGE_FREE = 8 * (4 + 16 + 64)
FREE = 2 * 5 * (7 * 4) * STAGE_FREE**2 * (8 * sum(4**d for d in range(2, 9))) * STAGE_FREE * 5
NEXT = 6 * (40 * (3 + 4 + 4)) ** 2 * (40 * 4 * 7) * (40 * (3 + 4 * 3)) * 5
SIZES = {
    "pplcnet": 8 * 5 * 4 * 2 * 2,
    "pplcnet_tail": TAIL,
    "pplcnet_tail_32": TAIL,
    "pplcnet_free": FREE,
    "lcnet_next": NEXT,
    "mobilenetv3": (9**2 + 9**3 + 9**4) ** 5,
}
PLACED_BLOCKS = {"pplcnet_tail": 584, "pplcnet_free": 2602}

SE_PATTERNS = ("1100000000000", "0000001100000", "0000000000011", "1111111111111")
KERNEL_PATTERNS = ("5555555555555", "5555555333333", "3333335555555")

# Every network of the paper's ablations (tables 4 to 7), at 0.5x.
ABLATIONS = {
    **{f"se {p}": pplcnet(0.5, se=p) for p in SE_PATTERNS},
    **{f"kernels {p}": pplcnet(0.5, kernels=p) for p in KERNEL_PATTERNS},
    "base": pplcnet(0.5, act="relu", kernels="3" * 13, se="0" * 13, last=0),
    "+ h-swish": pplcnet(0.5, kernels="3" * 13, se="0" * 13, last=0),
    "+ 5x5": pplcnet(0.5, se="0" * 13, last=0),
    "+ SE": pplcnet(0.5, last=0),
    "+ 1280": pplcnet(0.5),
    "- h-swish": pplcnet(0.5, act="relu"),
    "- SE": pplcnet(0.5, se="0" * 13),
    "- 5x5": pplcnet(0.5, kernels="3" * 13),
    "- 1280": pplcnet(0.5, last=0),
}
# Those that break a rule of pplcnet_tail, and the rule (or the gene whose choices leave them out).
REFUSED = {
    "se 1100000000000": "se_only_in_the_last_stage: stage1",
    "se 0000001100000": "se_only_in_the_last_stage: stage4 block 2",
    "se 1111111111111": "se_only_in_the_last_stage: stage1",
    "kernels 5555555555555": "large_kernels_only_in_the_tail: stage1",
    "kernels 5555555333333": "large_kernels_only_in_the_tail: stage1",
    "base": "stem_act: stem has act relu",
    "- h-swish": "stem_act: stem has act relu",
}


def test_the_six_spaces_are_there():
    assert spaces.available() == tuple(sorted(SIZES))


@pytest.mark.parametrize("name", sorted(SIZES))
def test_size(name):
    assert spaces.load(name).size == SIZES[name]


@pytest.mark.parametrize("name", sorted(PLACED_BLOCKS))
def test_number_of_rows(name):
    assert len(spaces.load(name).placed_blocks()) == PLACED_BLOCKS[name]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["pplcnet", "pplcnet_tail", "pplcnet_free"])
def test_published_scales_are_members(name, scale):
    space = spaces.load(name)
    arch = zoo.load(f"pplcnet_{scale}x")
    assert arch in space
    assert space.why_not(arch) is None
    assert space.decode(space.encode(arch)) == [arch]


@pytest.mark.parametrize("scale", SCALES)
def test_scales_for_small_images_are_members(scale):
    assert zoo.load(f"pplcnet_32_{scale}x") in spaces.load("pplcnet_tail_32")


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_ablations_are_in_the_papers_space_and_in_the_free_one(name):
    assert ABLATIONS[name] in spaces.load("pplcnet")
    assert ABLATIONS[name] in spaces.load("pplcnet_free")


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_the_tail_space_refuses_what_breaks_its_rules_by_name(name):
    space = spaces.load("pplcnet_tail")
    why = space.why_not(ABLATIONS[name])
    if name in REFUSED:
        assert ABLATIONS[name] not in space
        assert why is not None
        assert why.startswith(REFUSED[name])
    else:
        assert why is None


def test_every_network_of_the_paper_is_in_the_free_space():
    free = spaces.load("pplcnet_free")
    archs = list(spaces.load("pplcnet").enumerate())
    assert len(archs) == 640
    assert free.decode(free.encode(archs)) == archs


@pytest.mark.parametrize("name", ["universal_inverted_bottleneck", "expand_compress"])
def test_arch_files_are_members_of_lcnet_next(name):
    arch = Arch.load(DATA / f"lcnet_next_{name}.json")
    space = spaces.load("lcnet_next")
    assert space.why_not(arch) is None
    assert arch in space
    kinds = {block.type for stage in arch.stages[1:-1] for block in stage.blocks}
    assert kinds == {name}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_large_spaces_round_trip_and_change_inside(name):
    space = spaces.load(name)
    rng = np.random.default_rng(11)
    codes = space.sample_codes(50, rng)
    archs = space.decode(codes)
    assert (space.encode(archs) == codes).all()
    assert cost.macs_codes(space, codes).tolist() == [cost.macs(a) for a in archs]
    for a, b in zip(archs[:20], archs[20:40], strict=True):
        assert space.mutate(a, rng) in space
        assert space.mutate(a, rng) != a
        assert space.crossover(a, b, rng) in space


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a.at(160), "resolution: 160 is not among 224; the nearest is 224"),
        (lambda a: _replace(a, 5, width=100), "stage3_width: stage3 block 1 has width 100"),
        (lambda a: _replace(a, 6, width=100), "stage3_width: stage3 block 2 has width 100"),
        (
            lambda a: _replace(a, 8, kernel=7),
            "stage4_kernel: stage4 block 2 has kernel 7, allowed: 3, 5",
        ),
        (lambda a: _without(a, "stage2", 2), "stage2: the network ends"),
    ],
)
def test_why_not_names_the_block_and_what_is_allowed(change, expected):
    why = spaces.load("pplcnet_tail").why_not(change(pplcnet(0.5)))
    assert why is not None
    assert "\n" not in why
    if expected.startswith("stage2:"):
        assert "stage" in why
    else:
        assert why.startswith(expected)


def _replace(arch: Arch, index: int, **fields: object) -> Arch:
    import dataclasses

    at = 0
    stages = []
    for stage in arch.stages:
        blocks = list(stage.blocks)
        for i in range(len(blocks)):
            if at + i + 1 == index + 0:
                blocks[i] = dataclasses.replace(blocks[i], **fields)
        at += len(blocks)
        stages.append(dataclasses.replace(stage, blocks=tuple(blocks)))
    return Arch(tuple(stages), arch.resolution)


def _without(arch: Arch, name: str, count: int) -> Arch:
    import dataclasses

    stages = [
        s if s.name != name else dataclasses.replace(s, blocks=s.blocks[count:])
        for s in arch.stages
    ]
    return Arch(tuple(s for s in stages if s.blocks), arch.resolution)


def test_too_many_and_too_few_blocks_are_reported_by_depth():
    space = spaces.load("pplcnet_tail")
    arch = pplcnet(0.5)
    stages = {stage.name: list(stage.blocks) for stage in arch.stages}
    stages["stage3"] += [stages["stage3"][1]] * 2
    assert str(space.why_not(Arch.of(stages))).startswith(
        "stage3_depth: the network has 4 blocks there, allowed: 1, 2, 3"
    )
    stages["stage3"] = stages["stage3"][:2]
    stages["stage4"] = stages["stage4"][:1]
    assert str(space.why_not(Arch.of(stages))).startswith(
        "stage4_depth: the network has 1 block there"
    )


def test_resolutions_given_at_load_replace_those_of_the_file():
    space = spaces.load("pplcnet_tail", resolution=[160, (96, 320)])
    assert space.resolutions == (160, (96, 320))
    assert space.size == 2 * TAIL
    assert space.genes[0].name == "resolution"
    assert pplcnet(0.5).at((96, 320)) in space
    assert spaces.load("pplcnet_tail", resolution=(80, 160)).resolutions == ((80, 160),)


def test_restrict_keeps_the_file_and_fewer_choices():
    space = spaces.load("pplcnet_tail")
    small = space.restrict(stage2_width=[16, 24, 32], stage4_kernel=[3], stage5_depth=[1, 3])
    assert small.size == 5 * 7 * (3 * 3) * (8 * 3) * (8 * 7) * (8 * (4 + 64)) * 5
    rng = np.random.default_rng(3)
    archs = small.decode(small.sample_codes(200, rng))
    assert all(arch in small and arch in space for arch in archs)
    assert pplcnet(1.0) not in small
    assert str(small.why_not(pplcnet(1.0))).startswith(
        "restricted gene stage2_width: 64 is not among 16, 24, 32"
    )
    smaller = small.restrict(stage2_width=16)
    assert smaller.size * 3 == small.size


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"stage2_widht": [16]}, "did you mean 'stage2_width'"),
        ({"stage2_width": [17]}, "gene stage2_width: 17 is not among 16, 24, 32"),
        ({"stage2_width": []}, "keeps none of 16"),
        ({"stage5_block1_se": [1]}, "1 is not among False, True"),
    ],
)
def test_restrict_refuses_unknown_genes_and_choices(choices, message):
    with pytest.raises(SpaceError, match=message.replace("(", r"\(")) as caught:
        spaces.load("pplcnet_tail").restrict(**choices)
    assert "\n" not in str(caught.value)
