"""Cache of decoded images: .npz files that may be deleted at any time.

Files are written under a temporary name and renamed, so processes do not disturb each other. Checksums detect
damaged files, which are written anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import files

Arrays = Mapping[str, NDArray[Any]]

MAX_MB = 8192  # MiB of all files; the least recently used are deleted first


def folder() -> Path | None:
    """Return the folder of the cache: `$LCNAS_CACHE`, `$XDG_CACHE_HOME/lcnas`, or `~/.cache/lcnas`.

    Returns None, for no cache, if there is no home or `$LCNAS_CACHE` is empty.
    """
    chosen = os.environ.get("LCNAS_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "lcnas"
    except RuntimeError:  # no home
        return None


def arrays(key: str, shapes: Mapping[str, tuple[int, ...]], make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays cached under a key, or make and cache them.

    Args:
        key: part of the file name; it has to identify all that the arrays depend on.
        shapes: name -> shape of the arrays; a file with other shapes counts as damaged.
        make: function that makes the arrays.
    """
    base = folder()
    if base is None:
        return make()
    path = base / f"{key}.npz"
    contents = _read(path, shapes)
    if contents is None:
        contents = make()
        # With a full disk or a read-only home the run goes on without the cache.
        with contextlib.suppress(OSError):
            _write(path, contents)
            _prune(base)
    return contents


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            contents = {name: archive[name] for name in shapes}  # reading compares the checksums
        os.utime(path)
    except Exception:  # noqa: BLE001 - zipfile and NumPy raise many types on damaged files
        return None
    return (
        contents if all(contents[name].shape == shape for name, shape in shapes.items()) else None
    )


def _write(path: Path, contents: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        np.savez(file, **contents)  # type: ignore[arg-type]


def _prune(base: Path) -> None:
    """Delete files until the rest takes at most MAX_MB; the most recently used one always stays."""
    by_use = sorted(base.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for i, path in enumerate(by_use):
        total += path.stat().st_size
        if i and total > MAX_MB * 2**20:
            path.unlink(missing_ok=True)
