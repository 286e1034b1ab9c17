"""The classify command: names of colours, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from lcnas import blocks, classify, onnx_export
from lcnas.arch import Arch
from lcnas.errors import LcnasError
from lcnas.latency import engines
from tests.onnx_export import tiny

NAMES = ["red", "green", "blue", "yellow"]
# A class for each channel, and one for red and green together.
WEIGHTS = np.array([[4, 0, 0, 3], [0, 4, 0, 3], [0, 0, 4, 0]], np.float32)
COLOURS = {
    "red": (250, 10, 5),
    "green": (5, 250, 20),
    "blue": (0, 30, 250),
    "yellow": (250, 240, 0),
}


def save(path, metadata=None, **settings):
    model = tiny.classifier(weights=WEIGHTS, bias=np.zeros(4), metadata=metadata, **settings)
    onnx_export.save(model, path)
    return str(path)


@pytest.fixture
def ours(tmp_path):
    about = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=0.875)
    return save(tmp_path / "ours.onnx", about)


@pytest.fixture
def photos(tmp_path):
    files = {}
    for (name, colour), suffix in zip(
        COLOURS.items(), (".png", ".webp", ".bmp", ".tif"), strict=True
    ):
        files[name] = str(tmp_path / f"{name}{suffix}")
        Image.new("RGB", (40, 30), colour).save(files[name])
    return files


def run(capsys, *argv):
    code = classify.main(["--engine", "mlas", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def guessed(out):
    return {
        p["file"]: [g["name"] for g in p.get("guesses", [])] for p in json.loads(out)["pictures"]
    }


def test_pictures_are_named(capsys, ours, photos):
    code, out, err = run(capsys, ours, *photos.values(), "--json")
    assert (code, err) == (0, "")
    assert {f: names[0] for f, names in guessed(out).items()} == {f: n for n, f in photos.items()}


def test_probabilities_are_the_softmax(capsys, ours, photos):
    _, out, _ = run(capsys, ours, photos["red"], "--json")
    logits = np.array(COLOURS["red"]) / 255 / 0.25 @ WEIGHTS
    shares = np.exp(logits) / np.exp(logits).sum()
    (picture,) = json.loads(out)["pictures"]
    assert [g["name"] for g in picture["guesses"]] == ["red", "yellow", "green", "blue"]
    order = [g["index"] for g in picture["guesses"]]
    made = [g["probability"] for g in picture["guesses"]]
    np.testing.assert_allclose(made, shares[order], rtol=1e-4)
    assert sum(made) == pytest.approx(1)


def test_everything_that_decided_is_in_the_json(capsys, ours, photos):
    _, out, _ = run(capsys, ours, photos["red"], "--json", "--top", "1")
    data = json.loads(out)
    assert data["model"] == ours
    assert data["engine"]["name"] == "mlas"
    assert data["preprocessing"] == {
        "size": [8, 6],
        "mean": [0, 0, 0],
        "std": [0.25, 0.25, 0.25],
        "crop": 0.875,
        "squash": False,
    }
    assert len(data["pictures"][0]["guesses"]) == 1


def test_the_table(capsys, ours, photos, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, ours, photos["red"], photos["blue"], "--top", "2")
    assert code == 0
    rows = [line for line in out.splitlines() if "%" in line]
    assert len(rows) == 4
    assert photos["red"] in rows[0]
    assert "red" in rows[0].replace(photos["red"], "")
    assert "yellow" in rows[1]
    assert photos["blue"] in rows[2]
    assert "blue" in rows[2].replace(photos["blue"], "")


def test_the_middle_is_looked_at_and_all_of_it_when_squashed(capsys, tmp_path, ours):
    """A wide picture, blue in the middle and red at both ends."""
    wide = np.full((16, 96, 3), COLOURS["red"], np.uint8)
    wide[:, 40:56] = COLOURS["blue"]
    path = tmp_path / "wide.png"
    Image.fromarray(wide).save(path)
    for more, name in (([], "blue"), (["--squash"], "red"), (["--crop", "0.5"], "blue")):
        _, out, _ = run(capsys, ours, str(path), "--json", *more)
        assert guessed(out)[str(path)][0] == name


def test_what_is_given_goes_before_what_is_recorded(capsys, ours, photos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("rot\ngrün\nblau\ngelb\n", encoding="utf-8")
    _, out, _ = run(
        capsys,
        *(ours, photos["red"], "--json", "--names", str(names)),
        *("--mean", "0.9", "0", "0", "--std", "1", "1", "1"),
    )
    data = json.loads(out)
    assert data["preprocessing"]["mean"] == [0.9, 0, 0]
    made = {g["name"]: g["probability"] for g in data["pictures"][0]["guesses"]}
    logits = (np.array(COLOURS["red"]) / 255 - [0.9, 0, 0]) @ WEIGHTS
    shares = np.exp(logits) / np.exp(logits).sum()
    wanted = dict(zip(("rot", "grün", "blau", "gelb"), shares, strict=True))
    assert made == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_files_of_others_say_what_is_taken(capsys, tmp_path, photos, layout):
    path = save(tmp_path / "theirs.onnx", layout=layout, batch=None, size=(None, None))
    code, out, err = run(capsys, path, *photos.values(), "--json")
    assert code == 0
    assert json.loads(out)["preprocessing"]["size"] == [224, 224]
    assert [names[0] for names in guessed(out).values()] == ["0", "1", "2", "3"]
    size, normal = err.splitlines()
    assert "takes any size; 224x224 is taken (--size)" in size
    assert "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225), crop 0.875" in normal
    _, out, err = run(
        capsys,
        *(path, photos["red"], "--json", "--size", "20x30"),
        *("--mean", "0", "0", "0", "--std", "1", "1", "1"),
    )
    assert json.loads(out)["preprocessing"]["size"] == [20, 30]
    assert err == ""


@pytest.mark.skipif(
    engines.default() != "openvino", reason="the OpenVINO provider is not installed"
)
def test_the_engine_that_is_asked_for_runs(capsys, ours, photos):
    code = classify.main([ours, photos["green"], "--json", "--engine", "openvino"])
    data = json.loads(capsys.readouterr().out)
    assert code == 0
    assert data["engine"]["name"] == "openvino"
    assert data["pictures"][0]["guesses"][0]["name"] == "green"


def test_a_network_of_ours_and_its_int8(capsys, tmp_path, photos):
    arch = Arch.of({"stem": [blocks.ConvNormAct(8, stride=2)], "head": [blocks.Classifier(8)]}, 16)
    model = tiny.Fake(arch, classes=4)
    about = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    file = onnx_export.export(
        model, tmp_path / "a.onnx", class_names=NAMES, normalization=about, crop=1.0
    )
    calibration = tiny.constant(*COLOURS.values(), (255, 255, 255), (0, 0, 0), size=(16, 16))
    (tmp_path / "int8.onnx").write_bytes(onnx_export.quantise(file, [calibration]))
    made = {}
    for name, precision in (("a.onnx", "fp32"), ("int8.onnx", "int8")):
        code, out, err = run(capsys, str(tmp_path / name), photos["red"], "--json")
        assert (code, err) == (0, "")
        data = json.loads(out)
        assert data["engine"]["precision"] == precision
        guesses = sorted(data["pictures"][0]["guesses"], key=lambda g: g["index"])
        made[precision] = np.array([g["probability"] for g in guesses])
        assert [g["name"] for g in guesses] == NAMES
    x = np.asarray(Image.new("RGB", (16, 16), COLOURS["red"]))[None]
    logits = model(((x / 255 - 0.5) / 0.2).astype(np.float32))[0]
    shares = np.exp(logits - logits.max())
    np.testing.assert_allclose(made["fp32"], shares / shares.sum(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(made["int8"], made["fp32"], atol=0.2)
    assert not np.array_equal(made["int8"], made["fp32"])


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avxvnni", "amx"])
def test_an_int8_file_of_the_full_range_is_told_where_the_processor_has_no_vnni(
    capsys, tmp_path, photos, monkeypatch, isa
):
    known = engines.machine_of("mlas")
    monkeypatch.setattr(engines, "machine_of", lambda _: dataclasses.replace(known, isa=isa))
    about = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=1.0)
    model = tiny.classifier(weights=WEIGHTS, bias=np.zeros(4), metadata=about)
    for weights in onnx_export.WEIGHTS:
        path = tmp_path / f"{weights}.onnx"
        batches = [tiny.constant(*COLOURS.values())]
        path.write_bytes(onnx_export.quantise(model, batches, weights=weights))
        code, _, err = run(capsys, str(path), photos["red"])
        assert code == 0
        if weights == "8bit" and isa in ("avx2", "avx512"):
            start = f"python -m lcnas.classify: {path}: 8-bit weights of the full range in 1 of 1 layers: "
            assert err.startswith(start)
            assert err.count("\n") == 1
        else:
            assert err == ""


# -- what goes wrong -------------------------------------------------------------------------------


def test_bad_pictures_are_told_and_the_others_named(capsys, ours, photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    files = [str(tmp_path / "none.png"), photos["red"], str(tmp_path / "text.jpg"), str(tmp_path)]
    code, out, err = run(capsys, ours, *files, "--json")
    assert code == 2
    assert guessed(out)[photos["red"]][0] == "red"
    lines = err.splitlines()
    assert len(lines) == 3
    for line, message in zip(
        lines, ("there is no such file", "is not a picture", "is a folder"), strict=True
    ):
        assert line.startswith("python -m lcnas.classify: ")
        assert message in line
    problems = [p["problem"] for p in json.loads(out)["pictures"] if "problem" in p]
    assert len(problems) == 3
    code, out, err = run(capsys, ours, str(tmp_path / "none.png"))
    assert (code, out) == (2, "")


def test_names_of_files_and_classes_cannot_steer_the_terminal(capsys, tmp_path, photos):
    about = tiny.recorded((0, 0, 0), (1, 1, 1), ["\x1b[31mred", "[b]green[/b]", "c", "d"])
    path = save(tmp_path / "a.onnx", about)
    _, out, err = run(capsys, path, photos["red"], photos["green"], "\x1b[2Jnone.png")
    assert "\x1b" not in out + err
    assert "?[31mred" in out
    assert "[b]green[/b]" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.onnx"], "none.onnx: cannot be read: No such file"),
        (["text.onnx"], "text.onnx: is not an ONNX model"),
        (["ours.onnx", "--size", "224"], "--size: .*ours.onnx takes 8x6, not 224x224"),
        (["ours.onnx", "--size", "0"], "--size: 0 is outside 1 to"),
        (["ours.onnx", "--size", "8by6"], "resolution: '8by6' is neither"),
        (["ours.onnx", "--crop", "2"], "crop: 2.0 is not a share"),
        (["ours.onnx", "--std", "1", "0", "1"], r"--std: \[1.0, 0.0, 1.0\] is not positive"),
        (["ours.onnx", "--names", "none.txt"], "--names: none.txt: cannot be read: No such"),
        (["ours.onnx", "--names", "text.onnx"], "text.onnx: 1 names for 4 classes"),
        (["ours.onnx", "--engine", "openvin"], "engine: 'openvin' is not among"),
        (["ours.onnx", "--threads", "0"], "threads: 0 is not a whole number"),
        (["few.onnx"], "few.onnx: 2 names for 4 classes"),
    ],
    ids=str,
)
def test_wrong_arguments(argv, message, ours, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    save(tmp_path / "few.onnx", tiny.recorded(names=["a", "b"]))
    more = [] if "--engine" in argv else ["--engine", "mlas"]
    with pytest.raises(LcnasError, match=message) as error:
        classify.main([argv[0], photos["red"], *argv[1:], *more])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [[], ["a.onnx"], ["a.onnx", "b.png", "--top", "0"], ["--tops"]])
def test_bad_usage_leaves_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        classify.main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_as_a_command(monkeypatch, capsys, ours, photos):
    monkeypatch.setattr(
        sys, "argv", ["classify", ours, photos["blue"], "--json", "--engine", "mlas"]
    )
    monkeypatch.delitem(sys.modules, "lcnas.classify")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("lcnas.classify", run_name="__main__")
    assert caught.value.code == 0
    assert guessed(capsys.readouterr().out)[photos["blue"]][0] == "blue"
    monkeypatch.setattr(sys, "argv", ["classify", "none.onnx", photos["blue"]])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("lcnas.classify", run_name="__main__")
    assert caught.value.code == 2
    assert "none.onnx: cannot be read" in capsys.readouterr().err
