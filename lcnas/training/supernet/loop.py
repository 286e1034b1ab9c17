"""The loop that trains a supernet, and resumes from its checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lcnas import renamed
from lcnas.errors import TrainingError
from lcnas.models.supernet import Active, Supernet
from lcnas.spaces import Space
from lcnas.training import run, views
from lcnas.training.checkpoints import Checkpoints
from lcnas.training.data import Data, Train, require
from lcnas.training.interrupts import Interrupts, Stopped
from lcnas.training.recipes import Recipe
from lcnas.training.session import check_loss, memory
from lcnas.training.step import Length, State, Sums
from lcnas.training.supernet.identity import (
    LABELS,
    TrainedSupernet,
    begin,
    check_weights,
    content_id,
    fingerprint,
)
from lcnas.training.supernet.program import Array, Weights, build

Draw = Callable[[np.random.Generator, int], NDArray[np.int64]]  # (rng, n) -> codes (n, genes)


@dataclass(frozen=True)
class SupernetProgress:
    """Progress of a supernet's training."""

    step: int  # steps done
    total: int
    loss: float  # loss of the largest network, mean over the last steps
    accuracy: float  # accuracy of the largest network over the last steps, 0 to 1
    images_s: float  # images per second; all networks of a step see the same images
    seconds: float  # time of all steps so far, without compiling

    def __str__(self) -> str:
        return (
            f"supernet: step {self.step}/{self.total}  loss {self.loss:.4f}, accuracy "
            f"{self.accuracy:.1%}, {self.images_s:,.0f} images/s"
        )


@renamed.parameter("told", "init_note")
def train(
    supernet: Supernet,
    space: Space,
    data: Data,
    recipe: Recipe,
    out: str | Path,
    *,
    draw: Draw,
    draws: str = "",
    seed: int = 0,
    random: int = 2,
    labels: float = LABELS,
    init: Mapping[str, Any] | None = None,
    init_note: str = "",
    save_minutes: float = 5.0,
    progress: Callable[[SupernetProgress], None] | None = None,
) -> TrainedSupernet:
    """Train a supernet, or return the one in the folder if it is finished.

    If you call it again after a kill, it resumes from the newest checkpoint and ends with the same weights.

    Args:
        supernet: the supernet, at its resolution.
        space: its space.
        data: images; only the training split is read.
        recipe: the recipe; its epochs are passes over the training images, its resolutions are ignored.
        out: folder; name it by :func:`content_id` to find it again.
        draw: returns codes of random networks, for example
            ``lambda rng, n: budget.sample_codes(n, rng, bands=8)``.
        draws: description of their distribution.
        seed: seed of the weights, the order of the images and all draws.
        random: random networks per step, beside the largest and the smallest.
        labels: share of labels in the targets of all but the largest network, 0 to 1; the rest are the
            probabilities of the largest. 0: in-place distillation alone.
        init: initial weights (:meth:`Supernet.started`); None: drawn from the seed.
        init_note: description of the initial weights, for ``supernet.json``.
        save_minutes: minutes between checkpoints.
        progress: called every ``recipe.log_steps`` steps and at the end.

    Raises:
        TrainingError: arguments that do not fit together, or a folder of another training.
        TrainingFailedError: a loss that is not finite, out of memory, or a full disk.
        Stopped: SIGTERM or Ctrl-C; the state was saved.
    """
    out = Path(out)
    recipe = dataclasses.replace(recipe, resolution=None, train_resolution=None)
    _check(supernet, data, recipe, random, labels)
    identity = content_id(
        supernet,
        space,
        recipe,
        data=fingerprint(data),
        seed=seed,
        random=random,
        labels=labels,
        draws=draws,
        init="" if init is None else run.fingerprint(init),
    )
    with run.locked(out):
        if begin(out, identity):
            return TrainedSupernet.load(out)
        job = SupernetJob(supernet, space, data, recipe, seed, draw, random, labels, init)
        with Checkpoints(out / "checkpoints") as checkpoints, memory(recipe):
            state, status = job.run(checkpoints, save_minutes, progress)
        trained = TrainedSupernet(
            supernet,
            job.weights(state),
            {**status.about(recipe, random), "labels": labels, "init": init_note},
        )
        trained.save(out)
    return trained


def _check(supernet: Supernet, data: Data, recipe: Recipe, random: int, labels: float) -> None:
    require(data.train, Train)
    if data.classes != supernet.classes:
        raise TrainingError(
            f"supernet: it has {supernet.classes} classes, the data have {data.classes}"
        )
    for name, only in (("accumulate", 1), ("precision", "float32")):
        if getattr(recipe, name) != only:
            raise TrainingError(
                f"recipe: {name}: a supernet trains with {only} only, got {getattr(recipe, name)}"
            )
    if random < 0:
        raise TrainingError(f"random: {random} is less than 0")
    if not 0 <= labels <= 1:
        raise TrainingError(f"labels: {labels:g} is not a share of 0 to 1")


@dataclass
class SupernetStatus:
    """Progress of a supernet's training, saved with each checkpoint."""

    step: int = 0
    seconds: float = 0.0  # time of all steps, without compiling
    compile_seconds: float = 0.0  # compile time, including first runs
    loss: float = math.nan
    accuracy: float = math.nan

    def about(self, recipe: Recipe, random: int) -> dict[str, Any]:
        """Return the record of a finished training, for ``supernet.json``."""
        return {
            **dataclasses.asdict(self),
            "epochs": recipe.epochs,
            "images_s": self.images_s(recipe),
            "networks_a_step": 2 + random,
            **run.surroundings(),
        }

    def images_s(self, recipe: Recipe) -> float:
        return self.step * recipe.batch / max(self.seconds, 1e-9)


@dataclass
class SupernetJob:
    """One process's part of a supernet's training."""

    supernet: Supernet
    space: Space
    data: Data
    recipe: Recipe
    seed: int
    draw: Draw
    random: int
    labels: float
    init: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        self.length = Length.of(self.recipe, self.data.train.steps(self.recipe.batch))
        view = views.training(self.recipe, self.supernet.arch, self.data)
        self.program = build(self.supernet, self.recipe, self.length, view, self.seed, self.labels)
        self.compiled: set[Any] = set()  # programs that have run

    def start(self) -> State:
        initial = self.supernet.init(self.seed) if self.init is None else self.init
        checked = check_weights(self.supernet, initial)
        return self.program.start({name: jnp.asarray(w) for name, w in checked.items()})

    def zeros(self, state: State) -> Weights:
        """Return zero gradients."""
        zeros: Weights = jax.tree.map(jnp.zeros_like, dict(state.params))
        return zeros

    def weights(self, state: State) -> dict[str, NDArray[np.float32]]:
        """Return the weights to evaluate: their moving average, if the recipe has one."""
        weights = jax.device_get(state.average or state.params)
        return check_weights(self.supernet, weights)

    def run(
        self,
        checkpoints: Checkpoints,
        save_minutes: float,
        progress: Callable[[SupernetProgress], None] | None,
    ) -> tuple[State, SupernetStatus]:
        """Train from the start or from the newest checkpoint, and return the last state."""
        state, status = self.start(), SupernetStatus()
        if checkpoints.newest is not None:
            stored, stored_status = checkpoints.restore(state, checkpoints.newest)
            state, status = jax.tree.map(jnp.array, stored), SupernetStatus(**stored_status)
        zeros = self.zeros(state)
        saved = time.monotonic()
        with Interrupts() as interrupts:
            for arrays in self._batches(status.step):
                if interrupts.received is not None:
                    self._save(checkpoints, state, status)
                    checkpoints.wait()
                    raise Stopped(interrupts.received, status.step)
                state, window, zeros = self._timed(status, state, zeros, arrays)
                if (
                    status.step % self.recipe.log_steps == 0
                    or status.step == self.length.total_steps
                ):
                    self._report(status, window, progress)
                if time.monotonic() - saved > 60 * save_minutes:
                    self._save(checkpoints, state, status)
                    saved = time.monotonic()
        if status.step:
            self._save(checkpoints, state, status)
        return state, status

    def _batches(self, done: int) -> Iterator[tuple[Any, ...]]:
        steps = self.length.epoch_steps
        for epoch in range(done // steps, self.recipe.epochs):
            start = done % steps if epoch == done // steps else 0
            for batch in self.data.train.batches(
                self.recipe.batch, seed=self.seed, epoch=epoch, start=start
            ):
                yield views.arrays(batch)

    def _timed(
        self, status: SupernetStatus, state: State, zeros: Weights, arrays: Sequence[Any]
    ) -> tuple[State, Sums, Weights]:
        """Take a step; record its time without compiling."""
        began, compiling = time.monotonic(), status.compile_seconds
        results = self._step(status, state, zeros, arrays)
        results[1].loss.block_until_ready()
        status.step += 1
        status.seconds += time.monotonic() - began - (status.compile_seconds - compiling)
        return results

    def _step(
        self, status: SupernetStatus, state: State, total: Weights, arrays: Sequence[Any]
    ) -> tuple[State, Sums, Weights]:
        program, step = self.program, np.int32(status.step)
        images, targets = self._run_program(status, program.prepare, step, *arrays)
        first, *others = self._networks(status.step)
        total, soft, loss = self._gradient(status, state, total, first, images, targets, step, 1.0)
        mixed = self._run_program(status, program.mix_targets, targets, soft)
        for active in others:
            total, _, _ = self._gradient(status, state, total, active, images, mixed, step, 0.0)
        results: tuple[State, Sums, Weights] = self._run_program(
            status, program.update, state, total, loss, soft, targets
        )
        return results

    def _networks(self, step: int) -> list[Active]:
        """Return the networks of a step: the largest, the smallest, and random ones."""
        rng = np.random.default_rng((self.seed, step))
        codes = self.draw(rng, self.random) if self.random else np.zeros((0, 0), np.int64)
        drawn = [self.supernet.active(arch) for arch in self.space.decode(codes)]
        return [self.supernet.largest(), self.supernet.smallest(), *drawn]

    def _gradient(
        self,
        status: SupernetStatus,
        state: State,
        total: Weights,
        active: Active,
        images: Array,
        targets: Array,
        step: Any,
        dropout: float,
    ) -> tuple[Weights, Array, Array]:
        number = self.supernet.bucket_of(active).number
        results: tuple[Weights, Array, Array] = self._run_program(
            status,
            self.program.gradients[number],
            state.params,
            total,
            active,
            images,
            targets,
            step,
            np.float32(dropout),
        )
        return results

    def _run_program(self, status: SupernetStatus, program: Callable[..., Any], *args: Any) -> Any:
        """Run a program; the time of its first call counts as compiling."""
        if program in self.compiled:
            return program(*args)
        self.compiled.add(program)
        began = time.monotonic()
        result = program(*args)
        jax.tree.leaves(result)[-1].block_until_ready()
        status.compile_seconds += time.monotonic() - began
        return result

    def _report(
        self,
        status: SupernetStatus,
        window: Sums,
        progress: Callable[[SupernetProgress], None] | None,
    ) -> None:
        sums = jax.device_get(window)
        status.loss = float(sums.loss) / max(int(sums.steps), 1)
        status.accuracy = int(sums.correct) / max(int(sums.labelled), 1)
        check_loss(status.loss, status.step, self.recipe, self.length)
        if progress is not None:
            images_s = status.images_s(self.recipe)
            total = self.length.total_steps
            progress(
                SupernetProgress(
                    status.step, total, status.loss, status.accuracy, images_s, status.seconds
                )
            )

    def _save(self, checkpoints: Checkpoints, state: State, status: SupernetStatus) -> None:
        sums = jax.device_get(state.window)
        check_loss(float(sums.loss), status.step, self.recipe, self.length)
        checkpoints.save(state, dataclasses.asdict(status), None)
