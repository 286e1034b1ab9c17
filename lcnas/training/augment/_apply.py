"""A whole augmentation, traced into one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcnas.training.augment import _colour, _crop, _mix, _rand
from lcnas.training.augment._fields import AugmentFields, MeanStd
from lcnas.training.augment._materialize import blank, materialized

Array = jax.Array
Shape = tuple[int, int]  # height, width


def train(
    augment: AugmentFields,
    images: Any,
    labels: Any,
    key: Array,
    shape: Shape,
    classes: int,
    normalization: MeanStd,
    aspect: Any,
    cropped: bool,
    first: Any,
) -> tuple[Array, Array]:
    """Return augmented images and their targets; see :meth:`Augment.apply`."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    targets = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    aspects = _aspects(images, aspect)
    draws = _Draws(augment, key, len(images), first)

    placed = _placing(augment, images, draws, shape, aspects, cropped)

    def finished() -> tuple[Array, Array]:
        x = materialized(placed, lambda: blank(images, (*shape, 3)), images)
        return _mixed(augment, _coloured(augment, x, draws, normalization), targets, draws)

    return materialized(finished, lambda: (blank(images, (*shape, 3)), targets), images)


def evaluate(
    augment: AugmentFields, images: Any, shape: Shape, normalization: MeanStd, aspect: Any
) -> Array:
    """Return images as an evaluation sees them; see :meth:`Augment.evaluate`."""
    images = jnp.asarray(images)
    top, left = (images.shape[1] - shape[0]) // 2, (images.shape[2] - shape[1]) // 2
    exact = _is_exact(images, shape, augment.evaluate_crop)
    if exact and aspect is None:
        part = images[:, top : top + shape[0], left : left + shape[1]]
        return _normalised(part.astype(jnp.float32), normalization)

    aspects = _aspects(images, aspect)
    boxes = _crop.centre_boxes(aspects, shape[1] / shape[0], augment.evaluate_crop)
    if exact:
        boxes = _crop.pixel_boxes(images, aspects, boxes, (top, left), shape)
    x = materialized(_resampling(images, boxes, shape), lambda: blank(images, (*shape, 3)), images)
    return _normalised(x, normalization)


def _is_exact(images: Array, shape: Shape, share: float) -> bool:
    """Return whether that share of an image has the target size, to within a pixel."""
    return all(
        abs(side * share - target) < 1
        for side, target in zip(images.shape[1:3], shape, strict=True)
    )


class _Draws:
    """The random numbers of a batch, (n, count) for each active operation, drawn together.

    Those of an image depend only on the key and on its index.
    """

    def __init__(self, augment: AugmentFields, key: Array, n: int, first: Any) -> None:
        counts = {
            "flip": 1 if augment.flip else 0,
            "crop": {"none": 0, "resized": _crop.DRAWS, "shift": 2}[augment.crop],
            "jitter": _colour.JITTER_DRAWS if augment.jitter or augment.hue else 0,
            "rand": _rand.DRAWS * augment.rand_augment,
            "erase": _colour.ERASE_DRAWS if augment.erase else 0,
            "mix": _mix.DRAWS if augment.mixes else 0,
        }
        total = sum(counts.values())
        values = _uniform(key, n, total, first) if total else jnp.zeros((n, 0), jnp.float32)
        ends = np.cumsum(list(counts.values()))
        self._of = {
            name: values[:, end - count : end]
            for (name, count), end in zip(counts.items(), ends.tolist(), strict=True)
        }

    def __getitem__(self, name: str) -> Array:
        return self._of[name]


def _uniform(key: Array, n: int, count: int, first: Any) -> Array:
    indices = jnp.arange(n, dtype=jnp.int32) + jnp.asarray(first).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    draw: Any = jax.vmap(lambda image_key: jax.random.uniform(image_key, (count,), jnp.float32))
    values: Array = draw(keys)
    return values


def _aspects(images: Array, aspect: Any) -> Array:
    n, height, width, _ = images.shape
    if aspect is None:
        return jnp.full(n, width / height, jnp.float32)
    return jnp.asarray(aspect).astype(jnp.float32)


def _placing(
    augment: AugmentFields, images: Array, draws: _Draws, shape: Shape, aspect: Array, cropped: bool
) -> Callable[[], Array]:
    """Return a function that crops, resizes and mirrors the images."""
    mirrored = draws["flip"][:, 0] < augment.flip if augment.flip else None
    same = images.shape[1:3] == shape
    if augment.crop == "resized" and not cropped:
        relative = shape[1] / shape[0]
        ratio = (augment.ratio[0] * relative, augment.ratio[1] * relative)
        boxes = _crop.random_boxes(draws["crop"], aspect, augment.scale, ratio)
        return _resampling(images, boxes, shape, mirrored)
    if augment.crop == "shift":
        if not same:
            whole = _resampling(images, _crop.whole_boxes(len(images)), shape)
            images = materialized(whole, lambda: blank(images, (*shape, 3)), images)
        return lambda: _crop.shifted(
            images, draws["crop"], augment.pad, augment.pad_mode, mirrored
        ).astype(jnp.float32)
    if not same:
        return _resampling(images, _crop.whole_boxes(len(images)), shape, mirrored)
    pixels = images if mirrored is None else _crop.flipped(images, mirrored)
    return lambda: pixels.astype(jnp.float32)


def _resampling(
    images: Array, boxes: _crop.Boxes, shape: Shape, mirrored: Array | None = None
) -> Callable[[], Array]:
    """Return a function that resizes boxes of the images.

    The plan is computed outside of the function, before the conditional of :func:`materialized`; inside, it
    would be fused into the gathering, and computed again for every value.
    """
    plan = _crop.resampling_plan(boxes, (images.shape[1], images.shape[2]), shape, mirrored)
    return lambda: _crop.resample(images, plan)


def _coloured(augment: AugmentFields, x: Array, draws: _Draws, normalization: MeanStd) -> Array:
    """Return images with colour operations, normalisation and erasing applied."""
    if augment.jitter or augment.hue:
        x = _colour.jitter(x, draws["jitter"], augment.jitter, augment.hue)
    if augment.rand_augment:
        x = _rand.apply(
            x, draws["rand"], augment.rand_augment, augment.rand_magnitude, augment.rand_std
        )
    x = _normalised(x, normalization)
    if not augment.erase:
        return x
    return _colour.erase(x, draws["erase"], augment.erase, augment.erase_area, augment.erase_ratio)


def _mixed(augment: AugmentFields, x: Array, targets: Array, draws: _Draws) -> tuple[Array, Array]:
    if not augment.mixes:
        return x, targets
    return _mix.mix(x, targets, draws["mix"], augment.mixup, augment.cutmix, augment.mix_share)


def _normalised(x: Array, normalization: MeanStd) -> Array:
    mean = 255 * np.array(normalization.mean, np.float32)
    scale = 1 / (255 * np.array(normalization.std, np.float32))
    return (x - mean[None, None, None]) * scale[None, None, None]
