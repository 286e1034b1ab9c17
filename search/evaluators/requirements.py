"""What evaluators require, checked before a search starts; JAX does not run here."""

from __future__ import annotations

from pathlib import Path

from lcnas.errors import shorten
from lcnas.spaces import Space
from search.errors import SearchError


def not_maskable(space: Space) -> str | None:
    """Return why a supernet cannot hold a space; None: it can."""
    from lcnas.models import supernet

    return supernet.maskable(space)


def check_weights(path: str) -> None:
    """Refuse a file without initial weights.

    Raises:
        SearchError: the file does not exist.
        LcnasError: it holds no weights.
    """
    from lcnas.models import pretrained

    if not Path(path).is_file():
        raise SearchError(f"init: there is no file {shorten(path)}")
    pretrained.read(path)
