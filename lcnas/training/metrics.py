"""Metrics of a running training: JSON lines, TensorBoard files, and a progress bar on the console."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

from lcnas import files, outputs
from lcnas.errors import TrainingFailedError
from lcnas.training import run
from lcnas.training.checkpoints import full

FILE = "metrics.jsonl"


class Log:
    """A log of metrics, append-only, with one line per (kind, step).

    A killed run resumes from its last checkpoint and repeats some steps with the same results, so lines
    already in the file are not written again. A line that the kill left incomplete is removed.
    """

    def __init__(self, folder: Path, start: int = 0, active: bool = True) -> None:
        """Open the log.

        Args:
            folder: run directory.
            start: step that the run resumes from; TensorBoard discards later events.
            active: whether to write; False where another process writes.
        """
        self._path = folder / FILE
        self._seen: set[tuple[str, int]] = set()
        self._file: IO[str] | None = None
        self._board: Any = None
        self._records: _Records | None = None
        if active:
            _cut_torn(self._path)
            self._seen = {(line["kind"], line["step"]) for line in read(folder)}
            self._file = self._path.open("a", encoding="utf-8")
            self._board = _board(folder / "tensorboard", start)
            self._records = None if self._board is None else _Records.of(self._board)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            # After an error, closing tries to write the buffer again, and fails again.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self._file.close()

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line.

        Args:
            kind: "step" or "epoch".
            step: steps done.
            values: numbers by name.

        Raises:
            TrainingFailedError: the disk is full, or not writable.
        """
        if self._file is None:
            return
        for name, value in values.items():
            number = isinstance(value, int | float) and math.isfinite(value) and name != "epoch"
            if number and self._board is not None:
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if (kind, step) in self._seen:
            return
        self._seen.add((kind, step))
        line = json.dumps({"kind": kind, "step": step, **values})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def sync(self) -> None:
        """Flush all lines to the disk; call it before saving a checkpoint, which relies on them."""
        if self._file is not None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
                if self._board is not None:
                    self._board.flush()
            except OSError as error:
                raise _unwritable(self._path, error) from error
            if self._records is not None and self._records.error is not None:
                raise _unwritable(self._path, self._records.error)


def _unwritable(path: Path, error: OSError) -> TrainingFailedError:
    if files.is_full(error):
        return full(path.parent)
    return TrainingFailedError(f"{path}: cannot be written: {error.strerror}")


def _board(folder: Path, start: int) -> Any:
    """Return a writer of TensorBoard files; None if its queue cannot be created, without /dev/shm."""
    import multiprocessing

    from tensorboardX import SummaryWriter

    try:
        multiprocessing.Queue(1).close()
    except (OSError, ImportError):
        return None

    purge = start + 1 if start else None
    # TensorBoard reads files in the order of their names, which do not distinguish starts within one second.
    return SummaryWriter(str(folder), purge_step=purge, filename_suffix=f".{start:012d}")


class _Records:
    """A wrapper of TensorBoard's file that records the first error and stops writing after it.

    Errors occur in a thread of TensorBoard's. Without the wrapper the thread would end with a traceback, its
    queue would no longer be emptied, and the training would block.
    """

    def __init__(self, records: Any) -> None:
        self._records = records
        self.error: OSError | None = None

    @classmethod
    def of(cls, board: Any) -> _Records:
        """Wrap the file of a writer."""
        events = board.file_writer.event_writer._ev_writer
        records = cls(events._py_recordio_writer)
        events._py_recordio_writer = records
        return records

    def write(self, data: bytes) -> None:
        """Append an event."""
        self._guarded(lambda: self._records.write(data))

    def flush(self) -> None:
        """Flush written events to the disk."""
        self._guarded(self._records.flush)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._records.close()

    def _guarded(self, action: Callable[[], Any]) -> None:
        if self.error is None:
            try:
                action()
            except OSError as error:
                self.error = error


def _cut_torn(path: Path) -> None:
    """Remove an incomplete last line."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics, without an incomplete last line."""
    return run.entries(folder / FILE)


# -- progress --------------------------------------------------------------------------------------


class ProgressBar:
    """A progress bar with images/s and the time left; lines of text if stderr is not a terminal."""

    def __init__(self, total: int, done: int, active: bool = True) -> None:
        """Set up the bar; it is shown on entering the context.

        Args:
            total: steps of the whole training.
            done: steps done before this process.
            active: whether to print anything.
        """
        self._total, self._done = total, done
        self._active = active and not outputs.is_quiet()
        self._bar: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._first = done

    def __enter__(self) -> Self:
        if self._active and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps  {task.description}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=self._total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def write_line(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def begin(self) -> None:
        """Restart the clock of the time left, for example after compiling."""
        self._started, self._first = time.monotonic(), self._done

    def step(self, done: int, text: str = "") -> None:
        """Update the number of steps done; ``text``, if any, is shown (as a line if there is no terminal)."""
        self._done = done
        if self._bar is not None:
            if text:
                self._bar.update(self._task, description=f"{text}, {self._left()} left")
            self._bar.update(self._task, completed=done)
        elif text:
            self.write_line(f"step {done}/{self._total}  {text}, {self._left()} left")

    def _left(self) -> str:
        steps = self._done - self._first
        if steps <= 0:
            return "unknown time"
        return duration((time.monotonic() - self._started) / steps * (self._total - self._done))


def duration(seconds: float) -> str:
    """Return a time span as text.

    Examples:
        >>> duration(59.6), duration(3 * 3600 + 62)
        ('1 min', '3 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
