"""What is known of the chains behind a node for each total of ticks: exact counts, or best scores.

A table is dense (a value a tick) or sparse (sorted ticks with a value each), whichever is smaller.
Counts are whole numbers of any size, in limbs: value = sum over l of limb[l] * 2**(BITS * l). Additions
are lazy: a limb of 64 bits takes 2**23 of them before it has to be carried.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BITS = 40  # of a limb, where one does not suffice
SINGLE = 1 << 62  # below, one limb holds it
NONE = -(1 << 61)  # score of a total that no chain has
REACHED = -(1 << 60)  # scores above are of chains that exist
DENSE = 1 << 14  # ticks that a table may always span densely


def limbs_for(largest: int) -> int:
    """Return the number of limbs that hold counts up to ``largest``."""
    return 1 if largest < SINGLE else -(-largest.bit_length() // BITS)


@dataclass(frozen=True)
class Table:
    """Values of the totals that a node's chains can have."""

    low: int  # tick of place 0
    places: Ints | None  # (n,) sorted, tick = low + place; None: dense, place i is i
    values: Ints  # (limbs, n); scores have one limb
    bias: int = 0  # to be added to scores

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
        """Return the table behind an edge; shares all arrays."""
        return Table(self.low + ticks, self.places, self.values, self.bias + score)

    def clip(self, low: int, high: int) -> Table | None:
        """Return the part with ticks from low to high, or None where there is nothing."""
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
        """Return for each tick its index (any where it is not there), and whether it is there."""
        places = ticks - self.low
        if self.places is None:
            present = (places >= 0) & (places < len(self))
            return np.where(present, places, 0).astype(np.intp), present
        index = np.minimum(np.searchsorted(self.places, places), len(self) - 1)
        return index, self.places[index] == places

    def counts_at(self, ticks: Ints) -> Ints | Floats:
        """Return the counts at the given ticks, 0 where there is no chain; floats if of several limbs."""
        index, present = self.find(ticks)
        values = self.values[:, index] * present
        return values[0] if len(values) == 1 else to_float(values)

    def scores_at(self, ticks: Ints) -> Ints:
        """Return the scores at the given ticks, NONE where there is no chain."""
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
        """Return the number of entries with lower ticks, for each tick."""
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
    """Return the table of the end: one chain of no ticks."""
    values = np.zeros((limbs, 1), dtype=np.int64)
    values[0] = value
    return Table(0, None, values)


def carry(limbs: Ints) -> None:
    """Move what exceeds BITS to the next limb, in place."""
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
    """Return the greatest of values[start:stop] for many ranges, NONE where a range is empty."""
    out = np.full(len(start), NONE, dtype=np.int64)
    length = stop - start
    step, reach = 1, values  # reach[i] is the greatest of values[i : i + step]
    while len(reach) and (length >= step).any():
        ranges = np.flatnonzero((length >= step) & (length < 2 * step))
        out[ranges] = np.maximum(reach[start[ranges]], reach[stop[ranges] - step])
        reach = np.maximum(reach[:-step], reach[step:]) if len(reach) > step else reach[:0]
        step *= 2
    return out


# -- merging -----------------------------------------------------------------------------------------


def spans(parts: Sequence[Table]) -> tuple[int, int, bool]:
    """Return lowest tick, number of ticks, and whether the merged table is dense."""
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
    """Return the greatest score for each tick."""
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
    """Return the tables' scores without the totals that another one equals or beats.

    Args:
        parts: tables of scores.
        below: whether fewer ticks are better than more (else the other way round).

    Returns:
        A sparse table whose scores rise strictly with the ticks that may be spent.
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
    """Return distinct places, the order of all entries, and where each place begins in it."""
    places = np.concatenate([part.ticks() for part in parts]) - low
    order = np.argsort(places, kind="stable")
    places = places[order]
    starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    return places[starts], order, starts


def _thinned(table: Table, used: NDArray[np.bool_]) -> Table:
    """Return a large table that is mostly empty as a sparse one."""
    if len(table) <= DENSE or 4 * np.count_nonzero(used) > len(table):
        return table
    places = np.flatnonzero(used)
    return Table(table.low, places, table.values[:, places], table.bias)
