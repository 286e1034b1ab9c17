"""What had another name goes on working under it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lcnas import (
    blocks,
    budgets,
    classify,
    errors,
    images,
    latency,
    measure,
    onnx_export,
    profile_blocks,
    spaces,
    zoo,
)
from lcnas.arch import walk
from lcnas.latency import profile, table, timing
from lcnas.models import supernet
from lcnas.spaces import layout
from search import run
from search.settings import Settings
from tests.latency.synthetic import ENGINE


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
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.blocks\.WholeNumbers$"):
        assert blocks.Row is blocks.WholeNumbers
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.spaces\.layout\.PlacedBlocks$"):
        assert layout.Rows is layout.PlacedBlocks
    with pytest.warns(DeprecationWarning, match=r"use lcnas\.models\.supernet\.SupernetPlan$"):
        assert supernet.Plan is supernet.SupernetPlan
    with pytest.raises(AttributeError, match=r"module 'lcnas\.errors' has no attribute 'Other'"):
        _ = errors.Other


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (latency, "Plan", "TimingPlan"),
        (timing, "Plan", "TimingPlan"),
        (timing, "steadied", "drift_corrected"),
        (timing, "visit", "run_visit"),
        (table, "Row", "Entry"),
        (table, "Network", "MeasuredNetwork"),
        (profile, "Settings", "ProfileSettings"),
        (profile, "Step", "ProfileStep"),
        (profile, "row_key", "entry_key"),
        (measure, "Result", "NetworkMeasurements"),
        (profile_blocks, "Progress", "ProfileProgress"),
    ],
)
def test_old_names_of_latency(module, old, new):
    with pytest.warns(DeprecationWarning, match=rf"^{module.__name__}\.{old} is deprecated: use "):
        assert getattr(module, old) is getattr(module, new)


def test_old_attributes_of_a_latency_table():
    empty = table.LatencyTable(latency.this_machine(), ENGINE)
    entries = {p: table.Entry(1.0, 0.9, 1.1, 6, 2) for p in walk(zoo.load("pplcnet_0.25x"))}
    with pytest.warns(DeprecationWarning, match=r"^LatencyTable\.rows is deprecated: use entries$"):
        empty.rows = entries
    with pytest.warns(DeprecationWarning, match=r"^LatencyTable\.rows is deprecated: use entries$"):
        assert empty.rows is empty.entries is entries
    with pytest.warns(DeprecationWarning, match=r"use machine_label$"):
        assert empty.whose == empty.machine_label
    network = table.MeasuredNetwork(tuple(entries), "held_out", "", 1.0, 0.9, 1.1)
    with pytest.warns(
        DeprecationWarning, match=r"^MeasuredNetwork\.rows is deprecated: use placed$"
    ):
        assert network.rows is network.placed


def test_old_names_of_a_space_warn_where_they_are_called():
    space = spaces.load("pplcnet")
    codes = space.sample_codes(3, np.random.default_rng(0))
    with pytest.warns(DeprecationWarning, match=r"^Space\.rows is deprecated: use ") as caught:
        assert space.rows(10) == space.placed_blocks(10)
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"use Space\.block_ids$") as caught:
        assert (space.row_ids(codes) == space.block_ids(codes)).all()
    assert caught[0].filename == __file__


def test_old_names_of_terms_warn_where_they_are_used():
    with pytest.warns(DeprecationWarning, match=r"^Terms\(rows=\) is deprecated: use ") as caught:
        terms = budgets.Terms(base=1, rows=np.arange(3))  # type: ignore[call-arg]
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"use Terms\.entries$") as caught:
        assert terms.rows is terms.entries
    assert caught[0].filename == __file__
    assert terms.entries.tolist() == [0, 1, 2]


def test_old_options_are_taken_with_a_line(capsys):
    parser = run.make_parser()
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
