"""Data sets that are folders of images: decoded once if they fit into memory, else streamed."""

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
    LoadOptions,
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

_SIDE = 224  # pixels per side, if no size is given and the images are large enough
_PROBED = 64  # images whose sizes are read to choose the size to store images at


@dataclass(frozen=True)
class _SplitFiles:
    """The files of one split."""

    names: tuple[str, ...]
    labels: Labels


def load(rest: str, options: LoadOptions) -> Data:
    """Load the data set in a folder."""
    root = _folder.existing_folder("imagefolder", rest)
    listing = _folder.scan(root)
    parts = _parts(listing, options)
    total = sum(len(part.names) for part in parts)
    options.faults.total = total
    shape, stored = _sizes(root, parts[0].names, options.size)
    make = _in_memory if options.fits(total, stored) else _streamed
    train, validation, test, constants = make(root, parts, shape, stored, options)
    identity: list[Any] = ["imagefolder", *listing.class_names]
    for part in parts:
        identity += ["part", *_folder.sizes(root, part.names), part.labels]
    return assembled(
        options,
        shape=shape,
        class_names=listing.class_names,
        constants=constants,
        train=train,
        validation=validation,
        test=test,
        parts=identity,
        min_images=1 if listing.validation is not None else 2 if listing.test is not None else 3,
        notes=listing.notes,
    )


def _parts(
    listing: _folder.Listing, options: LoadOptions
) -> tuple[_SplitFiles, _SplitFiles, _SplitFiles]:
    """Return the files of training, validation and test: those of their folders, else split by the seed."""
    train = _of_folder(listing, listing.train, options, 0)
    if listing.test is None:
        train, test = _divided(train, TEST, options, HELD)
    else:
        test = _of_folder(listing, listing.test, options, 1)
    if listing.validation is None:
        train, validation = _divided(train, VALIDATION, options, SPLIT)
    else:
        validation = _of_folder(listing, listing.validation, options, 2)
    return train, validation, test


def _of_folder(
    listing: _folder.Listing, names: tuple[str, ...], options: LoadOptions, part: int
) -> _SplitFiles:
    """Return the files of a split's folder with their labels, permuted for a control."""
    return _SplitFiles(names, options.permuted(listing.labels(names), part))


def _divided(
    whole: _SplitFiles, share: float, options: LoadOptions, use: int
) -> tuple[_SplitFiles, _SplitFiles]:
    """Return two parts of files; the second has a share of each class."""
    indices = _order.stratified(whole.labels, share, options.seed, use)
    left, held = (_SplitFiles(tuple(whole.names[i] for i in r), whole.labels[r]) for r in indices)
    return left, held


def short_side(rest: str) -> int:
    """Return the median short side of the training images in a folder, in pixels."""
    root = _folder.existing_folder("imagefolder", rest)
    sizes = _probed(root, _folder.scan(root).train)
    return int(np.median([min(pair) for pair in sizes])) if sizes else _SIDE


def _probed(root: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (width, height) of an evenly spaced sample of the images, without unreadable ones."""
    step = max(1, len(names) // _PROBED)
    sizes = [open_size(str(root / name)) for name in names[::step][:_PROBED]]
    return [(width, height) for width, height in sizes if width and height]


def _sizes(root: Path, names: Sequence[str], size: Shape | None) -> tuple[Shape, Shape]:
    """Return the size to train at, and the size to store images at, at most their own."""
    sizes = _probed(root, names)
    if size is None:
        shorts = [min(pair) for pair in sizes] or [_SIDE]
        side = min(_SIDE, int(np.median(shorts)))
        size = (side, side)
    height, width = stored_shape(*size)
    heights = [min(high, wide * height / width) for wide, high in sizes] or [height]
    share = min(1.0, float(np.median(heights)) / height)
    return size, (max(1, round(height * share)), max(1, round(width * share)))


_Splits = tuple[Train, Validation, Test, Normalization]


def _in_memory(
    root: Path,
    parts: tuple[_SplitFiles, _SplitFiles, _SplitFiles],
    shape: Shape,
    stored: Shape,
    options: LoadOptions,
) -> _Splits:
    """Decode all images: training images whole and squashed, the others cropped for evaluation."""
    del shape
    sources, indices, sums = [], [], []
    for part, kind in zip(parts, ("whole", "centre", "centre"), strict=True):
        pixels = decoded(root, part.names, Cut(kind, stored), options)
        files = tuple(str(root / name) for name in part.names)
        sources.append(Memory(pixels.images, part.labels, pixels.aspect, files=files))
        indices.append(np.flatnonzero(pixels.good))
        sums.append(pixels.moments[pixels.good])
    return (
        with_unlabelled(sources[0], indices[0], stored, options),
        Validation(sources[1], indices[1]),
        Test(sources[2], indices[2]),
        normalization(sums[0], stored[0] * stored[1]),
    )


def _streamed(
    root: Path,
    parts: tuple[_SplitFiles, _SplitFiles, _SplitFiles],
    shape: Shape,
    stored: Shape,
    options: LoadOptions,
) -> _Splits:
    """Keep all images in their files; training images are cropped when they are read."""
    evaluation_cut = Cut("centre", stored)
    training_cut = (
        None if options.scale is None else Cut("random", shape, options.scale, options.ratio)
    )
    sample = _order.permutation(len(parts[0].names), options.seed, PICK)[:SAMPLE]
    pixels = decoded(root, [parts[0].names[i] for i in sample], evaluation_cut, options)
    constants = normalization(pixels.moments[pixels.good], stored[0] * stored[1])
    if options.unlabelled is not None:
        extra, _ = unlabelled_names(options.unlabelled)
        options.faults.total += len(extra)
        names = (*parts[0].names, *(str(options.unlabelled / name) for name in extra))
        labels = np.concatenate([parts[0].labels, np.full(len(extra), -1, np.int32)])
        parts = (_SplitFiles(names, labels), *parts[1:])
    sources = [
        Files(
            root,
            part.names,
            part.labels,
            evaluation_cut,
            training_cut,
            options.decoders,
            options.faults,
        )
        for part in parts
    ]
    indices = [np.arange(len(part.names)) for part in parts]
    return (
        Train(sources[0], indices[0]),
        Validation(sources[1], indices[1]),
        Test(sources[2], indices[2]),
        constants,
    )
