"""What is called better, and in which words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search.comparison import compare, compare_accuracies
from search.outcome import FinalRun, MeasuredLatency
from search.reporting import verdicts
from tests.search.reporting import sample_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def outcome(folder):
    return sample_run.outcome(folder, n=30)


def by_name(outcome, name):
    return next(final for final in outcome.finals if final.name == name)


def changed(outcome, name, **fields):
    """Return the outcome with one network changed."""
    finals = [dataclasses.replace(f, **fields) if f.name == name else f for f in outcome.finals]
    return dataclasses.replace(outcome, finals=tuple(finals))


def test_each_band_is_decided_by_its_winner_and_the_hits(outcome, folder):
    bands = verdicts.bands(outcome, folder)
    assert [band.winner.name for band in bands] == ["finalist-1", "finalist-2", "finalist-3"]
    assert [band.better for band in bands] == [True, True, False]
    first = bands[0].duels[0]
    hits = {
        name: np.stack([np.load(folder / run.hits) for run in by_name(outcome, name).runs])
        for name in ("finalist-1", "pplcnet_0.35x")
    }
    assert first.comparison == compare(hits["finalist-1"], hits["pplcnet_0.35x"])
    assert first.comparison.covers == "seeds and images"


def test_without_the_hits_the_accuracies_of_seeds_decide(outcome):
    duel = verdicts.bands(outcome)[0].duels[0]
    a, b = by_name(outcome, "finalist-1"), by_name(outcome, "pplcnet_0.35x")
    expected = compare_accuracies([r.test for r in a.runs], [r.test for r in b.runs])
    assert duel.comparison == expected
    assert duel.split == "test"


@pytest.mark.parametrize("damage", ["missing", "garbage", "pickle", "other", "ints", "outside"])
def test_hits_that_cannot_be_trusted_are_not_used(tmp_path, damage):
    outcome = sample_run.outcome(tmp_path, n=30, names=("finalist-1", "pplcnet_0.35x"))
    path = tmp_path / outcome.finals[0].runs[1].hits
    good = np.load(path)
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"not an array")
    elif damage == "pickle":
        np.save(path, np.array([good, None], dtype=object), allow_pickle=True)
    elif damage == "other":
        np.save(path, ~good)  # of other results than those of the outcome
    elif damage == "ints":
        np.save(path, good.astype(np.int8))
    else:
        runs = list(outcome.finals[0].runs)
        runs[1] = dataclasses.replace(runs[1], hits=str(path))
        outcome = changed(outcome, "finalist-1", runs=tuple(runs))
    (band,) = verdicts.bands(outcome, tmp_path)
    assert band.duels[0].comparison.covers == "seeds"


def test_seeds_are_paired_by_their_numbers(outcome, folder):
    """A baseline whose seed 0 is not there, and whose others come in another order."""
    runs = by_name(outcome, "pplcnet_0.35x").runs
    fewer = changed(outcome, "pplcnet_0.35x", runs=(runs[2], runs[1]))
    actual = verdicts.bands(fewer, folder)[0].duels[0].comparison
    ours = by_name(outcome, "finalist-1").runs
    first, second = (np.stack([np.load(folder / r.hits) for r in rs[1:3]]) for rs in (ours, runs))
    assert actual == compare(first, second)
    none = changed(outcome, "pplcnet_0.35x", runs=(FinalRun(9, 0.5, 0.5, ""),))
    assert verdicts.bands(none, folder)[0].duels == ()


def test_the_winner_is_the_named_one_else_the_best_by_validation(outcome):
    best = FinalRun(0, validation=0.99, test=0.1, onnx="")
    two = changed(outcome, "finalist-2", band=0, winner=False, runs=(best,))
    assert verdicts.bands(two)[0].winner.name == "finalist-1"
    unnamed = changed(two, "finalist-1", winner=False)
    assert verdicts.bands(unnamed)[0].winner.name == "finalist-2"


# -- sentences -------------------------------------------------------------------------------------


def sentences(outcome, folder=None):
    return [verdicts.sentence(band) for band in verdicts.bands(outcome, folder)]


def test_better_than_all(outcome, folder):
    first, second, _ = sentences(outcome, folder)
    c = verdicts.bands(outcome, folder)[0].duels[0].comparison
    by, low, high = (f"{100 * share:.1f}" for share in (c.difference, c.low, c.high))
    assert first == (
        f"finalist-1 is {by} points ({low} to {high}) better than pplcnet_0.35x "
        "at 0.920 ms against 0.910 ms."
    )
    assert " better than pplcnet_0.62x at 1.31 ms against 1.30 ms, and " in second
    assert "but" not in second


def test_better_than_some(outcome, folder):
    third = sentences(outcome, folder)[2]
    assert "better than mobilenet_v3_small_1.0x at 2.41 ms against 2.12 ms" in third
    assert ", but not better than all (finalist-3 against pplcnet_0.75x: " in third


def test_nothing_better(tmp_path):
    outcome = sample_run.outcome(tmp_path, n=30, shift=-0.2)
    bands = verdicts.bands(outcome, tmp_path)
    assert not any(band.better for band in bands)
    text = verdicts.sentence(bands[0])
    assert text.startswith("Nothing better was found (finalist-1 against pplcnet_0.35x: -1")
    assert ": worse) at 0.920 ms against 0.910 ms" in text
    assert verdicts.headline(bands[:1], outcome) == "Nothing better was found in 1 latency band."


def test_what_could_not_be_compared(outcome):
    assert sentences(changed(outcome, "finalist-1", runs=()))[0] == (
        "finalist-1 was not trained, so nothing is said of it."
    )
    alone = changed(outcome, "pplcnet_0.35x", beside=())
    assert sentences(alone)[0].startswith("finalist-1 at 0.920 ms has no baseline beside it")


def test_latencies_that_were_not_measured_are_called_predicted(outcome):
    mixed = changed(outcome, "pplcnet_0.35x", measured=None)
    assert "at 0.920 ms (measured) against 0.900 ms (predicted)" in sentences(mixed)[0]
    both = changed(mixed, "finalist-1", measured=None)
    assert "at 0.950 ms against 0.900 ms (predicted)" in sentences(both)[0]
    unknown = changed(mixed, "pplcnet_0.35x", measured=None, predicted_ms=None)
    assert sentences(unknown)[0].endswith("better than pplcnet_0.35x.")
    slower = changed(outcome, "finalist-1", measured=MeasuredLatency(1.0, 0.9, 1.2))
    assert "at 1.00 ms against 0.910 ms" in sentences(slower)[0]


def test_the_headline(outcome, folder):
    bands = verdicts.bands(outcome, folder)
    expected = "Better than the baselines beside it in 2 of 3 latency bands."
    assert verdicts.headline(bands, outcome) == expected
    demonstration = dataclasses.replace(outcome, synthetic=True)
    assert "a demonstration on synthetic images" in verdicts.headline(bands, demonstration)
    assert "a demonstration" in verdicts.headline([], demonstration)
    partly = verdicts.headline(bands[2:], outcome)
    assert partly == "Nothing better than all baselines beside it was found in 1 latency band."
    assert verdicts.headline([], outcome) == "No finalist was trained, so nothing better was found."


def test_what_a_reader_has_to_know(tmp_path, outcome, folder):
    messages = verdicts.caveats(verdicts.bands(outcome, folder))
    assert messages[0] == "Intervals are of 95 %, over seeds and test images."
    assert messages[1].startswith("There are 6 comparisons")
    assert "over the seeds alone" in verdicts.caveats(verdicts.bands(outcome))[0]
    one = sample_run.outcome(tmp_path, n=30, seeds=1, names=("finalist-1", "pplcnet_0.35x"))
    (told_once,) = verdicts.caveats(verdicts.bands(one, tmp_path))
    assert told_once.startswith(
        "There is one seed: intervals are of 95 % over the test images alone;"
    )
    assert "nothing is called better" in verdicts.caveats(verdicts.bands(one))[0]
    unread = sample_run.outcome(tmp_path, n=30, test=False, names=("finalist-1", "pplcnet_0.35x"))
    actual = verdicts.bands(unread, tmp_path)
    assert actual[0].duels[0].split == "validation"
    assert "The test images were not read" in verdicts.caveats(actual)[1]
    assert verdicts.caveats([]) == []
