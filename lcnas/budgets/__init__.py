"""Dynamic programs over additive integer costs: exact counts, samples and best networks of a budget.

Examples:
    >>> import numpy as np
    >>> from lcnas import budgets, spaces
    >>> space = spaces.load("pplcnet_tail")
    >>> budget = budgets.macs(space, max_macs=100e6)
    >>> budget.count()
    21306861694
    >>> budget.sample(np.random.default_rng(0)) in budget
    True
"""

from __future__ import annotations

from lcnas.budgets._budget import Budget
from lcnas.budgets._figures import macs, params
from lcnas.budgets._terms import Terms
from lcnas.errors import BudgetError, EmptyBandWarning

__all__ = ["Budget", "Terms", "macs", "params", "BudgetError", "EmptyBandWarning"]
