"""Signals that stop a training: it saves its state, then ends.

JAX is not imported here, so that a command can listen before JAX is: JAX may swallow an exception that a
signal raises during its import.
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


class Stopped(Exception):  # noqa: N818 - the user requested it, so not an error
    """A signal ended the training after its state was saved."""

    def __init__(self, number: int, step: int) -> None:
        """Record the signal.

        Args:
            number: number of the signal.
            step: steps done, all of them saved.
        """
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.signal = number
        self.step = step

    def __reduce__(self) -> tuple[type[Self], tuple[int, int]]:
        """Pickle the arguments, so that the exception can cross processes."""
        return type(self), (self.signal, self.step)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_RECEIVED = ": received; stopping once finished work is saved (repeat it to stop at once)\n"


class _Handlers:
    """Handlers of the signals; Python allows setting them in the main thread only."""

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


class SignalListener(_Handlers):
    """Context in which SIGTERM and Ctrl-C are acknowledged at once, and none is lost.

    Signals are recorded for :func:`check`: an exception raised by a handler may be swallowed by a library
    during its import, or crash it. During a compilation, of up to half a minute, Python runs no handler in
    the main thread; so a thread acknowledges the first signal, and ends the process at the second.
    """

    current: ClassVar[SignalListener | None] = None

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
            SignalListener.current = self
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._restore()
            SignalListener.current = None
            self._writer.close()  # which ends the thread
            self._writer = None

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or number
        if self.raises:
            raise KeyboardInterrupt


def _listen(reader: socket.socket) -> None:
    """Read the signal numbers that Python's C handler writes."""
    acknowledged = False
    with reader:
        while numbers := reader.recv(16):
            for number in (n for n in numbers if n in _SIGNALS):
                if acknowledged:
                    _leave(number)
                acknowledged = True
                word = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                with contextlib.suppress(OSError):  # stderr is closed
                    os.write(2, f"{word}{_RECEIVED}".encode())


def _leave(number: int) -> None:
    """End the process at once; files get their names only when complete, so none is left partial."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


def check() -> None:
    """Raise KeyboardInterrupt if a :class:`SignalListener` has received a signal."""
    if SignalListener.current is not None and SignalListener.current.received is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def may_be_stopped() -> Iterator[None]:
    """Context of long-running code of this package that a signal may stop anywhere, by KeyboardInterrupt."""
    check()
    listener = SignalListener.current
    if listener is not None:
        listener.raises = True
    try:
        yield
    finally:
        if listener is not None:
            listener.raises = False
    check()


class Interrupts(_Handlers):
    """Context in which SIGTERM and Ctrl-C are recorded; a second signal has its usual effect.

    A signal that a :class:`SignalListener` has received before counts as the first. Works in the main thread
    only; elsewhere it does nothing.
    """

    def __enter__(self) -> Self:
        self.received = None if SignalListener.current is None else SignalListener.current.received
        if self.received is None:
            self._set()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if SignalListener.current is not None:
            SignalListener.current.received = number
        self._restore()
