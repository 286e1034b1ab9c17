"""The steps of one process: what is told of them, what is stored beside a state, and faults."""

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
from lcnas.training.job import Job
from lcnas.training.metrics import Log, Progress
from lcnas.training.recipes import Recipe
from lcnas.training.step import Length, Report, State

_AHEAD = 4  # steps that may be under way before one is waited for


@dataclass
class Past:
    """What is stored beside a state."""

    step: int = 0  # steps done
    best_step: int | None = None
    best_epoch: int = 0  # counted from 1
    best_accuracy: float = -1.0
    seconds: float = 0.0  # of training

    def better(self, epoch: int, accuracy: float) -> bool:
        """Note an epoch's accuracy; return whether it is the best so far (the later one of equals)."""
        if accuracy < self.best_accuracy:
            return False
        self.best_step, self.best_epoch, self.best_accuracy = self.step, epoch, accuracy
        return True


@dataclass
class Session:
    """One process's part of a training: steps, and what is told of them."""

    job: Job
    log: Log
    progress: Progress
    out: Path
    past: Past
    last: Report | None = None
    compile_seconds: dict[str, float] = field(default_factory=dict)
    flying: deque[jax.Array] = field(default_factory=deque)
    due: deque[tuple[int, Report, float]] = field(default_factory=deque)
    clock: float = 0.0  # when the work that is timed now began
    window: tuple[int, float] = (0, 0.0)  # step and time at the last line

    def step(self, state: State, batch: Batch) -> State:
        """Take a step, and look at those that are some steps back."""
        if "step" not in self.compile_seconds:
            self.progress.say(
                "compiling: step (seconds to a minute, unless it is kept from before)"
            )
        began = time.monotonic()
        state, self.last = self.job.step(state, self.past.step, batch)
        if "step" not in self.compile_seconds:
            self._compiled("step", time.monotonic() - began)
            self.progress.begin()
            self.clock = time.monotonic()
            self.window = (self.past.step, self.clock)
        elif not self.clock:
            self.clock = began
        self.past.step += 1
        self._wait(self.last)
        if self.past.step % self.job.recipe.log_steps == 0:
            self.due.append((self.past.step, self.last, time.monotonic()))
        while self.due and self.due[0][0] <= self.past.step - _AHEAD:
            self._tell(*self.due.popleft())
        self.progress.step(self.past.step)
        return state

    def _wait(self, report: Report) -> None:
        """Wait for the step before the last few, so that no more than these are under way."""
        self.flying.append(report.norm)
        if len(self.flying) > _AHEAD:
            self.flying.popleft().block_until_ready()

    def _compiled(self, what: str, seconds: float) -> None:
        self.compile_seconds[what] = seconds
        self.progress.say(f"compiled: {what}, {seconds:.1f} s (the first run included)")
        if self.job.devices.leads:
            about = {"from_step": self.past.step, "what": what, "compile_seconds": seconds}
            run.append(self.out / run.SESSIONS, {**about, **run.surroundings()})

    def _tell(self, at: int, report: Report, when: float) -> None:
        """Write the line of the window that ends with a step."""
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
        """Read all that is still under way."""
        while self.due:
            self._tell(*self.due.popleft())
        if self.last is not None:
            self.last.norm.block_until_ready()
        if self.clock:
            self.past.seconds += time.monotonic() - self.clock
            self.clock = 0.0

    def end_epoch(self, state: State, epoch: int) -> None:
        """Look at the validation images, and write the epoch's line."""
        self.drain()
        recipe = self.job.recipe
        if self.last is None:
            return
        sums = jax.device_get(self.last.epoch)
        loss = float(sums.loss) / max(int(sums.steps), 1)
        check_loss(loss, self.past.step, recipe, self.job.length)
        values: dict[str, Any] = {
            "epoch": epoch + 1,
            "train_loss": loss,
            "train_accuracy": int(sums.correct) / max(int(sums.labelled), 1),
        }
        words = f"epoch {epoch + 1}/{recipe.epochs}  train loss {loss:.4f}"
        if (epoch + 1) % recipe.evaluate_epochs == 0 or epoch + 1 == recipe.epochs:
            scores = self._validated(state)
            best = self.past.better(epoch + 1, scores.accuracy)
            values |= {f"validation_{k}": v for k, v in scores.to_data().items()}
            words += f", validation {scores}{', the best so far' if best else ''}"
        self.log.write("epoch", self.past.step, {**values, "seconds": round(self.past.seconds, 3)})
        self.progress.say(words)
        self.window = (self.past.step, time.monotonic())

    def _validated(self, state: State) -> Scores:
        began = time.monotonic()
        scores = self.job.scores(state, self.job.data.validation)
        if "evaluation" not in self.compile_seconds:
            self._compiled("evaluation", time.monotonic() - began)
        return scores

    def save(self, checkpoints: Checkpoints, state: State) -> None:
        """Store the state, after everything that it takes for granted is on the disk."""
        self.drain()
        if self.last is not None:
            sums = jax.device_get(self.last.window)
            mean = float(sums.loss) / max(int(sums.steps), 1)
            check_loss(mean, self.past.step, self.job.recipe, self.job.length)
        self.log.sync()
        checkpoints.save(state, dataclasses.asdict(self.past), self.past.best_step)


# -- faults ----------------------------------------------------------------------------------------


def check_loss(loss: float, at: int, recipe: Recipe, length: Length) -> None:
    if math.isfinite(loss):
        return
    epoch = (at - 1) // length.epoch_steps + 1
    tries = [f"a lower learning rate (--learning-rate {recipe.learning_rate / 3:.2g})"]
    if recipe.warmup_epochs < 5 < recipe.epochs:
        tries.append("a longer warm-up (--warmup-epochs 5)")
    if not recipe.clip:
        tries.append("clipped gradients (--clip 1)")
    if recipe.precision != "float32":
        tries.append("--precision float32")
    raise TrainingFailedError(
        f"the loss is {loss} at step {at} (epoch {epoch}); try {', '.join(tries)}, in another folder"
    )


@contextlib.contextmanager
def memory(recipe: Recipe) -> Iterator[None]:
    """Turn a lack of memory into one line on what to lower."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingFailedError(
            f"out of memory; lower what a step holds: --accumulate {2 * recipe.accumulate} takes the "
            f"batch of {recipe.batch} in more parts, --batch {max(recipe.batch // 2, 1)} makes it "
            "smaller (lower the learning rate in proportion), --precision bfloat16 and a smaller "
            "--train-resolution halve the activations"
        ) from error
