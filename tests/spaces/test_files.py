"""Bad space files and bad arguments: one line that names file, key, what was given and what is allowed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lcnas import spaces
from lcnas.errors import CodesError, SpaceError

from .small import PER_BLOCK

GOOD = """
version = 1
resolution = [64]

[network.act]
choices = ["relu", "hard_swish"]

[blocks.mine]
type = "depthwise_separable"
rest = { shortcut = true }

[stem]
block = "conv"
width = { choices = [8, 16] }
stride = 2
act = { gene = "act" }

[[stages]]
block = "mine"
depth = { from = 1, to = 3 }
stride = 2
width = { choices = [16, 24] }
kernel = { choices = [3, 5], per = "block" }

[[stages]]
block = { choices = ["mine", "expand_compress"] }
depth = 2
total_stride = 8
width = { choices = [32, 48] }

[head]
block = "classifier"
width = { choices = [0, 640] }

[[rules]]
name = "small_first"
limit = "kernel"
to = [3]
in = ["stage1.first"]
"""

# (what to replace, with what, what the message must say)
BAD = {
    "unknown key": ('depth = 2', 'dept = 2', r"bad: stages\[2\]: unknown key: 'dept' .*did you mean 'depth'"),
    "unknown top key": ("version = 1", "version = 1\nresolutions = [64]", r"bad: file: unknown key: 'resolutions' is not among .*'resolution'"),
    "missing key": ("resolution = [64]", "", r"bad: file: key 'resolution' is missing; its keys are version"),
    "missing block": ('block = "mine"\n', "", r"bad: stages\[1\]: key 'block' is missing"),
    "missing stride": ("stride = 2\nwidth = { choices = [16, 24] }", "width = 16", r"stages\[1\]: key 'stride' \(or 'total_stride'\) is missing"),
    "missing width": ("width = { choices = [16, 24] }\n", "", r"bad: stages\[1\]: depthwise_separable: missing width; its keys are"),
    "wrong version": ("version = 1", "version = 2", r"bad: version: 2 is not 1"),
    "wrong type": ("width = { choices = [16, 24] }", 'width = "wide"', r"bad: stages\[1\]: depthwise_separable\.width: 'wide' is not a whole number"),
    "list where a number is wanted": ("depth = 2", "depth = [2, 3]", r"bad: stages\[2\]\.depth: \[2, 3\] is not a whole number"),
    "table where a list is wanted": ("resolution = [64]", "resolution = 64", r"bad: resolution: 64 is not a list, such as \[224\]"),
    "resolution of zero": ("resolution = [64]", "resolution = [0]", r"bad: resolution: 0 is outside 1 to 16384"),
    "empty choices": ("{ choices = [16, 24] }", "{ choices = [] }", r"bad: stages\[1\]\.width\.choices: the list is empty"),
    "width of zero": ("{ choices = [16, 24] }", "{ choices = [0, 24] }", r"bad: stages\[1\]: depthwise_separable\.width: 0 is outside 1 to"),
    "reversed depth": ("from = 1, to = 3", "from = 3, to = 1", r"bad: stages\[1\]\.depth: from 3 to 1 is reversed; did you mean from 1 to 3\?"),
    "unknown block": ('block = "mine"', 'block = "mien"', r"bad: stages\[1\]\.block: 'mien' is not among mine, .*did you mean 'mine'"),
    "unknown type": ('type = "depthwise_separable"', 'type = "depthwise_seperable"', r"bad: blocks\.mine\.type: .*did you mean 'depthwise_separable'"),
    "unknown field of a kind": ("rest = { shortcut = true }", "rest = { shotcut = true }", r"bad: blocks\.mine\.rest: unknown key: 'shotcut' .*did you mean 'shortcut'"),
    "unknown activation": ('["relu", "hard_swish"]', '["relu", "hardswish"]', r"bad: stem: conv\.act: 'hardswish' is not among .*did you mean 'hard_swish'"),
    "unknown gene": ('{ gene = "act" }', '{ gene = "akt" }', r"bad: stem\.act\.gene: 'akt' is not among act; did you mean 'act'"),
    "idle network gene": ('act = { gene = "act" }', 'act = "relu"', r"bad: network\.act: is used by no block"),
    "choice listed twice": ("[16, 24]", "[16, 16]", r"bad: stages\[1\]\.width\.choices: 16 is listed twice"),
    "wrong per": ('per = "block"', 'per = "blok"', r"bad: stages\[1\]\.kernel\.per: 'blok' is not among stage, block; did you mean 'block'"),
    "rule without effect on names": ('limit = "kernel"', 'limit = "kernal"', r"bad: rules\[1\]\.limit: 'kernal' is not among .*did you mean 'kernel'"),
    "rule at an unknown place": ('in = ["stage1.first"]', 'in = ["stag1.first"]', r"bad: rules\[1\]\.in: 'stag1\.first' is not among .*did you mean 'stage1\.first'"),
    "rule that nothing meets": ("to = [3]", "to = [7]", r"bad: rule 'small_first' leaves nothing of stage1_block1_kernel: \[3, 5\], of which it allows \[7\]; no network can meet it"),
    "constant against a rule": ('kernel = { choices = [3, 5], per = "block" }', "kernel = 5", r"bad: rule 'small_first' .*stage.*no network can meet it"),
    "total stride that does not divide": ("total_stride = 8", "total_stride = 6", r"bad: stages\[2\]\.total_stride: \(6, 6\) is not a multiple of \(4, 4\)"),
    "stride and total stride": ("total_stride = 8", "total_stride = 8\nstride = 2", r"bad: stages\[2\]: has both stride and total_stride"),
    "stage that shortcuts where it cannot": ("rest = { shortcut = true }", "shortcut = true", r"bad: stages\[1\]: depthwise_separable.*a shortcut needs equal shapes"),
    "not TOML": ("version = 1", "version == 1", r"bad: not TOML: "),
    "head without classes": ('[head]\nblock = "classifier"\nwidth = { choices = [0, 640] }', '[head]\nblock = "conv"\nwidth = 8', r"bad: head: conv\(width=8\) does not end in classes"),
    "key of a stage in the head": ("[head]", "[head]\ndepth = 2", r"bad: head: key 'depth' is for stages only"),
}  # fmt: skip


def test_the_good_file_is_good():
    space = spaces.loads(GOOD, "good")
    # depths 1 to 3 with the first kernel fixed: 1 + 2 + 4; stage 2: 2 widths x 2 kinds
    assert space.size == 2 * 2 * (2 * 7) * (2 * 2) * 2


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    """Some editors put one at the beginning."""
    (tmp_path / "good.toml").write_text(GOOD, encoding="utf-8-sig")
    assert spaces.load(str(tmp_path / "good.toml")).size == spaces.loads(GOOD, "good").size


def test_the_version_is_looked_at_first():
    with pytest.raises(
        SpaceError, match=r"^bad: version: 9 is not 1, the format this lcnas reads$"
    ):
        spaces.loads("version = 9\nnetworks = []", "bad")


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_file_is_refused_in_one_line(case):
    old, new, message = BAD[case]
    assert old in GOOD
    with pytest.raises(SpaceError) as caught:
        spaces.loads(GOOD.replace(old, new), "bad")
    assert "\n" not in str(caught.value)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_widths_that_must_not_fall_but_can_only_fall():
    text = GOOD.replace("[16, 24]", "[64, 96]").split("[[rules]]")[0]
    text += '\n[[rules]]\nname = "grow"\nnon_decreasing = "width"\n'
    with pytest.raises(SpaceError, match=r"bad: rules: no network meets 'grow'"):
        spaces.loads(text, "bad")


def test_a_stage_that_could_begin_earlier_is_refused():
    text = """
version = 1
resolution = [32]
[stem]
block = "conv"
width = 16
stride = 2
[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [16, 32] }
[[stages]]
block = "depthwise_separable"
depth = 1
stride = 1
width = { choices = [32, 64] }
[head]
block = "classifier"
"""
    with pytest.raises(
        SpaceError, match=r"bad: stages\[2\]: .* one network could have two spellings"
    ):
        spaces.loads(text, "bad")
    # With a fixed depth, or without a width in common, there is one spelling.
    assert spaces.loads(text.replace("{ from = 1, to = 2 }", "2")).size == 4
    assert spaces.loads(text.replace("[32, 64]", "[48, 64]")).size == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # 0.5 and 0.51 round to the same widths
        (
            "choices = [0.5, 0.51]",
            r"bad: network: scale = 0\.5 and scale = 0\.51 can give the same network",
        ),
        ("choices = [0.5, true]", r"bad: network\.scale: True cannot scale a base"),
        ("choices = [0.5, -1]", r"bad: network\.scale: -1 cannot scale a base"),
        ('patterns = { a = "01" }', r"bad: network\.scale: key 'values' is missing"),
        ("", r"bad: network\.scale: needs either choices or patterns"),
    ],
)
def test_network_wide_genes(values, message):
    text = f"""
version = 1
resolution = [32]
[network.scale]
{values}
[stem]
block = "conv"
width = {{ gene = "scale", base = 32 }}
[[stages]]
block = "depthwise_separable"
stride = 2
width = {{ gene = "scale", base = 64 }}
[head]
block = "classifier"
"""
    with pytest.raises(SpaceError) as caught:
        spaces.loads(text, "bad")
    assert re.search(message, str(caught.value)), str(caught.value)


def test_a_kind_of_block_against_a_rule():
    text = (
        GOOD.replace('["mine", "expand_compress"]', '["large", "expand_compress"]')
        .replace("[stem]", '[blocks.large]\ntype = "depthwise_separable"\nkernel = 5\n\n[stem]')
        .replace("width = { choices = [32, 48] }", "width = 32\nkernel = 3")
        .replace('in = ["stage1.first"]', "")
    )
    with pytest.raises(
        SpaceError, match=r"'small_first' does not allow blocks\.large: kernel = 5 in stage2"
    ):
        spaces.loads(text, "bad")


def test_kinds_of_block_that_are_the_same_are_refused():
    text = GOOD.replace('["mine", "expand_compress"]', '["mine", "also_mine"]').replace(
        "[stem]",
        '[blocks.also_mine]\ntype = "depthwise_separable"\nrest = { shortcut = true }\n\n[stem]',
    )
    with pytest.raises(
        SpaceError, match=r"gene 'stage2_block': 'mine' and 'also_mine' always give the same"
    ):
        spaces.loads(text, "bad")


def test_kinds_of_block_that_overlap_in_part_are_refused():
    text = """
version = 1
resolution = [32]
[blocks.any]
type = "depthwise_separable"
[blocks.small]
type = "depthwise_separable"
kernel = 3
[stem]
block = "conv"
width = 8
[[stages]]
block = { choices = ["any", "small"] }
depth = 2
stride = 2
width = 16
kernel = { choices = [3, 5], per = "block" }
[head]
block = "classifier"
"""
    with pytest.raises(SpaceError, match=r"some of the same networks at depth 2, but not all"):
        spaces.loads(text, "bad")


def test_patterns_need_a_digit_for_each_block():
    text = """
version = 1
resolution = [32]
[network.se]
patterns = { none = "000", last = "011" }
values = { 0 = false, 1 = true }
[stem]
block = "conv"
width = 8
[[stages]]
block = "depthwise_separable"
depth = 2
stride = 2
width = 16
se = { gene = "se" }
[head]
block = "classifier"
"""
    with pytest.raises(
        SpaceError, match=r"network\.se\.patterns\.none: has 3 digits, but the stages have 2 blocks"
    ):
        spaces.loads(text, "bad")
    fixed = text.replace('"000"', '"00"').replace('"011"', '"01"')
    assert spaces.loads(fixed).size == 2
    with pytest.raises(SpaceError, match="patterns need stages of fixed depth"):
        spaces.loads(fixed.replace("depth = 2", "depth = { from = 1, to = 2 }"), "bad")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "pplcnet_tial",
            r"space: 'pplcnet_tial' is not among lcnet_next, .*did you mean 'pplcnet_tail'",
        ),
        ("no/such/file.toml", r"space: there is no file no/such/file\.toml"),
        (7, "space: 7 is not among"),
        ("", "space: '' is not among"),
        ("a\0b.toml", "is not among"),
    ],
)
def test_unknown_spaces(name, message):
    with pytest.raises(SpaceError, match=message) as caught:
        spaces.load(name)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_users_own_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert spaces.load("mine.toml").name == "mine"
    assert spaces.load(tmp_path / "mine.toml").size == spaces.loads(GOOD).size
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpaceError, match=r"bad\.toml: is not UTF-8"):
        spaces.load(tmp_path / "bad.toml")
    with pytest.raises(SpaceError, match="there is no file"):
        spaces.load(tmp_path)


@pytest.fixture(scope="module")
def space():
    return spaces.loads(PER_BLOCK, "per_block")


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (
            [[9] * 11],
            r"codes: row 0, gene 'stem_width': 9 is not one of 0 to 1, which stand for 8, 16; the nearest is 1",
        ),
        ([[-1] + [0] * 10], r"row 0, gene 'stem_width': -1 .*the nearest is 0"),
        ([[0] * 10], r"codes: shape \(1, 10\) is not \(n, 11\)"),
        ([[0.0] * 11], "codes: float64 is not an integer type"),
        ([[True] * 11], "codes: bool is not an integer type"),
        ("abc", "is not an integer type"),
    ],
)
def test_codes_out_of_range(space, codes, message):
    for use in (space.decode, space.canonical, space.block_ids):
        with pytest.raises(CodesError, match=message):
            use(codes)


def test_no_codes_are_no_networks(space):
    assert space.decode(np.zeros((0, 11), dtype=np.int64)) == []
    assert space.sample_codes(0, np.random.default_rng(0)).shape == (0, 11)
    assert space.encode([]).shape == (0, 11)


def test_a_network_of_another_space_is_refused(space):
    other = spaces.load("pplcnet_tail").sample(np.random.default_rng(0))
    for use in (space.encode, space.neighbors, lambda a: space.mutate(a, np.random.default_rng(0))):
        with pytest.raises(
            SpaceError, match=r"pplcnet_tail is not in per_block: resolution: 224 is not among 32"
        ):
            use(other)
    with pytest.raises(SpaceError, match="is not an Arch"):
        space.why_not("pplcnet_0.5x")
    assert "pplcnet_0.5x" not in space
    with pytest.raises(CodesError, match="n: -1 is not a whole number"):
        space.sample_codes(-1, np.random.default_rng(0))


def test_order_rules_bind_codes_too():
    text = PER_BLOCK + '\n[[rules]]\nname = "grow"\nnon_decreasing = "width"\n'
    space = spaces.loads(text, "grow")
    names = [gene.name for gene in space.genes]
    assert "stage1_width" not in names  # fixed at 16: every stem fits, and every width of stage 2
    with pytest.raises(SpaceError, match=r"rule 'se_grow': stages\[1\]\.se is not one number"):
        spaces.loads(PER_BLOCK + '\n[[rules]]\nname = "se_grow"\nnon_decreasing = "se"\n')
    shrunk = spaces.loads(
        text.replace("width = { choices = [16, 24, 32] }", "width = { choices = [8, 24] }"), "grow"
    )
    codes = np.zeros(len(shrunk.genes), dtype=np.int64)
    with pytest.raises(
        CodesError, match=r"row 0 breaks rule 'grow': width falls from 16 to 8 in stage2"
    ):
        shrunk.decode(codes)
