"""search.pareto against brute force and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search import pareto
from search.errors import SearchError
from search.trials import Trial


def dominates(a, b):
    return bool((a >= b).all() and (a > b).any())


def brute_ranks(points):
    """Peel off fronts one by one."""
    out = np.full(len(points), -1)
    rank = 0
    while (out < 0).any():
        left = np.flatnonzero(out < 0)
        first = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        out[first] = rank
        rank += 1
    return out


def brute_hypervolume(points, reference):
    """Add up the cells of the grid that the coordinates make."""
    xs = np.unique([*points[:, 0], reference[0]])
    ys = np.unique([*points[:, 1], reference[1]])
    total = 0.0
    for x0, x1 in itertools.pairwise(xs):
        for y0, y1 in itertools.pairwise(ys):
            inside = x0 >= reference[0] and y0 >= reference[1]
            if inside and any(p[0] >= x1 and p[1] >= y1 for p in points):
                total += (x1 - x0) * (y1 - y0)
    return total


def clouds():
    """Random points: without ties, with many ties, and with duplicates."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 40):
        yield rng.normal(size=(n, 2))
        yield rng.integers(0, 4, size=(n, 2)).astype(float)
        yield np.round(rng.normal(size=(n, 2)), 1)


@pytest.mark.parametrize("points", list(clouds()))
def test_ranks_and_front_agree_with_brute_force(points):
    expected = brute_ranks(points)
    assert pareto.ranks(points).tolist() == expected.tolist()
    first = pareto.front(points)
    assert sorted(first.tolist()) == np.flatnonzero(expected == 0).tolist()
    assert (np.diff(points[first, 1]) <= 0).all()


@pytest.mark.parametrize("points", list(clouds()))
def test_hypervolume_agrees_with_brute_force(points):
    for reference in ((-1.0, -1.0), (0.5, -2.0), (9.0, 9.0)):
        actual = pareto.hypervolume(points, reference)
        assert actual == pytest.approx(brute_hypervolume(points, reference), abs=1e-12)


def test_ranks_of_a_chain_and_of_a_diagonal():
    n = 3000
    rising, falling = np.arange(n, dtype=float), -np.arange(n, dtype=float)
    chain = pareto.ranks(np.stack([rising, rising], axis=1))
    assert chain.tolist() == list(range(n - 1, -1, -1))
    assert not pareto.ranks(np.stack([rising, falling], axis=1)).any()


def test_equal_points_share_their_rank():
    points = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert pareto.ranks(points).tolist() == [0, 0, 2, 1]
    assert pareto.front(points).tolist() == [0, 1]


def test_crowding_of_a_line():
    # Columns range over 10 and 20; inner points: gaps (3 - 0)/10 + (20 - 8)/20, and so on.
    points = np.array([[3.0, 8.0], [0.0, 20.0], [10.0, 0.0], [1.0, 14.0]])
    expected = [(10 - 1) / 10 + 14 / 20, np.inf, np.inf, 3 / 10 + 12 / 20]
    assert pareto.crowding(points) == pytest.approx(expected)


def test_crowding_within_groups_is_that_of_each_group_alone():
    rng = np.random.default_rng(1)
    points, groups = rng.normal(size=(60, 2)), rng.integers(0, 5, size=60)
    together = pareto.crowding(points, groups)
    for group in range(5):
        assert together[groups == group] == pytest.approx(pareto.crowding(points[groups == group]))


def test_crowding_of_few_points_and_of_a_column_without_range():
    assert pareto.crowding(np.zeros((0, 2))).shape == (0,)
    assert np.isinf(pareto.crowding([[0.0, 1.0], [1.0, 0.0]])).all()
    flat = pareto.crowding([[0.0, 5.0], [1.0, 5.0], [4.0, 5.0]])
    assert flat[1] == pytest.approx(1.0)
    assert np.isinf(flat[[0, 2]]).all()


def test_no_points():
    assert pareto.ranks([]).shape == (0,)
    assert pareto.front([]).shape == (0,)
    assert pareto.hypervolume([], (0, 0)) == 0


def trial(number, accuracy, ms):
    return Trial(number, (0,), "id", ms, accuracy)


def test_trials():
    trials = [trial(3, 0.7, 2.0), trial(0, None, 1.0), trial(1, 0.6, 1.5), trial(2, 0.6, 2.5)]
    assert pareto.points(trials).tolist() == [[0.7, -2.0], [0.6, -1.5], [0.6, -2.5]]
    assert [t.number for t in pareto.best(trials)] == [1, 3]
    assert pareto.best([]) == []
    assert pareto.points([trials[1]]).shape == (0, 2)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1.0, np.nan]], "not all values are finite"),
        ([[1.0, 2.0, 3.0]], r"shape \(1, 3\) is not \(n, 2\)"),
        ([1.0, 2.0], r"shape \(2,\) is not"),
        ([["a", "b"]], "are not numbers"),
    ],
)
def test_what_are_no_points(points, message):
    for function in (pareto.ranks, pareto.front, pareto.crowding):
        with pytest.raises(SearchError, match=message):
            function(points)
