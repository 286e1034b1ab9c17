"""Cropping and resizing, as separable interpolation between gathered rows.

A row of the result depends on two rows of the image, or a few more when shrinking. On a CPU, gathering them
is several times as fast as multiplying by a matrix of weights that are nearly all zero.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lcnas.training.augment._materialize import blank, materialized
from lcnas.training.data import CROP_ATTEMPTS

Array = jax.Array
Shape = tuple[int, int]  # height, width
Pair = tuple[float, float]

DRAWS = 2 * CROP_ATTEMPTS + 2  # random numbers per box


class Boxes(NamedTuple):
    """A box in each image, in shares of its height and width, (n,) each."""

    top: Array
    left: Array
    height: Array
    width: Array


def random_boxes(draws: Array, aspect: Array, scale: Pair, ratio: Pair) -> Boxes:
    """Return random crops, distributed as :func:`lcnas.training.data._decode.random_box`, for a batch.

    Args:
        draws: (n, DRAWS), uniform from 0 to 1.
        aspect: (n,), width / height of the images before squashing.
        scale: range of the crop's share of the image's area.
        ratio: range of the crop's width / height.
    """
    n = len(draws)
    tries = draws[:, 2:].reshape(n, CROP_ATTEMPTS, 2)
    area = aspect[:, None] * (scale[0] + tries[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = jnp.exp(low + tries[..., 1] * (high - low))
    widths, heights = jnp.sqrt(area * shape), jnp.sqrt(area / shape)
    fits = (widths <= aspect[:, None]) & (heights <= 1)
    first = jnp.argmax(fits, axis=1)[:, None]
    fallback = jnp.clip(aspect, ratio[0], ratio[1])
    largest = jnp.minimum(1.0, aspect / fallback)
    any_fits = jnp.any(fits, axis=1)
    height = jnp.where(any_fits, jnp.take_along_axis(heights, first, 1)[:, 0], largest)
    width = jnp.where(any_fits, jnp.take_along_axis(widths, first, 1)[:, 0], largest * fallback)
    place = jnp.where(any_fits[:, None], draws[:, :2], 0.5)
    width = width / aspect
    return Boxes(place[:, 0] * (1 - height), place[:, 1] * (1 - width), height, width)


def centre_boxes(aspect: Array, ratio: float, share: float) -> Boxes:
    """Return centre crops with the aspect ``ratio`` (width / height), ``share`` of the largest one's side."""
    height = share * jnp.minimum(1.0, aspect / ratio)
    width = height * ratio / aspect
    return Boxes((1 - height) / 2, (1 - width) / 2, height, width)


def pixel_boxes(
    images: Array, aspect: Array, otherwise: Boxes, corner: tuple[int, int], shape: Shape
) -> Boxes:
    """Return the box of these exact pixels for images that are not squashed, else ``otherwise``."""
    _, height, width, _ = images.shape
    unsquashed = jnp.abs(aspect * (height / width) - 1) < 1e-3
    box = corner[0] / height, corner[1] / width, shape[0] / height, shape[1] / width
    return Boxes(
        *(jnp.where(unsquashed, exact, other) for exact, other in zip(box, otherwise, strict=True))
    )


def whole_boxes(n: int) -> Boxes:
    """Return the whole of each image."""
    zeros, ones = jnp.zeros(n, jnp.float32), jnp.ones(n, jnp.float32)
    return Boxes(zeros, zeros, ones, ones)


class ResamplingPlan(NamedTuple):
    """Indices and weights of the image's lines in each line of the result: (n, lines, taps) each."""

    rows: Array
    row_weights: Array
    columns: Array
    column_weights: Array


def resampling_plan(
    boxes: Boxes, size: Shape, shape: Shape, mirrored: Array | None = None
) -> ResamplingPlan:
    """Return the plan that resizes boxes: bilinear, antialiased when shrinking.

    The weights are Pillow's: a triangle as wide as two pixels of the coarser grid, summing to 1.

    Args:
        boxes: the box in each image.
        size: height and width of the images.
        shape: height and width of the results.
        mirrored: (n,), whether to flip each result horizontally.
    """
    rows = _taps(boxes.top, boxes.height, size[0], shape[0], None)
    return ResamplingPlan(*rows, *_taps(boxes.left, boxes.width, size[1], shape[1], mirrored))


def resample(images: Array, plan: ResamplingPlan) -> Array:
    """Return the resized boxes of images (n, height, width, 3): (n, *shape, 3), float32."""
    n, height, width, _ = images.shape
    tall = plan.rows.shape[1]
    lines = images.reshape(n, height, width * 3)
    rows = materialized(
        lambda: _blended(lines, plan.rows, plan.row_weights, axis=0),
        lambda: blank(images, (tall, width * 3)),
        images,
    )
    return _blended(rows.reshape(n, tall, width, 3), plan.columns, plan.column_weights, axis=1)


def _taps(
    start: Array, length: Array, size: int, out: int, mirrored: Array | None
) -> tuple[Array, Array]:
    """Return indices and weights of the image's lines in each line of the result: (n, out, taps) each."""
    place = (jnp.arange(out, dtype=jnp.float32) + 0.5)[None] / out  # (1, out)
    if mirrored is not None:
        place = jnp.where(mirrored[:, None], 1 - place, place)
    middle = (start[:, None] + place * length[:, None]) * size - 0.5  # in pixels of the image
    reach = jnp.maximum(1.0, length * (size / out))[:, None]
    taps = math.ceil(2 * max(1.0, size / out))  # integers in an open interval of length 2 * reach
    first = jnp.floor(middle - reach).astype(jnp.int32) + 1
    index = first[..., None] + jnp.arange(taps, dtype=jnp.int32)[None, None]
    away = jnp.abs(index.astype(jnp.float32) - middle[..., None]) / reach[..., None]
    inside = (index >= 0) & (index < size)
    weight = jnp.where(inside, jnp.maximum(0.0, 1 - away), 0.0)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    return jnp.clip(index, 0, size - 1), weight / total


def _blended(values: Array, index: Array, weight: Array, axis: int) -> Array:
    """Return weighted sums of lines along an axis of each image.

    Args:
        values: (n, lines, …) for axis 0, (n, …, lines, …) for axis 1.
        index: (n, out, taps).
        weight: (n, out, taps).
        axis: axis of each image to sum over.
    """
    take: Any = jax.vmap(lambda image, which: jnp.take(image, which, axis=axis, mode="clip"))
    parts = []
    for t in range(index.shape[-1]):
        lines: Array = take(values, index[..., t])
        by = weight[..., t].reshape(len(values), *(1,) * axis, -1, *(1,) * (values.ndim - axis - 2))
        parts.append(lines.astype(jnp.float32) * by)
    return functools.reduce(operator.add, parts)


def shifted(
    images: Array, draws: Array, pad: int, mode: str, mirrored: Array | None = None
) -> Array:
    """Move each image by a whole number of pixels, from -pad to pad each way.

    Args:
        images: (n, height, width, 3).
        draws: (n, 2), uniform from 0 to 1: down, right.
        pad: maximum shift in pixels.
        mode: fill beyond the edge: "reflect" (without repeating the edge) or "black".
        mirrored: (n,), whether to flip each result horizontally.
    """
    _, height, width, _ = images.shape
    moves = jnp.floor(draws * (2 * pad + 1)).astype(jnp.int32) - pad
    rows = moves[:, :1] + jnp.arange(height, dtype=jnp.int32)[None]
    across = jnp.arange(width, dtype=jnp.int32)[None]
    if mirrored is not None:
        across = jnp.where(mirrored[:, None], width - 1 - across, across)
    columns = moves[:, 1:] + across
    take: Any = jax.vmap(lambda image, i, j: image[i[:, None], j[None]])
    out: Array = take(images, _folded(rows, height), _folded(columns, width))
    if mode == "black":
        down, along = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = down[:, :, None] & along[:, None]
        out = jnp.where(inside[..., None], out, jnp.zeros((), out.dtype))
    return out


def _folded(index: Array, size: int) -> Array:
    """Return indices reflected into the image, without repeating the edge."""
    if size == 1:
        return jnp.zeros_like(index)
    period = 2 * (size - 1)
    place = jnp.mod(index, period)
    return jnp.minimum(place, period - place)


def flipped(images: Array, mirrored: Array) -> Array:
    """Flip some images horizontally."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
