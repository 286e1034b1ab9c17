"""From times of blocks and of whole networks to one term per block: all methods tried, and the one in use.

A network's latency is modelled as ``base + sum of one term per placed block``. Blocks cost differently inside
a network than alone (session overhead, layout changes at the borders, caches, fusion), so terms are fitted to
whole networks and shrunk toward the times of the blocks alone:

    term = prior + slope(kind) x (prior + overhead) + offset(kind) + (prior + overhead) x (smooth + own)

where ``prior`` is the time alone less the overhead of a session (for int8 what the block adds to a chain),
``smooth`` is a Gaussian process over the block's shape (channels in and out, side) and its settings,
``own`` is the block's own deviation, and everything has a normal prior whose widths are chosen by marginal
likelihood (SciPy). The model is linear and Gaussian, so the fit is one solve, and the prediction remains a
sum of terms. ``docs/explanation/prediction.md`` compares it with the other methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lcnas import blocks as vocabulary
from lcnas import cost
from lcnas.arch import PlacedBlock

Floats = NDArray[np.float64]
METHODS = ("sum", "affine_sum", "macs", "kinds", "networks", "shrunk")
_JITTER = 1e-9


@dataclass(frozen=True)
class BlockTimes:
    """Placed blocks with their times: the data on blocks that a fit begins with."""

    placed: tuple[PlacedBlock, ...]
    alone: Floats  # (blocks,) ms, measured alone; the session's overhead included
    inside: Floats  # (blocks,) ms that each should add to a network: alone less the overhead, or in context

    def features(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return the shape features (blocks, 4), in doublings, and the number of each block's kind."""
        shapes = [_shape_features(p) for p in self.placed]
        kinds: dict[tuple[object, ...], int] = {}
        numbers = [kinds.setdefault(kind_of(p), len(kinds)) for p in self.placed]
        return np.log2(np.array(shapes, dtype=np.float64)), np.array(numbers, dtype=np.int64)


def _shape_features(p: PlacedBlock) -> tuple[float, float, float, float]:
    height, width, channels = (*p.in_shape, 1, 1)[:3]
    return (
        channels,
        p.out_shape[-1],
        height * width,
        1 + cost.of(p).macs / (1 + cost.of(p).activations),
    )


_SIZES = ("width", "expanded", "middle", "widths")


def kind_of(p: PlacedBlock) -> tuple[object, ...]:
    """Return the kind of a block: its type and all settings except sizes."""
    fields = vocabulary.settings(p.block)
    settings = tuple((k, v) for k, v in fields.items() if k not in _SIZES)
    return (p.block.type, *settings, bool(fields.get("width", 1)))


@dataclass(frozen=True)
class Fit:
    """Base and terms, in ms."""

    method: str
    base: float
    terms: Floats  # (blocks,)
    settings: tuple[tuple[str, float], ...] = ()

    def predict(self, counts: Floats) -> Floats:
        """Return the latency of networks, given how often each block occurs in each, (networks, blocks)."""
        predicted: Floats = self.base + counts @ self.terms
        return predicted


def fit(
    method: str,
    blocks: BlockTimes,
    counts: Floats,
    measured: Floats,
    overhead: float,
    settings: Mapping[str, float] | None = None,
) -> Fit:
    """Return the terms by one of :data:`METHODS`.

    Args:
        method: "sum" (the naive sum), "affine_sum" (one affine correction of it), "macs" (affine in MACs),
            "kinds" (a slope and an offset for each kind of block), "networks" (terms from whole networks
            alone, with MACs and activations as the prior), "shrunk" (the full model).
        blocks: the placed blocks and their times.
        counts: (networks, blocks), how often each block occurs in each network.
        measured: (networks,) ms.
        overhead: time of entering a session, ms; part of the time of every block alone.
        settings: prior widths of an earlier fit; None: those that maximise the marginal likelihood.
    """
    if method == "sum":
        return Fit(method, 0.0, blocks.alone.copy())
    if method in ("affine_sum", "macs"):
        return _affine(method, blocks, counts, measured)
    return _Gaussian(method, blocks, counts, measured, overhead).fit(settings)


def _affine(method: str, blocks: BlockTimes, counts: Floats, measured: Floats) -> Fit:
    """Return base and slope by least squares of relative errors."""
    unit = blocks.alone if method == "affine_sum" else _macs(blocks)
    x = counts @ unit
    design = np.stack([np.ones_like(x), x], axis=1) / measured[:, None]
    (base, slope), *_ = np.linalg.lstsq(design, np.ones_like(x), rcond=None)
    return Fit(method, float(base), slope * unit)


def _macs(blocks: BlockTimes) -> Floats:
    return np.array([cost.of(p).macs for p in blocks.placed], dtype=np.float64) * 1e-6


class _Gaussian:
    """Linear Gaussian model of the terms; see the module's docstring."""

    NAMES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "kinds": ("slope", "offset", "slope_kind", "offset_kind", "noise"),
        "networks": ("slope", "offset", "slope_kind", "smooth", "own", "length", "noise"),
        "shrunk": (
            "slope", "offset", "slope_kind", "offset_kind", "smooth", "own", "length", "noise",
        ),
    }  # fmt: skip
    START: ClassVar[Mapping[str, float]] = {
        "slope": 0.2,  # relative
        "offset": 0.01,  # ms per block
        "slope_kind": 0.1,
        "offset_kind": 0.003,
        "smooth": 0.1,
        "own": 0.05,
        "length": 1.5,  # doublings
        "noise": 0.02,  # relative, of a measured network
    }

    def __init__(
        self, method: str, blocks: BlockTimes, counts: Floats, measured: Floats, overhead: float
    ) -> None:
        self.method = method
        self.used = np.flatnonzero(counts.any(axis=0))
        self.everything = np.arange(len(blocks.placed))
        self._gaps: dict[bool, tuple[Floats, Floats]] = {}  # cache of _pairs
        self.counts = counts
        self.measured = measured
        self.overhead = overhead
        self.features, self.kinds = blocks.features()
        self.prior = blocks.inside if method != "networks" else self._guess(blocks)
        self.scale = self.prior + (overhead if method != "networks" else 0.0)

    def _guess(self, blocks: BlockTimes) -> Floats:
        """Return times estimated from MACs and activations, scaled to the measured networks."""
        written = np.array([cost.of(p).activations for p in blocks.placed], dtype=np.float64) * 1e-6
        design = np.stack([_macs(blocks), written, np.ones(len(written))], axis=1)
        relative = (self.counts @ design) / self.measured[:, None]
        ridge = np.vstack([relative, 1e-3 * np.eye(3)])
        target = np.concatenate([np.ones(len(relative)), np.zeros(3)])
        from scipy.optimize import nnls

        times: Floats = np.maximum(design @ nnls(ridge, target)[0], 1e-4)
        return times

    def _pairs(self, every: bool) -> tuple[Floats, Floats]:
        """Return squared distances and equality of kind, of all blocks (or those used) to those used."""
        if every not in self._gaps:
            a = self.everything if every else self.used
            squares = np.zeros((len(a), len(self.used)))
            for feature in self.features.T:
                squares += (feature[a][:, None] - feature[self.used][None, :]) ** 2
            same = (self.kinds[a][:, None] == self.kinds[self.used][None, :]).astype(np.float64)
            self._gaps[every] = squares, same
        return self._gaps[every]

    def covariance(self, h: Mapping[str, float], every: bool = False) -> Floats:
        """Return the prior covariance of the terms of all blocks (or those used) with those used, ms^2."""
        a = self.everything if every else self.used
        squares, same = self._pairs(every)
        relative = h["slope"] ** 2 + h["slope_kind"] ** 2 * same
        if "smooth" in h:
            near = np.exp(squares * (-0.5 / h["length"] ** 2))
            relative += h["smooth"] ** 2 * near * (0.5 + 0.5 * same)
            relative += h["own"] ** 2 * (a[:, None] == self.used[None, :])
        relative *= self.scale[a][:, None] * self.scale[self.used][None, :]
        covariance: Floats = relative + (h["offset"] ** 2 + h.get("offset_kind", 0.0) ** 2 * same)
        return covariance

    def _joint(self, h: Mapping[str, float]) -> tuple[Floats, Floats]:
        """Return the relative covariance of the measured networks, and their relative residuals."""
        a = self.counts[:, self.used] / self.measured[:, None]
        base = (self.overhead + 0.02) ** 2 / np.outer(self.measured, self.measured)
        k = a @ self.covariance(h) @ a.T + base
        k[np.diag_indices_from(k)] += h["noise"] ** 2 + _JITTER
        residual = 1 - (self.counts @ self.prior + self.overhead) / self.measured
        return k, residual

    def _loss(self, logs: Floats) -> float:
        """Return the negative log marginal likelihood, with a weak penalty toward the starting values."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        h = dict(zip(self.NAMES[self.method], np.exp(logs), strict=True))
        k, residual = self._joint(h)
        try:
            factor = cho_factor(k, lower=True)
        except LinAlgError:
            return 1e9
        fit = residual @ cho_solve(factor, residual)
        penalty = ((logs - self._start()) ** 2).sum() / (2 * 1.5**2)
        return float(0.5 * fit + np.log(np.diag(factor[0])).sum() + penalty)

    def _start(self) -> Floats:
        return np.log([self.START[name] for name in self.NAMES[self.method]])

    def widths(self) -> dict[str, float]:
        """Return the prior widths that maximise the marginal likelihood."""
        from scipy.optimize import minimize

        result = minimize(self._loss, self._start(), method="L-BFGS-B", options={"maxiter": 25})
        return dict(zip(self.NAMES[self.method], np.exp(result.x).tolist(), strict=True))

    def fit(self, settings: Mapping[str, float] | None = None) -> Fit:
        """Return the posterior means of base and terms.

        Args:
            settings: the prior widths; None: those that maximise the marginal likelihood.
        """
        from scipy.linalg import cho_factor, cho_solve

        h = settings or self.widths()
        k, residual = self._joint(h)
        weights = cho_solve(cho_factor(k, lower=True), residual) / self.measured
        cross = self.covariance(h, every=True) @ self.counts[:, self.used].T
        base = self.overhead + (self.overhead + 0.02) ** 2 * weights.sum()
        widths = tuple((name, float(value)) for name, value in h.items())
        return Fit(self.method, float(base), self.prior + cross @ weights, widths)


# -- errors of a fit -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Errors of predictions against measurements, over a set of networks."""

    n: int
    mape: float  # mean absolute error, relative
    rmse: float  # ms
    within_5: float  # share within 5 %
    within_10: float
    tau: float  # Kendall
    tau_low: float  # 90 % interval, bootstrap over networks
    tau_high: float


def errors(predicted: Floats, measured: Floats, seed: int = 0) -> Errors:
    """Return the errors of predictions against measurements, both in ms."""
    off = predicted / measured - 1
    low, high = _tau_interval(predicted, measured, seed)
    return Errors(
        n=len(measured),
        mape=float(np.abs(off).mean()),
        rmse=float(np.sqrt(((predicted - measured) ** 2).mean())),
        within_5=float((np.abs(off) <= 0.05).mean()),
        within_10=float((np.abs(off) <= 0.10).mean()),
        tau=_tau(predicted, measured),
        tau_low=low,
        tau_high=high,
    )


def _tau(a: Floats, b: Floats) -> float:
    from scipy.stats import kendalltau

    value = float(kendalltau(a, b).statistic) if len(a) > 1 else 1.0
    return value if np.isfinite(value) else 0.0


def _tau_interval(a: Floats, b: Floats, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(200):
        sample = rng.integers(len(a), size=len(a))
        draws.append(_tau(a[sample], b[sample]))
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(low), float(high)


def cross_predictions(
    method: str,
    blocks: BlockTimes,
    counts: Floats,
    measured: Floats,
    overhead: float,
    settings: Mapping[str, float] | None = None,
    folds: int = 10,
) -> Floats:
    """Return for each network the prediction of a fit that has not seen it.

    All folds use the prior widths of the fit to all networks: they are a handful of numbers. Fitting them
    again in every fold makes no visible difference, and takes ten times as long.

    Args:
        method, blocks, counts, measured, overhead: see :func:`fit`.
        settings: the prior widths, if they are known already.
        folds: number of parts, each of which is predicted from the others.
    """
    out = np.empty(len(measured))
    settings = settings or dict(fit(method, blocks, counts, measured, overhead).settings) or None
    used = np.flatnonzero(counts.any(axis=0))  # no prediction contains another block's term
    blocks = BlockTimes(
        tuple(blocks.placed[i] for i in used), blocks.alone[used], blocks.inside[used]
    )
    counts = counts[:, used]
    order = np.random.default_rng(0).permutation(len(measured))
    for part in np.array_split(order, min(folds, len(measured))):
        kept = np.setdiff1d(order, part)
        fold = fit(method, blocks, counts[kept], measured[kept], overhead, settings)
        out[part] = fold.predict(counts[part])
    return out


def count_matrix(block_ids: Sequence[Sequence[int]], blocks: int) -> Floats:
    """Return how often each block occurs in each network, (networks, blocks).

    Args:
        block_ids: the numbers of each network's blocks; -1 is no block.
        blocks: number of blocks.
    """
    out = np.zeros((len(block_ids), blocks))
    for i, ids in enumerate(block_ids):
        for number in ids:
            if number >= 0:
                out[i, number] += 1
    return out
