"""From images to what a network takes: resize, centre crop, normalisation."""

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
Constants = tuple[float, float, float]  # one of each channel: red, green, blue

CROP = 0.875  # 224 of 256: the paper's, and what most published networks were evaluated with
# Of ImageNet's training set, as torchvision, timm and PaddleClas have them.
IMAGENET_MEAN: Constants = (0.485, 0.456, 0.406)
IMAGENET_STD: Constants = (0.229, 0.224, 0.225)


class MeanStd(Protocol):
    """Normalisation constants, in units of [0, 1], one of each channel."""

    @property
    def mean(self) -> Sequence[float] | NDArray[Any]:
        """What is subtracted."""

    @property
    def std(self) -> Sequence[float] | NDArray[Any]:
        """What is divided by."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input.

    It is resized (bilinear, smoothed where it shrinks), the middle of it is cut out, and each channel becomes
    (value / 255 - mean) / std.
    """

    size: tuple[int, int]  # pixels of the network's input, (height, width)
    mean: Constants = IMAGENET_MEAN  # in units of [0, 1]
    std: Constants = IMAGENET_STD
    crop: float = CROP  # share that the cut keeps of the side that limits it, 0 to 1
    squash: bool = False  # no cut: the whole image, each side resized on its own

    def __post_init__(self) -> None:
        check_crop(self.crop)

    def box(self, height: float, width: float, aspect: float | None = None) -> Box:
        """Return the part of an image that the network sees: (left, upper, right, lower), in its pixels.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            aspect: width / height of what is shown, where the image was squashed or stretched.

        Example:
            >>> Preprocessing((224, 224)).box(256, 512)
            (144.0, 16.0, 368.0, 240.0)
        """
        if self.squash:
            return (0.0, 0.0, width, height)
        shown = height * aspect if aspect else width  # the width that it would have
        scale = self.crop * min(height / self.size[0], shown / self.size[1])
        tall = min(height, scale * self.size[0])
        wide = min(width, scale * self.size[1] * width / shown)
        return ((width - wide) / 2, (height - tall) / 2, (width + wide) / 2, (height + tall) / 2)

    def of_image(self, image: Image.Image) -> Array:
        """Return one RGB image of Pillow as input, (height, width, 3)."""
        return self.normalized(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return what the network sees of one RGB image, (height, width, 3), before normalisation."""
        return np.asarray(self._cut(image))

    def __call__(self, images: NDArray[Any], aspects: NDArray[np.float32] | None = None) -> Array:
        """Return images as input, (n, height, width, 3) float32.

        Args:
            images: (n, any height, any width, 3), uint8, or float32 from 0 to 255.
            aspects: (n,), width / height of what each shows, where they were squashed or stretched.

        Raises:
            ImageError: another shape or type.
        """
        given = check_images(images)
        each = [None] * len(given) if aspects is None else [float(a) for a in aspects]
        made = [self._resized(p, a) for p, a in zip(given, each, strict=True)]
        return self.normalized(np.stack(made))

    def _cut(self, image: Image.Image, aspect: float | None = None) -> Image.Image:
        from PIL import Image

        height, width = self.size
        box = self.box(image.height, image.width, aspect)
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box)

    def _resized(self, pixels: NDArray[Any], aspect: float | None) -> NDArray[Any]:
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
            return np.asarray(self._cut(Image.fromarray(np.ascontiguousarray(pixels)), aspect))
        planes = [
            np.ascontiguousarray(pixels[..., c]) for c in range(3)
        ]  # Pillow's floats are grey
        made = [np.asarray(self._cut(Image.fromarray(plane), aspect)) for plane in planes]
        return np.stack(made, axis=-1)

    def normalized(self, pixels: NDArray[Any]) -> Array:
        """Return pixels (..., 3) from 0 to 255 as the network takes them, float32."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        made = pixels.astype(np.float32)
        made *= (1 / (255 * std)).astype(np.float32)
        made -= (mean / std).astype(np.float32)
        return made


def check_crop(crop: object) -> float:
    """Return a crop as a number, or refuse what is none."""
    if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise ImageError(
            f"crop: {shorten(crop)} is not a share above 0 and up to 1, such as {CROP}"
        )
    return float(crop)


def check_images(images: NDArray[Any]) -> NDArray[Any]:
    """Return images as an array (n, height, width, 3), uint8 or float32, or refuse what are none."""
    given = np.asarray(images)
    if given.ndim != 4 or given.shape[3] != 3 or 0 in given.shape:
        raise ImageError(f"images: the shape {given.shape} is not (n, height, width, 3)")
    if given.dtype not in (np.uint8, np.float32):
        raise ImageError(f"images: {given.dtype} is neither uint8 nor float32")
    return given


def read_image(path: str | Path) -> Image.Image:
    """Return the image of a file, upright as its EXIF says, in RGB: see :func:`lcnas.images.read`.

    Raises:
        ImageError: there is no such file, or it is no image, is cut off, or is unreasonably large.
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
    """Return one finite number a channel, or refuse what is something else.

    Raises:
        ImageError: not three finite numbers, or a deviation (``what`` ends in "std") that is not positive.
    """
    try:
        made = [float(v) for v in values]
    except (TypeError, ValueError):
        made = []
    if len(made) != 3 or not np.isfinite(made).all():
        raise ImageError(f"{what}: {shorten(values)} is not one number for each of the 3 channels")
    if what.endswith("std") and min(made) <= 0:
        raise ImageError(f"{what}: {shorten(made)} is not positive")
    return (made[0], made[1], made[2])
