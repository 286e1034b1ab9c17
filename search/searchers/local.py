"""Local search: the neighbours of the front, which have not been seen yet, in random order."""

from __future__ import annotations

import numpy as np

from lcnas.budgets import Budget
from search import pareto
from search.searchers.base import BANDS, BandedDraws, Codes, checked_integer, initial_for, key_of


class Local:
    """Proposes an unseen neighbour of a random member of the front so far.

    White et al., "Exploring the Loss Landscape in Neural Architecture Search" (UAI 2021), found such a
    search to be as good as far more elaborate ones; here the front takes the place of the one best network.
    Where all neighbours of the front have been proposed, those of the fronts behind it follow.

    Args:
        budget: the networks.
        seed: of the initial draws.
        trials: how many networks will be asked for.
        initial: networks drawn at random first; None: an eighth of the trials, from 10 to 100.
        bands: latency bands of the initial draws.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int,
        *,
        trials: int,
        initial: int | None = None,
        bands: int = BANDS,
    ) -> None:
        self.budget = budget
        self._initial = checked_integer(
            "initial", initial_for(trials) if initial is None else initial, 1
        )
        self._draws = BandedDraws(budget, seed, checked_integer("bands", bands, 1))
        self._seen: set[tuple[int, ...]] = set()
        self._codes: list[Codes] = []
        self._points: list[tuple[float, float]] = []
        self._ranks = np.zeros(0, dtype=np.int64)
        self._fresh = True  # whether the ranks are those of the points
        self._around: dict[int, Codes] = {}  # neighbours of a member that may still be unseen

    def ask(self, rng: np.random.Generator) -> Codes:
        """Return an initial draw, or an unseen neighbour."""
        neighbor = self._neighbor(rng) if self._initial <= 0 else None
        if neighbor is None:
            self._initial -= 1
            neighbor = self._draws.next()
        self._seen.add(key_of(neighbor))
        return neighbor

    def _neighbor(self, rng: np.random.Generator) -> Codes | None:
        if not self._fresh:
            self._ranks, self._fresh = pareto.ranks(self._points), True
        for rank in range(int(self._ranks.max(initial=-1)) + 1):
            for i in rng.permutation(np.flatnonzero(self._ranks == rank)).tolist():
                unseen = self._unseen(i)
                if len(unseen):
                    neighbor: Codes = unseen[int(rng.integers(len(unseen)))]
                    return neighbor
        return None

    def _unseen(self, i: int) -> Codes:
        """Return the codes (n, genes) of the unseen neighbours of a member."""
        around = self._around.get(i)
        if around is None:
            space = self.budget.space
            around = space.neighbor_codes(space.decode(self._codes[i])[0])
            around = around[self.budget.inside(around)]
        keep = [key not in self._seen for key in map(tuple, around.tolist())]
        self._around[i] = around[np.array(keep, dtype=bool)]
        return self._around[i]

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:  # noqa: ARG002
        """Add a result."""
        self._seen.add(key_of(codes))
        if accuracy is not None:
            self._codes.append(codes)
            self._points.append((accuracy, -latency_ms))
            self._fresh = False
