"""The learning rate of each step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def warmup_cosine(
    step: jax.Array, *, peak: float, final: float, warmup_steps: int, total_steps: int
) -> jax.Array:
    """Return the learning rate of a step: linear up to ``peak``, then half a cosine down to ``final``.

    Written out here because Optax's schedules mix whole numbers and floats, which JAX's strict
    promotion refuses.

    Args:
        step: from 0, (), float32.
        peak: reached at the last step of the warm-up, or at once where there is none.
        final: approached at the end.
        warmup_steps: the first of them has ``peak / warmup_steps``, none of them 0.
        total_steps: of the whole training, warm-up included.

    Example:
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
