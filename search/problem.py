"""The problem of a search: a space, a latency table, and the networks within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lcnas import latency, spaces
from lcnas.arch import Arch
from lcnas.budgets import Budget
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.latency.table import LatencyTable
from lcnas.spaces import Space
from search import tables
from search.errors import SearchError
from search.settings import Settings


@dataclass(frozen=True)
class SearchProblem:
    """What is searched."""

    space: Space
    table: LatencyTable
    on_this_machine: bool  # whether the table is this machine's
    classes: int
    max_ms: float  # budget, of measured latency
    min_ms: float
    margin: float  # by which a measured network may exceed its prediction, relative
    budget: Budget
    table_notes: tuple[str, ...] = ()
    budget_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of the result."""
        return self.table_notes + self.budget_notes

    @property
    def searched_max_ms(self) -> float:
        """The limit of predicted latency, so that measured networks keep to the budget."""
        return self.max_ms / (1 + self.margin)

    @property
    def local_engine(self) -> Engine:
        """The table's engine on this machine.

        Raises:
            EngineError: this machine does not have it.
        """
        e = self.table.engine
        if self.on_this_machine:
            return e
        return engines.engine(e.name, threads=e.threads, precision=e.precision, batch=e.batch)

    def describe(self) -> list[str]:
        """Return a description, a line each: table, budget, number of networks, notes."""
        machine = "this machine's" if self.on_this_machine else "another machine's"
        low, high = self.budget.count_bounds()
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        margin = f"90 % of networks are measured at most {self.margin:.1%} above theirs"
        return [
            f"table: {self.table.machine_label} ({machine})",
            f"budget: {self.min_ms:.3f} to {self.max_ms:.3f} ms measured",
            f"predictions up to {self.searched_max_ms:.3f} ms: {margin}",
            f"networks of {self.space.name} within: {count} of {self.space.size:,}",
            *(f"note: {note}" for note in self.notes),
        ]


def define(
    settings: Settings,
    classes: int,
    message: Callable[[str], None],
    resolved: tables.ResolvedTable | None = None,
) -> SearchProblem:
    """Return the problem of some settings; entries that the table lacks are measured first.

    Args:
        settings: the settings, their resolution decided.
        classes: number of classes of the data.
        message: called with a line for each event.
        resolved: the table that the search has started with; None: the one that fits.

    Raises:
        SearchError: no network meets the budget; names the lowest latency.
        BudgetError: no network is within both of its bounds.
    """
    space = spaces.load(settings.space, settings.resolution)
    if resolved is None:
        engine = requested_engine(settings)
        resolved = tables.resolve(space, engine, classes, table=settings.table, message=message)
    table = resolved.table
    notes = []
    span = tables.span(space, table, classes)
    max_ms = settings.max_latency_ms or span.high
    min_ms = settings.min_latency_ms or min(span.low, max_ms)
    margin = tables.margin(table, space=space)
    notes += [span.note] if span.note else []
    if settings.evaluator_name == "supernet":
        space, note = narrowed(space, table, classes, max_ms)
        notes.append(note)
    lowest = latency.Budget(space, table, float("inf"), classes=classes).lowest / 1000
    limit = max_ms / (1 + margin)  # of predictions
    if min_ms >= limit and settings.min_latency_ms is not None:
        raise SearchError(
            f"min_latency_ms: {min_ms:g} is not below {limit:.3f}, the limit of predictions for networks "
            f"that are measured within {max_ms:g} ms; give less, or a higher max_latency_ms"
        )
    if lowest > limit:
        raise SearchError(
            f"max_latency_ms: no network of {space.name} would be measured within {max_ms:g} ms: "
            f"predictions are limited to {limit:.3g}, and the lowest is {lowest:.3f} ms; "
            f"give {least_budget(lowest, margin):g} or more"
        )
    if min_ms >= limit:
        min_ms = min(lowest, min_ms)
    budget = latency.Budget(space, table, limit, min_ms, classes)
    low, high = budget.count_bounds()
    if low != high:
        notes.append(f"networks in the budget: at least {low:,} and at most {high:,}")
    return SearchProblem(
        space=space,
        table=table,
        on_this_machine=resolved.on_this_machine,
        classes=classes,
        max_ms=max_ms,
        min_ms=min_ms,
        margin=margin,
        budget=budget,
        table_notes=resolved.notes,
        budget_notes=tuple(notes),
    )


def least_budget(lowest: float, margin: float) -> float:
    """Return the least budget in ms, rounded up to three digits, whose margin leaves ``lowest``.

    >>> least_budget(0.2234, 0.1), least_budget(2.0, 0.0)
    (0.246, 2.0)
    """
    least = lowest * (1 + margin)
    step = 10.0 ** (math.floor(math.log10(least)) - 2)
    return round(math.ceil(least / step) * step, 9)


def narrowed(space: Space, table: LatencyTable, classes: int, max_ms: float) -> tuple[Space, str]:
    """Return a space restricted to the widths of the largest PP-LCNet in the budget, and a note on it."""
    scales = scales_within(space, table, classes, max_ms)
    within = [arch for arch in scales if len(arch.stages) == len(space.elements)]
    if not within:
        why = "has as many stages as the space" if scales else "is in the budget"
        return space, f"no scale of PP-LCNet {why}: the supernet holds the whole space"
    from lcnas.models import supernet

    narrow, note = supernet.narrowed(space, within[-1])
    return narrow, f"the supernet holds widths up to those of {within[-1].name}: {note}"


def scales_within(space: Space, table: LatencyTable, classes: int, max_ms: float) -> list[Arch]:
    """Return the published scales of PP-LCNet within a budget by a table, the smallest first."""
    scales = tables.published_scales(space)
    predicted = tables.predicted(table, scales, classes)
    return [a for a in scales if predicted.get(a.id, max_ms + 1) <= 1.001 * max_ms]


def requested_engine(settings: Settings) -> Engine | None:
    """Return the engine of the settings; None: that of the table."""
    chosen = (settings.engine, settings.threads, settings.precision, settings.batch)
    if chosen == (None, 1, "fp32", 1) and settings.table is not None:
        return None
    return engines.engine(
        settings.engine,
        threads=settings.threads,
        precision=settings.precision,
        batch=settings.batch,
    )
