"""What had another name goes on working under it."""

from types import SimpleNamespace
from typing import Any

import pytest

from lcnas import errors, onnx_export
from search import run
from search.settings import Settings


def test_old_names_of_a_module_warn_and_are_the_new_ones():
    with pytest.warns(
        DeprecationWarning, match=r"^lcnas\.errors\.PictureError is deprecated: use "
    ):
        assert errors.PictureError is errors.ImageError
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.onnx_export\.read_image$"):
        assert onnx_export.read_picture is onnx_export.read_image
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


def test_old_names_of_training():
    from lcnas.training import supernet

    for old, new in (
        ("Trained", "TrainedSupernet"),
        ("Moment", "SupernetProgress"),
        ("Program", "SupernetProgram"),
    ):
        with pytest.warns(DeprecationWarning, match=rf"use lcnas\.training\.supernet\.{new}$"):
            assert getattr(supernet, old) is getattr(supernet, new)

    loaded: list[Any] = []
    scorer: Any = SimpleNamespace(set_weights=loaded.append)
    with pytest.warns(DeprecationWarning, match=r"use Scorer\.set_weights$") as caught:
        supernet.Scorer.hold(scorer, {"w": 0})
    assert caught[0].filename == __file__
    assert loaded == [{"w": 0}]


def test_old_keywords_of_training():
    from lcnas.onnx_export import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
    from lcnas.training import load_data, supernet

    train: Any = supernet.train
    with (
        pytest.warns(DeprecationWarning, match=r"^train\(told=\) is deprecated: use train\(init_n"),
        pytest.raises(TypeError, match="missing"),
    ):
        train(told="drawn")

    preprocessing = Preprocessing((8, 8), IMAGENET_MEAN, IMAGENET_STD)
    with load_data("synthetic:classes=2,train=40,test=4", size=8, workers=0) as data:
        prepared: Any = data.prepared
        with pytest.warns(DeprecationWarning, match=r"use Data\.prepared\(preprocessing=\)$") as w:
            (batch,) = prepared(data.test, preparation=preprocessing, batch=4)
        assert w[0].filename == __file__
        assert batch.images.shape == (4, 8, 8, 3)
