"""The profile_blocks command, on real engines but few blocks."""

from __future__ import annotations

import pytest

from lcnas import profile_blocks, zoo
from lcnas.arch import walk
from lcnas.errors import LcnasError
from lcnas.latency.table import LatencyTable

FEW = ["--engine", "mlas", "--resolution", "32", "--classes", "10"]


def test_blocks_of_a_network_are_measured_and_written(tmp_path, capsys):
    argv = ["--blocks-from", "pplcnet_0.25x", *FEW, "--out", str(tmp_path)]
    assert profile_blocks.main(argv) == 0
    printed = capsys.readouterr()
    assert "11 rows, 0 whole networks" in printed.out
    assert "not validated" in printed.out
    assert "blocks alone" in printed.err
    (path,) = tmp_path.glob("*.json")
    table = LatencyTable.load(path)
    assert table.of_this_machine()
    arch = zoo.load("pplcnet_0.25x", 32)
    assert set(table.rows) == set(walk(arch, None, 10))
    assert 0 < table.predict(arch, classes=10)[0] < 50
    # again: nothing is left to measure, and the table stays as it is
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


@pytest.mark.parametrize("argv", [["--validate", "-1"], ["--validate", "many"], ["--valdate", "3"]])
def test_arguments_that_are_no_numbers(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        profile_blocks.main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
