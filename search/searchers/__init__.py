"""Search strategies, the order of their proposals, and the Ray Tune searcher that combines both.

A strategy proposes networks and receives results, and knows nothing of workers, folders or Ray. See
``docs/reference/searchers.md``.

Examples:
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

from search.searchers.base import Strategy
from search.searchers.creation import NAMES, create
from search.searchers.evolution import Evolution
from search.searchers.local import Local
from search.searchers.nsga2 import NSGA2
from search.searchers.proposals import Proposals
from search.searchers.tpe import TPE
from search.searchers.uniform import Random

if TYPE_CHECKING:
    from search.searchers.tune import Searcher


def __getattr__(name: str) -> Any:
    """Import the Ray Tune searcher on first access: nothing else needs Ray."""
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
