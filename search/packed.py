"""The images of a search, as arrays that workers share; test images are not among them.

:func:`pack` makes them once, Ray's object store hands them to all workers of a machine without copying them,
and :func:`unpack` makes of them what :mod:`lcnas.training` takes. The arrays may be read-only.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Resolution, check_resolution, height_width
from lcnas.errors import DataError, shorten
from lcnas.training.data import MEMORY_MB, Data, Memory, Normalization, Train, Validation

_READ = 256  # images at once
_TRAIN, _VALIDATION = range(2)  # what a share's draws are for

S = TypeVar("S", Train, Validation)
Images = NDArray[np.uint8]
Labels = NDArray[np.int32]
Aspects = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PackedImages:
    """What networks are trained and chosen by."""

    train_images: Images = field(repr=False)  # (n, height, width, 3)
    train_labels: Labels = field(repr=False)  # (n,)
    train_aspect: Aspects = field(repr=False)  # (n,): width / height of what each shows
    validation_images: Images = field(repr=False)  # (m, height, width, 3)
    validation_labels: Labels = field(repr=False)  # (m,)
    validation_aspect: Aspects = field(repr=False)  # (m,)
    normalization: Normalization  # of the whole training split
    class_names: tuple[str, ...]
    fingerprint: str  # of the set, its split, and the share that was taken
    spec: str  # the set, as it was asked for
    size: tuple[int, int]  # height, width in pixels that they are meant to be seen at

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def nbytes(self) -> int:
        """What the arrays take, in bytes."""
        return sum(a.nbytes for a in vars(self).values() if isinstance(a, np.ndarray))

    @property
    def chance(self) -> float:
        """The validation accuracy of always naming the most frequent class, a share of 1."""
        counts = np.bincount(self.validation_labels, minlength=1)
        return int(counts.max()) / max(int(counts.sum()), 1)


def pack(
    data: Data,
    size: Resolution | None = None,
    *,
    most: int | None = None,
    most_validation: int | None = None,
    seed: int = 0,
    memory_mb: float | None = None,
) -> PackedImages:
    """Return the training and validation images of a set; its test images are not looked at.

    Images that are streamed from their files are taken as an evaluation sees them, their middle.

    Args:
        data: the set.
        size: pixels that networks are trained at; None: those it was loaded for.
        most: take at most so many training images, drawn by ``seed``, each class in proportion and
            none left out; None: all.
        most_validation: the same for validation images; None: as many as ``most``.
        seed: of these draws.
        memory_mb: MiB that all may take; None: :func:`memory_mb_here`.

    Raises:
        DataError: they take more than that, a share is too small for the classes, or too many are damaged.
    """
    shape = height_width(check_resolution(data.size if size is None else size, "size"))
    train = _share(data.train, most, data.classes, seed, _TRAIN, "images")
    held = most if most_validation is None else most_validation
    validation = _share(data.validation, held, data.classes, seed, _VALIDATION, "validation images")
    _check_memory(data, train, validation, memory_mb, EVALUATOR)
    return PackedImages(
        *_read(train),
        *_read(validation),
        normalization=data.normalization,
        class_names=data.class_names,
        fingerprint=_fingerprint(data, train, validation),
        spec=data.spec,
        size=shape,
    )


def check_fits(
    data: Data, *, most: int | None = None, seed: int = 0, memory_mb: float | None = None
) -> None:
    """Refuse a set whose share for the finals would not fit, before anything is searched for them.

    Args:
        data: the set, loaded for the deployment resolution.
        most, seed, memory_mb: as of :func:`pack`; all validation images count.

    Raises:
        DataError: as by :func:`pack`.
    """
    train = _share(data.train, most, data.classes, seed, _TRAIN, "images")
    _check_memory(data, train, data.validation, memory_mb, FINALS)


def memory_mb_here() -> float:
    """Return the MiB that images may take: a quarter of this machine's memory, at least 2048."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such call: Windows
        return MEMORY_MB
    return max(MEMORY_MB, pages * size / 2**22)


# What lowers the memory of either: the option for fewer pixels, and that for fewer images.
EVALUATOR, FINALS = ("--train-size", "--images"), ("--resolution", "--final-images")


def unpack(images: PackedImages) -> Data:
    """Return images as a set to train on, whose test split is empty; no array is copied."""
    p = images
    return Data.without_test(
        Memory(p.train_images, p.train_labels, p.train_aspect),
        Memory(p.validation_images, p.validation_labels, p.validation_aspect),
        spec=p.spec,
        size=p.size,
        class_names=p.class_names,
        normalization=p.normalization,
        fingerprint=p.fingerprint,
    )


# -- a share ---------------------------------------------------------------------------------------


def _share(split: S, most: int | None, classes: int, seed: int, part: int, what: str) -> S:
    """Return the split, or some of its labelled rows, in their order."""
    labels = split.labels
    known = np.flatnonzero(labels >= 0)
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < classes):
        raise DataError(
            f"{what}: {shorten(most)} is not a whole number of at least {classes}, the number of classes"
        )
    if most is not None and most < len(known):
        known = known[_balanced(labels[known], most, np.random.default_rng([seed, part]))]
    return type(split)(split.source, split.rows[known])


def _balanced(labels: Labels, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return n rows in rising order, of each class in proportion to its number, at least one of each."""
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    place = np.concatenate([np.arange(count) / count for count in counts])  # 0 to 1 in its class
    return np.sort(by_class[np.argsort(place, kind="stable")[:n]])


def _fingerprint(data: Data, train: Train, validation: Validation) -> str:
    """Return the set's own, or another one where a share, or only the middle of each, is taken."""
    whole = len(train) == len(data.train) and len(validation) == len(data.validation)
    if whole and not data.train.cropped:
        return data.fingerprint
    digest = hashlib.sha256(f"{data.fingerprint}/{data.train.cropped}".encode())
    for split in (train, validation):
        digest.update(np.asarray(split.rows, np.int64).tobytes())
        digest.update(b"/")
    return digest.hexdigest()[:20]


# -- reading ---------------------------------------------------------------------------------------


def _read(split: Train | Validation) -> tuple[Images, Labels, Aspects]:
    """Return the images of a split that can be read, their labels and their aspects."""
    batches = split.in_order(_READ) if isinstance(split, Train) else split.batches(_READ)
    images: Images | None = None
    labels, aspects = np.empty(len(split), np.int32), np.empty(len(split), np.float32)
    end = 0
    for batch in batches:
        if images is None:
            images = np.empty((len(split), *batch.images.shape[1:]), np.uint8)
        start, end = end, end + int(batch.mask.sum())
        images[start:end] = batch.images[batch.mask]
        labels[start:end], aspects[start:end] = (
            batch.labels[batch.mask],
            batch.aspect[batch.mask],
        )
    if images is None or not end:
        raise DataError(f"data: not one image of the {type(split).__name__.lower()} split is there")
    return images[:end], labels[:end], aspects[:end]


def _check_memory(
    data: Data,
    train: Train,
    validation: Validation,
    memory_mb: float | None,
    options: tuple[str, str],
) -> None:
    memory_mb = memory_mb_here() if memory_mb is None else memory_mb
    first = next(iter(train.in_order(1)), None)
    if first is None:
        return
    _, height, width, _ = first.images.shape
    each = height * width * 3 / 2**20
    mib = (len(train) + len(validation)) * each
    if mib > memory_mb:
        room = int(memory_mb / each)
        fits = max(room - len(validation), room // 2, data.classes)
        side = int(min(data.size) * (memory_mb / mib) ** 0.5)
        raise DataError(
            f"data: {len(train):,} images to train and {len(validation):,} to validate, kept at "
            f"{height}x{width} pixels, take {mib:,.0f} MiB, more than the {memory_mb:,.0f} that a search "
            f"keeps in memory; train at {side} pixels or less ({options[0]}), or on at most "
            f"{fits:,} images ({options[1]})"
        )
