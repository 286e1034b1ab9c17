"""The measure command: its table, its file, and its errors."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lcnas import commandline, measure, onnx_export, profile_blocks, zoo
from lcnas.errors import LcnasError
from lcnas.latency import engines
from lcnas.latency.sources import OnnxFile
from tests.latency.test_sources import failing

QUICK = [
    "--engine",
    "mlas",
    "--sessions",
    "1",
    "--rounds",
    "2",
    "--most-rounds",
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
    assert f"{data['noise_floor']['mean']:.1%} off on average" in printed
    for network in data["networks"]:
        assert 0 < network["low"] <= network["ms"] <= network["high"]
        assert (network["rounds"], network["sessions"]) == (4, 2)  # of two measurements
        assert len(network["quantiles"]) == 5
        first, again = sorted([network["first_ms"], network["again_ms"]])
        assert first <= network["ms"] * 1.0001
        assert network["ms"] <= again * 1.0001
    off = [abs(n["again_ms"] / n["first_ms"] - 1) for n in data["networks"]]
    assert data["noise_floor"]["mean"] == pytest.approx(sum(off) / 3)
    assert data["noise_floor"]["largest"] == pytest.approx(max(off))
    assert data["networks"][0]["ratio_to_first"] == [1.0, 1.0, 1.0]
    assert data["networks"][1]["id"] == zoo.load("pplcnet_0.5x", 32).id
    assert data["networks"][2]["id"] == zoo.load("pplcnet_0.35x", 32).id  # the file records it


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
        ([""], "network: '' names none"),
        (["a" * 300], "network: 'aaa.* is not among"),
        (["a" * 300 + ".onnx"], r"there is no file aaa.*\.\.\..*\.(onnx|json)$"),
        (["a" * 300 + ".json"], r"there is no file aaa.*\.\.\..*\.(onnx|json)$"),
        (["a\0b"], "is not among"),
    ],
)
def test_names_of_no_network(names, message):
    with pytest.raises(LcnasError, match=message) as caught:
        measure.find(names)
    assert "\n" not in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(LcnasError, match=r"has no \.json and no \.onnx file"):
        measure.find([str(tmp_path)])


def test_files_of_one_stem_are_named_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = zoo.load("pplcnet_0.25x", 32).to_json()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.json").write_text(text)
    (tmp_path / "a" / "net.onnx").write_bytes(b"")
    (tmp_path / "pplcnet_0.5x.json").write_text(text)
    arguments = ["a", "./b/net.json", "pplcnet_0.5x", "pplcnet_0.5x.json"]
    names = ["a/net.json", "a/net.onnx", "b/net.json", "pplcnet_0.5x", "pplcnet_0.5x.json"]
    assert [Path(name) for name in measure.find(arguments)] == [Path(name) for name in names]
    assert list(measure.find(["a/net.onnx"])) == ["net"]
    with pytest.raises(LcnasError, match=r"net\.json is named twice"):
        measure.find(["a/net.json", "./a/net.json"])


def test_a_resolution_that_an_onnx_file_does_not_take_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx_export.export(zoo.load("pplcnet_0.35x", 32), tmp_path / "theirs.onnx", classes=10)
    argv = [*QUICK, "pplcnet_0.25x", "theirs.onnx"]
    assert measure.main(argv) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "resolution: an ONNX file keeps its own; not changed: " in err
    assert "theirs.onnx" in err
    rest = [word for word in QUICK if word not in ("--resolution", "32")]
    assert measure.main([*rest, str(tmp_path / "theirs.onnx")]) == 0
    assert capsys.readouterr().err == ""


def test_a_file_trained_at_another_resolution_than_it_takes_is_reported(tmp_path, capsys):
    """As searches wrote them: trained at 32 pixels, exported for 48."""
    validation = {"accuracy": 0.98, "pictures": 100, "resolution": 32}
    for name, about in (
        ("old", {"lcnas.validation": json.dumps(validation)}),
        ("same", {"lcnas.validation": json.dumps({**validation, "resolution": 48})}),
    ):
        model = onnx_export.export(zoo.load("pplcnet_0.25x", 48), classes=10)
        for key, value in about.items():
            model.metadata_props.add(key=key, value=value)
        onnx_export.save(model, tmp_path / f"{name}.onnx")
    rest = [word for word in QUICK if word not in ("--resolution", "32")]
    assert measure.main([*rest, str(tmp_path)]) == 0
    line = "was trained at 32x32 pixels, but takes 48x48: accuracies reported for it are those of 32x32"
    assert capsys.readouterr().err == f"python -m lcnas.measure: {tmp_path / 'old.onnx'}: {line}\n"


def test_a_file_that_was_tested_in_bf16_is_reported(tmp_path, capsys):
    model = onnx_export.export(zoo.load("pplcnet_0.25x", 32), classes=10)
    model.metadata_props.add(key="lcnas.precision", value="bf16")
    onnx_export.save(model, tmp_path / "a.onnx")
    rest = [word for word in QUICK if word not in ("--resolution", "32")]
    assert measure.main([*rest, str(tmp_path)]) == 0
    warning = "was tested in bf16, is run in fp32 (--precision bf16)"
    line = f"{warning}: accuracies reported for it are those of bf16"
    assert capsys.readouterr().err == f"python -m lcnas.measure: {tmp_path / 'a.onnx'}: {line}\n"
    assert onnx_export.precision_warning(model, "bf16") is None


def test_the_table_at_20_columns_lacks_no_value(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    calls = []

    def report(measurements, columns):
        calls.append((measurements, columns))
        return ""

    monkeypatch.setattr(measure, "report", report)
    assert measure.main([*QUICK, "pplcnet_0.25x", "pplcnet_0.35x"]) == 0
    capsys.readouterr()
    monkeypatch.undo()
    (measurements, columns), *_ = calls
    wide, narrow = measure.report(measurements), measure.report(measurements, columns)
    assert measure.report(measurements, 80) == wide
    lines = narrow.split("\n\n")[1].splitlines()
    assert lines[0] == "pplcnet_0.25x"
    assert lines[1] == f"  ms: {measurements.measured['pplcnet_0.25x'].ms:.3f}"
    assert max(map(len, lines)) <= 20
    values = re.findall(r"\d+\.\d+", wide.split("\n\n")[1])
    assert re.findall(r"\d+\.\d+", " ".join(lines)) == values


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_refused_with_code_2_and_a_link_is_followed(tmp_path, monkeypatch, capsys):
    pipe, link, out = tmp_path / "pipe", tmp_path / "link.json", tmp_path / "out.json"
    os.mkfifo(pipe)
    monkeypatch.setattr("sys.argv", ["measure", "pplcnet_0.25x", "--json", str(pipe)])
    with pytest.raises(SystemExit) as caught:
        commandline.run(measure.PROG, measure.main)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "json: " in err
    assert "pipe: is a pipe, not a file" in err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link.symlink_to(out)
    assert measure.main([*QUICK, "pplcnet_0.25x", "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(out.read_text())["format"] == "lcnas-measurements"


def test_a_file_that_cannot_be_run_leaves_with_code_2_and_one_line(tmp_path, monkeypatch, capsys):
    path = failing(tmp_path / "theirs.onnx")
    monkeypatch.setattr("sys.argv", ["measure", "--engine", "mlas", str(path)])
    with pytest.raises(SystemExit) as caught:
        commandline.run(measure.PROG, measure.main)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "theirs.onnx: engine mlas: cannot run the model: " in err


def test_a_time_budget_ends_it_once_all_were_visited(tmp_path):
    out = tmp_path / "measured.json"
    many = ["--rounds", "500", "--most-rounds", "500", "--time-budget", "0"]
    argv = [*QUICK, *many, "pplcnet_0.25x", "pplcnet_0.35x", "--json", str(out)]
    assert measure.main(argv) == 0
    rounds = [network["rounds"] for network in json.loads(out.read_text())["networks"]]
    assert rounds == [2, 2]  # one visit in each measurement


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--json", ""], "json: '' is not the name of a file"),
        (["--json", "x" * 300], "json: 'xxx.* is not the name of a file of 1 to 255 characters"),
        (["--json", "FOLDER"], "json: .* is a folder, not a file"),
        (["--json", "FOLDER/file/out.json"], "json: .*file is not a folder"),
        (["--rounds", "4", "--most-rounds", "3"], "most-rounds: 3 is below rounds, 4"),
        (["--classes", "0"], "classes: '0' is not"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_measured(
    argv, message, tmp_path, monkeypatch
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    monkeypatch.chdir(tmp_path)  # a message cuts long paths, as temporary ones may be
    monkeypatch.setattr("lcnas.latency.visits_of", None)  # not to be called
    options = [text.replace("FOLDER", "folder") for text in argv]
    with pytest.raises(LcnasError, match=message) as caught:
        measure.main(["pplcnet_0.25x", "--engine", "mlas", *options])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["pplcnet_0.5x", "--sessions", "0"],
        ["pplcnet_0.5x", "--session", "2"],
        ["pplcnet_0.5x", "--rounds", "1" + "0" * 5000],
        ["pplcnet_0.5x", "--rounds", "\u0663"],
        ["pplcnet_0.5x", "--target", "nan"],
        ["pplcnet_0.5x", "--time-budget", "-1"],
        ["pplcnet_0.5x", "--seed", "-1"],
    ],
)
def test_bad_arguments_leave_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        measure.main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".json", "a" * 300 + ".onnx", ""])
def test_a_name_that_no_file_can_have_leaves_with_code_2(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["measure", name])
    with pytest.raises(SystemExit) as caught:
        commandline.run(measure.PROG, measure.main)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert len(err) < 500


@pytest.mark.parametrize(("number", "code"), [(errno.ENAMETOOLONG, 2), (errno.ENOSPC, 1)])
def test_exit_codes_of_the_system_s_errors(number, code, capsys):
    def main(_: list[str]) -> int:
        raise OSError(number, "reported by the system")

    with pytest.raises(SystemExit) as caught:
        commandline.run("lcnas.something", main)
    assert caught.value.code == code
    assert capsys.readouterr().err.endswith("reported by the system\n")


@pytest.mark.parametrize("command", [measure, profile_blocks])
def test_help_names_each_option_s_value_and_its_default(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    options = re.findall(r"^  (--[a-z-]+) \[?([A-Z]+)", text, re.MULTILINE)
    listed = re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)
    assert [
        name for name, _ in options
    ] == listed  # each has the name of its value, none its choices
    values = dict(options)
    assert values["--precision"] == "P"
    assert values["--time-budget"] == "S"
    assert "seconds" in text
    assert "pixels" in text


def test_open_sides_of_an_onnx_file_are_closed_by_the_resolution(tmp_path, capsys):
    """The file's own sides stay; the batch is --batch's; without a size there is one clear line."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = tmp_path / "open.onnx"
    onnx.save(model, file)
    quick = QUICK[: QUICK.index("--resolution")]
    with pytest.raises(
        LcnasError, match=r"open\.onnx: its input 'x' is \?x3x\?x\?: height and width"
    ):
        measure.main([*quick, str(file)])
    out = tmp_path / "out.json"
    argv = [*quick, "--batch", "2", "--resolution", "32x48", str(file), "--json", str(out)]
    assert measure.main(argv) == 0
    assert capsys.readouterr().err == ""
    (network,) = json.loads(out.read_text())["networks"]
    assert (network["name"], network["size"]) == ("open", [32, 48])
    (source,) = measure.find([str(file)], (32, 48)).values()
    assert source == OnnxFile(file, (32, 48))


def test_files_that_are_no_model_leave_with_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    monkeypatch.setattr("sys.argv", ["measure", *QUICK, str(tmp_path / "net.onnx")])
    with pytest.raises(SystemExit) as caught:
        commandline.run(measure.PROG, measure.main)
    assert caught.value.code == 2
    err = capsys.readouterr().err.splitlines()
    assert "net.onnx: is not an ONNX model" in err[-1]


@pytest.mark.parametrize("isa", ["avx2", "avx512vnni"])
def test_int8_files_of_the_full_range_are_reported_where_the_processor_has_no_vnni(
    tmp_path, monkeypatch, capsys, isa
):
    machine = engines.machine_of("mlas")
    monkeypatch.setattr(engines, "machine_of", lambda _: dataclasses.replace(machine, isa=isa))
    monkeypatch.chdir(tmp_path)
    model = onnx_export.export(zoo.load("pplcnet_0.25x", 32), tmp_path / "fp32.onnx", classes=10)
    noise = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    for weights in onnx_export.WEIGHTS:
        quantised = onnx_export.quantise(model, [noise], weights=weights)
        (tmp_path / f"{weights}.onnx").write_bytes(quantised)
    rest = [word for word in QUICK if word not in ("--resolution", "32")]
    assert measure.main([*rest, "pplcnet_0.25x", "fp32.onnx", "7bit.onnx", "8bit.onnx"]) == 0
    err = capsys.readouterr().err
    if isa == "avx2":
        assert err.startswith("python -m lcnas.measure: 8bit.onnx: 8-bit weights of the full range")
        assert err.count("\n") == 1
    else:
        assert err == ""
    (tmp_path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(LcnasError, match=r"none\.onnx: is not an ONNX model"):
        measure.main([*rest, "none.onnx"])
