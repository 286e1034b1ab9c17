"""Accuracy of exported files: each runs on a real engine, over images preprocessed as at deployment.

Only the file is evaluated, not the network it was exported from. Each image is read from its original file,
preprocessed by the :class:`lcnas.onnx_export.Preprocessing` that the file records (as in ``lcnas.classify``),
and classified by the engine of the latency measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import EngineError, OnnxError, listing, nearest
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.onnx_export import Classifier, File, Interface, ModelRunner, Preprocessing, RunnerFactory
from lcnas.training.data import Data, Test, Train, Validation

_TOP = 5
_BATCH = 64  # images preprocessed at once


@dataclass(frozen=True)
class Hits:
    """Correct predictions of a file on the labelled, readable images of a split, in order."""

    correct: NDArray[np.bool_]  # (n,): whether the likeliest class is the label
    in_top5: NDArray[np.bool_]  # (n,): whether the label is among the five likeliest classes
    engine: Engine  # that ran the file

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return float(self.correct.mean())

    @property
    def top5(self) -> float:
        """Top-5 accuracy, 0 to 1."""
        return float(self.in_top5.mean())

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.correct)


def hits(
    files: Mapping[str, File],
    data: Data,
    split: Train | Validation | Test | None = None,
    *,
    engine: Engine | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, Hits]:
    """Return which images of a split each file classifies correctly; reads the split once for all files.

    Args:
        files: ONNX files by name, from any exporter.
        data: the data set.
        split: one of its splits; None: the test images.
        engine: runs the files; a quantised file runs in int8 whatever the engine's precision. None: this
            machine's default, one thread, fp32.
        size: (height, width) in pixels, for files with a dynamic input size.

    Raises:
        OnnxError: a file is not a classifier or has other classes than the data, or no image has a label.
        EngineError: the engine does not run a file.
        DataError: too many damaged images.
    """
    chosen = data.test if split is None else split
    opened = {
        name: _OpenedFile.of(file, data.class_names, engine, size) for name, file in files.items()
    }
    groups: dict[Preprocessing, list[str]] = {}
    for name, opened_file in opened.items():
        groups.setdefault(opened_file.preprocessing, []).append(name)
    ranks: dict[str, list[NDArray[np.int64]]] = {name: [] for name in files}
    for preprocessing, names in groups.items():
        for batch in data.prepared(chosen, preprocessing, _BATCH):
            keep = batch.mask & (batch.labels >= 0)
            if not keep.any():
                continue
            x, labels = preprocessing.normalized(batch.images[keep]), batch.labels[keep]
            for name in names:
                ranks[name].append(opened[name].ranks(x, labels))
    if not all(ranks.values()):
        raise OnnxError("accuracy: no image has a label")
    return {name: opened[name].hits(np.concatenate(parts)) for name, parts in ranks.items()}


@dataclass(frozen=True)
class _OpenedFile:
    """A file, loaded by an engine."""

    classifier: Classifier
    preprocessing: Preprocessing
    columns: NDArray[np.intp]  # (classes of the data,): index of each class in the file's outputs
    engine: Engine

    @classmethod
    def of(
        cls,
        file: File,
        class_names: Sequence[str],
        engine: Engine | None,
        size: tuple[int, int] | None,
    ) -> _OpenedFile:
        used: list[Engine] = []
        classifier = Classifier.of(file, size, begin(engine or engines.engine(), used))
        interface = classifier.interface
        columns = columns_of(interface.class_names, class_names, classifier.classes, interface.what)
        return cls(classifier, interface.preprocessing(classifier.size), columns, used[0])

    def ranks(self, x: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Return the number of classes ranked before the label, (n,); equal logits rank by class index."""
        logits = self.classifier.logits(x)
        own = self.columns[labels][:, None]
        value = np.take_along_axis(logits, own, axis=1)
        earlier = np.arange(logits.shape[1])[None] < own
        before: NDArray[np.int64] = ((logits > value) | ((logits == value) & earlier)).sum(axis=1)
        return before

    def hits(self, ranks: NDArray[Any]) -> Hits:
        return Hits(ranks < 1, ranks < _TOP, self.engine)


def begin(engine: Engine, used: list[Engine]) -> RunnerFactory:
    """Return a function that loads files into an engine: quantised ones in int8, each at its own batch.

    Args:
        engine: an engine of this machine; its precision applies to files that are not quantised.
        used: list to append the engine of each file to.
    """

    def start(data: bytes, interface: Interface) -> ModelRunner:
        from lcnas.onnx_export import is_quantised, read

        unquantised = "fp32" if engine.precision == "int8" else engine.precision
        precision = "int8" if is_quantised(read(data)) else unquantised
        used.append(with_precision(engine, precision, interface.batch or 1))
        return used[-1].open(data).outputs

    return start


def with_precision(engine: Engine, precision: str, batch: int = 1) -> Engine:
    """Return this machine's engine of the same name and threads, with another precision and batch."""
    if (engine.precision, engine.batch) == (precision, batch):
        return engine
    return engines.engine(engine.name, threads=engine.threads, precision=precision, batch=batch)


def local_engine(engine: Engine) -> tuple[Engine, str]:
    """Return this machine's equivalent of an engine, and a note if it differs; "" if it is the same.

    If the engine (of another machine, say) is not available, mlas, onnxruntime's own kernels, replaces it.
    """
    try:
        local = engines.engine(
            engine.name, threads=engine.threads, precision=engine.precision, batch=engine.batch
        )
    except EngineError as error:
        precision = "int8" if engine.precision == "int8" else "fp32"
        note = (
            f"accuracies are of the files run by mlas in {precision}, since {engine.name} in "
            f"{engine.precision} is not available here ({error})"
        )
        return engines.engine("mlas", threads=1, precision=precision, batch=engine.batch), note
    if local != engine:
        what = f"{engine.version} ({engine.isa})"
        return (
            local,
            f"accuracies are of {local.version} ({local.isa}) of {local.name}, latencies of {what}",
        )
    return local, ""


def columns_of(
    own: Sequence[str] | None, class_names: Sequence[str], outputs: int, what: str
) -> NDArray[np.intp]:
    """Return the index in a file's outputs of each class of the data, matched by name.

    Without names on either side (or with numbers in order for names), classes are matched by order.

    Args:
        own: class names of the file, in the order of its outputs, or None.
        class_names: class names of the data.
        outputs: number of the file's outputs.
        what: name of the file, for messages.

    Raises:
        OnnxError: the file lacks a class, or has another number of classes and no names.
    """
    numbers = tuple(str(i) for i in range(len(class_names)))
    if own is None or tuple(own) == tuple(class_names) or tuple(class_names) == numbers:
        if outputs != len(class_names):
            raise OnnxError(f"{what}: has {outputs} classes, the images have {len(class_names)}")
        return np.arange(outputs)
    index: dict[str, int] = {}
    for i, name in enumerate(own):
        index.setdefault(name, i)
    missing = [name for name in class_names if name not in index]
    if missing:
        hint = nearest(missing[0], list(index))
        raise OnnxError(f"{what}: lacks classes of the images: {listing(missing)}{hint}")
    return np.array([index[name] for name in class_names], np.intp)
