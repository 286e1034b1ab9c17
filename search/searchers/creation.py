"""Creation of a strategy by its name."""

from __future__ import annotations

from typing import Any

from lcnas.budgets import Budget
from search.registry import SEARCHERS
from search.searchers.base import Strategy, check_options, checked_integer

NAMES = tuple(SEARCHERS.builtin)


def create(name: str, budget: Budget, seed: int, *, trials: int, **options: Any) -> Strategy:
    """Return a fresh strategy.

    Args:
        name: one of :data:`NAMES`, or any name that :data:`search.registry.SEARCHERS` knows.
        budget: the networks; nothing outside it is proposed.
        seed: seed of draws that are made in advance.
        trials: number of networks that will be asked for; sizes of populations follow from it.
        **options: options of the strategy, such as ``population``; see its class.

    Raises:
        SearchError: no such strategy, no such option, or a value that it cannot have.

    Examples:
        >>> import numpy as np
        >>> from lcnas import budgets, spaces
        >>> from search import searchers
        >>> budget = budgets.macs(spaces.load("pplcnet"), max_macs=100e6)
        >>> searcher = searchers.create("nsga2", budget, seed=0, trials=60)
        >>> budget.inside(searcher.ask(np.random.default_rng(0))[None]).tolist()
        [True]
    """
    strategy_class: Any = SEARCHERS.load(name)
    check_options(name, strategy_class, options)
    strategy: Strategy = strategy_class(
        budget,
        checked_integer("seed", seed, 0),
        trials=checked_integer("trials", trials, 1),
        **options,
    )
    return strategy
