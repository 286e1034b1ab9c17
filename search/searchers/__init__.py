"""Search strategies, the order in which they are asked, and the Ray Tune searcher made of both.

A strategy is asked for networks and told results, and knows nothing of workers, folders or Ray. See
``docs/searchers.md``.

Example:
    >>> import numpy as np
    >>> from lcnas import budgets, spaces
    >>> from search import searchers
    >>> budget = budgets.macs(spaces.load("pplcnet"), max_macs=100e6)
    >>> strategy = searchers.create("nsga2", budget, seed=0, trials=100)
    >>> bool(budget.inside(strategy.ask(np.random.default_rng(0))).all())
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcnas.budgets import Budget
from lcnas.errors import not_among
from search.errors import SearchError
from search.searchers.base import Strategy, check_options, whole
from search.searchers.evolution import Evolution
from search.searchers.local import Local
from search.searchers.nsga2 import NSGA2
from search.searchers.proposals import Proposals
from search.searchers.tpe import TPE
from search.searchers.uniform import Random

if TYPE_CHECKING:
    from search.searchers.tune import Searcher

_STRATEGIES: dict[str, type[Strategy]] = {
    "nsga2": NSGA2,
    "evolution": Evolution,
    "tpe": TPE,
    "random": Random,
    "local": Local,
}
NAMES = tuple(_STRATEGIES)


def create(name: str, budget: Budget, seed: int, *, trials: int, **options: Any) -> Strategy:
    """Return a fresh strategy.

    Args:
        name: one of :data:`NAMES`.
        budget: the networks; nothing outside it is proposed.
        seed: of draws that are made in advance.
        trials: how many networks will be asked for; sizes of populations follow from it.
        **options: of the strategy's own, such as ``population``; see its class.

    Raises:
        SearchError: no such strategy, no such option, or a value that it cannot have.
    """
    if name not in _STRATEGIES:
        raise SearchError(not_among("searcher", name, NAMES))
    strategy: Any = _STRATEGIES[name]
    check_options(name, strategy, options)
    made: Strategy = strategy(
        budget, whole("seed", seed, 0), trials=whole("trials", trials, 1), **options
    )
    return made


def __getattr__(name: str) -> Any:
    """Load the Ray Tune searcher when it is asked for: all else does without Ray."""
    if name == "Searcher":
        from search.searchers.tune import Searcher

        return Searcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "NAMES",
    "create",
    "Strategy",
    "Proposals",
    "Searcher",
    "NSGA2",
    "Evolution",
    "TPE",
    "Random",
    "Local",
]
