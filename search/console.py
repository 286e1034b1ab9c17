"""What a search prints while it runs: lines, and progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lcnas import outputs


class Progress(Protocol):
    """Reports progress: a bar on a terminal, else a line now and then."""

    def __call__(self, done: int, note: str) -> None:
        """Show how many are done, with a note."""


class Console:
    """Prints the messages of a search to stdout, or to stderr if JSON goes there."""

    def __init__(self) -> None:
        self._console = outputs.console(highlight=False, soft_wrap=True)

    def print(self, text: str, style: str = "") -> None:
        """Print a line."""
        self._console.print(text, style=style or None, markup=False)

    def detail(self, text: str) -> None:
        """Print an indented line, below the title of a step."""
        self.print(f"  {text}")

    def result(self, table: Any) -> None:
        """Print the result, a table of rich, to stdout; also if this process is quiet."""
        from rich.console import Console as RichConsole

        RichConsole(highlight=False, soft_wrap=True).print(table)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Give what reports progress, and clear it at the end."""
        if not self._console.is_terminal:
            yield self._occasional_lines(title, total)
            return
        bar = self._bar()
        with bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)

    def _bar(self) -> Any:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )

    def _occasional_lines(self, title: str, total: int) -> Progress:
        every = max(1, total // 10)

        def report(done: int, note: str) -> None:
            if done % every == 0 or done == total:
                self.detail(f"{title}: {done} of {total}{f', {note}' if note else ''}")

        return report
