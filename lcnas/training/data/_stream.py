"""Streamed images: read from their files by worker processes while the device computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lcnas.training.data._decode import CHUNK, Cut, Decoded, Decoders, DecodeTask, Faults, run
from lcnas.training.data._order import Indices
from lcnas.training.data._types import Batch, Labels, View

AHEAD = 2  # batches that are read ahead


@dataclass(frozen=True, eq=False)
class Files:
    """A source whose images are files.

    A batch depends only on the plan and the view, not on the number of processes.
    """

    root: Path
    names: Sequence[str] = field(repr=False)  # files, relative to the root
    labels: Labels = field(repr=False)
    evaluation_cut: Cut
    # of a random view; None: images are squashed, and the device crops them
    training_cut: Cut | None
    decoders: Decoders = field(repr=False)
    faults: Faults = field(repr=False)

    @property
    def cropped(self) -> bool:
        """Whether images of a random view are cropped by the workers."""
        return self.training_cut is not None

    def original(self, index: int) -> str:
        """Return the path of an image's file."""
        return str(self.root / self.names[index])

    def read(self, plan: Sequence[Indices], view: View) -> Iterator[Batch]:
        """Yield a batch for each part of the plan.

        Raises:
            DataError: more images are damaged than allowed; names them.
            OSError: a worker process died.
        """
        tasks = (self._task(indices, view) for part in plan for indices in _chunks(part))
        longest = max((len(part) for part in plan), default=0)
        ahead = AHEAD * -(-longest // CHUNK) + self.decoders.workers
        with contextlib.closing(self.decoders.map(run, tasks, ahead)) as done:
            for indices in plan:
                yield self._batch(indices, [next(done) for _ in _chunks(indices)])

    def _task(self, indices: Indices, view: View) -> DecodeTask:
        entropy = tuple((view.seed, view.epoch, int(index)) for index in indices)
        paths = tuple(self.original(index) for index in indices)
        return DecodeTask(paths, entropy, self._cut(view))

    def _cut(self, view: View) -> Cut:
        if not view.random:
            return self.evaluation_cut
        return self.training_cut or Cut("whole", self.evaluation_cut.shape)

    def _batch(self, indices: Indices, parts: list[Decoded]) -> Batch:
        reasons = [reason for part in parts for reason in part.reasons]
        self.faults.add(
            (self.names[index], why) for index, why in zip(indices, reasons, strict=True) if why
        )
        return Batch(
            np.concatenate([part.images for part in parts]),
            self.labels[indices],
            np.array([not why for why in reasons]),
            np.concatenate([part.aspect for part in parts]),
        )


def _chunks(indices: Indices) -> list[Indices]:
    return [indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)]
