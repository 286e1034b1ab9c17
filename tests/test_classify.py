"""The classify command: predictions of colours, options, messages and errors."""

from __future__ import annotations

import codecs
import dataclasses
import errno
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
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
def model(tmp_path):
    metadata = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=0.875)
    return save(tmp_path / "ours.onnx", metadata)


@pytest.fixture
def image_files(tmp_path):
    files = {}
    for (name, colour), suffix in zip(
        COLOURS.items(), (".png", ".webp", ".bmp", ".tif"), strict=True
    ):
        files[name] = str(tmp_path / f"{name}{suffix}")
        Image.new("RGB", (40, 30), colour).save(files[name])
    return files


def run(capsys, *argv):
    code = classify.main(["--engine", "mlas", *argv])
    output = capsys.readouterr()
    return code, output.out, output.err


def predicted(out):
    return {
        p["file"]: [g["name"] for g in p.get("guesses", [])] for p in json.loads(out)["pictures"]
    }


def test_images_are_classified(capsys, model, image_files):
    code, out, err = run(capsys, model, *image_files.values(), "--json")
    assert (code, err) == (0, "")
    assert {f: names[0] for f, names in predicted(out).items()} == {
        f: n for n, f in image_files.items()
    }


def test_probabilities_are_the_softmax(capsys, model, image_files):
    _, out, _ = run(capsys, model, image_files["red"], "--json")
    logits = np.array(COLOURS["red"]) / 255 / 0.25 @ WEIGHTS
    expected = np.exp(logits) / np.exp(logits).sum()
    (image,) = json.loads(out)["pictures"]
    assert [g["name"] for g in image["guesses"]] == ["red", "yellow", "green", "blue"]
    order = [g["index"] for g in image["guesses"]]
    probabilities = [g["probability"] for g in image["guesses"]]
    np.testing.assert_allclose(probabilities, expected[order], rtol=1e-4)
    assert sum(probabilities) == pytest.approx(1)


def test_all_settings_are_in_the_json(capsys, model, image_files):
    _, out, _ = run(capsys, model, image_files["red"], "--json", "--top", "1")
    data = json.loads(out)
    assert data["model"] == model
    assert data["engine"]["name"] == "mlas"
    assert data["preprocessing"] == {
        "size": [8, 6],
        "mean": [0, 0, 0],
        "std": [0.25, 0.25, 0.25],
        "crop": 0.875,
        "squash": False,
    }
    assert len(data["pictures"][0]["guesses"]) == 1


def test_the_table(capsys, model, image_files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, model, image_files["red"], image_files["blue"], "--top", "2")
    assert code == 0
    rows = [line for line in out.splitlines() if "%" in line]
    assert len(rows) == 4
    assert image_files["red"] in rows[0]
    assert "red" in rows[0].replace(image_files["red"], "")
    assert "yellow" in rows[1]
    assert image_files["blue"] in rows[2]
    assert "blue" in rows[2].replace(image_files["blue"], "")


def test_the_centre_is_classified_and_the_whole_image_when_squashed(capsys, tmp_path, model):
    """A wide image, blue in the middle and red at both ends."""
    wide = np.full((16, 96, 3), COLOURS["red"], np.uint8)
    wide[:, 40:56] = COLOURS["blue"]
    path = tmp_path / "wide.png"
    Image.fromarray(wide).save(path)
    for options, name in (([], "blue"), (["--squash"], "red"), (["--crop", "0.5"], "blue")):
        _, out, _ = run(capsys, model, str(path), "--json", *options)
        assert predicted(out)[str(path)][0] == name


def test_options_take_precedence_over_metadata(capsys, model, image_files, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("rot\ngrün\nblau\ngelb\n", encoding="utf-8")
    _, out, _ = run(
        capsys,
        *(model, image_files["red"], "--json", "--names", str(names)),
        *("--mean", "0.9", "0", "0", "--std", "1", "1", "1"),
    )
    data = json.loads(out)
    assert data["preprocessing"]["mean"] == [0.9, 0, 0]
    probabilities = {g["name"]: g["probability"] for g in data["pictures"][0]["guesses"]}
    logits = (np.array(COLOURS["red"]) / 255 - [0.9, 0, 0]) @ WEIGHTS
    softmax = np.exp(logits) / np.exp(logits).sum()
    expected = dict(zip(("rot", "grün", "blau", "gelb"), softmax, strict=True))
    assert probabilities == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_defaults_for_files_without_metadata_are_printed(capsys, tmp_path, image_files, layout):
    path = save(tmp_path / "theirs.onnx", layout=layout, batch=None, size=(None, None))
    code, out, err = run(capsys, path, *image_files.values(), "--json")
    assert code == 0
    assert json.loads(out)["preprocessing"]["size"] == [224, 224]
    assert [names[0] for names in predicted(out).values()] == ["0", "1", "2", "3"]
    size, normal = err.splitlines()
    assert "takes any size; using 224x224 (--size)" in size
    assert "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225), crop 0.875" in normal
    _, out, err = run(
        capsys,
        *(path, image_files["red"], "--json", "--size", "20x30"),
        *("--mean", "0", "0", "0", "--std", "1", "1", "1"),
    )
    assert json.loads(out)["preprocessing"]["size"] == [20, 30]
    assert err == ""


@pytest.mark.skipif(
    engines.default() != "openvino", reason="the OpenVINO provider is not installed"
)
def test_the_requested_engine_runs(capsys, model, image_files):
    code = classify.main([model, image_files["green"], "--json", "--engine", "openvino"])
    data = json.loads(capsys.readouterr().out)
    assert code == 0
    assert data["engine"]["name"] == "openvino"
    assert data["pictures"][0]["guesses"][0]["name"] == "green"


def test_an_exported_network_and_its_int8_file(capsys, tmp_path, image_files):
    arch = Arch.of({"stem": [blocks.ConvNormAct(8, stride=2)], "head": [blocks.Classifier(8)]}, 16)
    model = tiny.Fake(arch, classes=4)
    normalization = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    file = onnx_export.export(
        model, tmp_path / "a.onnx", class_names=NAMES, normalization=normalization, crop=1.0
    )
    calibration = tiny.constant(*COLOURS.values(), (255, 255, 255), (0, 0, 0), size=(16, 16))
    (tmp_path / "int8.onnx").write_bytes(onnx_export.quantise(file, [calibration]))
    probabilities = {}
    for name, precision in (("a.onnx", "fp32"), ("int8.onnx", "int8")):
        code, out, err = run(capsys, str(tmp_path / name), image_files["red"], "--json")
        assert (code, err) == (0, "")
        data = json.loads(out)
        assert data["engine"]["precision"] == precision
        guesses = sorted(data["pictures"][0]["guesses"], key=lambda g: g["index"])
        probabilities[precision] = np.array([g["probability"] for g in guesses])
        assert [g["name"] for g in guesses] == NAMES
    x = np.asarray(Image.new("RGB", (16, 16), COLOURS["red"]))[None]
    logits = model(((x / 255 - 0.5) / 0.2).astype(np.float32))[0]
    expected = np.exp(logits - logits.max())
    np.testing.assert_allclose(
        probabilities["fp32"], expected / expected.sum(), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(probabilities["int8"], probabilities["fp32"], atol=0.2)
    assert not np.array_equal(probabilities["int8"], probabilities["fp32"])


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avxvnni", "amx"])
def test_an_int8_file_of_the_full_range_gives_a_warning_without_vnni(
    capsys, tmp_path, image_files, monkeypatch, isa
):
    machine = engines.machine_of("mlas")
    monkeypatch.setattr(engines, "machine_of", lambda _: dataclasses.replace(machine, isa=isa))
    metadata = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=1.0)
    model = tiny.classifier(weights=WEIGHTS, bias=np.zeros(4), metadata=metadata)
    for weights in onnx_export.WEIGHTS:
        path = tmp_path / f"{weights}.onnx"
        batches = [tiny.constant(*COLOURS.values())]
        path.write_bytes(onnx_export.quantise(model, batches, weights=weights))
        code, _, err = run(capsys, str(path), image_files["red"])
        assert code == 0
        if weights == "8bit" and isa in ("avx2", "avx512"):
            start = f"python -m lcnas.classify: {path}: 8-bit weights of the full range in 1 of 1 layers: "
            assert err.startswith(start)
            assert err.count("\n") == 1
        else:
            assert err == ""


def test_a_file_that_was_tested_in_bf16_runs_in_bf16_if_possible(
    capsys, tmp_path, image_files, monkeypatch
):
    metadata = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=1.0)
    path = save(tmp_path / "a.onnx", {**metadata, "lcnas.precision": "bf16"})
    code, out, err = run(capsys, path, image_files["red"], "--json")
    data = json.loads(out)
    assert (code, data["engine"]["precision"]) == (0, "fp32")  # mlas has no other
    assert data["pictures"][0]["guesses"][0]["name"] == "red"
    assert "a.onnx was tested in bf16, and is run in fp32: " in err
    assert err.count("\n") == 1
    requested = []
    monkeypatch.setattr(engines, "engine", lambda name, **options: requested.append(options))
    interface = onnx_export.interface(onnx_export.read(path))
    assert classify._precision("openvino", interface) == "bf16"
    assert requested == [{"precision": "bf16"}]


# -- unreadable images -----------------------------------------------------------------------------


LONG = "a" * 5000


def test_unreadable_images_give_a_line_each_and_the_others_are_classified(
    capsys, model, image_files, tmp_path
):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "folder").mkdir()
    intact = Path(image_files["red"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(intact[: len(intact) // 2])
    problems = {
        "none.png": "there is no such file",
        "text.jpg": "is not a",
        "empty.png": "is an empty file",
        "round": "cannot be read: Too many levels of symbolic links",
        "cut.png": "cannot be read",
        "folder": "has no image in it",
        "a\0b": "names no file",
        LONG: "cannot be read: File name too long",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        problems |= {"pipe": "is a pipe, not an image file"}
        problems |= {os.devnull: "is a device, not an image file"}
    files = [image_files["red"]]
    for name in problems:
        files += [str(tmp_path / name) if name != os.devnull else name, image_files["blue"]]
    code, out, err = run(capsys, model, *files, "", "--json")
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == len(problems) + 1
    assert lines.pop() == "python -m lcnas.classify: '': there is no such file"
    for line, (name, reason) in zip(lines, problems.items(), strict=True):
        assert line.startswith("python -m lcnas.classify: ")
        assert reason in line
        assert name in line or name in (LONG, "a\0b")
        assert len(line) < 300
    entries = json.loads(out)["pictures"]
    assert [p["file"] for p in entries] == [*files, ""]
    assert [p["guesses"][0]["name"] for p in entries[2:-1:2]] == ["blue"] * len(problems)
    assert sum("problem" in p for p in entries) == len(problems) + 1
    code, out, err = run(capsys, model, str(tmp_path / "none.png"))
    assert (code, out) == (2, "")


# -- folders ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, image_files):
    """Images at two depths, one with a wrong and one without a suffix; text files; hidden files."""
    root = tmp_path / "images"
    (root / "b" / "deep").mkdir(parents=True)
    (root / ".cache").mkdir()
    for name, colour in {
        "z.png": "red",
        "b/deep/blue.JPG": "blue",
        "b/green": "green",
        "a.txt": "yellow",
        ".hidden.png": "red",
        ".cache/x.png": "red",
    }.items():
        kind = "JPEG" if name.endswith("JPG") else "PNG"
        Image.open(image_files[colour]).save(root / name, kind)
    (root / "notes.txt").write_text("no image")
    (root / "b" / "table.csv").write_text("1,2")
    (root / "b" / "deep" / "more.txt").write_text("no image")
    return root


INSIDE = {"a.txt": "yellow", "b/deep/blue.JPG": "blue", "b/green": "green", "z.png": "red"}


def test_a_folder_stands_for_all_images_in_it_sorted(capsys, model, image_files, folder):
    code, out, err = run(
        capsys, model, image_files["yellow"], str(folder), image_files["red"], "--json"
    )
    assert code == 0
    predictions = predicted(out)
    expected = [image_files["yellow"], *(str(folder / name) for name in INSIDE), image_files["red"]]
    assert list(predictions) == expected
    assert [names[0] for names in predictions.values()] == ["yellow", *INSIDE.values(), "red"]
    omitted = "3 files that are no images (.txt 2, .csv 1), 1 hidden file"
    assert err == f"python -m lcnas.classify: {folder}: 4 images; left out: {omitted}\n"


def test_no_note_on_a_folder_of_images_alone(capsys, model, folder):
    code, out, err = run(capsys, model, str(folder / "b" / "deep" / ".."), "--json")
    assert code == 0
    assert "left out: 2 files that are no images (.csv 1, .txt 1)\n" in err
    (folder / "b" / "deep" / "more.txt").unlink()
    code, out, err = run(capsys, model, f"{folder}/b/deep/", "--json")
    assert (code, err) == (0, "")
    assert list(predicted(out)) == [f"{folder}/b/deep/blue.JPG"]


def test_a_damaged_image_in_a_folder_is_reported(capsys, model, folder):
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8no")
    (folder / "b" / "empty.png").write_bytes(b"")
    code, out, err = run(capsys, model, str(folder), "--json")
    assert code == 2
    assert len([names for names in predicted(out).values() if names]) == 4
    assert "broken.jpg: " in err
    assert "empty.png: is an empty file\n" in err
    assert err.count("\n") == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_loops_of_links_and_pipes_in_a_folder(capsys, model, folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "b" / "around").symlink_to("..")
    (folder / "again").symlink_to("b")
    code, out, err = run(capsys, model, str(folder), "--json")
    assert code == 0
    assert len(predicted(out)) == 4  # each once
    assert ".png 1" in err


def test_an_unreadable_folder_is_reported_and_the_others_are_classified(
    capsys, model, folder, monkeypatch
):
    """Root can read everything, so the system's error is simulated."""
    original = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code, out, err = run(capsys, model, str(folder), "--json")
    assert code == 2
    assert f"{folder / 'b' / 'deep'}: cannot be read: Permission denied\n" in err
    assert [names[0] for names in predicted(out).values() if names] == ["yellow", "green", "red"]
    code, out, err = run(capsys, model, str(folder / "b" / "deep"), "--json")
    assert code == 2
    assert err.endswith("deep: cannot be read: Permission denied\n")
    assert err.count("\n") == 1


# -- Pillow's warnings -----------------------------------------------------------------------------


def test_warnings_while_an_image_is_read_name_its_file(capsys, model, image_files, monkeypatch):
    """Warnings and log messages of Pillow, each once, one line each."""
    original = onnx_export.read_image

    def read(path):
        if path == image_files["red"]:
            warnings.warn("Corrupt\nEXIF data", UserWarning, stacklevel=1)
            warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
            warnings.warn("to be removed in Pillow 99", DeprecationWarning, stacklevel=1)
            logging.getLogger("PIL.TiffImagePlugin").error("More samples than %s", 4)
        return original(path)

    monkeypatch.setattr(onnx_export, "read_image", read)
    listeners = list(logging.getLogger("PIL").handlers)
    code, out, err = run(capsys, model, image_files["red"], image_files["blue"], "--json")
    assert code == 0
    assert [names[0] for names in predicted(out).values()] == ["red", "blue"]
    prefix = f"python -m lcnas.classify: {image_files['red']}: "
    assert err.splitlines() == [f"{prefix}More samples than 4", f"{prefix}Corrupt EXIF data"]
    assert logging.getLogger("PIL").handlers == listeners


def test_every_warning_of_pillow_names_the_image(model, tmp_path, checkout):
    """A half-transparent palette and damaged EXIF, in a subprocess."""
    pale, odd = tmp_path / "pale.png", tmp_path / "odd.jpg"
    palette = Image.new("P", (20, 20))
    palette.putpalette([0, 250, 0])
    palette.save(pale, transparency=b"\x80")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\xff\xff\0\0\x06\0\0\0"
    Image.new("RGB", (40, 30), COLOURS["red"]).save(odd, exif=exif)
    command = [sys.executable, "-m", "lcnas.classify", "--engine", "mlas", "--json"]
    done = subprocess.run(
        [*command, model, str(pale), str(odd)], cwd=checkout, capture_output=True, text=True
    )
    assert [names[0] for names in predicted(done.stdout).values()] == ["green", "red"]
    for message in done.stderr.splitlines():
        assert message.startswith(tuple(f"python -m {classify.PROG}: {f}: " for f in (pale, odd)))


# -- output ----------------------------------------------------------------------------------------


def test_at_20_columns_nothing_is_shortened(capsys, model, image_files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    code, out, _ = run(capsys, model, image_files["red"], image_files["blue"], "--top", "2")
    assert code == 0
    first, second, third, *rest = out.splitlines()
    assert (first, rest[0]) == (image_files["red"], image_files["blue"])
    assert re.fullmatch(r" *\d+\.\d% red", second)
    assert re.fullmatch(r" *\d+\.\d% yellow", third)
    assert re.fullmatch(r" *\d+\.\d% blue", rest[1])
    assert len(rest) == 3


def test_without_a_terminal_the_table_has_its_full_width(capsys, model, tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "columns", lambda: None)
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    Image.new("RGB", (40, 30), COLOURS["red"]).save(deep / "red.png")
    _, out, _ = run(capsys, model, str(deep), "--top", "1")
    (row,) = [line for line in out.splitlines() if "%" in line]
    assert str(deep / "red.png") in row


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there alone")
def test_names_that_are_not_utf8_on_terminals_that_are_not(model, tmp_path, checkout):
    """The predictions are printed, with characters that the encoding lacks escaped."""
    name = os.fsdecode(b"caf\xe9 \xe8\x93\x9d.png")
    Image.new("RGB", (40, 30), COLOURS["red"]).save(tmp_path / name)
    names = tmp_path / "names.txt"
    names.write_text("röd\ngrön\nblå\ngul\n", encoding="utf-8")
    line = [sys.executable, "-m", "lcnas.classify", "--engine", "mlas", "--names", str(names)]
    line += [model, name, "none.png", str(tmp_path / "none"), "--top", "1"]
    for encoding, file, word in (
        ("ascii", "caf\\xe9 \\u84dd.png", "r\\xf6d"),
        ("latin-1", "caf\\xe9 \\u84dd.png", "röd"),
        ("utf-8", "caf\\xe9 蓝.png", "röd"),
    ):
        done = subprocess.run(
            line,
            cwd=tmp_path,
            capture_output=True,
            encoding=encoding,
            env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
            | {"PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])},
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 2
        (row,) = [line for line in done.stdout.splitlines() if "%" in line]
        assert file in row
        assert word in row


# -- files of names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "rot\ngrün\nblau\ngelb",
        "rot\ngrün\nblau\ngelb\n\n \n\n",
        "rot\r\ngrün\r\nblau\r\ngelb\r\n\r\n",
        "rot\rgrün\rblau\rgelb\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_of_names(capsys, model, image_files, tmp_path, content, encoding):
    names = tmp_path / "names.txt"
    names.write_bytes(content.encode(encoding))
    code, out, _ = run(capsys, model, image_files["green"], "--json", "--names", str(names))
    assert code == 0
    (image,) = json.loads(out)["pictures"]
    assert {g["index"]: g["name"] for g in image["guesses"]} == dict(
        enumerate(("rot", "grün", "blau", "gelb"))
    )


def test_names_in_utf16_of_either_order(capsys, model, image_files, tmp_path):
    names = tmp_path / "names.txt"
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le")):
        names.write_bytes(mark + "a\nb\nc\nd\n".encode(encoding))
        _, out, _ = run(capsys, model, image_files["red"], "--json", "--names", str(names))
        assert predicted(out)[image_files["red"]][0] == "a"


def test_a_name_may_contain_unusual_separators(capsys, model, image_files, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\x0bb\u2028c\nb\nc\nd\n", encoding="utf-8")
    _, out, _ = run(capsys, model, image_files["red"], "--json", "--names", str(names))
    assert predicted(out)[image_files["red"]][0] == "a\x0bb\u2028c"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfea",
        b"\x89PNG\r\n\x1a\n\0\0",
        "a\nb\nc\nd\n".encode("utf-16-le"),
        "é".encode("latin-1"),
    ],
)
def test_files_that_are_not_text_are_an_error(model, image_files, tmp_path, content):
    names = tmp_path / "names.txt"
    names.write_bytes(content)
    with pytest.raises(LcnasError, match=r"--names: .*names.txt: is not a text in UTF-8"):
        classify.main(["--engine", "mlas", model, image_files["red"], "--names", str(names)])


# -- warnings and errors ---------------------------------------------------------------------------


def test_a_file_trained_at_another_resolution_gives_a_warning_and_predictions(
    capsys, image_files, tmp_path
):
    metadata = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=0.875)
    metadata["lcnas.validation"] = json.dumps({"accuracy": 0.9, "resolution": 64})
    path = save(tmp_path / "old.onnx", metadata)
    code, out, err = run(capsys, path, image_files["red"], "--json")
    assert (code, predicted(out)[image_files["red"]][0]) == (0, "red")
    assert err.count("\n") == 1
    assert f"{path}: was trained at 64x64 pixels, but takes 8x6" in err
    metadata["lcnas.training_resolution"] = "48"
    del metadata["lcnas.validation"]
    path = save(tmp_path / "open.onnx", metadata, size=(None, None))
    _, _, err = run(capsys, path, image_files["red"], "--json", "--size", "48")
    assert err == ""
    _, _, err = run(capsys, path, image_files["red"], "--json", "--size", "32x48")
    assert "was trained at 48x48 pixels, but takes 32x48" in err


def test_names_of_files_and_classes_cannot_control_the_terminal(capsys, tmp_path, image_files):
    metadata = tiny.recorded((0, 0, 0), (1, 1, 1), ["\x1b[31mred", "[b]green[/b]", "c", "d"])
    path = save(tmp_path / "a.onnx", metadata)
    _, out, err = run(capsys, path, image_files["red"], image_files["green"], "\x1b[2Jnone.png")
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
        (["ours.onnx", "--names", "a" * 300], "--names: aaa.*: cannot be read: File name too long"),
        (["ours.onnx", "--names", "a\0b"], "--names: a.*: cannot be read: no file has such a name"),
        (["ours.onnx", "--names", "."], "--names: .: cannot be read: Is a directory"),
        (["ours.onnx", "--engine", "openvin"], "engine: 'openvin' is not among"),
        (["ours.onnx", "--threads", "0"], "threads: 0 is not a whole number"),
        (["few.onnx"], "few.onnx: 2 names for 4 classes"),
    ],
    ids=str,
)
def test_wrong_arguments(argv, message, model, image_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    save(tmp_path / "few.onnx", tiny.recorded(names=["a", "b"]))
    engine = [] if "--engine" in argv else ["--engine", "mlas"]
    with pytest.raises(LcnasError, match=message) as error:
        classify.main([argv[0], image_files["red"], *argv[1:], *engine])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [[], ["a.onnx"], ["a.onnx", "b.png", "--top", "0"], ["--tops"]])
def test_bad_usage_leaves_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        classify.main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_as_a_command(monkeypatch, capsys, model, image_files):
    monkeypatch.setattr(
        sys, "argv", ["classify", model, image_files["blue"], "--json", "--engine", "mlas"]
    )
    monkeypatch.delitem(sys.modules, "lcnas.classify")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("lcnas.classify", run_name="__main__")
    assert caught.value.code == 0
    assert predicted(capsys.readouterr().out)[image_files["blue"]][0] == "blue"
    monkeypatch.setattr(sys, "argv", ["classify", "none.onnx", image_files["blue"]])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("lcnas.classify", run_name="__main__")
    assert caught.value.code == 2
    assert "none.onnx: cannot be read" in capsys.readouterr().err


def newest(path, kind=TensorProto.FLOAT):
    """Write the colours' classifier as current exporters do: newest versions, external weights."""
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=kind),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    weights = numpy_helper.from_array(WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", kind, ["n", 3, "h", "w"])], [value("y", kind, ["n", 4])], [weights]
    )
    path.parent.mkdir()
    model = helper.make_model(graph)  # of onnx's own newest versions
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return str(path)


@pytest.mark.parametrize("engine", sorted({"mlas", engines.default()}))
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_file_of_another_exporter(engine, kind, image_files, tmp_path, capsys, monkeypatch):
    model = newest(tmp_path / "theirs" / "net.onnx", kind)
    monkeypatch.chdir("/")
    settings = ["--engine", engine, "--size", "16x24", "--json", "--mean", "0", "0", "0"]
    argv = [model, *image_files.values(), *settings, "--std", "1", "1", "1"]
    code = classify.main(argv)
    output = json.loads(capsys.readouterr().out)
    assert code == 0
    best = [entry["guesses"][0]["index"] for entry in output["pictures"]]
    assert [NAMES[i] for i in best] == list(image_files)
    (tmp_path / "theirs" / "w.bin").unlink()
    with pytest.raises(
        LcnasError, match=r"net\.onnx: its weights in other files .* no 'w\.bin' beside"
    ):
        classify.main(argv)


@pytest.mark.skipif(
    engines.default() != "openvino", reason="the OpenVINO provider is not installed"
)
def test_an_operator_that_the_engine_lacks(image_files, tmp_path, capsys):
    model = onnx.load(save(tmp_path / "odd.onnx"))
    model.graph.node.append(helper.make_node("Unique", ["y"], ["u"], name="odd", axis=0))
    model.graph.output[0].name = "u"
    onnx.save(model, tmp_path / "odd.onnx")
    argv = [str(tmp_path / "odd.onnx"), image_files["red"]]
    with pytest.raises(
        LcnasError, match=r"does not run the operator Unique \(node 'odd'\); --engine"
    ):
        classify.main([*argv, "--engine", "openvino"])
    assert predicted(run(capsys, *argv, "--json")[1])[image_files["red"]]
