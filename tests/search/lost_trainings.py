"""Trainings side by side whose workers go away, as a system without memory ends them.

Run as ``python -m tests.search.lost_trainings FOLDER``; prints the number of the task and what was trained of
each training as it ends.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from lcnas.training import recipes
from lcnas.training.interrupts import Stopped
from search import cluster, contest
from search.distributed.worker import WorkerSetup
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

    contest._work = work
    tasks = [
        contest._Task(
            arch=name,
            recipe=recipes.load("proxy"),
            outs=tuple(str(folder / f"{name}-{seed}") for seed in range(3)),
            seeds=(0, 1, 2),
            size=64,
            engine=ENGINE,
            cache="",
            setup=WorkerSetup(),
            far=False,
        )
        for name in ("a", "b")
    ]
    images: Any = "images"
    with cluster.started(None, 2):
        for i, made in contest._side_by_side(tasks, images):
            print("trained", i, made, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
