"""Optimisers: from gradients to new weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import jax
import optax

from lcnas import models
from lcnas.training.recipes import Recipe

Weights = dict[str, jax.Array]


def build(recipe: Recipe, names: Iterable[str]) -> optax.GradientTransformation:
    """Return the recipe's optimiser over weights of these names, without the learning rate.

    Gradients are clipped first. SGD adds the decay to the gradient before the momentum (as in PyTorch and
    Paddle), AdamW after the moments. Only kernels decay.
    """
    parts = [optax.clip_by_global_norm(recipe.clip)] if recipe.clip else []
    decay = optax.add_decayed_weights(
        recipe.weight_decay, mask={name: models.decays(name) for name in names}
    )
    if recipe.optimizer == "sgd":
        parts += [decay, optax.trace(recipe.momentum, nesterov=recipe.nesterov)]
    else:
        adam = optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon)
        parts += [adam, decay]
    return optax.chain(*parts)


def init(optimizer: optax.GradientTransformation, weights: Weights) -> Any:
    """Return the optimiser's state before the first step."""
    return optimizer.init(weights)


def apply(
    optimizer: optax.GradientTransformation,
    gradients: Weights,
    state: Any,
    weights: Weights,
    learning_rate: jax.Array,
) -> tuple[Weights, Any]:
    """Return the weights after a step, and the optimiser's state."""
    # Optax's Adam mixes its integer count with floats, which strict promotion forbids. This is the only
    # place with standard promotion; all arrays here but that count are float32.
    with jax.numpy_dtype_promotion("standard"):
        raw_updates, state = optimizer.update(gradients, state, weights)
    updates = cast("Weights", raw_updates)
    moved = {name: w - learning_rate * updates[name] for name, w in weights.items()}
    return moved, state
