"""Budgets over MACs and params."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lcnas import cost
from lcnas.budgets._budget import Budget
from lcnas.budgets._terms import Terms
from lcnas.spaces import Space


def macs(space: Space, max_macs: float, min_macs: float = 0, classes: int = 1000) -> Budget:
    """Return the budget of networks with at most ``max_macs`` multiply-accumulates, at their own resolutions.

    The count is exact for ``pplcnet``, ``pplcnet_tail`` and ``lcnet_next`` and for small spaces; in
    ``pplcnet_free`` and ``mobilenetv3`` there are too many different numbers of MACs, so
    ``count`` raises unless the budget is tight, and ``count_bounds`` returns an interval. Samples are always
    inside and uniform.

    Args:
        space: the networks.
        max_macs: maximum, or ``math.inf``.
        min_macs: minimum.
        classes: outputs of the last layer.

    Raises:
        BudgetError: no network meets the budget.
    """
    return _budget(space, max_macs, min_macs, classes, lambda c: c.macs, "MACs")


def params(space: Space, max_params: float, min_params: float = 0, classes: int = 1000) -> Budget:
    """Return the budget of networks with at most ``max_params`` trained values; see :func:`macs`."""
    return _budget(space, max_params, min_params, classes, lambda c: c.params, "params")


def _budget(
    space: Space,
    most: float,
    least: float,
    classes: int,
    figure: Callable[[cost.Cost], int],
    unit: str,
) -> Budget:
    entries = np.array(
        [figure(cost.of(placed)) for placed in space.placed_blocks(classes)], np.int64
    )
    terms = Terms(base=0, entries=entries, classes=classes)
    return Budget(space, terms, most, least, show=lambda ticks: f"{ticks:,} {unit}")
