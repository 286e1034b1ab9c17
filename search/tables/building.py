"""Building and extending the latency table of a search: what it lacks is measured on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcnas import paths
from lcnas.arch import PlacedBlock, walk
from lcnas.latency import fitting, profile
from lcnas.latency.engines import Engine
from lcnas.latency.profile import Builder, ProfileSettings, ProfileStep
from lcnas.latency.table import LatencyTable, MeasuredNetwork, update
from lcnas.spaces import Space
from search.errors import SearchError
from search.tables.limits import published_scales

# Share of a space's entries, heads apart, up to which a table is extended with few networks; beyond it is
# profiled anew.
FEW_SHARE = 0.2
# Seconds on one core of a 2-core AMD EPYC, from profiles with the engine openvino; only for the estimate.
_ENTRY_S, _NETWORK_S = 0.30, 0.45


@dataclass(frozen=True)
class Amount:
    """Numbers of whole networks to measure in addition to the entries."""

    validate: int  # held out, measured twice
    uniform: int  # held out, drawn over the whole space, measured twice
    calibrate: int  # to fit, at most
    seconds: float  # time limit of networks to fit

    @property
    def networks(self) -> int:
        """Maximum number of whole networks."""
        return self.validate + self.uniform + self.calibrate


WHOLE = Amount(validate=40, uniform=20, calibrate=240, seconds=270.0)  # like lcnas.profile_blocks
FEW = Amount(validate=12, uniform=0, calibrate=24, seconds=30.0)


def own_folder() -> Path:
    """Return the folder of your own tables: ``./latency_tables``, but never the packaged ones.

    In a checkout these two are the same; there it is ``./runs/latency_tables``, which git ignores.
    """
    default = Path("latency_tables")
    return Path("runs") / default if is_packaged(default) else default


def is_packaged(folder: Path) -> bool:
    """Return whether a folder is that of the packaged tables."""
    packaged = paths.spaces_dir().parent / "latency_tables"
    return folder.resolve() == packaged.resolve()


def missing_entries(table: LatencyTable, space: Space, classes: int) -> list[PlacedBlock]:
    """Return the placed blocks that a table lacks, of a space and of its limiting networks."""
    needed = dict.fromkeys(space.placed_blocks(classes))
    for arch in profile.span(space):
        needed.update(dict.fromkeys(walk(arch, None, classes)))
    return [p for p in needed if p not in table.entries]


@dataclass(frozen=True)
class TableJob:
    """Entries to measure on this machine."""

    base: LatencyTable  # the existing table, perhaps empty
    space: Space
    engine: Engine
    classes: int
    folder: Path
    few: Amount
    whole: Amount

    @property
    def missing(self) -> list[PlacedBlock]:
        """The placed blocks of the space that the table lacks."""
        return self.base.missing(self.space, self.classes)

    @property
    def is_small(self) -> bool:
        """Whether the table only needs an extension: heads, or few other entries."""
        n = len(self.space.placed_blocks(self.classes))
        others = [p for p in self.missing if not p.depends_on_classes]
        return bool(self.base.networks) and len(others) <= FEW_SHARE * n

    @property
    def amount(self) -> Amount:
        """Numbers of networks to measure."""
        return self.few if self.is_small else self.whole

    @property
    def settings(self) -> ProfileSettings:
        """Settings of the profile."""
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

    def run(
        self,
        message: Callable[[str], None],
        on_progress: Callable[[ProfileStep], None] | None,
        options: dict[str, Any],
    ) -> tuple[LatencyTable, str]:
        """Measure, fit and write; return the finished table, and a note."""
        if is_packaged(self.folder):
            raise SearchError(
                f"folder: {self.folder} holds the packaged tables, which are never written; give another"
            )
        # An extension starts from the packaged table; a whole profile does not, since the fit takes longer
        # the more networks there are.
        if self.is_small and Path(self.base.source).resolve() != self._path.resolve():
            _copy_into(self.base, self.folder)
        message(self.announcement())
        path = self._build(on_progress, options)
        table = LatencyTable.load(path)
        lacking = len(missing_entries(self.base, self.space, self.classes))
        return table, (
            f"{lacking} entries of {self.space.name} for {self.classes} classes were measured first, into "
            f"{path}"
        )

    @property
    def _path(self) -> Path:
        return self.folder / self.base.file_name

    def announcement(self, when: str = "are measured now") -> str:
        """Return what is to be measured, and about how long it takes."""
        minutes = self.seconds() / 60
        duration = f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"
        nets = min(self.amount.networks, self.space.size)
        more = f" and up to {nets} whole network{'s' * (nets > 1)}" if self.missing else ""
        lacking = len(missing_entries(self.base, self.space, self.classes))
        state = "lacks" if self.base.entries else "does not exist yet and needs"
        return (
            f"the latency table of this machine and engine {state} {lacking} entries for "
            f"{self.space.name} and {self.classes} classes: they{more} {when}, about {duration}. "
            "Run nothing else meanwhile; after Ctrl-C the same command resumes"
        )

    def seconds(self) -> float:
        """Return an estimate of the duration."""
        entries = _ENTRY_S * len(missing_entries(self.base, self.space, self.classes))
        a, size = self.amount, self.space.size
        held = 2 * min(a.validate + a.uniform, size) * _NETWORK_S
        fitted = min(min(a.calibrate, size) * _NETWORK_S, max(0.0, a.seconds - entries - held))
        return entries + (held + fitted if self.missing else 0.0)

    def _build(
        self, on_progress: Callable[[ProfileStep], None] | None, options: dict[str, Any]
    ) -> Path:
        from lcnas.profile_blocks import ProfileProgress

        job = _Extender(self.settings, self.engine, self.folder, **options)
        try:
            if on_progress is not None:
                job.on_progress = on_progress
                return job.run()
            with ProfileProgress() as progress:
                job.on_progress = progress
                return job.run()
        finally:
            job.journal.close()  # after Ctrl-C the same process may resume


class _Extender(Builder):
    """A builder that keeps the prior widths of a table that was fitted to more networks."""

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


def _copy_into(base: LatencyTable, folder: Path) -> None:
    """Add a table's entries and networks to the table of a folder."""

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
            table.method = dict(base.method)  # the widths that rest on more networks
        table.networks += networks
        fitting.refit(table, keep_widths=True)

    update(folder, LatencyTable(base.machine, base.engine), change)


def join(table: LatencyTable, networks: Sequence[MeasuredNetwork]) -> None:
    """Add networks to a table and refit it, with its own prior widths if they rest on more networks."""
    before, new = _fitted(table.networks), _fitted(networks)
    replaced = {n.placed for n in networks}
    table.networks = [n for n in table.networks if n.placed not in replaced] + list(networks)
    fitting.refit(table, keep_widths=before > new)


def learn(
    table: LatencyTable, networks: Sequence[MeasuredNetwork], folder: Path | None = None
) -> Path | None:
    """Add measured networks to the table that :func:`search.tables.resolve` returns from now on.

    The given table does not change, nor does the packaged one: its contents are copied to the folder first.

    Args:
        table: the table of the networks' search, of this machine.
        networks: as of :func:`search.finals.measurement.for_table`; the new latency of a known one counts.
        folder: folder of the table; None: :func:`own_folder`.

    Returns:
        The file; None if there was nothing to add, or nothing new.

    Raises:
        TableError: the folder's table is of another engine or machine, or cannot be written.
    """
    folder = own_folder() if folder is None else folder
    own = folder / table.file_name
    known = {n.placed: n.ms for n in LatencyTable.load(own).networks} if own.is_file() else {}
    # A file keeps five digits of a latency.
    if all(math.isclose(known.get(n.placed, 0.0), n.ms, rel_tol=1e-4) for n in networks):
        return None
    _copy_into(table, folder)
    return update(
        folder,
        LatencyTable(table.machine, table.engine),
        lambda current: join(current, networks),
    )


def _fitted(networks: Sequence[MeasuredNetwork]) -> int:
    return sum(n.role == "calibration" for n in networks)
