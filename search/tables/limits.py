"""What a latency table says about a space: PP-LCNet in its strides, limits, margins of predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcnas import latency, zoo
from lcnas.arch import Arch, walk
from lcnas.errors import TableError
from lcnas.latency import profile
from lcnas.latency.table import LatencyTable
from lcnas.spaces import Space
from lcnas.zoo import pplcnet

Floats = NDArray[np.float64]
OWN_NETWORKS = 40  # networks of a space's resolution from which on its own errors decide the margin


class Span(NamedTuple):
    """The default latency limits of a search, ms."""

    low: float
    high: float
    note: str = ""  # if they are not those of PP-LCNet 0.25x and 1.0x


def family(space: Space) -> str:
    """Return the zoo's family of PP-LCNet in the strides of a space: "pplcnet" or "pplcnet_32"."""
    return profile.span(space)[0].name.rpartition("_")[0]


def published_scales(space: Space) -> list[Arch]:
    """Return PP-LCNet at its 8 published scales, in the strides and at the resolution of a space."""
    name, size = family(space), space.resolutions[0]
    return [zoo.load(f"{name}_{scale}x", size) for scale in pplcnet.SCALES]


def predicted(table: LatencyTable, archs: Iterable[Arch], classes: int = 1000) -> dict[str, float]:
    """Return the predicted latency, ms, by id, of the networks of which a table has all entries."""
    out = {}
    for arch in archs:
        entries = [table.entries.get(p) for p in walk(arch, None, classes)]
        if all(entry is not None and entry.term is not None for entry in entries):
            out[arch.id] = float(table.predict(arch, classes)[0])
    return out


def span(space: Space, table: LatencyTable, classes: int = 1000) -> Span:
    """Return the latencies of PP-LCNet 0.25x and 1.0x by a table, ms, in the strides of a space.

    If the table lacks entries of one of them: those of the smallest and the largest published scale that it
    can predict; if there are no two, the lowest and the highest latency of the space. The note says so.

    Raises:
        TableError: the table lacks an entry of the space.
    """
    ends = profile.span(space)
    ms = predicted(table, ends, classes)
    if len(ms) == len(ends):
        limits = Span(ms[ends[0].id], ms[ends[1].id])
        return _reaching(limits, space, table, classes)
    lacks = f"the table lacks entries of {' or '.join(a.name for a in ends if a.id not in ms)}"
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


def _reaching(limits: Span, space: Space, table: LatencyTable, classes: int) -> Span:
    """Return a span that begins with the space's fastest network if all of the space lies below it."""
    budget = latency.Budget(space, table, float("inf"), classes=classes)
    if budget.highest / 1000 >= limits.low:
        return limits
    note = f"all of {space.name} is faster than PP-LCNet {profile.SPAN[0]}: nothing is too fast"
    return Span(budget.lowest / 1000, limits.high, note)


def margin(table: LatencyTable, level: float = 0.9, space: Space | None = None) -> float:
    """Return by how much, relative, networks are measured above their prediction at most, at a level.

    A one-sided conformal bound, over networks that the fit has not seen, as in :meth:`LatencyTable.bounds`;
    never below 0. A search that limits predictions to ``max_ms / (1 + margin)`` keeps that share of its
    networks within ``max_ms``.

    Args:
        table: the table.
        level: share of networks, 0 to 1.
        space: only networks of its resolutions count, if the table has :data:`OWN_NETWORKS` of them; None:
            all networks of the table.

    Raises:
        TableError: the level is not between 0 and 1, or the table was not validated.
    """
    if not 0 < level < 1:
        raise TableError(f"level: {level!r} is not between 0 and 1")
    residuals = [] if space is None else _residuals(table, space)
    if len(residuals) < OWN_NETWORKS:
        residuals = list(table.residuals)
    if not residuals:
        raise TableError(
            f"{table.source or table.file_name}: was not validated, so its error is unknown; measure "
            "whole networks as well (lcnas.profile_blocks --validate)"
        )
    rank = math.ceil((len(residuals) + 1) * level - 1e-9)  # conformal, limited to the sample
    return max(0.0, sorted(residuals)[min(len(residuals), rank) - 1])


def _residuals(table: LatencyTable, space: Space) -> list[float]:
    """Return measured / predicted - 1 of networks of a space's resolutions that the fit has not seen."""
    sizes = {size if isinstance(size, tuple) else (size, size) for size in space.resolutions}
    return [
        n.ms / n.predicted_ms - 1
        for n in table.networks
        if n.predicted_ms is not None and n.placed[0].in_shape[:2] in sizes
    ]
