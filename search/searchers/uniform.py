"""Random search: uniform within latency bands, the baseline that every other strategy has to beat."""

from __future__ import annotations

import numpy as np

from lcnas.budgets import Budget
from search.searchers.base import BANDS, BandedDraws, Codes, checked_integer


class Random:
    """Draws networks, one of each latency band in turn, and learns nothing.

    Args:
        budget: the networks.
        seed: of the draws.
        trials: how many networks will be asked for; of no consequence.
        bands: latency bands, equal parts of log latency.
    """

    def __init__(self, budget: Budget, seed: int, *, trials: int, bands: int = BANDS) -> None:  # noqa: ARG002
        self._draws = BandedDraws(budget, seed, checked_integer("bands", bands, 1))

    def ask(self, rng: np.random.Generator) -> Codes:  # noqa: ARG002 - drawn in advance, many at once
        """Return the next network."""
        return self._draws.next()

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:
        """Learn nothing."""
