"""Folders of the data files: spaces and latency tables.

In a wheel they are inside the package (`lcnas/_data/`), in a checkout and an editable install
next to it.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def spaces_dir() -> Path:
    """Return the folder of the package's own space files."""
    return _data_dir("spaces")


def table_dirs(explicit: Path | None = None) -> tuple[Path, ...]:
    """Return the folders in which latency tables are looked up, in order of precedence.

    They are `explicit` (from `--table`), `$LCNAS_TABLES`, `./latency_tables`, and the
    package's own folder. Only folders that exist are listed, each once.
    """
    variable = os.environ.get("LCNAS_TABLES")
    folders = [
        explicit,
        Path(variable) if variable else None,
        Path("latency_tables"),
        _data_dir("latency_tables"),
    ]
    existing = (path.resolve() for path in folders if path is not None and path.is_dir())
    return tuple(dict.fromkeys(existing))


def expanded(text: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` expanded; unchanged if there is no such home."""
    path = Path(text)
    try:
        return path.expanduser()
    except (RuntimeError, KeyError):
        return path


def _data_dir(name: str) -> Path:
    packaged = _PACKAGE / "_data" / name
    if packaged.is_dir():
        return packaged
    root = _PACKAGE.parent
    beside = root / name
    # Otherwise an installed package would use any folder of that name in site-packages.
    if (root / "pyproject.toml").is_file() and beside.is_dir():
        return beside
    raise FileNotFoundError(
        f"the data folder {name!r} of lcnas is missing: it is neither at {packaged} (installed "
        f"from a wheel) nor at {beside} with a pyproject.toml beside it (a checkout); "
        "install lcnas again, or restore the folder"
    )
