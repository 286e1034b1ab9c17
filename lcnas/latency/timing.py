"""Timing that survives a noisy machine: many short rounds over all items, in random order.

A *visit* runs a loaded network for a few milliseconds and keeps the 20 % quantile of its run times: a low
quantile, since interference only ever adds. A *round* visits every item once, in random order, with visits
to a fixed reference network in between, whose times show how fast the machine is at the moment. Each item
is loaded afresh at least twice, since a second session of the same network is a further source of spread
(on means being useless, see microsoft/onnxruntime#10270). The latency is the median over rounds; its
interval comes from a bootstrap over sessions and rounds.
"""

from __future__ import annotations

import bisect
import dataclasses
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lcnas import renamed
from lcnas.errors import EngineError
from lcnas.latency.engines import Session

Floats = NDArray[np.float64]
Clock = Callable[[], float]  # seconds
QUANTILE = 0.2
_BOOTSTRAPS = 400


@dataclass(frozen=True)
class TimingPlan:
    """How thoroughly to measure."""

    sessions: int = 2  # fresh loads of each item
    rounds: int = 6  # minimum visits in each session
    most_rounds: int = 12  # maximum visits, where the interval is wider than the target
    target: float = 0.01  # relative half-width of the 90 % interval at which an item is finished
    visit_ms: float = 4.0  # approximate duration of a visit
    least_runs: int = 5  # minimum runs of a visit
    most_runs: int = 400  # maximum runs of a visit
    warm_up: int = 3  # runs of a new session that are not counted
    at_once: int = 48  # items that are loaded at the same time
    reference_every: int = 8  # visits between two visits to the reference


@dataclass(frozen=True)
class Item:
    """Something to measure: a key, and a function that loads it afresh."""

    key: Hashable
    open: Callable[[], Session]


@dataclass(frozen=True)
class Visit:
    """The result of one visit."""

    key: Hashable
    session: int  # number of the load, per item
    at: float  # start time in seconds, by the clock of its run
    ms: float  # 20 % quantile of the run times, as measured
    run: int = 0  # number of the process (or measurement) that made it; each has its own clock


@dataclass(frozen=True)
class Measurement:
    """A latency, with its interval and the number of visits behind it."""

    ms: float  # median over rounds of each round's 20 % quantile
    low: float  # 90 % interval
    high: float
    rounds: int  # number of visits
    sessions: int
    quantiles: tuple[float, ...] = field(default=())  # 10, 25, 50, 75 and 90 % over the visits

    @property
    def half_width(self) -> float:
        """Half of the interval's width, relative to the latency."""
        return (self.high - self.low) / (2 * self.ms)


REFERENCE = "(reference)"  # key of the reference; no file or published network has this name


def run_visit(session: Session, plan: TimingPlan, clock: Clock) -> float:
    """Run a session for one visit; returns the 20 % quantile of its run times, ms."""
    times: list[float] = []
    start = before = clock()
    while True:
        session.run()
        now = clock()
        times.append(now - before)
        before = now
        enough = (now - start) * 1e3 >= plan.visit_ms and len(times) >= plan.least_runs
        if enough or len(times) >= plan.most_runs:
            return float(np.quantile(times, QUANTILE)) * 1e3


class Stopwatch:
    """Measures items round by round, and reports each visit as soon as it is complete.

    Args:
        reference: the reference network; None: no reference visits.
        plan: how thoroughly to measure.
        rng: source of the order of visits.
        clock: returns the time in seconds.
        on_visit: is called with each visit, those to the reference included.
        run: number of this run, which its visits carry.
    """

    def __init__(
        self,
        reference: Item | None,
        plan: TimingPlan,
        rng: np.random.Generator,
        clock: Clock = time.perf_counter,
        on_visit: Callable[[Visit], None] = lambda _: None,
        run: int = 0,
    ) -> None:
        self.reference = reference
        self.run = run
        self.plan = plan
        self.rng = rng
        self.clock = clock
        self.on_visit = on_visit
        self._since = 0  # visits since the last one to the reference
        self._reference_session: Session | None = None

    def measure(self, items: Sequence[Item], known: Iterable[Visit] = ()) -> Iterator[Visit]:
        """Yield the visits to all items; visits that are known already count towards the plan.

        Items are measured in groups, each group in passes of fresh sessions. You can stop at any moment: the
        visits yielded so far are valid.
        """
        visits_of: dict[Hashable, list[Visit]] = {}
        for visit in known:
            visits_of.setdefault(visit.key, []).append(visit)
        order = self.rng.permutation(len(items))
        groups = [order[i : i + self.plan.at_once] for i in range(0, len(order), self.plan.at_once)]
        for group in groups:
            members = [items[i] for i in group]
            first = 1 + max(
                (v.session for m in members for v in visits_of.get(m.key, ())), default=-1
            )
            for number in range(first, first + self.plan.sessions):
                waiting = [m for m in members if not self._is_finished(visits_of.get(m.key, []))]
                yield from self._pass(waiting, number, visits_of)

    def _is_finished(self, visits: Sequence[Visit]) -> bool:
        """Return whether an item has all the sessions and rounds of the plan."""
        sessions = {v.session for v in visits}
        enough = len(visits) >= self.plan.sessions * self.plan.rounds
        return len(sessions) >= self.plan.sessions and enough

    def _pass(
        self, items: Sequence[Item], number: int, visits_of: dict[Hashable, list[Visit]]
    ) -> Iterator[Visit]:
        sessions = {item.key: self._load(item) for item in items}
        for done in range(self.plan.most_rounds):
            waiting = [
                i
                for i in items
                if done < self.plan.rounds or self._is_uncertain(visits_of[i.key], number)
            ]
            if not waiting:
                return
            for n in self.rng.permutation(len(waiting)):
                yield from self._visit_reference()
                key = waiting[n].key
                at = self.clock()
                ms = run_visit(sessions[key], self.plan, self.clock)
                visit = Visit(key, number, at, ms, self.run)
                visits_of.setdefault(key, []).append(visit)
                self.on_visit(visit)
                yield visit

    def _is_uncertain(self, visits: Sequence[Visit], number: int) -> bool:
        """Return whether the interval of a session's visits is still wider than the target."""
        own = np.array([v.ms for v in visits if v.session == number])
        if len(own) < 3:
            return True
        # 1.645 standard errors of a median, 1.25 times that of a mean
        return bool(
            1.645 * 1.25 * own.std(ddof=1) / len(own) ** 0.5 > self.plan.target * np.median(own)
        )

    def _load(self, item: Item) -> Session:
        session = item.open()
        for _ in range(self.plan.warm_up):
            session.run()
        return session

    def _visit_reference(self) -> Iterator[Visit]:
        """Visit the reference if it is due."""
        if self.reference is None:
            return
        if self._reference_session is None:
            self._reference_session = self._load(self.reference)
            self._since = self.plan.reference_every
        if self._since >= self.plan.reference_every:
            self._since = 0
            at = self.clock()
            ms = run_visit(self._reference_session, self.plan, self.clock)
            visit = Visit(REFERENCE, 0, at, ms, self.run)
            self.on_visit(visit)
            yield visit
        self._since += 1


# -- from visits to latencies ----------------------------------------------------------------------


def drift_corrected(visits: Sequence[Visit], width: int = 5) -> list[Visit]:
    """Return the visits, without those to the reference, corrected for the drift of the machine.

    Each visit is divided by how much slower than usual the reference was at that time: the median of the
    ``width`` reference visits of its own run nearest in time, over the median of all runs' reference visits.
    Each process has its own clock (which restarts with the machine), so times compare within a run only.
    """
    references: dict[int, list[Visit]] = {}  # by run
    for v in visits:
        if v.key == REFERENCE:
            references.setdefault(v.run, []).append(v)
    others = [v for v in visits if v.key != REFERENCE]
    values = [v.ms for of_run in references.values() for v in of_run]
    if len(values) < 2 * width:
        return others
    usual = float(np.median(values))
    paces = {run: _Pace(of_run, width) for run, of_run in references.items()}
    return [
        dataclasses.replace(v, ms=v.ms * usual / paces[v.run].at(v.at)) if v.run in paces else v
        for v in others
    ]


class _Pace:
    """The time of the reference around any moment of one run."""

    def __init__(self, references: Sequence[Visit], width: int) -> None:
        ordered = sorted(references, key=lambda v: v.at)
        self.times = [v.at for v in ordered]
        self.values = np.array([v.ms for v in ordered])
        self.width = min(width, len(ordered))

    def at(self, moment: float) -> float:
        """Return the median of the reference visits nearest in time, ms."""
        middle = bisect.bisect(self.times, moment)
        first = min(max(0, middle - (self.width + 1) // 2), len(self.times) - self.width)
        return float(np.median(self.values[first : first + self.width]))


def estimate(visits: Sequence[Visit], rng: np.random.Generator | None = None) -> Measurement:
    """Return the latency of one item's visits, with a 90 % interval over sessions and rounds."""
    if not visits:
        raise EngineError("timing: there is no visit to estimate from")
    values = np.array([v.ms for v in visits])
    if not np.isfinite(values).all() or (values <= 0).any():
        raise EngineError(f"timing: {values.min()} ms is no time; the clock is broken")
    groups = by_session(visits)
    draws = bootstrap(groups, rng or np.random.default_rng(0))
    low, high = np.quantile(draws, [0.05, 0.95])
    middle = float(np.median(values))
    return Measurement(
        ms=middle,
        low=min(float(low), middle),
        high=max(float(high), middle),
        rounds=len(values),
        sessions=len(groups),
        quantiles=tuple(float(q) for q in np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])),
    )


def by_session(visits: Iterable[Visit]) -> list[Floats]:
    """Return the times of each session of one item, ms."""
    groups: dict[tuple[int, int], list[float]] = {}
    for v in visits:
        groups.setdefault((v.run, v.session), []).append(v.ms)
    return [np.array(group) for group in groups.values()]


def bootstrap(groups: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Return medians of resampled sessions and, inside them, resampled rounds."""
    sizes = np.array([len(group) for group in groups])
    times = np.full((len(groups), sizes.max()), np.nan)
    for i, group in enumerate(groups):
        times[i, : len(group)] = group
    sessions = rng.integers(len(groups), size=(_BOOTSTRAPS, len(groups)))
    lengths = sizes[sessions][..., None]
    rounds = rng.integers(0, lengths, size=(*sessions.shape, sizes.max()))
    resampled = times[sessions[..., None], rounds]
    resampled[np.arange(sizes.max()) >= lengths] = np.nan  # a short session gives fewer rounds
    medians: Floats = np.nanmedian(resampled.reshape(_BOOTSTRAPS, -1), axis=1)
    return medians


def estimates(
    visits: Sequence[Visit], correct_drift: bool = True
) -> Mapping[Hashable, Measurement]:
    """Return the latency of every item of a list of visits, corrected for drift or not."""
    groups: dict[Hashable, list[Visit]] = {}
    for v in (
        drift_corrected(visits) if correct_drift else [v for v in visits if v.key != REFERENCE]
    ):
        groups.setdefault(v.key, []).append(v)
    return {key: estimate(group) for key, group in groups.items()}


__getattr__ = renamed.in_module(
    __name__, {"Plan": "TimingPlan", "steadied": "drift_corrected", "visit": "run_visit"}
)
