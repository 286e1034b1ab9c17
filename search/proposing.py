"""The searcher of a search, by its settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lcnas.budgets import bands
from search.evaluators import early_stopping
from search.predictor import Screened
from search.problem import SearchProblem
from search.searchers.creation import create
from search.settings import ResolvedSettings
from search.trials import Trial


def searcher(
    settings: ResolvedSettings,
    problem: SearchProblem,
    known: Sequence[Trial],
    *,
    record: Callable[[Trial], None],
    stop: Callable[[], bool],
) -> Any:
    """Return the Ray Tune searcher of some settings, with known trials replayed.

    Args:
        settings: the settings.
        problem: the problem.
        known: finished trials.
        record: called with each newly finished trial.
        stop: whether to propose no more.
    """
    from search.searchers.tune import (
        Searcher,
    )  # imports Ray, whose variables the cluster sets first

    strategy: Any = create(settings.searcher, problem.budget, settings.seed, trials=settings.trials)
    if settings.predictor:
        strategy = Screened(strategy, problem.budget)
    stops_early = settings.evaluator == "train"
    return Searcher(
        strategy,
        problem.budget,
        trials=settings.trials,
        seed=settings.seed,
        batch=settings.networks_per_trial,
        lag=settings.lag,
        known=known,
        record=record,
        stop=stop,
        more=functools.partial(_stop_below, settings, problem) if stops_early else None,
    )


def predictor_report(searcher: Any) -> dict[str, Any] | None:
    """Return a report on a search's predictor: its rank correlation on held-out networks; None: none."""
    strategy = searcher.strategy
    if not isinstance(strategy, Screened):
        return None
    predictor = strategy.predictor
    report: dict[str, Any] = {"says": strategy.describe(), "screened": strategy.screened}
    if predictor is not None:
        report |= {
            "tau": predictor.tau,
            "tau_at_cost": predictor.tau_at_cost,
            "networks": predictor.n,
        }
    return report


def _stop_below(
    settings: ResolvedSettings, problem: SearchProblem, latency_ms: float, trials: Sequence[Trial]
) -> dict[str, Any]:
    """Return the rest of a candidate's config: when its training is stopped early."""
    edges = bands.edges(problem.min_ms, problem.searched_max_ms, settings.bands)
    return {"stop_below": early_stopping.limits(trials, edges.tolist(), latency_ms)}
