"""The context that a search prepares its evaluator in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lcnas.arch import Resolution
from search.console import Console
from search.distributed.tuning import Workload
from search.distributed.worker import WorkerSetup
from search.packed import PackedImages
from search.problem import SearchProblem
from search.registry import EVALUATORS
from search.run_dir import CACHE, RunDir
from search.settings import ResolvedSettings


@dataclass(frozen=True)
class EvaluatorContext:
    """What an evaluator may use in its ``prepare(context)``, in the process of the search."""

    settings: ResolvedSettings
    problem: SearchProblem
    images: PackedImages  # training and validation images
    run_dir: RunDir
    console: Console
    worker_setup: WorkerSetup

    @property
    def train_size(self) -> Resolution:
        """Training size of the evaluator, pixels."""
        return self.settings.train_size or self.images.size

    @property
    def cache(self) -> str:
        """The folder of compiled programs."""
        return str(self.run_dir / CACHE)

    def workload(self, create: Callable[[Any, PackedImages], Any], spec: Any) -> Workload:
        """Return the workload of an evaluator.

        Args:
            create: ``create(spec, images)`` returns a :class:`search.evaluation.Evaluator`, in a worker.
            spec: any object that can be pickled.
        """
        return Workload(create, spec, self.images, self.worker_setup)


def prepare(context: EvaluatorContext) -> Workload:
    """Return the workload of the evaluator that the settings name; Ray must be running."""
    workload: Workload = EVALUATORS.load(context.settings.evaluator)(context)
    return workload
