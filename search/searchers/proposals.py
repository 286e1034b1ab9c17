"""Proposals in order, whatever the order in which their results come in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from lcnas.budgets import Budget
from lcnas.errors import shorten
from search.errors import SearchError
from search.searchers.base import Codes, Key, Strategy, checked_integer, draw, key_of
from search.trials import Trial

_TRIES = 10  # networks that a strategy may propose again before one is drawn in its place
_DRAWS = 64  # networks drawn at once then


class Proposals:
    """Asks a strategy for networks so that a search can be repeated, and resumed by replaying its trials.

    Proposal i depends on the seed, on i and on the results of proposals 0 to i - lag - 1 alone: it is asked
    for once they are all there, exactly these have been reported, in order, and its draws come from
    ``np.random.default_rng([seed, i])``. No network is proposed twice.

    Args:
        strategy: fresh, never asked.
        budget: the networks.
        seed: of the draws.
        lag: how many of the latest results a proposal does without: at least the number of networks at
            work at once less one, more where some take longer than others.
        known: trials of the same search, in any order. Their proposals are made anew in order, must be the
            same, and are not returned by :meth:`next`; what lies between them unfinished is.

    Raises:
        SearchError: a known trial is not what is proposed here, or two have the same number.
    """

    def __init__(
        self, strategy: Strategy, budget: Budget, seed: int, lag: int, known: Iterable[Trial] = ()
    ) -> None:
        self._strategy = strategy
        self._budget = budget
        self._seed = checked_integer("seed", seed, 0)
        self._lag = checked_integer("lag", lag, 0)
        self._most = budget.count_bounds()[1]  # exact, but where it is beyond all that is possible
        self._known: dict[int, Trial] = {}
        self._codes: list[Codes] = []  # of all proposals so far
        self._seen: set[Key] = set()
        self._results: dict[int, Trial] = {}
        self._reported = 0
        self._waiting: deque[int] = deque()  # asked for, not yet returned
        for trial in known:
            if trial.number in self._known:
                raise SearchError(f"trial {trial.number} is there twice")
            self._known[trial.number] = trial
        while self._known and self._ask():
            pass

    @property
    def asked(self) -> int:
        """How many networks have been proposed, known ones included."""
        return len(self._codes)

    @property
    def pending(self) -> int:
        """How many of them :meth:`next` has yet to return: found unfinished among known ones."""
        return len(self._waiting)

    @property
    def exhausted(self) -> bool:
        """Whether all networks in the budget have been proposed."""
        return len(self._seen) >= self._most

    @property
    def results(self) -> list[Trial]:
        """All results so far, by number."""
        return [self._results[number] for number in sorted(self._results)]

    def next(self) -> tuple[int, Codes] | None:
        """Return number and codes (genes,) of the next proposal.

        None: it has to wait for a result of an earlier one, or there is no network left (:attr:`exhausted`).
        """
        while not self._waiting:
            if not self._ask():
                return None
        number = self._waiting.popleft()
        return number, self._codes[number].copy()

    def record(self, trial: Trial) -> None:
        """Take note of a result, in any order.

        Raises:
            SearchError: it was not proposed, is of another network, or is there already.
        """
        number = trial.number
        if number >= self.asked:
            raise SearchError(f"trial {number} was not proposed; {self.asked} were, from 0 on")
        if number in self._results:
            raise SearchError(f"trial {number} has its result already")
        if trial.codes != key_of(self._codes[number]):
            raise SearchError(
                f"trial {number} is of codes {shorten(list(trial.codes))}, but proposed was "
                f"{shorten(self._codes[number].tolist())}: another version of lcnas or other settings made it"
            )
        self._results[number] = trial

    def _ask(self) -> bool:
        """Ask for one more proposal; return whether that was possible."""
        number = self.asked
        if self.exhausted or not self._tell(number - self._lag):
            return False
        codes = self._unseen(np.random.default_rng([self._seed, number]))
        self._codes.append(codes)
        self._seen.add(key_of(codes))
        known = self._known.pop(number, None)
        if known is None:
            self._waiting.append(number)
        else:
            self.record(known)
        return True

    def _tell(self, until: int) -> bool:
        """Report the results of all proposals before ``until``; return whether they are all there."""
        if any(number not in self._results for number in range(self._reported, until)):
            return False
        for number in range(self._reported, until):
            trial = self._results[number]
            self._strategy.tell(number, self._codes[number], trial.accuracy, trial.latency_ms)
        self._reported = max(self._reported, until)
        return True

    def _unseen(self, rng: np.random.Generator) -> Codes:
        """Return a network that was not proposed before."""
        for _ in range(_TRIES):
            codes: Codes = np.asarray(self._strategy.ask(rng), dtype=np.int64)
            if key_of(codes) not in self._seen:
                return codes
        while True:  # ends: with so many draws in so few networks each is soon among them
            drawn = draw(self._budget, max(_DRAWS, min(self._most, 2 * len(self._seen))), rng)
            for codes in drawn:
                if key_of(codes) not in self._seen:
                    return np.array(codes)
