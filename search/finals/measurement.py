"""Measured latencies of finalists and baselines as whole networks, interleaved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from search.outcome import MeasuredLatency

PLAN = TimingPlan(sessions=3, rounds=6, most_rounds=12, target=0.01, visit_ms=8.0)
ROUGH_PLAN = TimingPlan(
    sessions=1, rounds=2, most_rounds=2, visit_ms=2.0, least_runs=3, warm_up=2, at_once=16
)
OTHER_PACE = 1.15  # a machine that is this much slower, or faster, counts as another one
VERSION = 1
_FORMAT = "lcnas-search-measured"
MeasureVisits = Callable[..., list[Visit]]


class FinalMeasurements:
    """Measures whole networks in interleaved batches, and writes each batch to a file at once.

    A process that repeats the calls gets the same batches in the same order, so that it makes the same
    decisions; the first batch that is not in the file is measured. Latencies rest on all batches so far, with
    each visit divided by how slow the machine was then (:func:`lcnas.latency.timing.drift_corrected`).

    Args:
        path: the file, JSON.
        engine: runs the networks.
        classes: outputs of the last layer.
        plan: timing plan of a batch.
        rough_plan: timing plan of a rough batch.
        seed: seed of the order of visits.
        measure_visits: measures; as :func:`lcnas.latency.visits_of`.
        message: called with a line before each measured batch.

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
        rough_plan: TimingPlan = ROUGH_PLAN,
        seed: int = 0,
        measure_visits: MeasureVisits = latency.visits_of,
        message: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = path
        self.engine = engine
        self.classes = classes
        self._plans = {False: plan, True: rough_plan}
        self._seed = seed
        self._measure_visits = measure_visits
        self._message = message
        self._names: dict[str, str] = {}
        self._batches: list[_Batch] = []  # of this process, measured or read
        self._cached: dict[bool, tuple[int, Mapping[Any, Measurement]]] = {}
        self._stored = self._read()

    def measure(self, archs: Iterable[Arch], *, rough: bool = False) -> None:
        """Measure networks interleaved with each other; a rough batch only counts for :meth:`rough_ms`."""
        networks = {arch.id: arch for arch in archs}
        if not networks:
            return
        self._names.update({arch.id: arch.name for arch in networks.values()})
        number = len(self._batches)
        is_stored = number < len(self._stored) and self._stored[number].is_of(networks, rough)
        if not is_stored:
            del self._stored[number:]
            self._stored.append(self._measured_batch(networks, rough, number))
        self._batches.append(self._stored[number])
        if not is_stored:
            self._write()

    def _measured_batch(self, networks: Mapping[str, Arch], rough: bool, number: int) -> _Batch:
        how = "roughly" if rough else "interleaved"
        count = f"{len(networks)} network{'s' * (len(networks) > 1)}"
        self._message(f"measuring {count}, {how}; run nothing else meanwhile")
        visits = self._measure_visits(
            networks,
            self.engine,
            classes=self.classes,
            plan=self._plans[rough],
            seed=self._seed + number,
            run=number,
        )
        # Rounded as in the file, so that a resumed process has the same latencies.
        return _Batch(tuple(networks), rough, [_rounded(v) for v in visits])

    # -- results --

    def measurement(self, arch: Arch) -> Measurement | None:
        """Return the latency of a network over all batches but rough ones; None: not measured."""
        return self._estimates(rough=False).get(arch.id)

    def latency(self, arch: Arch) -> MeasuredLatency | None:
        """Return the same, reduced to value and interval."""
        measurement = self.measurement(arch)
        if measurement is None:
            return None
        return MeasuredLatency(measurement.ms, measurement.low, measurement.high)

    def ms(self, arch: Arch) -> float | None:
        """Return the same, reduced to its value, ms."""
        measurement = self.measurement(arch)
        return None if measurement is None else measurement.ms

    def rough_ms(self, arch: Arch) -> float | None:
        """Return the latency of a network over rough batches, ms; None: in none of them."""
        measurement = self._estimates(rough=True).get(arch.id)
        return None if measurement is None else measurement.ms

    def reference_ms(self) -> float | None:
        """Return the median latency of the reference network, ms; None: not measured."""
        times = [v.ms for b in self._batches for v in b.visits if v.key == timing.REFERENCE]
        return float(np.median(times)) if times else None

    def _estimates(self, rough: bool) -> Mapping[Any, Measurement]:
        count = len(self._batches)
        if self._cached.get(rough, (-1,))[0] != count:
            visits = [v for batch in self._batches if batch.rough == rough for v in batch.visits]
            self._cached[rough] = (count, timing.estimates(visits))
        return self._cached[rough][1]

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
        estimates = self._estimates(rough=False)
        networks = {
            key: {"name": self._names[key], "ms": m.ms, "low": m.low, "high": m.high, "n": m.rounds}
            for key, m in estimates.items()
            if key in self._names
        }
        batches = [batch.to_data() for batch in self._stored]
        data = {**self._header(), "networks": networks, "batches": batches}
        write_text(self.path, json.dumps(data, separators=(",", ":")) + "\n")

    def _read(self) -> list[_Batch]:
        if not self.path.exists():
            return []
        remedy = "remove it to measure anew"
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            header = {key: data[key] for key in self._header()}
            batches = [_Batch.from_data(b, i) for i, b in enumerate(data["batches"])]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = shorten(str(error))
            raise SearchError(
                f"{self.path}: not a file of measurements ({why}); {remedy}"
            ) from None
        differing = [key for key, value in self._header().items() if header[key] != value]
        if differing:
            key = differing[0]
            raise SearchError(
                f"{self.path}: was measured with another {key}: {shorten(header[key])}; {remedy}"
            )
        return batches


@dataclass(frozen=True)
class _Batch:
    """Networks that were measured interleaved."""

    ids: tuple[str, ...]
    rough: bool
    visits: list[Visit]

    def is_of(self, ids: Collection[str], rough: bool) -> bool:
        """Return whether it has these networks."""
        return self.rough == rough and set(self.ids) == set(ids)

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        visits = [[v.key, v.session, v.at, v.ms] for v in self.visits]
        return {"networks": list(self.ids), "rough": self.rough, "visits": visits}

    @classmethod
    def from_data(cls, data: Any, number: int) -> _Batch:
        """Return the batch of JSON data."""
        visits = []
        for key, session, at, ms in data["visits"]:
            if not 0 < float(ms) < 1e9:
                raise ValueError(f"{ms} is not a time")
            visits.append(Visit(str(key), int(session), float(at), float(ms), number))
        return cls(tuple(map(str, data["networks"])), bool(data["rough"]), visits)


def _rounded(visit: Visit) -> Visit:
    return dataclasses.replace(visit, at=round(visit.at, 4), ms=float(f"{visit.ms:.6g}"))


# -- measurements and the table --------------------------------------------------------------------


def has_table_pace(pace: float | None) -> bool:
    """Return whether a machine's pace is about that of its table; an unknown one counts as such."""
    return pace is None or 1 / OTHER_PACE < pace < OTHER_PACE


def pace_of(measurements: FinalMeasurements, table: LatencyTable) -> float | None:
    """Return how slow the machine was relative to the table, by the reference network; 1.1: 10 % slower.

    None: the reference was not measured, or the table cannot predict it.
    """
    arch = zoo.load(latency.REFERENCE)
    predicted = tables.predicted(table, [arch]).get(arch.id)
    measured = measurements.reference_ms()
    return None if predicted is None or measured is None else measured / predicted


def for_table(
    table: LatencyTable, measurements: FinalMeasurements, archs: Iterable[Arch], space: Space
) -> list[MeasuredNetwork]:
    """Return measured networks as those that a table may be fitted to (:func:`search.tables.learn`).

    Networks of which the table lacks an entry, or that it holds out, are left out. So are all networks if the
    machine ran at another pace than when the table was built: their latencies would not be the table's.

    Args:
        table: the table, of this machine.
        measurements: the measurements.
        archs: the networks, such as :attr:`search.finals.selection.SelectedFinalists.measured`.
        space: the space that their errors are counted for.
    """
    if not has_table_pace(pace_of(measurements, table)):
        return []
    held_out = {n.placed for n in table.networks if n.role != "calibration"}
    networks: dict[Any, MeasuredNetwork] = {}
    for arch in archs:
        placed = tuple(walk(arch, None, measurements.classes))
        m = measurements.measurement(arch)
        if m is None or placed in held_out or any(p not in table.entries for p in placed):
            continue
        networks[placed] = MeasuredNetwork(placed, "calibration", space.name, m.ms, m.low, m.high)
    return list(networks.values())
