"""Preprocessing of images for a network: resize, centre crop, normalisation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas import images as image_files
from lcnas.errors import ImageError, shorten

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[np.float32]
Box = tuple[float, float, float, float]  # (left, upper, right, lower)
Constants = tuple[float, float, float]  # one value per channel: red, green, blue

CROP = 0.875  # 224 of 256: of the paper, and of the evaluation of most published networks
# Constants of ImageNet's training set, as in torchvision, timm and PaddleClas.
IMAGENET_MEAN: Constants = (0.485, 0.456, 0.406)
IMAGENET_STD: Constants = (0.229, 0.224, 0.225)


class MeanStd(Protocol):
    """Normalisation constants in units of [0, 1], one per channel."""

    @property
    def mean(self) -> Sequence[float] | NDArray[Any]:
        """Subtracted from the pixels."""

    @property
    def std(self) -> Sequence[float] | NDArray[Any]:
        """Divisor of the difference."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input.

    The image is resized (bilinear, with antialiasing when it shrinks), its centre is cropped, and each
    channel becomes (value / 255 - mean) / std.
    """

    size: tuple[int, int]  # (height, width) of the network's input, pixels
    mean: Constants = IMAGENET_MEAN  # in units of [0, 1]
    std: Constants = IMAGENET_STD
    crop: float = CROP  # share that the crop keeps of the side that limits it, 0 to 1
    squash: bool = False  # no crop: the whole image is resized, regardless of its proportions

    def __post_init__(self) -> None:
        check_crop(self.crop)

    def box(self, height: float, width: float, aspect: float | None = None) -> Box:
        """Return the part of an image that the network sees: (left, upper, right, lower), in its pixels.

        Args:
            height: height of the image, pixels.
            width: width of the image, pixels.
            aspect: original width / height, if the image was squashed or stretched.

        Examples:
            >>> Preprocessing((224, 224)).box(256, 512)
            (144.0, 16.0, 368.0, 240.0)
        """
        if self.squash:
            return (0.0, 0.0, width, height)
        shown_width = height * aspect if aspect else width  # the width in its original proportions
        scale = self.crop * min(height / self.size[0], shown_width / self.size[1])
        crop_height = min(height, scale * self.size[0])
        crop_width = min(width, scale * self.size[1] * width / shown_width)
        return (
            (width - crop_width) / 2,
            (height - crop_height) / 2,
            (width + crop_width) / 2,
            (height + crop_height) / 2,
        )

    def of_image(self, image: Image.Image) -> Array:
        """Return a Pillow image in RGB as input, (height, width, 3)."""
        return self.normalized(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the pixels that the network sees of an RGB image, (height, width, 3), not yet normalised."""
        return np.asarray(self._crop(image))

    def __call__(self, images: NDArray[Any], aspects: NDArray[np.float32] | None = None) -> Array:
        """Return images as input, (n, height, width, 3) float32.

        Args:
            images: (n, any height, any width, 3), uint8, or float32 from 0 to 255.
            aspects: (n,), original width / height of each, if they were squashed or stretched.

        Raises:
            ImageError: the images have another shape or type.
        """
        checked = check_images(images)
        image_aspects = (
            [None] * len(checked) if aspects is None else [float(aspect) for aspect in aspects]
        )
        resized = [
            self._resize(image, aspect)
            for image, aspect in zip(checked, image_aspects, strict=True)
        ]
        return self.normalized(np.stack(resized))

    def _crop(self, image: Image.Image, aspect: float | None = None) -> Image.Image:
        from PIL import Image

        height, width = self.size
        box = self.box(image.height, image.width, aspect)
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box)

    def _resize(self, pixels: NDArray[Any], aspect: float | None) -> NDArray[Any]:
        from PIL import Image

        height, width = pixels.shape[:2]
        if (height, width) == self.size and self.box(height, width, aspect) == (
            0,
            0,
            width,
            height,
        ):
            return pixels
        if pixels.dtype == np.uint8:
            return np.asarray(self._crop(Image.fromarray(np.ascontiguousarray(pixels)), aspect))
        # Pillow has no floats in RGB: each channel is a grey image.
        planes = [np.ascontiguousarray(pixels[..., channel]) for channel in range(3)]
        resized = [np.asarray(self._crop(Image.fromarray(plane), aspect)) for plane in planes]
        return np.stack(resized, axis=-1)

    def normalized(self, pixels: NDArray[Any]) -> Array:
        """Return pixels (..., 3) from 0 to 255 normalised, float32."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        normalized = pixels.astype(np.float32)
        normalized *= (1 / (255 * std)).astype(np.float32)
        normalized -= (mean / std).astype(np.float32)
        return normalized


def check_crop(crop: object) -> float:
    """Return a crop as a float, or raise an error if it is not a share."""
    if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise ImageError(
            f"crop: {shorten(crop)} is not a share above 0 and up to 1, such as {CROP}"
        )
    return float(crop)


def check_images(images: NDArray[Any]) -> NDArray[Any]:
    """Return images as an array (n, height, width, 3), uint8 or float32, or raise an error."""
    checked = np.asarray(images)
    if checked.ndim != 4 or checked.shape[3] != 3 or 0 in checked.shape:
        raise ImageError(f"images: the shape {checked.shape} is not (n, height, width, 3)")
    if checked.dtype not in (np.uint8, np.float32):
        raise ImageError(f"images: {checked.dtype} is neither uint8 nor float32")
    return checked


def read_image(path: str | Path) -> Image.Image:
    """Return the image of a file, upright as its EXIF says, in RGB: see :func:`lcnas.images.read`.

    Raises:
        ImageError: there is no such file, or it is not an image, truncated or unreasonably large.
    """
    if os.path.isdir(path):  # noqa: PTH112 - of names too long as well, which pathlib raises for
        raise ImageError(f"{path}: is a folder; name its images, as in {path}/*.jpg")
    if not os.path.exists(path):  # noqa: PTH110
        raise ImageError(f"{path}: there is no such file")
    try:
        return image_files.read(path)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def constants(values: Iterable[Any], what: str) -> Constants:
    """Return one finite number per channel.

    Raises:
        ImageError: the values are not three finite numbers, or are standard deviations (``what`` ends in
            "std") that are not positive.
    """
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ImageError(f"{what}: {shorten(values)} is not one number for each of the 3 channels")
    if what.endswith("std") and min(numbers) <= 0:
        raise ImageError(f"{what}: {shorten(numbers)} is not positive")
    return (numbers[0], numbers[1], numbers[2])
