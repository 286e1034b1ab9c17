"""Where latency tables and measurements lie, and how they are written."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from lcnas import files, paths
from lcnas.errors import TableError, TableWriteError, nearest, shorten


def available(explicit: Path | None = None) -> dict[str, Path]:
    """Return the tables in all folders that are searched, by name; the first folder wins."""
    out: dict[str, Path] = {}
    for folder in paths.table_dirs(explicit):
        for path in sorted(folder.glob("*.json")):
            out.setdefault(path.stem, path)
    return out


def find(path_or_name: str | Path) -> Path:
    text = str(path_or_name)
    with contextlib.suppress(OSError, ValueError):  # a name too long for a file, a zero in it
        if Path(text).is_file():
            return Path(text)
    known = available()
    name = text.removesuffix(".json")
    if name in known:
        return known[name]
    raise TableError(f"table: there is no file or table {shorten(text)}{nearest(name, known)}")


def destination(path: Path) -> Path:
    """Return the file to write under a name: the path itself, or the target of a symbolic link.

    Raises:
        TableError: the path is something that must not be replaced by a file: a device, a pipe, a folder, or
            what this process prints to.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return path.resolve()  # a new file, or a link to one
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {error.strerror}") from None
    except ValueError:  # a zero in the name
        raise TableError(f"{shorten(str(path))} is not the name of a file") from None
    if not stat.S_ISREG(status.st_mode):
        raise TableError(f"{path}: is {_kind(status.st_mode)}, not a file; it stays as it is")
    if _is_printed_to(status):
        raise TableError(f"{path}: is where this command prints; give another file")
    return path.resolve()


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def _is_printed_to(status: os.stat_result) -> bool:
    """Return whether a file is the standard output or error, as /dev/stdout is in ``command > file``."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.fstat(number)):
                return True
    return False


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it, so that nobody ever sees half of it.

    Raises:
        TableWriteError: the file cannot be written.
        TableError: no file may be written there (see :func:`destination`).
    """
    target = destination(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, text, sync=True)
    except OSError as error:
        raise TableWriteError(f"{path}: cannot be written: {error.strerror}") from None
