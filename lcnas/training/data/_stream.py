"""Images that stay in their files, read by worker processes while the device is at work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lcnas.training.data._decode import CHUNK, Cut, Decoded, Decoders, Faults, Task, run
from lcnas.training.data._order import Rows
from lcnas.training.data._types import Batch, Labels, View

AHEAD = 2  # batches that are read while one is in use


@dataclass(frozen=True, eq=False)
class Files:
    """A source whose images are files.

    What a batch holds depends on the plan and the view alone, never on the number of processes.
    """

    root: Path
    names: Sequence[str] = field(repr=False)  # of the files, relative to the root
    labels: Labels = field(repr=False)
    still: Cut  # of an evaluation
    moving: (
        Cut | None
    )  # of a random view; None: the image is squashed, and the device does the rest
    decoders: Decoders = field(repr=False)
    faults: Faults = field(repr=False)

    @property
    def cropped(self) -> bool:
        """Whether a random view is cropped here."""
        return self.moving is not None

    def original(self, row: int) -> str:
        """Return the path of a row's file."""
        return str(self.root / self.names[row])

    def read(self, plan: Sequence[Rows], view: View) -> Iterator[Batch]:
        """Yield a batch for each part of the plan.

        Raises:
            DataError: names the damaged images, once there are more than allowed.
            OSError: if a worker process dies.
        """
        tasks = (self._task(rows, view) for part in plan for rows in _chunks(part))
        longest = max((len(part) for part in plan), default=0)
        ahead = AHEAD * -(-longest // CHUNK) + self.decoders.workers
        with contextlib.closing(self.decoders.map(run, tasks, ahead)) as done:
            for rows in plan:
                yield self._batch(rows, [next(done) for _ in _chunks(rows)])

    def _task(self, rows: Rows, view: View) -> Task:
        entropy = tuple((view.seed, view.epoch, int(row)) for row in rows)
        paths = tuple(self.original(row) for row in rows)
        return Task(paths, entropy, self._cut(view))

    def _cut(self, view: View) -> Cut:
        if not view.random:
            return self.still
        return self.moving or Cut("whole", self.still.shape)

    def _batch(self, rows: Rows, parts: list[Decoded]) -> Batch:
        reasons = [reason for part in parts for reason in part.reasons]
        self.faults.add(
            (self.names[row], why) for row, why in zip(rows, reasons, strict=True) if why
        )
        return Batch(
            np.concatenate([part.images for part in parts]),
            self.labels[rows],
            np.array([not why for why in reasons]),
            np.concatenate([part.aspect for part in parts]),
        )


def _chunks(rows: Rows) -> list[Rows]:
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
