"""Checkpoints of a training, by Orbax: the newest few and the best, written in the background."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from numpy.typing import NDArray

from lcnas import files
from lcnas.errors import TrainingError, TrainingFailedError, shorten
from lcnas.training.step import State

Tree = dict[str, Any]


@dataclass
class _Keep:
    """Orbax's preservation policy: keep the newest few and the best, prune the rest."""

    last: int
    best: int | None = None  # step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Return which checkpoints to keep; Orbax passes them oldest first."""
        del context
        recent = len(checkpoints) - self.last
        return [c.step == self.best or i >= recent for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints in a folder; a context manager that waits for pending writes on exit."""

    def __init__(self, folder: Path, last: int = 2) -> None:
        """Open the folder.

        Args:
            folder: parent of the checkpoints; each step has a sub-folder.
            last: number of newest checkpoints to keep, beside the best.
        """
        import orbax.checkpoint as ocp

        _quieten()
        self._ocp = ocp
        self._keep = _Keep(last)
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep, cleanup_tmp_directories=True, create=True
        )
        with _writing(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_names=("state", "run")
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait()
            self._manager.close()
        else:
            # Errors of pending writes are dropped: the first error is already on its way.
            with contextlib.suppress(Exception):
                self._manager.close()

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, state: State, run: Mapping[str, Any], best: int | None) -> None:
        """Save a checkpoint; returns as soon as the state has been copied.

        Args:
            state: the training state.
            run: further values to resume with, as JSON.
            best: step of the best checkpoint so far, which is not pruned.

        Raises:
            TrainingFailedError: the disk is full, or not writable.
        """
        self._keep.best = best
        tree = to_tree(state)
        step = int(tree["step"])
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(tree), run=self._ocp.args.JsonSave(dict(run))
        )
        with _writing(self.folder):
            if step not in self._manager.all_steps():
                self._manager.save(step, args=args)

    def wait(self) -> None:
        """Wait for pending writes."""
        with _writing(self.folder):
            self._manager.wait_until_finished()

    def restore(self, like: State, step: int) -> tuple[State, dict[str, Any]]:
        """Return the state of a checkpoint, as NumPy arrays, and its ``run``.

        Args:
            like: a state of the same training, for names, shapes and dtypes.
            step: step of the checkpoint.

        Raises:
            TrainingError: the checkpoint is damaged, or belongs to another network.
        """
        tree = jax.tree.map(_described, to_tree(like))
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardRestore(tree), run=self._ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:
            raise TrainingError(
                f"checkpoint: {self.folder / str(step)} cannot be read: "
                f"{shorten(str(error).partition(chr(10))[0])}; delete that folder to resume from the "
                "checkpoint before it"
            ) from error
        return from_tree(restored["state"], like), dict(restored["run"])


# -- a state as nested dictionaries of NumPy arrays ------------------------------------------------


def to_tree(state: State) -> Tree:
    """Return a state as nested dictionaries of copies, which later steps do not change."""
    memory = jax.tree.leaves(state.optimizer)
    return {
        "step": _copied(state.step),
        "params": _nested(state.params),
        "stats": _nested(state.stats),
        "optimizer": {f"{i:04d}": _copied(leaf) for i, leaf in enumerate(memory)},
        "average": _nested(state.average),
        "epoch": {k: _copied(v) for k, v in state.epoch._asdict().items()},
        "window": {k: _copied(v) for k, v in state.window._asdict().items()},
    }


def from_tree(tree: Tree, like: State) -> State:
    """Return the state in a tree from :func:`to_tree`; ``like`` has the state's structure."""
    memory = [tree["optimizer"][key] for key in sorted(tree.get("optimizer", {}))]
    return State(
        step=tree["step"],
        params=_flattened(tree["params"]),
        stats=_flattened(tree.get("stats") or {}),
        optimizer=jax.tree.unflatten(jax.tree.structure(like.optimizer), memory),
        average=_flattened(tree.get("average") or {}),
        epoch=type(like.epoch)(**tree["epoch"]),
        window=type(like.window)(**tree["window"]),
    )


def _copied(x: Any) -> NDArray[Any]:
    # The next step, to which the state is donated, would overwrite a view of JAX's memory.
    return np.array(x, copy=True)


def _described(x: NDArray[Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)  # type: ignore[no-untyped-call]


def _nested(weights: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for name, value in weights.items():
        *path, last = name.split("/")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = _copied(value)
    return tree


def _flattened(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{above}{key}/")
        else:
            flat[f"{above}{key}"] = value
    return flat


# -- errors ----------------------------------------------------------------------------------------


@functools.cache
def _quieten() -> None:
    """Filter Orbax's log of errors that it also raises: a full disk gives seventy tracebacks of its threads.

    Each thread logs the error. Unfinished TensorStore operations then call a closed event loop from their own
    threads, where the error cannot be caught.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_of_orbax)
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not _is_of_closed_loop(unraisable.exc_value, unraisable.exc_traceback):
            before(unraisable)

    sys.unraisablehook = hook


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    own = "orbax" in Path(record.pathname).parts
    # Of several failed tasks, one raises; asyncio logs the others with their origin.
    lost = record.name == "asyncio" and "/orbax/checkpoint/" in record.getMessage()
    return record.levelno < logging.ERROR or not (own or lost)


def _is_of_closed_loop(error: BaseException | None, trace: TracebackType | None) -> bool:
    """Return whether an error is that of a closed event loop, outside any caller's code."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(trace)]
    inside = bool(files) and all(file.parent.name == "asyncio" for file in files)
    return inside and str(error) == "Event loop is closed"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise TrainingFailedError for a failed write."""
    try:
        yield
    except Exception as error:
        if files.is_full(error):
            raise full(folder) from error
        if isinstance(error, OSError):
            raise TrainingFailedError(f"{folder}: cannot be written: {error.strerror}") from error
        raise


def full(folder: Path) -> TrainingFailedError:
    """Return the error for a full disk."""
    return TrainingFailedError(
        f"{folder}: the disk is full; free some space and repeat the command, which resumes from the "
        "last complete checkpoint (a smaller keep stores fewer)"
    )
