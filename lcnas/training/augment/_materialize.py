"""Materialisation of intermediate values, so that XLA does not compute them several times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
T = TypeVar("T")


def materialized(compute: Callable[[], T], otherwise: Callable[[], T], images: Array) -> T:
    """Return ``compute()``, computed once; ``otherwise()`` has the same shapes and dtypes.

    XLA's CPU compiler fuses a producer into each of its consumers: a crop would be interpolated again for the
    mean of the colours, for the neighbour that it is mixed with, and for each tap of the first convolution;
    ``optimization_barrier`` does not prevent that. It does not fuse through a conditional. This conditional
    always takes the same branch, which the compiler cannot know.
    """
    if jax.default_backend() != "cpu" or not images.size:
        return compute()
    always = images.reshape(-1)[0].astype(jnp.float32) > -1
    out: T = jax.lax.cond(always, compute, otherwise)
    return out


def blank(images: Array, shape: tuple[int, ...]) -> Array:
    """Return a constant float32 array, (n, *shape); its value is from ``images``, for the same devices."""
    return jnp.full((len(images), *shape), images.reshape(-1)[0].astype(jnp.float32))
