"""A worker process: pinned to its own cores, and set up before JAX starts."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from lcnas import files


@dataclass(frozen=True)
class WorkerSetup:
    """The environment of a worker."""

    home: str | None = None  # the user's HOME, if Ray's processes have another one
    blocks: tuple[str, ...] = ()  # files with the user's own blocks

    @classmethod
    def of(cls, local: bool, blocks: tuple[str, ...]) -> WorkerSetup:
        """Return the environment of workers on this machine, or on a cluster."""
        return cls(os.environ.get("HOME") if local else None, blocks)


_PATIENCE_S = 5.0  # an earlier worker may hold its cores until its process has ended
_held: list[IO[str]] = []  # locked files: the cores of this process


def prepare(setup: WorkerSetup, cores: int = 1) -> None:
    """Set this process up for a number of JAX threads; call it before JAX's first operation.

    Each worker is pinned to cores that no other worker of this machine has: JAX starts a thread per core that
    it finds, and two processes of one thread do more than one process of two. So a worker has one core,
    unless it is the only worker.
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
    """Pin this process to cores of its own; returns their numbers, none if all are taken."""
    if _held or not hasattr(os, "sched_setaffinity") or find_spec("fcntl") is None:
        return set()
    until = time.monotonic() + _PATIENCE_S
    while not (taken := _locked(most)) and time.monotonic() < until:
        time.sleep(0.1)
    if taken:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, taken)
    return taken


def _locked(most: int) -> set[int]:
    """Return cores whose locks are free, and hold these locks."""
    taken: set[int] = set()
    for core in sorted(os.sched_getaffinity(0)):
        if len(taken) == most:
            break
        path = Path(tempfile.gettempdir()) / f"lcnas-core-{os.getuid()}-{core}.lock"
        file = path.open("w")
        if not files.try_lock(file):
            file.close()
            continue
        _held.append(file)  # held until the process ends
        taken.add(core)
    return taken
