"""The learning rate of each step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def warmup_cosine(
    step: jax.Array, *, peak: float, final: float, warmup_steps: int, total_steps: int
) -> jax.Array:
    """Return the learning rate of a step: linear up to ``peak``, then half a cosine down to ``final``.

    Optax's schedules are not used because they mix integers and floats, which JAX's strict promotion
    forbids.

    Args:
        step: from 0, (), float32.
        peak: learning rate at the last step of the warm-up, or at step 0 without a warm-up.
        final: learning rate that the cosine approaches at the end.
        warmup_steps: number of warm-up steps; the first one has the rate ``peak / warmup_steps``, not 0.
        total_steps: number of all steps, warm-up included.

    Examples:
        >>> rates = [
        ...     warmup_cosine(jnp.float32(s), peak=1.0, final=0.0, warmup_steps=2, total_steps=4)
        ...     for s in range(4)
        ... ]
        >>> [round(float(r), 3) for r in rates]
        [0.5, 1.0, 1.0, 0.5]
    """
    rising = peak * (step + 1) / max(warmup_steps, 1)
    share = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    falling = final + (peak - final) * 0.5 * (1 + jnp.cos(math.pi * share))
    return jnp.where(step < warmup_steps, rising, falling)
