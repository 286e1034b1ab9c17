"""Images as a deployed network is given them: from the originals, by the function that deployment uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lcnas.errors import ImageError
from lcnas.images import read
from lcnas.training.data._decode import CHUNK, Decoded, Decoders, Faults
from lcnas.training.data._order import Rows, padded
from lcnas.training.data._types import Batch, Images, Original, Test, Train, Validation

if TYPE_CHECKING:
    import PIL.Image

_FEW = 200  # images that are prepared in less time than processes take to start


class Preparation(Protocol):
    """What an image goes through on its way into a network, such as ``lcnas.onnx_export.Preprocessing``."""

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the network's input, (height, width)."""

    def pixels(self, image: PIL.Image.Image, /) -> Images:
        """Return what the network sees of an RGB image, (height, width, 3), before it is normalised."""


@dataclass(frozen=True)
class _Task:
    """Some images to be prepared in one go."""

    originals: tuple[Original, ...]
    preparation: Preparation


def prepared(
    split: Train | Validation | Test,
    preparation: Preparation,
    batch: int,
    decoders: Decoders,
    faults: Faults,
) -> Iterator[Batch]:
    """Yield a split in order, each image read from its original and prepared.

    Args:
        split: whose images.
        preparation: of each; it has to be picklable.
        batch: images a batch; the last one is padded, with ``mask`` False.
        decoders: processes that read.
        faults: where damaged images are noted.

    Raises:
        DataError: names the damaged images, once there are more than allowed.
        OSError: a worker process died.
    """
    source, parts = split.source, list(padded(split.rows, batch))
    tasks = (
        _Task(tuple(source.original(int(row)) for row in chunk), preparation)
        for rows, _ in parts
        for chunk in _chunks(rows)
    )
    few = len(split) < _FEW or not isinstance(source.original(int(split.rows[0])), str | bytes)
    readers = Decoders(0) if few else decoders
    done = readers.map(_run, tasks, ahead=2 * -(-batch // CHUNK) + readers.workers)
    height, width = preparation.size
    for rows, counts in parts:
        decoded = [next(done) for _ in _chunks(rows)]
        reasons = [reason for part in decoded for reason in part.reasons]
        named = zip(rows, reasons, strict=True)
        faults.add(
            (_name(source.original(int(row)), int(row)), text) for row, text in named if text
        )
        good = np.array([not reason for reason in reasons])
        aspect = np.full(len(rows), width / height, np.float32)
        images = np.concatenate([part.images for part in decoded])
        yield Batch(images, source.labels[rows], counts & good, aspect)


def _chunks(rows: Rows) -> list[Rows]:
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


def _name(original: Original, row: int) -> str:
    return original if isinstance(original, str) else f"image {row}"


def _run(task: _Task) -> Decoded:
    """Prepare the images of a task; a damaged one is noted, not raised."""
    n, (height, width) = len(task.originals), task.preparation.size
    images = np.zeros((n, height, width, 3), np.uint8)
    reasons = [""] * n
    for i, original in enumerate(task.originals):
        try:
            images[i] = task.preparation.pixels(_opened(original))
        except ImageError as error:
            reasons[i] = str(error)
    return Decoded(images, np.full(n, width / height, np.float32), tuple(reasons))


def _opened(original: Original) -> PIL.Image.Image:
    if isinstance(original, str | bytes):
        return read(original)
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(original))
