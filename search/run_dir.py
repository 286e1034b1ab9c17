"""The run directory of a search: its settings, its trials (a line each), and the result of each step.

Files are written beside their place and renamed, or appended and synced at once, so that a kill loses only
what is in flight. A search resumes by reading them again. All file names of a run directory are here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcnas import environment, files, latency
from lcnas.arch import Resolution
from lcnas.errors import LcnasError, shorten
from lcnas.training import run as training_run
from search.errors import SearchError
from search.settings import ResolvedSettings, Settings
from search.trials import Trial

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "onnx", "ray", "optuna")

# Version 1 trained and tested finalists at the training size, whatever resolution they were exported for.
VERSION, _VERSIONS = 2, (1, 2)
_FORMAT = "lcnas-search"

# Of a search.
CONFIG = "config.json"  # settings, versions and machine
TRIALS = "trials.jsonl"  # a line per finished trial
TIMES = "times.json"  # seconds of each step
TABLE, TABLE_INFO = "table", "table.json"  # folder of the latency table; its notes
SUPERNET, PREDICTOR = "supernet.json", "predictor.json"  # reports of supernet and predictor
SUPERNET_WEIGHTS = "supernet"  # folder of the supernet that the search uses
SEARCHED = "searched.json"  # the search is complete
MEASURED = "measured.json"  # measurements of finalists and baselines
FINALS = "finals"  # folder of final trainings: finals/NAME/seed-N
NETWORKS = "networks"  # folder of delivered networks: networks/NAME.onnx
OUTCOME = "outcome.json"  # all that the report shows
CACHE = "cache"  # folder of compiled programs
TUNE = "tune"  # folder of Ray Tune's own files

# Of a final training.
NETWORK = "network.onnx"  # the deployed network
NETWORK_FP32 = "network-fp32.onnx"  # the network that an int8 one was quantised from
DEPLOYED = "deployed.json"  # validation of the deployed file; written after it
LAST_ONNX, LAST_WEIGHTS = "last.onnx", "last.safetensors"  # of the last epoch
# Test images that a file classifies correctly: the deployed one, its fp32 twin; of version 1, last.onnx.
HITS, HITS_FP32, HITS_LAST = "network-hits.npy", "network-fp32-hits.npy", "hits.npy"


def new_path(space: str, root: Path = Path("runs")) -> Path:
    """Return the path of a new run directory, named after the space and the time."""
    stem = f"{Path(space).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, more = root / stem, 1
    while path.exists():
        more += 1
        path = root / f"{stem}-{more}"
    return path


class RunDir:
    """The run directory of a search, locked by this process within :meth:`held`."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.shown = path  # as the user spelt it
        self._times: dict[str, float] = {}  # before the search has begun

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def begun(self) -> bool:
        """Whether it holds a search."""
        return (self.path / CONFIG).is_file()

    # -- settings --

    def config(self) -> dict[str, Any]:
        """Return the contents of config.json.

        Raises:
            SearchError: the file does not exist, or is damaged.
        """
        path = self.path / CONFIG
        if not path.is_file():
            problem = "holds no search" if self.path.is_dir() else "is not a folder"
            raise SearchError(f"{self.shown}: {problem} (no {CONFIG})")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kind = (data["format"], data["version"])
            if kind[0] != _FORMAT or kind[1] not in _VERSIONS:
                raise SearchError(f"{path}: is {shorten(kind)}, not {_FORMAT} version {VERSION}")
            return dict(data)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, LcnasError):
                raise
            raise SearchError(f"{path}: cannot be read: {shorten(str(error))}") from None

    def asked(self) -> Settings:
        """Return the settings as they were asked for."""
        return Settings.from_data(self.config().get("asked"), str(self.path / CONFIG))

    def settings(self) -> ResolvedSettings:
        """Return the settings of the search, nothing left open."""
        return ResolvedSettings.from_data(self.config().get("settings"), str(self.path / CONFIG))

    def final_size(self) -> Resolution | None:
        """Return the resolution of final trainings, pixels: that of deployment, unless the run is older.

        A run of version 1 continues at its training size; its report says so.
        """
        settings = self.settings()
        return settings.train_size if self.config()["version"] == 1 else settings.resolution

    def check(self, asked: Settings) -> None:
        """Refuse a folder of other files, or of a search with other settings; names the differences."""
        if self.path.exists() and not self.path.is_dir():
            raise SearchError(f"out: {self.shown} is not a folder")
        if not self.begun:
            others = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            if [name for name in others if name != training_run.LOCK]:
                raise SearchError(
                    f"out: {self.shown} holds files and no search ({others[0]}, ...); "
                    "give an empty or a new folder"
                )
            return
        differences = asked.differences(self.asked())
        if differences:
            raise SearchError(
                f"out: {self.shown} holds a search with other settings: {'; '.join(differences)}; give "
                f"another folder, or resume with its own settings: --resume {self.shown}"
            )

    def begin(self, asked: Settings, settings: ResolvedSettings) -> None:
        """Write config.json: the settings as asked for and as resolved, versions and machine."""
        config = {
            "format": _FORMAT,
            "version": VERSION,
            "asked": asked.to_data(),
            "settings": settings.to_data(),
            "surroundings": environment.record(
                _LIBRARIES, dataclasses.asdict(latency.this_machine())
            ),
            "git": environment.git_state(),
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        training_run.write(self.path / CONFIG, json.dumps(config, indent=1) + "\n")
        for step, seconds in self._times.items():
            self.add_time(step, seconds)

    def forget(self) -> None:
        """Remove the folder if it holds no search, so that another command may use its name."""
        if not self.begun and self.path.is_dir():
            with contextlib.suppress(OSError):  # files of others
                (self.path / training_run.LOCK).unlink(missing_ok=True)
                self.path.rmdir()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder; refused while another process works in it."""
        with training_run.locked(self.path, "searches"):
            yield

    # -- trials --

    def trials(self) -> list[Trial]:
        """Return the finished trials in the order in which they finished; an incomplete last line is ignored.

        Raises:
            SearchError: a line is not a trial, or two lines have one number.
        """
        path = self.path / TRIALS
        trials: dict[int, Trial] = {}
        for i, line in enumerate(files.complete_lines(path)):
            source = f"{path}, line {i + 1}"
            try:
                trial = Trial.from_data(json.loads(line), source)
            except ValueError as error:
                if isinstance(error, SearchError):
                    raise
                raise SearchError(f"{source}: not JSON: {shorten(line)}") from None
            if trial.number in trials:
                raise SearchError(f"{source}: trial {trial.number} is repeated")
            trials[trial.number] = trial
        return list(trials.values())

    def repair(self) -> None:
        """Remove an incomplete last line of trials.jsonl, which a kill may leave."""
        path = self.path / TRIALS
        if path.is_file():
            raw = path.read_bytes()
            complete = raw.rfind(b"\n") + 1
            if complete < len(raw):
                with path.open("r+b") as file:
                    file.truncate(complete)

    def add(self, trial: Trial) -> None:
        """Append a finished trial: all of it is on the disk when this returns, or nothing."""
        left = memoryview(f"{json.dumps(trial.to_data())}\n".encode())
        path = self.path / TRIALS
        with training_run.unwritable(self.path), path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while left:  # a full disk accepts a part first
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise

    # -- files of the steps --

    def load(self, name: str) -> Any:
        """Return the data of a JSON file; None if it does not exist."""
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
        """Write a text file."""
        training_run.write(self.path / name, text)

    def times(self) -> dict[str, float]:
        """Return the seconds of each step, over all sessions."""
        times: dict[str, float] = self.load(TIMES) or {}
        return times

    def add_time(self, step: str, seconds: float) -> None:
        """Add to a step's seconds; written once the search has begun."""
        if not self.begun:
            self._times[step] = self._times.get(step, 0.0) + seconds
            return
        times = self.times()
        times[step] = round(times.get(step, 0.0) + seconds, 2)
        self.save(TIMES, times)
