"""Accuracy after a short training from scratch: the simplest evaluator, and the most expensive.

Each network is trained by the steps of :mod:`lcnas.training`, at the evaluator's training size instead of its
resolution, and validated as an ONNX graph: onnxruntime compiles nothing, whereas XLA would take seconds for
each network. Nothing is stored.
"""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lcnas import renamed
from lcnas.arch import Resolution
from lcnas.errors import LcnasError, TrainingFailedError, shorten
from lcnas.training.compilation import forget_programs, keep_programs
from lcnas.training.onnx_validation import check_size, state_accuracy
from lcnas.training.recipes import Recipe
from search.distributed.tuning import Workload
from search.evaluation import Candidate, Evaluation
from search.evaluators.context import EvaluatorContext
from search.packed import PackedImages, unpack
from search.recipes import search_recipe

if TYPE_CHECKING:
    from lcnas.training.job import TrainingJob
    from lcnas.training.step import State, StepReport

_AHEAD = 4  # steps in flight before one is awaited
_CLEARED = 10  # networks after which JAX forgets its compiled programs
_TRIES = 2  # tries of a network that runs out of memory


@dataclass(frozen=True)
class TrainSpec:
    """How networks are trained."""

    train_size: Resolution  # pixels, of training and validation
    recipe: Recipe  # its own resolutions do not count
    seed: int = 0  # with a candidate's number, the seed of all its draws
    cache: str | None = None  # folder of compiled programs; None: none are kept


def prepare(context: EvaluatorContext) -> Workload:
    """Return the evaluator's workload for a search."""
    settings = context.settings
    recipe = search_recipe(context.images, settings.epochs or 1)
    context.console.detail(
        f"train: each network from scratch, {recipe.epochs} epochs of "
        f"{len(context.images.train_labels):,} images at {context.train_size} px, batch {recipe.batch}"
    )
    # Each network has its own program, worth keeping only if the final trainings use it again.
    cache = context.cache if settings.trains_alike else None
    spec = TrainSpec(context.train_size, recipe, settings.seed, cache)
    return context.workload(create, spec)


def create(spec: TrainSpec, images: PackedImages) -> TrainEvaluator:
    """Return the evaluator, for use in this process.

    Raises:
        DataError: a batch of the recipe has more images than there are.
        TrainingFailedError: the recipe needs a teacher.
    """
    return TrainEvaluator(spec, images)


class TrainEvaluator:
    """Trains each network for a few epochs."""

    def __init__(self, spec: TrainSpec, images: PackedImages) -> None:
        sizes = {"resolution": spec.train_size, "train_resolution": None}
        self.recipe = spec.recipe.override(sizes)
        self.spec = spec
        self.tried = 0  # networks
        self.data = unpack(images)
        self.data.train.steps(self.recipe.batch)
        if self.recipe.needs_teacher:
            raise TrainingFailedError(
                f"evaluator train: the recipe {self.recipe.name} needs a teacher"
            )
        keep_programs(spec.cache)

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Return an evaluation for each candidate."""
        return [self._evaluate(candidate) for candidate in candidates]

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        began = time.monotonic()
        reason = ""
        for _ in range(_TRIES):
            training = self._train(candidate)
            self._clean_up()
            if isinstance(training, _ShortTraining):
                return training.evaluation(time.monotonic() - began)
            reason = str(training)
            if not isinstance(training, _OutOfMemoryError):
                break
            forget_programs()
        return Evaluation(None, reason, time.monotonic() - began)

    def _clean_up(self) -> None:
        """Free the memory of a network: each has some MB of programs that no other network uses."""
        self.tried += 1
        if self.tried % _CLEARED == 0:
            forget_programs()
        gc.collect()

    def _train(self, candidate: Candidate) -> _ShortTraining | LcnasError:
        """Return the finished training, or why it failed."""
        import jax

        try:
            training = _ShortTraining()
            training.run(self._job(candidate), candidate.stop_below)
        except LcnasError as error:
            return error
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            # Only the text is kept: the error itself would keep all the memory alive.
            text = str(error).partition("\n")[0]
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
                return _OutOfMemoryError("out of memory, twice")
            return TrainingFailedError(f"JAX: {shorten(text, 200)}")
        return training

    def _job(self, candidate: Candidate) -> TrainingJob:
        from lcnas.training.devices import Devices
        from lcnas.training.job import prepared

        check_size(candidate.arch, self.spec.train_size, self.data.classes)
        seed = draw_seed(self.spec.seed, candidate.number, candidate.attempt)
        return prepared(candidate.arch, self.data, self.recipe, seed, None, (), None, Devices(None))


class _OutOfMemoryError(LcnasError):
    """Memory was exhausted."""


def draw_seed(seed: int, number: int, attempt: int = 0) -> int:
    """Return the seed of a candidate's draws, 0 to 2^31 - 1; each attempt has its own."""
    words = [seed, number, attempt] if attempt else [seed, number]
    (word,) = np.random.SeedSequence(words).generate_state(1)
    return int(word) >> 1


# -- a training ------------------------------------------------------------------------------------


@dataclass
class _ShortTraining:
    """The training of one network, epoch by epoch."""

    curve: list[float] = field(default_factory=list)  # validation accuracy after each epoch
    stopped: int | None = None  # epochs after which it was stopped
    compile_seconds: float = 0.0  # the first step included
    train_seconds: float = 0.0  # the other steps
    evaluate_seconds: float = 0.0
    images: int = 0  # of the other steps

    def run(self, job: TrainingJob, stop_below: Sequence[float]) -> None:
        """Train to the end, or until it is stopped."""
        state = job.start()
        for epoch in range(job.recipe.epochs):
            state = self._epoch(job, state, epoch)
            began = time.monotonic()
            self.curve.append(state_accuracy(job, state))
            self.evaluate_seconds += time.monotonic() - began
            if epoch + 1 < job.recipe.epochs and _is_hopeless(self.curve[-1], stop_below, epoch):
                self.stopped = epoch + 1
                break

    def _epoch(self, job: TrainingJob, state: State, epoch: int) -> State:
        first = epoch * job.length.epoch_steps
        began = time.monotonic()
        in_flight: deque[StepReport] = deque()
        batches = job.data.train.batches(job.recipe.batch, seed=job.identity.seed, epoch=epoch)
        for number, batch in enumerate(batches, first):
            state, report = job.step(state, number, batch)
            if number == 0:
                report.norm.block_until_ready()
                self.compile_seconds = time.monotonic() - began
                began = time.monotonic()
            in_flight.append(report)
            if len(in_flight) > _AHEAD:
                in_flight.popleft().norm.block_until_ready()
        _check_loss(in_flight[-1], epoch)
        self.train_seconds += time.monotonic() - began
        self.images += (job.length.epoch_steps - (epoch == 0)) * job.recipe.batch
        return state

    def evaluation(self, seconds: float) -> Evaluation:
        """Return the evaluation."""
        details: dict[str, Any] = {
            "curve": self.curve,
            "epochs": len(self.curve),
            "images_s": round(self.images / max(self.train_seconds, 1e-9), 1),
            "compile_seconds": round(self.compile_seconds, 3),
            "train_seconds": round(self.train_seconds, 3),
            "evaluate_seconds": round(self.evaluate_seconds, 3),
        }
        if self.stopped is not None:
            details["stopped"] = self.stopped
        return Evaluation(self.curve[-1], "", seconds, details)


def _check_loss(last: StepReport, epoch: int) -> None:
    loss = float(last.epoch.loss) / max(int(last.epoch.steps), 1)
    if not math.isfinite(loss):
        raise TrainingFailedError(f"the loss is {loss} in epoch {epoch + 1}")


def _is_hopeless(accuracy: float, stop_below: Sequence[float], epoch: int) -> bool:
    return epoch < len(stop_below) and accuracy < stop_below[epoch]


__getattr__ = renamed.in_module(__name__, {"Spec": "TrainSpec", "Evaluator": "TrainEvaluator"})
