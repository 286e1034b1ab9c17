"""What a search says while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Told:
    """Says what happens, in lines; a bar where the output is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)

    def __call__(self, text: str, style: str = "") -> None:
        """Say a line."""
        self.console.print(text, style=style or None, markup=False)

    def line(self, text: str) -> None:
        """Say a line of a step's own."""
        self(f"  {text}")

    def show(self, made: Any) -> None:
        """Show a table of rich's."""
        self.console.print(made)

    @contextmanager
    def progress(
        self, title: str, total: int, done: int = 0
    ) -> Iterator[Callable[[int, str], None]]:
        """Give what moves a bar (how many are done, a word on it); without a terminal, lines now and then."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        if not self.console.is_terminal:
            yield self._lines(title, total)
            return
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[word]}"),
            console=self.console,
            transient=True,
        )
        with bar:
            task = bar.add_task(title, total=total, completed=done, word="")
            yield lambda n, word: bar.update(task, completed=n, word=word)

    def _lines(self, title: str, total: int) -> Callable[[int, str], None]:
        every = max(1, total // 10)

        def moved(n: int, word: str) -> None:
            if n % every == 0 or n == total:
                self.line(f"{title}: {n} of {total}{f', {word}' if word else ''}")

        return moved
