"""Regularised evolution: parents are the best of a few, and the oldest networks leave."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from lcnas.arch import Arch
from lcnas.budgets import Budget
from search.searchers.base import BANDS, BandedDraws, Codes, checked_integer, codes_of, mutated


@dataclass(frozen=True)
class _Member:
    arch: Arch
    accuracy: float
    log_ms: float


class Evolution:
    """Evolution with aging, under a limit of latency that is drawn anew for each parent.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search" (AAAI 2019, Algorithm 1):
    the parent is the most accurate of a random sample of the population, its mutated child joins, the oldest
    member dies. That search has one objective; here the front is wanted. So each parent is the
    most accurate among those members of the sample that are no slower than a limit drawn
    uniformly on a log scale between the fastest and the slowest member of the population.

    Args:
        budget: the networks.
        seed: of the initial draws.
        trials: how many networks will be asked for.
        population: members alive; None: a fifth of the trials, from 10 to 100 (the paper: 100 of 20,000).
        sample: members among which the parent is chosen; None: as many as the population
            (the paper: a quarter). They are drawn with replacement, so that a third of it is not among them.
        bands: latency bands of the initial draws.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int,
        *,
        trials: int,
        population: int | None = None,
        sample: int | None = None,
        bands: int = BANDS,
    ) -> None:
        self.budget = budget
        size = min(max(trials // 5, 10), 100) if population is None else population
        self.population = checked_integer("population", size, 2)
        self._sample = checked_integer("sample", self.population if sample is None else sample, 1)
        self._initial = self.population
        self._draws = BandedDraws(budget, seed, checked_integer("bands", bands, 1))
        self._members: deque[_Member] = deque(maxlen=self.population)

    def ask(self, rng: np.random.Generator) -> Codes:
        """Return an initial draw, or a mutated parent."""
        if self._initial > 0 or not self._members:
            self._initial -= 1
            return self._draws.next()
        return codes_of(self.budget, mutated(self.budget, self._parent(rng), rng))

    def _parent(self, rng: np.random.Generator) -> Arch:
        times = [m.log_ms for m in self._members]
        limit = rng.uniform(min(times), max(times))
        fast = [m for m in self._members if m.log_ms <= limit] or [
            min(self._members, key=lambda m: m.log_ms)
        ]
        chosen = rng.integers(len(fast), size=self._sample)  # with replacement, as in the paper
        best: _Member = max((fast[i] for i in chosen.tolist()), key=lambda m: m.accuracy)
        return best.arch

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:  # noqa: ARG002
        """Let a network in; the oldest leaves where there are too many."""
        if accuracy is not None:
            arch = self.budget.space.decode(codes)[0]
            self._members.append(_Member(arch, accuracy, math.log(latency_ms)))
