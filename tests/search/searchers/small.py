"""A small budget, and evaluations that cost nothing."""

from __future__ import annotations

import functools

import numpy as np

from lcnas import budgets, spaces
from search.trials import Trial
from tests.spaces.small import KINDS, NETWORK_WIDE, PER_BLOCK

TEXTS = {"per_block": PER_BLOCK, "kinds": KINDS, "network_wide": NETWORK_WIDE}


@functools.cache
def budget(name="per_block", share=1.0):
    """Return the budget of a small space: MACs in thousands, so that ticks are like microseconds."""
    space = spaces.loads(TEXTS[name], name)
    whole = budgets.macs(space, max_macs=10**12)
    costs = np.sort(whole.costs(whole.space.encode(list(space.enumerate()))))
    low, high = costs[len(costs) // 20], costs[int((len(costs) - 1) * share)]
    return budgets.macs(space, max_macs=int(high), min_macs=int(low))


def accuracy(codes):
    """Return an accuracy that depends on the codes alone, with interactions."""
    c = np.asarray(codes, dtype=float)
    weights = np.cos(np.arange(len(c)) * 1.7)
    return float(np.tanh(0.2 * c @ weights) + 0.1 * np.sin(3 * c.sum() + c[0]))


def trial(budget, number, codes, failed=()):
    """Return the trial of a proposal."""
    value = None if number in failed else accuracy(codes)
    ms = float(budget.costs(codes[None])[0]) / 1000
    reason = "" if value is not None else "no number"
    return Trial(number, tuple(codes.tolist()), f"id{number}", ms, value, reason)
