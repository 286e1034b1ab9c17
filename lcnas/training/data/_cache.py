"""Decoded images kept from run to run: .npz files that may be deleted at any time.

A file is written beside and renamed, so two processes do not disturb each other; the checksums in it tell
damage, and then it is made anew.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

MOST_MB = 8192  # MiB of all files; those not used for the longest time go first


def folder() -> Path | None:
    """Return where the files lie: `$LCNAS_CACHE`, `$XDG_CACHE_HOME/lcnas`, or `~/.cache/lcnas`.

    None where there is no home, or where `$LCNAS_CACHE` is set to nothing: then nothing is kept.
    """
    named = os.environ.get("LCNAS_CACHE")
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "lcnas"
    except RuntimeError:  # no home
        return None


def arrays(key: str, shapes: Mapping[str, tuple[int, ...]], make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays kept under a key, or make and keep them.

    Args:
        key: a part of a file name that says all that the arrays depend on.
        wanted: their names and shapes; what is kept under another one counts as damaged.
        make: makes them.
    """
    base = folder()
    if base is None:
        return make()
    path = base / f"{key}.npz"
    contents = _read(path, shapes)
    if contents is None:
        contents = make()
        with contextlib.suppress(
            OSError
        ):  # a full disk or a read-only home costs time, not the run
            _write(path, contents)
            _prune(base)
    return contents


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            contents = {name: archive[name] for name in shapes}  # reading compares the checksums
        os.utime(path)
    except Exception:  # noqa: BLE001 - zipfile and NumPy raise many kinds on damaged files
        return None
    return contents if all(contents[name].shape == shape for name, shape in shapes.items()) else None


def _write(path: Path, contents: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **contents)  # type: ignore[arg-type]
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _prune(base: Path) -> None:
    """Delete files until the rest takes at most MOST_MB; the one used last always stays."""
    by_use = sorted(base.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for i, path in enumerate(by_use):
        total += path.stat().st_size
        if i and total > MOST_MB * 2**20:
            path.unlink(missing_ok=True)
