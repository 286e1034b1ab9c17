"""Teachers for distillation: any ONNX classifier, or a model of this package.

A teacher sees the student's augmented images before normalisation, and applies its own preprocessing: its
own size and normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas import onnx_export
from lcnas.arch import check_resolution, height_width
from lcnas.errors import LcnasError, OnnxError, PretrainedError, TeacherError, shorten
from lcnas.latency import engines
from lcnas.models import pretrained
from lcnas.onnx_export import Classifier, Interface, MeanStd, Model, Preprocessing

Array = NDArray[np.float32]
Images = NDArray[Any]  # (n, any height, any width, 3): uint8, or float32 from 0 to 255
Size = int | tuple[int, int]  # pixels per side, or (height, width)
_SAME = 1e-6  # constants that differ by less are equal


class Teacher(Protocol):
    """A source of logits that a student learns to reproduce."""

    @property
    def classes(self) -> int:
        """The number of outputs: the classes of the data."""

    def logits(self, images: Images) -> Array:
        """Return logits, up to a constant per image, (n, classes) float32.

        Args:
            images: the student's images before normalisation, (n, height, width, 3), uint8, or float32 from
                0 to 255. They are resized if the teacher has another input size, never cropped.
        """


@dataclass(frozen=True)
class TeacherFile:
    """A teacher's file, with preprocessing that the file does not record."""

    path: str | Path
    normalization: MeanStd | None = None  # None: as the file records, else that of the data
    size: Size | None = None  # pixels; None: as the file records

    def __str__(self) -> str:
        return str(self.path)

    @property
    def settings(self) -> str:
        """The settings given here and not in the file, as text; "" for none."""
        parts = []
        if self.normalization is not None:
            for name in ("mean", "std"):
                values = getattr(self.normalization, name)
                parts.append(f"{name}={','.join(f'{float(v):.9g}' for v in values)}")
        if self.size is not None:
            parts.append("size={}x{}".format(*_pair(self.size)))
        return ";".join(parts)


@dataclass(frozen=True)
class _ClassifierTeacher:
    what: str  # name in messages
    classes: int
    preprocess: Preprocessing
    # normalised images (n, height, width, 3) -> logits (n, classes)
    forward: Callable[[Array], Any]

    def logits(self, images: Images) -> Array:
        checked = onnx_export.check_images(images)
        logits = np.asarray(self.forward(self.preprocess(checked)), np.float32)
        if logits.shape != (len(checked), self.classes):
            raise TeacherError(
                f"{self.what}: returns {logits.shape}, not {(len(checked), self.classes)}: "
                f"{len(checked)} images, {self.classes} classes"
            )
        if not np.isfinite(logits).all():
            raise TeacherError(f"{self.what}: returns logits that are not finite")
        return logits


def load(
    path: str | Path,
    *,
    normalization: MeanStd | None = None,
    size: Size | None = None,
    default: MeanStd | None = None,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
    engine: str | None = None,
    threads: int = 1,
    read: Callable[[Path], tuple[Model, Recorded]] | None = None,
) -> Teacher:
    """Return the teacher in a file.

    For an ONNX file, layout and batch are read from the graph, and probabilities are converted to logits. If
    the file records a size (files of this package: normalisation and class names too), the arguments must
    agree with it.

    Args:
        path: an ONNX file, or one that ``read`` reads.
        normalization: constants of the teacher's own training data, if the file does not record them.
        size: input size in pixels, if that of the file is dynamic.
        default: normalisation if neither the file nor ``normalization`` has one.
        classes: number of classes of the data; the teacher must have the same.
        class_names: class names of the data; a teacher that records names must have the same, in order.
        engine: engine that runs an ONNX file, one of :func:`lcnas.latency.engines.names`; None: the default.
        threads: number of threads.
        read: reads any file without the suffix .onnx (safetensors, for example); returns a model in
            evaluation mode, and what the file records.

    Raises:
        TeacherError: no such file, not a classifier, other classes than the data's, no normalisation, or
            another normalisation or size than the file records.
        EngineError: the engine is not available, or does not run the file.
    """
    file = Path(path)
    if not file.exists():
        raise TeacherError(f"teacher: there is no file {path}")
    if read is not None and file.suffix != ".onnx":
        return _of_weights(file, read, normalization, size, default, classes, class_names)
    try:
        return _of_onnx(file, normalization, size, default, classes, class_names, engine, threads)
    except OnnxError as error:
        raise TeacherError(f"teacher {error}") from None


class Recorded(Protocol):
    """What a file of weights records about its network."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of the outputs, or None."""

    @property
    def normalization(self) -> MeanStd | None:
        """Normalisation of the training data, or None."""


def _of_weights(
    file: Path,
    read: Callable[[Path], tuple[Model, Recorded]],
    normalization: MeanStd | None,
    size: Size | None,
    default: MeanStd | None,
    classes: int | None,
    class_names: Sequence[str] | None,
) -> Teacher:
    what = f"teacher {file}"
    try:
        model, recorded = read(file)
    except PretrainedError as error:
        known = file.suffix.lower() in pretrained.SUFFIXES
        hint = "" if known else "; a teacher may be an .onnx file as well"
        raise TeacherError(f"teacher {error}{hint}") from None
    _check_classes(what, model.classes, classes)
    _check_names(what, recorded.class_names, class_names)
    own = recorded.normalization
    if own is not None:
        _check_recorded(what, own, normalization)
    else:
        own = default if normalization is None else normalization
    return from_model(model, own, size, classes=classes, what=what)


def from_model(
    model: Model,
    normalization: MeanStd | None,
    size: Size | None = None,
    *,
    classes: int | None = None,
    what: str = "teacher",
) -> Teacher:
    """Return a model of this package as a teacher.

    Args:
        model: a model in evaluation mode, called with normalised images (n, height, width, 3) float32.
        normalization: constants of its training data.
        size: input size in pixels; None: its arch's resolution.
        classes: number of classes of the data; the model must have the same.
        what: name in messages.

    Raises:
        TeacherError: other classes than the data's, or no normalisation.
    """
    _check_classes(what, model.classes, classes)
    pixels = height_width(model.arch.resolution) if size is None else _pair(size)
    preprocess = Preprocessing(pixels, *_constants(what, normalization), squash=True)
    return _ClassifierTeacher(what, model.classes, preprocess, model)


def _of_onnx(
    file: Path,
    normalization: MeanStd | None,
    size: Size | None,
    default: MeanStd | None,
    classes: int | None,
    class_names: Sequence[str] | None,
    engine: str | None,
    threads: int,
) -> Teacher:
    what = f"teacher {file}"
    pixels = None if size is None else _pair(size)

    def start(data: bytes, interface: Interface) -> Callable[[Array], NDArray[Any]]:
        return (
            engines.engine(engine, threads=threads, batch=interface.batch or 1).open(data).outputs
        )

    classifier = Classifier.of(file, pixels, start)
    interface = classifier.interface
    if pixels not in (None, classifier.size):
        raise TeacherError(f"{what}: its images are {_x(classifier.size)} pixels, not {_x(pixels)}")
    _check_classes(what, classifier.classes, classes)
    _check_names(what, interface.class_names, class_names)
    if interface.has_normalization:
        constants = interface.preprocessing(classifier.size)
        mean, std = constants.mean, constants.std
        _check_recorded(what, constants, normalization)
    else:
        mean, std = _constants(what, default if normalization is None else normalization)
    preprocess = Preprocessing(classifier.size, mean, std, squash=True)
    return _ClassifierTeacher(what, classifier.classes, preprocess, classifier.logits)


def _x(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _check_recorded(what: str, recorded: MeanStd, normalization: MeanStd | None) -> None:
    """Raise TeacherError if constants differ from those that the file records."""
    for name in () if normalization is None else ("mean", "std"):
        own, other = getattr(recorded, name), getattr(normalization, name)
        if not np.allclose(own, other, rtol=0, atol=_SAME):
            raise TeacherError(
                f"{what}: records the {name} {tuple(own)}, not {tuple(other)}; leave out what the "
                "file records"
            )


def _pair(size: Size) -> tuple[int, int]:
    try:
        return height_width(check_resolution(size, "size"))
    except LcnasError as error:
        raise TeacherError(f"teacher: {error}") from None


def _constants(
    what: str, normalization: MeanStd | None
) -> tuple[onnx_export.Constants, onnx_export.Constants]:
    """Return (mean, std)."""
    if normalization is None:
        raise TeacherError(
            f"{what}: does not record how its images are normalised; give its mean and std "
            f"(ImageNet's are {onnx_export.IMAGENET_MEAN} and {onnx_export.IMAGENET_STD})"
        )
    try:
        mean = onnx_export.constants(normalization.mean, "normalization: mean")
        return mean, onnx_export.constants(normalization.std, "normalization: std")
    except LcnasError as error:
        raise TeacherError(f"{what}: {error}") from None


def _check_classes(what: str, classes: int, data_classes: int | None) -> None:
    if data_classes is not None and classes != data_classes:
        raise TeacherError(unfit(what, classes, data_classes))


def unfit(what: str, classes: int, data_classes: int) -> str:
    """Return the message for a teacher with another number of classes than the data."""
    return (
        f"{what}: has {classes} classes, the data {data_classes}; a teacher needs the classes of the data: "
        "take one that was trained on them, or train it on them first (--init takes its weights and "
        "initialises the last layer anew)"
    )


def _check_names(
    what: str, names: tuple[str, ...] | None, class_names: Sequence[str] | None
) -> None:
    """Raise TeacherError if the recorded class names differ, or come in another order."""
    if names is None or class_names is None or names == tuple(class_names):
        return
    pairs = enumerate(zip(names, class_names, strict=False))
    differing = next(((i, a, b) for i, (a, b) in pairs if a != b), None)
    if differing is None:
        raise TeacherError(f"{what}: has {len(names)} class names, the data {len(class_names)}")
    i, own, other = differing
    raise TeacherError(
        f"{what}: calls class {i} {shorten(own)}, the data {shorten(other)}; a teacher needs the classes "
        "of the data, in the same order"
    )
