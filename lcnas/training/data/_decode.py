"""Decoding and cropping of image files, and the worker processes that do it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcnas import images as files
from lcnas.errors import DataError, ImageError, spelt
from lcnas.training.data._types import Images

if TYPE_CHECKING:
    import PIL.Image

CROP_ATTEMPTS = 10  # draws of a random crop that fits into the image, before a centre crop is taken
CHUNK = 16  # images per task: enough that sending it to a process costs little
_STANDARD_CROP = 0.875  # share of the short side: 224 of 256

Encoded = str | bytes  # the path of an image, or its file's content
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Pair = tuple[float, float]
Shape = tuple[int, int]  # height, width


def stored_shape(height: int, width: int) -> Shape:
    """Return the size to store images at, for a centre crop of (height, width): 256 per side for 224."""
    return math.ceil(height / _STANDARD_CROP), math.ceil(width / _STANDARD_CROP)


@dataclass(frozen=True)
class Cut:
    """A part of an image and the size to resize it to.

    Its ``repr`` is part of the keys of the cache: another name of the class or of a field empties the cache.
    """

    kind: str  # "whole": squashed; "centre": the middle of the longer side; "random": resized crop
    shape: Shape  # height, width
    scale: Pair = (0.08, 1.0)  # of a random crop: share of the image's area
    ratio: Pair = (3 / 4, 4 / 3)  # of a random crop: width / height, relative to that of the shape

    def box(self, width: int, height: int, entropy: Sequence[int]) -> Box:
        """Return the part of an image of that size; ``entropy`` is the seed of a random one."""
        if self.kind == "whole":
            return 0.0, 0.0, float(width), float(height)
        aspect = self.shape[1] / self.shape[0]
        if self.kind == "centre":
            high = min(height, width / aspect)
            return _placed(width, height, high * aspect, high, 0.5, 0.5)
        ratio = (self.ratio[0] * aspect, self.ratio[1] * aspect)
        return random_box(width, height, self.scale, ratio, np.random.default_rng(entropy))


def random_box(width: int, height: int, scale: Pair, ratio: Pair, rng: np.random.Generator) -> Box:
    """Return a random crop: its share of the area is uniform, its width / height log-uniform.

    A crop that does not fit is drawn again, up to 10 times; the fallback is the largest centre crop with an
    allowed ratio. (The crop of GoogLeNet, Szegedy et al. 2015, as in all toolkits.)
    """
    area = width * height
    draws = rng.random((CROP_ATTEMPTS, 2))
    left, top = rng.random(2)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for share, shape in draws:
        target = area * (scale[0] + share * (scale[1] - scale[0]))
        r = math.exp(low + shape * (high - low))
        w, h = math.sqrt(target * r), math.sqrt(target / r)
        if w <= width and h <= height:
            return _placed(width, height, w, h, left, top)
    r = min(max(width / height, ratio[0]), ratio[1])
    h = min(height, width / r)
    return _placed(width, height, h * r, h, 0.5, 0.5)


def _placed(width: float, height: float, w: float, h: float, left: float, top: float) -> Box:
    x, y = left * (width - w), top * (height - h)
    return x, y, min(x + w, width), min(y + h, height)  # sums may exceed it by rounding


def open_rgb(source: Encoded) -> PIL.Image.Image:
    """Return an image, upright, in RGB with 8 bits per channel; see :func:`lcnas.images.read`.

    Args:
        source: the path of its file, or the file's content.

    Raises:
        ImageError: the image cannot be read, with the reason.
    """
    return files.read(source)


def open_size(source: Encoded) -> Shape:
    """Return (width, height) of an image from its header, or (0, 0) if it cannot be read."""
    try:
        return files.size(source)
    except ImageError:  # reported when the image itself is read
        return 0, 0


def cut_image(source: Encoded, cut: Cut, entropy: Sequence[int]) -> tuple[Images, float]:
    """Read an image, crop and resize it.

    Resizing is antialiased. For a random crop, a JPEG is decoded at a half, a quarter or an eighth of its
    size if that suffices for the result, which takes a fraction of the time; otherwise it is decoded in full.

    Returns:
        The pixels (height, width, 3), and the width / height of the part before resizing.

    Raises:
        ImageError: the image cannot be read, with the reason.
    """
    from PIL import Image

    high, wide = cut.shape
    with files.open_image(source) as image:
        width, height = image.size
        box = cut.box(width, height, entropy)
        if cut.kind == "random":
            image.draft(None, _enough(width, height, box, cut.shape))
        across, down = image.size[0] / width, image.size[1] / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        part = files.to_rgb(image).resize((wide, high), Image.Resampling.BILINEAR, box=box)
    return np.asarray(part), width / height if cut.kind == "whole" else wide / high


def _enough(width: int, height: int, box: Box, shape: Shape) -> tuple[int, int]:
    """Return the size of the whole image at which the box has at least the pixels of the shape."""
    return (
        math.ceil(width * shape[1] / (box[2] - box[0])),
        math.ceil(height * shape[0] / (box[3] - box[1])),
    )


@dataclass(frozen=True)
class DecodeTask:
    """Images for one call of a worker."""

    sources: tuple[Encoded, ...]
    entropy: tuple[tuple[int, ...], ...]  # seeds of the random crops
    cut: Cut


@dataclass(frozen=True)
class Decoded:
    """Decoded images; one that could not be read is black and has a reason."""

    images: Images  # (n, height, width, 3)
    aspect: NDArray[np.float32]  # (n,): width / height before resizing
    reasons: tuple[str, ...]  # (n,): why an image could not be read, or ""


def run(task: DecodeTask) -> Decoded:
    """Read the images of a task; errors of damaged ones are returned as reasons."""
    n, (height, width) = len(task.sources), task.cut.shape
    images = np.zeros((n, height, width, 3), np.uint8)
    aspect = np.full(n, width / height, np.float32)
    reasons = [""] * n
    for i, (source, entropy) in enumerate(zip(task.sources, task.entropy, strict=True)):
        try:
            images[i], aspect[i] = cut_image(source, task.cut, entropy)
        except ImageError as error:
            reasons[i] = str(error)
    return Decoded(images, aspect, tuple(reasons))


A = TypeVar("A")
B = TypeVar("B")


class Decoders:
    """A pool of worker processes, started on first use; with 0 workers the caller does the work."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def map(
        self, function: Callable[[A], B], tasks: Iterable[A], ahead: int
    ) -> Generator[B, None, None]:
        """Yield ``function(task)`` for each task, in order.

        Args:
            function: a function of a module, so that it can be pickled.
            tasks: arguments of the calls.
            ahead: maximum number of pending results, which bounds memory.

        Raises:
            OSError: a process died.
        """
        if not self.workers:
            yield from map(function, tasks)
            return
        pending: deque[Future[B]] = deque()
        try:
            for task in tasks:
                pending.append(self._submit(function, task))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            self.close()
            raise OSError(
                "a worker process that reads images has died; if the system killed it for its memory, use "
                "fewer workers"
            ) from None
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the processes; the next call of :meth:`map` starts them again."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _submit(self, function: Callable[[A], B], task: A) -> Future[B]:
        if self._executor is None:
            # Not forked, which JAX's threads do not survive.
            context = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_prepare)
            weakref.finalize(self, executor.shutdown, wait=False, cancel_futures=True)
            self._executor = executor
        with _main_hidden():  # a process may be started by this
            return self._executor.submit(function, task)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep a new process from importing the caller's script.

    A spawned process imports the main module, so a script that loads data without
    ``if __name__ == "__main__":`` would start workers in the workers. These workers do not need it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _prepare() -> None:
    """Tie the life of a worker to that of its parent.

    Ctrl-C and SIGTERM go to the whole process group, but the parent may first finish its work; so workers
    ignore them, and exit with the parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Faults:
    """The damaged images of a data set; too many of them are an error.

    Args:
        what: prefix of the message.
        total: number of images of the data set.
        share: maximum share of damaged images, 0 to 1.
    """

    def __init__(self, what: str, total: int, share: float) -> None:
        self.what, self.total, self.share = what, total, share
        self.reasons: dict[str, str] = {}

    def add(self, results: Iterable[tuple[str, str]]) -> None:
        """Record (name, reason) of images; the reason of a good image is "".

        Raises:
            DataError: more images are damaged than allowed; names them.
        """
        self.reasons |= {spelt(name): reason for name, reason in results if reason}
        if len(self.reasons) > self.share * self.total:
            raise DataError(self._message())

    def _message(self) -> str:
        shown = [f"{name} ({reason})" for name, reason in list(self.reasons.items())[:_SHOWN]]
        more = len(self.reasons) - len(shown)
        rest = f", and {more} more" if more else ""
        return (
            f"{self.what}: {len(self.reasons)} of {self.total} images cannot be read, more than the "
            f"{100 * self.share:g} % allowed: {', '.join(shown)}{rest}; repair or remove them, or raise "
            "max_bad (--max-bad)"
        )


_SHOWN = 10  # damaged images named in a message
