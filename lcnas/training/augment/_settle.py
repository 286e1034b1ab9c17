"""How to keep XLA from computing one thing many times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
T = TypeVar("T")


def settled(compute: Callable[[], T], otherwise: Callable[[], T], images: Array) -> T:
    """Return what ``compute`` returns, computed once; ``otherwise`` gives the same shapes and types.

    XLA's CPU compiler fuses a producer into each of its readers: a crop would be interpolated again for the
    mean of the colours, for the neighbour that it is mixed with, and for each tap of the first convolution,
    and ``optimization_barrier`` does not change that. It does not fuse through a conditional. This one
    always goes one way, but the compiler cannot know.
    """
    if jax.default_backend() != "cpu" or not images.size:
        return compute()
    always = images.reshape(-1)[0].astype(jnp.float32) > -1
    out: T = jax.lax.cond(always, compute, otherwise)
    return out


def blank(images: Array, shape: tuple[int, ...]) -> Array:
    """Return float32 of that shape, all alike; taken from ``images``, it is on the same devices."""
    return jnp.full((len(images), *shape), images.reshape(-1)[0].astype(jnp.float32))
