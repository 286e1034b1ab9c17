"""A page as Markdown."""

from __future__ import annotations

import re
from urllib.parse import quote

from search.reporting.page import Bullets, Cell, Code, Figure, Heading, Link, Page, Part, Rows, Text

_SPECIAL = re.compile(r"([\\`*<>\[\]|])")  # underscores inside words need no escape


def render(page: Page) -> str:
    """Return the text of a page."""
    return "\n\n".join(_part(part) for part in page) + "\n"


def _part(part: Part) -> str:
    match part:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, strong):
            return f"**{_plain(text)}**" if strong else _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Code(text):
            return f"```sh\n{text}\n```"
        case Figure(path, what):
            return f"![{_plain(what)}]({quote(path)})"
        case Rows():
            return _table(part)


def _table(table: Rows) -> str:
    rule = ["---:" if i in table.right else "---" for i in range(len(table.head))]
    lines = [[_plain(cell) for cell in table.head], rule]
    for i, row in enumerate(table.rows):
        lines.append([_cell(cell, i in table.strong) for cell in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell, strong: bool) -> str:
    if isinstance(cell, Link):
        return f"[{_plain(cell.text)}]({quote(cell.target)})"
    return f"**{_plain(cell)}**" if strong and cell.strip() else _plain(cell)


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
