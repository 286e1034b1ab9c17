"""NSGA-II in its steady state: one child at a time, from parents that few others dominate."""

from __future__ import annotations

import math

import numpy as np

from lcnas.arch import Arch
from lcnas.budgets import Budget
from search import pareto
from search.searchers.base import (
    BANDS,
    BandedDraws,
    Codes,
    checked_amount,
    checked_integer,
    checked_share,
    codes_of,
    initial_for,
    mutated,
)


class NSGA2:
    """Crossover and mutation of parents chosen by rank and crowding.

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II" (IEEE Transactions on
    Evolutionary Computation 6, 2002), one child at a time: every result joins the population, whose worst
    member by rank and then by crowding leaves it, so that no worker waits for a generation to end (Durillo et
    al., "A study of the multi-objective optimization of steady-state..." EMO 2009, found it to converge
    faster). Latency counts on a log scale in the crowding, as it does in the bands.

    Args:
        budget: the networks.
        seed: of the initial draws.
        trials: how many networks will be asked for.
        population: members; None: a fifteenth of the trials, from 8 to 50.
        initial: networks drawn at random before children are made; None: an eighth of the trials,
            from 10 to 100.
        crossover: share of children of two parents; the others have one.
        mutations: mean number of changes to a child; one of a single parent has at least one.
        bands: latency bands of the initial draws.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int,
        *,
        trials: int,
        population: int | None = None,
        initial: int | None = None,
        crossover: float = 0.5,
        mutations: float = 1.0,
        bands: int = BANDS,
    ) -> None:
        self.budget = budget
        size = min(max(trials // 15, 8), 50) if population is None else population
        self.population = checked_integer("population", size, 2)
        self._initial = checked_integer(
            "initial", initial_for(trials) if initial is None else initial, 1
        )
        self._crossover = checked_share("crossover", crossover)
        self._mutations = checked_amount("mutations", mutations)
        self._draws = BandedDraws(budget, seed, checked_integer("bands", bands, 1))
        self._archs: list[Arch] = []
        self._points = np.zeros((0, 2))  # accuracy, minus log of latency
        self._ranks = np.zeros(0, dtype=np.int64)
        self._crowding = np.zeros(0)

    def ask(self, rng: np.random.Generator) -> Codes:
        """Return an initial draw, or a child."""
        if self._initial > 0:
            self._initial -= 1
            return self._draws.next()
        if len(self._archs) < 2:  # nearly all have failed so far
            return self._draws.next()
        return codes_of(self.budget, self._child(rng))

    def _child(self, rng: np.random.Generator) -> Arch:
        parent = self._parent(rng)
        changes = int(rng.poisson(self._mutations))
        if rng.random() < self._crossover:
            child = self.budget.crossover(parent, self._parent(rng), rng)
        else:
            child, changes = parent, max(changes, 1)
        for _ in range(changes):
            child = mutated(self.budget, child, rng)
        return child

    def _parent(self, rng: np.random.Generator) -> Arch:
        """Return the better of two members drawn at random: by rank, then by crowding."""
        a, b = (int(i) for i in rng.integers(len(self._archs), size=2))
        first = (self._ranks[a], -self._crowding[a]) <= (self._ranks[b], -self._crowding[b])
        return self._archs[a if first else b]

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:  # noqa: ARG002
        """Let a network into the population, and the worst one out."""
        if accuracy is None:
            return
        self._archs.append(self.budget.space.decode(codes)[0])
        self._points = np.vstack([self._points, [accuracy, -math.log(latency_ms)]])
        self._rate()
        if len(self._archs) > self.population:
            worst = int(np.lexsort((-self._crowding, self._ranks))[-1])
            del self._archs[worst]
            self._points = np.delete(self._points, worst, axis=0)
            self._rate()

    def _rate(self) -> None:
        self._ranks = pareto.ranks(self._points)
        self._crowding = pareto.crowding(self._points, self._ranks)
