"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719): its fourteen operations, at one magnitude.

Names and results are Pillow's, on integers from 0 to 255; translations, rotations and shears are bilinear,
with grey (128) outside of the image. At magnitude 10 of 10: rotation by 30 degrees, shear 0.3, translation by
0.45 of the side, factors of colour, contrast, brightness and sharpness 0.1 or 1.9, solarize all pixels,
posterize to 4 bits. The sign is random for operations with two directions. Strength grows linearly, from the
identity at magnitude 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lcnas.training.augment._colour import LUMA

Array = jax.Array

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "solarize",
    "posterize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
DRAWS = 3  # random numbers per operation
MOST_MAGNITUDE = 10.0
_MOVES = OPERATIONS.index("rotate")  # this and the following operations are affine
_GREY = 128.0


def apply(images: Array, draws: Array, operations: int, magnitude: float, std: float) -> Array:
    """Apply a sequence of operations to each image, each drawn independently.

    Args:
        images: (n, height, width, 3), from 0 to 255.
        draws: (n, DRAWS * operations), uniform from 0 to 1.
        operations: number of operations.
        magnitude: from 0 to 10.
        std: standard deviation of the magnitude between images (it is clipped to 0 to 10).
    """
    images = jnp.round(images)
    for i in range(operations):
        operation, level = drawn(draws[:, DRAWS * i : DRAWS * (i + 1)], magnitude, std)
        images = operate(images, operation, level)
    return images


def drawn(draws: Array, magnitude: float, std: float) -> tuple[Array, Array]:
    """Return an operation for each image, and its level from -1 to 1, from (n, DRAWS) uniform numbers."""
    operation = jnp.minimum((draws[:, 0] * len(OPERATIONS)).astype(jnp.int32), len(OPERATIONS) - 1)
    level = jnp.full(len(draws), magnitude, jnp.float32)
    if std:
        level = level + std * jax.scipy.special.ndtri(jnp.clip(draws[:, 2], 1e-6, 1 - 1e-6))
    level = jnp.clip(level / MOST_MAGNITUDE, 0.0, 1.0)
    return operation, jnp.where(draws[:, 1] < 0.5, -level, level)


def operate(images: Array, operation: Array, level: Array) -> Array:
    """Apply to each image the operation of its number.

    Args:
        images: (n, height, width, 3), whole numbers from 0 to 255, float32.
        operation: (n,), indices into OPERATIONS.
        level: (n,), from -1 to 1: strength and direction.
    """
    branch = jnp.minimum(operation, _MOVES)
    height, width = images.shape[1:3]
    value = _values(operation, level)
    moves = _moves(operation, level, height, width)
    # Image by image, a conditional runs one branch; under vmap every image would run all branches, which is
    # efficient only on a GPU.
    arguments = (images, branch, value, moves)
    if jax.default_backend() == "cpu":
        out: Array = jax.lax.map(lambda args: _operated(*args), arguments)
    else:
        out = jax.vmap(_operated)(*arguments)
    return out


def _values(operation: Array, level: Array) -> Array:
    """Return the parameter of each colour operation."""
    strength = jnp.abs(level)
    factor = 1 + 0.9 * level
    value = jnp.where(operation == OPERATIONS.index("solarize"), 256 * (1 - strength), factor)
    return jnp.where(operation == OPERATIONS.index("posterize"), 8 - jnp.round(4 * strength), value)


def _moves(operation: Array, level: Array, height: int, width: int) -> Array:
    """Return the affine maps from positions in the result to positions in the image, (n, 2, 3)."""
    is_ = {name: (operation == i).astype(jnp.float32) for i, name in enumerate(OPERATIONS)}
    angle = is_["rotate"] * level * math.radians(30)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    shear = 0.3 * level
    across = is_["translate_x"] * level * (0.45 * width)
    down = is_["translate_y"] * level * (0.45 * height)
    first = (
        cos,
        is_["shear_x"] * shear - sin,
        middle_x - cos * middle_x + sin * middle_y + across,
    )
    second = (
        is_["shear_y"] * shear + sin,
        cos,
        middle_y - sin * middle_x - cos * middle_y + down,
    )
    return jnp.stack([jnp.stack(first, -1), jnp.stack(second, -1)], 1)


def _operated(image: Array, branch: Array, value: Array, move: Array) -> Array:
    branches: list[Callable[[Array, Array, Array], Array]] = [
        lambda image, value, move: image,  # noqa: ARG005
        lambda image, value, move: auto_contrast(image),  # noqa: ARG005
        lambda image, value, move: equalize(image),  # noqa: ARG005
        lambda image, value, move: jnp.where(image < value, image, 255 - image),  # noqa: ARG005
        lambda image, value, move: posterize(image, value),  # noqa: ARG005
        lambda image, value, move: _blend(_grey(image), image, value),  # noqa: ARG005
        lambda image, value, move: _blend(_mean_grey(image), image, value),  # noqa: ARG005
        lambda image, value, move: _blend(jnp.zeros_like(image), image, value),  # noqa: ARG005
        lambda image, value, move: _blend(_smooth(image), image, value),  # noqa: ARG005
        lambda image, value, move: affine(image, move),  # noqa: ARG005
    ]
    out: Array = jax.lax.switch(branch, branches, image, value, move)
    return out


def auto_contrast(image: Array) -> Array:
    """Stretch each channel to 0 to 255."""
    low, high = (f(image, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    spread = jnp.where(high > low, high - low, 1.0)
    return jnp.where(high > low, jnp.floor((image - low) * 255 / spread + 1e-3), image)


def equalize(image: Array) -> Array:
    """Equalise the histogram of each channel."""
    channels = jnp.moveaxis(image, -1, 0).astype(jnp.int32)
    out = jnp.stack([_equalized(channel) for channel in channels], -1)
    return out.astype(jnp.float32)


def _equalized(channel: Array) -> Array:
    counts = jnp.zeros(256, jnp.int32).at[channel.reshape(-1)].add(1)
    step = (channel.size - counts[jnp.max(channel)]) // 255
    table = (jnp.cumsum(counts, dtype=jnp.int32) - counts + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255)[channel], channel)


def posterize(image: Array, bits: Array) -> Array:
    """Keep the highest bits."""
    unit = jnp.exp2(8 - bits)
    return jnp.floor(image / unit) * unit


def _blend(other: Array, image: Array, factor: Array) -> Array:
    """Return other + factor * (image - other), rounded and clipped to 0 to 255."""
    return jnp.clip(jnp.round(other + factor * (image - other)), 0.0, 255.0)


def _grey(image: Array) -> Array:
    return jnp.round(jnp.sum(image * LUMA[None, None], axis=-1, keepdims=True))


def _mean_grey(image: Array) -> Array:
    return jnp.round(jnp.mean(_grey(image)))


def _smooth(image: Array) -> Array:
    """Return Pillow's SMOOTH: a 3x3 mean with weight 5 in the middle; the outermost pixels do not change."""
    inner = image[1:-1, 1:-1]
    height, width = image.shape[:2]
    around = sum(
        (image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)),
        start=4 * inner,
    )
    return image.at[1:-1, 1:-1].set(jnp.round(around / 13))


def affine(image: Array, move: Array) -> Array:
    """Return the image under an affine map, bilinear; grey outside of the image.

    Args:
        image: (height, width, 3).
        move: (2, 3), from (x, y, 1) in the result to (x, y) in the image, in pixels with centres at 0.5.
    """
    height, width = image.shape[:2]
    x = (jnp.arange(width, dtype=jnp.float32) + 0.5)[None]
    y = (jnp.arange(height, dtype=jnp.float32) + 0.5)[:, None]
    across = move[0, 0] * x + move[0, 1] * y + move[0, 2]
    down = move[1, 0] * x + move[1, 1] * y + move[1, 2]
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    left, top = jnp.floor(across - 0.5), jnp.floor(down - 0.5)
    right, low = (across - 0.5 - left)[..., None], (down - 0.5 - top)[..., None]
    columns = [_index(left + i, width) for i in range(2)]
    rows = [_index(top + i, height) for i in range(2)]
    upper, lower = (
        image[row, columns[0]] * (1 - right) + image[row, columns[1]] * right for row in rows
    )
    blended = upper * (1 - low) + lower * low
    return jnp.where(inside[..., None], jnp.round(blended), _GREY)


def _index(place: Array, size: int) -> Array:
    return jnp.clip(place, 0, size - 1).astype(jnp.int32)
