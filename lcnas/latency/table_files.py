"""Where latency tables and measurements lie, and how they are written."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lcnas import paths
from lcnas.errors import TableError, nearest, shorten


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
