"""Stored states of a training, by Orbax: the last few and the best, written in the background."""

from __future__ import annotations

import contextlib
import errno
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

from lcnas.errors import TrainingError, TrainingFailedError, shorten
from lcnas.training.step import State

Tree = dict[str, Any]


@dataclass
class _Keep:
    """Orbax's policy of what is pruned: all but the last few and the best."""

    last: int
    best: int | None = None  # step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Return which stored states stay; called by Orbax, oldest first."""
        del context
        recent = len(checkpoints) - self.last
        return [c.step == self.best or i >= recent for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The stored states in a folder; a context, which waits for what is still being written."""

    def __init__(self, folder: Path, last: int = 2) -> None:
        """Open the folder.

        Args:
            folder: where they lie, a sub-folder for each step.
            last: how many of the newest are kept, beside the best.
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
            with contextlib.suppress(
                Exception
            ):  # of what was still being written; one fault is enough
                self._manager.close()

    @property
    def newest(self) -> int | None:
        """The step of the newest one, None where there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, state: State, run: Mapping[str, Any], best: int | None) -> None:
        """Store a state; returns as soon as it has been copied.

        Args:
            state: of the training.
            run: what else is needed to go on, as JSON.
            best: step of the best state so far, which is not pruned.

        Raises:
            TrainingFailedError: the disk is full, or cannot be written.
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
        """Wait until all is written."""
        with _writing(self.folder):
            self._manager.wait_until_finished()

    def restore(self, like: State, step: int) -> tuple[State, dict[str, Any]]:
        """Return a stored state, in NumPy arrays, and its ``run``.

        Args:
            like: a state of the same training, for names, shapes and types.
            step: which one.

        Raises:
            TrainingError: it is damaged, or of another network.
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
                f"{shorten(str(error).partition(chr(10))[0])}; delete that folder to go on from the "
                "one before it"
            ) from error
        return from_tree(restored["state"], like), dict(restored["run"])


# -- a state as nested dictionaries of NumPy arrays ------------------------------------------------


def to_tree(state: State) -> Tree:
    """Return a state as nested dictionaries; every array is a copy, which no later step changes."""
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
    """Return the state of a tree that :func:`to_tree` made; ``like`` has its structure."""
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
    # A view of JAX's memory would be overwritten by the next step, to which the state is donated.
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


# -- faults ----------------------------------------------------------------------------------------


@functools.cache
def _quieten() -> None:
    """Keep Orbax from telling what it raises as well: of a full disk, seventy tracebacks by its threads.

    It logs an error in each of them; and what TensorStore has not finished by then calls an event loop that
    is closed, from its own threads, where nobody could catch the error.
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
    # Of several tasks that fail one is raised; asyncio tells of the others, and where they are from.
    lost = record.name == "asyncio" and "/orbax/checkpoint/" in record.getMessage()
    return record.levelno < logging.ERROR or not (own or lost)


def _is_of_closed_loop(error: BaseException | None, trace: TracebackType | None) -> bool:
    """Return whether an error is of a closed event loop that no Python code has called."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(trace)]
    inside = bool(files) and all(file.parent.name == "asyncio" for file in files)
    return inside and str(error) == "Event loop is closed"


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full, in whatever library's words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    known = ("No space left", "Disk quota exceeded", "the disk is full")
    return any(words in str(error) for words in known)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a failed write into a TrainingFailedError."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise full(folder) from error
        if isinstance(error, OSError):
            raise TrainingFailedError(f"{folder}: cannot be written: {error.strerror}") from error
        raise


def full(folder: Path) -> TrainingFailedError:
    """Return the failure of a full disk."""
    return TrainingFailedError(
        f"{folder}: the disk is full; free some space and repeat the command, which goes on from the "
        "last whole checkpoint (a smaller keep stores fewer)"
    )
