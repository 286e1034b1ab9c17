"""Budgets in ticks too fine for exact tables: coarse tables, and exact checks of their samples.

The ticks of each edge are divided by a quantum and rounded down, so a network of L coarse ticks has at least
L * quantum ticks, and at most the largest sum of remainders of a chain more. This gives coarse windows that
surely contain the budget, or surely lie in it: the first has candidates to sample and check, and
both bound the count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcnas.budgets._graph import Graph
from lcnas.budgets._passes import Bounds, Tables, TooFineError
from lcnas.budgets._walk import Sampler, Window
from lcnas.errors import BudgetError

Ints = NDArray[np.int64]

SPAN = 1 << 16  # coarse ticks in the budget
AT_ONCE = 1 << 14  # candidates drawn at a time
TRIES = 1 << 20  # candidates outside the budget, one after another, before sampling fails


@dataclass(frozen=True)
class Coarse:
    """Coarse tables of a budget."""

    sampler: Sampler
    quantum: int  # ticks of a coarse tick
    rest: int  # largest sum of remainders of a chain, ticks

    @classmethod
    def of(cls, graph: Graph, bounds: Bounds, window: Window, genes: int) -> Coarse:
        """Return coarse tables with the finest feasible quantum: about 2**16 coarse ticks or fewer."""
        span = min(window[1], bounds.most[0]) - max(window[0], bounds.least[0]) + 1
        quantum = max(2, -(-span // SPAN))
        while quantum <= 8 * span:
            rest = Bounds.of(dataclasses.replace(graph, ticks=graph.ticks % quantum)).most[0]
            coarse = dataclasses.replace(graph, ticks=graph.ticks // quantum)
            try:
                tables = Tables(coarse, Bounds.of(coarse), _outer(window, quantum, rest))
                return cls(Sampler(tables, genes), quantum, rest)
            except TooFineError:
                quantum *= 4
        raise BudgetError("budget: the space has too many kinds of chains for tables of any ticks")

    def bounds(self, window: Window) -> tuple[int, int]:
        """Return a lower and an upper bound of the number of networks in a window."""
        inner = (-(-window[0] // self.quantum), (window[1] - self.rest) // self.quantum)
        outer = self.sampler.count(_outer(window, self.quantum, self.rest))
        return (self.sampler.count(inner) if inner[0] <= inner[1] else 0), outer

    def draw(
        self,
        window: Window,
        n: int,
        rng: np.random.Generator,
        inside: Callable[[Ints], NDArray[np.bool_]],
    ) -> Ints:
        """Return codes (n, genes) of networks sampled uniformly from a window.

        Args:
            window: lowest and highest total, ticks.
            n: number of networks.
            rng: source of randomness.
            inside: returns which rows of codes are exactly inside the window.
        """
        outer = _outer(window, self.quantum, self.rest)
        chunks = [np.zeros((0, self.sampler.genes), dtype=np.int64)]
        missing, in_vain = n, 0
        while missing > 0:
            codes = self.sampler.draw([(outer, min(AT_ONCE, 64 + 2 * missing))], rng)
            kept = codes[inside(codes)][:missing]
            in_vain = 0 if len(kept) else in_vain + len(codes)
            if in_vain > TRIES:
                raise BudgetError(
                    f"of {in_vain:,} networks that cost about as much as allowed none meets the budget; "
                    "widen it"
                )
            chunks.append(kept)
            missing -= len(kept)
        return np.concatenate(chunks)


def _outer(window: Window, quantum: int, rest: int) -> Window:
    """Return the coarse window that surely contains every network of a window."""
    return -(-(window[0] - rest) // quantum), window[1] // quantum
