"""The Ray Tune searcher, called as Tune calls it; docs/reference/searchers.md runs it inside Tune."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from lcnas.arch import Arch
from search import searchers
from search.errors import SearchError
from search.searchers import Searcher
from search.searchers.tune import AGAIN
from search.trials import Trial

from .small import accuracy, budget

TRIALS = 23


def build(**named):
    return Searcher("nsga2", budget(), **{"trials": TRIALS, "seed": 1, **named})


def evaluation(item):
    return {"accuracy": accuracy(item["codes"]), "seconds": 0.5, "details": {"epochs": 3}}


def report(config):
    """Return what a trainable reports about a config, as Tune hands it over: nested results are flat."""
    if "networks" in config:
        return {"evaluations": [evaluation(item) for item in config["networks"]], "done": True}
    messages = evaluation(config)
    return {"accuracy": messages["accuracy"], "seconds": 0.5, "details/epochs": 3, "done": True}


def drive(searcher, workers=2, rng=None, until=math.inf):
    """Run trials as Tune does, until ``until`` have ended; return those that are still running."""
    running: dict[str, dict] = {}
    count = ended = 0
    while True:
        while len(running) < workers:
            config = searcher.suggest(f"t{count}")
            if config is None or config == Searcher.FINISHED:
                break
            running[f"t{count}"] = config
            count += 1
        if not running:
            assert config == Searcher.FINISHED
            return running
        if ended == until:
            return running
        ids = list(running)
        trial_id = ids[0] if rng is None else ids[int(rng.integers(len(ids)))]
        searcher.on_trial_complete(trial_id, report(running.pop(trial_id)))
        ended += 1


def test_trials_are_recorded_as_they_are():
    kept: list[Trial] = []
    searcher = build(record=kept.append)
    drive(searcher)
    assert [t.number for t in kept] == list(range(TRIALS))
    assert searcher.results == kept
    for trial in kept:
        arch = budget().space.decode(np.array(trial.codes))[0]
        assert trial.arch == arch.id
        assert trial.accuracy == accuracy(trial.codes)
        assert trial.latency_ms == budget().cost(arch) / 1000
        assert (trial.seconds, dict(trial.details), trial.reason) == (0.5, {"epochs": 3}, "")


def test_a_config_holds_the_network():
    config = build().suggest("t")
    arch = Arch.from_data(json.loads(config["arch"]), "config")
    assert budget().space.encode(arch)[0].tolist() == config["codes"]
    assert config["number"] == 0


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_order_and_kills_change_nothing(batch):
    lag = 12
    whole = build(lag=lag)
    drive(whole)
    shuffled = build(batch=batch, lag=lag)
    drive(shuffled, 3, np.random.default_rng(0))
    assert shuffled.results == whole.results
    kept: list[Trial] = []
    rng = np.random.default_rng(1)
    for _ in range(100):
        killed = build(batch=batch, lag=lag, known=list(kept), record=kept.append)
        if not drive(killed, 2, rng, until=int(rng.integers(1, 4))):
            break
    assert sorted(kept, key=lambda t: t.number) == whole.results


def test_the_last_batch_holds_what_is_left():
    sizes: list[int] = []
    searcher = build(batch=5)
    while (config := searcher.suggest(f"t{len(sizes)}")) != Searcher.FINISHED:
        sizes.append(len(config["networks"]))
        searcher.on_trial_complete(f"t{len(sizes) - 1}", report(config))
    assert sizes == [5, 5, 5, 5, 3]


def test_it_waits_for_results():
    searcher = build(lag=1)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b", report(second))
    assert searcher.suggest("c") is None  # proposal 2 needs 0
    searcher.on_trial_complete("a", report(first))
    assert searcher.suggest("c")["number"] == 2


def test_it_is_recorded_before_it_is_reported():
    class Order(searchers.Random):
        def tell(self, number, codes, accuracy, latency_ms):
            order.append(("reported", number))

    order: list[tuple[str, int]] = []
    strategy = Order(budget(), 0, trials=9)
    searcher = Searcher(
        strategy, budget(), trials=9, lag=0, record=lambda t: order.append(("kept", t.number))
    )
    drive(searcher)
    expected = [(what, n) for n in range(9) for what in ("kept", "reported")]
    assert order == expected[:-1]  # nothing was asked after the last one


def test_a_lost_worker_fails_all_its_networks():
    searcher = build(batch=3, lag=6)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.note_failure("b", "no memory")
    searcher.on_trial_complete("a", None, error=True)
    searcher.on_trial_complete("b", None, error=True)
    assert [(t.number, t.accuracy, t.reason) for t in searcher.results] == [
        *((n, None, "the worker was lost") for n in (0, 1, 2)),
        *((n, None, "no memory") for n in (3, 4, 5)),
    ]
    assert searcher.suggest("c")["networks"][0]["number"] == 6


def test_what_is_lost_is_given_out_again_but_not_for_ever():
    whole = build(batch=3, lag=6, trials=6)
    drive(whole)
    searcher = build(batch=3, lag=6, trials=6)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    searcher.on_trial_complete("b", report(second))
    assert searcher.suggest("c") is None  # not finished: "a" may be lost yet
    searcher.note_failure("a", "gone", lost=True)
    searcher.on_trial_complete("a", None, error=True)
    again = searcher.suggest("c")
    assert again == first
    searcher.on_trial_complete("c", report(again))
    assert searcher.suggest("d") == Searcher.FINISHED
    assert searcher.results == whole.results
    # One that is lost time and again is recorded as failed.
    unlucky = build(batch=3, lag=6, trials=3)
    for i in range(1 + AGAIN):
        assert unlucky.suggest(f"t{i}") is not None
        assert unlucky.results == []
        unlucky.note_failure(f"t{i}", "gone", lost=True)
        unlucky.on_trial_complete(f"t{i}", None, error=True)
    assert [(t.accuracy, t.reason) for t in unlucky.results] == [(None, "gone")] * 3
    assert unlucky.suggest("end") == Searcher.FINISHED


def test_what_was_lost_is_given_out_again_when_nothing_new_is_proposed_any_more():
    over: list[bool] = []
    searcher = build(batch=2, lag=6, stop=lambda: bool(over))
    first, second = searcher.suggest("a"), searcher.suggest("b")
    over.append(True)
    assert searcher.suggest("c") is None  # "a" may be lost yet
    searcher.note_failure("a", "gone", lost=True)
    searcher.on_trial_complete("a", None, error=True)
    assert searcher.suggest("c") == first
    searcher.on_trial_complete("b", report(second))
    searcher.on_trial_complete("c", report(first))
    assert searcher.suggest("d") == Searcher.FINISHED
    assert [t.number for t in searcher.results] == [0, 1, 2, 3]


def test_a_result_that_cannot_be_kept_is_reported_to_no_strategy_and_ends_the_search():
    """Tune takes no notice of what is raised where a trial ends."""

    def record(trial):
        if trial.number == 2:
            raise OSError("no space")
        kept.append(trial)

    kept: list[Any] = []
    searcher = build(record=record, lag=4)
    with pytest.raises(OSError, match="no space"):
        drive(searcher)
    assert [t.number for t in searcher.results] == [t.number for t in kept] == [0, 1]
    whole = build(lag=4)
    drive(whole)
    resumed = build(lag=4, known=kept)
    drive(resumed)
    assert resumed.results == whole.results


@pytest.mark.parametrize(
    ("reported", "reason"),
    [
        ({"accuracy": None, "reason": "diverged"}, "diverged"),
        ({"accuracy": math.nan}, "the accuracy is nan"),
        ({"accuracy": "high"}, "the accuracy is 'high'"),
        ({"accuracy": None}, "no accuracy was reported"),
    ],
)
def test_what_is_no_accuracy_is_a_failure(reported, reason):
    searcher = build()
    searcher.suggest("a")
    searcher.on_trial_complete("a", reported)
    (trial,) = searcher.results
    assert (trial.accuracy, trial.reason) == (None, reason)


def test_a_stopped_trial_stays_unfinished():
    kept: list[Trial] = []
    searcher = build(record=kept.append)
    searcher.suggest("a")
    config = searcher.suggest("b")
    searcher.on_trial_complete("a")  # as Tune ends a pending one
    searcher.on_trial_complete("b", {"trial_id": "b"})  # and one that has not reported yet
    assert not kept
    assert build(known=kept).suggest("c")["number"] == 0
    assert config["number"] == 1


def test_it_finishes_when_it_is_asked_to_stop():
    ended: list[bool] = []
    searcher = build(stop=lambda: bool(ended))
    config = searcher.suggest("a")
    ended.append(True)
    assert searcher.suggest("b") is None  # "a" may be lost yet
    searcher.on_trial_complete("a", report(config))
    assert searcher.suggest("b") == Searcher.FINISHED
    assert [t.number for t in searcher.results] == [0]


def test_a_budget_with_fewer_networks_than_trials():
    limits = budget("network_wide", 0.3)
    searcher = Searcher("random", limits, trials=10_000)
    drive(searcher)
    assert len(searcher.results) == limits.count() < 10_000


def test_known_trials_alone_are_enough():
    whole = build()
    drive(whole)
    again = build(known=whole.results, record=lambda t: pytest.fail("recorded again"))
    assert again.suggest("a") == Searcher.FINISHED
    assert again.results == whole.results


def test_its_state_is_neither_saved_nor_restored(tmp_path):
    searcher = build()
    for refused in (searcher.save, searcher.restore, searcher.restore_from_dir):
        with pytest.raises(SearchError, match="as known="):
            refused(str(tmp_path / "state.pkl"))
    searcher.save_to_dir(str(tmp_path))  # Tune does that by itself
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SearchError, match="is not restored"):
        pickle.loads(pickle.dumps(searcher))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"batch": 0}, "batch: 0 is not a whole number of at least 1"),
        ({"batch": 4, "lag": 2}, "lag: 2 is less than batch - 1 = 3"),
        ({"lag": -1}, "lag: -1 is not"),
        ({"trials": 0}, "trials: 0 is not"),
        ({"populations": 3}, "option: 'populations' is not among"),
    ],
)
def test_wrong_values(named, message):
    with pytest.raises(SearchError, match=message):
        build(**named)


def test_options_of_a_made_strategy_are_refused():
    strategy = searchers.create("random", budget(), 0, trials=5)
    with pytest.raises(SearchError, match="options: bands are of no use"):
        Searcher(strategy, budget(), trials=5, bands=3)


def test_a_wrong_number_of_evaluations_is_reported():
    searcher = build(batch=2)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"evaluations": [{"accuracy": 0.5}]})
    with pytest.raises(SearchError, match="trial a: 1 evaluations for 2 networks"):
        searcher.suggest("b")
