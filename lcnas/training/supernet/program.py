"""The compiled functions of a supernet's training: augmentation, gradients per bucket, optimizer step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lcnas.models.supernet import Active, Bucket, Drop, Supernet
from lcnas.training import ema, losses, optimizers, schedules
from lcnas.training.recipes import Recipe
from lcnas.training.step import Length, State, Sums, zero
from lcnas.training.supernet.identity import LABELS

Array = jax.Array
Weights = dict[str, Array]


@dataclass(frozen=True)
class SupernetProgram:
    """The compiled functions of a supernet's training."""

    start: Callable[[Weights], State]
    prepare: Callable[..., tuple[Array, Array]]  # step, images, labels, aspects -> x, targets
    gradients: tuple[Callable[..., tuple[Weights, Array, Array]], ...]  # one per bucket
    mix_targets: Callable[
        [Array, Array], Array
    ]  # targets, largest's probabilities -> others' targets
    update: Callable[..., tuple[State, Sums, Weights]]


def build(
    supernet: Supernet, recipe: Recipe, length: Length, view: Any, seed: int, labels: float = LABELS
) -> SupernetProgram:
    """Return the program of a training.

    Args:
        supernet: the supernet.
        recipe: the recipe.
        length: length of the training.
        view: ``(images, labels, aspects, key, first) -> (x, targets)``.
        seed: seed of all draws.
        labels: share of labels in the targets of all but the largest network, 0 to 1.
    """
    optimizer = optimizers.build(recipe, supernet.params)

    def start(weights: Weights) -> State:
        # A copy, since the same buffer cannot be donated twice.
        average = {name: w + 0.0 for name, w in weights.items()} if recipe.ema else {}
        state = optimizer.init(weights)
        initial = State(np.zeros((), np.int32), weights, {}, state, average, zero(), zero())
        return State(*jax.tree.map(jnp.asarray, initial))

    def prepare(step: Array, images: Array, labels: Array, aspect: Array) -> tuple[Array, Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        x, targets = view(images, labels, aspect, key, np.int32(0))
        return x, losses.smoothed(targets, recipe.label_smoothing)

    def mix_targets(targets: Array, soft: Array) -> Array:
        return labels * targets + (1 - labels) * soft

    gradient = functools.partial(_gradient, supernet, seed)
    return SupernetProgram(
        start,
        jax.jit(prepare),
        tuple(
            jax.jit(functools.partial(gradient, bucket), donate_argnums=1)
            for bucket in supernet.buckets
        ),
        jax.jit(mix_targets),
        jax.jit(functools.partial(_update, optimizer, recipe, length), donate_argnums=(0, 1)),
    )


def _gradient(
    supernet: Supernet,
    seed: int,
    bucket: Bucket,
    weights: Weights,
    total: Weights,
    active: Active,
    images: Array,
    targets: Array,
    step: Array,
    dropout: Array,
) -> tuple[Weights, Array, Array]:
    """Return the accumulated gradients with those of one network, its probabilities, and its loss.

    Args:
        supernet: the supernet.
        seed: seed of the dropout.
        bucket: bucket that the network runs in.
        weights: weights of the supernet.
        total: gradients so far.
        active: the network.
        images: (n, height, width, 3).
        targets: (n, classes), from labels, the largest network, or both.
        step: (), int32.
        dropout: (), 1.0: with dropout, 0.0: without.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    drop = Drop(jax.random.fold_in(key, 1), dropout)

    def loss(weights: Weights) -> tuple[Array, Array]:
        logits, _ = supernet.apply(weights, None, active, images, bucket=bucket, dropout=drop)
        return jnp.mean(losses.cross_entropy(logits, targets)), logits

    # Only of the bucket's slices: weights outside have no gradient.
    (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(bucket.of(weights))
    added = {name: _added(total[name], g) for name, g in gradients.items()}
    return added, jax.nn.softmax(logits, axis=-1), value


def _added(total: Array, part: Array) -> Array:
    """Return an array with a smaller one added at its front corner."""
    if total.shape == part.shape:
        return total + part
    pads = [(0, whole - n, 0) for whole, n in zip(total.shape, part.shape, strict=True)]
    return total + jax.lax.pad(part, jnp.zeros((), part.dtype), pads)


def _update(
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    length: Length,
    state: State,
    gradients: Weights,
    loss: Array,
    soft: Array,
    targets: Array,
) -> tuple[State, Sums, Weights]:
    """Return the state after a step, the sums since the last line, and zeros for the next gradients."""
    at = state.step.astype(jnp.float32)
    rate = schedules.warmup_cosine(
        at,
        peak=recipe.learning_rate,
        final=recipe.final_learning_rate,
        warmup_steps=length.warmup_steps,
        total_steps=length.total_steps,
    )
    weights, memory = optimizers.apply(optimizer, gradients, state.optimizer, state.params, rate)
    average = state.average
    if average:
        average = ema.update(average, weights, ema.decay_at(at, recipe.ema))
    has_label = jnp.sum(targets, axis=-1) > 0
    correct = (jnp.argmax(soft, axis=-1) == jnp.argmax(targets, axis=-1)) & has_label
    count = functools.partial(jnp.sum, dtype=jnp.int32)
    sums = Sums(loss, count(correct), count(has_label), jnp.ones((), jnp.int32))
    reset = state.step % recipe.log_steps == 0
    window = Sums(*(jnp.where(reset, 0, a) + b for a, b in zip(state.window, sums, strict=True)))
    new = State(state.step + 1, weights, {}, memory, average, state.epoch, window)
    return new, window, jax.tree.map(jnp.zeros_like, gradients)
