"""Accuracy of ONNX files on labelled images, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import OnnxError
from lcnas.onnx_export._classifier import Classifier, mlas_runner
from lcnas.onnx_export._file import File, display_name


class LabelledBatch(Protocol):
    """A batch of labelled images."""

    @property
    def images(self) -> NDArray[Any]:
        """(n, height, width, 3), uint8."""

    @property
    def labels(self) -> NDArray[Any]:
        """(n,), whole numbers; -1 for an unknown class."""

    @property
    def mask(self) -> NDArray[Any]:
        """(n,) bool; False for images that only fill the batch."""


LabelledImages = LabelledBatch | tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy of a file."""

    images: int
    top1: float  # share of images whose highest logit is the label's
    top5: float  # share of images whose label is among the five highest

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%} of {self.images:,} images"


def accuracy(source: File, batches: Iterable[LabelledImages], *, threads: int = 1) -> Accuracy:
    """Return the accuracy of a file on labelled images, computed by onnxruntime's own kernels.

    Args:
        source: a file, its bytes, or a model.
        batches: objects with ``images``, ``labels`` and ``mask``, or tuples of the three. uint8 images are
            preprocessed as the file records (by default as for ImageNet); float32 images are taken as they
            are. If a batch has ``aspect`` (the original width / height of squashed images), it is used too.
        threads: number of threads.

    Raises:
        OnnxError: the file is not a classifier, labels exceed its classes, or there is no image.
    """
    return compare({display_name(source): source}, batches, threads=threads)[display_name(source)]


def compare(
    sources: Mapping[str, File], batches: Iterable[LabelledImages], *, threads: int = 1
) -> dict[str, Accuracy]:
    """Return the accuracy of several files on the same images, side by side; see :func:`accuracy`.

    Examples:
        >>> from lcnas import onnx_export, zoo
        >>> model = onnx_export.export(zoo.load("pplcnet_0.25x", resolution=32), classes=10)
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(8, 32, 32, 3)).astype(np.float32)
        >>> int8 = onnx_export.quantise(model, [x])
        >>> split = [(x, np.zeros(8, np.int32), np.ones(8, bool))]
        >>> [a.images for a in compare({"fp32": model, "int8": int8}, split).values()]
        [8, 8]
    """
    classifiers = {
        name: Classifier.of(source, begin=lambda data, _: mlas_runner(data, threads))
        for name, source in sources.items()
    }
    hits = {name: np.zeros(3, np.int64) for name in sources}  # images, top-1, top-5
    for batch in batches:
        images, labels, mask = _unpacked_batch(batch)
        aspects = getattr(batch, "aspect", None)
        kept_aspects = None if aspects is None else np.asarray(aspects)[mask]
        for name, classifier in classifiers.items():
            hits[name] += _hits(classifier, images[mask], labels[mask], kept_aspects)
    if not all(counts[0] for counts in hits.values()):
        raise OnnxError("accuracy: there is no image")
    return {
        name: Accuracy(int(n), float(top1 / n), float(top5 / n))
        for name, (n, top1, top5) in hits.items()
    }


def _unpacked_batch(batch: LabelledImages) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    fields = batch if isinstance(batch, tuple) else (batch.images, batch.labels, batch.mask)
    images, labels, mask = (np.asarray(field) for field in fields)
    if not len(images) == len(labels) == len(mask) or mask.dtype != bool:
        raise OnnxError(
            f"accuracy: {len(images)} images, {len(labels)} labels and a mask of {len(mask)} {mask.dtype}"
        )
    return images, labels, mask & (labels != -1)


def _hits(
    classifier: Classifier,
    images: NDArray[Any],
    labels: NDArray[Any],
    aspects: NDArray[np.float32] | None,
) -> NDArray[np.int64]:
    """Return (images, top-1 hits, top-5 hits)."""
    if not len(images):
        return np.zeros(3, np.int64)
    if labels.min() < 0 or labels.max() >= classifier.classes:
        raise OnnxError(
            f"{classifier.interface.what}: labels from {labels.min()} to {labels.max()}, "
            f"but it has {classifier.classes} classes"
        )
    if images.dtype == np.uint8:
        images = classifier.interface.preprocessing(classifier.size)(images, aspects)
    # The rank of the label's logit; of equal logits the lower class comes first, as in argmax.
    logits = classifier.logits(images)
    label_logits = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > label_logits) | ((logits == label_logits) & earlier)).sum(axis=1)
    return np.array([len(labels), (rank < 1).sum(), (rank < 5).sum()], np.int64)
