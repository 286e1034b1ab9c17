"""Fitting a table's terms to its whole networks, and the errors of the fit."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import spaces
from lcnas.budgets import bands
from lcnas.latency import predict
from lcnas.latency.table import TICK_MS, LatencyTable, MeasuredNetwork, conformal

Floats = NDArray[np.float64]
Widths = Mapping[str, float] | None  # prior widths; None: those of maximum marginal likelihood
MIN_NETWORKS = 20  # calibration networks, below which the blocks alone are summed
DEFAULT_CLASSES = 1000
BANDS = 5  # parts of log latency with an error each


class _TableArrays:
    """A table's entries and networks as arrays."""

    def __init__(self, table: LatencyTable) -> None:
        placed = tuple(table.entries)
        self.networks = list(table.networks)
        self.overhead = table.overhead_ms
        entries = table.entries.values()
        self.blocks = predict.BlockTimes(
            placed,
            alone=np.array([entry.ms for entry in entries]),
            inside=np.array([entry.inside_ms(table.overhead_ms) for entry in entries]),
        )
        numbers = {p: i for i, p in enumerate(placed)}
        ids = [[numbers[p] for p in n.placed] for n in self.networks]
        self.counts = predict.count_matrix(ids, len(placed))
        self.times = np.array([n.ms for n in self.networks])
        self.keys = error_keys(self.networks)
        self.fitted = np.array([n.role == "calibration" for n in self.networks], dtype=bool)
        self.too_few = bool(self.fitted.sum() < MIN_NETWORKS)  # to fit

    def fit(self, method: str, widths: Widths = None) -> predict.Fit:
        """Return the fit of a method to the calibration networks."""
        counts, times = self.counts[self.fitted], self.times[self.fitted]
        return predict.fit(method, self.blocks, counts, times, self.overhead, widths)

    def cross(self, method: str, widths: Widths = None) -> Floats:
        """Return the calibration networks' latencies, predicted by fits that have not seen them."""
        counts, times = self.counts[self.fitted], self.times[self.fitted]
        return predict.cross_predictions(method, self.blocks, counts, times, self.overhead, widths)

    def select(self, key: str, role: str) -> NDArray[np.int64]:
        """Return the numbers of the networks of a role and of a key of :func:`error_keys`."""
        numbers = [
            i
            for i, (n, own) in enumerate(zip(self.networks, self.keys, strict=True))
            if (own, n.role) == (key, role)
        ]
        return np.array(numbers, dtype=np.int64)


def error_keys(networks: Sequence[MeasuredNetwork]) -> list[str]:
    """Return for each network the key of a table's errors to which it belongs.

    The key is the name of its space, if the network has the space's own resolution and 1000 classes; else
    these are added, as in "pplcnet_tail 128px 10 classes": networks of 0.5 ms and of 5 ms are not one
    population. A space that does not come with lcnas has its name alone as the key while all its networks
    have one resolution.
    """
    sizes = [n.placed[0].in_shape[:2] for n in networks]
    sizes_of: dict[str, set[tuple[int, ...]]] = {}  # by space
    for n, size in zip(networks, sizes, strict=True):
        sizes_of.setdefault(n.space, set()).add(size)
    default = {space: _default_sizes(space, measured) for space, measured in sizes_of.items()}
    return [
        n.space + ("" if size in default[n.space] else f" {_pixels(size)}") + _other_classes(n)
        for n, size in zip(networks, sizes, strict=True)
    ]


def _default_sizes(space: str, measured: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Return the (height, width) at which the name of a space alone is the key.

    Args:
        space: name of the space.
        measured: (height, width) of its networks in the table.
    """
    if space in spaces.available():
        sizes = spaces.load(space).resolutions
        return {size if isinstance(size, tuple) else (size, size) for size in sizes}
    return measured if len(measured) == 1 else set()


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[0]}px" if len(set(size)) == 1 else f"{'x'.join(map(str, size))}px"


def _other_classes(network: MeasuredNetwork) -> str:
    outputs = [p.out_shape[0] for p in network.placed if p.depends_on_classes]
    return f" {outputs[-1]} classes" if outputs and outputs[-1] != DEFAULT_CLASSES else ""


def refit(table: LatencyTable, method: str = "shrunk", *, keep_widths: bool = False) -> None:
    """Fit the table's terms to its calibration networks, and store all predictions and errors in the table.

    Args:
        table: the table; it is changed in place.
        method: one of :data:`lcnas.latency.predict.METHODS`.
        keep_widths: keep the prior widths of the table's fit, which takes seconds instead of minutes. They
            are a handful of numbers that rest on all its networks; a few more hardly change them. The errors
            of the methods that the fit is compared with stay as they were. Without effect if the table has
            no widths.
    """
    data = _TableArrays(table)
    if data.too_few:
        _sum_blocks(table, data)
        return
    known = table.method.get("settings") if table.method.get("fit") == method else None
    widths: Widths = known if keep_widths and known else None
    fit = data.fit(method, widths)
    _set_terms(table, fit.base, fit.terms)
    predicted = _in_ticks(table, data.counts)
    predicted[data.fitted] = data.cross(method, widths)
    table.networks = [
        dataclasses.replace(n, predicted_ms=float(p))
        for n, p in zip(data.networks, predicted, strict=True)
    ]
    off = data.times[data.fitted] / predicted[data.fitted] - 1
    table.residuals = tuple(sorted(off.tolist()))
    table.method = {**table.method, "fit": method, "settings": dict(fit.settings)}
    others = predict.METHODS if widths is None else ("sum",)
    fits = {method: fit, **{name: data.fit(name) for name in others if name != method}}
    before = {} if widths is None else table.errors
    table.errors = {
        key: {
            role: {**before.get(key, {}).get(role, {}), **errors}
            for role, errors in _errors_of(table, data, key, predicted, fits).items()
        }
        for key in dict.fromkeys(data.keys)
    }


def _sum_blocks(table: LatencyTable, data: _TableArrays) -> None:
    """Sum the blocks alone. Nothing is fitted, so every network measures the error of the sum."""
    # A block that takes less alone than the overhead, which a network has too, takes next to nothing.
    _set_terms(table, table.overhead_ms, np.maximum(data.blocks.inside, 0.0))
    predicted = np.maximum(_in_ticks(table, data.counts), TICK_MS)
    table.networks = _with_predictions(data.networks, predicted)
    table.residuals = tuple(sorted((data.times / predicted - 1).tolist()))
    table.method = {**table.method, "fit": "sum", "settings": {}}
    fits = {"sum": data.fit("sum")}
    errors = {k: _errors_of(table, data, k, predicted, fits) for k in dict.fromkeys(data.keys)}
    table.errors = {key: by_role for key, by_role in errors.items() if by_role}


def _with_predictions(
    networks: Sequence[MeasuredNetwork], predicted: Floats
) -> list[MeasuredNetwork]:
    """Return the networks with their predictions."""
    pairs = zip(networks, predicted.tolist(), strict=True)
    return [dataclasses.replace(n, predicted_ms=p) for n, p in pairs]


def _set_terms(table: LatencyTable, base: float, terms: Floats) -> None:
    table.base = round(base / TICK_MS)
    for placed, term in zip(list(table.entries), terms, strict=True):
        ticks = round(float(term) / TICK_MS)
        table.entries[placed] = dataclasses.replace(table.entries[placed], term=ticks)


def _in_ticks(table: LatencyTable, counts: Floats) -> Floats:
    """Return the table's predictions, ms, by its terms in whole ticks."""
    terms = np.array([entry.term or 0 for entry in table.entries.values()], dtype=np.float64)
    predicted: Floats = (table.base + counts @ terms) * TICK_MS
    return predicted


def _errors_of(
    table: LatencyTable,
    data: _TableArrays,
    key: str,
    predicted: Floats,
    fits: dict[str, predict.Fit],
) -> dict[str, Any]:
    """Return a key's errors over held-out and uniform networks: of all fits, and of the noise floor."""
    out = {}
    for role in ("held_out", "uniform"):
        numbers = data.select(key, role)
        if not len(numbers):
            continue
        networks = [data.networks[i] for i in numbers]
        times, predictions = data.times[numbers], predicted[numbers]
        out[role] = {
            "fit": _error_data(predictions, times),
            "noise_floor": _error_data(_repeated_times(networks), times),
            "coverage_90": _coverage_by_others(table.residuals, (times / predictions - 1).tolist())
            if data.too_few
            else _coverage(table, predictions, times),
            "bands": _bands(predictions, times),
            **{
                name: _error_data(fit.predict(data.counts[numbers]), times)
                for name, fit in fits.items()
            },
        }
    return out


def _error_data(predicted: Floats, measured: Floats) -> dict[str, Any]:
    return dataclasses.asdict(predict.errors(predicted, measured))


def _repeated_times(networks: Sequence[MeasuredNetwork]) -> Floats:
    """Return the second measurements, ms; the first where there is none."""
    return np.array([n.ms if n.again_ms is None else n.again_ms for n in networks])


def _coverage(table: LatencyTable, predicted: Floats, measured: Floats) -> float:
    """Return the share of networks inside their 90 % intervals."""
    low, high = table.bounds(0.9)
    inside = (measured >= predicted * (1 + low)) & (measured <= predicted * (1 + high))
    return float(inside.mean())


def _coverage_by_others(residuals: Sequence[float], own: Sequence[float]) -> float:
    """Return the share of networks inside the 90 % intervals of all others, where there is no fit.

    Args:
        residuals: residuals of all networks, sorted; the intervals rest on them.
        own: residuals of the networks whose coverage is returned.
    """
    inside = 0
    for off in own:
        others = list(residuals)
        others.remove(off)
        low, high = conformal(others, 0.9) if others else (math.inf, -math.inf)
        inside += low <= off <= high
    return inside / len(own)


def _bands(predicted: Floats, measured: Floats) -> list[dict[str, Any]]:
    """Return the errors in equal parts of log latency."""
    edges = bands.edges(measured.min(), measured.max() * 1.0001, BANDS)
    out = []
    for low, high in itertools.pairwise(edges.tolist()):
        inside = (measured >= low) & (measured < high)
        if inside.any():
            mape = float(np.abs(predicted[inside] / measured[inside] - 1).mean())
            limits = {"from_ms": round(low, 4), "to_ms": round(high, 4)}
            out.append({**limits, "n": int(inside.sum()), "mape": mape})
    return out
