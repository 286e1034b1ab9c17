"""Selection of finalists: by latency band, within the budget as measured.

The budget binds the measured latency: a finalist whose interval exceeds it is replaced by the next candidate
of its band. Measurements are written to the run directory at once, so that a repeated call continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lcnas.arch import Arch
from lcnas.budgets import bands as latency_bands
from lcnas.spaces import Space
from search.errors import SearchError
from search.finals.measurement import FinalMeasurements
from search.outcome import MeasuredLatency
from search.trials import Trial

SPARE = 20  # candidates of a band behind its finalists


# -- candidates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BandQueue:
    """Candidates of a latency band, the best first, and how many of them become finalists."""

    band: int  # from 0, the fastest
    low: float  # border of the band, predicted ms
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
) -> list[BandQueue]:
    """Return the queues of the latency bands that hold a finished trial, the fastest band first.

    Bands are equal parts of log latency. In a band the front's members come first, then the others, each by
    accuracy (ties: the faster, then the earlier). Bands receive places in turn, from the slowest band on, as
    long as they have networks; so the other bands share the places of an empty one.

    Args:
        trials: trials of the search; failed ones are left out, and the best of several with one network is
            kept.
        front: numbers of the trials that no other trial dominates.
        low, high: limits of predicted latency of the search, ms.
        bands: number of bands.
        n: number of finalists in all.
        spare: candidates of a band behind its finalists.

    Raises:
        SearchError: ``bands`` or ``n`` is below 1, or ``low`` and ``high`` are not latencies.
    """
    if bands < 1 or n < 1:
        raise SearchError(f"finalists: {n} in {bands} bands; both must be at least 1")
    if not 0 < low <= high < float("inf"):
        raise SearchError(f"finalists: {low:g} to {high:g} ms is not a range of latencies")
    edges = latency_bands.edges(low, high, bands)
    members: list[list[Trial]] = [[] for _ in range(bands)]
    for trial in _best_per_network(trials):
        band = int(latency_bands.band_of(edges, trial.latency_ms))
        members[band].append(trial)
    ordered = [sorted(band, key=lambda t: _rank(t, front)) for band in members]
    places = _places([len(band) for band in ordered], n)
    return [
        BandQueue(
            band=band,
            low=float(edges[band]),
            high=float(edges[band + 1]),
            trials=tuple(ordered[band][: places[band] + spare]),
            places=places[band],
        )
        for band in range(bands)
        if places[band]
    ]


def _best_per_network(trials: Iterable[Trial]) -> list[Trial]:
    """Return the finished trial of highest accuracy for each network."""
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
    """Return the number of places of each band, assigned in turn from the last band on."""
    out = [0] * len(sizes)
    left = min(n, sum(sizes))
    while left:
        for band in reversed(range(len(sizes))):
            if left and out[band] < sizes[band]:
                out[band] += 1
                left -= 1
    return out


# -- finalists -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finalist:
    """A network of the search that enters the final evaluation."""

    name: str  # "finalist-1", by latency
    trial: Trial
    arch: Arch
    band: int
    measured: MeasuredLatency | None = None  # None: this machine is not of the table's kind

    @property
    def ms(self) -> float:
        """Its latency, measured if possible, else predicted."""
        return self.trial.latency_ms if self.measured is None else self.measured.ms


class BaselineSource(Protocol):
    """Says which baselines to measure together with finalists."""

    def to_measure(
        self, finalists: Sequence[tuple[Arch, float]], measurements: FinalMeasurements
    ) -> list[Arch]:
        """Return networks that remain to be measured, given finalists and their latencies, ms."""


@dataclass(frozen=True)
class SelectedFinalists:
    """The finalists, and notes on replaced candidates."""

    finalists: tuple[Finalist, ...]
    notes: tuple[str, ...] = ()
    measured: tuple[Arch, ...] = ()  # all measured candidates, replaced ones included


def select(
    queues: Sequence[BandQueue],
    space: Space,
    max_ms: float,
    measurements: FinalMeasurements | None,
    baselines: BaselineSource | None = None,
) -> SelectedFinalists:
    """Return the finalists: the first candidates of each queue whose measured interval is within the budget.

    Candidates and their baselines are measured interleaved. A candidate whose interval exceeds the budget is
    replaced by the next of its queue, until all are within it or the queues are empty. This holds for all
    measurements together, those of the baselines included.

    Args:
        queues: queues of :func:`choose`.
        space: the space of the trials' codes.
        max_ms: the budget, of measured latency.
        measurements: measures; None: nothing is measured, and the first candidates are the finalists (a table
            of another machine).
        baselines: networks to measure together with them.
    """
    selection = _Selection(queues, space)
    if measurements is not None:
        while selection.chosen:
            archs = [
                (selection.arch(t), selection.ms(t, measurements)) for _, t in selection.chosen
            ]
            new = [a for a, _ in archs if measurements.ms(a) is None]
            new += baselines.to_measure(archs, measurements) if baselines is not None else []
            if new:
                measurements.measure([*(a for a, _ in archs), *new])
            if not selection.replace(measurements, max_ms) and not new:
                break
    return selection.result(measurements, max_ms)


class _Selection:
    """Candidates that are chosen so far, and those that wait."""

    def __init__(self, queues: Sequence[BandQueue], space: Space) -> None:
        self.chosen = [(q.band, t) for q in queues for t in q.trials[: q.places]]
        self.waiting = {q.band: list(q.trials[q.places :]) for q in queues}
        self.notes: list[str] = []
        trials = [t for q in queues for t in q.trials]
        codes = np.array([t.codes for t in trials], dtype=np.int64)
        decoded = space.decode(codes) if trials else []
        self._archs = {t.number: arch for t, arch in zip(trials, decoded, strict=True)}
        self._measured: dict[int, Arch] = {}  # by number

    def arch(self, trial: Trial) -> Arch:
        return self._archs[trial.number]

    def ms(self, trial: Trial, measurements: FinalMeasurements) -> float:
        measured = measurements.ms(self.arch(trial))
        return trial.latency_ms if measured is None else measured

    def replace(self, measurements: FinalMeasurements, max_ms: float) -> bool:
        """Replace the candidates that exceed the budget; return whether there was one."""
        kept: list[tuple[int, Trial]] = []
        changed = False
        for band, trial in self.chosen:
            self._measured[trial.number] = self.arch(trial)
            measured = measurements.latency(self.arch(trial))
            if measured is None or measured.high <= max_ms:
                kept.append((band, trial))
                continue
            changed = True
            following = self.waiting[band].pop(0) if self.waiting[band] else None
            self.notes.append(_replacement_note(trial, measured, max_ms, following, band))
            if following is not None:
                kept.append((band, following))
        self.chosen = kept
        return changed

    def result(self, measurements: FinalMeasurements | None, max_ms: float) -> SelectedFinalists:
        """Return the finalists, named by latency."""
        finalists = []
        for band, trial in self.chosen:
            arch = self.arch(trial)
            measured = measurements.latency(arch) if measurements else None
            finalists.append(Finalist("", trial, arch, band, measured))
        finalists.sort(key=lambda f: (f.band, f.ms, f.trial.number))
        if not finalists:
            self.notes.append(f"no network was measured within {max_ms:.3f} ms: no finalists")
        named = [
            dataclasses.replace(f, name=f"finalist-{i}") for i, f in enumerate(finalists, start=1)
        ]
        return SelectedFinalists(tuple(named), tuple(self.notes), tuple(self._measured.values()))


def _replacement_note(
    trial: Trial, measured: MeasuredLatency, max_ms: float, following: Trial | None, band: int
) -> str:
    replacement = (
        f"no other network of band {band + 1} is left to replace it"
        if following is None
        else f"replaced by trial {following.number}"
    )
    return (
        f"trial {trial.number} (predicted {trial.latency_ms:.3f} ms) was measured at {measured.ms:.3f} ms, "
        f"90 % interval {measured.low:.3f} to {measured.high:.3f}, beyond the budget of {max_ms:.3f} ms; "
        f"{replacement}"
    )
