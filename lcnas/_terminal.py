"""What commands print on: any encoding, readers who leave early, closed streams, few columns."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

ERRORS = "lcnas.escape"  # what an encoding lacks is written as \xe9, \u4e2d; bytes that are not UTF-8 as \xe9
NARROW = 60  # columns below which a row that does not fit is written a line a cell


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Escape what cannot be encoded; of names that are not UTF-8 the bytes, as lcnas.errors.spelt does."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_escape, characters)), error.end


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as Python has it in names
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(ERRORS, _escaped)


def prepare() -> None:
    """Make stdout and stderr of this process take any text, whatever becomes of their readers.

    What their encoding cannot express is escaped. Where the reader of a pipe has left ("| head") the rest is
    thrown away and the work goes on, so that exit codes and files are what they would be. A stream that was
    closed from the start (">&-") leads nowhere; its number is taken, so that no file gets it.
    """
    sys.stdout = _lasting(sys.stdout, 1, (BrokenPipeError,))
    sys.stderr = _lasting(sys.stderr, 2, (OSError,))  # there is no other place to say it


def _lasting(stream: TextIO | None, number: int, forgiven: tuple[type[OSError], ...]) -> TextIO:
    if stream is None:
        return _nowhere(number)
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody's own: a test's, a notebook's
    stream.reconfigure(errors=ERRORS)
    buffer: Any = stream.buffer
    raw = getattr(buffer, "raw", buffer)  # with python -u there is no buffer
    if not isinstance(raw, io.FileIO) or raw.fileno() != number:
        return stream
    with contextlib.suppress(*forgiven):
        stream.flush()
    made: Any = _Patient(number, forgiven)
    return io.TextIOWrapper(
        made if raw is buffer else io.BufferedWriter(made),
        encoding=stream.encoding,
        errors=ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _nowhere(number: int) -> TextIO:
    """Return a stream that leads nowhere, under that number if it is free."""
    opened = os.open(os.devnull, os.O_WRONLY)
    if opened != number:
        try:
            os.fstat(number)
        except OSError:
            os.dup2(opened, number)
    os.set_inheritable(opened, opened == number)
    return open(opened, "w", encoding="utf-8", errors=ERRORS, closefd=False)


class _Patient(io.FileIO):
    """A stream of the process that leads nowhere once it fails in a forgiven way."""

    def __init__(self, number: int, forgiven: tuple[type[OSError], ...]) -> None:
        super().__init__(number, "w", closefd=False)
        self._forgiven = forgiven

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write bytes; returns how many."""
        try:
            return super().write(data)
        except self._forgiven:
            self.silence()
            return memoryview(data).nbytes

    def silence(self) -> None:
        """Lead nowhere from now on."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def leave() -> None:
    """Write what was printed; what cannot be written is dropped: Python would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        buffer: Any = getattr(sys.stdout, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if isinstance(raw, _Patient):
            raw.silence()


def plain(text: str, stream: TextIO | None = None) -> str:
    """Return a text as a terminal shows it: nothing that it would obey, and in its encoding.

    Args:
        text: such as a name from somebody's file. Bytes that are not UTF-8 (lone surrogates) are escaped.
        stream: whose encoding counts; None: stdout's.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    safe = "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else "?" for c in text)
    return safe.encode(encoding, ERRORS).decode(encoding)


def columns() -> int | None:
    """Return how many columns the output has: COLUMNS, or the terminal's; None: neither tells."""
    return shutil.get_terminal_size((0, 0)).columns or None


def table(
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    rule_before: Sequence[int] = (),
    *,
    columns: int | None = None,
    head: bool = True,
) -> list[str]:
    """Return the lines of a table; where there are few columns, a line a cell.

    Args:
        rows: cells, as many in each.
        right: which columns are aligned to the right.
        rule_before: rows with a line above.
        columns: of the output; None: any number.
        head: whether the first row says what the cells are.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    whole = sum(widths) + 2 * (len(widths) - 1)
    if columns is not None and columns < min(whole, NARROW):
        return stacked(rows[1:], columns, rows[0]) if head else stacked(rows, columns)
    lines = []
    for n, row in enumerate(rows):
        if n in rule_before:
            lines.append("-" * whole)
        cells = [
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def stacked(rows: Sequence[Sequence[str]], columns: int, head: Sequence[str] = ()) -> list[str]:
    """Return rows for few columns: the first cell, and below it a line for each of the others.

    Example:
        >>> stacked([["stem", "conv", "232", "0.1"]], 20, ["block", "type", "params", "%"])
        ['stem', '  type: conv', '  params: 232 (0.1%)']
    """
    lines = []
    for first, *others in rows:
        indent = first[: len(first) - len(first.lstrip())]
        lines += _wrapped(first, columns, indent, f"{indent}  ")
        for cell in _named(others, head[1:]):
            lines += _wrapped(cell, columns, f"{indent}  ", f"{indent}    ")
    return lines


def _named(cells: Sequence[str], head: Sequence[str]) -> list[str]:
    """Return "name: cell" of those that are not empty; a share stands behind what it is a share of."""
    if not head:
        return [cell for cell in cells if cell]
    out: list[str] = []
    for cell, name in zip(cells, head, strict=True):
        if cell and name == "%" and out:
            out[-1] += f" ({cell}%)"
        elif cell:
            out.append(f"{name}: {cell}")
    return out


def _wrapped(text: str, columns: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text.strip(),
        max(columns, len(later) + 1),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,  # what a name is stays in one piece; the terminal folds it
        break_on_hyphens=False,
    )
