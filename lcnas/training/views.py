"""The views of a batch: augmented for training, preprocessed for testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch
from lcnas.training.augment import Augment
from lcnas.training.data import Batch, Data, Normalization
from lcnas.training.recipes import Recipe

Array = jax.Array
Training = Callable[[Array, Array, Array, Array, Any], tuple[Array, Array]]
Testing = Callable[[Array, Array], Array]


def arrays(batch: Batch) -> tuple[NDArray[Any], ...]:
    """Return a batch as (images, labels, aspects); masked images have the label -1."""
    return batch.images, np.where(batch.mask, batch.labels, np.int32(-1)), batch.aspect


def training(recipe: Recipe, arch: Arch, data: Data) -> Training:
    """Return the augmentation ``(images, labels, aspects, key, first) -> (images, targets)``, to be traced.

    ``first`` is the index of the first image in the whole batch, which several devices may share.
    """
    size = recipe.train_resolution or arch.resolution

    def view(
        images: Array, labels: Array, aspect: Array, key: Array, first: Any
    ) -> tuple[Array, Array]:
        return recipe.augment.apply(
            images,
            labels,
            key,
            size=size,
            classes=data.classes,
            normalization=data.normalization,
            aspect=aspect,
            cropped=data.train.cropped,
            first=first,
        )

    return view


def testing(augment: Augment, arch: Arch, normalization: Normalization) -> Testing:
    """Return the preprocessing ``(images, aspects) -> images``, at the network's resolution, to be traced."""

    def view(images: Array, aspect: Array) -> Array:
        return augment.evaluate(
            images, size=arch.resolution, normalization=normalization, aspect=aspect
        )

    return view


def pixels(images: NDArray[np.float32], normalization: Normalization) -> NDArray[np.float32]:
    """Return normalised images as pixels from 0 to 255, for a teacher's own preprocessing."""
    mean, std = (np.array(v, np.float32) for v in (normalization.mean, normalization.std))
    raw: NDArray[np.float32] = np.clip((images * std + mean) * np.float32(255), 0, 255)
    return raw
