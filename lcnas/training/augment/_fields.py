"""The choices of an augmentation, and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from lcnas.errors import AugmentError, not_among, shorten

CROPS = ("none", "resized", "shift")
PAD_MODES = ("reflect", "black")
MOST_OPERATIONS = 8  # of RandAugment, per image
MOST_MAGNITUDE = 10.0

Pair = tuple[float, float]


class MeanStd(Protocol):
    """Normalisation constants, such as :class:`lcnas.training.data.Normalization`; pixels are 0 to 1."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Means of red, green and blue."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviations of red, green and blue."""


@dataclass(frozen=True)
class AugmentFields:
    """The fields of :class:`lcnas.training.augment.Augment`; each annotation holds the field's help text."""

    # resized: Szegedy et al. 2015
    crop: Annotated[
        Literal["none", "resized", "shift"],
        "crop of training images: resized (a random part, resized), shift (by up to pad pixels), none "
        "(the whole image, resized)",
    ] = "resized"
    scale: Annotated[Pair, "area of a resized crop, share of the image's area, uniform"] = (
        0.08,
        1.0,
    )
    ratio: Annotated[
        Pair, "width / height of a resized crop, relative to that of the size, log-uniform"
    ] = (3 / 4, 4 / 3)
    pad: Annotated[int, "maximum shift in each direction, pixels"] = 4
    pad_mode: Annotated[Literal["reflect", "black"], "fill beyond the edge of a shifted image"] = (
        "reflect"
    )
    flip: Annotated[float, "probability of a horizontal flip"] = 0.5

    jitter: Annotated[
        float,
        "strength of brightness, contrast and saturation jitter: factors of 1 - jitter to 1 + jitter",
    ] = 0.0
    hue: Annotated[
        float, "maximum hue rotation in either direction, share of the colour circle"
    ] = 0.0
    # Cubuk et al. 2019
    rand_augment: Annotated[
        int, "number of RandAugment operations per image, each drawn from 14"
    ] = 0
    rand_magnitude: Annotated[float, "magnitude of RandAugment operations, 0 to 10"] = 9.0
    rand_std: Annotated[float, "standard deviation of the RandAugment magnitude between images"] = (
        0.0
    )

    # Zhong et al. 2017
    erase: Annotated[float, "probability that a rectangle is erased to the mean colour"] = 0.0
    erase_area: Annotated[Pair, "area of an erased rectangle, share of the image, uniform"] = (
        0.02,
        1 / 3,
    )
    erase_ratio: Annotated[Pair, "width / height of an erased rectangle, log-uniform"] = (
        0.3,
        1 / 0.3,
    )

    mixup: Annotated[
        float, "alpha of Beta(alpha, alpha), the weight of the image itself in mixup; 0: no mixup"
    ] = 0.0
    cutmix: Annotated[
        float, "alpha of Beta(alpha, alpha), the area kept of the image in cutmix; 0: no cutmix"
    ] = 0.0
    mix_share: Annotated[
        float, "share of images that are mixed, half by each if both mixup and cutmix are on"
    ] = 1.0

    evaluate_crop: Annotated[
        float,
        "share of the short side that an evaluation sees, as 0.875 for 224 of 256 pixels; 1: all",
    ] = 0.875

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
                raise AugmentError(
                    f"augment: {name}: {getattr(self, name)!r} is not a whole number"
                )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, which makes targets soft."""
        return bool(self.mix_share and (self.mixup or self.cutmix))


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
