"""The run directory of a training: its identity, its lock and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcnas import environment, files, latency
from lcnas.arch import Arch
from lcnas.errors import LcnasError, TrainingError, TrainingFailedError, shorten
from lcnas.training.evaluation import Scores
from lcnas.training.recipes import Recipe

VERSION = 1  # of run.json and of result.json
RUN, RESULT, RECIPE, ARCH, SESSIONS = (
    "run.json",
    "result.json",
    "recipe.json",
    "arch.json",
    "sessions.jsonl",
)
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "onnx")


@dataclass(frozen=True)
class RunIdentity:
    """All that decides the weights of a run; runs of the same identity end with the same weights."""

    arch: Arch
    classes: int
    recipe: Recipe
    data: str  # fingerprint of the images, their split and their normalisation
    seed: int
    freeze: tuple[str, ...] = ()  # names of frozen blocks
    init: str = ""  # fingerprint of the initial weights; "": drawn from the seed
    teacher: str = ""  # fingerprint of the teacher's file; "": none

    def to_data(self) -> dict[str, Any]:
        """Return the identity as JSON data, for JSON."""
        return {
            "arch": json.loads(self.arch.to_json()),
            "arch_id": self.arch.id,
            "classes": self.classes,
            "recipe": self.recipe.to_data(),
            "data": self.data,
            "seed": self.seed,
            "freeze": list(self.freeze),
            "init": self.init,
            "teacher": self.teacher,
        }

    def differences(self, other: Mapping[str, Any], source: str) -> list[str]:
        """Return descriptions of what differs in another run.

        Args:
            other: the other run's :meth:`to_data`.
            source: name of its file, for errors.
        """
        own = self.to_data()
        out = []
        if other["arch_id"] != self.arch.id:
            other_arch = Arch.from_data(other["arch"], source)
            out.append(f"the network is {_title(other_arch)} there and {_title(self.arch)} here")
        out += self.recipe.differences(Recipe.from_data(other["recipe"], source))
        if other["data"] != self.data:
            out.append("the data or their split differ")
        for name, words in (("init", "the initial weights"), ("teacher", "the teacher")):
            if other[name] != own[name]:
                out.append(f"{words} {'differs' if name == 'teacher' else 'differ'}")
        for name in ("classes", "seed", "freeze"):
            if other[name] != own[name]:
                out.append(f"{name} is {other[name]} there and {own[name]} here")
        return out


def _title(arch: Arch) -> str:
    return f"{arch.name} ({arch.id[:8]})" if arch.name else arch.id[:8]


def fingerprint(weights: Mapping[str, Any]) -> str:
    """Return 20 hex digits of weights by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:20]


def file_fingerprint(path: Path) -> str:
    """Return 20 hex digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:20]


# -- the run directory -----------------------------------------------------------------------------


def check(out: Path, identity: RunIdentity) -> bool:
    """Return whether the folder holds this run; False if it is empty or missing.

    Raises:
        TrainingError: the folder holds another run (with the differences), or other files.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"out: {out} is not a folder")
    if not (out / RUN).is_file():
        others = [p.name for p in out.iterdir() if p.name != LOCK] if out.is_dir() else []
        if others:
            raise TrainingError(
                f"out: {out} holds files but no run of lcnas ({others[0]}, ...); "
                "give an empty folder, or one that does not exist"
            )
        return False
    try:
        stored = json.loads((out / RUN).read_text(encoding="utf-8"))
        differences = identity.differences(stored["identity"], f"{out / RUN}")
    except LcnasError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"out: {out / RUN} cannot be read: {shorten(str(error))}") from None
    if differences:
        raise TrainingError(
            f"out: {out} holds another run: {'; '.join(differences)}; give another folder, or delete it"
        )
    return True


def begin(out: Path, identity: RunIdentity) -> None:
    """Write the files of the run's identity that are not there yet."""
    about = {"format": "lcnas-run", "version": VERSION, "identity": identity.to_data()}
    # run.json comes first: if the process is killed after it, the folder is a run that can be resumed.
    for name, text in (
        (RUN, json.dumps(about, indent=1) + "\n"),
        (RECIPE, identity.recipe.to_json()),
        (ARCH, identity.arch.to_json()),
    ):
        if not (out / name).is_file():
            write(out / name, text)


LOCK = ".lock"


@contextlib.contextmanager
def locked(out: Path, work: str = "trains") -> Iterator[None]:
    """Context that holds the lock of a run directory.

    Args:
        out: the directory; created if missing.
        work: verb that says what the other process does, for the message.

    Raises:
        TrainingError: another process holds the lock.
    """
    with unwritable(out):
        out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as file:
        if not files.try_lock(file):
            raise TrainingError(f"out: another process {work} in {out} right now")
        yield


def write(path: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        TrainingFailedError: the file cannot be written.
    """
    with unwritable(path.parent):
        files.write(path, text)


def append(path: Path, data: Mapping[str, Any]) -> None:
    """Append a line of JSON.

    Raises:
        TrainingFailedError: the file cannot be written.
    """
    with unwritable(path.parent):
        files.append_line(path, data)


def entries(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON Lines file; none if there is no file."""
    return [json.loads(line) for line in files.complete_lines(path)]


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Context that raises TrainingFailedError for an OSError, such as that of a full or read-only disk."""
    try:
        yield
    except OSError as error:
        if files.is_full(error):
            raise TrainingFailedError(
                f"{folder}: the disk is full; free some space and repeat the command, which resumes there"
            ) from error
        raise TrainingFailedError(f"{folder}: cannot be written: {error.strerror}") from error


# -- the environment -------------------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """Return versions, machine and devices, for result files."""
    import jax

    devices = jax.devices()
    machine = dataclasses.asdict(latency.this_machine(capped=False))
    return {
        **environment.record(_LIBRARIES, machine),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


@dataclass(frozen=True)
class Result:
    """The result of a training."""

    out: Path
    arch: Arch
    recipe: Recipe
    seed: int
    epochs: tuple[dict[str, Any], ...]  # metrics of each epoch, lines of metrics.jsonl
    best_epoch: int  # counted from 1
    validation: Scores  # scores of the best epoch
    tested: str  # network that was tested, "best" or "last"; "": the test images were not read
    test: Scores | None
    params: int  # number of trainable weights, batch norm included
    steps: int
    seconds: float  # training time of all sessions, without compiling and evaluating
    images_s: float  # training images per second, over these seconds
    compile_seconds: float  # compile time of all sessions
    surroundings: dict[str, Any]

    def to_data(self) -> dict[str, Any]:
        """Return the result as JSON data, without the folder."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["out"]
        scores = {
            "validation": self.validation.to_data(),
            "test": None if self.test is None else self.test.to_data(),
        }
        return {
            "format": "lcnas-training-result",
            "version": VERSION,
            **values,
            **scores,
            "arch": json.loads(self.arch.to_json()),
            "arch_id": self.arch.id,
            "recipe": self.recipe.to_data(),
            "epochs": list(self.epochs),
        }

    def save(self) -> None:
        """Write ``result.json`` into the run directory."""
        write(self.out / RESULT, json.dumps(self.to_data(), indent=1) + "\n")

    @classmethod
    def load(cls, out: str | Path) -> Result:
        """Return the result in a run directory.

        Raises:
            TrainingError: there is none, or it cannot be read.
        """
        path = Path(out) / RESULT
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            named = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
            named |= {
                "out": Path(out),
                "arch": Arch.from_data(data["arch"], str(path)),
                "recipe": Recipe.from_data(data["recipe"], str(path)),
                "epochs": tuple(data["epochs"]),
                "validation": Scores.from_data(data["validation"]),
                "test": None if data["test"] is None else Scores.from_data(data["test"]),
            }
            return cls(**named)
        except LcnasError:
            raise
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read: {error.strerror}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path}: not a result: {shorten(str(error))}") from None
