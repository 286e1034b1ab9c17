"""Fitting a table's terms to the whole networks in it, and stating how wrong they are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.latency import predict
from lcnas.latency.table import TICK_MS, LatencyTable, Network

Floats = NDArray[np.float64]
FEWEST = 20  # networks to fit, below which the blocks alone are summed
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
        self.fitted = np.array([n.role == "calibration" for n in self.networks], dtype=bool)

    def fit(self, method: str) -> predict.Fit:
        """Return a method's fit to the calibration networks."""
        counts, times = self.counts[self.fitted], self.times[self.fitted]
        return predict.fit(method, self.rows, counts, times, self.overhead)

    def cross(self, method: str) -> Floats:
        """Return the calibration networks' latencies by fits that have not seen them."""
        counts, times = self.counts[self.fitted], self.times[self.fitted]
        return predict.cross_predictions(method, self.rows, counts, times, self.overhead)

    def select(self, space: str, role: str) -> NDArray[np.int64]:
        """Return the numbers of the networks of a space and a role."""
        return np.array(
            [i for i, n in enumerate(self.networks) if (n.space, n.role) == (space, role)],
            dtype=np.int64,
        )


def refit(table: LatencyTable, method: str = "shrunk") -> None:
    """Fit the table's terms to its calibration networks; note every prediction and all errors in it."""
    data = _Data(table)
    if data.fitted.sum() < FEWEST:
        _set_terms(table, table.overhead_ms, data.rows.inside)
        table.residuals, table.errors = (), {}
        table.method = {**table.method, "fit": "sum", "settings": {}}
        return
    made = data.fit(method)
    _set_terms(table, made.base, made.terms)
    predicted = _ticked(table, data.counts)
    predicted[data.fitted] = data.cross(method)
    table.networks = [
        dataclasses.replace(n, predicted_ms=float(p))
        for n, p in zip(data.networks, predicted, strict=True)
    ]
    off = data.times[data.fitted] / predicted[data.fitted] - 1
    table.residuals = tuple(sorted(off.tolist()))
    table.method = {**table.method, "fit": method, "settings": dict(made.settings)}
    fits = {name: made if name == method else data.fit(name) for name in predict.METHODS}
    table.errors = {
        space: _errors_of(table, data, space, predicted, fits)
        for space in dict.fromkeys(n.space for n in data.networks)
    }


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
    space: str,
    predicted: Floats,
    fits: dict[str, predict.Fit],
) -> dict[str, Any]:
    """Return a space's errors over held-out and uniform networks: of the fit, the others, the noise."""
    out = {}
    for role in ("held_out", "uniform"):
        chosen = data.select(space, role)
        if len(chosen) < 2:
            continue
        networks = [data.networks[i] for i in chosen]
        times, guesses = data.times[chosen], predicted[chosen]
        out[role] = {
            "fit": _plain(guesses, times),
            "noise_floor": _plain(_again(networks), times),
            "coverage_90": _coverage(table, guesses, times),
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
