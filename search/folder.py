"""The folder of a search: its settings, its trials (a line each), and what each step found.

Everything is written beside its place and renamed, or appended and synced at once, so that a kill loses at
most what was in flight. A search goes on by reading it all again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcnas.arch import Resolution
from lcnas.errors import LcnasError, shorten
from lcnas.training import run as files
from search.errors import SearchError
from search.settings import Settings
from search.trials import Trial

# 1: finals were trained and tested at the evaluator's size, whatever size they were exported for.
VERSION, _VERSIONS = 2, (1, 2)
CONFIG, TRIALS, TIMES = "config.json", "trials.jsonl", "times.json"
_FORMAT = "lcnas-search"


def new_name(space: str, root: Path = Path("runs")) -> Path:
    """Return a folder that does not exist yet, named after the space and the time."""
    stem = f"{Path(space).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, more = root / stem, 1
    while path.exists():
        more += 1
        path = root / f"{stem}-{more}"
    return path


class Folder:
    """A search's folder, held by this process from :meth:`held` on."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.shown = path  # as the user wrote it
        self._times: dict[str, float] = {}  # before the search is begun

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def begun(self) -> bool:
        """Whether a search was begun here."""
        return (self.path / CONFIG).is_file()

    # -- settings --

    def config(self) -> dict[str, Any]:
        """Return what config.json says.

        Raises:
            SearchError: there is none, or it is broken.
        """
        path = self.path / CONFIG
        if not path.is_file():
            there = "holds no search" if self.path.is_dir() else "is no folder"
            raise SearchError(f"{self.shown}: {there} (no {CONFIG})")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found = (data["format"], data["version"])
            if found[0] != _FORMAT or found[1] not in _VERSIONS:
                raise SearchError(f"{path}: is {shorten(found)}, not {_FORMAT} version {VERSION}")
            return dict(data)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, LcnasError):
                raise
            raise SearchError(f"{path}: cannot be read: {shorten(str(error))}") from None

    def asked(self) -> Settings:
        """Return the settings as they were asked for."""
        return Settings.from_data(self.config().get("asked"), str(self.path / CONFIG))

    def settings(self) -> Settings:
        """Return the settings with all that was decided for them."""
        return Settings.from_data(self.config().get("settings"), str(self.path / CONFIG))

    def final_size(self) -> Resolution | None:
        """Return the pixels that finals are trained and tested at: of deployment, unless the run is older.

        A run of version 1 goes on as it began: at its training size, which its report then says.
        """
        settings = self.settings()
        return settings.train_size if self.config()["version"] == 1 else settings.resolution

    def check(self, asked: Settings) -> None:
        """Refuse a folder of other files, or of a search with other settings (naming what differs)."""
        if self.path.exists() and not self.path.is_dir():
            raise SearchError(f"out: {self.shown} is not a folder")
        if not self.begun:
            others = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            if [name for name in others if name != files.LOCK]:
                raise SearchError(
                    f"out: {self.shown} holds files and no search ({others[0]}, ...); "
                    "give an empty folder, or one that does not exist"
                )
            return
        found = asked.differences(self.asked())
        if found:
            raise SearchError(
                f"out: {self.shown} holds a search with other settings: {'; '.join(found)}; give another "
                f"folder, or go on with its own settings: --resume {self.shown}"
            )

    def begin(self, asked: Settings, settings: Settings) -> None:
        """Write what the search is."""
        about = {
            "format": _FORMAT,
            "version": VERSION,
            "asked": asked.to_data(),
            "settings": settings.to_data(),
            "surroundings": surroundings(),
            "git": git_state(),
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        files.write(self.path / CONFIG, json.dumps(about, indent=1) + "\n")
        for step, seconds in self._times.items():
            self.took(step, seconds)

    def forget(self) -> None:
        """Remove a folder in which no search was begun, so that any command may take its place."""
        if not self.begun and self.path.is_dir():
            with contextlib.suppress(OSError):  # files of others
                (self.path / files.LOCK).unlink(missing_ok=True)
                self.path.rmdir()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder; refused while another process works in it."""
        with files.locked(self.path, "searches"):
            yield

    # -- trials --

    def trials(self) -> list[Trial]:
        """Return the finished trials in the order in which they finished; a line cut off is no trial.

        Raises:
            SearchError: a line that is no trial, or two of one number.
        """
        path = self.path / TRIALS
        found: dict[int, Trial] = {}
        for i, line in enumerate(_whole_lines(path)):
            where = f"{path}, line {i + 1}"
            try:
                made = Trial.from_data(json.loads(line), where)
            except ValueError as error:
                if isinstance(error, SearchError):
                    raise
                raise SearchError(f"{where}: no JSON: {shorten(line)}") from None
            if made.number in found:
                raise SearchError(f"{where}: trial {made.number} is there twice")
            found[made.number] = made
        return list(found.values())

    def mend(self) -> None:
        """Cut off what a kill left of a line, so that the next one begins anew."""
        path = self.path / TRIALS
        if path.is_file():
            raw = path.read_bytes()
            whole = raw.rfind(b"\n") + 1
            if whole < len(raw):
                with path.open("r+b") as file:
                    file.truncate(whole)

    def add(self, trial: Trial) -> None:
        """Append a finished trial; it is on the disk when this returns, or no part of it is there."""
        left = memoryview(f"{json.dumps(trial.to_data())}\n".encode())
        path = self.path / TRIALS
        with files.unwritable(self.path), path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while left:  # a disk that fills up takes a part first
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise

    # -- what the steps found --

    def load(self, name: str) -> Any:
        """Return the data of a JSON file; None where there is none."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SearchError(f"{path}: cannot be read: {shorten(str(error))}") from None

    def save(self, name: str, data: Any) -> None:
        """Write a JSON file."""
        self.write(name, json.dumps(data, indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file, beside its place first."""
        files.write(self.path / name, text)

    def times(self) -> dict[str, float]:
        """Return the seconds that each step has taken, over all sessions."""
        found: dict[str, float] = self.load(TIMES) or {}
        return found

    def took(self, step: str, seconds: float) -> None:
        """Add to a step's seconds; written once the search is begun."""
        if not self.begun:
            self._times[step] = self._times.get(step, 0.0) + seconds
            return
        known = self.times()
        known[step] = round(known.get(step, 0.0) + seconds, 2)
        self.save(TIMES, known)


def _whole_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [line for line in whole.splitlines() if line]


def surroundings() -> dict[str, Any]:
    """Return versions and machine, without starting JAX."""
    import dataclasses
    import platform
    from importlib import metadata

    import lcnas
    from lcnas import latency

    names = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "onnx", "ray", "optuna")
    return {
        "lcnas": lcnas.__version__,
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in names},
        "machine": dataclasses.asdict(latency.this_machine()),
    }


def git_state() -> str:
    """Return the commit of the checkout that runs, with "+" where files were changed; "" outside one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        return made.stdout.strip() if made.returncode == 0 else ""

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = git("rev-parse", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "-uno") else "")
    return ""
