"""The order of proposals does not depend on the order in which their results come in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search import searchers
from search.errors import SearchError
from search.trials import Trial

from .small import accuracy, budget, trial

TRIALS = 36
LAG = 4
FAILED = (3, 17)  # trials that fail


def fresh(name, known=(), lag=LAG, seed=2):
    limits = budget()
    strategy = searchers.create(name, limits, seed, trials=TRIALS)
    return searchers.Proposals(strategy, limits, seed, lag, known)


def taken(proposals):
    """Return the next proposal, which there is."""
    proposal = proposals.next()
    assert proposal is not None
    return proposal


def finish(proposals, rng=None, until=TRIALS):
    """Run to the end with as many networks at work as the lag allows; return the trials in that order.

    Without a generator the oldest finishes first, with one any of them. Stops after ``until`` have finished.
    """
    limits, running = budget(), []
    finished: list[Trial] = []
    while len(finished) < until:
        while proposals.asked < TRIALS or proposals.pending:
            proposal = proposals.next()
            if proposal is None:
                break
            running.append(proposal)
        if not running:
            break
        number, codes = running.pop(0 if rng is None else int(rng.integers(len(running))))
        finished.append(trial(limits, number, codes, FAILED))
        proposals.record(finished[-1])
    return finished


@pytest.fixture(scope="module")
def whole():
    """Return the trials of the uninterrupted search of a strategy."""
    results = {}

    def of(name):
        if name not in results:
            results[name] = finish(fresh(name))
        return results[name]

    return of


@pytest.mark.parametrize("name", searchers.NAMES)
def test_any_order_of_finishing_gives_the_same_proposals(name, whole):
    expected = whole(name)
    assert [t.number for t in expected] == list(range(TRIALS))
    for seed in range(1 if name == "tpe" else 3):
        shuffled = finish(fresh(name), np.random.default_rng(seed))
        assert [t.number for t in shuffled] != list(range(TRIALS))
        assert sorted(shuffled, key=lambda t: t.number) == expected


@pytest.mark.parametrize("name", searchers.NAMES)
def test_a_kill_at_any_point_changes_nothing(name, whole):
    rng = np.random.default_rng(3)
    expected = whole(name)
    for _ in range(1 if name == "tpe" else 4):
        kept: list[Trial] = []
        while len(kept) < TRIALS:  # killed and resumed until it is through
            proposals = fresh(name, [kept[i] for i in rng.permutation(len(kept))])
            assert [t.number for t in proposals.results] <= sorted(t.number for t in kept)
            kept += finish(proposals, rng, until=int(rng.integers(1, 14)))
        assert sorted(kept, key=lambda t: t.number) == expected


def test_an_unfinished_one_is_proposed_again_with_its_number(whole):
    expected = whole("nsga2")
    proposals = fresh("nsga2", [t for t in expected[:8] if t.number not in (5, 6)])
    assert proposals.asked == 8
    assert proposals.pending == 2
    for number in (5, 6, 8, 9):
        at, codes = taken(proposals)
        assert (at, tuple(codes.tolist())) == (number, expected[number].codes)
    assert proposals.next() is None  # 10 needs the result of 5


def test_it_waits_for_what_it_needs_and_no_more():
    proposals, limits = fresh("random", lag=2), budget()
    first = [taken(proposals) for _ in range(3)]  # 0 to 2 need nothing: 2 - 2 = 0 results
    assert [n for n, _ in first] == [0, 1, 2]
    assert proposals.next() is None
    proposals.record(trial(limits, *first[1]))
    assert proposals.next() is None  # 3 needs 0
    proposals.record(trial(limits, *first[0]))
    assert [taken(proposals)[0], taken(proposals)[0]] == [3, 4]
    assert proposals.next() is None
    assert [t.number for t in proposals.results] == [0, 1]


def test_exactly_the_results_before_the_lag_have_been_told():
    limits, lag = budget(), 3

    class Watching(searchers.Random):
        def __init__(self):
            super().__init__(limits, 0, trials=TRIALS)
            self.reported = []
            self.at_ask = []

        def ask(self, rng):
            self.at_ask.append(list(self.reported))
            return super().ask(rng)

        def tell(self, number, codes, accuracy, latency_ms):
            self.reported.append((number, accuracy, latency_ms))

    watching = Watching()
    proposals = searchers.Proposals(watching, limits, 0, lag)
    result = [taken(proposals) for _ in range(lag + 1)]
    for number, codes in reversed(result):
        proposals.record(trial(limits, number, codes))
    result += [taken(proposals) for _ in range(3)]
    for number, messages in enumerate(watching.at_ask):
        results = [trial(limits, n, c) for n, c in result[: max(0, number - lag)]]
        assert messages == [(t.number, t.accuracy, t.latency_ms) for t in results]


def test_the_draws_of_a_proposal_come_from_the_seed_and_its_number():
    limits, drawn = budget(), []

    class Drawing(searchers.Random):
        def ask(self, rng):
            drawn.append(int(rng.integers(1 << 40)))
            return super().ask(rng)

    proposals = searchers.Proposals(Drawing(limits, 0, trials=9), limits, 11, 9)
    for _ in range(5):
        proposals.next()
    assert drawn == [int(np.random.default_rng([11, i]).integers(1 << 40)) for i in range(5)]


@pytest.mark.parametrize("name", searchers.NAMES)
def test_a_small_budget_is_proposed_whole_and_then_it_is_exhausted(name):
    limits = budget("network_wide", 0.15 if name == "tpe" else 0.5)
    strategy = searchers.create(name, limits, 0, trials=1000)
    proposals = searchers.Proposals(strategy, limits, 0, 2)
    results = []
    while not proposals.exhausted:
        results.append(taken(proposals))
        proposals.record(trial(limits, *results[-1]))
    assert proposals.next() is None
    codes = {tuple(c.tolist()) for _, c in results}
    everything = limits.space.encode(list(limits.space.enumerate()))
    expected = everything[limits.inside(everything)]
    assert len(results) == len(codes) == limits.count()
    assert codes == {tuple(c) for c in expected.tolist()}


def test_a_strategy_that_repeats_itself_is_helped_out():
    limits = budget()

    class Stuck(searchers.Random):
        def ask(self, rng):
            return limits.space.encode(limits.fastest())[0]

    proposals = searchers.Proposals(Stuck(limits, 0, trials=9), limits, 0, 9)
    results = [tuple(taken(proposals)[1].tolist()) for _ in range(9)]
    assert len(set(results)) == 9


def test_trials_of_another_search_are_refused(whole):
    expected = whole("nsga2")
    other = dataclasses.replace(expected[4], codes=expected[5].codes)
    with pytest.raises(
        SearchError, match=r"trial 4 is of codes .*another version of lcnas or other settings"
    ):
        fresh("nsga2", [*expected[:4], other])
    with pytest.raises(SearchError, match="trial 0 is of codes"):
        fresh("nsga2", expected, seed=3)
    with pytest.raises(SearchError, match="trial 2 is there twice"):
        fresh("nsga2", [*expected[:4], expected[2]])


def test_results_that_do_not_fit_are_refused():
    proposals, limits = fresh("random"), budget()
    number, codes = taken(proposals)
    with pytest.raises(SearchError, match="trial 1 was not proposed; 1 were"):
        proposals.record(trial(limits, 1, codes))
    with pytest.raises(SearchError, match="trial 0 is of codes"):
        proposals.record(dataclasses.replace(trial(limits, 0, codes), codes=(9, 9)))
    proposals.record(trial(limits, number, codes))
    with pytest.raises(SearchError, match="trial 0 has its result already"):
        proposals.record(trial(limits, number, codes))


@pytest.mark.parametrize("lag", [-1, 1.5, None])
def test_a_lag_that_is_none(lag):
    with pytest.raises(SearchError, match=r"lag: .* is not a whole number of at least 0"):
        fresh("random", lag=lag)


def test_what_is_returned_may_be_changed(whole):
    proposals = fresh("random")
    _, codes = taken(proposals)
    codes[:] = -1
    assert accuracy(codes) is not None
    with pytest.raises(SearchError, match="proposed was"):
        proposals.record(dataclasses.replace(whole("random")[0], codes=tuple(codes.tolist())))
    proposals.record(whole("random")[0])
