"""A table of the chains after a node, by their total of ticks: exact counts, or best scores.

A table is dense (one value per tick) or sparse (sorted ticks, each with a value), whichever is smaller.
Counts are integers of any size, in limbs: value = sum over l of limb[l] * 2**(BITS * l). Carries
are lazy: a limb of 64 bits takes 2**23 additions before it has to be carried.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BITS = 40  # per limb, if there are several
SINGLE = 1 << 62  # smaller counts have one limb
NONE = -(1 << 61)  # score of a total without a chain
REACHED = -(1 << 60)  # larger scores are of chains
DENSE = 1 << 14  # ticks that a dense table may always span


def limbs_for(largest: int) -> int:
    """Return the number of limbs that hold counts up to ``largest``."""
    return 1 if largest < SINGLE else -(-largest.bit_length() // BITS)


@dataclass(frozen=True)
class Table:
    """Values by the possible totals of a node's chains."""

    low: int  # tick of place 0
    places: Ints | None  # (n,) sorted, tick = low + place; None: dense, place i is i
    values: Ints  # (limbs, n); scores have one limb
    bias: int = 0  # added to all scores

    def __len__(self) -> int:
        return int(self.values.shape[1])

    @property
    def first(self) -> int:
        """The lowest tick."""
        return self.low if self.places is None else self.low + int(self.places[0])

    @property
    def last(self) -> int:
        """The highest tick."""
        return self.low + (len(self) - 1 if self.places is None else int(self.places[-1]))

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.places is None else self.places.nbytes)

    def ticks(self) -> Ints:
        """Return the tick of each value, (n,)."""
        if self.places is None:
            return np.arange(self.low, self.low + len(self), dtype=np.int64)
        return self.low + self.places

    def moved(self, ticks: int, score: int = 0) -> Table:
        """Return the table moved by an edge; all arrays are shared."""
        return Table(self.low + ticks, self.places, self.values, self.bias + score)

    def clip(self, low: int, high: int) -> Table | None:
        """Return the part with ticks from low to high, or None if it is empty."""
        if self.first >= low and self.last <= high:
            return self
        if self.places is None:
            a, b = max(0, low - self.low), min(len(self), high - self.low + 1)
            if a >= b:
                return None
            return Table(self.low + a, None, self.values[:, a:b], self.bias)
        a, b = (int(x) for x in np.searchsorted(self.places, [low - self.low, high - self.low + 1]))
        if a >= b:
            return None
        return Table(self.low, self.places[a:b], self.values[:, a:b], self.bias)

    # -- look-ups --

    def find(self, ticks: Ints) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the index of each tick (arbitrary if absent), and whether it is present."""
        places = ticks - self.low
        if self.places is None:
            present = (places >= 0) & (places < len(self))
            return np.where(present, places, 0).astype(np.intp), present
        index = np.minimum(np.searchsorted(self.places, places), len(self) - 1)
        return index, self.places[index] == places

    def counts_at(self, ticks: Ints) -> Ints | Floats:
        """Return the counts at some ticks, 0 without a chain; floats if there are several limbs."""
        index, present = self.find(ticks)
        values = self.values[:, index] * present
        return values[0] if len(values) == 1 else to_float(values)

    def scores_at(self, ticks: Ints) -> Ints:
        """Return the scores at some ticks, NONE without a chain."""
        index, present = self.find(ticks)
        scores = self.values[0, index]
        out: Ints = np.where(present & (scores > REACHED), scores + self.bias, NONE)
        return out

    @functools.cached_property
    def sums(self) -> Ints:
        """Sums of the counts before each index, (limbs, n + 1), carried."""
        out = np.zeros((len(self.values), len(self) + 1), dtype=np.int64)
        np.cumsum(self.values, axis=1, out=out[:, 1:])
        carry(out)
        return out

    def index_of(self, ticks: Ints) -> NDArray[np.intp]:
        """Return, for each tick, the number of values with lower ticks."""
        places = ticks - self.low
        if self.places is None:
            return np.clip(places, 0, len(self)).astype(np.intp)
        return np.searchsorted(self.places, places)

    def between(self, low: Ints, high: Ints) -> Ints:
        """Return the counts of chains from each low to each high, (limbs, n); limbs may be negative."""
        a, b = self.index_of(low), self.index_of(high + 1)
        out: Ints = self.sums[:, np.maximum(a, b)] - self.sums[:, a]
        return out


def point(limbs: int, value: int) -> Table:
    """Return the table of the end: one chain with no ticks."""
    values = np.zeros((limbs, 1), dtype=np.int64)
    values[0] = value
    return Table(0, None, values)


def carry(limbs: Ints) -> None:
    """Move bits beyond BITS to the next limb, in place."""
    for i in range(len(limbs) - 1):
        over = limbs[i] >> BITS
        limbs[i] -= over << BITS
        limbs[i + 1] += over


def to_float(limbs: Ints) -> Floats:
    """Return limbs (limbs, n) as floats (n,)."""
    out: Floats = limbs[-1].astype(np.float64)
    for limb in limbs[-2::-1]:
        out = out * float(1 << BITS) + limb
    return out


def to_int(limbs: Ints) -> int:
    """Return the exact sum over all columns of limbs (limbs, n), n * 2**BITS at most 2**63."""
    if len(limbs) == 1:
        return int(limbs.sum())
    return sum(int(limb.sum()) << (BITS * i) for i, limb in enumerate(limbs))


def range_max(values: Ints, start: NDArray[np.intp], stop: NDArray[np.intp]) -> Ints:
    """Return the maximum of values[start:stop] for many ranges, NONE for an empty range."""
    out = np.full(len(start), NONE, dtype=np.int64)
    length = stop - start
    step, reach = 1, values  # reach[i] is the maximum of values[i : i + step]
    while len(reach) and (length >= step).any():
        ranges = np.flatnonzero((length >= step) & (length < 2 * step))
        out[ranges] = np.maximum(reach[start[ranges]], reach[stop[ranges] - step])
        reach = np.maximum(reach[:-step], reach[step:]) if len(reach) > step else reach[:0]
        step *= 2
    return out


# -- merging -----------------------------------------------------------------------------------------


def spans(parts: Sequence[Table]) -> tuple[int, int, bool]:
    """Return the lowest tick, the number of ticks, and whether the merged table is dense."""
    low = min(part.first for part in parts)
    span = max(part.last for part in parts) - low + 1
    return low, span, span <= max(DENSE, 2 * sum(len(part) for part in parts))


def merge_counts(parts: Sequence[Table]) -> Table:
    """Return the sum of tables of counts."""
    if len(parts) == 1:
        return parts[0]
    low, span, dense = spans(parts)
    if not dense:
        ticks, order, starts = _sorted(parts, low)
        values = np.concatenate([part.values for part in parts], axis=1)[:, order]
        merged = Table(low, ticks, np.add.reduceat(values, starts, axis=1))
        carry(merged.values)
        return merged
    out = np.zeros((parts[0].values.shape[0], span), dtype=np.int64)
    for part in parts:
        if part.places is None:
            at = part.low - low
            out[:, at : at + len(part)] += part.values
        else:
            out[:, part.places + (part.low - low)] += part.values
    carry(out)
    return _thinned(Table(low, None, out), (out != 0).any(axis=0))


def merge_scores(parts: Sequence[Table]) -> Table:
    """Return the maximum score at each tick."""
    if len(parts) == 1:
        return parts[0]
    low, span, dense = spans(parts)
    if not dense:
        ticks, order, starts = _sorted(parts, low)
        values = np.concatenate([part.values[0] + part.bias for part in parts])[order]
        return Table(low, ticks, np.maximum.reduceat(values, starts)[None])
    out = np.full(span, NONE, dtype=np.int64)
    for part in parts:
        values = part.values[0] + part.bias
        if part.places is None:
            here = out[part.low - low : part.low - low + len(part)]
            np.maximum(here, values, out=here)
        else:
            at = part.places + (part.low - low)
            out[at] = np.maximum(out[at], values)
    return _thinned(Table(low, None, out[None]), out > REACHED)


def best_within(parts: Sequence[Table], below: bool) -> Table:
    """Return the tables' scores without totals that are dominated by another one.

    Args:
        parts: tables of scores.
        below: fewer ticks are better; otherwise more are better.

    Returns:
        A sparse table; its scores increase strictly with the allowed ticks.
    """
    low = min(part.first for part in parts)
    ticks, order, starts = _sorted(parts, low)
    values = np.concatenate([part.values[0] + part.bias for part in parts])[order]
    scores = np.maximum.reduceat(values, starts)
    toward = scores if below else scores[::-1]
    best = np.maximum.accumulate(toward)
    rises = np.concatenate([[True], best[1:] > best[:-1]])
    keep = np.flatnonzero(rises if below else rises[::-1])
    return Table(low, ticks[keep], scores[keep][None])


def _sorted(parts: Sequence[Table], low: int) -> tuple[Ints, NDArray[np.intp], NDArray[np.intp]]:
    """Return the distinct places, the order of all values, and the start of each place in it."""
    places = np.concatenate([part.ticks() for part in parts]) - low
    order = np.argsort(places, kind="stable")
    places = places[order]
    starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    return places[starts], order, starts


def _thinned(table: Table, used: NDArray[np.bool_]) -> Table:
    """Return a table, as a sparse one if it is large and mostly empty."""
    if len(table) <= DENSE or 4 * np.count_nonzero(used) > len(table):
        return table
    places = np.flatnonzero(used)
    return Table(table.low, places, table.values[:, places], table.bias)
