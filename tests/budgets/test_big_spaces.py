"""Budgets of the spaces that come with lcnas: exact totals, and counts that drawing confirms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lcnas import budgets, cost, spaces
from lcnas.budgets import Budget, Terms

DRAWS = 20_000


@pytest.fixture(
    scope="module", params=["lcnet_next", "mobilenetv3", "pplcnet_free", "pplcnet_tail"]
)
def space(request):
    return spaces.load(request.param)


def _terms(space, pairs):
    """Return terms like microseconds: MACs at 50 per ns, with noise."""
    rng = np.random.default_rng(1)
    n = len(space.placed_blocks())
    macs = np.array([cost.of(placed).macs for placed in space.placed_blocks()])
    entries = macs // 50_000 + rng.integers(5, 60, n)
    if not pairs:
        return Terms(40, entries)
    kinds = np.stack([rng.integers(0, 5, n), rng.integers(0, 6, n)], axis=1)
    return Terms(40, entries, kinds, rng.integers(-15, 10, (5, 6)))


@pytest.mark.parametrize("pairs", [False, True], ids=["entries", "pairs"])
def test_without_limits_every_network_counts_once(space, pairs):
    budget = Budget(space, _terms(space, pairs), math.inf)
    assert budget._sampler is not None
    assert budget._sampler.count(budget._window) == space.size
    assert budget.count() == space.size


@pytest.mark.parametrize("pairs", [False, True], ids=["entries", "pairs"])
def test_counts_agree_with_drawing_from_the_whole_space(space, pairs):
    terms = _terms(space, pairs)
    costs = terms.cost(space, space.sample_codes(DRAWS, np.random.default_rng(2)))
    for share in (0.1, 0.5, 0.9):
        limit = int(np.quantile(costs, share))
        counts = [Budget(space, terms, x).count() for x in (limit, limit - 1)]
        seen = [int((costs <= limit).sum()), int((costs == limit).sum())]
        chances = [counts[0] / space.size, (counts[0] - counts[1]) / space.size]
        for k, p in zip(seen, chances, strict=True):
            assert stats.binomtest(k, DRAWS, p).pvalue > 1e-4


def test_samples_are_inside_canonical_and_spread_like_the_counts(space):
    terms = _terms(space, pairs=True)
    costs = terms.cost(space, space.sample_codes(DRAWS, np.random.default_rng(3)))
    low, middle, high = (int(x) for x in np.quantile(costs, [0.05, 0.2, 0.3]))
    budget = Budget(space, terms, high, low)
    codes = budget.sample_codes(DRAWS, np.random.default_rng(4))
    mine = budget.costs(codes)
    assert ((mine >= low) & (mine <= high)).all()
    assert (space.canonical(codes) == codes).all()
    part = Budget(space, terms, middle, low).count() / budget.count()
    assert stats.binomtest(int((mine <= middle).sum()), DRAWS, part).pvalue > 1e-4


def test_extremes_have_no_better_neighbour_inside(space):
    terms = _terms(space, pairs=True)
    budget = Budget(space, terms, 4000, 3000)
    for arch, sign in ((budget.fastest(), 1), (budget.slowest(), -1)):
        own = budget.cost(arch)
        assert all(sign * budget.cost(other) >= sign * own for other in budget.neighbors(arch))


def test_best_beats_what_drawing_finds(space):
    terms = _terms(space, pairs=True)
    budget = Budget(space, terms, 4000)
    rng = np.random.default_rng(5)
    scores = [rng.normal(size=len(gene.choices)) for gene in space.genes]
    best = budget.best(scores)
    assert best in budget
    (codes,) = space.encode(best)
    for other in budget.neighbors(best):
        assert _score(space, scores, other) <= _score(space, scores, best) + 1e-9
    for other in space.decode(budget.sample_codes(200, rng)):
        assert _score(space, scores, other) < _score(space, scores, best) + 1e-9
    assert (budget.repair(codes) == codes).all()


def _present(space, arch):
    """Return which genes belong to blocks that a network has."""
    depth = {stage.name: len(stage.blocks) for stage in arch.stages}
    out = []
    for gene in space.genes:
        stage, _, rest = gene.name.partition("_block")
        out.append(not rest[:1].isdigit() or int(rest.partition("_")[0]) <= depth[stage])
    return np.array(out)


def _score(space, scores, arch):
    (codes,) = space.encode(arch)
    each = [mine[code] for mine, code in zip(scores, codes, strict=True)]
    return float(np.array(each)[_present(space, arch)].sum())


def _changes(space, before, after):
    return int((before != after)[_present(space, space.decode(after)[0])].sum())


def test_repair_finds_a_near_network_inside(space):
    terms = _terms(space, pairs=False)
    codes = space.sample_codes(8, np.random.default_rng(6))
    limit = int(np.median(terms.cost(space, codes)))
    budget = Budget(space, terms, limit)
    repaired = budget.repair(codes)
    assert budget.inside(repaired).all()
    outside = ~budget.inside(codes)
    assert outside.any()
    assert (repaired[~outside] == codes[~outside]).all()
    for before, after in zip(codes[outside], repaired[outside], strict=True):
        fewest = _changes(space, before, after)
        near = space.encode(budget.neighbors(space.decode(before)[0]))
        for other in [*near, *repaired, *budget.sample_codes(50, np.random.default_rng(7))]:
            assert _changes(space, before, other) >= fewest


@pytest.mark.parametrize(
    ("name", "figure", "most"),
    [("pplcnet_tail", "macs", 150e6), ("pplcnet_tail", "params", 3e6), ("pplcnet", "macs", 3e8)],
)
def test_macs_and_params_are_counted_exactly(name, figure, most):
    space = spaces.load(name)
    budget = getattr(budgets, figure)(space, most)
    codes = space.sample_codes(DRAWS, np.random.default_rng(7))
    costs = getattr(cost, f"{figure}_codes")(space, codes)
    assert budget.costs(codes).tolist() == costs.tolist()
    seen = int((costs <= most).sum())
    assert stats.binomtest(seen, DRAWS, budget.count() / space.size).pvalue > 1e-4
    assert budget.inside(budget.sample_codes(1000, np.random.default_rng(8))).all()
    slowest = budget.slowest()
    assert costs[costs <= most].max() <= budget.cost(slowest) <= most


@pytest.mark.parametrize("name", ["pplcnet_free", "mobilenetv3"])
def test_where_macs_are_too_fine_the_count_is_an_interval(name):
    space = spaces.load(name)
    budget = budgets.macs(space, 300e6, 150e6)
    low, high = budget.count_bounds()
    assert 0.9 * high < low < high
    costs = cost.macs_codes(space, space.sample_codes(DRAWS, np.random.default_rng(9)))
    seen = int(((costs >= 150e6) & (costs <= 300e6)).sum())
    interval = stats.binomtest(seen, DRAWS).proportion_ci(0.9999)
    assert interval.low < high / space.size
    assert interval.high > low / space.size
    codes = budget.sample_codes(2000, np.random.default_rng(10), bands=4)
    band = np.searchsorted(budget.band_edges(4)[1:4], budget.costs(codes), side="right")
    assert np.bincount(band).tolist() == [500] * 4
    assert budget.inside(codes).all()
