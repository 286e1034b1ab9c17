"""Counting and sampling the chains of one network-wide assignment."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np

from lcnas.spaces._draw import draw
from lcnas.spaces._element import ElementTable
from lcnas.spaces._points import Ints
from lcnas.spaces._structure import Structure


class Chain:
    """The distinct chains of one network-wide assignment, counted by a pass from the head to the stem.

    A variant is a depth and a signature of an element; rules over neighbours (a width that does not fall)
    decide which variants may follow which.
    """

    def __init__(self, structure: Structure, g: int) -> None:
        self.tables = structure.elements
        self.variants = [table.variants(g) for table in self.tables]
        self.keys = [
            [tuple(_order_key(structure, table, g, s)) for _, s, _ in variants]
            for table, variants in zip(self.tables, self.variants, strict=True)
        ]
        self.weights = functools.cache(self._make_weights)  # a cache of the instance
        # counts[e][low]: number of chains from element e on, under lower bounds of the order rules.
        self.counts: list[dict[tuple[float, ...], int]] = [{} for _ in range(len(self.tables) + 1)]
        start = (-math.inf,) * len(structure.orders)
        self.start = start
        self.total = self._count(0, start)

    def _count(self, e: int, low: tuple[float, ...]) -> int:
        if e == len(self.tables):
            return 1
        count = self.counts[e].get(low)
        if count is None:
            count = sum(self.weights(e, low))
            self.counts[e][low] = count
        return count

    def _make_weights(self, e: int, low: tuple[float, ...]) -> tuple[int, ...]:
        """Return, for each variant of element e, the number of chains from there on that begin with it."""
        weights = []
        for (_, _, n), key in zip(self.variants[e], self.keys[e], strict=True):
            next_low = follow(low, key)
            weights.append(0 if next_low is None else n * self._count(e + 1, next_low))
        return tuple(weights)

    def leading(
        self, e: int, low: tuple[float, ...]
    ) -> Iterator[tuple[int, int, tuple[float, ...]]]:
        """Yield (depth index, signature, next lower bounds) of the variants that some chain continues."""
        for (d, s, _), key, weight in zip(
            self.variants[e], self.keys[e], self.weights(e, low), strict=True
        ):
            next_low = follow(low, key)
            if weight and next_low is not None:
                yield d, s, next_low

    def draw(self, n: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
        """Yield, for each element, (depth indices, signatures) of n chains drawn uniformly."""
        states = [self.start]
        state = np.zeros(n, dtype=np.int64)
        for e, variants in enumerate(self.variants):
            picked = np.zeros(n, dtype=np.int64)
            following: dict[tuple[float, ...], int] = {}
            new = np.zeros(n, dtype=np.int64)
            for i, low in enumerate(states):
                chains = np.flatnonzero(state == i)
                if not len(chains):  # no chain reaches this state, or none continues from it
                    continue
                picked[chains] = draw(self.weights(e, low), len(chains), rng)
                ends = [follow(low, key) for key in self.keys[e]]
                number = [
                    following.setdefault(end, len(following)) if end is not None else 0
                    for end in ends
                ]
                new[chains] = np.array(number)[picked[chains]]
            states, state = list(following), new
            pairs = np.array([(d, s) for d, s, _ in variants], dtype=np.int64)
            yield pairs[picked, 0], pairs[picked, 1]


def _order_key(structure: Structure, table: ElementTable, g: int, s: int) -> Iterator[float]:
    """Yield, for each order rule, the signature's value, or NaN if the rule skips the element."""
    for rule in structure.orders:
        value = math.nan
        if table.name in rule.elements:
            value = float(table.param_table(rule.param)[g, s])
        yield value


def follow(bounds_before: tuple[float, ...], key: tuple[float, ...]) -> tuple[float, ...] | None:
    """Return the lower bounds for the next element, or None if this one is below its own."""
    bounds = []
    for low, value in zip(bounds_before, key, strict=True):
        if value < low:
            return None
        bounds.append(low if math.isnan(value) else value)
    return tuple(bounds)
