"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Weights = Mapping[str, jax.Array]


def decay_at(step: jax.Array, decay: float) -> jax.Array:
    """Return the decay of an update: ``(1 + step) / (10 + step)`` while that is less than ``decay``.

    So the average leaves the initial weights within a few steps (TensorFlow's ``num_updates``).

    Args:
        step: updates before this one, (), float32.
        decay: in the long run.
    """
    return jnp.minimum(jnp.float32(decay), (1 + step) / (10 + step))


def update(average: Weights, new: Weights, decay: jax.Array) -> dict[str, jax.Array]:
    """Return ``decay * average + (1 - decay) * new`` of each weight.

    Parameters and the statistics of batch norms alike: those of the average must fit its weights. Written so
    that a weight which does not change stays what it is to the last bit.
    """
    return {name: old + (1 - decay) * (new[name] - old) for name, old in average.items()}
