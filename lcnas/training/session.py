"""The steps of one process: their metrics, the status saved with a checkpoint, and errors."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from lcnas.errors import TrainingFailedError
from lcnas.training import run
from lcnas.training.checkpoints import Checkpoints
from lcnas.training.data import Batch
from lcnas.training.evaluation import Scores
from lcnas.training.job import TrainingJob
from lcnas.training.metrics import Log, ProgressBar
from lcnas.training.recipes import Recipe
from lcnas.training.step import Length, State, StepReport

_AHEAD = 4  # steps in flight before the oldest is waited for


@dataclass
class TrainingStatus:
    """Progress of a training, saved with each checkpoint."""

    step: int = 0  # steps done
    best_step: int | None = None
    best_epoch: int = 0  # counted from 1
    best_accuracy: float = -1.0
    seconds: float = 0.0  # training time

    def better(self, epoch: int, accuracy: float) -> bool:
        """Record an epoch's accuracy; return whether it is the best so far (ties go to the later epoch)."""
        if accuracy < self.best_accuracy:
            return False
        self.best_step, self.best_epoch, self.best_accuracy = self.step, epoch, accuracy
        return True


@dataclass
class TrainingSession:
    """One process's part of a training: its steps and their metrics."""

    job: TrainingJob
    log: Log
    progress: ProgressBar
    out: Path
    status: TrainingStatus
    last: StepReport | None = None
    compile_seconds: dict[str, float] = field(default_factory=dict)
    in_flight: deque[jax.Array] = field(default_factory=deque)
    pending: deque[tuple[int, StepReport, float]] = field(default_factory=deque)
    clock: float = 0.0  # start of the interval being timed; 0: none
    window: tuple[int, float] = (0, 0.0)  # step and time of the last line of metrics

    def step(self, state: State, batch: Batch) -> State:
        """Take a step, and log the windows that ended some steps before."""
        if "step" not in self.compile_seconds:
            self.progress.write_line(
                "compiling: step (seconds to a minute, unless it is in the cache)"
            )
        began = time.monotonic()
        state, self.last = self.job.step(state, self.status.step, batch)
        if "step" not in self.compile_seconds:
            self._compiled("step", time.monotonic() - began)
            self.progress.begin()
            self.clock = time.monotonic()
            self.window = (self.status.step, self.clock)
        elif not self.clock:
            self.clock = began
        self.status.step += 1
        self._wait(self.last)
        if self.status.step % self.job.recipe.log_steps == 0:
            self.pending.append((self.status.step, self.last, time.monotonic()))
        while self.pending and self.pending[0][0] <= self.status.step - _AHEAD:
            self._log_window(*self.pending.popleft())
        self.progress.step(self.status.step)
        return state

    def _wait(self, report: StepReport) -> None:
        """Wait for an earlier step, so that at most a few are in flight."""
        self.in_flight.append(report.norm)
        if len(self.in_flight) > _AHEAD:
            self.in_flight.popleft().block_until_ready()

    def _compiled(self, what: str, seconds: float) -> None:
        self.compile_seconds[what] = seconds
        self.progress.write_line(f"compiled: {what}, {seconds:.1f} s (including the first run)")
        if self.job.devices.leads:
            about = {"from_step": self.status.step, "what": what, "compile_seconds": seconds}
            run.append(self.out / run.SESSIONS, {**about, **run.surroundings()})

    def _log_window(self, at: int, report: StepReport, when: float) -> None:
        """Write the metrics of the window that ends with a step."""
        recipe = self.job.recipe
        sums = jax.device_get(report.window)
        loss = float(sums.loss) / max(int(sums.steps), 1)
        check_loss(loss, at, recipe, self.job.length)
        since, began = self.window
        images_s = (at - since) * recipe.batch / max(when - began, 1e-9)
        self.window = (at, when)
        values = {
            "epoch": (at - 1) // self.job.length.epoch_steps + 1,
            "loss": loss,
            "accuracy": int(sums.correct) / max(int(sums.labelled), 1),
            "learning_rate": float(report.learning_rate),
            "gradient_norm": float(report.norm),
        }
        self.log.write("step", at, {**values, "images_s": images_s})
        self.progress.step(at, f"loss {loss:.4f}, {images_s:,.0f} images/s")

    def drain(self) -> None:
        """Wait for the steps in flight, and log their windows."""
        while self.pending:
            self._log_window(*self.pending.popleft())
        if self.last is not None:
            self.last.norm.block_until_ready()
        if self.clock:
            self.status.seconds += time.monotonic() - self.clock
            self.clock = 0.0

    def end_epoch(self, state: State, epoch: int) -> None:
        """Evaluate on the validation images, and write the epoch's metrics."""
        self.drain()
        recipe = self.job.recipe
        if self.last is None:
            return
        sums = jax.device_get(self.last.epoch)
        loss = float(sums.loss) / max(int(sums.steps), 1)
        check_loss(loss, self.status.step, recipe, self.job.length)
        values: dict[str, Any] = {
            "epoch": epoch + 1,
            "train_loss": loss,
            "train_accuracy": int(sums.correct) / max(int(sums.labelled), 1),
        }
        text = f"epoch {epoch + 1}/{recipe.epochs}  train loss {loss:.4f}"
        if (epoch + 1) % recipe.evaluate_epochs == 0 or epoch + 1 == recipe.epochs:
            scores = self._validated(state)
            best = self.status.better(epoch + 1, scores.accuracy)
            values |= {f"validation_{k}": v for k, v in scores.to_data().items()}
            text += f", validation {scores}{', the best so far' if best else ''}"
        self.log.write(
            "epoch", self.status.step, {**values, "seconds": round(self.status.seconds, 3)}
        )
        self.progress.write_line(text)
        self.window = (self.status.step, time.monotonic())

    def _validated(self, state: State) -> Scores:
        began = time.monotonic()
        scores = self.job.scores(state, self.job.data.validation)
        if "evaluation" not in self.compile_seconds:
            self._compiled("evaluation", time.monotonic() - began)
        return scores

    def save(self, checkpoints: Checkpoints, state: State) -> None:
        """Save a checkpoint, after the metrics that it relies on are on the disk."""
        self.drain()
        if self.last is not None:
            sums = jax.device_get(self.last.window)
            mean = float(sums.loss) / max(int(sums.steps), 1)
            check_loss(mean, self.status.step, self.job.recipe, self.job.length)
        self.log.sync()
        checkpoints.save(state, dataclasses.asdict(self.status), self.status.best_step)


# -- errors ----------------------------------------------------------------------------------------


def check_loss(loss: float, at: int, recipe: Recipe, length: Length) -> None:
    """Raise TrainingFailedError for a loss that is not finite, with settings to try."""
    if math.isfinite(loss):
        return
    epoch = (at - 1) // length.epoch_steps + 1
    hints = [f"a lower learning rate (--learning-rate {recipe.learning_rate / 3:.2g})"]
    if recipe.warmup_epochs < 5 < recipe.epochs:
        hints.append("a longer warm-up (--warmup-epochs 5)")
    if not recipe.clip:
        hints.append("clipped gradients (--clip 1)")
    if recipe.precision != "float32":
        hints.append("--precision float32")
    raise TrainingFailedError(
        f"the loss is {loss} at step {at} (epoch {epoch}); try {', '.join(hints)}, in another folder"
    )


@contextlib.contextmanager
def memory(recipe: Recipe) -> Iterator[None]:
    """Context that raises TrainingFailedError if memory runs out, with settings to lower."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingFailedError(
            f"out of memory; reduce the memory of a step: --accumulate {2 * recipe.accumulate} takes the "
            f"batch of {recipe.batch} in more parts, --batch {max(recipe.batch // 2, 1)} makes it "
            "smaller (lower the learning rate in proportion), --precision bfloat16 and a smaller "
            "--train-resolution halve the activations"
        ) from error
