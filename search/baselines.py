"""What finalists are compared with: PP-LCNet at any scale, and the best published network, as fast as they.

Both are found by measuring whole networks interleaved with the finalists (:func:`search.finalists.remeasure`
asks :class:`Rivals` what to measure); without measurements, by the table alone.
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
from search.finalists import Bench, Finalist
from search.outcome import Timed

SCALES = (0.05, 4.0)  # the least and the greatest scale that is looked at
STEP = 0.001  # of scales; every distinct network between those two has one
ABOVE = 4  # scales above the largest that fits, all measured before it is taken for that
AROUND = (-1, 3)  # of the predicted scale: those from one below to two above are measured
FAST_FOR_ITS_MACS = 8.0  # no published network does so many times a finalist's MACs a ms
ROUGHLY = 1.25  # a rough latency is off by less
AT_ONCE = 4  # published networks measured beside a finalist in one batch
USUAL = "ImageNet-1k"


@dataclass(frozen=True)
class Baseline:
    """A network that finalists are compared with."""

    name: str  # "pplcnet_0.62x"
    role: str  # "pplcnet" or "shelf", as in search.outcome.ROLES
    arch: Arch
    measured: Timed | None  # None: nothing was measured
    published_top1: float | None  # ImageNet, %
    beside: tuple[str, ...]  # names of the finalists


@dataclass(frozen=True)
class Found:
    """The baselines of a search."""

    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shelved:
    """A published network at the resolution of a search."""

    arch: Arch
    top1: float  # ImageNet, %
    macs: int


# -- which networks there are ----------------------------------------------------------------------


@functools.cache
def distinct_scales() -> tuple[float, ...]:
    """Return a scale for each distinct PP-LCNet between the ends of :data:`SCALES`, from the smallest on.

    Channels are rounded to multiples of 8, so all scales between two thresholds give one network; it goes by
    the published scale among them, else by that with the fewest digits.
    """
    widths = (pplcnet.STEM_WIDTH, *(width for width, _, _ in pplcnet.STAGES))
    best: dict[tuple[int, ...], float] = {}
    for n in range(round(SCALES[0] / STEP), round(SCALES[1] / STEP) + 1):
        scale = round(n * STEP, 3)
        key = tuple(make_divisible(width * scale) for width in widths)
        if key not in best or _plainness(scale) < _plainness(best[key]):
            best[key] = scale
    return tuple(sorted(best.values()))


def _plainness(scale: float) -> tuple[bool, int, float]:
    return scale not in pplcnet.SCALES, len(f"{scale:g}"), scale


@functools.cache
def _scaled(family: str, resolution: Resolution) -> tuple[Arch, ...]:
    """Return the distinct networks of a family of PP-LCNet, from the smallest on."""
    return tuple(zoo.load(f"{family}_{scale:g}x", resolution) for scale in distinct_scales())


@functools.cache
def _macs(archs: tuple[Arch, ...]) -> tuple[int, ...]:
    return tuple(cost.macs(arch) for arch in archs)


@functools.cache
def _shelf(resolution: Resolution) -> tuple[_Shelved, ...]:
    """Return the published networks that are compared with, the most accurate first.

    Those trained on ImageNet-1k alone, without a teacher, that can be built at the resolution.
    """
    found = []
    for name in zoo.names():
        try:
            known = zoo.published(name)
            arch = zoo.load(name, resolution)
            macs = cost.macs(arch)
        except LcnasError:  # nothing published of it, or images too small for it
            continue
        if known.top1 is not None and known.data == USUAL and not known.distilled:
            found.append(_Shelved(arch, known.top1, macs))
    return tuple(sorted(found, key=lambda s: (-s.top1, s.macs, s.arch.name)))


def _top1(name: str) -> float | None:
    try:
        return zoo.published(name).top1
    except ZooError:  # nothing was published of that scale
        return None


# -- with measurements -----------------------------------------------------------------------------


class Rivals:
    """Finds the baselines of finalists: says what is still to be measured, and in the end names them.

    Args:
        space: whose strides PP-LCNet takes.
        table: for a first guess of latencies; it may lack all of them.
        classes: outputs of the last layer.
        shelf: whether published networks are looked at as well.
    """

    def __init__(
        self, space: Space, table: LatencyTable, classes: int = 1000, shelf: bool = True
    ) -> None:
        self.family = tables.family(space)
        self.table = table
        self.classes = classes
        self.shelf = shelf

    def further(self, heads: Sequence[tuple[Arch, float]], bench: Bench) -> list[Arch]:
        """Return the networks that are still to be measured beside finalists of those latencies, ms.

        Published networks are measured roughly at once, to leave out those that are too slow anyway.
        """
        if self.shelf:
            bench.measure(self._unknown(heads, bench), rough=True)
        wanted: dict[str, Arch] = {}
        for arch, ms in heads:
            more = self._further_scales(arch, ms, bench)
            more += self._further_shelf(arch, ms, bench) if self.shelf else []
            wanted.update({a.id: a for a in more})
        return list(wanted.values())

    # -- PP-LCNet at any scale --

    def _further_scales(self, head: Arch, ms: float, bench: Bench) -> list[Arch]:
        """Return scales to measure: those around the guess, and above the largest that fits four that do not.

        One would not do: widths that are no multiples of 16 may be slower than wider ones.
        """
        archs = _scaled(self.family, head.resolution)
        known = [_ms(arch, bench) for arch in archs]
        best = _last(known, ms)
        guess = max(0, _last(self._guesses(head, ms, bench), ms))
        around = set(range(guess + AROUND[0], guess + AROUND[1]))
        above = set(range(best + 1, best + 1 + ABOVE)) if best >= 0 else set()
        new = [i for i in sorted(around | above) if 0 <= i < len(archs) and known[i] is None]
        if not new and best < min(around):  # none of those fits
            new = [i for i in range(best + 1, max(around)) if known[i] is None][-2:]
        return [archs[i] for i in new]

    def _guesses(self, head: Arch, ms: float, bench: Bench) -> list[float]:
        """Return a guess of each scale's latency, ms: the table's over MACs, moved to what was measured."""
        archs = _scaled(self.family, head.resolution)
        macs = np.log(np.array(_macs(archs), dtype=np.float64))
        guesses = self._shape(archs, macs)
        known = [(i, found) for i, a in enumerate(archs) if (found := _ms(a, bench)) is not None]
        if known:
            off = float(np.median([math.log(found) - guesses[i] for i, found in known]))
        else:
            off = 0.0 if self._anchors(archs) else math.log(ms) - math.log(cost.macs(head))
        return [float(g) for g in np.exp(guesses + off)]

    def _anchors(self, archs: Sequence[Arch]) -> dict[str, float]:
        """Return the table's latencies of the published scales, ms, by id; at least two, or none."""
        some = [a for a in archs if a.name in _published_names(self.family)]
        found = tables.predicted(self.table, some, self.classes)
        return found if len(found) > 1 else {}

    def _shape(self, archs: Sequence[Arch], macs: tables.Floats) -> tables.Floats:
        """Return log latency over log MACs, up to a constant where the table tells nothing."""
        anchors = self._anchors(archs)
        if not anchors:
            return macs
        at = np.array([i for i, a in enumerate(archs) if a.id in anchors])
        x, y = macs[at], np.log([anchors[archs[i].id] for i in at])
        made: tables.Floats = np.interp(macs, x, y)
        for outside, (one, two) in ((macs < x[0], (0, 1)), (macs > x[-1], (-1, -2))):
            slope = (y[one] - y[two]) / (x[one] - x[two])
            made[outside] = y[one] + slope * (macs[outside] - x[one])
        return made

    # -- the shelf --

    def _unknown(self, heads: Sequence[tuple[Arch, float]], bench: Bench) -> list[Arch]:
        """Return the published networks that may be as fast as a finalist, and that no one has measured."""
        wanted = {s.arch.id: s.arch for head, _ in heads for s in self._possible(head)}
        return [arch for arch in wanted.values() if bench.rough_ms(arch) is None]

    def _possible(self, head: Arch) -> list[_Shelved]:
        most = FAST_FOR_ITS_MACS * cost.macs(head)
        return [s for s in _shelf(head.resolution) if s.macs <= most]

    def _further_shelf(self, head: Arch, ms: float, bench: Bench) -> list[Arch]:
        """Return published networks to measure until the most accurate that fits is known."""
        new: list[Arch] = []
        for shelved in self._possible(head):
            known, rough = _ms(shelved.arch, bench), bench.rough_ms(shelved.arch)
            if known is not None:
                if known <= ms:
                    break
                continue
            if rough is None or rough > ROUGHLY * ms:
                continue
            new.append(shelved.arch)
            if rough * ROUGHLY <= ms or len(new) == AT_ONCE:
                break
        return new

    # -- the end --

    def found(self, finalists: Iterable[Finalist], bench: Bench) -> Found:
        """Return the baselines of finalists, of everything that was measured; the fastest first."""
        made: dict[str, Baseline] = {}
        notes: list[str] = []
        for finalist in finalists:
            scale = self._scale(finalist, bench)
            if scale is None:
                notes.append(f"{finalist.name}: even the smallest {self.family} is slower")
            else:
                _add(made, finalist, scale, "pplcnet", bench)
            if scale is not None and scale.id == finalist.arch.id:
                notes.append(f"{finalist.name} is {scale.name} itself")
            shelved = self._shelved(finalist, bench) if self.shelf else None
            if shelved is not None and (scale is None or shelved.id != scale.id):
                _add(made, finalist, shelved, "shelf", bench)
            elif self.shelf:
                what = "no published network is as fast" if shelved is None else _SAME
                notes.append(f"{finalist.name}: {what}")
        if self.shelf and made:
            notes += _small_images(b.arch.resolution for b in made.values() if b.role == "shelf")
        ordered = sorted(made.values(), key=lambda b: (_ms(b.arch, bench) or 0.0, b.name))
        return Found(tuple(ordered), tuple(notes))

    def _scale(self, finalist: Finalist, bench: Bench) -> Arch | None:
        archs = _scaled(self.family, finalist.arch.resolution)
        best = _last([_ms(arch, bench) for arch in archs], finalist.ms)
        return archs[best] if best >= 0 else None

    def _shelved(self, finalist: Finalist, bench: Bench) -> Arch | None:
        for shelved in self._possible(finalist.arch):
            known = _ms(shelved.arch, bench)
            if known is not None and known <= finalist.ms:
                return shelved.arch
        return None


_SAME = "the published network of highest top-1 that is as fast is PP-LCNet itself"


def _ms(arch: Arch, bench: Bench) -> float | None:
    found = bench.timed(arch)
    return None if found is None else found.ms


def _last(values: Sequence[float | None], most: float) -> int:
    """Return the last place of a value that is at most ``most``; -1: there is none."""
    return max((i for i, v in enumerate(values) if v is not None and v <= most), default=-1)


def _published_names(family: str) -> set[str]:
    return {f"{family}_{scale}x" for scale in pplcnet.SCALES}


def _add(
    made: dict[str, Baseline], finalist: Finalist, arch: Arch, role: str, bench: Bench | None
) -> None:
    """Add a network beside a finalist; one that is there already is trained once for all."""
    known = made.get(arch.id)
    if known is None:
        measured = None if bench is None else bench.timed(arch)
        known = Baseline(arch.name, role, arch, measured, _top1(arch.name), ())
    role = "pplcnet" if "pplcnet" in (role, known.role) else "shelf"
    made[arch.id] = replace(known, role=role, beside=(*known.beside, finalist.name))


def _small_images(resolutions: Iterable[Resolution]) -> list[str]:
    """Return the note that networks from the shelf are not made for small images."""
    sides = {min(r) if isinstance(r, tuple) else r for r in resolutions}
    small = sorted(side for side in sides if side < 64)
    return [
        f"networks from the shelf run at {side} px like the finalists, though their strides of 32 are meant "
        "for larger images: they may be unfit, and those that cannot be built at this size are left out"
        for side in small
    ]


# -- without measurements --------------------------------------------------------------------------

_BY_TABLE = (
    "finalists were not measured on this machine: beside each is the largest of PP-LCNet's 8 published "
    "scales that is as fast by the table, and no other network from the shelf"
)


def by_table(
    finalists: Iterable[Finalist], space: Space, table: LatencyTable, classes: int = 1000
) -> Found:
    """Return the baselines of finalists that were not measured: the largest published scale by the table.

    A finalist beside which there is none, or all of whose scales the table cannot predict, is noted.
    """
    made: dict[str, Baseline] = {}
    notes = [_BY_TABLE]
    for finalist in finalists:
        archs = [a.at(finalist.arch.resolution) for a in tables.published_scales(space)]
        known = tables.predicted(table, archs, classes)
        best = _last([known.get(a.id) for a in archs], finalist.trial.latency_ms)
        if best >= 0:
            _add(made, finalist, archs[best], "pplcnet", None)
        else:
            why = "all of them are slower" if known else "the table has no row of them"
            notes.append(f"{finalist.name}: no published scale of PP-LCNet beside it; {why}")
    return Found(tuple(made.values()), tuple(notes))
