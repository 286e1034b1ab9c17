"""A loaded set, and what all kinds of sets need to become one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lcnas.errors import DataError, listing, spelt
from lcnas.training.data import _folder, _order
from lcnas.training.data._decode import Cut, Decoders, Faults, Pair, Shape
from lcnas.training.data._memory import Memory, Pixels, Progress, decode
from lcnas.training.data._order import Rows
from lcnas.training.data._prepared import Preparation, prepared
from lcnas.training.data._synthetic import Made
from lcnas.training.data._types import Batch, Labels, Normalization, Test, Train, Validation

# What a seed is used for, so that no two uses draw the same numbers.
SPLIT, HELD, PERMUTE, DRAW, PICK = range(1, 6)

_READER = 2  # of lcnas.images: raised when it reads a file otherwise than before
SAMPLE = 2000  # training images that the constants rest on, where not all are in memory


@dataclass(frozen=True, eq=False)
class Data:
    """A set of images with classes, in three splits.

    A context manager: at its end, as by :meth:`close`, the worker processes end.
    """

    spec: str  # as it was asked for
    size: Shape  # height, width in pixels that it was loaded for
    class_names: tuple[str, ...]
    normalization: Normalization  # of the training split
    train: Train
    validation: Validation
    test: Test
    fingerprint: str  # of the set and its split: another one is other data
    decoders: Decoders = field(repr=False)
    faults: Faults = field(repr=False)
    notes: tuple[str, ...] = ()  # what was decided on the splits, and what is left out, a line each

    @classmethod
    def without_test(
        cls,
        train: Memory,
        validation: Memory,
        *,
        spec: str,
        size: Shape,
        class_names: tuple[str, ...],
        normalization: Normalization,
        fingerprint: str,
    ) -> Self:
        """Return images that are in memory as a set whose test split is empty; no array is copied."""
        return cls(
            spec=spec,
            size=size,
            class_names=class_names,
            normalization=normalization,
            train=Train(train, np.arange(len(train.labels))),
            validation=Validation(validation, np.arange(len(validation.labels))),
            test=Test(validation, np.arange(0)),
            fingerprint=fingerprint,
            decoders=Decoders(0),
            faults=Faults("images", 0, 0.0),
        )

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def skipped(self) -> dict[str, str]:
        """The images found damaged so far, and why; of streamed ones only those that were met."""
        return dict(self.faults.reasons)

    def prepared(
        self, split: Train | Validation | Test, preparation: Preparation, batch: int = 64
    ) -> Iterator[Batch]:
        """Yield a split in order, each image read from its original file and prepared as for deployment.

        Args:
            split: one of this set's.
            preparation: of an image, such as an :class:`lcnas.onnx_export.Preprocessing`; it gives pixels
                (height, width, 3), uint8, which are not normalised yet.
            batch: images a batch; the last one is padded, with ``mask`` False.

        Raises:
            DataError: names the damaged images, once there are more than allowed.
            OSError: a worker process died.
        """
        return prepared(split, preparation, batch, self.decoders, self.faults)

    def close(self) -> None:
        """End the worker processes."""
        self.decoders.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Options:
    """What :func:`lcnas.training.data.load` was asked for, checked."""

    spec: str
    size: Shape | None
    seed: int
    memory_mb: float
    cache: bool
    permute_labels: bool
    scale: Pair | None
    ratio: Pair
    normalization: Normalization | None
    unlabelled: Path | None
    progress: Progress | None
    decoders: Decoders
    faults: Faults

    def fits(self, images: int, shape: Shape) -> bool:
        """Return whether so many images may be kept in memory."""
        return mib(images, shape) <= self.memory_mb

    def permuted(self, labels: Labels, part: int) -> Labels:
        """Return the labels, or for a control the same labels dealt out at random."""
        if not self.permute_labels:
            return labels
        return labels[_order.permutation(len(labels), self.seed, PERMUTE, part)]


def mib(images: int, shape: Shape) -> float:
    """Return the MiB that decoded images take."""
    return images * shape[0] * shape[1] * 3 / 2**20


def decoded(root: Path, names: Sequence[str], cut: Cut, options: Options) -> Pixels:
    """Return images decoded, from the cache where they are in it, and note the damaged ones."""
    paths = [str(root / name) for name in names]
    key = None
    if options.cache:
        states = [Path(path).stat() for path in paths]
        stamps = [f"{n} {s.st_size} {s.st_mtime_ns}" for n, s in zip(names, states, strict=True)]
        key = f"pictures-{_order.fingerprint((f'reader {_READER}', repr(cut), *stamps))}"
    pixels = decode(paths, cut, options.decoders, key=key, progress=options.progress)
    options.faults.add((name, str(why)) for name, why in zip(names, pixels.reasons, strict=True))
    return pixels


def unlabelled_names(root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the images at any depth below a folder, and a note on what else there is."""
    left = _folder.Left()
    names, notes = sorted(_folder.walk(root, "", left)), left.notes()
    if not names:
        why = "".join(f" ({note})" for note in notes)
        raise DataError(f"unlabelled: {spelt(str(root))} has no images{why}")
    return names, notes


def with_unlabelled(source: Memory | Made, rows: Rows, shape: Shape, options: Options) -> Train:
    """Return the training split, joined by the images without labels if there are any."""
    if options.unlabelled is None:
        return Train(source, rows)
    names, _ = unlabelled_names(options.unlabelled)
    n = len(source.labels)
    if not options.fits(n + len(names), shape):
        raise DataError(
            f"unlabelled: {len(names)} images take {mib(len(names), shape):.0f} MiB, with the others more "
            f"than memory_mb ({options.memory_mb:g}); raise it (--memory-mb), or take fewer"
        )
    options.faults.total += len(names)
    pixels = decoded(options.unlabelled, names, Cut("whole", shape), options)
    files = tuple(str(options.unlabelled / name) for name in names)
    extra = Memory(pixels.images, np.full(len(names), -1, np.int32), pixels.aspect, files=files)
    whole = _as_memory(source, shape).joined(extra)
    return Train(whole, np.concatenate([rows, n + np.flatnonzero(pixels.good)]))


def _as_memory(source: Memory | Made, shape: Shape) -> Memory:
    if isinstance(source, Memory):
        return source
    n = len(source.labels)
    images = source.images(np.arange(n))
    return Memory(images, source.labels, np.full(n, shape[1] / shape[0], np.float32))


def assembled(
    options: Options,
    *,
    shape: Shape,
    class_names: tuple[str, ...],
    constants: Normalization,
    train: Train,
    validation: Validation,
    test: Test,
    parts: Sequence[Any],
    min_images: int = 2,
    notes: Sequence[str] = (),
) -> Data:
    """Return the set, if no split is empty or has one class alone.

    Args:
        options: what was asked for.
        shape: the size it was loaded for.
        class_names: in the order of the labels.
        constants: of the training split.
        train: the training split.
        validation: the validation split.
        test: the test split.
        parts: texts and arrays that say what the set is, and how it is split.
        needed: images of a class to train, so that it is in all splits that are made of them.
        notes: what is to be told of the set.
    """
    class_notes = _checked_classes(options, class_names, (train, validation, test), min_images)
    extra: list[str] = []
    if options.unlabelled is not None:
        names, more = unlabelled_names(options.unlabelled)
        extra = ["unlabelled", *_folder.sizes(options.unlabelled, names)]
        class_notes += tuple(f"unlabelled: {note}" for note in more)
    return Data(
        spec=options.spec,
        size=shape,
        class_names=class_names,
        normalization=options.normalization or constants,
        train=train,
        validation=validation,
        test=test,
        fingerprint=_order.fingerprint((*parts, *extra)),
        decoders=options.decoders,
        faults=options.faults,
        notes=(*notes, *class_notes),
    )


_WHERE = {
    1: "",
    2: "; each class needs at least 2 images to train, one of which goes to validation",
    3: "; each class needs at least 3 images, one each for training, validation and test",
}


def _checked_classes(
    options: Options,
    class_names: Sequence[str],
    splits: tuple[Train, Validation, Test],
    min_images: int,
) -> tuple[str, ...]:
    """Return notes on classes that validation or test lack.

    Raises:
        DataError: training lacks a class, or another split has fewer than two, so that no accuracy counts.
    """
    notes: dict[str, list[str]] = {}
    for split in splits:
        counts = np.bincount(split.labels[split.labels >= 0], minlength=len(class_names))
        lacking = [name for name, n in zip(class_names, counts, strict=True) if not n]
        what = type(split).__name__.lower()
        present = len(class_names) - len(lacking)
        if present < 2 or (lacking and isinstance(split, Train)):
            problem = "is empty" if not present else f"has no readable images of {listing(lacking)}"
            raise DataError(
                f"data: {spelt(options.spec)}: the {what} split {problem}{_WHERE[min_images]}"
            )
        if lacking:
            notes.setdefault(listing(lacking), []).append(f"{what} has none of {len(lacking)}")
    total = len(class_names)
    return tuple(
        f"{' and '.join(parts)} of the {total} classes ({names}), so accuracy there says nothing of them"
        f"{_WHERE[min_images]}"
        for names, parts in notes.items()
    )
