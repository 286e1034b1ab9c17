"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Weights = Mapping[str, jax.Array]


def decay_at(step: jax.Array, decay: float) -> jax.Array:
    """Return the decay of an update: ``(1 + step) / (10 + step)`` while that is less than ``decay``.

    The average thus forgets the initial weights within a few steps (TensorFlow's ``num_updates``).

    Args:
        step: number of previous updates, (), float32.
        decay: decay after many updates.
    """
    return jnp.minimum(jnp.float32(decay), (1 + step) / (10 + step))


def update(average: Weights, new: Weights, decay: jax.Array) -> dict[str, jax.Array]:
    """Return ``decay * average + (1 - decay) * new`` of each weight.

    Applies to parameters and to batch-norm statistics: the statistics must match the averaged weights. A
    weight that does not change keeps every bit.
    """
    return {name: old + (1 - decay) * (new[name] - old) for name, old in average.items()}
