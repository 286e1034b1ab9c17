"""Optuna's tree-structured Parzen estimator over the codes of a space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lcnas.budgets import Budget
from lcnas.errors import CodesError
from lcnas.spaces import Gene
from search import pareto
from search.searchers.base import (
    BANDS,
    BandedDraws,
    Codes,
    Key,
    checked_integer,
    codes_of,
    initial_for,
    key_of,
    mutated,
)

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_FEWEST = 4  # results before it is used
_TRIES = 10  # steps away from a network that was proposed before


@dataclass(frozen=True)
class _Result:
    codes: Codes
    accuracy: float
    minus_log_ms: float


class TPE:
    """TPE: networks are likely near good ones and unlikely near the others.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), as implemented by Optuna's
    ``TPESampler``, all genes together. Good is defined anew for each proposal: ranks by accuracy and by
    latency are weighed with a weight drawn at random, as in ParEGO (Knowles 2006), so that proposals go to
    all parts of the front. Widths, depths and other
    ordered numbers are numbers to it, the rest categories. What lies outside the budget is repaired, and the
    repaired point is what it learns from.

    Args:
        budget: the networks.
        seed: of the initial draws.
        trials: how many networks will be asked for.
        initial: networks drawn at random first; None: an eighth of the trials, from 10 to 100.
        memory: results that it rests on; beyond, it goes on with half as many, the best tenth and the
            latest, since a proposal takes time in proportion to them.
        candidates: points among which it takes the most promising one.
        bands: latency bands of the initial draws.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int,
        *,
        trials: int,
        initial: int | None = None,
        memory: int = 500,
        candidates: int = 24,
        bands: int = BANDS,
    ) -> None:
        self.budget = budget
        self._initial = checked_integer(
            "initial", initial_for(trials) if initial is None else initial, 1
        )
        self._memory = checked_integer("memory", memory, 10)
        self._candidates = checked_integer("candidates", candidates, 1)
        self._draws = BandedDraws(budget, seed, checked_integer("bands", bands, 1))
        self._columns = {g.name: i for i, g in enumerate(budget.space.genes) if len(g.choices) > 1}
        self._spread = {g.name: _distribution(g) for g in budget.space.genes if len(g.choices) > 1}
        self._results: list[_Result] = []
        self._seen: set[Key] = set()

    def ask(self, rng: np.random.Generator) -> Codes:
        """Return an initial draw, or the most promising point, repaired."""
        if self._initial > 0 or len(self._results) < _FEWEST:
            self._initial -= 1
            return self._draws.next()
        codes = self._fresh(self._inside(self._suggest(rng), rng), rng)
        self._seen.add(key_of(codes))
        return codes

    def _inside(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return the network of the budget with the fewest changes.

        Where a rule that ties genes together forbids the codes, genes of an evaluated network replace
        theirs, one after another, until it holds.
        """
        other = self._results[int(rng.integers(len(self._results)))].codes
        for column in rng.permutation(len(codes)):
            try:
                codes = self.budget.space.canonical(self.budget.repair(codes))[0]
                break
            except CodesError:
                codes[column] = other[column]
        return codes

    def _fresh(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return the network, or a neighbour where it was proposed before: asking again takes far longer."""
        for _ in range(_TRIES):
            if key_of(codes) not in self._seen:
                break
            arch = self.budget.space.decode(codes)[0]
            codes = codes_of(self.budget, mutated(self.budget, arch, rng))
        return codes

    def _suggest(self, rng: np.random.Generator) -> Codes:
        """Return the codes of the most promising point, in the budget or not."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState, create_trial

        sampler = TPESampler(
            n_startup_trials=0,
            n_ei_candidates=self._candidates,
            multivariate=True,
            constant_liar=False,  # there are no running trials: the study holds results alone
            seed=int(rng.integers(1 << 31)),
        )
        running = create_trial(state=TrialState.RUNNING)
        params = sampler.sample_relative(self._study(float(rng.random())), running, self._spread)
        codes = np.zeros(len(self.budget.space.genes), dtype=np.int64)
        for name, column in self._columns.items():
            codes[column] = params[name]
        return codes

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:  # noqa: ARG002
        """Add a result; forget old ones where there are too many."""
        self._seen.add(key_of(codes))
        if accuracy is None:
            return
        self._results.append(_Result(codes, accuracy, -math.log(latency_ms)))
        if len(self._results) > self._memory:
            self._results = _remembered(self._results, self._memory // 2)

    def _study(self, weight: float) -> optuna.Study:
        """Return a study of what is known; accuracy has this weight, 0 to 1, latency the rest."""
        from optuna.trial import create_trial

        accuracy = _shares([t.accuracy for t in self._results])
        speed = _shares([t.minus_log_ms for t in self._results])
        study = _empty_study()
        study.add_trials(
            [
                create_trial(
                    params={name: int(result.codes[i]) for name, i in self._columns.items()},
                    distributions=self._spread,
                    value=float(value),
                )
                for result, value in zip(
                    self._results, weight * accuracy + (1 - weight) * speed, strict=True
                )
            ]
        )
        return study


def _shares(values: list[float]) -> NDArray[np.float64]:
    """Return each value's rank, 0 for the lowest and 1 for the highest."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return order / max(len(values) - 1, 1)


def _remembered(results: list[_Result], n: int) -> list[_Result]:
    """Return the n results to keep, in their order: a tenth of the best, the rest the latest."""
    ranks = pareto.ranks([(t.accuracy, t.minus_log_ms) for t in results])
    best = set(np.argsort(ranks, kind="stable")[: n // 10].tolist())
    latest = [i for i in range(len(results)) if i not in best][len(best) - n :]
    return [results[i] for i in sorted([*best, *latest])]


def _distribution(gene: Gene) -> BaseDistribution:
    """Return how a gene varies, as the numbers of its choices."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    values = gene.choices
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers and list(values) == sorted(values):
        return IntDistribution(0, len(values) - 1)
    return CategoricalDistribution(range(len(values)))


def _empty_study() -> optuna.Study:
    """Return an empty study, without the line that Optuna prints about each."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(before)
