"""Every way of going about it gives the same answers: the limits that choose among them are lowered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lcnas.budgets import Budget, _budget, _coarse, _cost, _passes, _table
from lcnas.budgets._passes import Tables, TooFineError
from lcnas.errors import BudgetError

from .oracle import TEXTS, budget, case, lowest, windows

REGIMES: dict[str, list[tuple[Any, str, int]]] = {
    "sparse": [(_table, "DENSE", 0)],
    "rebuilt": [(_passes, "INSIDE_BYTES", -1)],
    "two limbs": [(_table, "SINGLE", 4), (_table, "BITS", 8)],
    "many limbs": [(_table, "SINGLE", 4), (_table, "BITS", 3)],
    "prefixes": [(_passes, "WORK", 400)],
    "sparse prefixes": [
        (_passes, "WORK", 5_000),
        (_table, "DENSE", 0),
        (_passes, "INSIDE_BYTES", -1),
    ],
    "prefixes of limbs": [(_passes, "WORK", 1_000), (_table, "SINGLE", 4), (_table, "BITS", 4)],
    "one end first": [(_budget, "DENSE", 1)],
    "borders only": [(_passes, "BORDER_BYTES", 0)],
    "one block a table": [(_cost, "LIMIT", 0), (_cost, "CHUNK", 7)],
    "few at once": [("lcnas.budgets._walk", "AT_ONCE", 2_000), ("lcnas.budgets._walk", "CHUNK", 3)],
}
pytestmark = pytest.mark.parametrize("name", sorted(TEXTS))


@pytest.mark.parametrize("regime", sorted(REGIMES))
@pytest.mark.parametrize("pairs", [False, True], ids=["entries", "pairs"])
def test_answers_are_those_of_brute_force(name, regime, pairs, monkeypatch):
    for module, limit, value in REGIMES[regime]:
        if isinstance(module, str):
            monkeypatch.setattr(f"{module}.{limit}", value)
        else:
            monkeypatch.setattr(module, limit, value)
    c = case(name)
    terms = c.terms(21, pairs=pairs)
    costs = c.costs(terms)
    assert terms.cost(c.space, c.codes).tolist() == costs.tolist()
    for window in windows(costs, 21)[1:4]:
        inside = np.flatnonzero((costs >= window[0]) & (costs <= window[1]))
        b = budget(c.space, terms, window)
        assert b.count() == len(inside)
        assert b.cost(b.fastest()) == costs[inside].min()
        assert b.cost(b.slowest()) == costs[inside].max()
        _check_best(c, b, inside)
        observed = c.tally(b.sample_codes(20 * len(inside), np.random.default_rng(22)))
        assert observed[inside].sum() == observed.sum()
        if len(inside) > 1:
            assert stats.chisquare(observed[inside]).pvalue > 1e-3


def _check_best(c, b, inside):
    rng = np.random.default_rng(23)
    scores = [rng.integers(-2, 3, len(gene.choices)) / 4 for gene in c.space.genes]
    present = c.present()
    sums = sum(s[c.codes[:, i]] * present[:, i] for i, s in enumerate(scores))
    (best_codes,) = c.space.encode(b.best(scores))
    best = np.flatnonzero(sums == sums[inside].max())
    assert tuple(best_codes) == lowest(c.codes[np.intersect1d(best, inside)])
    row = int(rng.integers(len(c.codes)))
    (repaired,) = b.repair(c.codes[row])
    changes = ((c.codes != c.codes[row]) & present).sum(axis=1)
    ties = inside[changes[inside] == changes[inside].min()]
    assert tuple(repaired) == lowest(c.codes[ties])


@pytest.fixture
def too_fine(monkeypatch):
    """No exact tables where both ends of a window bind, or where chains are counted."""

    def tables(graph, bounds, window, scores=None):
        result = Tables(graph, bounds, window, scores)
        if scores is None or (result.side == 0 and window[0] != window[1]):
            raise TooFineError
        return result

    monkeypatch.setattr(_budget, "Tables", tables)
    monkeypatch.setattr(_coarse, "SPAN", 40)


@pytest.mark.usefixtures("too_fine")
@pytest.mark.parametrize("pairs", [False, True], ids=["entries", "pairs"])
def test_coarse_tables_say_what_they_know_and_draw_uniformly(name, pairs):
    c = case(name)
    terms = c.terms(31, pairs=pairs, low=-200, high=900)
    costs = c.costs(terms)
    low, high = (int(x) for x in np.quantile(costs, [0.1, 0.8]))
    for window in [(-math.inf, math.inf), (-math.inf, high), (low, high)]:
        inside = np.flatnonzero((costs >= window[0]) & (costs <= window[1]))
        b = budget(c.space, terms, window)
        lower, upper = b.count_bounds()
        assert lower <= len(inside) <= upper
        if lower != upper:
            with pytest.raises(BudgetError, match=f"from {lower:,} to {upper:,}"):
                b.count()
        observed = c.tally(b.sample_codes(30 * len(inside), np.random.default_rng(32)))
        assert observed[inside].sum() == observed.sum()
        assert stats.chisquare(observed[inside]).pvalue > 1e-3


@pytest.mark.usefixtures("too_fine")
def test_coarse_budgets_answer_exactly_or_not_at_all(name):
    c = case(name)
    terms = c.terms(33, pairs=True, low=1, high=900)
    costs = c.costs(terms)
    low, high = (int(x) for x in np.quantile(costs, [0.3, 0.8]))
    below = Budget(c.space, terms, high)
    assert below.cost(below.fastest()) == costs.min()
    _check_best(c, below, np.flatnonzero(costs <= high))
    with pytest.raises(BudgetError, match=r"too many for an exact slowest\(\)"):
        below.slowest()
    both = Budget(c.space, terms, high, low)
    rng = np.random.default_rng(34)
    row = int(np.flatnonzero(costs > high)[0])
    (repaired,) = both.repair(c.codes[row])
    inside = np.flatnonzero((costs >= low) & (costs <= high))
    changes = ((c.codes != c.codes[row]) & c.present()).sum(axis=1)
    assert tuple(repaired) == lowest(c.codes[inside[changes[inside] == changes[inside].min()]])
    codes = both.sample_codes(90, rng, bands=3)
    assert both.inside(codes).all()
    band = np.searchsorted(both.band_edges(3)[1:3], both.costs(codes), side="right")
    assert np.bincount(band).tolist() == [30, 30, 30]
