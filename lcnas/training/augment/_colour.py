"""Colour jitter and erasing. Images are float32."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Pair = tuple[float, float]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601, as Pillow's mode L
JITTER_DRAWS = 4
ERASE_DRAWS = 5


def jitter(images: Array, draws: Array, strength: float, hue: float) -> Array:
    """Change brightness, contrast, saturation and hue, in this order, and clip to 0 to 255.

    Together they are one affine map of the colours: contrast is toward the mean grey of the image, saturation
    toward each pixel's grey, hue a rotation around the axis of greys.

    Args:
        images: (n, height, width, 3), from 0 to 255.
        draws: (n, JITTER_DRAWS), uniform from 0 to 1.
        strength: brightness, contrast and saturation factors are uniform from 1 - strength to 1 + strength.
        hue: the rotation is uniform from -hue to hue, in shares of the circle.
    """
    signed = 2 * draws - 1
    brightness, contrast, saturation = (1 + strength * signed[:, i] for i in range(3))
    matrix = _saturation(saturation)
    if hue:
        matrix = jnp.einsum("nij,njk->nik", _rotation(2 * math.pi * hue * signed[:, 3]), matrix)
    matrix = matrix * (brightness * contrast)[:, None, None]
    grey = jnp.mean(images, axis=(1, 2)) @ LUMA  # (n,)
    offset = (1 - contrast) * brightness * grey
    out = offset[:, None, None, None]
    for c in range(3):
        out = out + images[..., c, None] * matrix[:, None, None, :, c]
    return jnp.clip(out, 0.0, 255.0)


def _saturation(factor: Array) -> Array:
    """Return (n, 3, 3): a blend of the identity and of grey."""
    own = factor[:, None, None] * np.eye(3, dtype=np.float32)[None]
    return own + (1 - factor)[:, None, None] * np.broadcast_to(LUMA, (3, 3))[None]


def _rotation(angle: Array) -> Array:
    """Return rotations around the axis of greys, (n, 3, 3): a third of the circle takes red to green."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32)[None] / np.float32(
        math.sqrt(3)
    )
    mean = np.full((1, 3, 3), 1 / 3, np.float32)
    cos, sin = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    return cos * np.eye(3, dtype=np.float32)[None] + sin * cross + (1 - cos) * mean


def erase(images: Array, draws: Array, probability: float, area: Pair, ratio: Pair) -> Array:
    """Set a rectangle of some images to 0, the mean colour after normalisation.

    A rectangle larger than the image is clipped to it.

    Args:
        images: (n, height, width, 3).
        draws: (n, ERASE_DRAWS), uniform from 0 to 1.
        probability: probability that an image has an erased rectangle.
        area: range of its share of the image.
        ratio: range of its width / height.
    """
    _, height, width, _ = images.shape
    pixels = height * width * (area[0] + draws[:, 0] * (area[1] - area[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = jnp.exp(low + draws[:, 1] * (high - low))
    tall = jnp.clip(jnp.round(jnp.sqrt(pixels / shape)), 1, height)
    wide = jnp.clip(jnp.round(jnp.sqrt(pixels * shape)), 1, width)
    top = jnp.floor(draws[:, 2] * (height - tall + 1))
    left = jnp.floor(draws[:, 3] * (width - wide + 1))
    box = rectangle((height, width), top, left, tall, wide)
    chosen = (draws[:, 4] < probability)[:, None, None]
    return jnp.where((box & chosen)[..., None], 0.0, images)


def rectangle(
    shape: tuple[int, int], top: Array, left: Array, height: Array, width: Array
) -> Array:
    """Return masks of rectangles, (n, *shape), from (n,) of each edge and side, in whole pixels."""
    rows = jnp.arange(shape[0], dtype=jnp.float32)[None]
    columns = jnp.arange(shape[1], dtype=jnp.float32)[None]
    down = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    return down[:, :, None] & across[:, None, :]
