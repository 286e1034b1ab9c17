"""Signals that ask a training to stop: it stores its state first, and leaves.

Nothing of JAX is imported here, so that a command can listen before it is: an exception that a signal raises
in its first seconds may be swallowed there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar, Self


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


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEARD = ": heard; stopping as soon as what was done is stored (once more: at once)\n"


class _Handlers:
    """Handlers of the signals, set in the main thread alone, where Python lets them be set."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def _set(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return True

    def _note(self, number: int, _: FrameType | None) -> None:
        raise NotImplementedError

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class Listener(_Handlers):
    """While it is entered, SIGTERM and Ctrl-C are heard at once, and none is lost.

    They are noted, for :func:`check`: an exception out of a handler may be swallowed by a library that is in
    the midst of its import, or bring it down. While one compiles, Python runs no handler in the main thread,
    for half a minute perhaps; so a thread says that the first signal was heard, and ends the process at the
    second.
    """

    current: ClassVar[Listener | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.raises = False  # whether a signal raises KeyboardInterrupt; see may_be_stopped
        self._writer: socket.socket | None = None
        self._wakeup = -1

    def __enter__(self) -> Self:
        if self._set():
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=_listen, args=(reader,), daemon=True).start()
            Listener.current = self
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._restore()
            Listener.current = None
            self._writer.close()  # which ends the thread
            self._writer = None

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or number
        if self.raises:
            raise KeyboardInterrupt


def _listen(reader: socket.socket) -> None:
    """Read the numbers of signals, which the system's own handler writes."""
    heard = False
    with reader:
        while numbers := reader.recv(16):
            for number in (n for n in numbers if n in _SIGNALS):
                if heard:
                    _leave(number)
                heard = True
                word = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                with contextlib.suppress(OSError):  # nobody reads it
                    os.write(2, f"{word}{_HEARD}".encode())


def _leave(number: int) -> None:
    """End the process, whatever it is at; a file that is being written has its name only when it is whole."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


def check() -> None:
    """Raise KeyboardInterrupt where a :class:`Listener` has heard a signal."""
    if Listener.current is not None and Listener.current.received is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def may_be_stopped() -> Iterator[None]:
    """Mark what a signal may stop anywhere, with KeyboardInterrupt: our own code, which takes long."""
    check()
    listener = Listener.current
    if listener is not None:
        listener.raises = True
    try:
        yield
    finally:
        if listener is not None:
            listener.raises = False
    check()


class Interrupts(_Handlers):
    """While it is entered, SIGTERM and Ctrl-C are noted; a second one acts as it always did.

    One that a :class:`Listener` has heard before counts as the first. Only in the main thread; elsewhere
    nothing changes.
    """

    def __enter__(self) -> Self:
        self.received = None if Listener.current is None else Listener.current.received
        if self.received is None:
            self._set()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if Listener.current is not None:
            Listener.current.received = number
        self._restore()
