"""Networks as data: identity, JSON, pickling, errors with their place; and the walk."""

import itertools
import json
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from lcnas import blocks, layers, zoo
from lcnas.arch import MAX_BLOCKS, Arch, Stage, labels, place, walk
from lcnas.errors import ArchError
from lcnas.zoo.pplcnet import pplcnet


def small(resolution=(80, 160), name="small"):
    """A network with pairs, floats, lists, and a resolution that is not square."""
    return Arch.of(
        {
            "stem": [blocks.ConvNormAct(8, stride=(2, 1), act="gelu", branches=(3, 1))],
            "body": [
                blocks.MBConv(16, expansion=1.5, se_ratio=0.125),
                blocks.DepthwiseSeparable(16, kernel=(5, 3), se=True, shortcut=True),
            ],
            "head": [blocks.DenseHead((32, 8), "silu", dropout=0.25)],
        },
        resolution,
        name,
    )


# -- identity --------------------------------------------------------------------------------------

# Ids are in tables and result files: if one of these changes, none of those are found any more.
IDS = {
    "pplcnet_0.5x": "adc759345730cb525a7d",
    "small": "b123f2644095787843f0",
}


def test_ids_never_change():
    assert zoo.load("pplcnet_0.5x").id == IDS["pplcnet_0.5x"]
    assert small().id == IDS["small"]


REPORT = """
import pickle, sys
from lcnas import zoo
from lcnas.arch import Arch
sent = pickle.loads(sys.stdin.buffer.read())
here = Arch.from_json(sent.to_json())
print(zoo.load("pplcnet_0.5x").id, here.id, sent == here, hash(sent) == hash(here), {sent: 1}[here])
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_ids_and_pickles_hold_in_other_processes(hash_seed):
    arch = small()
    assert hash(arch)
    assert arch.id  # both are cached from here on, and must not travel
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", REPORT]
    done = subprocess.run(command, env=env, input=pickle.dumps(arch), stdout=subprocess.PIPE)
    assert done.stdout.decode().split() == [IDS["pplcnet_0.5x"], IDS["small"], "True", "True", "1"]


def test_a_pickle_comes_back_equal():
    arch = small()
    assert arch.id
    back = pickle.loads(pickle.dumps(arch))  # our own
    assert back == arch
    assert hash(back) == hash(arch)
    assert (back.name, back.stages) == (arch.name, arch.stages)


def test_names_and_stages_are_labels_only():
    arch = small()
    alone = Arch.of({"all": arch.blocks}, arch.resolution)
    assert alone == arch == arch.named("other")
    assert hash(alone) == hash(arch)
    assert alone.id == arch.id == arch.named("other").id
    assert len({arch, alone, arch.named("other")}) == 1
    assert arch.named("other").name == "other"


def test_blocks_and_resolution_are_what_a_network_is():
    arch = small()
    fewer = Arch.of({"all": arch.blocks[:-1]}, arch.resolution)
    turned = Arch.of({"all": arch.blocks[::-1]}, arch.resolution)
    others = [arch.at(224), arch.at((160, 80)), fewer, turned]
    assert len({arch, *others}) == 5
    assert len({arch.id, *(other.id for other in others)}) == 5
    assert arch != "small"


def test_a_square_has_one_spelling():
    arch = small(96)
    for same in (small((96, 96)), arch.at((96, 96)), small([96, 96])):
        assert same == arch
        assert same.id == arch.id
        assert same.resolution == 96


def test_at_keeps_blocks_and_name():
    arch = small().at(64)
    assert (arch.resolution, arch.name, arch.stages) == (64, "small", small().stages)


@pytest.mark.parametrize(
    ("resolution", "text"), [(64, "64px"), ((64, 64), "64px"), ((160, 80), "160x80px")]
)
def test_repr(resolution, text):
    arch = small(resolution)
    assert repr(arch) == f"Arch(small {arch.id[:8]}, {text}, 4 blocks)"


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [zoo.load("pplcnet_0.5x"), small(), small(32, "")], ids=repr)
def test_json_round_trip(arch, tmp_path):
    back = Arch.from_json(arch.to_json())
    assert back == arch
    assert (back.id, back.name, back.stages) == (arch.id, arch.name, arch.stages)
    path = tmp_path / "net.json"
    path.write_text(arch.to_json())
    assert Arch.load(path).stages == Arch.load(str(path)).stages == arch.stages
    assert Arch.from_json(arch.to_json().encode()) == arch


def test_json_has_a_block_a_line():
    text = small().to_json()
    rows = [line for line in text.splitlines() if '"type"' in line]
    assert [json.loads(row.rstrip(","))["type"] for row in rows] == [
        "conv",
        "mbconv",
        "depthwise_separable",
        "dense_head",
    ]
    assert text.endswith("}\n")


def test_a_name_may_be_left_out():
    data = json.loads(small().to_json())
    del data["name"]
    assert Arch.from_data(data).name == ""


def changed(change):
    data = json.loads(small().to_json())
    change(data)
    return data


def put(*path):
    """Return a change that puts the last of ``path`` at the place named by the others."""
    *keys, last, value = path

    def change(data):
        for key in keys:
            data = data[key]
        data[last] = value

    return change


def drop(*path):
    *keys, last = path

    def change(data):
        for key in keys:
            data = data[key]
        del data[last]

    return change


FIRST = ("stages", 0, "blocks", 0)
LATER = ("stages", 1, "blocks", 1)

WRONG = [
    (put("format", "lcnas-table"), ("format", "'lcnas-table'", "'lcnas-arch'")),
    (put("version", 2), ("version", "2", "1")),
    (put("version", True), ("version", "True", "1")),
    (put("version", "1"), ("version", "'1'")),
    (put("stagse", []), ("unknown key", "'stagse'", "did you mean 'stages'")),
    (drop("resolution"), ("'resolution' is missing", "format, version, name, resolution, stages")),
    (drop("stages"), ("'stages' is missing",)),
    (put("name", 3), ("name", "3", "text")),
    (put("name", "two\nlines"), ("two\\nlines", "printed")),
    (put("resolution", "224"), ("resolution", "'224'", "(height, width)")),
    (put("resolution", 224.0), ("resolution", "224.0")),
    (put("resolution", True), ("resolution", "True")),
    (put("resolution", None), ("resolution", "None")),
    (put("resolution", 0), ("resolution", "0", "1 to 16384")),
    (put("resolution", [224]), ("resolution", "[224]")),
    (put("resolution", [80, 160, 3]), ("resolution", "[80, 160, 3]")),
    (put("resolution", [80, 10**9]), ("resolution", "1000000000", "1 to 16384")),
    (put("stages", {}), ("stages", "{}", "list")),
    (put("stages", []), ("1 to 4096 blocks", "0")),
    (put("stages", 1, 7), ("stages[1]", "7", "name, blocks")),
    (put("stages", 1, "name", "stem"), ("stage names", "stem")),
    (put("stages", 1, "name", ""), ("stage names", "''")),
    (put("stages", 1, "name", "a\rb"), ("a\\rb", "printed")),
    (put("stages", 1, "name", None), ("stages[1].name", "None", "text")),
    (put("stages", 1, "block", []), ("stages[1]", "unknown key: 'block'", "did you mean 'blocks'")),
    (drop("stages", 2, "blocks"), ("stages[2]", "'blocks' is missing")),
    (put("stages", 2, "blocks", None), ("stages[2].blocks", "None", "list")),
    (put(*LATER, []), ("stages[1].blocks[1]", "[]", "table")),
    (drop(*LATER, "type"), ("stages[1].blocks[1]", "type")),
    (put(*LATER, "type", "depthwise_seperable"), ("stages[1].blocks[1]", "depthwise_separable'?")),
    (put(*LATER, "withd", 8), ("stages[1].blocks[1]", "'withd'", "did you mean 'width'")),
    (drop(*FIRST, "width"), ("stages[0].blocks[0]", "conv: missing width")),
    (put(*FIRST, "width", -8), ("stages[0].blocks[0]", "conv.width: -8")),
    (put(*FIRST, "width", 8.5), ("stages[0].blocks[0]", "conv.width: 8.5")),
    (put(*FIRST, "act", "sillu"), ("stages[0].blocks[0]", "conv.act", "did you mean 'silu'")),
    (put("stages", 1, "blocks", 0, "expansion", 10**400), ("blocks[0]", "mbconv.expansion")),
    (put("stages", 0, "blocks", [{"type": "conv", "width": 1}] * 5000), ("1 to 4096", "5003")),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_data_is_reported_in_one_line_with_its_place(change, words):
    with pytest.raises(ArchError) as caught:
        Arch.from_json(json.dumps(changed(change)), "net.json")
    message = str(caught.value)
    assert message.startswith("net.json: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ('{"format": -Infinity}', "-Infinity is not a JSON number"),
        ('{"version": 1' + "0" * 5000 + "}", "not JSON"),
        ("null", "None is not an object"),
        ("[]", "[] is not an object"),
        ('"' + "x" * 10_000 + '"', "is not an object"),
    ],
    ids=range(10),
)
def test_what_is_no_network_is_reported_in_one_line(text, word):
    with pytest.raises(ArchError) as caught:
        Arch.from_json(text)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_infinity_by_overflow_is_refused():
    text = small().to_json().replace("1.5", "1e999")
    with pytest.raises(ArchError, match=r"stages\[1\]\.blocks\[0\]: mbconv\.expansion: inf"):
        Arch.from_json(text)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ArchError, match=r"none\.json: cannot be read: No such file"):
        Arch.load(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"name": "caf\xe9"}')
    with pytest.raises(ArchError, match=r"latin\.json: not JSON: "):
        Arch.load(tmp_path / "latin.json")


def test_a_network_has_a_limited_number_of_blocks():
    block = blocks.ConvNormAct(8, 1)
    assert len(Arch((Stage("all", (block,) * MAX_BLOCKS),)).blocks) == MAX_BLOCKS
    with pytest.raises(ArchError, match="1 to 4096 blocks, got 4097"):
        Arch((Stage("all", (block,) * (MAX_BLOCKS + 1)),))
    with pytest.raises(ArchError, match="got 0"):
        Arch(())


# -- the walk --------------------------------------------------------------------------------------


def test_each_block_takes_what_the_one_before_gives():
    placed = walk(zoo.load("pplcnet_0.5x"))
    assert placed[0].in_shape == (224, 224, 3)
    for before, after in itertools.pairwise(placed):
        assert after.in_shape == before.out_shape
    sides = [p.out_shape[0] for p in placed[:-1]]
    assert sides == [112, 112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7]
    widths = [p.out_shape[2] for p in placed[:-1]]
    assert widths == [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    assert placed[-1].out_shape == (1000,)


def test_resolution_is_height_and_width():
    arch = small((80, 160))
    assert walk(arch)[0].in_shape == (80, 160, 3)
    assert walk(arch)[0].out_shape == (40, 160, 8)
    assert walk(arch, 32)[0].in_shape == (32, 32, 3)
    assert walk(arch, (32, 48))[0].out_shape == (16, 48, 8)


def test_only_blocks_that_need_the_classes_depend_on_them():
    placed = walk(small(), classes=7)
    assert placed[-1].out_shape == (7,)
    assert [p.depends_on_classes for p in placed] == [False, False, False, True]
    assert place(placed[0].block, placed[0].in_shape) == placed[0]
    assert place(placed[-1].block, placed[-1].in_shape) != placed[-1]


@pytest.mark.parametrize("classes", [0, -1, True, 1.0, "10", None])
def test_the_number_of_classes_is_checked(classes):
    with pytest.raises(ArchError, match=r"^classes: "):
        walk(small(), classes=classes)


def test_a_broken_chain_names_the_block_and_both_shapes():
    wrong = blocks.DepthwiseSeparable(24, shortcut=True)
    arch = Arch.of(
        {
            "stem": [blocks.ConvNormAct(16, stride=2)],
            "tail": [blocks.DepthwiseSeparable(16), wrong],
        },
        32,
        "mine",
    )
    with pytest.raises(ArchError) as caught:
        walk(arch)
    message = str(caught.value)
    assert message.startswith("mine: tail block 2, depthwise_separable(width=24, shortcut=True)")
    assert "cannot take 16x16x16: " in message
    assert "16x16x16 in and 16x16x24 out" in message
    assert "\n" not in message
    with pytest.raises(ArchError, match=rf"^{arch.id[:8]}: tail block 2"):
        walk(arch.named(""))


def test_an_image_too_small_is_reported():
    arch = Arch.of({"only": [blocks.ConvNormAct(8, 7, padding=(0, 0, 0, 0))]}, 5)
    with pytest.raises(ArchError, match=r"only, conv.*5x5x3.*kernel 7 .* input 5"):
        walk(arch)


def test_nothing_follows_a_head():
    arch = Arch.of({"head": [blocks.Classifier(), blocks.Classifier()]})
    with pytest.raises(ArchError, match=r"head block 2, .* cannot take 1000: .*height"):
        walk(arch)


def test_labels_name_each_block():
    assert labels(small()) == ("stem", "body block 1", "body block 2", "head")
    assert len(labels(zoo.load("pplcnet_0.5x"))) == 15
    assert labels(zoo.load("pplcnet_0.5x"))[-3:] == ("stage5 block 1", "stage5 block 2", "head")


def test_a_placed_block_in_words():
    placed = walk(small())[0]
    assert str(placed).endswith("branches=(3, 1)) 80x160x3 -> 40x160x8")


def text_line_network():
    """PaddleOCR's text line orientation classifier: PP-LCNet 0.25x with strides for wide images."""
    strides: Any = ((1, 2), 1, (2, 1), (2, 1), (2, 1), (2, 1))
    return pplcnet(0.25, last=0, strides=strides).at((80, 160))


def test_the_text_line_network():
    arch = text_line_network()
    placed = walk(arch, classes=2)
    ends = {label: p.out_shape for label, p in zip(labels(arch), placed, strict=True)}
    assert ends["stem"] == (80, 80, 8)
    assert ends["stage1"] == (80, 80, 8)
    assert ends["stage2 block 2"] == (40, 80, 16)
    assert ends["stage3 block 2"] == (20, 80, 32)
    assert ends["stage4 block 6"] == (10, 80, 64)
    assert ends["stage5 block 2"] == (5, 80, 128)
    assert ends["head"] == (2,)
    head = [leaf for leaf, _, _ in layers.visit(placed[-1].layer, placed[-1].in_shape)]
    assert head == [layers.GlobalPool(), layers.Flatten(), layers.Linear(2)]
    assert Arch.from_json(arch.to_json()) == arch
    assert arch != text_line_network().at((160, 80))
