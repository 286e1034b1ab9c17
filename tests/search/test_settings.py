import dataclasses

import pytest

from lcnas.errors import LcnasError
from lcnas.training.data import MAX_BAD
from search.errors import SearchError
from search.settings import PRESETS, ResolvedSettings, Settings

LEFT_TO_THE_TABLE = {"max_latency_ms", "min_latency_ms", "engine", "table"}
MAY_BE_OPEN = LEFT_TO_THE_TABLE | {"remeasure", "time_budget", "score", "init"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("evaluator", ["supernet", "train", "proxy"])
@pytest.mark.parametrize("resolution", [32, 224, (80, 160)])
def test_filled_settings_leave_nothing_open_but_what_the_table_decides(
    preset, evaluator, resolution
):
    result = Settings(preset=preset, evaluator=evaluator, resolution=resolution).resolve(2)
    still_open = {name for name, value in dataclasses.asdict(result).items() if value is None}
    limits = {"images", "final_images"}  # all of them, where a preset says nothing
    if evaluator == "proxy":
        limits.add("epochs")  # it trains nothing
    assert still_open <= MAY_BE_OPEN | limits
    filled = dataclasses.asdict(result)
    assert filled["lag"] >= filled["workers"] * filled["networks_per_trial"]
    assert filled["bands"] <= filled["finalists"]


def test_a_preset_may_differ_by_evaluator():
    results = {
        e: Settings(preset="hour", evaluator=e, resolution=64).resolve(2)
        for e in ("train", "supernet")
    }
    assert (results["train"].epochs, results["train"].trials) == (2, 72)
    assert (results["supernet"].epochs, results["supernet"].trials) == (24, 500)


@pytest.mark.parametrize(
    ("preset", "evaluator", "size", "alike"),
    [
        ("quick", "train", 64, True),
        ("quick", "train", 128, False),  # the evaluator looks at 64
        ("quick", "supernet", 64, False),
        ("hour", "train", 64, False),
    ],
)
def test_the_quick_search_trains_as_its_finals_do(preset, evaluator, size, alike):
    result = Settings(preset=preset, evaluator=evaluator, resolution=size).resolve(2)
    assert result.trains_alike == alike


@pytest.mark.parametrize(
    ("preset", "resolution", "looks_at"),
    [
        ("quick", 32, 32),
        ("quick", 224, 64),
        ("hour", 128, 64),
        ("thorough", 224, 128),
        ("hour", (80, 160), (64, 128)),
    ],
)
def test_only_the_evaluator_looks_at_less_than_the_deployment_resolution(
    preset, resolution, looks_at
):
    result = Settings(preset=preset, resolution=resolution).resolve(2)
    assert (result.train_size, result.resolution) == (looks_at, resolution)


def test_what_was_asked_for_is_kept():
    asked = Settings(
        trials=7, epochs=3, bands=1, finalists=2, lag=9, workers=3, train_size=48, resolution=64
    )
    result = asked.resolve(2)
    for name in ("trials", "epochs", "bands", "finalists", "lag", "workers", "train_size"):
        assert getattr(result, name) == getattr(asked, name)


def test_the_share_of_damaged_images_is_that_of_training_and_may_be_missing_in_old_folders():
    old = {k: v for k, v in Settings(trials=5).to_data().items() if k != "max_bad"}
    assert Settings.from_data(old, "there") == Settings(trials=5)
    assert Settings().max_bad == MAX_BAD
    assert Settings(max_bad=0.5, resolution=64).resolve(2).max_bad == 0.5


def test_round_trip():
    settings = Settings(resolution=(80, 160), max_latency_ms=2.0, score="zico")
    assert Settings.from_data(settings.to_data(), "there") == settings
    resolved = settings.resolve(1)
    assert ResolvedSettings.from_data(resolved.to_data(), "there") == resolved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluator": "supernett"}, "did you mean 'supernet'"),
        ({"searcher": "nsga3"}, "did you mean 'nsga2'"),
        ({"preset": "quik"}, "did you mean 'quick'"),
        ({"max_bad": 1.5}, "max_bad: 1.5 is not a share from 0 to 1"),
        ({"score": "zic"}, "did you mean 'zico'"),
        ({"trials": 0}, "trials: 0 is not a whole number of at least 1"),
        ({"max_latency_ms": -1.0}, "max_latency_ms: -1 is not a latency"),
        ({"min_latency_ms": 3.0, "max_latency_ms": 2.0}, "min_latency_ms: 3 is not less"),
        ({"bands": 4, "finalists": 3}, "bands: 4 are more than the 3 finalists"),
        ({"resolution": 7.5}, "resolution"),
        ({"score": "zico", "evaluator": "train"}, "is for the evaluator proxy"),
    ],
)
def test_wrong_values_are_refused_in_one_line(change, words):
    with pytest.raises(LcnasError, match=words) as caught:
        Settings(**change)
    assert "\n" not in str(caught.value)


def test_random_search_is_not_screened_unless_asked_for():
    def screened(**changes):
        return Settings(resolution=64, **changes).resolve(2).predictor

    assert screened()
    assert not screened(searcher="random")
    assert screened(searcher="random", predictor=True)
    assert not screened(evaluator="proxy")


def test_differences_are_named():
    actual = Settings(trials=5, seed=1).differences(Settings(seed=2))
    assert actual == ["trials is not given there and 5 here", "seed is 2 there and 1 here"]


def test_settings_of_another_version_are_refused():
    with pytest.raises(SearchError, match="there: not settings of this version"):
        Settings.from_data({"unknown": 1}, "there")
