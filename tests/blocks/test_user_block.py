"""The page on blocks: its table is whole, and its worked example needs no file but its own."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lcnas import blocks, cost, layers, spaces
from lcnas.arch import Arch, place, walk
from lcnas.blocks import _base
from lcnas.errors import BlockError, LcnasError


@pytest.fixture(scope="module")
def page(checkout):
    return (checkout / "docs" / "reference" / "blocks.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(page, tmp_path, monkeypatch):
    """The files of the page, where a user would put them: somewhere else."""
    monkeypatch.setattr(_base, "_vocabulary", dict(_base._vocabulary))
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"^```\w+\n# (\w+\.\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["my_block.py", "my_space.toml"]
    for name, text in files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def sandglass(folder):
    blocks.load_files(["my_block.py"])
    return blocks.find("sandglass")


def test_the_table_has_every_block_of_the_vocabulary(page):
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    ours = [name for name in blocks.types() if blocks.find(name).__module__.startswith("lcnas.")]
    assert sorted(listed) == ours


def test_it_is_counted(sandglass):
    # 48 -> 8 in the middle -> 64, stride 2
    placed = place(sandglass(64, kernel=5, stride=2), (8, 8, 48))
    assert placed.out_shape == (4, 4, 64)
    params = (25 * 48 + 96) + (48 * 8 + 16) + (8 * 64 + 128) + (25 * 64 + 128)
    macs = 64 * (25 * 48 + 48 * 8 + 8 * 64) + 16 * 25 * 64
    assert (cost.of(placed).params, cost.of(placed).macs) == (params, macs)
    acts = [getattr(leaf, "act", None) for leaf, _, _ in layers.visit(placed.layer, (8, 8, 48))]
    assert acts == ["relu6", "identity", "relu6", "identity"]


def test_it_is_checked_walked_and_saved(sandglass):
    net = Arch.of(
        {
            "stem": [blocks.ConvNormAct(32)],
            "body": [sandglass(32, shortcut=True), sandglass(48, reduction=4, stride=(2, 1))],
        },
        16,
    )
    assert walk(net)[-1].out_shape == (8, 16, 48)
    assert Arch.from_json(net.to_json()) == net
    with pytest.raises(BlockError, match=r"^sandglass\.act: 'relu7' is not among"):
        sandglass(32, act="relu7")
    with pytest.raises(BlockError, match=r"^sandglass: unknown key: 'widht' .*'width'\?$"):
        blocks.from_data({"type": "sandglass", "widht": 8})
    with pytest.raises(LcnasError, match=r"sandglass: a shortcut needs equal shapes"):
        walk(Arch.of({"all": [sandglass(8, shortcut=True)]}))


def test_a_space_uses_it(sandglass):
    space = spaces.load("my_space.toml")
    assert space.size == 48
    archs = list(space.enumerate())
    assert len(set(archs)) == 48
    for arch in archs:
        assert walk(arch)[-1].out_shape == (1000,)
        assert isinstance(arch.blocks[-2], sandglass)
    firsts = [arch.blocks[1] for arch in archs if isinstance(arch.blocks[1], sandglass)]
    assert len(firsts) == 24
    codes = space.sample_codes(5, np.random.default_rng(0))
    macs = [cost.macs(arch) for arch in space.decode(codes)]
    assert cost.macs_codes(space, codes).tolist() == macs


def show(*argv, cwd):
    line = [sys.executable, "-m", "lcnas.show", *argv]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def test_a_command_takes_the_file(sandglass, folder):
    net = Arch.of({"stem": [blocks.ConvNormAct(16, stride=2)], "body": [sandglass(24)]}, 8, "own")
    (folder / "net.json").write_text(net.to_json())
    done = show("--blocks", "my_block.py", "net.json", "my_space.toml", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"own  id {net.id}  input 8x8x3")
    assert re.search(r"^body +sandglass +width 24 +4x4x24 ", done.stdout, re.MULTILINE)
    assert "networks  48 " in done.stdout
    without = show("net.json", cwd=folder)
    assert (without.returncode, without.stdout) == (2, "")
    assert re.fullmatch(r".*stages\[1\]\.blocks\[0\]: .*'sandglass'.*\n", without.stderr)


def test_annotations_as_texts_work_too(folder):
    source = (folder / "my_block.py").read_text()
    (folder / "late.py").write_text(
        "from __future__ import annotations\n" + source.replace('"sandglass"', '"late_sandglass"')
    )
    blocks.load_files(["late.py"])
    late = blocks.from_data({"type": "late_sandglass", "width": 8})
    assert place(late, (4, 4, 48)).out_shape == (4, 4, 8)


def test_a_second_block_of_that_name_is_refused(sandglass, folder):
    shutil.copy("my_block.py", "copy.py")
    with pytest.raises(LcnasError, match=r"^blocks: copy\.py, line \d+: BlockError: .* is taken"):
        blocks.load_files(["copy.py"])
