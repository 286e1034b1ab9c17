"""Every strategy stays in the budget, repeats itself, copes with failures, and finds what was planted."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys

import numpy as np
import pytest

from lcnas import budgets
from search import pareto, searchers
from search.errors import SearchError
from search.searchers import base, tpe

from .small import accuracy, budget, trial

LEARNING = tuple(name for name in searchers.NAMES if name != "random")


def search(name, limits, seed, trials, evaluate, lag=3, **options):
    """Return the trials of a search whose accuracies are those of ``evaluate``."""
    strategy = searchers.create(name, limits, seed, trials=trials, **options)
    proposals = searchers.Proposals(strategy, limits, seed, lag)
    results = []
    for number in range(trials):
        proposed = proposals.next()
        assert proposed is not None
        at, codes = proposed
        assert at == number
        result = dataclasses.replace(trial(limits, at, codes), accuracy=evaluate(codes))
        proposals.record(result)
        results.append(result)
    return results


@pytest.mark.parametrize("name", searchers.NAMES)
@pytest.mark.parametrize("space", ["per_block", "kinds", "network_wide"])
def test_all_proposals_are_inside_canonical_and_different(name, space):
    limits = budget(space, 0.6)
    trials = min(60, limits.count())
    outcome = search(name, limits, 0, trials, accuracy)
    codes = np.array([t.codes for t in outcome])
    assert limits.inside(codes).all()
    assert (limits.space.canonical(codes) == codes).all()
    assert len({t.codes for t in outcome}) == trials


@pytest.mark.parametrize("name", searchers.NAMES)
def test_the_seed_decides(name):
    limits = budget()
    first, again, other = (search(name, limits, seed, 40, accuracy) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", searchers.NAMES)
def test_a_search_in_which_nearly_everything_fails_goes_on(name):
    limits = budget()
    outcome = search(name, limits, 0, 40, lambda codes: accuracy(codes) if codes[0] else None)
    assert any(t.failed for t in outcome)
    nothing = search(name, limits, 0, 40, lambda codes: None)
    assert all(t.failed for t in nothing)


@pytest.mark.parametrize("name", LEARNING)
def test_results_matter_beyond_the_initial_draws(name):
    limits = budget()
    outcome = search(name, limits, 0, 40, accuracy)
    turned = search(name, limits, 0, 40, lambda codes: -accuracy(codes))
    assert [t.codes for t in outcome[:10]] == [t.codes for t in turned[:10]]
    assert [t.codes for t in outcome] != [t.codes for t in turned]


@functools.cache
def nearest_found(name):
    """Return for planted networks how many genes off the best is that a search finds.

    Accuracy falls with each gene that differs from the planted network, the only best one.
    """
    limits = budget()
    results = []
    for seed, planted in enumerate(limits.sample_codes(4, np.random.default_rng(7))):
        outcome = search(
            name, limits, seed, 150, lambda codes, p=planted: -float((codes != p).sum())
        )
        results.append(-max(t.accuracy for t in outcome))
    return results


@pytest.mark.parametrize("name", ["nsga2", "evolution", "local", "tpe"])
def test_a_planted_optimum_is_found(name):
    assert nearest_found(name).count(0) >= 3
    assert nearest_found("random").count(0) <= 1  # 150 of some 1,600 networks


def test_tpe_goes_where_both_objectives_are_best():
    limits = budget()
    outcome = search("tpe", limits, 0, 40, lambda codes: -float(limits.costs(codes[None])[0]))
    times = np.array([t.latency_ms for t in outcome])
    assert times[10:].mean() < 0.85 * times[:10].mean()


@pytest.mark.parametrize("name", ["nsga2", "evolution", "local"])
def test_the_whole_front_of_a_small_space_is_found(name):
    limits = budget()
    everything = limits.space.encode(list(limits.space.enumerate()))
    everything = everything[limits.inside(everything)]
    points = np.array([(accuracy(c), -float(limits.costs(c[None])[0])) for c in everything])
    reference = points.min(axis=0).tolist()
    whole = pareto.hypervolume(points, reference)

    def share(searcher):
        outcome = search(searcher, limits, 0, 150, accuracy)
        actual = pareto.points(outcome) * [1, 1000]
        return pareto.hypervolume(actual, reference) / whole

    assert 1 - share(name) < 0.6 * (1 - share("random"))


def test_random_gives_each_band_its_share():
    limits = budget()
    strategy = searchers.create("random", limits, 0, trials=200, bands=4)
    rng = np.random.default_rng(0)
    codes = np.array([strategy.ask(rng) for _ in range(64)])
    counts = np.histogram(limits.costs(codes), limits.band_edges(4))[0]
    assert counts.tolist() == [16] * 4
    for at in range(0, 64, 4):  # in turn, so that a short search has them all as well
        assert len(set(base.BandedDraws(limits, 0, 4).band_of(codes[at : at + 4]))) == 4


def test_a_budget_of_one_latency_or_of_empty_bands_is_no_fault():
    limits = budget()
    cost = int(limits.costs(limits.sample_codes(1, np.random.default_rng(0)))[0])
    one = budgets.macs(limits.space, max_macs=cost, min_macs=cost)
    outcome = search("nsga2", one, 0, one.count(), accuracy)
    assert {t.latency_ms for t in outcome} == {cost / 1000}
    many = searchers.create("random", limits, 0, trials=10, bands=1000)
    assert limits.inside(many.ask(np.random.default_rng(0))).all()


def test_evolution_forgets_its_oldest():
    limits = budget()
    strategy = searchers.Evolution(limits, 0, trials=100, population=3, sample=3)
    codes = limits.sample_codes(5, np.random.default_rng(0))
    for number, (row, value) in enumerate(zip(codes, (0.9, 0.1, 0.2, 0.3, None), strict=True)):
        strategy.tell(number, row, value, 1.0)
    assert [m.accuracy for m in strategy._members] == [0.1, 0.2, 0.3]


def test_nsga2_lets_the_dominated_and_then_the_crowded_go():
    limits = budget()
    strategy = searchers.NSGA2(limits, 0, trials=100, population=3)
    codes = limits.sample_codes(5, np.random.default_rng(0))
    results = [(0.5, 2.0), (0.6, 1.0), (0.8, 4.0), (0.61, 1.05), (0.9, 8.0)]
    for number, (row, (value, ms)) in enumerate(zip(codes, results, strict=True)):
        strategy.tell(number, row, value, ms)
    kept = sorted(strategy._points[:, 0].tolist())
    assert kept == [0.6, 0.8, 0.9]  # 0.5 is dominated by 0.6; 0.61 is nearest to its neighbours


def test_local_proposes_unseen_neighbors_of_the_front():
    limits = budget()
    strategy = searchers.Local(limits, 0, trials=100, initial=1)
    rng = np.random.default_rng(0)
    start = strategy.ask(rng)
    strategy.tell(0, start, 0.5, 1.0)
    around = limits.neighbors(limits.space.decode(start)[0])
    results = [tuple(strategy.ask(rng).tolist()) for _ in around]
    assert sorted(results) == sorted(tuple(c) for c in limits.space.encode(around).tolist())
    beyond = tuple(strategy.ask(rng).tolist())  # nothing left there: drawn at random
    assert limits.inside(np.array([beyond])).all()


def test_tpe_is_told_the_repaired_point(monkeypatch):
    limits = budget("per_block", 0.4)
    strategy = searchers.TPE(limits, 0, trials=50, initial=4)
    rng = np.random.default_rng(0)
    outside = limits.space.sample_codes(200, rng)
    outside = next(c for c in outside if not limits.inside(c[None])[0])
    monkeypatch.setattr(strategy, "_suggest", lambda rng: outside)
    for number in range(4):
        codes = strategy.ask(rng)
        strategy.tell(number, codes, accuracy(codes), 1.0)
    repaired = strategy.ask(rng)
    assert repaired.tolist() == limits.repair(outside)[0].tolist()
    strategy.tell(4, repaired, 0.5, 2.0)
    messages = strategy._study(0.5).get_trials()[-1]
    names = [g.name for g in limits.space.genes]
    assert [messages.params[n] for n in names if n in messages.params] == [
        c for n, c in zip(names, repaired.tolist(), strict=True) if n in messages.params
    ]


def test_tpe_forgets_old_results_but_the_best():
    results = [tpe._Result(np.array([i]), 1.0 if i == 3 else 0.0, float(-i)) for i in range(41)]
    results[0] = dataclasses.replace(results[0], minus_log_ms=-100.0)
    kept = [int(t.codes[0]) for t in tpe._remembered(results, 20)]
    assert len(kept) == 20
    assert 3 in kept
    assert kept[-18:] == list(range(23, 41))
    assert kept == sorted(kept)


def test_tpe_goes_on_beyond_its_memory():
    limits = budget()
    first, again = (search("tpe", limits, 0, 30, accuracy, initial=5, memory=12) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nsga3", {}, "searcher: 'nsga3' is not among nsga2, .*did you mean 'nsga2'"),
        ("nsga2", {"populaton": 5}, "option: 'populaton' is not among .*did you mean 'population'"),
        ("nsga2", {"population": 1}, "population: 1 is not a whole number of at least 2"),
        ("nsga2", {"crossover": 1.5}, "crossover: 1.5 is not a number from 0 to 1"),
        ("nsga2", {"mutations": -1}, "mutations: -1 is not a number of at least 0"),
        ("evolution", {"sample": 0}, "sample: 0 is not"),
        ("tpe", {"memory": 3}, "memory: 3 is not a whole number of at least 10"),
        ("random", {"bands": 0}, "bands: 0 is not"),
        ("local", {"initial": "many"}, "initial: 'many' is not"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(SearchError, match=message):
        searchers.create(name, budget(), 0, trials=10, **options)


@pytest.mark.parametrize(("seed", "trials"), [(-1, 10), (0, 0), (0.5, 10), (True, 10)])
def test_wrong_seeds_and_trials(seed, trials):
    with pytest.raises(SearchError, match="is not a whole number"):
        searchers.create("random", budget(), seed, trials=trials)


def test_strategies_need_neither_ray_nor_jax(checkout):
    code = (
        "import sys, search.searchers, search.pareto;"
        "print([m for m in ('ray', 'jax', 'optuna', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_unknown_attribute_is_reported():
    with pytest.raises(AttributeError, match="has no attribute 'Serchers'"):
        searchers.Serchers  # noqa: B018
