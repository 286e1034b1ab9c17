"""Baselines of finalists: PP-LCNet at any scale and the best published network that is as fast.

Both result from measuring whole networks interleaved with the finalists:
:func:`search.finals.selection.select` asks a :class:`BaselineSearch` which networks to measure. Without
measurements the table alone decides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lcnas import cost, zoo
from lcnas.arch import Arch, Resolution
from lcnas.blocks import make_divisible
from lcnas.errors import LcnasError, ZooError
from lcnas.latency.table import LatencyTable
from lcnas.spaces import Space
from lcnas.zoo import pplcnet
from search import tables
from search.finals.measurement import FinalMeasurements
from search.finals.selection import Finalist
from search.outcome import PPLCNET, PUBLISHED, MeasuredLatency

SCALES = (0.05, 4.0)  # minimum and maximum scale
STEP = 0.001  # step of scales; every distinct network between these has one
ABOVE = 4  # scales above the largest that fits, all measured before it counts as the largest
AROUND = (-1, 3)  # scales measured around the predicted one: from one below to two above
MAX_MACS_RATIO = 8.0  # no published network computes this many times a finalist's MACs per ms
ROUGH_FACTOR = 1.25  # a rough latency is off by less
AT_ONCE = 4  # published networks measured in one batch with a finalist
TRAINING_SET = "ImageNet-1k"


@dataclass(frozen=True)
class Baseline:
    """A network that finalists are compared with."""

    name: str  # "pplcnet_0.62x"
    role: str  # PPLCNET or PUBLISHED of search.outcome
    arch: Arch
    measured: MeasuredLatency | None  # None: not measured
    published_top1: float | None  # ImageNet, %
    beside: tuple[str, ...]  # names of the finalists


@dataclass(frozen=True)
class Baselines:
    """The baselines of a search, and notes on missing ones."""

    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Published:
    """A published network at the resolution of a search."""

    arch: Arch
    top1: float  # ImageNet, %
    macs: int


# -- networks --------------------------------------------------------------------------------------


@functools.cache
def distinct_scales() -> tuple[float, ...]:
    """Return a scale for each distinct PP-LCNet between the ends of :data:`SCALES`, the smallest first.

    Channels are rounded to multiples of 8, so all scales between two thresholds give one network. Its name
    has the published scale among them, if there is one, else the scale with the fewest digits.
    """
    widths = (pplcnet.STEM_WIDTH, *(width for width, _, _ in pplcnet.STAGES))
    best: dict[tuple[int, ...], float] = {}
    for n in range(round(SCALES[0] / STEP), round(SCALES[1] / STEP) + 1):
        scale = round(n * STEP, 3)
        key = tuple(make_divisible(width * scale) for width in widths)
        if key not in best or _complexity(scale) < _complexity(best[key]):
            best[key] = scale
    return tuple(sorted(best.values()))


def _complexity(scale: float) -> tuple[bool, int, float]:
    return scale not in pplcnet.SCALES, len(f"{scale:g}"), scale


@functools.cache
def _scaled(family: str, resolution: Resolution) -> tuple[Arch, ...]:
    """Return the distinct networks of a family of PP-LCNet, the smallest first."""
    return tuple(zoo.load(f"{family}_{scale:g}x", resolution) for scale in distinct_scales())


@functools.cache
def _macs(archs: tuple[Arch, ...]) -> tuple[int, ...]:
    return tuple(cost.macs(arch) for arch in archs)


@functools.cache
def _published(resolution: Resolution) -> tuple[_Published, ...]:
    """Return the published networks that may be baselines, the most accurate first.

    They were trained on ImageNet-1k alone, without a teacher, and can be built at the resolution.
    """
    networks = []
    for name in zoo.names():
        try:
            numbers = zoo.published(name)
            arch = zoo.load(name, resolution)
            macs = cost.macs(arch)
        except LcnasError:  # no published numbers, or the images are too small for it
            continue
        if numbers.top1 is not None and numbers.data == TRAINING_SET and not numbers.distilled:
            networks.append(_Published(arch, numbers.top1, macs))
    return tuple(sorted(networks, key=lambda n: (-n.top1, n.macs, n.arch.name)))


def _top1(name: str) -> float | None:
    try:
        return zoo.published(name).top1
    except ZooError:  # a scale without published numbers
        return None


# -- with measurements -----------------------------------------------------------------------------


class BaselineSearch:
    """Finds the baselines of finalists: says what remains to be measured, and finally names them.

    Args:
        space: PP-LCNet has its strides.
        table: for a first guess of latencies; it may lack all entries.
        classes: outputs of the last layer.
        published: whether published networks are considered as well.
    """

    def __init__(
        self, space: Space, table: LatencyTable, classes: int = 1000, published: bool = True
    ) -> None:
        self.family = tables.family(space)
        self.table = table
        self.classes = classes
        self.published = published

    def to_measure(
        self, finalists: Sequence[tuple[Arch, float]], measurements: FinalMeasurements
    ) -> list[Arch]:
        """Return networks that remain to be measured, given finalists and their latencies, ms.

        Published networks are measured roughly at once, to leave out those that are too slow.
        """
        if self.published:
            measurements.measure(self._unmeasured(finalists, measurements), rough=True)
        networks: dict[str, Arch] = {}
        for arch, ms in finalists:
            more = self._scales_to_measure(arch, ms, measurements)
            more += self._published_to_measure(arch, ms, measurements) if self.published else []
            networks.update({a.id: a for a in more})
        return list(networks.values())

    # -- PP-LCNet at any scale --

    def _scales_to_measure(
        self, finalist: Arch, ms: float, measurements: FinalMeasurements
    ) -> list[Arch]:
        """Return scales to measure: those around the guess, and above the largest that fits four that do not.

        One would not suffice: widths that are not multiples of 16 may be slower than wider ones.
        """
        archs = _scaled(self.family, finalist.resolution)
        measured = [measurements.ms(arch) for arch in archs]
        best = _last(measured, ms)
        guess = max(0, _last(self._guesses(finalist, ms, measurements), ms))
        around = set(range(guess + AROUND[0], guess + AROUND[1]))
        above = set(range(best + 1, best + 1 + ABOVE)) if best >= 0 else set()
        new = [i for i in sorted(around | above) if 0 <= i < len(archs) and measured[i] is None]
        if not new and best < min(around):  # none of those fits
            new = [i for i in range(best + 1, max(around)) if measured[i] is None][-2:]
        return [archs[i] for i in new]

    def _guesses(self, finalist: Arch, ms: float, measurements: FinalMeasurements) -> list[float]:
        """Return a guess of each scale's latency, ms: the table's over MACs, shifted to measurements."""
        archs = _scaled(self.family, finalist.resolution)
        macs = np.log(np.array(_macs(archs), dtype=np.float64))
        guesses = self._shape(archs, macs)
        measured = [(i, t) for i, a in enumerate(archs) if (t := measurements.ms(a)) is not None]
        if measured:
            offset = float(np.median([math.log(t) - guesses[i] for i, t in measured]))
        else:
            offset = 0.0 if self._anchors(archs) else math.log(ms) - math.log(cost.macs(finalist))
        return [float(g) for g in np.exp(guesses + offset)]

    def _anchors(self, archs: Sequence[Arch]) -> dict[str, float]:
        """Return the table's latencies of the published scales, ms, by id; at least two, or none."""
        scales = [a for a in archs if a.name in _published_names(self.family)]
        predicted = tables.predicted(self.table, scales, self.classes)
        return predicted if len(predicted) > 1 else {}

    def _shape(self, archs: Sequence[Arch], macs: tables.Floats) -> tables.Floats:
        """Return log latency over log MACs, up to a constant if the table knows none of them."""
        anchors = self._anchors(archs)
        if not anchors:
            return macs
        at = np.array([i for i, a in enumerate(archs) if a.id in anchors])
        x, y = macs[at], np.log([anchors[archs[i].id] for i in at])
        shape: tables.Floats = np.interp(macs, x, y)
        for outside, (one, two) in ((macs < x[0], (0, 1)), (macs > x[-1], (-1, -2))):
            slope = (y[one] - y[two]) / (x[one] - x[two])
            shape[outside] = y[one] + slope * (macs[outside] - x[one])
        return shape

    # -- published networks --

    def _unmeasured(
        self, finalists: Sequence[tuple[Arch, float]], measurements: FinalMeasurements
    ) -> list[Arch]:
        """Return the published networks that may be as fast as a finalist, without any measurement."""
        possible = {n.arch.id: n.arch for arch, _ in finalists for n in self._possible(arch)}
        return [arch for arch in possible.values() if measurements.rough_ms(arch) is None]

    def _possible(self, finalist: Arch) -> list[_Published]:
        most = MAX_MACS_RATIO * cost.macs(finalist)
        return [n for n in _published(finalist.resolution) if n.macs <= most]

    def _published_to_measure(
        self, finalist: Arch, ms: float, measurements: FinalMeasurements
    ) -> list[Arch]:
        """Return published networks to measure until the most accurate that fits is known."""
        new: list[Arch] = []
        for network in self._possible(finalist):
            measured = measurements.ms(network.arch)
            rough = measurements.rough_ms(network.arch)
            if measured is not None:
                if measured <= ms:
                    break
                continue
            if rough is None or rough > ROUGH_FACTOR * ms:
                continue
            new.append(network.arch)
            if rough * ROUGH_FACTOR <= ms or len(new) == AT_ONCE:
                break
        return new

    # -- the result --

    def result(self, finalists: Iterable[Finalist], measurements: FinalMeasurements) -> Baselines:
        """Return the baselines of finalists, by all measurements; the fastest first."""
        chosen: dict[str, Baseline] = {}
        notes: list[str] = []
        for finalist in finalists:
            scale = self._scale(finalist, measurements)
            if scale is None:
                notes.append(f"{finalist.name}: even the smallest {self.family} is slower")
            else:
                _add(chosen, finalist, scale, PPLCNET, measurements)
            if scale is not None and scale.id == finalist.arch.id:
                notes.append(f"{finalist.name} is {scale.name} itself")
            published = self._best_published(finalist, measurements) if self.published else None
            if published is not None and (scale is None or published.id != scale.id):
                _add(chosen, finalist, published, PUBLISHED, measurements)
            elif self.published:
                what = "no published network is as fast" if published is None else _SAME
                notes.append(f"{finalist.name}: {what}")
        if self.published and chosen:
            notes += _notes_on_small_images(
                b.arch.resolution for b in chosen.values() if b.role == PUBLISHED
            )
        ordered = sorted(chosen.values(), key=lambda b: (measurements.ms(b.arch) or 0.0, b.name))
        return Baselines(tuple(ordered), tuple(notes))

    def _scale(self, finalist: Finalist, measurements: FinalMeasurements) -> Arch | None:
        archs = _scaled(self.family, finalist.arch.resolution)
        best = _last([measurements.ms(arch) for arch in archs], finalist.ms)
        return archs[best] if best >= 0 else None

    def _best_published(self, finalist: Finalist, measurements: FinalMeasurements) -> Arch | None:
        for network in self._possible(finalist.arch):
            measured = measurements.ms(network.arch)
            if measured is not None and measured <= finalist.ms:
                return network.arch
        return None


_SAME = "the published network of highest top-1 that is as fast is PP-LCNet itself"


def _last(values: Sequence[float | None], most: float) -> int:
    """Return the last index of a value that is at most ``most``; -1: there is none."""
    return max((i for i, v in enumerate(values) if v is not None and v <= most), default=-1)


def _published_names(family: str) -> set[str]:
    return {f"{family}_{scale}x" for scale in pplcnet.SCALES}


def _add(
    chosen: dict[str, Baseline],
    finalist: Finalist,
    arch: Arch,
    role: str,
    measurements: FinalMeasurements | None,
) -> None:
    """Add a baseline of a finalist; one that serves several finalists is trained once."""
    baseline = chosen.get(arch.id)
    if baseline is None:
        measured = None if measurements is None else measurements.latency(arch)
        baseline = Baseline(arch.name, role, arch, measured, _top1(arch.name), ())
    role = PPLCNET if PPLCNET in (role, baseline.role) else PUBLISHED
    chosen[arch.id] = replace(baseline, role=role, beside=(*baseline.beside, finalist.name))


def _notes_on_small_images(resolutions: Iterable[Resolution]) -> list[str]:
    """Return a note that published networks are not designed for small images."""
    sides = {min(r) if isinstance(r, tuple) else r for r in resolutions}
    small = sorted(side for side in sides if side < 64)
    return [
        f"published networks run at {side} px like the finalists, though their strides of 32 are meant for "
        "larger images: they may be unfit, and those that cannot be built at this resolution are left out"
        for side in small
    ]


# -- without measurements --------------------------------------------------------------------------

_BY_TABLE = (
    "finalists were not measured on this machine: the baseline of each is the largest of PP-LCNet's 8 "
    "published scales that is as fast by the table, without other published networks"
)


def by_table(
    finalists: Iterable[Finalist], space: Space, table: LatencyTable, classes: int = 1000
) -> Baselines:
    """Return the baselines of finalists that were not measured: the largest published scale by the table.

    A note names each finalist without a baseline, and why.
    """
    chosen: dict[str, Baseline] = {}
    notes = [_BY_TABLE]
    for finalist in finalists:
        archs = [a.at(finalist.arch.resolution) for a in tables.published_scales(space)]
        predicted = tables.predicted(table, archs, classes)
        best = _last([predicted.get(a.id) for a in archs], finalist.trial.latency_ms)
        if best >= 0:
            _add(chosen, finalist, archs[best], PPLCNET, None)
        else:
            why = "all of them are slower" if predicted else "the table has no entry of them"
            notes.append(f"{finalist.name}: no published scale of PP-LCNet beside it; {why}")
    return Baselines(tuple(chosen.values()), tuple(notes))
