"""Signals that ask a training to stop: it stores its state first, and leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Stopped(Exception):  # noqa: N818 - asked for, so no error
    """A signal ended the training after its state had been stored."""

    def __init__(self, number: int, step: int) -> None:
        """Say what ended it.

        Args:
            number: of the signal.
            step: steps done, all of them stored.
        """
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.signal = number
        self.step = step

    def __reduce__(self) -> tuple[type[Self], tuple[int, int]]:
        """Pickle what it was made of, so that another process can read it."""
        return type(self), (self.signal, self.step)


class Interrupts:
    """While it is entered, SIGTERM and Ctrl-C are noted; a second one acts as it always did.

    Only in the main thread, where Python lets handlers be set; elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
