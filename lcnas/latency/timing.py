"""Timing that survives a noisy machine: many short rounds over all items, in random order.

A *visit* runs a loaded network for a few milliseconds and keeps the 20 % quantile of its run times: a low
quantile, since interference only ever adds. A *round* visits every item once, in random order, with visits
to a fixed reference network in between, whose own swings tell how fast the machine is at the moment. Each
item is loaded afresh at least twice, since a second session of the same network is a further source of
spread (on means being useless, see microsoft/onnxruntime#10270). The latency is the median over rounds;
its interval comes from a bootstrap over sessions and rounds.
"""

from __future__ import annotations

import bisect
import dataclasses
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import EngineError
from lcnas.latency.engines import Session

Floats = NDArray[np.float64]
Clock = Callable[[], float]  # seconds
QUANTILE = 0.2
_BOOTSTRAPS = 400


@dataclass(frozen=True)
class Plan:
    """How thoroughly to measure."""

    sessions: int = 2  # fresh loads of each item
    rounds: int = 6  # visits in each session, at least
    most_rounds: int = 12  # and at most, where the interval is wider than the target
    target: float = 0.01  # half-width of the 90 % interval, relative, at which an item is done
    visit_ms: float = 4.0  # a visit lasts about so long
    least_runs: int = 5  # runs of a visit, at least
    most_runs: int = 400  # and at most
    warm_up: int = 3  # runs of a new session that are not counted
    at_once: int = 48  # items that are loaded at the same time
    reference_every: int = 8  # visits between two visits to the reference


@dataclass(frozen=True)
class Item:
    """Something to measure: a key, and how to load it afresh."""

    key: Hashable
    open: Callable[[], Session]


@dataclass(frozen=True)
class Visit:
    """One visit's result."""

    key: Hashable
    session: int  # number of the load, per item
    at: float  # seconds, when it began, by the clock of its run
    ms: float  # 20 % quantile of the run times, as measured
    run: int = 0  # number of the process (or measurement) that saw it: clocks of two do not compare


@dataclass(frozen=True)
class Measurement:
    """A latency with what it rests on."""

    ms: float  # median over rounds of each round's 20 % quantile
    low: float  # 90 % interval
    high: float
    rounds: int  # visits it rests on
    sessions: int
    quantiles: tuple[float, ...] = field(default=())  # 10, 25, 50, 75 and 90 % over the visits

    @property
    def half_width(self) -> float:
        """Half of the interval's width, relative to the latency."""
        return (self.high - self.low) / (2 * self.ms)


REFERENCE = "(reference)"  # no file or zoo network is called so


def visit(session: Session, plan: Plan, clock: Clock) -> float:
    """Return the 20 % quantile, in ms, of as many runs as a visit takes."""
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
    """Measures items round by round, and tells of every visit as soon as it is done."""

    def __init__(
        self,
        reference: Item | None,
        plan: Plan,
        rng: np.random.Generator,
        clock: Clock = time.perf_counter,
        told: Callable[[Visit], None] = lambda _: None,
        run: int = 0,
    ) -> None:
        self.reference = reference
        self.run = run
        self.plan = plan
        self.rng = rng
        self.clock = clock
        self.told = told
        self._since = 0  # visits since the last one to the reference
        self._reference_session: Session | None = None

    def measure(self, items: Sequence[Item], known: Iterable[Visit] = ()) -> Iterator[Visit]:
        """Yield the visits to all items; those already known count towards the plan.

        Items are taken in groups, each group in passes of fresh sessions. Stop at any moment: what was
        yielded is good.
        """
        counts: dict[Hashable, list[Visit]] = {}
        for seen in known:
            counts.setdefault(seen.key, []).append(seen)
        order = self.rng.permutation(len(items))
        groups = [order[i : i + self.plan.at_once] for i in range(0, len(order), self.plan.at_once)]
        for group in groups:
            members = [items[i] for i in group]
            first = 1 + max((v.session for m in members for v in counts.get(m.key, ())), default=-1)
            for number in range(first, first + self.plan.sessions):
                waiting = [m for m in members if not self._done(counts.get(m.key, []))]
                yield from self._pass(waiting, number, counts)

    def _done(self, visits: Sequence[Visit]) -> bool:
        """Return whether an item has all the sessions and rounds of the plan."""
        sessions = {v.session for v in visits}
        enough = len(visits) >= self.plan.sessions * self.plan.rounds
        return len(sessions) >= self.plan.sessions and enough

    def _pass(
        self, items: Sequence[Item], number: int, counts: dict[Hashable, list[Visit]]
    ) -> Iterator[Visit]:
        sessions = {item.key: self._load(item) for item in items}
        for done in range(self.plan.most_rounds):
            waiting = [
                i for i in items if done < self.plan.rounds or self._unsure(counts[i.key], number)
            ]
            if not waiting:
                return
            for n in self.rng.permutation(len(waiting)):
                yield from self._follow_the_machine()
                key = waiting[n].key
                at = self.clock()
                took = visit(sessions[key], self.plan, self.clock)
                seen = Visit(key, number, at, took, self.run)
                counts.setdefault(key, []).append(seen)
                self.told(seen)
                yield seen

    def _unsure(self, visits: Sequence[Visit], number: int) -> bool:
        """Return whether this session's visits are still too far apart."""
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

    def _follow_the_machine(self) -> Iterator[Visit]:
        if self.reference is None:
            return
        if self._reference_session is None:
            self._reference_session = self._load(self.reference)
            self._since = self.plan.reference_every
        if self._since >= self.plan.reference_every:
            self._since = 0
            at = self.clock()
            took = visit(self._reference_session, self.plan, self.clock)
            seen = Visit(REFERENCE, 0, at, took, self.run)
            self.told(seen)
            yield seen
        self._since += 1


# -- from visits to latencies ----------------------------------------------------------------------


def steadied(visits: Sequence[Visit], width: int = 5) -> list[Visit]:
    """Return the visits with the machine's swings taken out, by the reference's visits around each.

    A visit is divided by how much slower than usual the reference was at that time: the median of the
    ``width`` reference visits of its own run nearest in time, over the median of all runs' visits. Each
    process has a clock of its own (which begins anew when the machine does), so times are looked up
    within a run only.
    """
    runs: dict[int, list[Visit]] = {}
    for v in visits:
        if v.key == REFERENCE:
            runs.setdefault(v.run, []).append(v)
    others = [v for v in visits if v.key != REFERENCE]
    values = [mark.ms for marks in runs.values() for mark in marks]
    if len(values) < 2 * width:
        return others
    usual = float(np.median(values))
    paces = {run: _Pace(marks, width) for run, marks in runs.items()}
    return [
        dataclasses.replace(v, ms=v.ms * usual / paces[v.run].at(v.at)) if v.run in paces else v
        for v in others
    ]


class _Pace:
    """How long the reference took around a moment of one run."""

    def __init__(self, marks: Sequence[Visit], width: int) -> None:
        ordered = sorted(marks, key=lambda v: v.at)
        self.times = [v.at for v in ordered]
        self.values = np.array([v.ms for v in ordered])
        self.width = min(width, len(ordered))

    def at(self, moment: float) -> float:
        """Return the median of the visits nearest in time, ms."""
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
    table = np.full((len(groups), sizes.max()), np.nan)
    for i, group in enumerate(groups):
        table[i, : len(group)] = group
    chosen = rng.integers(len(groups), size=(_BOOTSTRAPS, len(groups)))
    lengths = sizes[chosen][..., None]
    rounds = rng.integers(0, lengths, size=(*chosen.shape, sizes.max()))
    picked = table[chosen[..., None], rounds]
    picked[np.arange(sizes.max()) >= lengths] = np.nan  # a short session gives fewer rounds
    made: Floats = np.nanmedian(picked.reshape(_BOOTSTRAPS, -1), axis=1)
    return made


def estimates(visits: Sequence[Visit], steady: bool = True) -> Mapping[Hashable, Measurement]:
    """Return the latency of every item of a list of visits."""
    groups: dict[Hashable, list[Visit]] = {}
    for v in steadied(visits) if steady else [v for v in visits if v.key != REFERENCE]:
        groups.setdefault(v.key, []).append(v)
    return {key: estimate(group) for key, group in groups.items()}
