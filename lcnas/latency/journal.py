"""The journal of a table that is being built: a line for each visit and decision, written at once.

A kill loses at most the line that is being written. The lines are JSON: first ``{"header": settings}``, then
``{"run": n}`` where a process begins to measure, ``[key, session, at, ms]`` for each visit of that run, and
``{"draws:SPACE": {role: codes}}`` for the networks that were drawn.
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

from lcnas import files
from lcnas.errors import TableError, TableWriteError
from lcnas.latency.table import ROLES
from lcnas.latency.timing import Visit

_IMPOSSIBLE = 1e15  # seconds or ms that no clock shows


class Journal:
    """Visits and decisions, appended as they come; reading the file again gives the same state.

    Args:
        path: the file; it is created if it does not exist.
        header: the settings that the journal belongs to. A journal of other settings is refused.

    Raises:
        TableError: the journal is of other settings, is damaged other than by a cut at its end, is being
            written by another process, or cannot be written.
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
        lines = raw.split(b"\n")[:-1]  # anything after the last line break was cut off
        good = 0
        for number, line in enumerate(lines, start=1):
            if not self._take(number, _parsed(line), header):
                if number < len(lines):
                    remedy = "that line, or the whole file" if number > 1 else "the file"
                    raise TableError(
                        f"{self.path}: line {number} is damaged; remove {remedy} to go on"
                    )
                break  # a power cut may leave nonsense at the end
            good += len(line) + 1
        if good < len(raw):
            os.ftruncate(self._file, good)
        if good == 0:
            self._write(header)

    def _take(self, number: int, record: Any, header: Mapping[str, Any]) -> bool:
        """Add the record of a line to the state; returns whether it is a valid one."""
        if number == 1:
            is_header = isinstance(record, dict) and set(record) == {"header"}
            if is_header and record != header:
                raise TableError(
                    f"{self.path}: is the journal of other settings; remove it to start afresh"
                )
            return is_header
        if _is_visit(record):
            key, session, at, ms = record
            self.visits.append(Visit(key, session, at, ms, self.run - 1))
        elif isinstance(record, dict) and list(record) == ["run"] and type(record["run"]) is int:
            self.run = record["run"] + 1
        elif _is_note(record):
            self.notes.update(record)
        else:
            return False
        return True

    def visit(self, visit: Visit) -> None:
        """Append a visit."""
        if not self._begun:
            self._write({"run": self.run})
            self._begun = True
        self.visits.append(dataclasses.replace(visit, run=self.run))
        self._write([visit.key, visit.session, round(visit.at, 3), round(visit.ms, 6)])

    def note(self, key: str, value: Any) -> None:
        """Append a decision, such as which networks were drawn."""
        self.notes[key] = value
        self._write({key: value})

    def _write(self, record: Any) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise TableWriteError(f"{self.path}: cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """Flush all lines to the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise TableWriteError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Release the file to other processes; nothing can be appended any more."""
        self._close()

    def remove(self) -> None:
        """Delete the journal, once its contents are in the table."""
        self.path.unlink(missing_ok=True)
        self.close()


def _open_alone(path: Path) -> int:
    """Open a file to append to, and lock it for this process as long as it is open."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            with contextlib.suppress(FileNotFoundError):
                if not files.try_lock(file):
                    os.close(file)
                    raise TableError(
                        f"{path}: another process is at work with the same settings; wait for it, or stop it"
                    )
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
            os.close(file)  # its owner had just deleted it
    except OSError as error:
        raise TableWriteError(f"{path}: cannot be written: {error.strerror}") from None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_visit(record: Any) -> bool:
    """Return whether a record is a visit, [key, session, at, ms]."""
    if (
        not isinstance(record, list)
        or [type(x) for x in record[:2]] != [str, int]
        or len(record) != 4
    ):
        return False
    at, ms = record[2:]
    return all(type(x) in (int, float) and abs(x) < _IMPOSSIBLE for x in (at, ms)) and ms > 0


def _is_note(record: Any) -> bool:
    """Return whether a record holds networks that were drawn, {"draws:SPACE": {role: codes}}."""
    if not isinstance(record, dict) or len(record) != 1:
        return False
    ((key, value),) = record.items()
    if not key.startswith("draws:") or not isinstance(value, dict) or set(value) != set(ROLES):
        return False
    networks = [
        codes
        for drawn in value.values()
        for codes in (drawn if isinstance(drawn, list) else [None])
    ]
    return all(isinstance(codes, list) and all(type(x) is int for x in codes) for codes in networks)
