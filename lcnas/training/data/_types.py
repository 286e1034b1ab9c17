"""The splits of a data set, of three distinct types, and their batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError, shorten
from lcnas.training.data import _order
from lcnas.training.data._order import Indices

Images = NDArray[np.uint8]  # (n, height, width, 3)
Labels = NDArray[np.int32]  # (n,); -1: unknown
Original = str | bytes | Images  # path of an image file, its content, or pixels (height, width, 3)
_MAX_BATCH = 1 << 20
_SHUFFLE = 7  # distinguishes the random numbers of an epoch's order from those of a split


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, for pixels from 0 to 1."""

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


# Constants of networks published for ImageNet. The deviations are means over the images' own deviations, so
# they are lower than the deviation over all pixels (pytorch/vision issue 1439).
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Batch:
    """Images of one step; n is the same in all batches of an epoch."""

    images: Images  # (n, height, width, 3)
    labels: Labels  # (n,); -1: unknown class
    mask: NDArray[np.bool_]  # (n,); False: padding, or a damaged image
    aspect: NDArray[np.float32]  # (n,): width / height before an image was squashed into its array


@dataclass(frozen=True)
class View:
    """The part of each image to read, for sources that crop while reading."""

    random: bool = False  # a random resized crop, drawn from seed, epoch and the image's index
    seed: int = 0
    epoch: int = 0


class Source(Protocol):
    """A source of the images of a split: memory, files, or a generator."""

    @property
    def labels(self) -> Labels:
        """The labels of all images."""

    @property
    def cropped(self) -> bool:
        """Whether images of a random view are already random resized crops."""

    def read(self, plan: Sequence[Indices], view: View) -> Iterator[Batch]:
        """Yield a batch for each part of the plan, in order, with ``mask`` False for damaged images."""

    def original(self, index: int) -> Original:
        """Return an image in its original form, before any resizing."""


@dataclass(frozen=True, eq=False)
class _Split:
    """Some images of a source."""

    source: Source = field(repr=False)
    rows: Indices = field(repr=False)  # indices into the source

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Labels:
        """The labels, in the order of the split, (n,)."""
        return self.source.labels[self.rows]

    def _in_order(self, batch: int) -> Iterator[Batch]:
        parts = list(_order.padded(self.rows, _batch(batch)))
        batches = self.source.read([indices for indices, _ in parts], View())
        for (_, counts), read in zip(parts, batches, strict=True):
            yield Batch(read.images, read.labels, read.mask & counts, read.aspect)


@dataclass(frozen=True, eq=False)
class Train(_Split):
    """The training split: what weights are fitted to."""

    @property
    def cropped(self) -> bool:
        """Whether images of :meth:`batches` are already random crops."""
        return self.source.cropped

    def steps(self, batch: int) -> int:
        """Return the number of full batches in an epoch."""
        batch = _batch(batch)
        if batch > len(self):
            raise DataError(
                f"batch: {batch} is more than the {len(self)} training images; at most {len(self)}"
            )
        return len(self) // batch

    def batches(self, batch: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch, shuffled; the last partial one is dropped.

        Args:
            batch: images per batch.
            seed: with ``epoch``, seed of the order, and of crops that are taken while reading.
            epoch: from 0.
            start: index of the first batch to return, to resume within an epoch; the batches are the same
                as in a whole epoch.

        Raises:
            DataError: numbers out of range, or (from the iterator) too many damaged images.
        """
        steps = self.steps(batch)
        seed = _order.check_whole("seed", seed, 0)
        epoch = _order.check_whole("epoch", epoch, 0)
        start = _order.check_whole("start", start, 0, steps)
        order = self.rows[_order.permutation(len(self), seed, epoch, _SHUFFLE)]
        plan = list(_order.batches(order, batch, start))
        return map(_patched, self.source.read(plan, View(True, seed, epoch)))

    def in_order(self, batch: int) -> Iterator[Batch]:
        """Return all training images in order, as an evaluation sees them; the last batch is padded."""
        return self._in_order(batch)


@dataclass(frozen=True, eq=False)
class _EvaluationSplit(_Split):
    def batches(self, batch: int) -> Iterator[Batch]:
        """Return all images in order; the last batch is padded, with ``mask`` False."""
        return self._in_order(batch)


@dataclass(frozen=True, eq=False)
class Validation(_EvaluationSplit):
    """The validation split, for all choices: early stopping, the search, the winner."""


@dataclass(frozen=True, eq=False)
class Test(_EvaluationSplit):
    """The test split, read once, after all choices are made."""

    __test__ = False  # pytest would collect a class of this name


def _batch(batch: int) -> int:
    return _order.check_whole("batch", batch, 1, _MAX_BATCH)


def _patched(batch: Batch) -> Batch:
    """Replace damaged images by a readable image of the batch, with its label.

    A loss that ignores the mask then still sees images that match their labels.
    """
    if batch.mask.all() or not batch.mask.any():
        return batch
    indices = np.where(batch.mask, np.arange(len(batch.mask)), np.argmax(batch.mask))
    return Batch(batch.images[indices], batch.labels[indices], batch.mask, batch.aspect[indices])


S = TypeVar("S", Train, Validation, Test)


def require(split: object, kind: type[S]) -> S:
    """Return ``split`` if it has that type, else raise DataError.

    Examples:
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
