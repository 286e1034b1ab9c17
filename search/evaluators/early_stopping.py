"""Early stopping of short trainings that are worse than the median of their latency band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcnas.budgets import bands
from search.trials import Trial


def limits(
    trials: Sequence[Trial],
    edges: Sequence[float],
    latency_ms: float,
    *,
    quantile: float = 0.5,
    least: int = 5,
) -> tuple[float, ...]:
    """Return the accuracy after each epoch below which a new network is stopped; (): never.

    The median stopping rule (Golovin et al. 2017, "Google Vizier", section 3.2.2): a network continues unless
    it is worse than the median, over finished trainings, of the mean accuracy up to the same epoch. Only
    trainings of the same latency band count, so that fast networks are not compared with slow ones. No
    network is stopped after the first epoch, which says little, or after the last.

    Args:
        trials: known trials; failed and stopped ones do not count.
        edges: borders of the latency bands, ms, rising, (bands + 1,).
        latency_ms: latency of the new network.
        quantile: quantile in place of the median; lower ones stop fewer networks.
        least: finished trainings in the band before any network is stopped.
    """
    band = int(bands.band_of(edges, latency_ms))
    curves = [
        c
        for t in trials
        if int(bands.band_of(edges, t.latency_ms)) == band and (c := _full_curve(t))
    ]
    length = max(map(len, curves), default=0)
    full = [c for c in curves if len(c) == length]
    if len(full) < least or length < 3:
        return ()
    means = np.cumsum(full, axis=1) / np.arange(1, length + 1)
    lowest = np.quantile(means, quantile, axis=0)
    return (0.0, *map(float, lowest[1:-1]), 0.0)


def _full_curve(trial: Trial) -> list[float]:
    """Return a trial's curve; empty if its training did not finish."""
    if trial.failed or trial.details.get("stopped") is not None:
        return []
    return [float(v) for v in trial.details.get("curve", ())]
