"""Counting and drawing the chains of one network-wide assignment."""

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
    """The different chains of one network-wide assignment, counted by a pass from the head to the stem.

    A variant is a depth and a signature of an element; rules over neighbours (a width that does not fall)
    decide which variant may follow which.
    """

    def __init__(self, structure: Structure, g: int) -> None:
        self.tables = structure.elements
        self.variants = [table.variants(g) for table in self.tables]
        self.keys = [
            [tuple(_order_key(structure, table, g, s)) for _, s, _ in variants]
            for table, variants in zip(self.tables, self.variants, strict=True)
        ]
        self.weights = functools.cache(self._make_weights)  # goes with the chain
        # behind[e][key]: number of chains from element e on, where ``key`` is what came before.
        self.behind: list[dict[tuple[float, ...], int]] = [{} for _ in range(len(self.tables) + 1)]
        start = (-math.inf,) * len(structure.orders)
        self.start = start
        self.total = self._count(0, start)

    def _count(self, e: int, before: tuple[float, ...]) -> int:
        if e == len(self.tables):
            return 1
        known = self.behind[e].get(before)
        if known is None:
            known = sum(self.weights(e, before))
            self.behind[e][before] = known
        return known

    def _make_weights(self, e: int, before: tuple[float, ...]) -> tuple[int, ...]:
        """Return the number of chains from element e on that begin with each of its variants."""
        out = []
        for (_, _, n), key in zip(self.variants[e], self.keys[e], strict=True):
            after = follow(before, key)
            out.append(0 if after is None else n * self._count(e + 1, after))
        return tuple(out)

    def leading(
        self, e: int, before: tuple[float, ...]
    ) -> Iterator[tuple[int, int, tuple[float, ...]]]:
        """Yield (depth index, signature, what follows must not fall below) of variants that lead on."""
        for (d, s, _), key, weight in zip(
            self.variants[e], self.keys[e], self.weights(e, before), strict=True
        ):
            after = follow(before, key)
            if weight and after is not None:
                yield d, s, after

    def draw(self, n: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
        """Yield for each element (depth indices, signatures) of n chains drawn uniformly."""
        states = [self.start]
        state = np.zeros(n, dtype=np.int64)
        for e, variants in enumerate(self.variants):
            picked = np.zeros(n, dtype=np.int64)
            following: dict[tuple[float, ...], int] = {}
            new = np.zeros(n, dtype=np.int64)
            for i, before in enumerate(states):
                rows = np.flatnonzero(state == i)
                if not len(rows):  # nothing leads here, or nothing leads on from here
                    continue
                picked[rows] = draw(self.weights(e, before), len(rows), rng)
                ends = [follow(before, key) for key in self.keys[e]]
                number = [
                    following.setdefault(end, len(following)) if end is not None else 0
                    for end in ends
                ]
                new[rows] = np.array(number)[picked[rows]]
            states, state = list(following), new
            pairs = np.array([(d, s) for d, s, _ in variants], dtype=np.int64)
            yield pairs[picked, 0], pairs[picked, 1]


def _order_key(structure: Structure, table: ElementTable, g: int, s: int) -> Iterator[float]:
    """Yield, for each order rule, the signature's value, or NaN where the rule passes over the element."""
    for rule in structure.orders:
        value = math.nan
        if table.name in rule.elements:
            value = float(table.param_table(rule.param)[g, s])
        yield value


def follow(before: tuple[float, ...], key: tuple[float, ...]) -> tuple[float, ...] | None:
    """Return what the next element must not fall below, or None where this one already does."""
    out = []
    for low, value in zip(before, key, strict=True):
        if value < low:
            return None
        out.append(low if math.isnan(value) else value)
    return tuple(out)
