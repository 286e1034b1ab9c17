"""Which latency table a search goes by, and what it says of a space; what it lacks is measured first.

A table of this machine is extended where it lacks rows, visibly: a few rows (the head's for another number
of classes) with a few whole networks as a check, all rows (another space or resolution) with a whole profile.
The packaged table is never written; what is measured goes to ``./latency_tables`` or a folder of one's own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcnas import latency, paths, zoo
from lcnas.arch import Arch, PlacedBlock, walk
from lcnas.errors import EngineError, TableError
from lcnas.latency import engines, fitting, profile
from lcnas.latency.engines import Engine
from lcnas.latency.profile import Builder, ProfileSettings, ProfileStep
from lcnas.latency.table import LatencyTable, MeasuredNetwork, of_engine, update
from lcnas.spaces import Space
from lcnas.zoo import pplcnet
from search.errors import SearchError

Floats = NDArray[np.float64]
FEW_SHARE = (
    0.2  # of a space's rows, heads apart: so many are added with few networks, more by a profile
)
OWN_NETWORKS = 40  # of a space's size, from which on its own errors make the margin
# Seconds on one core of a 2-core AMD EPYC, from profiles with the engine openvino; only for the estimate.
_ROW_S, _NETWORK_S = 0.30, 0.45


@dataclass(frozen=True)
class Amount:
    """How many whole networks are measured beside the rows."""

    validate: int  # held out, measured twice
    uniform: int  # held out, drawn over the whole space, measured twice
    calibrate: int  # to fit, at most
    seconds: float  # after which no more networks to fit are begun

    @property
    def networks(self) -> int:
        """Whole networks, at most."""
        return self.validate + self.uniform + self.calibrate


WHOLE = Amount(validate=40, uniform=20, calibrate=240, seconds=270.0)  # as lcnas.profile_blocks
FEW = Amount(validate=12, uniform=0, calibrate=24, seconds=30.0)


@dataclass(frozen=True)
class Found:
    """A table that has all rows of a space."""

    table: LatencyTable
    here: bool  # whether it is of this machine and of the very engine that is here
    notes: tuple[str, ...] = ()  # what a reader of the results has to know


class Span(NamedTuple):
    """Latencies between which a search looks where nothing is said, ms."""

    low: float
    high: float
    note: str = ""  # where they are not those of PP-LCNet 0.25x and 1.0x


def say_plainly(text: str) -> None:
    """Print a line to the standard error."""
    print(text, file=sys.stderr, flush=True)


def find(
    space: Space,
    engine: Engine | None = None,
    classes: int = 1000,
    *,
    table: str | Path | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = say_plainly,
    told: Callable[[ProfileStep], None] | None = None,
    few: Amount = FEW,
    whole: Amount = WHOLE,
    **options: Any,
) -> Found:
    """Return the table of a search; rows that it lacks are measured first, on the table's own machine.

    Args:
        space: all of whose rows are needed.
        engine: that the latencies are of; None: the table's, or this machine's default.
        classes: outputs of the last layer.
        table: name or file; None: that of this machine and engine, in ``folder`` or where tables are.
        folder: where an extended table is written, and looked up first; None: :func:`own_folder`.
        say: is told what is measured, why, and about how long it takes.
        told: is told the progress; None: a bar on the terminal.
        few, whole: networks measured beside a few rows, or all of them.
        options: of :class:`lcnas.latency.profile.Builder`.

    Raises:
        SearchError: the table is of another engine than was asked for, or of another machine and lacks rows
            (names the command that would measure them there).
        TableError: there is no such table, it cannot be read, or it cannot be written.
    """
    target = own_folder() if folder is None else folder
    if table is not None:
        base = LatencyTable.load(table)
        here = _is_here(base, engine)
        engine = base.engine
        if not here:
            return Found(base, False, _of_another(base, space, classes))
    else:
        engine = engine or engines.engine()
        known = _default(engine, target, space, classes)
        if known is None:
            base = LatencyTable(engines.machine_of(engine.name), engine)
        else:
            base = known
    if not _lacking(base, space, classes):
        return Found(base, True)
    job = _Job(base, space, engine, classes, target, few, whole)
    return job.done(say, told, options)


def missing(
    space: Space,
    engine: Engine | None = None,
    classes: int = 1000,
    *,
    table: str | Path | None = None,
    folder: Path | None = None,
) -> str:
    """Return in words what :func:`find` would measure first; "" where nothing is missing."""
    target = own_folder() if folder is None else folder
    if table is not None:
        base = LatencyTable.load(table)
        if not _is_here(base, engine):
            return ""  # find refuses what is missing there
        engine = base.engine
    else:
        engine = engine or engines.engine()
        base = _default(engine, target, space, classes) or LatencyTable(
            engines.machine_of(engine.name), engine
        )
    if not _lacking(base, space, classes):
        return ""
    return _Job(base, space, engine, classes, target, FEW, WHOLE).beforehand(
        "would be measured first"
    )


def own_folder() -> Path:
    """Return where tables of one's own are written: ``./latency_tables``, but never the packaged ones.

    In a checkout these two are the same; there it is ``./runs/latency_tables``, which git ignores.
    """
    usual = Path("latency_tables")
    return Path("runs") / usual if _is_packaged(usual) else usual


def _is_packaged(folder: Path) -> bool:
    packaged = paths.spaces_dir().parent / "latency_tables"
    return folder.resolve() == packaged.resolve()


def _is_here(table: LatencyTable, engine: Engine | None) -> bool:
    """Return whether a table is of this machine and of the engine that is here; refuse another engine."""
    e = table.engine
    asked = ("name", "threads", "precision", "batch")
    if engine is None:
        try:
            engine = engines.engine(e.name, threads=e.threads, precision=e.precision, batch=e.batch)
        except EngineError:  # not installed, or not on this machine
            return False
    apart = [f"{k} {getattr(e, k)}, not {getattr(engine, k)}" for k in asked
             if getattr(e, k) != getattr(engine, k)]  # fmt: skip
    if apart:
        raise SearchError(
            f"table: {table.source} is of {', '.join(apart)} as asked for; leave one of the two out"
        )
    return table.of_this_machine() and e == engine


def _of_another(table: LatencyTable, space: Space, classes: int) -> tuple[str, ...]:
    """Return what to say of a table of another machine, which has to have all rows already."""
    missing = table.missing(space, classes)
    if missing:
        command = table.command_for(missing[0], space, classes)
        raise SearchError(
            f"table: {table.source} is of {table.machine_label}, not of this machine and its engine, and "
            f"lacks {len(missing)} of the {len(space.placed_blocks(classes))} entries of {space.name} "
            f"for {classes} classes; measure them there: {command}"
        )
    return (f"latencies are those of {table.machine_label}, not of this machine and its engine",)


def _default(engine: Engine, folder: Path, space: Space, classes: int) -> LatencyTable | None:
    """Return the table of this machine and engine that lacks the fewest rows, the folder's own first."""
    own = folder / LatencyTable(engines.machine_of(engine.name), engine).file_name
    files = dict.fromkeys(path.resolve() for path in (own, *of_engine(engine)) if path.is_file())
    tables = [LatencyTable.load(path) for path in files]
    usable = [t for t in tables if t.engine == engine and t.of_this_machine()]
    return min(usable, key=lambda t: len(_lacking(t, space, classes)), default=None)


def _lacking(table: LatencyTable, space: Space, classes: int) -> list[PlacedBlock]:
    """Return the rows that a table lacks, of a space and of the networks that bound its latencies."""
    wanted = dict.fromkeys(space.placed_blocks(classes))
    for arch in profile.span(space):
        wanted.update(dict.fromkeys(walk(arch, None, classes)))
    return [p for p in wanted if p not in table.entries]


# -- measuring what is missing ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """Rows to be measured on this machine."""

    base: LatencyTable  # what is there already; may be empty
    space: Space
    engine: Engine
    classes: int
    folder: Path
    few: Amount
    whole: Amount

    @property
    def missing(self) -> list[PlacedBlock]:
        """The space's rows that are not there."""
        return self.base.missing(self.space, self.classes)

    @property
    def is_small(self) -> bool:
        """Whether the table only has to be extended: by heads, or few rows of another kind."""
        rows = len(self.space.placed_blocks(self.classes))
        others = [p for p in self.missing if not p.depends_on_classes]
        return bool(self.base.networks) and len(others) <= FEW_SHARE * rows

    @property
    def amount(self) -> Amount:
        """How many networks are measured beside the rows."""
        return self.few if self.is_small else self.whole

    @property
    def settings(self) -> ProfileSettings:
        """What is measured."""
        amount = self.amount
        return ProfileSettings(
            spaces=(self.space,) if self.missing else (),
            archs=tuple(published_scales(self.space)),
            classes=self.classes,
            validate=amount.validate,
            uniform=amount.uniform,
            calibrate=amount.calibrate,
            time_budget=amount.seconds,
        )

    def done(
        self,
        say: Callable[[str], None],
        told: Callable[[ProfileStep], None] | None,
        options: dict[str, Any],
    ) -> Found:
        """Measure, fit and write; return the finished table."""
        if _is_packaged(self.folder):
            raise SearchError(
                f"folder: {self.folder} holds the packaged tables, which are not written; give another"
            )
        # From the packaged table a few rows are added to; a whole profile stands on its own, for the fit
        # takes the longer the more networks there are.
        if self.is_small and Path(self.base.source).resolve() != self._path.resolve():
            _seed(self.base, self.folder)
        say(self.beforehand())
        path = self._built(told, options)
        table = LatencyTable.load(path)
        return Found(table, True, (f"{self._what()} measured first, into {path}",))

    @property
    def _path(self) -> Path:
        return self.folder / self.base.file_name

    def _what(self) -> str:
        lacking = len(_lacking(self.base, self.space, self.classes))
        return f"{lacking} rows of {self.space.name} for {self.classes} classes were"

    def beforehand(self, when: str = "are measured now") -> str:
        """Return what is about to be measured, and about how long it takes."""
        minutes = self.seconds() / 60
        about = f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"
        nets = min(self.amount.networks, self.space.size)
        more = f" and up to {nets} whole network{'s' * (nets > 1)}" if self.missing else ""
        lacking = len(_lacking(self.base, self.space, self.classes))
        state = "lacks" if self.base.entries else "does not exist yet and needs"
        return (
            f"the latency table of this machine and engine {state} {lacking} rows for {self.space.name} and "
            f"{self.classes} classes: they{more} {when}, about {about}. "
            "Run nothing else meanwhile; after Ctrl-C the same command goes on"
        )

    def seconds(self) -> float:
        """Return about how long it takes."""
        rows = _ROW_S * len(_lacking(self.base, self.space, self.classes))
        a, size = self.amount, self.space.size
        held = 2 * min(a.validate + a.uniform, size) * _NETWORK_S
        fitted = min(min(a.calibrate, size) * _NETWORK_S, max(0.0, a.seconds - rows - held))
        return rows + (held + fitted if self.missing else 0.0)

    def _built(self, told: Callable[[ProfileStep], None] | None, options: dict[str, Any]) -> Path:
        from lcnas.profile_blocks import ProfileProgress

        job = _Extender(self.settings, self.engine, self.folder, **options)
        try:
            if told is not None:
                job.on_progress = told
                return job.run()
            with ProfileProgress() as progress:
                job.on_progress = progress
                return job.run()
        finally:
            job.journal.close()  # after Ctrl-C the same process may go on


class _Extender(Builder):
    """A builder that keeps the prior widths of a table that has been fitted to more networks before."""

    def finish(self) -> Path:
        """Fit, validate, and put everything into the table under its lock."""
        entries, networks = self._measured_entries(), self._measured_networks()
        overhead = self._overhead()

        def change(table: LatencyTable) -> None:
            profile.check_same_machine(table, self.fresh)
            for placed, entry in entries.items():
                table.entries.setdefault(placed, entry)
            table.overhead_ms = overhead
            join(table, networks)

        path = update(self.folder, self.fresh, change)
        self.journal.remove()
        return path


def _seed(base: LatencyTable, folder: Path) -> None:
    """Put what a table knows into that of a folder."""

    def change(table: LatencyTable) -> None:
        profile.check_same_machine(table, base)
        if not table.entries:
            for name in (
                "entries",
                "networks",
                "base",
                "overhead_ms",
                "method",
                "errors",
                "residuals",
            ):
                setattr(table, name, getattr(base, name))
            return
        known = {n.placed for n in table.networks}
        networks = [n for n in base.networks if n.placed not in known]
        if not networks and base.entries.keys() <= table.entries.keys():
            return
        for placed, entry in base.entries.items():
            table.entries.setdefault(placed, entry)
        if _fitted(base.networks) > _fitted(table.networks):
            table.method = dict(base.method)  # the widths that rest on more
        table.networks += networks
        fitting.refit(table, keep_widths=True)

    update(folder, LatencyTable(base.machine, base.engine), change)


def join(table: LatencyTable, networks: Sequence[MeasuredNetwork]) -> None:
    """Add networks to a table and fit it anew, with its own prior widths if they rest on more than is new."""
    before, new = _fitted(table.networks), _fitted(networks)
    seen = {n.placed for n in networks}
    table.networks = [n for n in table.networks if n.placed not in seen] + list(networks)
    fitting.refit(table, keep_widths=before > new)


def learn(
    table: LatencyTable, networks: Sequence[MeasuredNetwork], folder: Path | None = None
) -> Path | None:
    """Add measured networks to the table that :func:`find` will return from now on.

    The given table stays as it is, and so does the packaged one: what it knows goes into the folder's first.

    Args:
        table: of this machine, that the networks' search went by.
        networks: as of :func:`search.finalists.learnt`; one measured before counts with its new latency.
        folder: where the table is written; None: :func:`own_folder`.

    Returns:
        The file; None if there was nothing to add, or all of it was there already.

    Raises:
        TableError: the folder's table is of another engine or machine, or cannot be written.
    """
    folder = own_folder() if folder is None else folder
    own = folder / table.file_name
    known = {n.placed: n.ms for n in LatencyTable.load(own).networks} if own.is_file() else {}
    # A file keeps five digits of a latency.
    if all(math.isclose(known.get(n.placed, 0.0), n.ms, rel_tol=1e-4) for n in networks):
        return None
    _seed(table, folder)
    return update(
        folder,
        LatencyTable(table.machine, table.engine),
        lambda found: join(found, networks),
    )


def _fitted(networks: Sequence[MeasuredNetwork]) -> int:
    return sum(n.role == "calibration" for n in networks)


# -- what a table says of a space ------------------------------------------------------------------


def family(space: Space) -> str:
    """Return the zoo's family of PP-LCNet in the strides of a space: "pplcnet" or "pplcnet_32"."""
    return profile.span(space)[0].name.rpartition("_")[0]


def published_scales(space: Space) -> list[Arch]:
    """Return PP-LCNet at its 8 published scales, in the strides and at the resolution of a space."""
    name, size = family(space), space.resolutions[0]
    return [zoo.load(f"{name}_{scale}x", size) for scale in pplcnet.SCALES]


def predicted(table: LatencyTable, archs: Iterable[Arch], classes: int = 1000) -> dict[str, float]:
    """Return the predicted latency, ms, by id, of those networks of which a table has all rows."""
    out = {}
    for arch in archs:
        entries = [table.entries.get(p) for p in walk(arch, None, classes)]
        if all(entry is not None and entry.term is not None for entry in entries):
            out[arch.id] = float(table.predict(arch, classes)[0])
    return out


def span(space: Space, table: LatencyTable, classes: int = 1000) -> Span:
    """Return the latencies of PP-LCNet 0.25x and 1.0x by a table, ms, in the strides of a space.

    Where the table lacks rows of one of them: those of the smallest and the largest published scale that it
    can predict; where there are no two, the lowest and the highest latency of the space. The note says so.

    Raises:
        TableError: the table lacks a row of the space.
    """
    ends = profile.span(space)
    known = predicted(table, ends, classes)
    if len(known) == len(ends):
        return _reaching(Span(known[ends[0].id], known[ends[1].id]), space, table, classes)
    lacks = f"the table lacks rows of {' or '.join(a.name for a in ends if a.id not in known)}"
    archs = [a for a in published_scales(space) if predicted(table, [a], classes)]
    if len(archs) > 1:
        low, high = (float(table.predict(a, classes)[0]) for a in (archs[0], archs[-1]))
        return Span(
            low, high, f"{lacks}; latencies are those of {archs[0].name} to {archs[-1].name}"
        )
    budget = latency.Budget(space, table, float("inf"), classes=classes)
    low, high = (float(table.predict(a, classes)[0]) for a in (budget.fastest(), budget.slowest()))
    return Span(
        low, high, f"{lacks}; latencies are those of the space's fastest and slowest network"
    )


def _reaching(found: Span, space: Space, table: LatencyTable, classes: int) -> Span:
    """Return a span that begins with the space's fastest network where all of the space lies below it."""
    budget = latency.Budget(space, table, float("inf"), classes=classes)
    if budget.highest / 1000 >= found.low:
        return found
    note = f"all of {space.name} is faster than PP-LCNet {profile.SPAN[0]}: nothing is too fast"
    return Span(budget.lowest / 1000, found.high, note)


def margin(table: LatencyTable, level: float = 0.9, space: Space | None = None) -> float:
    """Return by how much, relative, networks are measured above their prediction at most, at that level.

    One-sided conformal, over networks that the fit had not seen, as in :meth:`LatencyTable.bounds`; never
    below 0. A search that keeps predictions to ``max_ms / (1 + margin)`` keeps that share of its networks
    within ``max_ms``.

    Args:
        table: whose errors.
        level: share of networks.
        space: only networks of its image sizes count, if the table has :data:`OWN_NETWORKS` of them; None:
            all of the table's.

    Raises:
        TableError: the level is not between 0 and 1, or the table was not validated.
    """
    if not 0 < level < 1:
        raise TableError(f"level: {level!r} is not between 0 and 1")
    off = [] if space is None else _residuals(table, space)
    if len(off) < OWN_NETWORKS:
        off = list(table.residuals)
    if not off:
        raise TableError(
            f"{table.source or table.file_name}: was not validated, so nobody knows by how much it is wrong; "
            "measure whole networks as well (lcnas.profile_blocks --validate)"
        )
    rank = math.ceil((len(off) + 1) * level - 1e-9)  # the conformal one, kept inside the sample
    return max(0.0, sorted(off)[min(len(off), rank) - 1])


def _residuals(table: LatencyTable, space: Space) -> list[float]:
    """Return measured / predicted - 1 of a table's networks of a space's sizes, none seen by its fit."""
    sizes = {size if isinstance(size, tuple) else (size, size) for size in space.resolutions}
    return [
        n.ms / n.predicted_ms - 1
        for n in table.networks
        if n.predicted_ms is not None and n.placed[0].in_shape[:2] in sizes
    ]
