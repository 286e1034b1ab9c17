"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lcnas.training.augment._colour import rectangle

Array = jax.Array

DRAWS = 5
_POINTS = 4096  # intervals of the tabulated quantile function, which is interpolated


def mix(
    images: Array, targets: Array, draws: Array, mixup: float, cutmix: float, share: float
) -> tuple[Array, Array]:
    """Mix each image with its neighbour, and their targets likewise.

    Args:
        images: (n, height, width, 3).
        targets: (n, classes).
        draws: (n, DRAWS), uniform from 0 to 1.
        mixup: alpha of Beta(alpha, alpha), the weight of the image itself; 0: no mixup.
        cutmix: alpha of Beta(alpha, alpha), the share of the image that remains when a rectangle of the
            neighbour replaces the rest; the rectangle is clipped at the edges, and the target's share is
            that of the pixels. 0: no cutmix.
        share: share of images that are mixed.
    """
    _, height, width, _ = images.shape
    mixed = draws[:, 0] < share
    cut = mixed & (draws[:, 1] < (0.5 if mixup else 1.0)) if cutmix else None
    keep = jnp.ones((len(images), 1, 1), jnp.float32)
    if mixup:
        keep = jnp.where(mixed[:, None, None], _beta(draws[:, 2], mixup)[:, None, None], keep)
    own = keep[:, 0, 0]
    if cut is not None:
        box = _boxes((height, width), _beta(draws[:, 2], cutmix), draws[:, 3:5])
        left = (~box).astype(jnp.float32)
        keep = jnp.where(cut[:, None, None], left, keep)
        own = jnp.where(cut, jnp.mean(left, axis=(1, 2)), own)
    other = _neighbour(images)
    blended = other + keep[..., None] * (images - other)
    return blended, _neighbour(targets) * (1 - own)[:, None] + targets * own[:, None]


def _boxes(shape: tuple[int, int], left: Array, place: Array) -> Array:
    """Return masks of rectangles that cover 1 - left of the image unless clipped, (n, *shape)."""
    side = jnp.sqrt(1 - left)
    edges = []
    for size, middle in zip(shape, (place[:, 0], place[:, 1]), strict=True):
        low = jnp.round(middle * size - side * size / 2)
        high = low + jnp.round(side * size)
        edges.append((jnp.clip(low, 0, size), jnp.clip(high, 0, size)))
    (top, bottom), (start, end) = edges
    return rectangle(shape, top, start, bottom - top, end - start)


def _neighbour(values: Array) -> Array:
    """Return values with each pair of neighbours swapped; of an odd number, the last gets the first.

    If devices share a batch, pairs stay within a device, so swapping moves nothing between devices.
    """
    n = len(values)
    if n % 2:
        return values[np.append(np.arange(n - 1) ^ 1, 0)]
    return values.reshape(n // 2, 2, *values.shape[1:])[:, ::-1].reshape(values.shape)


def _beta(draw: Array, alpha: float) -> Array:
    """Return Beta(alpha, alpha) samples from uniform ones, by the quantile function."""
    table = jnp.asarray(_quantiles(alpha))
    place = draw * _POINTS
    index = jnp.minimum(place.astype(jnp.int32), _POINTS - 1)
    low, high = table[index], table[index + 1]
    return low + (place - index.astype(jnp.float32)) * (high - low)


@functools.lru_cache(maxsize=8)
def _quantiles(alpha: float) -> NDArray[np.float32]:
    from scipy import special

    quantiles: NDArray[np.float64] = special.betaincinv(
        alpha, alpha, np.linspace(0, 1, _POINTS + 1)
    )
    return quantiles.astype(np.float32)
