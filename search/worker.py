"""A worker process: kept to cores of its own, and set up before JAX begins."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Setup:
    """What a worker has to know before it begins."""

    home: str | None = None  # of the user, where Ray's processes were given another one
    blocks: tuple[str, ...] = ()  # files with blocks of the user's own

    @classmethod
    def of(cls, local: bool, blocks: tuple[str, ...]) -> Setup:
        """Return the set-up of workers on this machine, or of a cluster's."""
        return cls(os.environ.get("HOME") if local else None, blocks)


_PATIENCE = 5.0  # seconds: the worker before may hold its cores until its process has ended
_held: list[IO[str]] = []  # files whose locks say which cores this process has


def prepare(setup: Setup, cores: int = 1) -> None:
    """Set this process up for as many threads of JAX; call it before JAX's first operation.

    Each worker takes cores that no other worker of this machine has, and stays on them: JAX takes as many
    threads as it finds cores, and two processes of one thread do more than one of two. So a worker has one,
    unless it is the only one.
    """
    if setup.home:
        os.environ["HOME"] = setup.home
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    take_cores(cores)
    from lcnas import blocks
    from lcnas.models import memory

    memory.keep_freed_memory()
    blocks.load_files(list(setup.blocks))


def take_cores(most: int = 1) -> set[int]:
    """Keep this process on so many cores of its own; returns their numbers, none where all are taken."""
    if _held or not hasattr(os, "sched_setaffinity") or find_spec("fcntl") is None:
        return set()
    until = time.monotonic() + _PATIENCE
    while not (taken := _locked(most)) and time.monotonic() < until:
        time.sleep(0.1)
    if taken:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, taken)
    return taken


def _locked(most: int) -> set[int]:
    """Return so many cores whose locks are free, and hold these locks."""
    import fcntl

    taken: set[int] = set()
    for core in sorted(os.sched_getaffinity(0)):
        if len(taken) == most:
            break
        path = Path(tempfile.gettempdir()) / f"lcnas-core-{os.getuid()}-{core}.lock"
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)  # held until the process ends
        taken.add(core)
    return taken
