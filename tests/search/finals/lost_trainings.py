"""Trainings side by side whose workers go away, as a system without memory ends them.

Run as ``python -m tests.search.finals.lost_trainings FOLDER``; prints task and result of each training.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from lcnas.training import recipes
from lcnas.training.interrupts import Stopped
from search.distributed import cluster
from search.distributed.worker import WorkerSetup
from search.finals import training
from tests.latency.synthetic import ENGINE


def main(folder: Path) -> None:
    """Run two tasks of three seeds; each worker goes away once, at the second seed; one is asked to."""

    def work(task, images):  # of this function, so that Ray sends it along
        for seed, out in zip(task.seeds, task.outs, strict=True):
            if seed == 1 and not Path(out).exists():
                Path(out).touch()
                if task.arch == "b":
                    raise Stopped(signal.SIGTERM, 3)
                os._exit(1)
            yield f"{task.arch} {seed} of {images}"

    training._train_seeds = work
    tasks = [
        training._Task(
            arch=name,
            recipe=recipes.load("proxy"),
            outs=tuple(str(folder / f"{name}-{seed}") for seed in range(3)),
            seeds=(0, 1, 2),
            size=64,
            engine=ENGINE,
            cache="",
            setup=WorkerSetup(),
            remote=False,
        )
        for name in ("a", "b")
    ]
    images: Any = "images"
    with cluster.started(None, 2):
        for i, result in training._results(tasks, images):
            print("trained", i, result, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
