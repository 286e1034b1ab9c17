"""Files that are written whole, appended to at once, or locked; the one place that knows how.

Standard library alone. Functions raise ``OSError``; callers name what was being written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """Context with a temporary file beside ``path`` that takes its place when the block ends without error.

    Readers see the old file or the new one, never half of it, and so does a process that is killed.

    Args:
        path: the file to write; its folder has to exist.
        sync: wait until the content is on the disk.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes | str, *, sync: bool = False) -> None:
    """Write a file beside its place, then rename it; text as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def copy(source: Path, target: Path) -> None:
    """Copy a file beside its place, then rename it.

    Raises:
        OSError: a file cannot be read or written.
    """
    with source.open("rb") as original, replacing(target) as file:
        shutil.copyfileobj(original, file)


def append_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append a line of JSON.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(data) + "\n")


def complete_lines(path: Path) -> list[str]:
    """Return the lines of a text file without empty ones and without a last one that was cut off.

    Empty if there is no such file.
    """
    if not path.is_file():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [line for line in complete.splitlines() if line]


def try_lock(file: int | IO[Any]) -> bool:
    """Lock an open file for this process; returns False if another process holds the lock.

    The lock ends when the file is closed, so also with the process. True where the system has no such locks
    (Windows, some network file systems).
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Context that holds the lock of a file, waiting for it; ``.NAME.lock`` beside the file is the lock.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        with contextlib.suppress(
            ImportError
        ):  # Windows: renaming keeps files whole, the last writer wins
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_full(error: BaseException) -> bool:
    """Return whether an error reports a full disk or quota, in the wording of any library used here."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    known = ("No space left", "Disk quota exceeded", "the disk is full")
    return any(words in str(error) for words in known)
