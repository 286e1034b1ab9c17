"""The classify command: names of colours, and what it refuses."""

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


def test_images_are_named(capsys, ours, photos):
    code, out, err = run(capsys, ours, *photos.values(), "--json")
    assert (code, err) == (0, "")
    assert {f: names[0] for f, names in guessed(out).items()} == {f: n for n, f in photos.items()}


def test_probabilities_are_the_softmax(capsys, ours, photos):
    _, out, _ = run(capsys, ours, photos["red"], "--json")
    logits = np.array(COLOURS["red"]) / 255 / 0.25 @ WEIGHTS
    shares = np.exp(logits) / np.exp(logits).sum()
    (image,) = json.loads(out)["pictures"]
    assert [g["name"] for g in image["guesses"]] == ["red", "yellow", "green", "blue"]
    order = [g["index"] for g in image["guesses"]]
    made = [g["probability"] for g in image["guesses"]]
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
    """A wide image, blue in the middle and red at both ends."""
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


def test_a_file_that_was_tested_in_bf16_runs_in_it_where_it_can(
    capsys, tmp_path, photos, monkeypatch
):
    about = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=1.0)
    path = save(tmp_path / "a.onnx", {**about, "lcnas.precision": "bf16"})
    code, out, err = run(capsys, path, photos["red"], "--json")
    data = json.loads(out)
    assert (code, data["engine"]["precision"]) == (0, "fp32")  # mlas has no other
    assert data["pictures"][0]["guesses"][0]["name"] == "red"
    assert "a.onnx was tested in bf16, and is run in fp32: " in err
    assert err.count("\n") == 1
    asked = []
    monkeypatch.setattr(engines, "engine", lambda name, **options: asked.append(options))
    told = onnx_export.interface(onnx_export.read(path))
    assert classify._precision("openvino", told) == "bf16"
    assert asked == [{"precision": "bf16"}]


# -- what goes wrong -------------------------------------------------------------------------------


LONG = "a" * 5000


def test_bad_images_are_told_in_a_line_each_and_the_others_named(capsys, ours, photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "folder").mkdir()
    whole = Path(photos["red"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
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
    files = [photos["red"]]
    for name in problems:
        files += [str(tmp_path / name) if name != os.devnull else name, photos["blue"]]
    code, out, err = run(capsys, ours, *files, "", "--json")
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == len(problems) + 1
    assert lines.pop() == "python -m lcnas.classify: '': there is no such file"
    for line, (name, words) in zip(lines, problems.items(), strict=True):
        assert line.startswith("python -m lcnas.classify: ")
        assert words in line
        assert name in line or name in (LONG, "a\0b")
        assert len(line) < 300
    made = json.loads(out)["pictures"]
    assert [p["file"] for p in made] == [*files, ""]
    assert [p["guesses"][0]["name"] for p in made[2:-1:2]] == ["blue"] * len(problems)
    assert sum("problem" in p for p in made) == len(problems) + 1
    code, out, err = run(capsys, ours, str(tmp_path / "none.png"))
    assert (code, out) == (2, "")


# -- folders ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, photos):
    """Images at two depths, one with a wrong suffix, one with none; a text, a table, hidden files."""
    root = tmp_path / "photos"
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
        Image.open(photos[colour]).save(root / name, kind)
    (root / "notes.txt").write_text("no image")
    (root / "b" / "table.csv").write_text("1,2")
    (root / "b" / "deep" / "more.txt").write_text("no image")
    return root


INSIDE = {"a.txt": "yellow", "b/deep/blue.JPG": "blue", "b/green": "green", "z.png": "red"}


def test_a_folder_stands_for_all_images_in_it_sorted(capsys, ours, photos, folder):
    code, out, err = run(capsys, ours, photos["yellow"], str(folder), photos["red"], "--json")
    assert code == 0
    made = guessed(out)
    wanted = [photos["yellow"], *(str(folder / name) for name in INSIDE), photos["red"]]
    assert list(made) == wanted
    assert [names[0] for names in made.values()] == ["yellow", *INSIDE.values(), "red"]
    left = "3 files that are no images (.txt 2, .csv 1), 1 hidden file"
    assert err == f"python -m lcnas.classify: {folder}: 4 images; left out: {left}\n"


def test_nothing_is_said_of_a_folder_of_images_alone(capsys, ours, folder):
    code, out, err = run(capsys, ours, str(folder / "b" / "deep" / ".."), "--json")
    assert code == 0
    assert "left out: 2 files that are no images (.csv 1, .txt 1)\n" in err
    (folder / "b" / "deep" / "more.txt").unlink()
    code, out, err = run(capsys, ours, f"{folder}/b/deep/", "--json")
    assert (code, err) == (0, "")
    assert list(guessed(out)) == [f"{folder}/b/deep/blue.JPG"]


def test_a_damaged_image_in_a_folder_is_told(capsys, ours, folder):
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8no")
    (folder / "b" / "empty.png").write_bytes(b"")
    code, out, err = run(capsys, ours, str(folder), "--json")
    assert code == 2
    assert len([names for names in guessed(out).values() if names]) == 4
    assert "broken.jpg: " in err
    assert "empty.png: is an empty file\n" in err
    assert err.count("\n") == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_links_that_lead_around_and_pipes_in_a_folder(capsys, ours, folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "b" / "around").symlink_to("..")
    (folder / "again").symlink_to("b")
    code, out, err = run(capsys, ours, str(folder), "--json")
    assert code == 0
    assert len(guessed(out)) == 4  # each once
    assert ".png 1" in err


def test_a_folder_that_cannot_be_read_is_told_and_the_others_named(
    capsys, ours, folder, monkeypatch
):
    """Root may read everything, so the system's answer is given by hand."""
    really = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code, out, err = run(capsys, ours, str(folder), "--json")
    assert code == 2
    assert f"{folder / 'b' / 'deep'}: cannot be read: Permission denied\n" in err
    assert [names[0] for names in guessed(out).values() if names] == ["yellow", "green", "red"]
    code, out, err = run(capsys, ours, str(folder / "b" / "deep"), "--json")
    assert code == 2
    assert err.endswith("deep: cannot be read: Permission denied\n")
    assert err.count("\n") == 1


# -- what Pillow says ------------------------------------------------------------------------------


def test_what_is_warned_of_while_an_image_is_read_names_it(capsys, ours, photos, monkeypatch):
    """Warnings, and what Pillow logs; each once, in a line."""
    really = onnx_export.read_image

    def read(path):
        if path == photos["red"]:
            warnings.warn("Corrupt\nEXIF data", UserWarning, stacklevel=1)
            warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
            warnings.warn("to be removed in Pillow 99", DeprecationWarning, stacklevel=1)
            logging.getLogger("PIL.TiffImagePlugin").error("More samples than %s", 4)
        return really(path)

    monkeypatch.setattr(onnx_export, "read_image", read)
    listeners = list(logging.getLogger("PIL").handlers)
    code, out, err = run(capsys, ours, photos["red"], photos["blue"], "--json")
    assert code == 0
    assert [names[0] for names in guessed(out).values()] == ["red", "blue"]
    before = f"python -m lcnas.classify: {photos['red']}: "
    assert err.splitlines() == [f"{before}More samples than 4", f"{before}Corrupt EXIF data"]
    assert logging.getLogger("PIL").handlers == listeners


def test_no_warning_of_pillow_goes_without_the_image(ours, tmp_path, checkout):
    """A palette that is half transparent, and EXIF that is damaged, in a process of its own."""
    pale, odd = tmp_path / "pale.png", tmp_path / "odd.jpg"
    palette = Image.new("P", (20, 20))
    palette.putpalette([0, 250, 0])
    palette.save(pale, transparency=b"\x80")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\xff\xff\0\0\x06\0\0\0"
    Image.new("RGB", (40, 30), COLOURS["red"]).save(odd, exif=exif)
    line = [sys.executable, "-m", "lcnas.classify", "--engine", "mlas", "--json"]
    done = subprocess.run(
        [*line, ours, str(pale), str(odd)], cwd=checkout, capture_output=True, text=True
    )
    assert [names[0] for names in guessed(done.stdout).values()] == ["green", "red"]
    for said in done.stderr.splitlines():
        assert said.startswith(tuple(f"python -m {classify.PROG}: {f}: " for f in (pale, odd)))


# -- what is printed where -------------------------------------------------------------------------


def test_at_20_columns_nothing_is_cut(capsys, ours, photos, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    code, out, _ = run(capsys, ours, photos["red"], photos["blue"], "--top", "2")
    assert code == 0
    first, second, third, *rest = out.splitlines()
    assert (first, rest[0]) == (photos["red"], photos["blue"])
    assert re.fullmatch(r" *\d+\.\d% red", second)
    assert re.fullmatch(r" *\d+\.\d% yellow", third)
    assert re.fullmatch(r" *\d+\.\d% blue", rest[1])
    assert len(rest) == 3


def test_without_a_terminal_the_table_is_as_wide_as_it_is(capsys, ours, tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "columns", lambda: None)
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    Image.new("RGB", (40, 30), COLOURS["red"]).save(deep / "red.png")
    _, out, _ = run(capsys, ours, str(deep), "--top", "1")
    (row,) = [line for line in out.splitlines() if "%" in line]
    assert str(deep / "red.png") in row


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there alone")
def test_names_that_are_not_utf8_on_terminals_that_are_not(ours, tmp_path, checkout):
    """Nothing is lost: the answers are printed, with what the encoding lacks escaped."""
    name = os.fsdecode(b"caf\xe9 \xe8\x93\x9d.png")
    Image.new("RGB", (40, 30), COLOURS["red"]).save(tmp_path / name)
    names = tmp_path / "names.txt"
    names.write_text("röd\ngrön\nblå\ngul\n", encoding="utf-8")
    line = [sys.executable, "-m", "lcnas.classify", "--engine", "mlas", "--names", str(names)]
    line += [ours, name, "none.png", str(tmp_path / "none"), "--top", "1"]
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
def test_files_of_names(capsys, ours, photos, tmp_path, content, encoding):
    names = tmp_path / "names.txt"
    names.write_bytes(content.encode(encoding))
    code, out, _ = run(capsys, ours, photos["green"], "--json", "--names", str(names))
    assert code == 0
    (image,) = json.loads(out)["pictures"]
    assert {g["index"]: g["name"] for g in image["guesses"]} == dict(
        enumerate(("rot", "grün", "blau", "gelb"))
    )


def test_names_in_utf16_of_either_order(capsys, ours, photos, tmp_path):
    names = tmp_path / "names.txt"
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le")):
        names.write_bytes(mark + "a\nb\nc\nd\n".encode(encoding))
        _, out, _ = run(capsys, ours, photos["red"], "--json", "--names", str(names))
        assert guessed(out)[photos["red"]][0] == "a"


def test_a_name_within_may_hold_unusual_separators(capsys, ours, photos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\x0bb\u2028c\nb\nc\nd\n", encoding="utf-8")
    _, out, _ = run(capsys, ours, photos["red"], "--json", "--names", str(names))
    assert guessed(out)[photos["red"]][0] == "a\x0bb\u2028c"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfea",
        b"\x89PNG\r\n\x1a\n\0\0",
        "a\nb\nc\nd\n".encode("utf-16-le"),
        "é".encode("latin-1"),
    ],
)
def test_what_is_no_text_is_told(ours, photos, tmp_path, content):
    names = tmp_path / "names.txt"
    names.write_bytes(content)
    with pytest.raises(LcnasError, match=r"--names: .*names.txt: is not a text in UTF-8"):
        classify.main(["--engine", "mlas", ours, photos["red"], "--names", str(names)])


# -- what else goes wrong --------------------------------------------------------------------------


def test_a_file_trained_at_another_resolution_is_told_and_its_answers_given(
    capsys, photos, tmp_path
):
    about = tiny.recorded((0, 0, 0), (0.25, 0.25, 0.25), NAMES, crop=0.875)
    about["lcnas.validation"] = json.dumps({"accuracy": 0.9, "resolution": 64})
    path = save(tmp_path / "old.onnx", about)
    code, out, err = run(capsys, path, photos["red"], "--json")
    assert (code, guessed(out)[photos["red"]][0]) == (0, "red")
    assert err.count("\n") == 1
    assert f"{path}: was trained at 64x64 pixels, but takes 8x6" in err
    about["lcnas.training_resolution"] = "48"
    del about["lcnas.validation"]
    path = save(tmp_path / "open.onnx", about, size=(None, None))
    _, _, err = run(capsys, path, photos["red"], "--json", "--size", "48")
    assert err == ""
    _, _, err = run(capsys, path, photos["red"], "--json", "--size", "32x48")
    assert "was trained at 48x48 pixels, but takes 32x48" in err


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
        (["ours.onnx", "--names", "a" * 300], "--names: aaa.*: cannot be read: File name too long"),
        (["ours.onnx", "--names", "a\0b"], "--names: a.*: cannot be read: no file has such a name"),
        (["ours.onnx", "--names", "."], "--names: .: cannot be read: Is a directory"),
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


def newest(path, kind=TensorProto.FLOAT):
    """Write the colours' classifier as a present exporter does: newest versions, weights beside the file."""
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
def test_a_file_of_another_exporter(engine, kind, photos, tmp_path, capsys, monkeypatch):
    model = newest(tmp_path / "theirs" / "net.onnx", kind)
    monkeypatch.chdir("/")
    settings = ["--engine", engine, "--size", "16x24", "--json", "--mean", "0", "0", "0"]
    argv = [model, *photos.values(), *settings, "--std", "1", "1", "1"]
    code = classify.main(argv)
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    best = [entry["guesses"][0]["index"] for entry in told["pictures"]]
    assert [NAMES[i] for i in best] == list(photos)
    (tmp_path / "theirs" / "w.bin").unlink()
    with pytest.raises(
        LcnasError, match=r"net\.onnx: its weights in other files .* no 'w\.bin' beside"
    ):
        classify.main(argv)


@pytest.mark.skipif(
    engines.default() != "openvino", reason="the OpenVINO provider is not installed"
)
def test_an_operator_that_the_engine_lacks(photos, tmp_path, capsys):
    model = onnx.load(save(tmp_path / "odd.onnx"))
    model.graph.node.append(helper.make_node("Unique", ["y"], ["u"], name="odd", axis=0))
    model.graph.output[0].name = "u"
    onnx.save(model, tmp_path / "odd.onnx")
    argv = [str(tmp_path / "odd.onnx"), photos["red"]]
    with pytest.raises(
        LcnasError, match=r"does not run the operator Unique \(node 'odd'\); --engine"
    ):
        classify.main([*argv, "--engine", "openvino"])
    assert guessed(run(capsys, *argv, "--json")[1])[photos["red"]]
