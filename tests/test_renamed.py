"""What had another name goes on working under it."""

import pytest

from lcnas import classify, errors, images, onnx_export
from search import run
from search.settings import Settings


def test_old_names_of_a_module_warn_and_are_the_new_ones():
    with pytest.warns(
        DeprecationWarning, match=r"^lcnas\.errors\.PictureError is deprecated: use "
    ):
        assert errors.PictureError is errors.ImageError
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.onnx_export\.read_image$"):
        assert onnx_export.read_picture is onnx_export.read_image
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.onnx_export\.ModelRunner$"):
        assert onnx_export.Run is onnx_export.ModelRunner
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.onnx_export\.RunnerFactory$"):
        assert onnx_export.Start is onnx_export.RunnerFactory
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.onnx_export\.NetworkOrBlocks$"):
        assert onnx_export.Source is onnx_export.NetworkOrBlocks
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.images\.open_image$"):
        assert images.opened is images.open_image
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.images\.ImageSource$"):
        assert images.Source is images.ImageSource
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.classify\.Prediction$"):
        assert classify.Guess is classify.Prediction
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.classify\.Classification$"):
        assert classify.Answer is classify.Classification
    with pytest.raises(AttributeError, match=r"module 'lcnas\.errors' has no attribute 'Other'"):
        _ = errors.Other


def test_old_options_are_taken_with_a_line(capsys):
    parser = run._parser()
    given = parser.parse_args(["--pictures", "100", "--final-pictures=200"])
    assert (given.setting_images, given.setting_final_images) == (100, 200)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "python -m search.run: --pictures is deprecated: use --images",
        "python -m search.run: --final-pictures is deprecated: use --final-images",
    ]
    assert parser.parse_args([]).setting_images is None
    assert "--pictures" not in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--pictures", "many"])
    assert "--pictures: 'many' is not a whole number" in capsys.readouterr().err


def test_settings_of_runs_before_are_read():
    before = {"pictures": 100, "final_pictures": 200, "seed": 3}
    read = Settings.from_data(before, "config.json")
    assert read == Settings(images=100, final_images=200, seed=3)
