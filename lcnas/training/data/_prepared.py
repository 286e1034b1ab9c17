"""Images preprocessed as in deployment: from the original files, by the same function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lcnas.errors import ImageError
from lcnas.images import read
from lcnas.training.data._decode import CHUNK, Decoded, Decoders, Faults
from lcnas.training.data._order import Indices, padded
from lcnas.training.data._types import Batch, Images, Original, Test, Train, Validation

if TYPE_CHECKING:
    import PIL.Image

_FEW = 200  # images below which processes take longer to start than to preprocess


class ImagePreprocessing(Protocol):
    """Preprocessing of an image, such as ``lcnas.onnx_export.Preprocessing``."""

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the network's input, (height, width)."""

    def pixels(self, image: PIL.Image.Image, /) -> Images:
        """Return the network's input for an RGB image, (height, width, 3), before normalisation."""


@dataclass(frozen=True)
class _PreprocessTask:
    """Images for one call of a worker."""

    originals: tuple[Original, ...]
    preprocessing: ImagePreprocessing


def prepared(
    split: Train | Validation | Test,
    preprocessing: ImagePreprocessing,
    batch: int,
    decoders: Decoders,
    faults: Faults,
) -> Iterator[Batch]:
    """Yield a split in order, each image read from its original and preprocessed.

    Args:
        split: the split.
        preprocessing: preprocessing of each image; it must be picklable.
        batch: images per batch; the last one is padded, with ``mask`` False.
        decoders: worker processes.
        faults: collects damaged images.

    Raises:
        DataError: more images are damaged than allowed; names them.
        OSError: a worker process died.
    """
    source, parts = split.source, list(padded(split.rows, batch))
    tasks = (
        _PreprocessTask(tuple(source.original(int(index)) for index in chunk), preprocessing)
        for indices, _ in parts
        for chunk in _chunks(indices)
    )
    few = len(split) < _FEW or not isinstance(source.original(int(split.rows[0])), str | bytes)
    readers = Decoders(0) if few else decoders
    done = readers.map(_run, tasks, ahead=2 * -(-batch // CHUNK) + readers.workers)
    height, width = preprocessing.size
    for indices, counts in parts:
        decoded = [next(done) for _ in _chunks(indices)]
        reasons = [reason for part in decoded for reason in part.reasons]
        named = zip(indices, reasons, strict=True)
        faults.add(
            (_name(source.original(int(index)), int(index)), text) for index, text in named if text
        )
        good = np.array([not reason for reason in reasons])
        aspect = np.full(len(indices), width / height, np.float32)
        images = np.concatenate([part.images for part in decoded])
        yield Batch(images, source.labels[indices], counts & good, aspect)


def _chunks(indices: Indices) -> list[Indices]:
    return [indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)]


def _name(original: Original, index: int) -> str:
    return original if isinstance(original, str) else f"image {index}"


def _run(task: _PreprocessTask) -> Decoded:
    """Preprocess the images of a task; errors of damaged ones are returned as reasons."""
    n, (height, width) = len(task.originals), task.preprocessing.size
    images = np.zeros((n, height, width, 3), np.uint8)
    reasons = [""] * n
    for i, original in enumerate(task.originals):
        try:
            images[i] = task.preprocessing.pixels(_opened(original))
        except ImageError as error:
            reasons[i] = str(error)
    return Decoded(images, np.full(n, width / height, np.float32), tuple(reasons))


def _opened(original: Original) -> PIL.Image.Image:
    if isinstance(original, str | bytes):
        return read(original)
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(original))
