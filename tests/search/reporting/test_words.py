"""Figures as reports write them."""

from __future__ import annotations

import dataclasses

import pytest

from search.outcome import FinalRun
from search.reporting import words
from tests.search.reporting import sample_run


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6831, "0.683"), (1.3, "1.30"), (12.44, "12.4"), (314.2, "314"), (4321.0, "4321"), (0, "0")],
)
def test_latencies_have_three_digits(value, text):
    assert words.ms(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (613_000, "613k"),
        (999_600, "1.00M"),
        (1_879_576, "1.88M"),
        (5_300_000_000, "5.30G"),
    ],
)
def test_large_counts(value, text):
    assert words.large(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (200, "3 min 20 s"), (59.6, "1 min 0 s"),
     (3599.6, "1 h 0 min"), (7500, "2 h 5 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(("share", "text"), [(0.0184, "1.8"), (-0.0004, "0.0"), (-0.03, "-3.0")])
def test_points(share, text):
    assert words.points(share) == text


def test_one_and_many():
    assert words.plural(1, "seed") == "1 seed"
    assert words.plural(1200, "trial") == "1,200 trials"


def test_accuracy_is_that_of_the_test_images_if_all_seeds_read_them(tmp_path):
    final = sample_run.outcome(tmp_path, n=30).finals[0]
    runs = (FinalRun(0, 0.5, 0.71, "a.onnx"), FinalRun(1, 0.6, 0.73, "b.onnx"))
    final = dataclasses.replace(final, runs=runs)
    assert words.accuracy(final) == "72.0 ± 1.4"  # sqrt(2) times 1
    assert words.best_run(final) == runs[1]
    final = dataclasses.replace(final, runs=(runs[0], dataclasses.replace(runs[1], test=None)))
    assert words.accuracy(final) == "55.0 ± 7.1"
    assert words.accuracy(dataclasses.replace(final, runs=runs[:1])) == "71.0"
    assert words.accuracy(dataclasses.replace(final, runs=())) == ""
    assert words.best_run(dataclasses.replace(final, runs=())) is None


def test_flat():
    data = {"a": 1, "b": {"c": "x", "d": {"e": [1, 2]}}, "f": None, "g": False, "h": 1 / 3}
    assert words.flat(data) == {
        "a": "1",
        "b.c": "x",
        "b.d.e": "1, 2",
        "g": "False",
        "h": "0.333333",
    }
