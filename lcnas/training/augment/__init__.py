"""Augmentation of images on the device: crops, colours, erasing, mixing, normalisation.

The methods of an :class:`Augment` are pure functions of their arguments and a key, to be traced into a
training step. Operations that are off cost nothing. JAX is imported when a method is called.

Examples:
    >>> import jax, numpy as np
    >>> from lcnas.training.augment import Augment
    >>> from lcnas.training.data import IMAGENET
    >>> images = np.zeros((2, 40, 40, 3), np.uint8)
    >>> augment = Augment(crop="resized", mixup=0.2)
    >>> x, targets = augment.apply(
    ...     images, np.array([0, 1]), jax.random.key(0), size=32, classes=3, normalization=IMAGENET
    ... )
    >>> x.shape, targets.shape
    ((2, 32, 32, 3), (2, 3))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcnas.arch import Resolution, check_resolution, height_width
from lcnas.errors import ArchError, AugmentError
from lcnas.training.augment._fields import CROPS, PAD_MODES, AugmentFields, MeanStd

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Augment(AugmentFields):
    """The augmentation of training images, in this order, and the crop of an evaluation.

    A "size" is the (height, width) of the results.
    """

    def apply(
        self,
        images: Any,
        labels: Any,
        key: jax.Array,
        *,
        size: Resolution,
        classes: int,
        normalization: MeanStd,
        aspect: Any = None,
        cropped: bool = False,
        first: Any = 0,
    ) -> tuple[jax.Array, jax.Array]:
        """Return augmented images, and their targets.

        The draws for an image depend only on the key and on its index in the batch. Mixing pairs neighbours:
        the first with the second, the third with the fourth, and so on. So devices that share a batch in
        even parts return together what one device returns.

        Args:
            images: (n, height, width, 3), uint8.
            labels: (n,), integers; the target of label -1 is all zeros.
            key: key of all draws.
            size: pixels per side, or (height, width), of the results.
            classes: number of classes.
            normalization: constants of the data.
            aspect: (n,): width / height of each image before it was squashed into its array; None: that
                of the array.
            cropped: whether the images are already random crops (``data.train.cropped``); "resized" then
                only resizes them.
            first: index of the first image in the whole batch, if each device has a part of it.

        Returns:
            Images (n, height, width, 3), normalised, and targets (n, classes), each summing to 1; float32.
        """
        from lcnas.training.augment import _apply

        return _apply.train(
            self, images, labels, key, _shape(size), classes, normalization, aspect, cropped, first
        )

    def evaluate(
        self, images: Any, *, size: Resolution, normalization: MeanStd, aspect: Any = None
    ) -> jax.Array:
        """Return images as an evaluation sees them: a centre crop, resized.

        The crop has the aspect ratio of ``size``; its short side is ``evaluate_crop`` of the image's.

        Args:
            images: (n, height, width, 3), uint8.
            size: pixels per side, or (height, width), of the results.
            normalization: constants of the data.
            aspect: (n,), as in :meth:`apply`.

        Returns:
            Images (n, height, width, 3), float32, normalised.
        """
        from lcnas.training.augment import _apply

        return _apply.evaluate(self, images, _shape(size), normalization, aspect)


def _shape(size: Resolution) -> tuple[int, int]:
    try:
        return height_width(check_resolution(size, "size"))
    except ArchError as error:
        raise AugmentError(str(error)) from None


__all__ = ["CROPS", "PAD_MODES", "Augment", "MeanStd"]
