"""Where the data files lie: the spaces, and the latency tables.

In a wheel they are inside the package (`lcnas/_data/`), in a checkout and its editable install
beside it.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def spaces_dir() -> Path:
    """The folder of the space files that come with the package."""
    return _data_dir("spaces")


def table_dirs(explicit: Path | None = None) -> tuple[Path, ...]:
    """The folders in which a latency table is looked up, first come first served.

    Those are `explicit` (what `--table` names), `$LCNAS_TABLES`, `./latency_tables`, and the
    packaged one. Only folders that exist are listed, each once.
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
    """Return a path with ``~`` and ``~user`` replaced; where there is no such home, it stays as it is."""
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
    # Else an installed package would take any folder of that name in site-packages for ours.
    if (root / "pyproject.toml").is_file() and beside.is_dir():
        return beside
    raise FileNotFoundError(
        f"the data folder {name!r} of lcnas is missing: it is neither at {packaged} (installed "
        f"from a wheel) nor at {beside} with a pyproject.toml beside it (a checkout); "
        "install lcnas again, or restore the folder"
    )
