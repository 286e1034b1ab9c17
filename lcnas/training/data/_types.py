"""What a data set is to those who train: three splits of distinct types, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError, shorten
from lcnas.training.data import _order
from lcnas.training.data._order import Rows

Images = NDArray[np.uint8]  # (n, height, width, 3)
Labels = NDArray[np.int32]  # (n,); -1: not known
Original = str | bytes | Images  # path of an image file, its content, or pixels (height, width, 3)
_MOST_BATCH = 1 << 20
_SHUFFLE = 7  # sets the numbers of an epoch's order apart from those of a split


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, of pixels between 0 and 1."""

    mean: tuple[float, float, float]  # red, green, blue
    std: tuple[float, float, float]  # over all pixels of all images

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not np.all(np.isfinite(values)):
                raise DataError(f"normalization: {name} must be 3 numbers, got {shorten(values)}")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if min(self.std) <= 0:
            raise DataError(f"normalization: std must be above 0, got {self.std}")


# What networks published for ImageNet were trained with. These are means over images of each image's own
# deviation, so they are lower than the deviation over all pixels (pytorch/vision issue 1439).
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Batch:
    """Images of one step; n is the same in all batches of an epoch."""

    images: Images  # (n, height, width, 3)
    labels: Labels  # (n,); -1 where the class is not known
    mask: NDArray[np.bool_]  # (n,); False: filled up, or in place of an image that cannot be read
    aspect: NDArray[
        np.float32
    ]  # (n,): width / height of what each shows (where squashed, not the array's)


@dataclass(frozen=True)
class View:
    """What of an image is wanted, where that is decided when it is read."""

    random: bool = False  # a random-resized crop, drawn from seed, epoch and the image's row
    seed: int = 0
    epoch: int = 0


class Source(Protocol):
    """Where the images of a split come from: memory, files, or made on the fly."""

    @property
    def labels(self) -> Labels:
        """The labels of all rows."""

    @property
    def cropped(self) -> bool:
        """Whether a random view has its random-resized crop behind it."""

    def read(self, plan: Sequence[Rows], view: View) -> Iterator[Batch]:
        """Yield a batch for each part of the plan, in order, with ``mask`` False where one is missing."""

    def original(self, row: int) -> Original:
        """Return the image of a row as it came, before any resizing."""


@dataclass(frozen=True, eq=False)
class _Split:
    """Some rows of a source."""

    source: Source = field(repr=False)
    rows: Rows = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Labels:
        """The labels, in the order of the split, (n,)."""
        return self.source.labels[self.rows]

    def _in_order(self, batch: int) -> Iterator[Batch]:
        parts = list(_order.padded(self.rows, _batch(batch)))
        batches = self.source.read([rows for rows, _ in parts], View())
        for (_, counts), read in zip(parts, batches, strict=True):
            yield Batch(read.images, read.labels, read.mask & counts, read.aspect)


@dataclass(frozen=True, eq=False)
class Train(_Split):
    """What weights are fitted to."""

    @property
    def cropped(self) -> bool:
        """Whether :meth:`batches` gives images that have been cropped at random already."""
        return self.source.cropped

    def steps(self, batch: int) -> int:
        """Return how many full batches an epoch has."""
        batch = _batch(batch)
        if batch > len(self):
            raise DataError(
                f"batch: {batch} is more than the {len(self)} training images; at most {len(self)}"
            )
        return len(self) // batch

    def batches(self, batch: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch, shuffled; the last partial one is dropped.

        Args:
            batch: images a batch.
            seed: with ``epoch``, decides the order, and the crops where they are made in reading.
            epoch: from 0.
            start: the first batch that is wanted, to go on in mid-epoch: what follows is the same as
                when the epoch runs through.

        Raises:
            DataError: for numbers out of range, or (from the iterator) too many damaged images.
        """
        steps = self.steps(batch)
        seed = _order.check_whole("seed", seed, 0)
        epoch = _order.check_whole("epoch", epoch, 0)
        start = _order.check_whole("start", start, 0, steps)
        order = self.rows[_order.permutation(len(self), seed, epoch, _SHUFFLE)]
        plan = list(_order.batches(order, batch, start))
        return map(_patched, self.source.read(plan, View(True, seed, epoch)))

    def in_order(self, batch: int) -> Iterator[Batch]:
        """Return all training images as an evaluation would see them, the last batch padded."""
        return self._in_order(batch)


@dataclass(frozen=True, eq=False)
class _Held(_Split):
    def batches(self, batch: int) -> Iterator[Batch]:
        """Return all images in order; the last batch is padded, with ``mask`` False."""
        return self._in_order(batch)


@dataclass(frozen=True, eq=False)
class Validation(_Held):
    """What choices are made by: early stopping, the search, the winner."""


@dataclass(frozen=True, eq=False)
class Test(_Held):
    """What is read once, after all choices are made."""

    __test__ = False  # pytest takes any class of this name for a test


def _batch(batch: int) -> int:
    return _order.check_whole("batch", batch, 1, _MOST_BATCH)


def _patched(batch: Batch) -> Batch:
    """Put a readable image of the batch, with its label, where one is damaged.

    So a loss that forgets the mask still sees an image that fits its label.
    """
    if batch.mask.all() or not batch.mask.any():
        return batch
    rows = np.where(batch.mask, np.arange(len(batch.mask)), np.argmax(batch.mask))
    return Batch(batch.images[rows], batch.labels[rows], batch.mask, batch.aspect[rows])


S = TypeVar("S", Train, Validation, Test)


def require(split: object, kind: type[S]) -> S:
    """Return ``split`` if it is of that kind, else raise DataError: no split stands in for another.

    Example:
        >>> from lcnas.training import data
        >>> small = data.load("synthetic:classes=2,train=40,test=10", size=16)
        >>> len(require(small.validation, data.Validation))
        8
        >>> require(small.test, data.Validation)
        Traceback (most recent call last):
        lcnas.errors.DataError: the validation split is needed here, got the test split
    """
    if type(split) is kind:
        return split
    words: dict[Any, str] = {
        Train: "the training split",
        Validation: "the validation split",
        Test: "the test split",
    }
    actual = words.get(type(split), f"a {type(split).__name__}")
    raise DataError(f"{words[kind]} is needed here, got {actual}")
