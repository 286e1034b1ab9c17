"""A page as one HTML file that needs nothing but itself: figures are inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from search.reporting.page import Bullets, Cell, Code, Figure, Heading, Link, Page, Part, Rows, Text

_STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f6f8fa; --strong: #e8f3ec; }
@media (prefers-color-scheme: dark) { :root { --line: #444c56; --soft: #22272e; --strong: #1f3a2b; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin: 1.8em 0 .5em; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .2em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3em .7em; text-align: left; vertical-align: top; }
th { background: var(--soft); }
.right { text-align: right; white-space: nowrap; }
tr.strong { background: var(--strong); font-weight: 600; }
pre { background: var(--soft); padding: .8em 1em; overflow-x: auto; }
img { max-width: 100%; height: auto; background: #fff; }
"""


def render(page: Page, figures: Mapping[str, bytes]) -> str:
    """Return the text of a page.

    Args:
        page: its parts.
        figures: PNG files of its figures, by path.
    """
    title = next((p.text for p in page if isinstance(p, Heading) and p.level == 1), "report")
    body = "\n".join(_part(part, figures) for part in page)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _part(part: Part, figures: Mapping[str, bytes]) -> str:
    match part:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text, strong):
            return f"<p><strong>{escape(text)}</strong></p>" if strong else f"<p>{escape(text)}</p>"
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Figure(path, words):
            inside = base64.b64encode(figures[path]).decode()
            return f'<p><img src="data:image/png;base64,{inside}" alt="{escape(words)}"></p>'
        case Rows():
            return _table(part)


def _table(table: Rows) -> str:
    lines = [_row(table.head, table, "th")]
    lines += [
        _row(row, table, "td", ' class="strong"' if i in table.strong else "")
        for i, row in enumerate(table.rows)
    ]
    return "\n".join(['<div class="scroll"><table>', *lines, "</table></div>"])


def _row(cells: tuple[Cell, ...], table: Rows, tag: str, mark: str = "") -> str:
    sides = [' class="right"' if i in table.right else "" for i in range(len(cells))]
    cells_html = [
        f"<{tag}{side}>{_cell(cell)}</{tag}>" for side, cell in zip(sides, cells, strict=True)
    ]
    return f"<tr{mark}>{''.join(cells_html)}</tr>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="{escape(quote(cell.target))}">{escape(cell.text)}</a>'
    return escape(cell)
