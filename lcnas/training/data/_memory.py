"""Images in memory, as uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError
from lcnas.training.data import _cache
from lcnas.training.data._decode import CHUNK, Cut, Decoded, Decoders, DecodeTask, Encoded, run
from lcnas.training.data._order import Indices
from lcnas.training.data._types import Batch, Images, Labels, Normalization, Original, View

Progress = Callable[[int, int], None]  # images read so far, images in all
Moments = NDArray[np.int64]  # (n, 2, 3): sum and sum of squares of each image's channels, exact

_CHUNK_PIXELS = 1 << 15  # pixels per chunk of moments
_FEW = 200  # images below which processes take longer to start than to read
_MIN_STD = 1 / 255  # lower limit, for images of one colour


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images, with aspect ratios, moments and errors."""

    images: Images  # (n, height, width, 3); black where an image could not be read
    aspect: NDArray[np.float32]  # (n,): width / height before resizing
    moments: Moments = field(repr=False)
    reasons: NDArray[np.str_] = field(repr=False)  # (n,): why an image could not be read, or ""

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which images could be read, (n,)."""
        return np.equal(self.reasons, "")


def pixels(images: Images) -> Pixels:
    """Return decoded images as :class:`Pixels`."""
    n, height, width, _ = images.shape
    aspect = np.full(n, width / height, np.float32)
    return Pixels(images, aspect, moments(images), np.full(n, ""))


def moments(images: Images) -> Moments:
    """Return the sums and the sums of squares of each image's channels, (n, 2, 3)."""
    n, height, width, _ = images.shape
    out = np.empty((n, 2, 3), np.int64)
    chunk = max(1, _CHUNK_PIXELS // (height * width))
    for i in range(0, n, chunk):
        part = images[i : i + chunk].reshape(-1, height * width, 3).transpose(0, 2, 1)
        values = part.astype(np.float64, order="C")  # whole numbers below 2^53 are exact
        out[i : i + chunk, 0] = values.sum(2)
        out[i : i + chunk, 1] = np.einsum("ncp,ncp->nc", values, values)
    return out


def normalization(image_moments: Moments, pixels_each: int) -> Normalization:
    """Return mean and standard deviation over all pixels, from the moments of images.

    Raises:
        DataError: there are no images.
    """
    if not len(image_moments):
        raise DataError("data: none of the training images can be read")
    first, second = (
        image_moments.sum(0)
        / (255.0 * pixels_each * len(image_moments))
        / np.array([[1.0], [255.0]])
    )
    std = np.maximum(np.sqrt(np.maximum(second - first**2, 0)), _MIN_STD)
    return Normalization(tuple(first), tuple(std))


def decode(
    sources: Sequence[Encoded],
    cut: Cut,
    decoders: Decoders,
    *,
    key: str | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """Read images into memory, or take them from the cache.

    Args:
        sources: paths or contents of the files.
        cut: part of each image to read, and its size.
        decoders: processes that read the files.
        key: key of the cache; None: do not use the cache.
        progress: called every so often with the number of images read and their total.
    """
    if key is None:
        return Pixels(**read_arrays(sources, cut, decoders, progress))
    expected = shapes(len(sources), cut)
    arrays = _cache.arrays(key, expected, lambda: read_arrays(sources, cut, decoders, progress))
    return Pixels(**{name: arrays[name] for name in expected})


def shapes(n: int, cut: Cut) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the arrays of :func:`read_arrays`."""
    return {"images": (n, *cut.shape, 3), "aspect": (n,), "moments": (n, 2, 3), "reasons": (n,)}


def read_arrays(
    sources: Sequence[Encoded], cut: Cut, decoders: Decoders, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    """Read images; returns the fields of :class:`Pixels`, by name."""
    n = len(sources)
    images = np.empty((n, *cut.shape, 3), np.uint8)
    aspect = np.empty(n, np.float32)
    sums = np.empty((n, 2, 3), np.int64)
    reasons: list[str] = []
    tasks = (
        DecodeTask(tuple(sources[i : i + CHUNK]), ((),) * len(sources[i : i + CHUNK]), cut)
        for i in range(0, n, CHUNK)
    )
    if n < _FEW:
        decoders = Decoders(0)
    for part, part_moments in decoders.map(_run_and_sum, tasks, ahead=8 + 4 * decoders.workers):
        start, end = len(reasons), len(reasons) + len(part.images)
        images[start:end], aspect[start:end], sums[start:end] = (
            part.images,
            part.aspect,
            part_moments,
        )
        reasons.extend(part.reasons)
        if progress is not None:
            progress(end, n)
    return {
        "images": images,
        "aspect": aspect,
        "moments": sums,
        "reasons": np.array(reasons, np.str_),
    }


def _run_and_sum(task: DecodeTask) -> tuple[Decoded, Moments]:
    done = run(task)
    return done, moments(done.images)


@dataclass(frozen=True, eq=False)
class Memory:
    """A source whose images are in memory; random crops are made on the device."""

    images: Images
    labels: Labels
    aspect: NDArray[np.float32]
    cropped: bool = False
    # paths of the original files; (): the pixels are the originals
    files: tuple[str, ...] = field(default=(), repr=False)

    def original(self, index: int) -> Original:
        """Return the file of an image, or its pixels if there are no files."""
        return self.files[index] if self.files else self.images[index]

    def read(self, plan: Sequence[Indices], view: View) -> Iterator[Batch]:
        """Yield a batch for each part of the plan."""
        del view  # the same pixels serve all views
        for indices in plan:
            yield Batch(
                np.take(self.images, indices, axis=0),
                self.labels[indices],
                np.ones(len(indices), bool),
                self.aspect[indices],
            )

    def joined(self, other: Memory) -> Memory:
        """Return the images of both, in order."""
        return Memory(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.aspect, other.aspect]),
            files=(*self.files, *other.files) if self.files and other.files else (),
        )
