"""Width buckets: smaller maximal networks, so that small networks do not cost as much as the largest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import walk
from lcnas.models.supernet._plan import SupernetPlan

Widths = tuple[int, ...]  # of the stem and of each stage

_LEVELS = 3  # candidate widths per stage, spread evenly over its choices
_MOST = 20_000  # candidate buckets
# MACs that take as long as reading and writing one value of a map: in a train step on a CPU
# (PP-LCNet 0.5x, 64 px) a fifth is matrix products, the rest reads and writes maps.
_MACS_A_VALUE = 128


def choose(
    plan: SupernetPlan, count: int, sample_widths: NDArray[np.int64], depths: NDArray[np.int64]
) -> tuple[Widths, ...]:
    """Return at most ``count`` buckets, cheapest first; the last one holds every network.

    The others are chosen one by one, each to minimise the cost of a sample of networks, each of which
    runs in the cheapest bucket that holds it.

    Args:
        plan: plan of the space.
        count: maximum number of buckets.
        sample_widths: widths of the sample's networks, (n, 1 + stages).
        depths: blocks of each stage, (n, stages).
    """
    whole = plan.widest
    candidates = _candidates(plan)
    cost = np.array([_cost(plan, widths, depths.mean(axis=0)) for widths in candidates])
    holds = (sample_widths[None] <= np.array(candidates)[:, None]).all(axis=2)  # (candidates, n)
    costs_in = np.where(holds, cost[:, None], np.inf)
    best = np.full(len(sample_widths), _cost(plan, whole, depths.mean(axis=0)))
    chosen = [whole]
    for _ in range(count - 1):
        totals = np.minimum(costs_in, best).sum(axis=1)
        pick = int(totals.argmin())
        if totals[pick] >= best.sum() * 0.98:  # not worth compiling another program
            break
        chosen.append(candidates[pick])
        best = np.minimum(best, costs_in[pick])
    return tuple(sorted(chosen, key=lambda w: _cost(plan, w, depths.mean(axis=0))))


def _candidates(plan: SupernetPlan) -> list[Widths]:
    """Return the combinations of a few widths per stage."""
    parts = [plan.stem.widths, *(stage.widths for stage in plan.stages)]
    levels = _LEVELS
    while levels > 1 and levels ** len(parts) > _MOST:
        levels -= 1
    return list(itertools.product(*(_spread(widths, levels) for widths in parts)))


def _spread(widths: Sequence[int], levels: int) -> list[int]:
    n = len(widths)
    return sorted({widths[-(-n * (i + 1) // levels) - 1] for i in range(levels)})


def _cost(plan: SupernetPlan, widths: Widths, depths: NDArray[np.float64]) -> float:
    """Return the cost of a network of these widths and (mean) depths, in MACs at 64 x 64 pixels."""
    placed = iter(walk(plan.arch(widths, 64)))
    stem = next(placed)
    total = _weighted(stem.out_shape, 27)
    for stage, depth in zip(plan.stages, depths, strict=True):
        for j in range(len(stage.places)):
            block = next(placed)
            share = float(np.clip(depth - j, 0, 1))
            between = (*block.out_shape[:2], block.in_shape[2])
            total += share * (_weighted(between, 9) + _weighted(block.out_shape, block.in_shape[2]))
    return total


def _weighted(shape: Sequence[int], macs: int) -> float:
    values = float(np.prod(shape))
    return values * (macs + _MACS_A_VALUE)
