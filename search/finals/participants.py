"""The networks of the final evaluation: finalists and baselines, measured on this machine if possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcnas.errors import LcnasError
from search import tables
from search.context import SearchContext
from search.finals import measurement, selection
from search.finals.baselines import Baseline, BaselineSearch, by_table
from search.finals.measurement import FinalMeasurements
from search.finals.selection import Finalist, SelectedFinalists
from search.run_dir import MEASURED
from search.trials import Trial


@dataclass(frozen=True)
class Participants:
    """Finalists and baselines."""

    finalists: tuple[Finalist, ...]
    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...]
    candidates_measured: int = 0  # for the places of finalists; 0: none was measured


def select(context: SearchContext, trials: Sequence[Trial], front: Sequence[int]) -> Participants:
    """Return finalists and baselines, measured as whole networks if this machine is the table's.

    Args:
        context: the search.
        trials: its trials.
        front: numbers of the trials that no other trial dominates.
    """
    settings, problem = context.settings, context.problem
    queues = selection.choose(
        trials,
        front,
        problem.min_ms,
        problem.searched_max_ms,
        bands=settings.bands,
        n=settings.finalists,
    )
    remeasure = problem.on_this_machine if settings.remeasure is None else settings.remeasure
    if not remeasure:
        finalists = selection.select(queues, problem.space, problem.max_ms, None)
        return _without_measurements(context, finalists)
    measurements = FinalMeasurements(
        context.run_dir / MEASURED,
        problem.local_engine,
        problem.classes,
        seed=settings.seed,
        message=context.console.detail,
    )
    search = None
    if settings.baselines:
        search = BaselineSearch(problem.space, problem.table, problem.classes)
    selected = selection.select(queues, problem.space, problem.max_ms, measurements, search)
    notes = [*selected.notes, *_pace_note(measurements, context)]
    baselines: tuple[Baseline, ...] = ()
    if search is not None:
        result = search.result(selected.finalists, measurements)
        baselines, notes = result.baselines, [*notes, *result.notes]
    if problem.on_this_machine and settings.table is None:
        _extend_table(context, measurements, selected)
    for f in selected.finalists:
        assert f.measured is not None
        context.console.detail(
            f"{f.name}: predicted {f.trial.latency_ms:.3f} ms, measured {f.measured.ms:.3f} ms"
        )
    return Participants(selected.finalists, baselines, tuple(notes), len(selected.measured))


def _without_measurements(context: SearchContext, selected: SelectedFinalists) -> Participants:
    if not context.settings.baselines:
        return Participants(selected.finalists, (), selected.notes)
    problem = context.problem
    result = by_table(selected.finalists, problem.space, problem.table, problem.classes)
    return Participants(selected.finalists, result.baselines, (*selected.notes, *result.notes))


def _pace_note(measurements: FinalMeasurements, context: SearchContext) -> list[str]:
    """Return a note if this machine ran at another pace than when its table was built."""
    pace = measurement.pace_of(measurements, context.problem.table)
    if pace is None or measurement.has_table_pace(pace):
        return []
    return [
        f"this machine took {pace:.2f} times as long as when the table was built, for the reference network"
    ]


def _extend_table(
    context: SearchContext, measurements: FinalMeasurements, selected: SelectedFinalists
) -> None:
    """Add the measurements to the table of the next search; this one continues with its own copy."""
    problem, message = context.problem, context.console.detail
    networks = measurement.for_table(problem.table, measurements, selected.measured, problem.space)
    try:
        path = tables.learn(problem.table, networks)
    except (LcnasError, OSError) as error:  # such as a read-only folder: no reason to stop
        message(f"table: the measurements were not added: {error}")
        return
    if path is not None:
        message(f"table: the measurements were added to {path}, for the next search")
