"""The command `python -m lcnas.show`: what it prints, and how it refuses."""

import os
import re
import subprocess
import sys

import pytest

from lcnas import blocks, commandline, cost, show, spaces, zoo
from lcnas.arch import Arch, labels, walk
from lcnas.errors import LcnasError


@pytest.fixture(autouse=True)
def _any_width(monkeypatch):
    """Tables as wide as they are; tests/test_terminal.py has those of few columns."""
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(capsys, *argv):
    assert show.main([str(arg) for arg in argv]) == 0
    out = capsys.readouterr().out
    assert all(line == line.rstrip() for line in out.splitlines())
    return out


def command(*argv, **kwargs):
    line = [sys.executable, "-m", "lcnas.show", *map(str, argv)]
    return subprocess.run(line, capture_output=True, text=True, **kwargs)


def numbers(text):
    return [int(n.replace(",", "")) for n in re.findall(r"\b\d{1,3}(?:,\d{3})+\b|\b\d+\b", text)]


# -- a network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pplcnet_0.5x", "pplcnet_32_1.0x", "mobilenet_v3_large_1.0x"])
@pytest.mark.parametrize("classes", [1000, 10])
def test_the_columns_of_a_network_sum_to_its_totals(capsys, name, classes):
    out = shown(capsys, name, "--classes", classes)
    arch = zoo.load(name)
    rules = [i for i, line in enumerate(out.splitlines()) if set(line) == {"-"}]
    rows = [re.split(r"  +", line) for line in out.splitlines()[rules[0] + 1 : rules[1]]]
    assert [row[0] for row in rows] == list(labels(arch))
    assert [row[1] for row in rows] == [block.type for block in arch.blocks]
    params, params_share, macs, macs_share = (
        [float(row[i].replace(",", "")) for row in rows] for i in (-4, -3, -2, -1)
    )
    total = out.splitlines()[rules[1] + 1]
    assert numbers(total) == [sum(params), sum(macs)]
    assert numbers(total) == [cost.params(arch, classes), cost.macs(arch, None, classes)]
    for share in (params_share, macs_share):
        assert sum(share) == pytest.approx(100, abs=0.05 * len(rows))
    assert params_share[0] == pytest.approx(100 * params[0] / sum(params), abs=0.0501)


def test_a_network_has_its_name_id_shapes_and_published_accuracy(capsys):
    out = shown(capsys, "pplcnet_0.5x")
    arch = zoo.load("pplcnet_0.5x")
    assert out.startswith(f"pplcnet_0.5x  id {arch.id}  input 224x224x3  1000 classes\n")
    assert "56x56x32" in out
    assert re.search(r"stage5 block 2 +depthwise_separable +width 256 kernel 5 se ", out)
    assert f"{cost.paddle_flops(arch):,}" in out
    assert f"{cost.peak_memory(arch) / 2**20:.2f} MiB" in out
    assert "published ImageNet top-1 at 224x224: 63.14 %" in out
    assert "training, branches" not in out


def test_a_network_of_a_file_at_another_resolution(capsys, tmp_path):
    block = blocks.ConvNormAct(8, stride=(2, 1), branches=(3, 1))
    arch = Arch.of({"stem": [block], "head": [blocks.DenseHead()]}, name="pplcnet_0.5x")
    (tmp_path / "mine.json").write_text(arch.to_json())
    out = shown(capsys, tmp_path / "mine.json", "--resolution", "20x30", "--classes", "10")
    assert "input 20x30x3  10 classes" in out
    assert re.search(r"stem +conv +width 8 stride 2,1 branches 3,1 +10x30x8 ", out)
    assert f"branches included: {cost.params(arch, 10, training=True):,}" in out
    assert "published" not in out  # it only says that it is PP-LCNet


def test_several_at_once(capsys):
    both = shown(capsys, "pplcnet_0.5x", "pplcnet_32_0.5x")
    assert both.count("total ") == 2
    assert shown(capsys, "pplcnet_0.5x") in both


# -- a space ---------------------------------------------------------------------------------------


def test_a_space_has_genes_rules_size_and_extremes(capsys):
    space = spaces.load("pplcnet_tail")
    out = shown(capsys, "pplcnet_tail")
    assert f"networks  {space.size:,}  " in out
    assert f"distinct placed blocks  {len(space.placed_blocks()):,}\n" in out
    assert f"({len(space.genes)} genes)" in out
    assert all(text in out for text in space.rule_texts)
    assert re.search(r"stem_width +8, 16, 24, 32, 40\n", out)
    assert re.search(r"head_width +0, 640, 960, 1280, 1536\n", out)


@pytest.mark.parametrize("figure", ["macs", "params"])
def test_the_extremes_of_a_space_are_those_of_its_networks(capsys, figure):
    line = next(
        line
        for line in shown(capsys, "pplcnet").splitlines()
        if line.lower().startswith(f"{figure} ")
    )
    every = [getattr(cost.total(a), figure) for a in spaces.load("pplcnet").enumerate()]
    low, _, high, _ = numbers(line)
    assert (low, high) == (min(every), max(every))


def test_a_space_at_another_resolution(capsys):
    out = shown(capsys, "pplcnet_tail", "--resolution", "64", "--classes", "10")
    assert "input 64x64   10 classes" in out


def test_the_list_names_all(capsys):
    out = shown(capsys, "--list")
    for name in spaces.available():
        assert re.search(rf"^  {name} +{re.escape(spaces.load(name).summary)}$", out, re.MULTILINE)
    listed = {word.strip() for line in out.splitlines() for word in line.split(",")}
    assert set(zoo.names()) <= listed


# -- two networks ----------------------------------------------------------------------------------


def test_the_difference_of_two_networks(capsys):
    out = shown(capsys, "--diff", "pplcnet_0.25x", "pplcnet_32_0.25x")
    rows = [re.split(r"  +", line) for line in out.splitlines() if not line.startswith("-")]
    a, b = zoo.load("pplcnet_0.25x"), zoo.load("pplcnet_32_0.25x")
    assert rows == [
        ["", "pplcnet_0.25x", "pplcnet_32_0.25x"],
        ["resolution", "224x224", "32x32"],
        ["stem", "stride 2", "stride 1"],
        ["stage2 block 1", "stride 2", "stride 1"],
        ["params", f"{cost.params(a):,}", f"{cost.params(b):,}"],
        ["MACs", f"{cost.macs(a):,}", f"{cost.macs(b):,}"],
    ]


def test_blocks_that_only_one_network_has(capsys, tmp_path):
    a = zoo.load("pplcnet_0.5x")
    stages = {s.name: s.blocks for s in a.stages}
    stages["stage5"] = stages["stage5"][:1]
    stages["head"] = (blocks.DenseHead(),)
    (tmp_path / "b.json").write_text(Arch.of(stages).to_json())
    out = shown(capsys, "--diff", "pplcnet_0.5x", tmp_path / "b.json")
    assert re.search(
        r"^stage5 block 2 +depthwise_separable width 256 kernel 5 se +-$", out, re.MULTILINE
    )
    assert re.search(r"^head +classifier +dense_head$", out, re.MULTILINE)


def test_the_same_network_twice(capsys, tmp_path):
    (tmp_path / "b.json").write_text(zoo.load("pplcnet_0.5x").named("other").to_json())
    out = shown(capsys, "--diff", "pplcnet_0.5x", tmp_path / "b.json")
    assert out.startswith("the same network, ")
    assert "stage" not in out


def test_a_space_has_no_difference():
    with pytest.raises(LcnasError, match=r"^--diff: 'pplcnet_tail' is a space"):
        show.main(["--diff", "pplcnet_tail", "pplcnet_0.5x"])


# -- as a command ----------------------------------------------------------------------------------


def test_the_command_prints_what_main_prints(capsys):
    done = command("pplcnet_0.5x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown(capsys, "pplcnet_0.5x")


def test_help_lists_options_with_defaults():
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(default: 1000)" in done.stdout
    assert "None" not in done.stdout
    for option in ("--diff", "--list", "--resolution", "--classes", "--blocks"):
        assert option in done.stdout


WRONG = [
    (["pplcnet_0.5"], "did you mean 'pplcnet_0.5x'?"),
    (["pplcnet_tale"], "did you mean 'pplcnet_tail'?"),
    (["pplcnet_99x"], "outside 0.05 to 16.0"),
    (["vgg16_0.5x"], "vgg16 has no scales"),
    (["none.json"], "no file none.json"),
    (["none.toml"], "no file none.toml"),
    (["broken.json"], "broken.json: not JSON"),
    (["broken.toml"], "broken.toml"),
    (["text.txt"], "a network is a .json file"),
    ([], "name a network or a space"),
    (["--clases", "10", "pplcnet_0.5x"], "did you mean '--classes'?"),
    (["--classes"], "--classes"),
    (["--classes", "0", "pplcnet_0.5x"], "'0' is not a whole number of 1 to"),
    (["--classes", "ten", "pplcnet_0.5x"], "'ten'"),
    (["--classes", "1" * 99, "pplcnet_0.5x"], "whole number"),
    (["--resolution", "0", "pplcnet_0.5x"], "0 is outside 1 to 16384"),
    (["--resolution", "20x30x3", "pplcnet_0.5x"], "such as 80x160"),
    (["--resolution", "²", "pplcnet_0.5x"], "such as 80x160"),
    (["--resolution", "-1", "pplcnet_0.5x"], "'-1' is neither a side"),
    (["--resolution", "3", "vgg16"], "cannot take 1x1"),
    (["--diff", "pplcnet_0.5x"], "--diff"),
    (["--diff", "pplcnet_0.5x", "pplcnet_0.6"], "did you mean 'pplcnet_0."),
    (["--blocks", "none.py", "pplcnet_0.5x"], "no file none.py"),
    (["--blocks", "text.txt", "pplcnet_0.5x"], "not a Python file"),
    (["--blocks", "broken.py", "pplcnet_0.5x"], "broken.py, line 2: SyntaxError: "),
    (["--blocks", "raises.py", "pplcnet_0.5x"], "raises.py, line 3: BlockError: block type 'conv'"),
]


@pytest.fixture
def broken_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.toml").write_text("a =")
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "broken.py").write_text("import lcnas\ndef f(:\n")
    (tmp_path / "raises.py").write_text(
        "from lcnas import blocks\n\n@blocks.register('conv')\nclass Mine(blocks.Block):\n    pass\n"
    )


@pytest.mark.usefixtures("broken_files")
@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv)[:40] for argv, _ in WRONG])
def test_bad_input_is_one_line_and_exit_code_2(argv, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["show", *argv])
    with pytest.raises(SystemExit) as left:
        commandline.run(show.PROG, show.main)
    out, err = capsys.readouterr()
    assert left.value.code == 2
    assert out == ""
    assert re.fullmatch(r"python -m lcnas\.show: [^\n]+\n", err)
    assert words in err


@pytest.mark.usefixtures("broken_files")
def test_bad_input_of_the_command():
    done = command("pplcnet_0.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"[^\n]+did you mean 'pplcnet_0.5x'\?\n", done.stderr)


def test_a_name_too_long_is_no_traceback():
    done = command("a" * 5000 + ".json")
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")
@pytest.mark.parametrize("what", ["--list", "pplcnet_tail"])
def test_a_reader_that_has_seen_enough_is_no_error(what):
    # The reader is gone before anything is written.
    line = f"{{ sleep 0.5; '{sys.executable}' -m lcnas.show {what}; echo $? >&2; }} | true"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.stderr == "0\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_line_and_exit_code_1():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        line = [sys.executable, "-m", "lcnas.show", "pplcnet_0.5x"]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"python -m lcnas\.show: .*No space left on device\n", done.stderr)


def test_walk_and_show_agree_on_shapes(capsys):
    out = shown(capsys, "mobilenet_v3_large_1.0x", "--resolution", "64x96")
    for placed in walk(zoo.load("mobilenet_v3_large_1.0x").at((64, 96)))[:-1]:
        assert "x".join(map(str, placed.out_shape)) in out
