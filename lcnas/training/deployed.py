"""What exported files are worth: each runs on a real engine, over images prepared as at deployment.

Nothing here knows the network that a file came from. An image is read from its original file, prepared by
the :class:`lcnas.onnx_export.Preprocessing` that the file records (the one that ``lcnas.classify`` uses), and
run by the engine whose latency is meant.
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
from lcnas.onnx_export import Classifier, File, Interface, Preprocessing, Run, Start
from lcnas.training.data import Data, Test, Train, Validation

_TOP = 5
_AT_ONCE = 64  # images prepared at once


@dataclass(frozen=True)
class Hits:
    """How a file did on the images of a split that have a label and can be read, in their order."""

    right: NDArray[np.bool_]  # (n,): whether the likeliest class is the label
    among: NDArray[np.bool_]  # (n,): whether the label is among the five likeliest classes
    engine: Engine  # what ran the file

    @property
    def accuracy(self) -> float:
        """Share of 1."""
        return float(self.right.mean())

    @property
    def top5(self) -> float:
        """Share of 1."""
        return float(self.among.mean())

    @property
    def images(self) -> int:
        """How many images counted."""
        return len(self.right)


def hits(
    files: Mapping[str, File],
    data: Data,
    split: Train | Validation | Test | None = None,
    *,
    engine: Engine | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, Hits]:
    """Return which images of a split each file gets right; the split is read once for all files.

    Args:
        files: ONNX files by name, ours or anybody's.
        data: the set.
        split: one of its splits; None: the test images.
        engine: what runs them; a file that is quantised runs as such whatever its precision. None: this
            machine's default, one thread, fp32.
        size: (height, width) in pixels, for files that leave them open.

    Raises:
        OnnxError: no classifier, classes that do not fit the set's, no image with a label.
        EngineError: the engine refuses a file.
        DataError: too many damaged images.
    """
    chosen = data.test if split is None else split
    opened = {
        name: _Opened.of(file, data.class_names, engine, size) for name, file in files.items()
    }
    groups: dict[Preprocessing, list[str]] = {}
    for name, opened_file in opened.items():
        groups.setdefault(opened_file.preparation, []).append(name)
    ranks: dict[str, list[NDArray[np.int64]]] = {name: [] for name in files}
    for preparation, names in groups.items():
        for batch in data.prepared(chosen, preparation, _AT_ONCE):
            keep = batch.mask & (batch.labels >= 0)
            if not keep.any():
                continue
            x, labels = preparation.normalized(batch.images[keep]), batch.labels[keep]
            for name in names:
                ranks[name].append(opened[name].ranks(x, labels))
    if not all(ranks.values()):
        raise OnnxError("accuracy: there is no image with a label")
    return {name: opened[name].hits(np.concatenate(parts)) for name, parts in ranks.items()}


@dataclass(frozen=True)
class _Opened:
    """A file, ready to run."""

    classifier: Classifier
    preparation: Preprocessing
    columns: NDArray[np.intp]  # (classes of the set,): which of the file's outputs each class is
    engine: Engine

    @classmethod
    def of(
        cls,
        file: File,
        class_names: Sequence[str],
        engine: Engine | None,
        size: tuple[int, int] | None,
    ) -> _Opened:
        used: list[Engine] = []
        classifier = Classifier.of(file, size, begin(engine or engines.engine(), used))
        interface = classifier.interface
        columns = columns_of(interface.class_names, class_names, classifier.classes, interface.what)
        return cls(classifier, interface.preprocessing(classifier.size), columns, used[0])

    def ranks(self, x: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Return how many classes come before the label's, (n,); of equal logits the lower class does."""
        logits = self.classifier.logits(x)
        own = self.columns[labels][:, None]
        value = np.take_along_axis(logits, own, axis=1)
        earlier = np.arange(logits.shape[1])[None] < own
        before: NDArray[np.int64] = ((logits > value) | ((logits == value) & earlier)).sum(axis=1)
        return before

    def hits(self, ranks: NDArray[Any]) -> Hits:
        return Hits(ranks < 1, ranks < _TOP, self.engine)


def begin(engine: Engine, used: list[Engine]) -> Start:
    """Return what opens files on an engine: a quantised one in int8, at the file's own batch.

    Args:
        engine: of this machine; its precision counts for files that are not quantised.
        used: gets the engine as it is for each file.
    """

    def start(data: bytes, interface: Interface) -> Run:
        from lcnas.onnx_export import is_quantised, read

        otherwise = "fp32" if engine.precision == "int8" else engine.precision
        precision = "int8" if is_quantised(read(data)) else otherwise
        used.append(like(engine, precision, interface.batch or 1))
        return used[-1].open(data).outputs

    return start


def like(engine: Engine, precision: str, batch: int = 1) -> Engine:
    """Return this machine's engine of the same name and threads, in that precision and for that batch."""
    if (engine.precision, engine.batch) == (precision, batch):
        return engine
    return engines.engine(engine.name, threads=engine.threads, precision=precision, batch=batch)


def here(engine: Engine) -> tuple[Engine, str]:
    """Return an engine of this machine like the given one, and a note where it has to be another.

    Where that engine (of another machine, say) is not here, onnxruntime's own kernels, mlas, take its place.
    """
    try:
        local = engines.engine(
            engine.name, threads=engine.threads, precision=engine.precision, batch=engine.batch
        )
    except EngineError as error:
        precision = "int8" if engine.precision == "int8" else "fp32"
        note = (
            f"accuracies are of the files run by mlas in {precision}, since {engine.name} in "
            f"{engine.precision} is not here ({error})"
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
    """Return which of a file's outputs each class of a set is, by their names.

    Where either side has no names (or only numbers in order) the order counts.

    Raises:
        OnnxError: another number of classes without names, or a class that the file does not have.
    """
    plain = tuple(str(i) for i in range(len(class_names)))
    if own is None or tuple(own) == tuple(class_names) or tuple(class_names) == plain:
        if outputs != len(class_names):
            raise OnnxError(f"{what}: has {outputs} classes, the images have {len(class_names)}")
        return np.arange(outputs)
    place: dict[str, int] = {}
    for i, name in enumerate(own):
        place.setdefault(name, i)
    missing = [name for name in class_names if name not in place]
    if missing:
        hint = nearest(missing[0], list(place))
        raise OnnxError(f"{what}: lacks classes of the images: {listing(missing)}{hint}")
    return np.array([place[name] for name in class_names], np.intp)
