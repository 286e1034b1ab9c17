"""Fitting a table's terms to the whole networks in it, and stating how wrong they are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import spaces
from lcnas.latency import predict
from lcnas.latency.table import TICK_MS, LatencyTable, Network, conformal

Floats = NDArray[np.float64]
Widths = Mapping[str, float] | None  # prior widths; None: to be found
FEWEST = 20  # networks to fit, below which the blocks alone are summed
CLASSES = 1000  # where nothing else is said
BANDS = 5  # parts of log latency in which errors are told


class _Data:
    """A table's rows and networks as arrays."""

    def __init__(self, table: LatencyTable) -> None:
        placed = tuple(table.rows)
        self.networks = list(table.networks)
        self.overhead = table.overhead_ms
        rows = table.rows.values()
        self.rows = predict.Rows(
            placed,
            alone=np.array([row.ms for row in rows]),
            inside=np.array([row.inside_ms(table.overhead_ms) for row in rows]),
        )
        numbers = {p: i for i, p in enumerate(placed)}
        ids = [[numbers[p] for p in n.rows] for n in self.networks]
        self.counts = predict.count_matrix(ids, len(placed))
        self.times = np.array([n.ms for n in self.networks])
        self.keys = keys_of(self.networks)
        self.fitted = np.array([n.role == "calibration" for n in self.networks], dtype=bool)
        self.too_few = bool(self.fitted.sum() < FEWEST)  # to fit

    def fit(self, method: str, widths: Widths = None) -> predict.Fit:
        """Return a method's fit to the calibration networks."""
        counts, times = self.counts[self.fitted], self.times[self.fitted]
        return predict.fit(method, self.rows, counts, times, self.overhead, widths)

    def cross(self, method: str, widths: Widths = None) -> Floats:
        """Return the calibration networks' latencies by fits that have not seen them."""
        counts, times = self.counts[self.fitted], self.times[self.fitted]
        return predict.cross_predictions(method, self.rows, counts, times, self.overhead, widths)

    def select(self, key: str, role: str) -> NDArray[np.int64]:
        """Return the numbers of the networks of a key of :func:`keys_of` and a role."""
        wanted = [
            i
            for i, (n, own) in enumerate(zip(self.networks, self.keys, strict=True))
            if (own, n.role) == (key, role)
        ]
        return np.array(wanted, dtype=np.int64)


def keys_of(networks: Sequence[Network]) -> list[str]:
    """Return under which key a table's errors count each network.

    That is the name of its space where it has the space's own resolution and 1000 classes; else these are
    added, as in "pplcnet_tail 128px 10 classes", for networks of 0.5 ms and of 5 ms are not one population.
    A space that does not come with lcnas goes by its name alone as long as all its networks have one size.
    """
    sizes = [n.rows[0].in_shape[:2] for n in networks]
    found: dict[str, set[tuple[int, ...]]] = {}
    for n, size in zip(networks, sizes, strict=True):
        found.setdefault(n.space, set()).add(size)
    usual = {space: _own_sizes(space, seen) for space, seen in found.items()}
    return [
        n.space + ("" if size in usual[n.space] else f" {_pixels(size)}") + _other_classes(n)
        for n, size in zip(networks, sizes, strict=True)
    ]


def _own_sizes(space: str, seen: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Return the (height, width) at which a space goes by its name alone."""
    if space in spaces.available():
        sizes = spaces.load(space).resolutions
        return {size if isinstance(size, tuple) else (size, size) for size in sizes}
    return seen if len(seen) == 1 else set()


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[0]}px" if len(set(size)) == 1 else f"{'x'.join(map(str, size))}px"


def _other_classes(network: Network) -> str:
    outputs = [p.out_shape[0] for p in network.rows if p.depends_on_classes]
    return f" {outputs[-1]} classes" if outputs and outputs[-1] != CLASSES else ""


def refit(table: LatencyTable, method: str = "shrunk", *, keep_widths: bool = False) -> None:
    """Fit the table's terms to its calibration networks; note every prediction and all errors in it.

    Args:
        table: is changed.
        method: one of :data:`lcnas.latency.predict.METHODS`.
        keep_widths: keep the prior widths of the table's fit, which takes seconds instead of minutes. They
            are a handful of numbers that rest on all its networks; a few networks more do not move them. The
            errors of the methods that the fit is compared with stay as they were. Without effect
            where there are none to keep.
    """
    data = _Data(table)
    if data.too_few:
        _sum(table, data)
        return
    known = table.method.get("settings") if table.method.get("fit") == method else None
    widths: Widths = known if keep_widths and known else None
    made = data.fit(method, widths)
    _set_terms(table, made.base, made.terms)
    predicted = _ticked(table, data.counts)
    predicted[data.fitted] = data.cross(method, widths)
    table.networks = [
        dataclasses.replace(n, predicted_ms=float(p))
        for n, p in zip(data.networks, predicted, strict=True)
    ]
    off = data.times[data.fitted] / predicted[data.fitted] - 1
    table.residuals = tuple(sorted(off.tolist()))
    table.method = {**table.method, "fit": method, "settings": dict(made.settings)}
    others = predict.METHODS if widths is None else ("sum",)
    fits = {method: made, **{name: data.fit(name) for name in others if name != method}}
    before = {} if widths is None else table.errors
    table.errors = {
        key: {
            role: {**before.get(key, {}).get(role, {}), **found}
            for role, found in _errors_of(table, data, key, predicted, fits).items()
        }
        for key in dict.fromkeys(data.keys)
    }


def _sum(table: LatencyTable, data: _Data) -> None:
    """Sum the blocks alone; nothing is fitted, so that each network tells how wrong that is."""
    # What takes less alone than the overhead, which is of a network too, takes next to nothing.
    _set_terms(table, table.overhead_ms, np.maximum(data.rows.inside, 0.0))
    predicted = np.maximum(_ticked(table, data.counts), TICK_MS)
    table.networks = _predicted(data.networks, predicted)
    table.residuals = tuple(sorted((data.times / predicted - 1).tolist()))
    table.method = {**table.method, "fit": "sum", "settings": {}}
    fits = {"sum": data.fit("sum")}
    told = {k: _errors_of(table, data, k, predicted, fits) for k in dict.fromkeys(data.keys)}
    table.errors = {key: found for key, found in told.items() if found}


def _predicted(networks: Sequence[Network], predicted: Floats) -> list[Network]:
    """Return the networks with their predictions."""
    pairs = zip(networks, predicted.tolist(), strict=True)
    return [dataclasses.replace(n, predicted_ms=p) for n, p in pairs]


def _set_terms(table: LatencyTable, base: float, terms: Floats) -> None:
    table.base = round(base / TICK_MS)
    for placed, term in zip(list(table.rows), terms, strict=True):
        ticks = round(float(term) / TICK_MS)
        table.rows[placed] = dataclasses.replace(table.rows[placed], term=ticks)


def _ticked(table: LatencyTable, counts: Floats) -> Floats:
    """Return what the table predicts, by its whole ticks."""
    terms = np.array([row.term or 0 for row in table.rows.values()], dtype=np.float64)
    made: Floats = (table.base + counts @ terms) * TICK_MS
    return made


def _errors_of(
    table: LatencyTable,
    data: _Data,
    key: str,
    predicted: Floats,
    fits: dict[str, predict.Fit],
) -> dict[str, Any]:
    """Return a key's errors over held-out and uniform networks: of the fit, the others, the noise."""
    out = {}
    for role in ("held_out", "uniform"):
        chosen = data.select(key, role)
        if not len(chosen):
            continue
        networks = [data.networks[i] for i in chosen]
        times, guesses = data.times[chosen], predicted[chosen]
        out[role] = {
            "fit": _plain(guesses, times),
            "noise_floor": _plain(_again(networks), times),
            "coverage_90": _coverage_by_others(table.residuals, (times / guesses - 1).tolist())
            if data.too_few
            else _coverage(table, guesses, times),
            "bands": _bands(guesses, times),
            **{
                name: _plain(made.predict(data.counts[chosen]), times)
                for name, made in fits.items()
            },
        }
    return out


def _plain(predicted: Floats, measured: Floats) -> dict[str, Any]:
    return dataclasses.asdict(predict.errors(predicted, measured))


def _again(networks: Sequence[Network]) -> Floats:
    return np.array([n.ms if n.again_ms is None else n.again_ms for n in networks])


def _coverage(table: LatencyTable, predicted: Floats, measured: Floats) -> float:
    """Return the share of networks inside their 90 % intervals."""
    low, high = table.bounds(0.9)
    inside = (measured >= predicted * (1 + low)) & (measured <= predicted * (1 + high))
    return float(inside.mean())


def _coverage_by_others(residuals: Sequence[float], own: Sequence[float]) -> float:
    """Return the share of networks inside the 90 % intervals of all others, where there is no fit.

    Args:
        residuals: of all networks, sorted; the intervals rest on them.
        own: those of the networks that are asked about.
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
    edges = np.geomspace(measured.min(), measured.max() * 1.0001, BANDS + 1)
    out = []
    for low, high in itertools.pairwise(edges.tolist()):
        inside = (measured >= low) & (measured < high)
        if inside.any():
            mape = float(np.abs(predicted[inside] / measured[inside] - 1).mean())
            entry = {"from_ms": round(low, 4), "to_ms": round(high, 4)}
            out.append({**entry, "n": int(inside.sum()), "mape": mape})
    return out
