"""The warning if a file was trained at another resolution than it takes."""

from __future__ import annotations

import json

import pytest

from lcnas import onnx_export, zoo

from . import tiny

OWN = "lcnas.training_resolution"


def search_metadata(resolution):
    """Return metadata of earlier searches."""
    return {"lcnas.validation": json.dumps({"accuracy": 0.9, "resolution": resolution})}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("metadata", "trained"),
    [
        (search_metadata(64), "64x64"),
        (search_metadata([80, 160]), "80x160"),
        ({OWN: "64"}, "64x64"),
        ({OWN: "[80, 160]"}, "80x160"),
        ({OWN: "64", **search_metadata([8, 6])}, "64x64"),
        ({OWN: "[8, 6]", **search_metadata(64)}, "64x64"),
        (search_metadata([6, 8]), "6x8"),
    ],
)
def test_another_resolution_gives_a_warning(layout, metadata, trained, tmp_path):
    model = tiny.classifier(layout=layout, metadata=metadata)
    line = (
        f"was trained at {trained} pixels, but takes 8x6: accuracies reported for it are those of "
    )
    line += trained
    assert onnx_export.resolution_warning(model) == f"model: {line}"
    path = tmp_path / "a.onnx"
    onnx_export.save(model, path)
    assert onnx_export.resolution_warning(path) == f"{path}: {line}"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        search_metadata([8, 6]),
        {OWN: "[8, 6]"},
        # Metadata that cannot be parsed cause neither a warning nor an error.
        {OWN: "x"},
        {OWN: "[8]"},
        {OWN: "[8, 6, 3]"},
        {OWN: "true"},
        {OWN: "8.5"},
        {"lcnas.validation": "64"},
        {"lcnas.validation": "{"},
        {"lcnas.validation": "{}"},
        search_metadata(None),
        search_metadata("64"),
    ],
)
def test_no_warning_for_the_same_resolution_or_none(metadata):
    assert onnx_export.resolution_warning(tiny.classifier(metadata=metadata)) is None


def test_an_open_size_is_compared_as_it_is_used():
    model = tiny.classifier(size=(None, None), metadata=search_metadata(64))
    assert onnx_export.resolution_warning(model) is None
    assert onnx_export.resolution_warning(model, (64, 64)) is None
    assert "takes 224x224" in (onnx_export.resolution_warning(model, (224, 224)) or "")


def test_no_warning_for_files_that_are_not_image_classifiers(tmp_path):
    assert onnx_export.resolution_warning(tmp_path / "none.onnx") is None
    assert onnx_export.resolution_warning(b"no model") is None


def test_an_exported_file_records_it():
    arch = zoo.load("pplcnet_0.25x", 64)
    for trained, warned in ((64, False), (48, True), ((80, 160), True), (None, False)):
        model = onnx_export.export(arch, classes=4, training_resolution=trained, check=False)
        assert (onnx_export.resolution_warning(model) is not None) == warned
