"""Image files of a command line, by name or in folders, and reasons why a file cannot be read."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lcnas import images
from lcnas.errors import shorten_path

_OTHER_KINDS = {  # other than files and folders
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


@dataclass(frozen=True)
class ImageFile:
    """A file that is named on the command line, or found in a folder."""

    file: str
    problem: str = ""  # why it cannot be read, one line; empty: no problem is known


@dataclass(frozen=True)
class ImageFiles:
    """All files in the order of the command line; those of a folder are sorted."""

    files: tuple[ImageFile, ...]
    notes: tuple[str, ...]  # one line for each folder with files that are left out


def find_files(names: Sequence[str]) -> ImageFiles:
    """Return the files of the given names; a folder stands for all images anywhere in it.

    A file is an image by its content. A file with the suffix of an image but other content counts too, as a
    damaged image. Files and folders that begin with a dot are left out.
    """
    files: list[ImageFile] = []
    notes: list[str] = []
    for name in names:
        if not is_folder(name):
            files.append(ImageFile(name))
            continue
        in_folder = _images_in(name)
        files += in_folder.files
        notes += in_folder.notes
    return ImageFiles(tuple(files), tuple(notes))


def is_folder(name: str) -> bool:
    """Return whether there is a folder of that name; False for invalid names."""
    try:
        return stat.S_ISDIR(os.stat(name).st_mode)  # noqa: PTH116 - Path("") would be "."
    except (OSError, ValueError):
        return False


def problem_of(file: str) -> str:
    """Return why a file cannot be read as an image, by its name and kind; empty: no reason is known."""
    name = shorten_path(file)
    try:
        state = os.stat(file)  # noqa: PTH116
    except FileNotFoundError:
        return f"{name or repr(file)}: there is no such file"
    except OSError as error:
        return f"{name}: cannot be read: {error.strerror}"
    except ValueError:  # a NUL byte
        return f"{name}: names no file"
    for test, kind in _OTHER_KINDS.items():
        if test(state.st_mode):
            return f"{name}: is {kind}, not an image file"
    return "" if state.st_size or stat.S_ISDIR(state.st_mode) else f"{name}: is an empty file"


# -- folders ---------------------------------------------------------------------------------------


def _images_in(root: str) -> ImageFiles:
    """Return the images anywhere in a folder, sorted, with a note about other files."""
    items: list[ImageFile] = []
    others: Counter[str] = Counter()  # suffix -> number of files that are not images
    hidden = 0
    for folder, files, error in _folders(root):
        if error:
            items.append(ImageFile(folder, f"{shorten_path(folder)}: cannot be read: {error}"))
        for file in files:
            path = os.path.join(folder, file)  # noqa: PTH118 - Path would drop a leading "./"
            if file.startswith("."):
                hidden += 1
            elif _is_image(path):
                items.append(ImageFile(path))
            else:
                others[os.path.splitext(file)[1].lower() or "no suffix"] += 1  # noqa: PTH122
    omitted = _omitted_text(others, hidden)
    if not items:
        items = [
            ImageFile(
                root, f"{shorten_path(root)}: has no image in it{omitted and f' ({omitted})'}"
            )
        ]
        return ImageFiles(tuple(items), ())
    count = sum(not item.problem for item in items)
    note = f"{shorten_path(root)}: {count} image{'s' * (count != 1)}; left out: {omitted}"
    return ImageFiles(tuple(sorted(items, key=lambda item: item.file)), (note,) if omitted else ())


def _folders(root: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield (folder, its files, why it cannot be read) for a folder and its subfolders, each once."""
    seen = set()
    errors: list[OSError] = []
    for folder, subfolders, files in os.walk(root, onerror=errors.append, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if (real_path := os.path.realpath(folder)) in seen:  # reached by a link, maybe in a loop
            subfolders.clear()
            continue
        seen.add(real_path)
        yield folder, files, ""
    for error in errors:
        yield str(error.filename), [], str(error.strerror)


def _omitted_text(other_suffixes: Counter[str], hidden: int) -> str:
    parts = []
    if total := sum(other_suffixes.values()):
        kinds = ", ".join(f"{suffix} {n}" for suffix, n in other_suffixes.most_common(_SHOWN))
        more = ", ..." if len(other_suffixes) > _SHOWN else ""
        files = "file that is no image" if total == 1 else "files that are no images"
        parts.append(f"{total} {files} ({kinds}{more})")
    if hidden:
        parts.append(f"{hidden} hidden file{'s' * (hidden != 1)}")
    return ", ".join(parts)


_SHOWN = 5  # maximum suffixes in a note


def _is_image(path: str) -> bool:
    """Return whether a file is an image by its header, or at least by its suffix."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return False  # reading a pipe would block
    except OSError:
        return _has_image_suffix(path)
    return images.is_image(path) or _has_image_suffix(path)


def _has_image_suffix(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in images.suffixes()  # noqa: PTH122


# -- Pillow's warnings ------------------------------------------------------------------------------


@contextlib.contextmanager
def pillow_warnings() -> Iterator[list[str]]:
    """Collect Pillow's warnings in a list, one line each, without the file's name.

    Examples:
        >>> with pillow_warnings() as messages:
        ...     warnings.warn("Corrupt EXIF data")
        >>> messages
        ['Corrupt EXIF data']
    """
    messages: list[str] = []
    handler = _WarningHandler(messages)
    logs = (logging.getLogger("PIL"), images.LOG)
    for log in logs:
        log.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # concerns our code, not the file
            yield messages
    finally:
        for log in logs:
            log.removeHandler(handler)
        lines = [" ".join(str(warning.message).split()) for warning in caught]
        messages[:] = dict.fromkeys([*messages, *lines])


class _WarningHandler(logging.Handler):
    """Collects logged warnings and errors."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(" ".join(record.getMessage().split()))
