"""Where a command writes: messages, progress and results, and the files that options name."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lcnas import files
from lcnas.errors import TableError, TableWriteError, shorten


@dataclass
class _Output:
    quiet: bool = False
    json_to_stdout: bool = False


_output = _Output()


def configure(*, quiet: bool = False, json_to_stdout: bool = False) -> None:
    """Set what the commands of this process print; each command's parser calls it.

    Args:
        quiet: no messages and no progress; results, warnings and errors stay.
        json_to_stdout: stdout is for one JSON document, so messages go to stderr.
    """
    _output.quiet, _output.json_to_stdout = quiet, json_to_stdout


def is_quiet() -> bool:
    """Return whether messages and progress are off."""
    return _output.quiet


def messages() -> TextIO:
    """Return the stream for messages: stdout, unless JSON goes there."""
    return sys.stderr if _output.json_to_stdout else sys.stdout


def message(text: str) -> None:
    """Print a message, unless this process is quiet."""
    if not _output.quiet:
        print(text, file=messages(), flush=True)


def console(*, stderr: bool = False, **options: Any) -> Any:
    """Return a console of rich for messages and progress; it prints nothing if this process is quiet.

    Args:
        stderr: print to stderr in any case.
        **options: of ``rich.console.Console``.
    """
    from rich.console import Console

    return Console(stderr=stderr or _output.json_to_stdout, quiet=_output.quiet, **options)


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
