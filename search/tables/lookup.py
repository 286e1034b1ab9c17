"""The latency table of a search: this machine's, another's, or a new one; what it lacks is measured first.

A table of this machine is extended if it lacks entries, visibly: a few entries (the head's for another number
of classes) with a few whole networks as a check, all entries (another space or resolution) with a whole
profile. The packaged table is never written; new tables go to ``./latency_tables`` or a folder of your own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcnas.errors import EngineError
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.latency.profile import ProfileStep
from lcnas.latency.table import LatencyTable, of_engine
from lcnas.spaces import Space
from search.errors import SearchError
from search.tables.building import FEW, WHOLE, Amount, TableJob, missing_entries, own_folder


@dataclass(frozen=True)
class ResolvedTable:
    """A table that has all entries of a space."""

    table: LatencyTable
    on_this_machine: bool  # whether it is of this machine and of the very engine that is here
    notes: tuple[str, ...] = ()  # for the reader of the results


def print_message(text: str) -> None:
    """Print a line to the standard error."""
    print(text, file=sys.stderr, flush=True)


def resolve(
    space: Space,
    engine: Engine | None = None,
    classes: int = 1000,
    *,
    table: str | Path | None = None,
    folder: Path | None = None,
    message: Callable[[str], None] = print_message,
    on_progress: Callable[[ProfileStep], None] | None = None,
    few: Amount = FEW,
    whole: Amount = WHOLE,
    **options: Any,
) -> ResolvedTable:
    """Return the table of a search; entries that it lacks are measured first, on the table's own machine.

    Args:
        space: the space; all of its entries are needed.
        engine: the engine of the latencies; None: the table's, or this machine's default.
        classes: outputs of the last layer.
        table: name or file; None: that of this machine and engine, in ``folder`` or in the search path.
        folder: folder of an extended table, searched first; None: :func:`own_folder`.
        message: called with a line on what is measured, why, and about how long it takes.
        on_progress: called with the progress; None: a bar on the terminal.
        few, whole: numbers of networks to measure with a few entries, or with all of them.
        options: options of :class:`lcnas.latency.profile.Builder`.

    Raises:
        SearchError: the table is of another engine than requested, or of another machine and lacks entries
            (names the command that measures them there).
        TableError: the table does not exist, cannot be read, or cannot be written.
    """
    target = own_folder() if folder is None else folder
    if table is not None:
        base = LatencyTable.load(table)
        on_this_machine = _is_here(base, engine)
        engine = base.engine
        if not on_this_machine:
            return ResolvedTable(base, False, _notes_on_another(base, space, classes))
    else:
        engine = engine or engines.engine()
        base = _existing(engine, target, space, classes)
    if not missing_entries(base, space, classes):
        return ResolvedTable(base, True)
    job = TableJob(base, space, engine, classes, target, few, whole)
    complete, note = job.run(message, on_progress, options)
    return ResolvedTable(complete, True, (note,))


def missing(
    space: Space,
    engine: Engine | None = None,
    classes: int = 1000,
    *,
    table: str | Path | None = None,
    folder: Path | None = None,
) -> str:
    """Return a description of what :func:`resolve` would measure first; "" if nothing is missing."""
    target = own_folder() if folder is None else folder
    if table is not None:
        base = LatencyTable.load(table)
        if not _is_here(base, engine):
            return ""  # resolve refuses what is missing there
        engine = base.engine
    else:
        engine = engine or engines.engine()
        base = _existing(engine, target, space, classes)
    if not missing_entries(base, space, classes):
        return ""
    job = TableJob(base, space, engine, classes, target, FEW, WHOLE)
    return job.announcement("would be measured first")


def _is_here(table: LatencyTable, engine: Engine | None) -> bool:
    """Return whether a table is of this machine and its engine; refuse another engine than requested."""
    e = table.engine
    fields = ("name", "threads", "precision", "batch")
    if engine is None:
        try:
            engine = engines.engine(e.name, threads=e.threads, precision=e.precision, batch=e.batch)
        except EngineError:  # not installed, or not on this machine
            return False
    differing = [
        f"{field} {getattr(e, field)}, not {getattr(engine, field)}"
        for field in fields
        if getattr(e, field) != getattr(engine, field)
    ]
    if differing:
        raise SearchError(
            f"table: {table.source} is of {', '.join(differing)} as requested; leave out one of the two"
        )
    return table.of_this_machine() and e == engine


def _notes_on_another(table: LatencyTable, space: Space, classes: int) -> tuple[str, ...]:
    """Return notes on a table of another machine, which must have all entries."""
    missing = table.missing(space, classes)
    if missing:
        command = table.command_for(missing[0], space, classes)
        raise SearchError(
            f"table: {table.source} is of {table.machine_label}, not of this machine and its engine, and "
            f"lacks {len(missing)} of the {len(space.placed_blocks(classes))} entries of {space.name} "
            f"for {classes} classes; measure them there: {command}"
        )
    return (f"latencies are those of {table.machine_label}, not of this machine and its engine",)


def _existing(engine: Engine, folder: Path, space: Space, classes: int) -> LatencyTable:
    """Return the table of this machine and engine that lacks the fewest entries, the folder's own first.

    It is empty if there is none.
    """
    empty = LatencyTable(engines.machine_of(engine.name), engine)
    own = folder / empty.file_name
    files = dict.fromkeys(path.resolve() for path in (own, *of_engine(engine)) if path.is_file())
    tables = [LatencyTable.load(path) for path in files]
    usable = [t for t in tables if t.engine == engine and t.of_this_machine()]
    return min(usable, key=lambda t: len(missing_entries(t, space, classes)), default=empty)
