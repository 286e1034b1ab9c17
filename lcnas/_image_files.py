"""The image files that a command was given: by name, or in folders; and what keeps one from being read."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lcnas import _cli, images

_OTHERS = {  # besides files and folders
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


@dataclass(frozen=True)
class Found:
    """A file that was asked for, or was found in a folder."""

    file: str
    problem: str = ""  # why it cannot be read, a line; empty: nothing is known against it


@dataclass(frozen=True)
class Gathered:
    """All files, in the order of the names given; those of a folder sorted."""

    files: tuple[Found, ...]
    notes: tuple[str, ...]  # a line about each folder of which something was left out


def gathered(names: Sequence[str]) -> Gathered:
    """Return the files that names stand for: a file for itself, a folder for all images anywhere in it.

    What is an image is told by its content; a file that is named like one and holds something else counts
    too, since that will be a damaged one. Files and folders that begin with a dot are left out.
    """
    files: list[Found] = []
    notes: list[str] = []
    for name in names:
        if not is_folder(name):
            files.append(Found(name))
            continue
        here = _walked(name)
        files += here.files
        notes += here.notes
    return Gathered(tuple(files), tuple(notes))


def is_folder(name: str) -> bool:
    """Return whether there is a folder of that name; a name that no folder can have is none."""
    try:
        return stat.S_ISDIR(os.stat(name).st_mode)  # noqa: PTH116 - Path("") would be "."
    except (OSError, ValueError):
        return False


def problem_of(file: str) -> str:
    """Return why a file cannot be read as an image, as far as its name and kind tell; empty: it may be."""
    shown = _cli.cut(file)
    try:
        state = os.stat(file)  # noqa: PTH116
    except FileNotFoundError:
        return f"{shown or repr(file)}: there is no such file"
    except OSError as error:
        return f"{shown}: cannot be read: {error.strerror}"
    except ValueError:  # a NUL byte
        return f"{shown}: names no file"
    for test, what in _OTHERS.items():
        if test(state.st_mode):
            return f"{shown}: is {what}, not an image file"
    return "" if state.st_size or stat.S_ISDIR(state.st_mode) else f"{shown}: is an empty file"


# -- folders ---------------------------------------------------------------------------------------


def _walked(root: str) -> Gathered:
    """Return the images anywhere in a folder, sorted, and what else is there."""
    found: list[Found] = []
    others: Counter[str] = Counter()  # suffix -> files that are no images
    hidden = 0
    for here, files, closed in _folders(root):
        if closed:
            found.append(Found(here, f"{_cli.cut(here)}: cannot be read: {closed}"))
        for file in files:
            path = os.path.join(here, file)  # noqa: PTH118 - Path would drop a leading "./"
            if file.startswith("."):
                hidden += 1
            elif _is_image(path):
                found.append(Found(path))
            else:
                others[os.path.splitext(file)[1].lower() or "no suffix"] += 1  # noqa: PTH122
    left = _left_out(others, hidden)
    if not found:
        found = [Found(root, f"{_cli.cut(root)}: has no image in it{left and f' ({left})'}")]
        return Gathered(tuple(found), ())
    count = sum(not item.problem for item in found)
    note = f"{_cli.cut(root)}: {count} image{'s' * (count != 1)}; left out: {left}"
    return Gathered(tuple(sorted(found, key=lambda item: item.file)), (note,) if left else ())


def _folders(root: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield (folder, its files, why it cannot be read) for a folder and those in it, each once."""
    seen = set()
    errors: list[OSError] = []
    for here, inner, files in os.walk(root, onerror=errors.append, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if (real := os.path.realpath(here)) in seen:  # by a link, which may lead around for ever
            inner.clear()
            continue
        seen.add(real)
        yield here, files, ""
    for error in errors:
        yield str(error.filename), [], str(error.strerror)


def _left_out(others: Counter[str], hidden: int) -> str:
    parts = []
    if total := sum(others.values()):
        kinds = ", ".join(f"{suffix} {n}" for suffix, n in others.most_common(_SHOWN))
        more = ", ..." if len(others) > _SHOWN else ""
        files = "file that is no image" if total == 1 else "files that are no images"
        parts.append(f"{total} {files} ({kinds}{more})")
    if hidden:
        parts.append(f"{hidden} hidden file{'s' * (hidden != 1)}")
    return ", ".join(parts)


_SHOWN = 5  # suffixes that a line names


def _is_image(path: str) -> bool:
    """Return whether a file is an image by its head, or at least by its name."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return False  # a pipe would keep us waiting
    except OSError:
        return _named_like_one(path)
    return images.is_image(path) or _named_like_one(path)


def _named_like_one(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in images.suffixes()  # noqa: PTH122


# -- what Pillow says ------------------------------------------------------------------------------


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Give a list that then holds what Pillow warned of: its lines name no file.

    Example:
        >>> with heard() as said:
        ...     warnings.warn("Corrupt EXIF data")
        >>> said
        ['Corrupt EXIF data']
    """
    said: list[str] = []
    handler = _Listener(said)
    logs = (logging.getLogger("PIL"), images.LOG)
    for log in logs:
        log.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # those are ours to mend
            yield said
    finally:
        for log in logs:
            log.removeHandler(handler)
        lines = [" ".join(str(warning.message).split()) for warning in caught]
        said[:] = dict.fromkeys([*said, *lines])


class _Listener(logging.Handler):
    """Keeps what is logged as a warning or an error."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(" ".join(record.getMessage().split()))
