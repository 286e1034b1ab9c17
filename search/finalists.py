"""Finalists of a search: chosen by latency band, and measured as whole networks, interleaved.

The budget binds the measured latency: a finalist whose interval reaches beyond it makes room for the next of
its band. What is measured is kept in the run's folder at once; a repeated call reads it and goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lcnas import latency, zoo
from lcnas.arch import Arch, walk
from lcnas.errors import shorten
from lcnas.latency import Measurement, TimingPlan, timing
from lcnas.latency.engines import Engine, machine_of
from lcnas.latency.table import LatencyTable, MeasuredNetwork, write_text
from lcnas.latency.timing import Visit
from lcnas.spaces import Space
from search import tables
from search.errors import SearchError
from search.outcome import Timed
from search.trials import Trial

PLAN = TimingPlan(sessions=3, rounds=6, most_rounds=12, target=0.01, visit_ms=8.0)
ROUGH = TimingPlan(
    sessions=1, rounds=2, most_rounds=2, visit_ms=2.0, least_runs=3, warm_up=2, at_once=16
)
SPARE = 20  # networks of a band behind those that have a place
OTHER_PACE = 1.15  # a machine that is so much slower, or faster, than the table's was is another
VERSION = 1
_FORMAT = "lcnas-search-measured"
Visits = Callable[..., list[Visit]]


# -- choosing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queue:
    """A latency band's networks, the best first, and how many of them become finalists."""

    band: int  # from 0, the fastest
    low: float  # predicted ms, of the band
    high: float
    trials: tuple[Trial, ...]
    places: int


def choose(
    trials: Iterable[Trial],
    front: Collection[int],
    low: float,
    high: float,
    *,
    bands: int,
    n: int,
    spare: int = SPARE,
) -> list[Queue]:
    """Return the queues of the latency bands that hold a finished trial, the fastest band first.

    Bands are equal parts of log latency. In a band the front's members come first, then the others, each by
    accuracy (ties: the faster, then the earlier). Places are dealt out one a band in turn, from the slowest
    band on, as long as a band has networks; so an empty band's share goes to the others.

    Args:
        trials: of the search; failed ones are left out, and of several with one network the best is kept.
        front: numbers of the trials that no other one dominates.
        low, high: predicted latencies between which the search looked, ms.
        bands: how many.
        n: finalists in all.
        spare: networks of a band behind those that have a place.

    Raises:
        SearchError: ``bands`` or ``n`` is below 1, or ``low`` and ``high`` are no latencies.
    """
    if bands < 1 or n < 1:
        raise SearchError(f"finalists: {n} in {bands} bands; both have to be at least 1")
    if not 0 < low <= high < float("inf"):
        raise SearchError(f"finalists: {low:g} to {high:g} ms is no range of latencies")
    edges = np.geomspace(low, high, bands + 1)
    members: list[list[Trial]] = [[] for _ in range(bands)]
    for trial in _different(trials):
        band = int(np.searchsorted(edges[1:-1], trial.latency_ms, side="right"))
        members[band].append(trial)
    ordered = [sorted(found, key=lambda t: _rank(t, front)) for found in members]
    places = _places([len(found) for found in ordered], n)
    return [
        Queue(
            band=band,
            low=float(edges[band]),
            high=float(edges[band + 1]),
            trials=tuple(ordered[band][: places[band] + spare]),
            places=places[band],
        )
        for band in range(bands)
        if places[band]
    ]


def _different(trials: Iterable[Trial]) -> list[Trial]:
    """Return the finished trials, of each network the one of highest accuracy."""
    best: dict[str, Trial] = {}
    for trial in trials:
        known = best.get(trial.arch)
        if not trial.failed and (known is None or _rank(trial, ()) < _rank(known, ())):
            best[trial.arch] = trial
    return list(best.values())


def _rank(trial: Trial, front: Collection[int]) -> tuple[bool, float, float, int]:
    accuracy = -float("inf") if trial.accuracy is None else trial.accuracy
    return trial.number not in front, -accuracy, trial.latency_ms, trial.number


def _places(sizes: Sequence[int], n: int) -> list[int]:
    """Return how many places each band gets, dealt out in turn from the last band on."""
    out = [0] * len(sizes)
    left = min(n, sum(sizes))
    while left:
        for band in reversed(range(len(sizes))):
            if left and out[band] < sizes[band]:
                out[band] += 1
                left -= 1
    return out


# -- measuring -------------------------------------------------------------------------------------


class Bench:
    """Measures whole networks in batches, each interleaved, and keeps every batch in a file at once.

    A process that does the same again is given the same batches in the same order, so it decides the same;
    the first batch that is not in the file is measured. Latencies rest on all batches taken so far, each
    visit divided by how slow the machine was then (:func:`lcnas.latency.timing.drift_corrected`).

    Args:
        path: the file, JSON.
        engine: what runs the networks.
        classes: outputs of the last layer.
        plan: how thoroughly a batch is measured.
        rough: the same for a rough batch.
        seed: of the order of visits.
        visits: measures; as :func:`lcnas.latency.visits_of`.
        say: is told before each batch that is measured.

    Raises:
        SearchError: the file is damaged, or of another engine, machine or plan.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        classes: int = 1000,
        *,
        plan: TimingPlan = PLAN,
        rough: TimingPlan = ROUGH,
        seed: int = 0,
        visits: Visits = latency.visits_of,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = path
        self.engine = engine
        self.classes = classes
        self._plans = {False: plan, True: rough}
        self._seed = seed
        self._visits = visits
        self._say = say
        self._names: dict[str, str] = {}
        self._taken: list[_Batch] = []
        self._known: dict[bool, tuple[int, Mapping[Any, Measurement]]] = {}
        self._stored = self._read()

    def measure(self, archs: Iterable[Arch], *, rough: bool = False) -> None:
        """Measure networks interleaved with each other; a rough batch counts for :meth:`rough_ms` alone."""
        wanted = {arch.id: arch for arch in archs}
        if not wanted:
            return
        self._names.update({arch.id: arch.name for arch in wanted.values()})
        number = len(self._taken)
        fits = number < len(self._stored) and self._stored[number].is_of(wanted, rough)
        if not fits:
            del self._stored[number:]
            self._stored.append(self._batch(wanted, rough, number))
        self._taken.append(self._stored[number])
        if not fits:
            self._write()

    def _batch(self, wanted: Mapping[str, Arch], rough: bool, number: int) -> _Batch:
        how = "roughly" if rough else "interleaved"
        count = f"{len(wanted)} network{'s' * (len(wanted) > 1)}"
        self._say(f"measuring {count}, {how}; run nothing else meanwhile")
        seen = self._visits(
            wanted,
            self.engine,
            classes=self.classes,
            plan=self._plans[rough],
            seed=self._seed + number,
            run=number,
        )
        # Rounded here as in the file, so that reading it again gives the same latencies.
        visits = [_rounded(v) for v in seen]
        return _Batch(tuple(wanted), rough, visits)

    # -- what was found --

    def measurement(self, arch: Arch) -> Measurement | None:
        """Return the latency of a network by all batches but rough ones; None: it was not measured."""
        return self._estimates(rough=False).get(arch.id)

    def timed(self, arch: Arch) -> Timed | None:
        """Return the same with its interval alone."""
        found = self.measurement(arch)
        return None if found is None else Timed(found.ms, found.low, found.high)

    def rough_ms(self, arch: Arch) -> float | None:
        """Return the latency of a network by rough batches, ms; None: it was in none."""
        found = self._estimates(rough=True).get(arch.id)
        return None if found is None else found.ms

    def reference_ms(self) -> float | None:
        """Return the median latency of the reference network as it was measured; None: it was not."""
        marks = [v.ms for b in self._taken for v in b.visits if v.key == timing.REFERENCE]
        return float(np.median(marks)) if marks else None

    def _estimates(self, rough: bool) -> Mapping[Any, Measurement]:
        count = len(self._taken)
        if self._known.get(rough, (-1,))[0] != count:
            seen = [v for batch in self._taken if batch.rough == rough for v in batch.visits]
            self._known[rough] = (count, timing.estimates(seen))
        return self._known[rough][1]

    # -- the file --

    def _header(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": VERSION,
            "machine": dataclasses.asdict(machine_of(self.engine.name)),
            "engine": dataclasses.asdict(self.engine),
            "classes": self.classes,
            "plan": dataclasses.asdict(self._plans[False]),
            "rough_plan": dataclasses.asdict(self._plans[True]),
            "seed": self._seed,
        }

    def _write(self) -> None:
        found = self._estimates(rough=False)
        networks = {
            key: {"name": self._names[key], "ms": m.ms, "low": m.low, "high": m.high, "n": m.rounds}
            for key, m in found.items()
            if key in self._names
        }
        batches = [batch.to_data() for batch in self._stored]
        data = {**self._header(), "networks": networks, "batches": batches}
        write_text(self.path, json.dumps(data, separators=(",", ":")) + "\n")

    def _read(self) -> list[_Batch]:
        if not self.path.exists():
            return []
        mend = "remove it to measure anew"
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            there = {key: data[key] for key in self._header()}
            batches = [_Batch.from_data(b, i) for i, b in enumerate(data["batches"])]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = shorten(str(error))
            raise SearchError(f"{self.path}: is no file of measurements ({why}); {mend}") from None
        apart = [key for key, value in self._header().items() if there[key] != value]
        if apart:
            key = apart[0]
            raise SearchError(
                f"{self.path}: was measured with another {key}: {shorten(there[key])}; {mend}"
            )
        return batches


@dataclass(frozen=True)
class _Batch:
    """Networks that were measured interleaved."""

    ids: tuple[str, ...]
    rough: bool
    visits: list[Visit]

    def is_of(self, wanted: Collection[str], rough: bool) -> bool:
        """Return whether it has these networks."""
        return self.rough == rough and set(self.ids) == set(wanted)

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        visits = [[v.key, v.session, v.at, v.ms] for v in self.visits]
        return {"networks": list(self.ids), "rough": self.rough, "visits": visits}

    @classmethod
    def from_data(cls, data: Any, number: int) -> _Batch:
        """Return the batch of plain data."""
        visits = []
        for key, session, at, ms in data["visits"]:
            if not 0 < float(ms) < 1e9:
                raise ValueError(f"{ms} is no time")
            visits.append(Visit(str(key), int(session), float(at), float(ms), number))
        return cls(tuple(map(str, data["networks"])), bool(data["rough"]), visits)


def _rounded(visit: Visit) -> Visit:
    return dataclasses.replace(visit, at=round(visit.at, 4), ms=float(f"{visit.ms:.6g}"))


# -- re-measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finalist:
    """A network of the search that is to be trained from scratch."""

    name: str  # "finalist-1", by latency
    trial: Trial
    arch: Arch
    band: int
    measured: Timed | None = None  # None: on no machine of the table's kind

    @property
    def ms(self) -> float:
        """Its latency, measured or else predicted."""
        return self.trial.latency_ms if self.measured is None else self.measured.ms


class Rivals(Protocol):
    """Says which networks have to be measured beside finalists."""

    def further(self, heads: Sequence[tuple[Arch, float]], bench: Bench) -> list[Arch]:
        """Return the networks that are still to be measured, given finalists and their latencies, ms."""


@dataclass(frozen=True)
class Remeasured:
    """The finalists, and what became of others."""

    finalists: tuple[Finalist, ...]
    notes: tuple[str, ...] = ()
    measured: tuple[Arch, ...] = ()  # all candidates that were measured, replaced ones included


def remeasure(
    queues: Sequence[Queue],
    space: Space,
    max_ms: float,
    bench: Bench | None,
    rivals: Rivals | None = None,
) -> Remeasured:
    """Return the finalists: the heads of the queues whose measured interval lies within the budget.

    Heads are measured interleaved, with their rivals; one whose interval reaches beyond the budget is
    replaced by the next of its queue, until all hold or the queues are empty. Whatever is returned holds by
    all that was measured, rivals' batches included.

    Args:
        queues: by :func:`choose`.
        space: whose codes the trials have.
        max_ms: the budget, of measured latency.
        bench: measures; None: nothing is measured, and the heads are the finalists (another machine's table).
        rivals: networks to measure beside them.
    """
    race = _Race(queues, space)
    if bench is not None:
        while race.heads:
            heads = [(race.arch(t), race.ms(t, bench)) for _, t in race.heads]
            new = [a for a, _ in heads if bench.timed(a) is None]
            new += rivals.further(heads, bench) if rivals is not None else []
            if new:
                bench.measure([*(a for a, _ in heads), *new])
            if not race.replace(bench, max_ms) and not new:
                break
    return race.result(bench, max_ms)


class _Race:
    """Who has a place, and who waits."""

    def __init__(self, queues: Sequence[Queue], space: Space) -> None:
        self.heads = [(q.band, t) for q in queues for t in q.trials[: q.places]]
        self.waiting = {q.band: list(q.trials[q.places :]) for q in queues}
        self.notes: list[str] = []
        trials = [t for q in queues for t in q.trials]
        codes = np.array([t.codes for t in trials], dtype=np.int64)
        decoded = space.decode(codes) if trials else []
        self._archs = {t.number: arch for t, arch in zip(trials, decoded, strict=True)}
        self._seen: dict[int, Arch] = {}  # by number, measured

    def arch(self, trial: Trial) -> Arch:
        return self._archs[trial.number]

    def ms(self, trial: Trial, bench: Bench) -> float:
        found = bench.timed(self.arch(trial))
        return trial.latency_ms if found is None else found.ms

    def replace(self, bench: Bench, max_ms: float) -> bool:
        """Replace the heads that break the budget; returns whether there was one."""
        kept: list[tuple[int, Trial]] = []
        changed = False
        for band, trial in self.heads:
            self._seen[trial.number] = self.arch(trial)
            found = bench.timed(self.arch(trial))
            if found is None or found.high <= max_ms:
                kept.append((band, trial))
                continue
            changed = True
            following = self.waiting[band].pop(0) if self.waiting[band] else None
            self.notes.append(_why(trial, found, max_ms, following, band))
            if following is not None:
                kept.append((band, following))
        self.heads = kept
        return changed

    def result(self, bench: Bench | None, max_ms: float) -> Remeasured:
        """Return the finalists, named by latency."""
        found = [
            Finalist("", t, self.arch(t), band, bench.timed(self.arch(t)) if bench else None)
            for band, t in self.heads
        ]
        found.sort(key=lambda f: (f.band, f.ms, f.trial.number))
        if not found:
            self.notes.append(f"no network was measured within {max_ms:.3f} ms: no finalists")
        named = [dataclasses.replace(f, name=f"finalist-{i}") for i, f in enumerate(found, start=1)]
        return Remeasured(tuple(named), tuple(self.notes), tuple(self._seen.values()))


def _why(trial: Trial, found: Timed, max_ms: float, following: Trial | None, band: int) -> str:
    then = (
        f"no other network of band {band + 1} is left to replace it"
        if following is None
        else f"replaced by trial {following.number}"
    )
    return (
        f"trial {trial.number} (predicted {trial.latency_ms:.3f} ms) was measured at {found.ms:.3f} ms, "
        f"90 % interval {found.low:.3f} to {found.high:.3f}, beyond the budget of {max_ms:.3f} ms; {then}"
    )


# -- what the measurements tell of the table -------------------------------------------------------


def of_its_pace(found: float | None) -> bool:
    """Return whether a machine's pace is about that of its table; an unknown one counts as such."""
    return found is None or 1 / OTHER_PACE < found < OTHER_PACE


def pace(bench: Bench, table: LatencyTable) -> float | None:
    """Return how slow the machine was against the table, by the reference network; 1.1: 10 % slower.

    None: the reference was not measured, or the table cannot predict it.
    """
    arch = zoo.load(latency.REFERENCE)
    known = tables.predicted(table, [arch]).get(arch.id)
    found = bench.reference_ms()
    return None if known is None or found is None else found / known


def learnt(
    table: LatencyTable, bench: Bench, archs: Iterable[Arch], space: Space
) -> list[MeasuredNetwork]:
    """Return measured networks as those that a table may be fitted to (:func:`search.tables.learn`).

    Networks of which the table lacks a row, or that it holds out, are left out. So are all, if the machine
    ran at quite another pace than when the table was made: their latencies would not be the table's.

    Args:
        table: of this machine.
        bench: that measured.
        archs: the networks, such as :attr:`Remeasured.measured`.
        space: under whose name their errors count.
    """
    if not of_its_pace(pace(bench, table)):
        return []
    held = {n.placed for n in table.networks if n.role != "calibration"}
    new: dict[Any, MeasuredNetwork] = {}
    for arch in archs:
        rows, found = tuple(walk(arch, None, bench.classes)), bench.measurement(arch)
        if found is not None and rows not in held and all(p in table.entries for p in rows):
            new[rows] = MeasuredNetwork(
                rows, "calibration", space.name, found.ms, found.low, found.high
            )
    return list(new.values())
