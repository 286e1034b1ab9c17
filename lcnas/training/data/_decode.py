"""Images from files: what a worker process does with one, and the processes themselves."""

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

CROP_ATTEMPTS = 10  # of a random crop to fit into the image, before the middle is taken
CHUNK = 16  # images a task: enough that handing it over costs nothing
_STANDARD_CROP = 0.875  # of the short side: 224 of 256

Encoded = str | bytes  # the path of an image, or its file's content
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Pair = tuple[float, float]
Shape = tuple[int, int]  # height, width


def stored_shape(height: int, width: int) -> Shape:
    """Return the size to keep images at, of which an evaluation takes the middle: 256 a side for 224."""
    return math.ceil(height / _STANDARD_CROP), math.ceil(width / _STANDARD_CROP)


@dataclass(frozen=True)
class Cut:
    """Which part of an image is wanted, and at how many pixels."""

    kind: str  # "whole": squashed; "centre": the middle of the longer side; "random": resized crop
    shape: Shape  # height, width
    scale: Pair = (0.08, 1.0)  # of a random crop: share of the image's area
    ratio: Pair = (3 / 4, 4 / 3)  # of a random crop: width / height, relative to that of the shape

    def box(self, width: int, height: int, entropy: Sequence[int]) -> Box:
        """Return the part of an image of that size; ``entropy`` decides a random one."""
        if self.kind == "whole":
            return 0.0, 0.0, float(width), float(height)
        aspect = self.shape[1] / self.shape[0]
        if self.kind == "centre":
            high = min(height, width / aspect)
            return _placed(width, height, high * aspect, high, 0.5, 0.5)
        ratio = (self.ratio[0] * aspect, self.ratio[1] * aspect)
        return random_box(width, height, self.scale, ratio, np.random.default_rng(entropy))


def random_box(width: int, height: int, scale: Pair, ratio: Pair, rng: np.random.Generator) -> Box:
    """Draw a crop: its share of the area uniform, the logarithm of its width / height uniform.

    A crop that does not fit is drawn again, up to 10 times; then the largest one in the middle whose ratio
    is allowed is taken. (GoogLeNet's, as Szegedy et al. 2015 describe it and all toolkits do it.)
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
    return x, y, min(x + w, width), min(y + h, height)  # the sums may be a hair too large


def open_rgb(source: Encoded) -> PIL.Image.Image:
    """Return an image upright and in three channels of 8 bits, as :func:`lcnas.images.read` does.

    Args:
        source: the path of its file, or the file's content.

    Raises:
        ImageError: it cannot be read; says why.
    """
    return files.read(source)


def open_size(source: Encoded) -> Shape:
    """Return (width, height) of an image from its head alone, or (0, 0) if it cannot be read."""
    try:
        return files.size(source)
    except ImageError:  # it is told when the image itself is wanted
        return 0, 0


def cut_image(source: Encoded, cut: Cut, entropy: Sequence[int]) -> tuple[Images, float]:
    """Read an image and cut it.

    Shrinking is antialiased. A JPEG of which little is needed for training is decoded at a half, a quarter
    or an eighth (never below what is asked for), which takes a fraction of the time; for evaluation the
    image is decoded in full.

    Returns:
        The pixels (height, width, 3), and the width / height of what they show.

    Raises:
        ImageError: it cannot be read; says why.
    """
    from PIL import Image

    high, wide = cut.shape
    with files.opened(source) as image:
        width, height = image.size
        box = cut.box(width, height, entropy)
        if cut.kind == "random":
            image.draft(None, _enough(width, height, box, cut.shape))
        across, down = image.size[0] / width, image.size[1] / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        part = files.to_rgb(image).resize((wide, high), Image.Resampling.BILINEAR, box=box)
    return np.asarray(part), width / height if cut.kind == "whole" else wide / high


def _enough(width: int, height: int, box: Box, shape: Shape) -> tuple[int, int]:
    """Return the size of the whole image at which the box still has the pixels of the shape."""
    return (
        math.ceil(width * shape[1] / (box[2] - box[0])),
        math.ceil(height * shape[0] / (box[3] - box[1])),
    )


@dataclass(frozen=True)
class Task:
    """Some images to be read in one go."""

    sources: tuple[Encoded, ...]
    entropy: tuple[tuple[int, ...], ...]  # of each
    cut: Cut


@dataclass(frozen=True)
class Decoded:
    """What has been read; where a reason is given the image is black."""

    images: Images  # (n, height, width, 3)
    aspect: NDArray[np.float32]  # (n,): width / height of what is shown
    reasons: tuple[str, ...]  # (n,): why an image could not be read, or ""


def run(task: Task) -> Decoded:
    """Read the images of a task; a damaged one is told, not raised."""
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
    """Worker processes, started when they are first needed; with 0 of them the caller does the work."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def map(
        self, function: Callable[[A], B], tasks: Iterable[A], ahead: int
    ) -> Generator[B, None, None]:
        """Yield ``function`` of each task, in their order, whichever process does which.

        Args:
            function: of a module, so that a worker finds it.
            tasks: what each gets.
            ahead: how many results may wait before the first is asked for: a bound on memory.

        Raises:
            OSError: if a process dies.
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
                "a worker process that reads images has died; if the system killed it for memory, take "
                "fewer workers"
            ) from None
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the processes; they start again when needed."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _submit(self, function: Callable[[A], B], task: A) -> Future[B]:
        if self._executor is None:
            # Not forked: JAX's threads would not survive that.
            context = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_prepare)
            weakref.finalize(self, executor.shutdown, wait=False, cancel_futures=True)
            self._executor = executor
        with _main_hidden():  # a process may be started by this
            return self._executor.submit(function, task)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep a new process from running the caller's script once more.

    A spawned process imports the main module, so a script that loads data without
    ``if __name__ == "__main__":`` around it would start workers in the workers. Ours need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _prepare() -> None:
    """Make a worker live as long as its parent, and no longer.

    Ctrl-C and SIGTERM go to the whole group of processes; the parent may still want to end its work.
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
    """Images that could not be read, of all that a set has; too many of them are an error.

    Args:
        what: begins the message.
        total: images of the set.
        share: of them that may be damaged.
    """

    def __init__(self, what: str, total: int, share: float) -> None:
        self.what, self.total, self.share = what, total, share
        self.reasons: dict[str, str] = {}

    def add(self, results: Iterable[tuple[str, str]]) -> None:
        """Note (name, reason) of damaged images; an empty reason is a good image.

        Raises:
            DataError: names them, if they are more than allowed.
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
            f"{100 * self.share:g} % allowed: {', '.join(shown)}{rest}; mend or remove them, or raise "
            "max_bad (--max-bad)"
        )


_SHOWN = 10  # damaged images that a message names
