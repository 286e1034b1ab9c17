"""A loaded data set, and the functions that all its loaders share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lcnas import renamed
from lcnas.errors import DataError, listing, spelt
from lcnas.training.data import _folder, _order
from lcnas.training.data._decode import Cut, Decoders, Faults, Pair, Shape
from lcnas.training.data._memory import Memory, Pixels, Progress, decode
from lcnas.training.data._order import Indices
from lcnas.training.data._prepared import ImagePreprocessing, prepared
from lcnas.training.data._synthetic import SyntheticImages
from lcnas.training.data._types import Batch, Labels, Normalization, Test, Train, Validation

# Uses of a seed, so that no two of them draw the same numbers.
SPLIT, HELD, PERMUTE, DRAW, PICK = range(1, 6)

_READER = 2  # version of lcnas.images: raised when it decodes a file differently
SAMPLE = 2000  # training images for the normalisation constants, if not all are in memory


@dataclass(frozen=True, eq=False)
class Data:
    """A data set of labelled images, in three splits.

    It is a context manager that ends the worker processes, like :meth:`close`.
    """

    spec: str  # argument of load()
    size: Shape  # height, width in pixels that it was loaded for
    class_names: tuple[str, ...]
    normalization: Normalization  # constants of the training split, or those given to load()
    train: Train
    validation: Validation
    test: Test
    fingerprint: str  # hash of the images, labels and their split
    decoders: Decoders = field(repr=False)
    faults: Faults = field(repr=False)
    notes: tuple[str, ...] = ()  # lines on how the splits were chosen, and on what is left out

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
        """Return images in memory as a data set with an empty test split; no array is copied."""
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
        """The damaged images found so far, name -> reason; of streamed images only those already read."""
        return dict(self.faults.reasons)

    @renamed.parameter("preparation", "preprocessing")
    def prepared(
        self, split: Train | Validation | Test, preprocessing: ImagePreprocessing, batch: int = 64
    ) -> Iterator[Batch]:
        """Yield a split in order, each image read from its original file and preprocessed for deployment.

        Args:
            split: one of this data set's splits.
            preprocessing: such as an :class:`lcnas.onnx_export.Preprocessing`; its pixels are
                (height, width, 3), uint8, not yet normalised.
            batch: images per batch; the last one is padded, with ``mask`` False.

        Raises:
            DataError: more images are damaged than allowed; names them.
            OSError: a worker process died.
        """
        return prepared(split, preprocessing, batch, self.decoders, self.faults)

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
class LoadOptions:
    """The arguments of :func:`lcnas.training.data.load`, checked."""

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
        """Return whether that many images fit into the memory limit."""
        return mib(images, shape) <= self.memory_mb

    def permuted(self, labels: Labels, part: int) -> Labels:
        """Return the labels, in random order if they are permuted for a control."""
        if not self.permute_labels:
            return labels
        return labels[_order.permutation(len(labels), self.seed, PERMUTE, part)]


def mib(images: int, shape: Shape) -> float:
    """Return the memory of decoded images, MiB."""
    return images * shape[0] * shape[1] * 3 / 2**20


def decoded(root: Path, names: Sequence[str], cut: Cut, options: LoadOptions) -> Pixels:
    """Return decoded images, from the cache if they are in it, and record the damaged ones."""
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
    """Return the images at any depth below a folder, and notes on files left out."""
    left = _folder.LeftOut()
    names, notes = sorted(_folder.walk(root, "", left)), left.notes()
    if not names:
        why = "".join(f" ({note})" for note in notes)
        raise DataError(f"unlabelled: {spelt(str(root))} has no images{why}")
    return names, notes


def with_unlabelled(
    source: Memory | SyntheticImages, indices: Indices, shape: Shape, options: LoadOptions
) -> Train:
    """Return the training split, with the unlabelled images appended, if any."""
    if options.unlabelled is None:
        return Train(source, indices)
    names, _ = unlabelled_names(options.unlabelled)
    n = len(source.labels)
    if not options.fits(n + len(names), shape):
        raise DataError(
            f"unlabelled: {len(names)} images take {mib(len(names), shape):.0f} MiB, with the others more "
            f"than memory_mb ({options.memory_mb:g}); raise it (--memory-mb), or give fewer images"
        )
    options.faults.total += len(names)
    pixels = decoded(options.unlabelled, names, Cut("whole", shape), options)
    files = tuple(str(options.unlabelled / name) for name in names)
    extra = Memory(pixels.images, np.full(len(names), -1, np.int32), pixels.aspect, files=files)
    whole = _as_memory(source, shape).joined(extra)
    return Train(whole, np.concatenate([indices, n + np.flatnonzero(pixels.good)]))


def _as_memory(source: Memory | SyntheticImages, shape: Shape) -> Memory:
    if isinstance(source, Memory):
        return source
    n = len(source.labels)
    images = source.images(np.arange(n))
    return Memory(images, source.labels, np.full(n, shape[1] / shape[0], np.float32))


def assembled(
    options: LoadOptions,
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
    """Return the data set, after checking that each split has images of at least two classes.

    Args:
        options: arguments of ``load``.
        shape: the size it was loaded for.
        class_names: in the order of the labels.
        constants: normalisation of the training split.
        train: the training split.
        validation: the validation split.
        test: the test split.
        parts: texts and arrays that identify the images and their split, for the fingerprint.
        min_images: images of a class in training that suffice for all splits taken from them.
        notes: lines on the data set, for the console.
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
    options: LoadOptions,
    class_names: Sequence[str],
    splits: tuple[Train, Validation, Test],
    min_images: int,
) -> tuple[str, ...]:
    """Return notes on classes that validation or test lack.

    Raises:
        DataError: training lacks a class, or another split has fewer than two, so its accuracy means nothing.
    """
    notes: dict[str, list[str]] = {}
    for split in splits:
        counts = np.bincount(split.labels[split.labels >= 0], minlength=len(class_names))
        lacking = [name for name, n in zip(class_names, counts, strict=True) if not n]
        what = type(split).__name__.lower()
        present = len(class_names) - len(lacking)
        if present < 2 or (lacking and isinstance(split, Train)):
            problem = "is empty" if not present else f"has no readable images of {listing(lacking)}"
            if present == 1 and not _WHERE[min_images]:
                problem += ", so that no accuracy counts: at least 2 classes are needed there"
            raise DataError(
                f"data: {spelt(options.spec)}: the {what} split {problem}{_WHERE[min_images]}"
            )
        if lacking:
            notes.setdefault(listing(lacking), []).append(f"{what} has none of {len(lacking)}")
    total = len(class_names)
    return tuple(
        f"{' and '.join(parts)} of the {total} classes ({names}), so accuracy there does not cover them"
        f"{_WHERE[min_images]}"
        for names, parts in notes.items()
    )
