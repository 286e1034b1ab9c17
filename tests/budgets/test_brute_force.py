"""Budgets of small spaces against brute force over all their networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lcnas import budgets, cost
from lcnas.budgets import Budget
from lcnas.errors import BudgetError, EmptyBandWarning

from .oracle import TEXTS, budget, case, lowest, windows

SEEDS = range(3)
pytestmark = pytest.mark.parametrize("name", sorted(TEXTS))
each_seed = pytest.mark.parametrize("seed", SEEDS)
with_pairs = pytest.mark.parametrize("pairs", [False, True], ids=["entries", "pairs"])


@with_pairs
def test_cost_of_codes_is_the_sum_over_the_networks(name, pairs):
    c = case(name)
    for seed in SEEDS:
        terms = c.terms(seed, pairs=pairs)
        expected = c.costs(terms)
        assert terms.cost(c.space, c.codes).tolist() == expected.tolist()
        assert terms.cost(c.space, c.codes[0]).tolist() == [expected[0]]
        whole = budget(c.space, terms, (-math.inf, math.inf))
        assert [whole.cost(arch) for arch in c.archs[:20]] == expected[:20].tolist()


def test_cost_of_codes_that_are_not_canonical(name):
    c = case(name)
    terms = c.terms(5, pairs=True)
    sizes = [len(gene.choices) for gene in c.space.genes]
    raw = np.random.default_rng(6).integers(0, sizes, (400, len(sizes)))
    kept = [row for row in raw if _is_network(c.space, row)]
    codes = np.array(kept)
    assert (
        terms.cost(c.space, codes).tolist()
        == terms.cost(c.space, c.space.canonical(codes)).tolist()
    )


def _is_network(space, row):
    try:
        space.decode(row)
    except ValueError:
        return False
    return True


@with_pairs
@each_seed
def test_count_and_extremes(name, seed, pairs):
    c = case(name)
    terms = c.terms(seed, pairs=pairs)
    costs = c.costs(terms)
    for window in windows(costs, seed):
        b = budget(c.space, terms, window)
        inside = (costs >= window[0]) & (costs <= window[1])
        count = int(inside.sum())
        assert b.count() == b.size == count
        assert b.count_bounds() == (count, count)
        for arch, ends in ((b.fastest(), min), (b.slowest(), max)):
            end = ends(costs[inside])
            assert b.cost(arch) == end
            assert tuple(c.space.encode(arch)[0]) == lowest(c.codes[costs == end])


@with_pairs
@each_seed
@pytest.mark.parametrize("ties", [False, True], ids=["floats", "ties"])
def test_best(name, seed, pairs, ties):
    c = case(name)
    rng = np.random.default_rng(seed)
    terms = c.terms(seed, pairs=pairs)
    costs, present = c.costs(terms), c.present()
    draw = (lambda n: rng.integers(-2, 3, n) / 4) if ties else (lambda n: rng.normal(size=n))
    scores = [draw(len(gene.choices)) for gene in c.space.genes]
    sums = sum(s[c.codes[:, i]] * present[:, i] for i, s in enumerate(scores))
    for window in windows(costs, seed + 10):
        inside = (costs >= window[0]) & (costs <= window[1])
        best = sums[inside].max()
        (codes,) = c.space.encode(budget(c.space, terms, window).best(scores))
        at = next(i for i, row in enumerate(c.codes) if (row == codes).all())
        assert inside[at]
        assert sums[at] == pytest.approx(best, abs=1e-12)
        if ties:
            assert tuple(codes) == lowest(c.codes[inside & (sums == best)])


@with_pairs
def test_best_of_equal_scores_has_the_lowest_codes(name, pairs):
    c = case(name)
    terms = c.terms(4, pairs=pairs)
    costs = c.costs(terms)
    for window in windows(costs, 4):
        inside = (costs >= window[0]) & (costs <= window[1])
        zeros = [np.zeros(len(gene.choices)) for gene in c.space.genes]
        (codes,) = c.space.encode(budget(c.space, terms, window).best(zeros))
        assert tuple(codes) == lowest(c.codes[inside])


@with_pairs
@each_seed
def test_repair(name, seed, pairs):
    c = case(name)
    terms = c.terms(seed, pairs=pairs)
    costs, present = c.costs(terms), c.present()
    rng = np.random.default_rng(seed)
    for window in windows(costs, seed + 20):
        inside = (costs >= window[0]) & (costs <= window[1])
        rows = rng.choice(len(c.codes), 6)
        repaired = budget(c.space, terms, window).repair(c.codes[rows])
        for row, result in zip(rows, repaired, strict=True):
            if inside[row]:
                assert (result == c.codes[row]).all()
                continue
            changes = ((c.codes != c.codes[row]) & present).sum(axis=1)
            ties = inside & (changes == changes[inside].min())
            assert tuple(result) == lowest(c.codes[ties])


def test_neighbours_and_changes_stay_inside(name):
    c = case(name)
    terms = c.terms(7, pairs=True)
    costs = c.costs(terms)
    of = dict(zip(c.archs, costs.tolist(), strict=True))
    rng = np.random.default_rng(7)
    for window in windows(costs, 7):
        b = budget(c.space, terms, window)
        members = [arch for arch, x in of.items() if window[0] <= x <= window[1]]
        for arch in members[:3]:
            expected = {o for o in c.space.neighbors(arch) if window[0] <= of[o] <= window[1]}
            assert set(b.neighbors(arch)) == expected
            if expected:
                assert {b.mutate(arch, rng) for _ in range(20)} <= expected
            else:
                with pytest.raises(BudgetError, match="no neighbour"):
                    b.mutate(arch, rng)
            child = b.crossover(arch, members[-1], rng)
            assert child in b
            assert window[0] <= of[child] <= window[1]


def test_being_inside(name):
    c = case(name)
    terms = c.terms(8, pairs=True)
    costs = c.costs(terms)
    window = windows(costs, 8)[3]
    b = budget(c.space, terms, window)
    inside = (costs >= window[0]) & (costs <= window[1])
    assert [arch in b for arch in c.archs[:50]] == inside[:50].tolist()
    assert b.inside(c.codes).tolist() == inside.tolist()
    assert c.archs[0].at(512) not in b
    assert "no network" not in b


@with_pairs
def test_drawing_is_uniform_over_the_networks_inside(name, pairs):
    c = case(name)
    terms = c.terms(9, pairs=pairs)
    costs = c.costs(terms)
    for window in windows(costs, 9)[:4]:
        b = budget(c.space, terms, window)
        inside = np.flatnonzero((costs >= window[0]) & (costs <= window[1]))
        codes = b.sample_codes(30 * len(inside), np.random.default_rng(10))
        observed = c.tally(codes)
        assert observed[inside].sum() == len(codes)
        if len(inside) > 1:
            assert stats.chisquare(observed[inside]).pvalue > 1e-3


@with_pairs
def test_bands_have_equal_shares_and_are_uniform_within(name, pairs):
    c = case(name)
    terms = c.terms(11, pairs=pairs, low=1, high=60)
    costs = c.costs(terms)
    low, high = sorted(int(x) for x in np.quantile(costs, [0.02, 0.9]))
    low = max(low, 1)
    b = Budget(c.space, terms, high, low)
    edges = b.band_edges(3)
    band = np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, 2)
    n = 3 * 20 * len(costs) + 1
    codes = b.sample_codes(n, np.random.default_rng(12), bands=3)
    observed = c.tally(codes)
    for i in range(3):
        mine = (costs >= low) & (costs <= high) & (band == i)
        assert observed[mine].sum() in (n // 3, n // 3 + 1)
        if mine.sum() > 1:
            assert stats.chisquare(observed[mine]).pvalue > 1e-3


def test_an_empty_band_is_said_and_its_share_goes_to_the_others(name):
    c = case(name)
    entries = np.zeros(len(c.space.placed_blocks()), dtype=np.int64)
    entries[c.ids[0][0]] = 999  # two costs: 1 and 1000
    terms = budgets.Terms(1, entries)
    b = Budget(c.space, terms, math.inf)
    with pytest.warns(
        EmptyBandWarning, match="2 of 4 bands hold no network, the first from 6 ticks on"
    ):
        codes = b.sample_codes(11, np.random.default_rng(0), bands=4)
    assert sorted(np.bincount(b.costs(codes))[[1, 1000]].tolist()) == [5, 6]


@pytest.mark.parametrize("figure", ["macs", "params"])
def test_macs_and_params(name, figure):
    c = case(name)
    one = getattr(cost, figure)
    costs = np.array([one(arch, classes=10) for arch in c.archs])
    for least, most in windows(costs, 13):
        b = getattr(budgets, figure)(c.space, most, least, classes=10)
        inside = np.flatnonzero((costs >= least) & (costs <= most))
        assert b.count() == len(inside)
        assert b.cost(b.fastest()) == costs[inside].min()
        assert b.cost(b.slowest()) == costs[inside].max()
        drawn = c.tally(b.sample_codes(200, np.random.default_rng(1)))
        assert drawn[inside].sum() == 200


def test_a_budget_that_nothing_meets(name):
    c = case(name)
    terms = budgets.Terms(5, np.full(len(c.space.placed_blocks()), 10))
    costs = np.unique(c.costs(terms))
    low, high = int(costs.min()), int(costs.max())
    ends = f"the lowest cost is {low} ticks, the highest {high} ticks"
    wrong = [(-math.inf, low - 1), (high + 1, math.inf), (math.inf, math.inf), (high, low - 1)]
    if len(costs) > 1:
        wrong.append((low + 1, low + 9))  # between two costs
    for window in wrong:
        with pytest.raises(BudgetError, match=ends) as error:
            budget(c.space, terms, window)
        assert "\n" not in str(error.value)
