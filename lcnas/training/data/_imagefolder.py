"""Sets that are folders of images: decoded once where they fit into memory, else streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcnas.training.data import _folder, _order
from lcnas.training.data._data import (
    HELD,
    PICK,
    SAMPLE,
    SPLIT,
    Data,
    Options,
    assembled,
    decoded,
    unlabelled_names,
    with_unlabelled,
)
from lcnas.training.data._decode import Cut, Shape, open_size, stored_shape
from lcnas.training.data._memory import Memory, normalization
from lcnas.training.data._order import TEST, VALIDATION
from lcnas.training.data._stream import Files
from lcnas.training.data._types import Labels, Normalization, Test, Train, Validation

_SIDE = 224  # of images, where none is asked for and they are large enough
_PROBED = 64  # images whose size is looked up before it is decided how large they are kept


@dataclass(frozen=True)
class _Part:
    """The files of one split."""

    names: tuple[str, ...]
    labels: Labels


def load(rest: str, options: Options) -> Data:
    """Load the set in a folder."""
    root = _folder.existing_folder("imagefolder", rest)
    listing = _folder.scan(root)
    parts = _parts(listing, options)
    total = sum(len(part.names) for part in parts)
    options.faults.total = total
    shape, stored = _sizes(root, parts[0].names, options.size)
    make = _in_memory if options.fits(total, stored) else _streamed
    train, validation, test, constants = make(root, parts, shape, stored, options)
    words: list[Any] = ["imagefolder", *listing.class_names]
    for part in parts:
        words += ["part", *_folder.sizes(root, part.names), part.labels]
    return assembled(
        options,
        shape=shape,
        class_names=listing.class_names,
        constants=constants,
        train=train,
        validation=validation,
        test=test,
        parts=words,
        min_images=1 if listing.validation is not None else 2 if listing.test is not None else 3,
        notes=listing.notes,
    )


def _parts(listing: _folder.Listing, options: Options) -> tuple[_Part, _Part, _Part]:
    """Return the files of training, validation and test: as the folders say, else split by the seed."""
    train = _own(listing, listing.train, options, 0)
    if listing.test is None:
        train, test = _divided(train, TEST, options, HELD)
    else:
        test = _own(listing, listing.test, options, 1)
    if listing.validation is None:
        train, validation = _divided(train, VALIDATION, options, SPLIT)
    else:
        validation = _own(listing, listing.validation, options, 2)
    return train, validation, test


def _own(listing: _folder.Listing, names: tuple[str, ...], options: Options, part: int) -> _Part:
    """Return files that have a folder of their own, with their labels, permuted for a control."""
    return _Part(names, options.permuted(listing.labels(names), part))


def _divided(whole: _Part, share: float, options: Options, use: int) -> tuple[_Part, _Part]:
    """Return what is left of some files, and a share of each class."""
    rows = _order.stratified(whole.labels, share, options.seed, use)
    left, held = (_Part(tuple(whole.names[i] for i in r), whole.labels[r]) for r in rows)
    return left, held


def short_side(rest: str) -> int:
    """Return the median short side of the training images in a folder, in pixels."""
    root = _folder.existing_folder("imagefolder", rest)
    sizes = _probed(root, _folder.scan(root).train)
    return int(np.median([min(pair) for pair in sizes])) if sizes else _SIDE


def _probed(root: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (width, height) of some of the images, evenly spread, as far as they can be read."""
    step = max(1, len(names) // _PROBED)
    sizes = [open_size(str(root / name)) for name in names[::step][:_PROBED]]
    return [(width, height) for width, height in sizes if width and height]


def _sizes(root: Path, names: Sequence[str], size: Shape | None) -> tuple[Shape, Shape]:
    """Return the size to train at, and the size at which images are kept: never more than they have."""
    known = _probed(root, names)
    if size is None:
        shorts = [min(pair) for pair in known] or [_SIDE]
        side = min(_SIDE, int(np.median(shorts)))
        size = (side, side)
    height, width = stored_shape(*size)
    heights = [min(high, wide * height / width) for wide, high in known] or [height]
    share = min(1.0, float(np.median(heights)) / height)
    return size, (max(1, round(height * share)), max(1, round(width * share)))


_Splits = tuple[Train, Validation, Test, Normalization]


def _in_memory(
    root: Path, parts: tuple[_Part, _Part, _Part], shape: Shape, stored: Shape, options: Options
) -> _Splits:
    """Decode all images: those to train whole and squashed, the others as an evaluation sees them."""
    del shape
    sources, rows, sums = [], [], []
    for part, kind in zip(parts, ("whole", "centre", "centre"), strict=True):
        pixels = decoded(root, part.names, Cut(kind, stored), options)
        files = tuple(str(root / name) for name in part.names)
        sources.append(Memory(pixels.images, part.labels, pixels.aspect, files=files))
        rows.append(np.flatnonzero(pixels.good))
        sums.append(pixels.moments[pixels.good])
    return (
        with_unlabelled(sources[0], rows[0], stored, options),
        Validation(sources[1], rows[1]),
        Test(sources[2], rows[2]),
        normalization(sums[0], stored[0] * stored[1]),
    )


def _streamed(
    root: Path, parts: tuple[_Part, _Part, _Part], shape: Shape, stored: Shape, options: Options
) -> _Splits:
    """Leave all images in their files; training images are cropped when they are read."""
    still = Cut("centre", stored)
    moving = None if options.scale is None else Cut("random", shape, options.scale, options.ratio)
    sample = _order.permutation(len(parts[0].names), options.seed, PICK)[:SAMPLE]
    pixels = decoded(root, [parts[0].names[i] for i in sample], still, options)
    constants = normalization(pixels.moments[pixels.good], stored[0] * stored[1])
    if options.unlabelled is not None:
        extra, _ = unlabelled_names(options.unlabelled)
        options.faults.total += len(extra)
        names = (*parts[0].names, *(str(options.unlabelled / name) for name in extra))
        labels = np.concatenate([parts[0].labels, np.full(len(extra), -1, np.int32)])
        parts = (_Part(names, labels), *parts[1:])
    sources = [
        Files(root, part.names, part.labels, still, moving, options.decoders, options.faults)
        for part in parts
    ]
    rows = [np.arange(len(part.names)) for part in parts]
    return (
        Train(sources[0], rows[0]),
        Validation(sources[1], rows[1]),
        Test(sources[2], rows[2]),
        constants,
    )
