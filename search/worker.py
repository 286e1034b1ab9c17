"""A worker process: kept to one core, and set up before JAX begins."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO

_held: list[IO[str]] = []  # files whose locks say which cores this process has


def prepare(home: str | None = None) -> None:
    """Set this process up for one thread of JAX; call it before JAX's first operation.

    Each worker takes a core that no other worker of this machine has, and stays on it: JAX takes as many
    threads as it finds cores, and two processes of one thread do more than one of two.
    """
    if home:
        os.environ["HOME"] = home  # Ray's processes were given another one
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    take_core()
    from lcnas.models import memory

    memory.keep_freed_memory()


def take_core() -> int | None:
    """Keep this process on a core of its own; returns its number, None where all are taken."""
    if _held or not hasattr(os, "sched_setaffinity"):
        return None
    try:
        import fcntl
    except ImportError:
        return None
    for core in sorted(os.sched_getaffinity(0)):
        path = Path(tempfile.gettempdir()) / f"lcnas-core-{os.getuid()}-{core}.lock"
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)  # held until the process ends
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})
            return core
    return None
