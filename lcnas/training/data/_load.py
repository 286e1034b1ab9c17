"""Loading of data sets from their specs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lcnas.arch import Resolution, check_resolution, height_width
from lcnas.errors import ArchError, DataError, not_among, shorten
from lcnas.paths import expanded
from lcnas.training.data import _cifar10, _folder, _imagefolder, _npz, _order, _synthetic
from lcnas.training.data._data import (
    DRAW,
    SAMPLE,
    SPLIT,
    Data,
    LoadOptions,
    assembled,
    with_unlabelled,
)
from lcnas.training.data._decode import Decoders, Faults, Pair, Shape
from lcnas.training.data._memory import Memory, Pixels, Progress, moments, normalization
from lcnas.training.data._order import VALIDATION
from lcnas.training.data._types import Labels, Normalization, Test, Validation

MEMORY_MB = 2048  # MiB of decoded images; larger data sets are streamed
MAX_BAD = 0.01  # maximum share of damaged images

_SYNTHETIC = {"train": 10_000, "test": 2_000, "classes": 12}  # validation is part of train
_SIDE = 32  # pixels per side of synthetic images, if no size is given
_MOST_WORKERS = 256


def load(
    spec: str = "synthetic",
    *,
    size: Resolution | None = None,
    seed: int = 0,
    workers: int | None = None,
    memory_mb: float = MEMORY_MB,
    max_bad: float = MAX_BAD,
    cache: bool = True,
    permute_labels: bool = False,
    scale: Pair | None = (0.08, 1.0),
    ratio: Pair = (3 / 4, 4 / 3),
    normalization: Normalization | None = None,
    unlabelled: str | Path | None = None,
    progress: Progress | None = None,
) -> Data:
    """Load a data set and split it.

    Args:
        spec: "synthetic", "synthetic:20000" or "synthetic:train=20000,test=2000,classes=12";
            "cifar10:FOLDER"; "imagefolder:FOLDER"; "npz:FILE". See docs/reference/data.md.
        size: resolution to train at, pixels per side or (height, width). Synthetic images are made at that
            size, images of folders stored for it; other data sets keep their size, and the device resizes.
            None: 32 for synthetic images; for folders 224, or less if the images are smaller.
        seed: seed of the split, and of synthetic images.
        workers: number of processes that decode files; None: one per core, 0: the caller decodes.
        memory_mb: maximum memory of the decoded images of a folder, MiB; beyond it, training images are
            read, cropped and shuffled from their files in each epoch. The same limit decides whether
            synthetic images are kept or made again.
        max_bad: maximum share of damaged images, which are left out.
        cache: whether to cache decoded images (in `$LCNAS_CACHE` or `~/.cache/lcnas`).
        permute_labels: whether to permute the labels of all splits at random, for a control.
        scale: area of the random resized crop that workers take of streamed images, as a share of the
            image; None: workers do not crop. ``train.cropped`` is whether they do.
        ratio: width / height of that crop, relative to that of the size.
        normalization: constants to use instead of those of the data, such as :data:`IMAGENET` for weights
            that were trained with these.
        unlabelled: a folder of images, at any depth, to append to the training split with the label -1.
        progress: called every so often with (images read, total images) of the part being decoded.

    Returns:
        The data set; 20 % of each class of its training images are the validation split.

    Raises:
        DataError: the data set is missing, damaged, or invalid.
        OSError: a worker process died, or a file cannot be read.
    """
    kind, _, rest = _text(spec).partition(":")
    if kind not in KINDS:
        hint = f"; for a folder of images write imagefolder:{spec}" if Path(spec).is_dir() else ""
        raise DataError(not_among("data", kind, KINDS) + hint)
    options = LoadOptions(
        spec=spec,
        size=_shape(size),
        seed=_order.check_whole("seed", seed, 0),
        memory_mb=_number("memory_mb", memory_mb, 0, math.inf),
        cache=cache,
        permute_labels=permute_labels,
        scale=None if scale is None else _range("scale", scale, 1.0),
        ratio=_range("ratio", ratio, math.inf),
        normalization=normalization,
        unlabelled=None
        if unlabelled is None
        else _folder.existing_folder("unlabelled", str(unlabelled)),
        progress=progress,
        decoders=Decoders(_workers(workers)),
        faults=Faults(kind, 0, _number("max_bad", max_bad, 0, 1)),
    )
    try:
        return _LOADERS[kind](rest, options)
    except MemoryError:
        raise DataError(
            f"data: the images of {shorten(spec)} do not fit into memory; use fewer or smaller ones, or "
            "lower memory_mb (--memory-mb), beyond which images are not kept"
        ) from None


def own_size(spec: str) -> int | None:
    """Return the median short side of the training images, in pixels; None for synthetic images.

    For a folder, the headers of some images are read.

    Raises:
        DataError: the data set is missing or invalid.
    """
    kind, _, rest = _text(spec).partition(":")
    if kind not in KINDS:
        raise DataError(not_among("data", kind, KINDS))
    if kind == "imagefolder":
        return _imagefolder.short_side(rest)
    if kind == "npz":
        (pixels, _), _, _ = _npz.read(_folder.existing_file("npz", rest))
        return int(min(pixels.images.shape[1:3]))
    return _cifar10.SIDE if kind == "cifar10" else None


# -- checked arguments -----------------------------------------------------------------------------


def _text(spec: object) -> str:
    if not isinstance(spec, str) or not spec:
        raise DataError(f"data: {shorten(spec)} is not a text such as synthetic or cifar10:FOLDER")
    return spec


def _shape(size: Resolution | None) -> Shape | None:
    if size is None:
        return None
    try:
        return height_width(check_resolution(size, "size"))
    except ArchError as error:
        raise DataError(str(error)) from None


def _number(what: str, value: object, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"{what}: {shorten(value)} is not a number of {low:g} to {high:g}")
    return float(value)


def _range(what: str, value: Pair, most: float) -> Pair:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= most or not math.isfinite(value[1]):
        upper = f" <= {most:g}" if math.isfinite(most) else ""
        raise DataError(f"{what}: 0 < low <= high{upper} must hold, got {shorten(value)}")
    return float(value[0]), float(value[1])


def _workers(workers: int | None) -> int:
    if workers is not None:
        return _order.check_whole("workers", workers, 0, _MOST_WORKERS)
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    return min(os.cpu_count() or 1, _MOST_WORKERS)


# -- synthetic -------------------------------------------------------------------------------------


def _load_synthetic(rest: str, options: LoadOptions) -> Data:
    train, test, classes = _synthetic_options(rest)
    shape = options.size or (_SIDE, _SIDE)
    generator = _synthetic.ImageGenerator(shape, classes, options.seed)
    keep = options.fits(train + test, shape)
    sources = []
    for part, (first, n) in enumerate(((0, train), (train, test))):
        drawn = _synthetic.balanced_labels(n, classes, options.seed, DRAW, part)
        labels = options.permuted(drawn, part)
        sources.append(_synthetic.SyntheticImages(generator, first, drawn, labels, keep))
    indices, held = _order.stratified(sources[0].labels, VALIDATION, options.seed, SPLIT)
    sample = indices[:SAMPLE]
    sums = moments(sources[0].images(sample))
    description = f"{_synthetic.VERSION} {shape} {train} {test} {classes} {options.seed}"
    return assembled(
        options,
        shape=shape,
        class_names=_synthetic.class_names(classes),
        constants=normalization(sums, shape[0] * shape[1]),
        train=with_unlabelled(sources[0], indices, shape, options),
        validation=Validation(sources[0], held),
        test=Test(sources[1], np.arange(test)),
        parts=("synthetic", description, *(source.labels for source in sources), indices),
    )


def _synthetic_options(rest: str) -> tuple[int, int, int]:
    """Return the numbers (train, test, classes) in "20000" or "train=20000,test=500"."""
    values = dict(_SYNTHETIC)
    given = set()
    for item in rest.split(",") if rest else ():
        key, equals, value = item.partition("=")
        key, value = (key, value) if equals else ("train", key)
        if key not in values:
            raise DataError(not_among("synthetic: option", key, values))
        if key in given:
            raise DataError(f"synthetic: {key} is given twice, in {shorten(rest)}")
        given.add(key)
        if not (value.isascii() and value.isdigit()) or len(value) > 12:
            raise DataError(f"synthetic: {key}: {shorten(value)} is not a whole number")
        values[key] = int(value)
    classes = _order.check_whole(
        "synthetic: classes", values["classes"], 2, _synthetic.MOST_CLASSES
    )
    train = _order.check_whole("synthetic: train", values["train"], 2 * classes, 10**9)
    return train, _order.check_whole("synthetic: test", values["test"], classes, 10**9), classes


# -- data sets of arrays ---------------------------------------------------------------------------


def _load_cifar10(rest: str, options: LoadOptions) -> Data:
    train, test = _cifar10.read(
        _folder.existing_folder("cifar10", rest),
        options.decoders,
        options.faults,
        cache=options.cache,
        progress=options.progress,
    )
    return _of_arrays(train, test, _cifar10.CLASS_NAMES, options)


def _load_npz(rest: str, options: LoadOptions) -> Data:
    return _of_arrays(*_npz.read(_folder.existing_file("npz", rest)), options)


def _of_arrays(
    train: tuple[Pixels, Labels],
    test: tuple[Pixels, Labels],
    class_names: tuple[str, ...],
    options: LoadOptions,
) -> Data:
    (pixels, labels), (pixels_test, labels_test) = train, test
    labels, labels_test = options.permuted(labels, 0), options.permuted(labels_test, 1)
    indices, held = _order.stratified(labels, VALIDATION, options.seed, SPLIT)
    # Damaged images are removed after the split, so that they do not move others.
    indices, held = indices[pixels.good[indices]], held[pixels.good[held]]
    source = Memory(pixels.images, labels, pixels.aspect)
    source_test = Memory(pixels_test.images, labels_test, pixels_test.aspect)
    shape = (pixels.images.shape[1], pixels.images.shape[2])
    return assembled(
        options,
        shape=options.size or shape,
        class_names=class_names,
        constants=normalization(pixels.moments[indices], shape[0] * shape[1]),
        train=with_unlabelled(source, indices, shape, options),
        validation=Validation(source, held),
        test=Test(source_test, np.flatnonzero(pixels_test.good)),
        parts=(pixels.images, labels, pixels_test.images, labels_test, indices, held),
    )


_LOADERS: dict[str, Callable[[str, LoadOptions], Data]] = {
    "synthetic": _load_synthetic,
    "cifar10": _load_cifar10,
    "imagefolder": _imagefolder.load,
    "npz": _load_npz,
}
KINDS = tuple(_LOADERS)
PLACES = ("cifar10", "imagefolder", "npz")  # kinds of data sets in a folder or a file


def anywhere(spec: str) -> str:
    """Return a spec that holds in any working directory: its path becomes absolute.

    >>> anywhere("synthetic:train=400,classes=4"), anywhere("npz:/sets/mine.npz")
    ('synthetic:train=400,classes=4', 'npz:/sets/mine.npz')
    """
    kind, colon, rest = spec.partition(":")
    return f"{kind}{colon}{expanded(rest).resolve()}" if rest and kind in PLACES else spec
