"""The profile_blocks command, on real engines but few blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lcnas import profile_blocks, zoo
from lcnas.arch import walk
from lcnas.errors import LcnasError
from lcnas.latency.table import LatencyTable

ROOT = Path(__file__).resolve().parents[1]
FEW = ["--engine", "mlas", "--resolution", "32", "--classes", "10"]


def test_blocks_of_a_network_are_measured_and_written(tmp_path, capsys):
    argv = ["--blocks-from", "pplcnet_0.25x", *FEW, "--out", str(tmp_path)]
    assert profile_blocks.main(argv) == 0
    printed = capsys.readouterr()
    assert "11 entries, 0 whole networks" in printed.out
    assert "not validated" in printed.out
    assert "blocks alone" in printed.err
    (path,) = tmp_path.glob("*.json")
    table = LatencyTable.load(path)
    assert table.of_this_machine()
    arch = zoo.load("pplcnet_0.25x", 32)
    assert set(table.entries) == set(walk(arch, None, 10))
    assert 0 < table.predict(arch, classes=10)[0] < 50
    # again: nothing remains to be measured, and the table stays as it is
    before = path.read_bytes()
    assert profile_blocks.main(argv) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--space", "pplcnet_tial"], "did you mean 'pplcnet_tail'"),
        (["--engine", "openvin"], "did you mean 'openvino'"),
        (["--blocks-from", "pplcnet_0.5"], "network: 'pplcnet_0.5' is not among"),
        (["--resolution", "big"], "resolution: 'big' is neither a side"),
        (["--classes", "0"], "classes: '0' is not a whole number"),
        (["--threads", "0"], "threads: 0 is not a whole number"),
        (["--blocks", "nowhere.py"], "blocks: there is no file nowhere.py"),
        (["--space", "a" * 300], "space: 'aaa.* is not among"),
        (["--blocks-from", ""], "network: '' is not among"),
    ],
)
def test_bad_arguments(argv, message, tmp_path):
    with pytest.raises(LcnasError, match=message) as caught:
        profile_blocks.main([*argv, "--out", str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LcnasError, match="is not a folder"):
        profile_blocks.main(["--out", str(tmp_path / "file")])


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "out: '' names no folder"),
        ("a" * 300, r"out: 'aaa.* names no folder \(names have 1 to 255 bytes\)"),
        ("a/" * 3000, "out: 'a/a/.* names no folder"),
        ("a\0b", "out: 'a.*b' names no folder"),
    ],
)
def test_names_that_no_folder_can_have(out, message):
    with pytest.raises(LcnasError, match=message):
        profile_blocks.main(["--out", out])


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LcnasError, match=r"out: .* is read-only"):
        profile_blocks.main(["--out", str(tmp_path / "new")])
    assert list(tmp_path.iterdir()) == []


def test_the_summary_has_the_error_in_total_and_by_band():
    path = next((ROOT / "latency_tables").glob("*-fp32-t1-b1.json"))
    table = LatencyTable.load(path)
    text = profile_blocks.summary(table)
    assert text.startswith(table.machine_label)
    for errors in table.errors.values():
        for role, where in (("held_out", "latency bands"), ("uniform", "uniform over the space")):
            e = errors[role]
            assert f"{e['fit']['mape']:.1%}" in text
            covered = (
                f"intervals hold {e['coverage_90']:.0%} of {e['fit']['n']} networks, .*{where}"
            )
            assert re.search(covered, text)
            for band in e["bands"]:
                label = f"{band['from_ms']:.2f}-{band['to_ms']:.2f} ms {band['mape']:.1%}"
                assert re.search(f"by latency, .*{where}: .*{re.escape(label)}", text)


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [
        (["--validate", "-1"], "from 0 to 10000"),
        (["--validate", "many"], "from 0 to 10000"),
        (["--validate", "1000000000"], "from 0 to 10000"),
        (["--calibrate", "10001"], "from 0 to 10000"),
        (["--time-budget", "nan"], "from 0 to 1e+06"),
        (["--time-budget", "-5"], "from 0 to 1e+06"),
        (["--time-budget", "inf"], "from 0 to 1e+06"),
        (["--seed", "1.5"], "from 0 to 4294967295"),
        (["--valdate", "3"], "did you mean '--validate'"),
    ],
)
def test_arguments_that_are_no_numbers(argv, allowed, capsys):
    with pytest.raises(SystemExit) as caught:
        profile_blocks.main(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert allowed in err
