"""Pareto fronts of two objectives, both as large as can be: ranks, crowding, hypervolume.

Latency is made as small as can be by maximising minus latency; :func:`points` does that for trials. A
point dominates another one if it is at least as good in both columns and better in one; equal points do not
dominate each other.

Examples:
    >>> import numpy as np
    >>> from search import pareto
    >>> made = np.array([[0.7, -1.0], [0.6, -2.0], [0.8, -3.0]])
    >>> pareto.ranks(made)
    array([0, 1, 0])
    >>> pareto.front(made)
    array([0, 2])
    >>> round(pareto.hypervolume(made, (0.0, -4.0)), 12)  # 0.7 x 3 + 0.1 x 1
    2.2
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas.errors import shorten
from search.errors import SearchError
from search.trials import Trial

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def points(trials: Iterable[Trial]) -> Floats:
    """Return (accuracy, -latency in ms) of each trial that did not fail, (n, 2), in their order."""
    rows = [(t.accuracy, -t.latency_ms) for t in trials if t.accuracy is not None]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def best(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that no other one dominates, the fastest first; failed ones are left out.

    Of trials with equal accuracy and latency all are returned, in the order of their numbers.
    """
    finished = sorted((t for t in trials if not t.failed), key=lambda t: t.number)
    return [finished[i] for i in front(points(finished))]


def ranks(given: ArrayLike) -> NDArray[np.int64]:
    """Return for each point the number of its front: 0 for those that no other one dominates, and so on.

    Takes O(n log n): points are visited from the largest first column down, so that a front dominates a
    point if and only if its largest second column so far is no smaller, and these fall from front to front
    (Jensen, IEEE Transactions on Evolutionary Computation 7, 2003, for two objectives).

    Args:
        given: (n, 2) finite values, both columns maximised.

    Returns:
        (n,) integers; front k + 1 is what no other one dominates once fronts 0 to k are taken away.

    Raises:
        SearchError: another shape, or a value that is not finite.

    Examples:
        >>> ranks([[1, 1], [2, 2], [3, 0]]).tolist()
        [1, 0, 0]
    """
    rows = _checked(given)
    different, place = np.unique(rows, axis=0, return_inverse=True)
    result = np.empty(len(different), dtype=np.int64)
    tops: list[
        float
    ] = []  # minus the largest second column of each front: rises from front to front
    for i in range(
        len(different) - 1, -1, -1
    ):  # np.unique sorts by the first column, then the second
        y = -float(different[i, 1])
        result[i] = k = bisect_right(tops, y)
        tops[k : k + 1] = [y]
    return result[place.reshape(-1)]


def front(given: ArrayLike) -> Indices:
    """Return the indices of the points that no other one dominates, by falling second column.

    Equal points are all returned, in the order in which they were given.

    Examples:
        >>> front([[1, 1], [2, 2], [3, 0]]).tolist()
        [1, 2]
    """
    rows = _checked(given)
    first = np.flatnonzero(ranks(rows) == 0)
    return first[np.argsort(-rows[first, 1], kind="stable")]


def crowding(given: ArrayLike, groups: Sequence[int] | NDArray[np.int64] | None = None) -> Floats:
    """Return how far each point lies from its neighbours of the same group, a side of 1 for each column.

    The crowding distance of NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002,
    section III-B): the sum over columns of the distance between the next smaller and the next larger
    point, divided by the group's range; infinite at both ends of a column. A column
    without range adds nothing.

    Args:
        given: (n, 2) finite values.
        groups: the number of each point's group, as from :func:`ranks`; None: all are one group.

    Returns:
        (n,) distances.
    """
    rows = _checked(given)
    group = np.zeros(len(rows), dtype=np.int64) if groups is None else np.asarray(groups)
    out = np.zeros(len(rows))
    for column in rows.T:
        order = np.lexsort((column, group))
        values, mine = column[order], group[order]
        starts = np.flatnonzero(np.concatenate([[True], mine[1:] != mine[:-1]])[: len(mine)])
        ends = np.concatenate([starts[1:], [len(mine)]])[: len(starts)] - 1
        ranges = np.repeat(values[ends] - values[starts], ends - starts + 1)
        gaps = np.zeros(len(mine))
        gaps[1:-1] = values[2:] - values[:-2]
        gaps = np.divide(gaps, ranges, out=np.zeros(len(mine)), where=ranges > 0)
        gaps[starts] = gaps[ends] = np.inf
        out[order] += gaps
    return out


def hypervolume(given: ArrayLike, reference: Sequence[float]) -> float:
    """Return the area that the points dominate above a reference point, exactly.

    Args:
        given: (n, 2) finite values, both columns maximised.
        reference: the least values that count, (2,).

    Examples:
        >>> hypervolume([[1, 1], [2, 2], [3, 0]], [0, 0])
        4.0
    """
    rows = _checked(given)
    low = _checked([reference])[0]
    above = rows[(rows > low).all(axis=1)]
    if not len(above):
        return 0.0
    steps = above[front(above)]  # the first column rises while the second falls
    widths = np.diff(steps[:, 0], prepend=low[0])
    return float(widths @ (steps[:, 1] - low[1]))


def _checked(given: ArrayLike) -> Floats:
    try:
        rows = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise SearchError(f"points: {shorten(given)} are not numbers") from None
    if rows.size == 0:
        return np.zeros((0, 2))
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise SearchError(f"points: shape {rows.shape} is not (n, 2)")
    if not np.isfinite(rows).all():
        raise SearchError("points: not all values are finite; leave failed trials out")
    return rows
