"""Output of the commands: any encoding, closed pipes and streams, narrow terminals."""

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

# Characters that an encoding lacks become \xe9, \u4e2d; bytes that are not UTF-8 become \xe9.
ENCODING_ERRORS = "lcnas.escape"
NARROW = 60  # columns; below, a table that does not fit has one line per cell


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Escape what cannot be encoded; in names that are not UTF-8 the bytes, as lcnas.errors does."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_escape, characters)), error.end


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as Python has it in names
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(ENCODING_ERRORS, _escape_unencodable)


def prepare_streams() -> None:
    """Make stdout and stderr of this process accept any text, even after their readers have closed.

    Characters that the encoding lacks are escaped. If the reader of a pipe has closed it ("| head"), further
    output is dropped and the process continues, so that exit codes and files do not change. A stream that is
    closed from the start (">&-") becomes the null device, under its own number, so that no file gets this
    number.
    """
    sys.stdout = _robust(sys.stdout, 1, (BrokenPipeError,))
    sys.stderr = _robust(sys.stderr, 2, (OSError,))  # errors on stderr cannot be reported


def _robust(
    stream: TextIO | None, number: int, ignored_errors: tuple[type[OSError], ...]
) -> TextIO:
    if stream is None:
        return _null_stream(number)
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # replaced by a test or a notebook
    stream.reconfigure(errors=ENCODING_ERRORS)
    buffer: Any = stream.buffer
    raw = getattr(buffer, "raw", buffer)  # with python -u there is no buffer
    if not isinstance(raw, io.FileIO) or raw.fileno() != number:
        return stream
    with contextlib.suppress(*ignored_errors):
        stream.flush()
    robust_raw: Any = _ForgivingFile(number, ignored_errors)
    return io.TextIOWrapper(
        robust_raw if raw is buffer else io.BufferedWriter(robust_raw),
        encoding=stream.encoding,
        errors=ENCODING_ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _null_stream(number: int) -> TextIO:
    """Return a stream to the null device, under that number if it is free."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != number:
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
    os.set_inheritable(null, null == number)
    return open(null, "w", encoding="utf-8", errors=ENCODING_ERRORS, closefd=False)


class _ForgivingFile(io.FileIO):
    """A stream of the process that becomes the null device at the first ignored error."""

    def __init__(self, number: int, ignored_errors: tuple[type[OSError], ...]) -> None:
        super().__init__(number, "w", closefd=False)
        self._ignored_errors = ignored_errors

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write bytes; returns their number."""
        try:
            return super().write(data)
        except self._ignored_errors:
            self.redirect_to_null()
            return memoryview(data).nbytes

    def redirect_to_null(self) -> None:
        """Redirect further output to the null device."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def flush_stdout() -> None:
    """Flush stdout; drop output that cannot be written, of which Python would warn at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        buffer: Any = getattr(sys.stdout, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if isinstance(raw, _ForgivingFile):
            raw.redirect_to_null()


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return a text that is safe to print: without control characters, and within the stream's encoding.

    Args:
        text: untrusted text, such as a name from a file. Bytes that are not UTF-8 (lone surrogates) are
            escaped.
        stream: stream whose encoding is used; None: stdout.
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    safe = "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else "?" for c in text)
    return safe.encode(encoding, ENCODING_ERRORS).decode(encoding)


def columns() -> int | None:
    """Return the columns of the output, of COLUMNS or of the terminal; None: unknown."""
    return shutil.get_terminal_size((0, 0)).columns or None


def table(
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    rule_before: Sequence[int] = (),
    *,
    columns: int | None = None,
    head: bool = True,
) -> list[str]:
    """Return the lines of a table; in a narrow output, one line per cell.

    Args:
        rows: rows of cells, all of the same length.
        right: columns that are aligned to the right.
        rule_before: rows with a rule above.
        columns: columns of the output; None: unlimited.
        head: whether the first row holds the names of the columns.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    total = sum(widths) + 2 * (len(widths) - 1)
    if columns is not None and columns < min(total, NARROW):
        return stacked(rows[1:], columns, rows[0]) if head else stacked(rows, columns)
    lines = []
    for n, row in enumerate(rows):
        if n in rule_before:
            lines.append("-" * total)
        cells = [
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def stacked(rows: Sequence[Sequence[str]], columns: int, head: Sequence[str] = ()) -> list[str]:
    """Return the rows of a table for a narrow output: the first cell, then one line for each other cell.

    Examples:
        >>> stacked([["stem", "conv", "232", "0.1"]], 20, ["block", "type", "params", "%"])
        ['stem', '  type: conv', '  params: 232 (0.1%)']
    """
    lines = []
    for first, *others in rows:
        indent = first[: len(first) - len(first.lstrip())]
        lines += _wrapped(first, columns, indent, f"{indent}  ")
        for cell in _labelled(others, head[1:]):
            lines += _wrapped(cell, columns, f"{indent}  ", f"{indent}    ")
    return lines


def _labelled(cells: Sequence[str], head: Sequence[str]) -> list[str]:
    """Return "name: cell" for cells that are not empty; a percentage is appended to the cell before it."""
    if not head:
        return [cell for cell in cells if cell]
    lines: list[str] = []
    for cell, name in zip(cells, head, strict=True):
        if cell and name == "%" and lines:
            lines[-1] += f" ({cell}%)"
        elif cell:
            lines.append(f"{name}: {cell}")
    return lines


def _wrapped(text: str, columns: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text.strip(),
        max(columns, len(later) + 1),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,  # names are not split; the terminal wraps them
        break_on_hyphens=False,
    )
