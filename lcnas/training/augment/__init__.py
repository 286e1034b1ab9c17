"""What happens to images on the device: crops, colours, erasing, mixing, normalisation.

An :class:`Augment` says what is done; its methods are pure functions of their arguments and of a key, to be
traced into a training step. What it does not ask for costs nothing. JAX is imported when they are called.

Example:
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

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lcnas.arch import Resolution, check_resolution, height_width
from lcnas.errors import ArchError, AugmentError, not_among, shorten

if TYPE_CHECKING:
    import jax

CROPS = ("none", "resized", "shift")
PAD_MODES = ("reflect", "black")
MOST_OPERATIONS = 8  # of RandAugment
MOST_MAGNITUDE = 10.0

Pair = tuple[float, float]


class MeanStd(Protocol):
    """Constants of a set, such as :class:`lcnas.training.data.Normalization`; pixels are from 0 to 1."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of red, green and blue."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Of red, green and blue."""


@dataclass(frozen=True)
class Augment:
    """What is done to training images, in this order, and what part of an image an evaluation sees."""

    # resized: a random part, brought to size (Szegedy et al. 2015); shift: by up to `pad` pixels each way;
    # none: the whole image, brought to size
    crop: Literal["none", "resized", "shift"] = "resized"
    scale: Pair = (0.08, 1.0)  # resized: share of the image's area, uniform
    ratio: Pair = (
        3 / 4,
        4 / 3,
    )  # resized: width / height relative to the size's, uniform logarithm
    pad: int = 4  # shift: pixels of the size at most
    pad_mode: Literal["reflect", "black"] = "reflect"  # shift: what lies beyond the edge
    flip: float = 0.5  # probability of mirroring left and right

    jitter: float = 0.0  # brightness, contrast, saturation: factors from 1 - jitter to 1 + jitter
    hue: float = 0.0  # colours turn by up to this share of the circle either way
    rand_augment: int = 0  # operations one after the other (Cubuk et al. 2019), each drawn from 14
    rand_magnitude: float = 9.0  # of 10: how strong they are
    rand_std: float = 0.0  # standard deviation of the magnitude from image to image

    erase: float = 0.0  # probability that a rectangle becomes the mean colour (Zhong et al. 2017)
    erase_area: Pair = (0.02, 1 / 3)  # its share of the image, uniform
    erase_ratio: Pair = (0.3, 1 / 0.3)  # its width / height, uniform logarithm

    mixup: float = 0.0  # alpha of Beta(alpha, alpha), the weight of the image itself; 0: no mixup
    cutmix: float = 0.0  # alpha of Beta(alpha, alpha), the area left of the image; 0: no cutmix
    mix_share: float = (
        1.0  # share of the images that are mixed (half by each if both are asked for)
    )

    evaluate_crop: float = (
        0.875  # share of the short side that an evaluation sees: 224 of 256; 1: all
    )

    def __post_init__(self) -> None:
        for name, allowed in (("crop", CROPS), ("pad_mode", PAD_MODES)):
            if getattr(self, name) not in allowed:
                raise AugmentError(not_among(f"augment: {name}", getattr(self, name), allowed))
        for name, low, high in _LIMITS:
            _check(name, getattr(self, name), low, high)
        for name, high in _RANGES:
            object.__setattr__(self, name, _check_range(name, getattr(self, name), high))
        for name in ("pad", "rand_augment"):
            if not isinstance(getattr(self, name), int):
                raise AugmentError(f"augment: {name}: {getattr(self, name)!r} is no whole number")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that targets are soft."""
        return bool(self.mix_share and (self.mixup or self.cutmix))

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
        """Return images to train on, and their targets.

        What is drawn for an image depends on the key and on its place in the batch alone. Mixing pairs
        neighbours: the first with the second, the third with the fourth, and so on. So devices that share
        a batch in even parts give together what one device gives.

        Args:
            images: (n, height, width, 3), uint8.
            labels: (n,), whole numbers; -1 gives a target of zeros.
            key: of all that is drawn.
            size: pixels a side, or (height, width), of the result.
            classes: how many there are.
            normalization: constants of the set.
            aspect: (n,): width / height of what each image shows, where it was squashed into its
                array; None: that of the array.
            cropped: whether the images are random crops already (``data.train.cropped``): then
                "resized" only brings them to size.
            first: place of the first image in the whole batch, where each device has a part of it.

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
        """Return images as an evaluation sees them: the middle, brought to size.

        Its short side is ``evaluate_crop`` of the image's, and it has the shape of ``size``.

        Args:
            images: (n, height, width, 3), uint8.
            size: pixels a side, or (height, width), of the result.
            normalization: constants of the set.
            aspect: (n,), as in :meth:`apply`.

        Returns:
            Images (n, height, width, 3), float32, normalised.
        """
        from lcnas.training.augment import _apply

        return _apply.evaluate(self, images, _shape(size), normalization, aspect)


# name, lowest, highest
_LIMITS = (
    ("pad", 0, 1024),
    ("flip", 0, 1),
    ("jitter", 0, 1),
    ("hue", 0, 0.5),
    ("rand_augment", 0, MOST_OPERATIONS),
    ("rand_magnitude", 0, MOST_MAGNITUDE),
    ("rand_std", 0, MOST_MAGNITUDE),
    ("erase", 0, 1),
    ("mixup", 0, 100),
    ("cutmix", 0, 100),
    ("mix_share", 0, 1),
    ("evaluate_crop", 0.1, 1),
)
_RANGES = (("scale", 1.0), ("ratio", math.inf), ("erase_area", 1.0), ("erase_ratio", math.inf))


def _check(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise AugmentError(
            f"augment: {name}: {shorten(value)} is not a number of {low:g} to {high:g}"
        )


def _check_range(name: str, value: object, high: float) -> Pair:
    pair = isinstance(value, list | tuple) and len(value) == 2
    if not pair or not 0 < value[0] <= value[1] <= high or not math.isfinite(value[1]):  # type: ignore[index]
        limit = f" <= {high:g}" if math.isfinite(high) else ""
        raise AugmentError(
            f"augment: {name}: 0 < low <= high{limit} must hold, got {shorten(value)}"
        )
    return float(value[0]), float(value[1])  # type: ignore[index]


def _shape(size: Resolution) -> tuple[int, int]:
    try:
        return height_width(check_resolution(size, "size"))
    except ArchError as error:
        raise AugmentError(str(error)) from None


__all__ = ["CROPS", "PAD_MODES", "Augment", "MeanStd"]
