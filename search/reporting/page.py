"""A page as data, that Markdown and HTML are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """A file of the folder, in a cell."""

    text: str
    target: str  # path relative to the page


Cell = str | Link


@dataclass(frozen=True)
class Rows:
    """A table."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()  # columns of figures
    strong: frozenset[int] = frozenset()  # rows that stand out


@dataclass(frozen=True)
class Code:
    """Commands."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A figure in the page's folder."""

    path: str
    words: str  # what it shows, for those who do not see it


Part = Heading | Text | Bullets | Rows | Code | Figure
Page = Sequence[Part]
