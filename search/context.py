"""The context that the steps of a search share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.console import Console
from search.distributed.worker import WorkerSetup
from search.problem import SearchProblem
from search.run_dir import RunDir
from search.settings import ExecutionOptions, ResolvedSettings

if TYPE_CHECKING:
    from lcnas.training.data import Data


@dataclass(frozen=True)
class SearchContext:
    """Settings, problem, data and places of a search."""

    settings: ResolvedSettings
    problem: SearchProblem
    data: Data
    run_dir: RunDir
    console: Console
    execution: ExecutionOptions

    def worker_setup(self, local: bool) -> WorkerSetup:
        """Return the environment of workers on this machine, or on a cluster."""
        return WorkerSetup.of(local, self.settings.blocks)
