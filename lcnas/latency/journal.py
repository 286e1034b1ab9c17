"""The journal of a table in the making: every visit and decision, a line each, as soon as there is one.

A kill loses at most the line that is being written. The lines are JSON: first ``{"header": settings}``, then
``{"run": n}`` where a process begins to measure, ``[key, session, at, ms]`` a visit of that run, and
``{"draws:SPACE": {role: codes}}`` the networks that were drawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcnas.errors import TableError, TableWriteError
from lcnas.latency.table import ROLES
from lcnas.latency.timing import Visit

_FAR = 1e15  # seconds or ms that no clock shows


class Journal:
    """Visits and decisions, appended as they come; reading it again gives the same state.

    Args:
        path: the file; made where there is none.
        header: what the journal is of. A journal of something else is refused.

    Raises:
        TableError: the journal of other settings, one that is damaged other than by a cut at its end, one
            that another process is writing, or a file that cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.visits: list[Visit] = []
        self.notes: dict[str, Any] = {}
        self.run = 0  # number of this start: each process has its own clock
        self._begun = False  # whether this run's line is written
        self._file = _open_alone(path)
        self._close = weakref.finalize(self, os.close, self._file)
        try:
            self._read({"header": dict(header)})
        except TableError:
            self.close()
            raise

    def _read(self, header: Mapping[str, Any]) -> None:
        raw = self.path.read_bytes()
        lines = raw.split(b"\n")[:-1]  # what is behind the last line break was cut off
        good = 0
        for number, line in enumerate(lines, start=1):
            if not self._take(number, _parsed(line), header):
                if number < len(lines):
                    mend = "that line, or the whole file" if number > 1 else "the file"
                    raise TableError(
                        f"{self.path}: line {number} is damaged; remove {mend} to go on"
                    )
                break  # a power cut may leave nonsense at the end
            good += len(line) + 1
        if good < len(raw):
            os.ftruncate(self._file, good)
        if good == 0:
            self._write(header)

    def _take(self, number: int, entry: Any, header: Mapping[str, Any]) -> bool:
        """Take a line in; returns whether it is one of a journal."""
        if number == 1:
            known = isinstance(entry, dict) and set(entry) == {"header"}
            if known and entry != header:
                raise TableError(
                    f"{self.path}: is the journal of other settings; remove it to start afresh"
                )
            return known
        if _is_visit(entry):
            key, session, at, ms = entry
            self.visits.append(Visit(key, session, at, ms, self.run - 1))
        elif isinstance(entry, dict) and list(entry) == ["run"] and type(entry["run"]) is int:
            self.run = entry["run"] + 1
        elif _is_note(entry):
            self.notes.update(entry)
        else:
            return False
        return True

    def visit(self, seen: Visit) -> None:
        """Append a visit."""
        if not self._begun:
            self._write({"run": self.run})
            self._begun = True
        self.visits.append(dataclasses.replace(seen, run=self.run))
        self._write([seen.key, seen.session, round(seen.at, 3), round(seen.ms, 6)])

    def note(self, key: str, value: Any) -> None:
        """Append a decision, such as which networks were drawn."""
        self.notes[key] = value
        self._write({key: value})

    def _write(self, entry: Any) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise TableWriteError(f"{self.path}: cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """Put what was appended on the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise TableWriteError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Let other processes have the file; nothing can be appended any more."""
        self._close()

    def remove(self) -> None:
        """Delete the journal: its contents are in the table."""
        self.path.unlink(missing_ok=True)
        self.close()


def _open_alone(path: Path) -> int:
    """Open a file to append to, for this process alone as long as it is open."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            with contextlib.suppress(FileNotFoundError):
                if not _locked(file):
                    os.close(file)
                    raise TableError(
                        f"{path}: another process is at work with the same settings; wait for it, or stop it"
                    )
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
            os.close(file)  # its owner had just deleted it
    except OSError as error:
        raise TableWriteError(f"{path}: cannot be written: {error.strerror}") from None


def _locked(file: int) -> bool:
    """Return whether the lock of an open file could be had, or there are none (Windows)."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_visit(entry: Any) -> bool:
    """Return whether an entry is [key, session, at, ms]."""
    if not isinstance(entry, list) or [type(x) for x in entry[:2]] != [str, int] or len(entry) != 4:
        return False
    at, ms = entry[2:]
    return all(type(x) in (int, float) and abs(x) < _FAR for x in (at, ms)) and ms > 0


def _is_note(entry: Any) -> bool:
    """Return whether an entry tells of networks that were drawn: {"draws:SPACE": {role: codes}}."""
    if not isinstance(entry, dict) or len(entry) != 1:
        return False
    ((key, value),) = entry.items()
    if not key.startswith("draws:") or not isinstance(value, dict) or set(value) != set(ROLES):
        return False
    codes = [row for rows in value.values() for row in (rows if isinstance(rows, list) else [None])]
    return all(isinstance(row, list) and all(type(x) is int for x in row) for row in codes)
