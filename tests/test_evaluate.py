"""Command line: accuracy of ONNX files, side by side."""

import json
import math

import numpy as np
import pytest

from lcnas import evaluate, onnx_export
from lcnas.errors import LcnasError
from tests.training.test_deployed import COLOURS, colour_file, folder

__all__ = ["folder"]  # the fixture


@pytest.fixture
def files(tmp_path):
    names = {"good": sorted(COLOURS), "bad": ["blue", "green", "red"]}
    models = {name: colour_file(order) for name, order in names.items()}
    # "bad" confuses red with blue: it is "good" with other class names
    for prop in models["bad"].metadata_props:
        if prop.key == "lcnas.class_names":
            prop.value = '["red", "green", "blue"]'
    for name, model in models.items():
        onnx_export.save(model, tmp_path / f"{name}.onnx")
    return [str(tmp_path / f"{name}.onnx") for name in models]


def printed(capsys, *arguments):
    assert evaluate.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_files_stand_side_by_side(files, folder, capsys):
    output = printed(capsys, *files, "--data", f"imagefolder:{folder}", "--engine", "mlas")
    assert "test: 12 images, 3 classes" in output
    assert "83.33" in output
    assert "33.33" in output
    assert "bad.onnx against good.onnx: -50.00 points (" in output


def test_json_has_counts_intervals_and_engine(files, folder, capsys):
    command = [*files, "--data", f"imagefolder:{folder}", "--engine", "mlas", "--json"]
    output = json.loads(printed(capsys, *command))
    good, bad = output["files"]
    assert (good["file"], good["images"], good["right"]) == ("good.onnx", 12, 10)
    assert good["top1"]["low"] < 10 / 12 == good["top1"]["value"] < good["top1"]["high"]
    assert good["difference"] is None
    assert bad["difference"]["value"] == pytest.approx(-0.5)
    assert bad["difference"]["high"] < 0
    assert bad["engine"]["name"] == "mlas"


def test_warnings_if_an_accuracy_may_differ_from_the_reported_one(files, folder, capsys):
    model = onnx_export.read(files[0])
    for key, value in (("lcnas.training_resolution", "16"), ("lcnas.precision", "bf16")):
        model.metadata_props.add(key=key, value=value)
    onnx_export.save(model, files[0])
    assert evaluate.main([*files, "--data", f"imagefolder:{folder}", "--engine", "mlas"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert f"{files[0]}: was trained at 16x16 pixels, but takes 8x8" in first
    assert f"{files[0]}: was tested in bf16, is run in fp32" in second


def test_the_split_can_be_chosen(files, folder, capsys):
    command = [files[0], "--data", f"imagefolder:{folder}", "--engine", "mlas", "--json"]
    output = json.loads(printed(capsys, *command, "--split", "validation"))
    assert (output["files"][0]["right"], output["files"][0]["images"]) == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "imagefolder:nowhere"], "nowhere"),
        (["--data", "imagefoldr:x"], "did you mean 'imagefolder'"),
        (["--data", "synthetic", "--engine", "mlass"], "did you mean 'mlas'"),
        (["--data", "synthetic:classes=4"], "lacks classes of the images"),
    ],
)
def test_errors_are_one_line(files, options, message):
    with pytest.raises(LcnasError) as caught:
        evaluate.main([files[0], *options])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_duplicate_and_missing_files_are_errors(files, folder):
    with pytest.raises(LcnasError, match=r"models: .* is given twice"):
        evaluate.main([files[0], files[0], "--data", f"imagefolder:{folder}"])
    with pytest.raises(LcnasError, match=r"none\.onnx: cannot be read"):
        evaluate.main(["none.onnx", "--data", f"imagefolder:{folder}"])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/b/c.onnx"], ["c.onnx"]),
        (["a/b/c.onnx", "a/b/d.onnx"], ["c.onnx", "d.onnx"]),
        (["a/s0/n.onnx", "a/s1/n.onnx"], ["s0/n.onnx", "s1/n.onnx"]),
        (["/x/n.onnx", "y/n.onnx"], ["/x/n.onnx", "y/n.onnx"]),
    ],
)
def test_names_omit_the_folders_that_all_paths_share(paths, names):
    assert list(evaluate.short_names(paths)) == names


def test_wilsons_interval():
    """10 of 100: the closed form of Wilson (1927)."""
    hits = np.arange(100) < 10
    interval = evaluate.accuracy_interval(hits)
    z2 = 1.959963984540054**2
    centre = (0.1 + z2 / 200) / (1 + z2 / 100)
    half = math.sqrt(z2 * (0.1 * 0.9 / 100 + z2 / 40000)) / (1 + z2 / 100)
    assert (interval.low, interval.high) == pytest.approx((centre - half, centre + half))
    assert evaluate.accuracy_interval(np.ones(50, bool)).high == 1.0
    assert evaluate.accuracy_interval(np.zeros(50, bool)).low == 0.0


def test_the_interval_of_a_difference_covers_the_truth():
    """Simulated pairs of files whose accuracies differ by 3 points, correlated over images."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        u = rng.random((300, 2))
        both = u[:, 0] < 0.6
        first = both | (u[:, 1] < 0.15)
        second = both | (u[:, 1] > 1 - 0.075)
        interval = evaluate.difference_interval(first, second)
        covered += interval.low <= 0.4 * 0.075 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_files_that_agree_on_all_images_still_have_an_interval():
    hits = np.ones(100, bool)
    interval = evaluate.difference_interval(hits, hits)
    assert interval.value == 0
    assert -0.05 < interval.low < 0 < interval.high < 0.05
