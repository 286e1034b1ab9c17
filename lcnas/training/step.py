"""The training step, compiled once.

Everything that changes is one pytree, :class:`State`, which is donated to the step and returned updated. All
random draws depend on the seed and the number of the step, so a run that resumes from a checkpoint draws what
an uninterrupted run draws. The seed is an argument of the step and not compiled into the program: runs that
differ in the seed alone share one program, from JAX's persistent cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lcnas.training import ema, losses, optimizers, schedules
from lcnas.training.devices import SPLIT, Devices
from lcnas.training.functional import Functional, Weights
from lcnas.training.recipes import Recipe

Array = jax.Array
Loss = Callable[[Array, Array, Array | None], Array]  # logits, targets, teacher's logits -> (n,)
Augmentation = Callable[..., tuple[Array, Array]]  # *batch, key, first -> images, targets


class Sums(NamedTuple):
    """Sums over steps, all ()."""

    loss: Any  # sum of the steps' mean losses, float32
    correct: Any  # images whose likeliest class is the likeliest target, int32
    labelled: Any  # images with a label, int32
    steps: Any  # number of steps, int32


def zero() -> Sums:
    """Return empty sums."""
    count = np.zeros((), np.int32)
    return Sums(np.zeros((), np.float32), count, count, count)


def _added(total: Sums, more: Sums, reset: Array) -> Sums:
    """Return ``total + more``, or ``more`` alone if ``reset`` is true."""
    return Sums(*(jnp.where(reset, 0, a) + b for a, b in zip(total, more, strict=True)))


class State(NamedTuple):
    """All that training changes: arrays on the devices, or NumPy arrays in a checkpoint."""

    step: Any  # steps done, (), int32
    params: Weights  # trained and frozen parameters
    stats: Weights  # running means and variances
    optimizer: Any
    average: Weights  # moving average of params and stats; empty if the recipe has none
    epoch: Sums  # sums since the start of the epoch
    window: Sums  # sums since the last line of metrics


class StepReport(NamedTuple):
    """Metrics of a step; read some steps later, so that the host does not wait."""

    epoch: Sums
    window: Sums
    norm: Array  # norm of the gradient before clipping, ()
    learning_rate: Array  # ()


@dataclass(frozen=True)
class Length:
    """The length of a training, in steps."""

    epoch_steps: int  # steps per epoch
    total_steps: int
    warmup_steps: int

    @classmethod
    def of(cls, recipe: Recipe, epoch_steps: int) -> Length:
        total = recipe.epochs * epoch_steps
        return cls(epoch_steps, total, min(round(recipe.warmup_epochs * epoch_steps), total))


@dataclass(frozen=True)
class TrainingProgram:
    """The compiled functions of a training, for any seed."""

    # params and stats -> the state before the first step
    start: Callable[[Weights, Weights], State]
    # with a teacher: (step, seed, *batch) -> images and targets of a step
    prepare: Callable[..., tuple[Array, Array]] | None
    # (state, seed, *batch) -> the state after a step and its report; seed: of all draws, (), int32
    step: Callable[..., tuple[State, StepReport]]
    tested: Callable[[State], tuple[Weights, Weights]]  # state -> params and stats to evaluate


def build(
    net: Functional,
    recipe: Recipe,
    length: Length,
    *,
    augment: Augmentation,
    devices: Devices,
    frozen: frozenset[str] = frozenset(),
    separate_augment: bool = False,
) -> TrainingProgram:
    """Return the program of a training.

    Args:
        net: the network.
        recipe: the recipe.
        length: length of the training.
        augment: ``(*batch, key, first) -> (images, targets)``, traced with the step. What it draws for
            an image depends on the key and on the image's index in the whole batch, and not on the number
            of devices that share the batch.
        devices: devices that share each batch.
        frozen: names of weights that do not change.
        separate_augment: whether to augment images in a separate program, ``prepare``, so that a teacher
            can be evaluated on them before the step; the step then takes its logits as well, if any.
    """
    trained = [name for name in net.params.names if name not in frozen]
    optimizer = optimizers.build(recipe, trained)
    core = functools.partial(_step, net, recipe, length, optimizer, frozenset(trained), devices)

    def start(params: Weights, stats: Weights) -> State:
        memory = jax.jit(optimizer.init)({name: params[name] for name in trained})
        average = {**params, **stats} if recipe.ema else {}
        empty = zero()
        return State(np.zeros((), np.int32), params, stats, memory, average, empty, empty)

    def prepare(step: Array, seed: Array, *batch: Array) -> tuple[Array, Array]:
        first = devices.first(batch[0].shape[0])
        return augment(*batch, _key(seed, step, "augment"), first)

    def whole(state: State, seed: Array, *batch: Array) -> tuple[State, StepReport]:
        return core(state, seed, *prepare(state.step, seed, *batch))

    images = jax.jit(devices.mapped(prepare, shared=2, result=SPLIT))
    return TrainingProgram(
        start=start,
        prepare=images if separate_augment else None,
        step=jax.jit(
            devices.mapped(core if separate_augment else whole, shared=2), donate_argnums=0
        ),
        tested=_tested,
    )


_STREAMS = {"augment": 0, "dropout": 1}


def _key(seed: Array, step: Array, stream: str) -> Array:
    """Return the key of a step's draws of one kind."""
    of_step = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(of_step, _STREAMS[stream])


def _tested(state: State) -> tuple[Weights, Weights]:
    if not state.average:
        return state.params, state.stats
    return (
        {name: state.average[name] for name in state.params},
        {name: state.average[name] for name in state.stats},
    )


# -- a step, as one device computes it -------------------------------------------------------------


def _step(
    net: Functional,
    recipe: Recipe,
    length: Length,
    optimizer: optax.GradientTransformation,
    trained: frozenset[str],
    devices: Devices,
    state: State,
    seed: Array,
    images: Array,
    targets: Array,
    teacher: Array | None = None,
) -> tuple[State, StepReport]:
    key = _key(seed, state.step, "dropout")
    if devices.axis is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(devices.axis))
    learning = {name: w for name, w in state.params.items() if name in trained}
    frozen = {name: w for name, w in state.params.items() if name not in trained}
    objective = functools.partial(_objective, net, _loss(recipe), frozen, recipe.batch)
    batch = (images, targets, teacher)
    gradients, stats, sums = _gradients(
        objective, learning, state.stats, batch, key, recipe.accumulate
    )
    gradients, sums = devices.total((gradients, sums))
    rate = _learning_rate(recipe, length, state.step)
    norm = optax.tree.norm(gradients)
    learning, memory = optimizers.apply(optimizer, gradients, state.optimizer, learning, rate)
    return _moved(recipe, length, state, {**frozen, **learning}, stats, memory, sums, norm, rate)


def _loss(recipe: Recipe) -> Loss:
    return functools.partial(
        losses.distilled,
        smoothing=recipe.label_smoothing,
        divergence=recipe.distill,
        weight=recipe.distill_weight,
        temperature=recipe.temperature,
    )


def _learning_rate(recipe: Recipe, length: Length, step: Array) -> Array:
    return schedules.warmup_cosine(
        step.astype(jnp.float32),
        peak=recipe.learning_rate,
        final=recipe.final_learning_rate,
        warmup_steps=length.warmup_steps,
        total_steps=length.total_steps,
    )


def _objective(
    net: Functional,
    loss: Loss,
    frozen: Weights,
    total: int,
    learning: Weights,
    stats: Weights,
    batch: tuple[Array, Array, Array | None],
    key: Array,
) -> tuple[Array, tuple[Weights, Sums]]:
    """Return this part's share of the whole batch's mean loss, the statistics, and the sums."""
    images, targets, teacher = batch
    logits, stats = net.train({**frozen, **learning}, stats, images, key)
    share = jnp.sum(loss(logits, targets, teacher)) / total
    has_label = jnp.sum(targets, axis=-1) > 0
    correct = (jnp.argmax(logits, axis=-1) == jnp.argmax(targets, axis=-1)) & has_label
    count = functools.partial(jnp.sum, dtype=jnp.int32)
    steps = jnp.zeros((), jnp.int32)  # counted once per step, not per part
    return share, (stats, Sums(share, count(correct), count(has_label), steps))


def _gradients(
    objective: Callable[..., tuple[Array, tuple[Weights, Sums]]],
    learning: Weights,
    stats: Weights,
    batch: Any,
    key: Array,
    parts: int,
) -> tuple[Weights, Weights, Sums]:
    """Return gradients, statistics and sums of a batch, accumulated over ``parts`` micro-batches."""
    gradient = jax.grad(objective, has_aux=True)
    if parts == 1:
        gradients, (stats, sums) = gradient(learning, stats, batch, key)
        return gradients, stats, sums

    def part(carry: Any, inputs: Any) -> tuple[Any, None]:
        total, stats, sums = carry
        number, micro = inputs
        gradients, (stats, more) = gradient(learning, stats, micro, jax.random.fold_in(key, number))
        total, sums = jax.tree.map(jnp.add, (total, sums), (gradients, more))
        return (total, stats, sums), None

    def cut(x: Array) -> Array:
        return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])

    zeros = jax.tree.map(jnp.zeros_like, learning)
    empty = jax.tree.map(jnp.asarray, zero())
    numbers = jnp.arange(parts, dtype=jnp.int32)
    micros = jax.tree.map(cut, batch)
    (gradients, stats, sums), _ = jax.lax.scan(part, (zeros, stats, empty), (numbers, micros))
    return gradients, stats, sums


def _moved(
    recipe: Recipe,
    length: Length,
    state: State,
    params: Weights,
    stats: Weights,
    memory: Any,
    sums: Sums,
    norm: Array,
    rate: Array,
) -> tuple[State, StepReport]:
    """Return the state after a step, and the report of the step."""
    average = state.average
    if average:
        decay = ema.decay_at(state.step.astype(jnp.float32), recipe.ema)
        average = ema.update(average, {**params, **stats}, decay)
    sums = sums._replace(steps=jnp.ones((), jnp.int32))
    epoch = _added(state.epoch, sums, state.step % length.epoch_steps == 0)
    window = _added(state.window, sums, state.step % recipe.log_steps == 0)
    new = State(state.step + 1, params, stats, memory, average, epoch, window)
    return new, StepReport(epoch, window, norm, rate)
