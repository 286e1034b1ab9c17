"""The measure command: its table, its file, and what it refuses."""

from __future__ import annotations

import json

import pytest

from lcnas import measure, onnx_export, zoo
from lcnas.errors import LcnasError

QUICK = [
    "--engine",
    "mlas",
    "--sessions",
    "1",
    "--rounds",
    "2",
    "--resolution",
    "32",
    "--classes",
    "10",
]


def test_networks_are_measured_side_by_side_and_written(tmp_path, capsys):
    ours = tmp_path / "ours.json"
    ours.write_text(zoo.load("pplcnet_0.5x", 32).to_json())
    onnx_export.export(zoo.load("pplcnet_0.35x", 32), tmp_path / "theirs.onnx", classes=10)
    out = tmp_path / "out" / "measured.json"
    names = ["pplcnet_0.25x", str(ours), str(tmp_path / "theirs.onnx")]
    assert measure.main([*QUICK, *names, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    for name in ("pplcnet_0.25x", "ours", "theirs"):
        assert name in printed
    data = json.loads(out.read_text())
    assert [n["name"] for n in data["networks"]] == ["pplcnet_0.25x", "ours", "theirs"]
    assert data["engine"]["name"] == "mlas"
    assert data["machine"]["cpu"]
    for entry in data["networks"]:
        assert 0 < entry["low"] <= entry["ms"] <= entry["high"]
        assert entry["rounds"] == 2
    assert data["networks"][0]["ratio_to_first"] == [1.0, 1.0, 1.0]
    assert data["networks"][1]["id"] == zoo.load("pplcnet_0.5x", 32).id
    assert data["networks"][2]["id"] is None


def test_a_folder_stands_for_its_files(tmp_path):
    for scale in ("0.25", "0.5"):
        (tmp_path / f"net_{scale}.json").write_text(zoo.load(f"pplcnet_{scale}x", 32).to_json())
    (tmp_path / "notes.txt").write_text("")
    assert list(measure.find([str(tmp_path)])) == ["net_0.25", "net_0.5"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pplcnet_0.5"], "network: 'pplcnet_0.5' is not among .*did you mean"),
        (["nowhere.onnx"], r"there is no file nowhere\.onnx"),
        (["nowhere.json"], r"there is no file nowhere\.json"),
        (["pplcnet_0.5x", "pplcnet_0.5x"], "pplcnet_0.5x is named twice"),
    ],
)
def test_networks_that_are_none(names, message):
    with pytest.raises(LcnasError, match=message) as caught:
        measure.find(names)
    assert "\n" not in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(LcnasError, match=r"has no \.json and no \.onnx file"):
        measure.find([str(tmp_path)])


@pytest.mark.parametrize(
    "argv", [[], ["pplcnet_0.5x", "--sessions", "0"], ["pplcnet_0.5x", "--session", "2"]]
)
def test_bad_arguments_leave_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        measure.main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        measure.main(["--help"])
    assert caught.value.code == 0
    assert "--precision" in capsys.readouterr().out
