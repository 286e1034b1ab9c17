"""The accuracy script that does not import lcnas gives the same predictions and accuracies."""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcnas import blocks, classify, onnx_export
from lcnas.arch import Arch

study = importlib.import_module("results.independent_accuracy")

NAMES = ["cherry", "leaf", "sea", "sun"]
COLOURS = {
    "cherry": (200, 40, 30),
    "leaf": (60, 180, 50),
    "sea": (20, 60, 190),
    "sun": (240, 210, 40),
}
# (height, width), resize, batch size
SETTINGS: dict[str, tuple[Any, Any, Any]] = {
    "crop": ((32, 32), {"crop": 0.875}, 1),
    "whole": ((24, 32), {"crop": 1.0}, None),
    "squash": ((32, 24), {"squash": True}, 5),
}


def exported(path, setting, seed=0):
    """Write a network with random weights; seeds 0 and 1 predict several classes."""
    size, resize, batch = SETTINGS[setting]
    arch = Arch.of(
        {
            "stem": [blocks.ConvNormAct(8, stride=2)],
            "body": [blocks.DepthwiseSeparable(16, stride=2)],
            "head": [blocks.Classifier(16)],
        },
        size,
    )
    onnx_export.export(
        arch,
        path,
        classes=len(NAMES),
        class_names=NAMES,
        normalization={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        batch=batch,
        seed=seed,
        **resize,
    )
    return str(path)


def noisy(rng, colour, height, width):
    """Return an image of a colour with coarse noise."""
    base = np.array(colour) + rng.normal(0, 50, (height // 4 + 1, width // 4 + 1, 3))
    small = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of various shapes, formats and modes, one of them turned, in val/."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(5)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, colour in COLOURS.items():
        place = root / "val" / name / "inner"
        place.mkdir(parents=True)
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "a.png").write_bytes(b"not looked at")
        noisy(rng, colour, 40, 61).save(place.parent / "wide.JPEG", quality=95)
        noisy(rng, colour, 90, 33).save(place.parent / "tall.jpg", exif=turned)
        noisy(rng, colour, 32, 32).convert("P").save(place / "palette.png")
        noisy(rng, colour, 20, 30).convert("L").save(place / "grey.png")
        noisy(rng, colour, 70, 64).convert("CMYK").save(place / "print.jpg", quality=90)
        pale = noisy(rng, colour, 48, 50).convert("RGBA")
        pale.putalpha(100)
        pale.save(place / "pale.webp", lossless=True)
        (place / ".hidden.png").write_bytes(b"not looked at")
    return root


def printed(capsys, *argv):
    assert study.main([str(arg) for arg in argv]) == 0
    output = capsys.readouterr()
    return [json.loads(line) for line in output.out.splitlines()], output.err


def test_the_labels_of_a_control_are_those_that_lcnas_permutes(tmp_path):
    from lcnas.training.data import load

    rng = np.random.default_rng(6)
    for split, n in (("train", 3), ("val", 7)):
        for name, colour in COLOURS.items():
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                noisy(rng, colour, 16, 16).save(tmp_path / split / name / f"{i}.png")
    with load(
        f"imagefolder:{tmp_path}", seed=9, permute_labels=True, cache=False, workers=0
    ) as data:
        batch = next(data.test.batches(28))
    items = study.permuted(study.items([tmp_path]), 9)
    assert [NAMES.index(item.label) for item in items] == batch.labels.tolist()
    assert [item.source for item in items] == [item.source for item in study.items([tmp_path])]
    assert batch.labels.tolist() != sorted(batch.labels.tolist())


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_prediction_is_that_of_classify(setting, folder, tmp_path, capsys):
    classes = set()
    for seed in (0, 1):
        path = exported(tmp_path / f"{seed}.onnx", setting, seed)
        network = study.opened(path, "CPUExecutionProvider", 1)
        items = study.items([folder])
        assert len(items) == 24
        predictions = [
            NAMES[k] for k in network.predictions([study.decoded(i.source) for i in items])
        ]
        files = [str(item.source) for item in items]
        assert classify.main([path, *files, "--engine", "mlas", "--top", "1", "--json"]) == 0
        entries = json.loads(capsys.readouterr().out)["pictures"]
        assert predictions == [image["guesses"][0]["name"] for image in entries]
        classes |= set(predictions)
    assert len(classes) > 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_preprocessing_is_that_of_lcnas_to_the_last_bit(setting, folder, tmp_path):
    path = exported(tmp_path / "a.onnx", setting)
    network = study.opened(path, "CPUExecutionProvider", 1)
    prepare = onnx_export.interface(onnx_export.read(path)).preprocessing()
    for item in study.items([folder]):
        image = onnx_export.read_image(item.source)
        np.testing.assert_array_equal(network.prepared(image), prepare.of_image(image))
        np.testing.assert_array_equal(np.asarray(study.decoded(item.source)), np.asarray(image))


def test_the_accuracy_of_several_files_on_a_folder(folder, tmp_path, capsys):
    paths = [exported(tmp_path / f"{name}.onnx", name) for name in SETTINGS]
    lines, err = printed(capsys, "--data", folder, *paths)
    assert err == ""
    assert [line["file"] for line in lines] == paths
    for line in lines:
        preprocessing = onnx_export.interface(onnx_export.read(line["file"])).preprocessing()
        batches = [
            (
                preprocessing.of_image(onnx_export.read_image(item.source))[None],
                np.array([NAMES.index(item.label)]),
                np.ones(1, bool),
            )
            for item in study.items([folder])
        ]
        expected = onnx_export.accuracy(line["file"], batches)
        assert line == {
            "file": line["file"],
            "images": expected.images,
            "correct": round(expected.top1 * expected.images),
            "accuracy": expected.top1,
        }
        assert expected.images == 24


def parquet(path, labels, rng, side=32):
    """Write a parquet file of images like CIFAR-10 on the hub; returns pixels (n, side, side, 3)."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pixels = [np.asarray(noisy(rng, list(COLOURS.values())[k % 4], side, side)) for k in labels]
    encoded = []
    for array in pixels:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(pa.table({"img": encoded, "label": list(labels)}), path)
    return np.stack(pixels)


def test_the_accuracy_on_parquet_files(tmp_path, capsys):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 150)
    pixels = [
        parquet(tmp_path / f"test-{i}.parquet", part, rng)
        for i, part in enumerate(np.split(labels, [70]))
    ]
    parquet(tmp_path / "train-0.parquet", [0, 1], rng)
    path = exported(tmp_path / "a.onnx", "whole")
    split = (np.concatenate(pixels), labels, np.ones(150, bool))
    expected = onnx_export.accuracy(path, [split])
    (result,), _ = printed(capsys, path, "--data", tmp_path)
    files = sorted(tmp_path.glob("test-*.parquet"))
    (of_files,), _ = printed(capsys, *(word for file in files for word in ("--data", file)), path)
    assert result == of_files
    assert (result["images"], result["accuracy"]) == (150, expected.top1)
    parquet(tmp_path / "test-2.parquet", [4], rng)
    assert study.main([path, "--data", str(tmp_path)]) == 2
    assert "a.onnx: has 4 classes, an image the label 4\n" in capsys.readouterr().err


def test_files_that_are_not_images_are_left_out_and_counted(tmp_path, capsys):
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), colour).save(tmp_path / name / "a.png")
    (tmp_path / "sea" / "broken.jpg").write_bytes(b"\xff\xd8no")
    (tmp_path / "sea" / "notes.txt").write_text("no image")
    path = exported(tmp_path / "a.onnx", "crop")
    (result,), err = printed(capsys, path, "--data", tmp_path)
    assert result["images"] == 4
    assert err == "2 files that are no readable images are left out\n"


def test_deeper_grey_keeps_its_upper_8_bits(tmp_path):
    values = np.array([[0, 255, 256, 51200, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = np.asarray(study.decoded(tmp_path / "a.png"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 200, 255]


def test_errors_are_one_line_and_code_2(folder, tmp_path, capsys):
    model = exported(tmp_path / "a.onnx", "crop")
    without_metadata = onnx_export.read(model)
    del without_metadata.metadata_props[:]
    onnx_export.save(without_metadata, tmp_path / "bare.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "other" / "moon").mkdir(parents=True)
    (tmp_path / "half" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "moon" / "a.png")
    for file, data, message in (
        (str(tmp_path / "bare.onnx"), folder, "its metadata do not say how images are prepared"),
        (str(tmp_path / "text.onnx"), folder, "onnxruntime refuses it"),
        (model, tmp_path / "none", "there is no such file or folder"),
        (model, tmp_path / "other", "does not know the class 'moon'"),
        (model, tmp_path / "half", "has train, but none of test, testing, val"),
        (model, tmp_path / "text.onnx", "is no parquet file with img and label"),
    ):
        assert study.main([file, "--data", str(data)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert message in output.err
        assert output.err.count("\n") == 1


def test_it_does_not_import_lcnas(folder, tmp_path, checkout):
    """Neither in its source nor at run time; it runs from any folder, as a file."""
    script = checkout / "results" / "independent_accuracy.py"
    tree = ast.parse(script.read_text())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    imported = {name.partition(".")[0] for name in names}
    others = imported - set(sys.stdlib_module_names)
    assert others == {"numpy", "onnxruntime", "PIL", "pyarrow"}
    path = exported(tmp_path / "a.onnx", "crop")
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as left: assert left.code == 0\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'lcnas', 'onnx', 'jax', 'search'}))"
    )
    line = [sys.executable, "-c", code, str(script), path, "--data", str(folder)]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    first, second = done.stdout.splitlines()
    assert json.loads(first)["images"] == 24
    assert second == "[]"
