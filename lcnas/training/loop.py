"""The training loop, from the first step to the exported model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import NDArray

from lcnas import onnx_export
from lcnas.arch import Arch
from lcnas.errors import TrainingError, shorten
from lcnas.models import Network
from lcnas.training import devices as devices_module
from lcnas.training import exporting, run
from lcnas.training.checkpoints import Checkpoints
from lcnas.training.data import Data
from lcnas.training.devices import Devices
from lcnas.training.evaluation import Scores
from lcnas.training.interrupts import Interrupts, Stopped
from lcnas.training.interrupts import check as check_signals
from lcnas.training.job import TrainingJob, Weights, prepared
from lcnas.training.metrics import Log, ProgressBar, read
from lcnas.training.recipes import Recipe
from lcnas.training.run import Result
from lcnas.training.session import TrainingSession, TrainingStatus, memory
from lcnas.training.step import State
from lcnas.training.teachers import Teacher, TeacherFile

TestChoice = Literal["best", "last", "none"]


def fit(
    network: Arch | Network,
    data: Data,
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    init: str | Path | Weights | None = None,
    freeze: Sequence[str] = (),
    teacher: str | Path | TeacherFile | Teacher | None = None,
    test: TestChoice = "best",
    keep: int = 2,
    save_minutes: float = 10.0,
    devices: Devices | None = None,
    quiet: bool = False,
) -> Result:
    """Train a network and return the result; models, metrics and result are written to the run directory.

    If you call it again with the same arguments after a kill, it resumes from the newest checkpoint and ends
    with the same weights, bit for bit on a CPU. If the run is finished, it returns the result.

    Args:
        network: an arch, whose weights are drawn from the seed, or a network with weights to start from.
        data: training, validation and test images, see :func:`lcnas.training.load_data`.
        recipe: optimizer, schedule, augmentation and losses.
        out: run directory; empty, or that of the same run.
        seed: seed of the weights, the order of the images and all draws.
        init: initial weights: by name, or a file of weights (:mod:`lcnas.models.pretrained`). Its last layer
            is initialised anew if the file has other classes (another number, or other names).
        freeze: stages or blocks that keep their weights and statistics.
        teacher: teacher to distil from: an ONNX classifier or a weights file of this package. A
            :class:`TeacherFile` adds what the file does not record: normalisation, size of the images.
        test: network to evaluate on the test images at the end, once: "best" (by validation accuracy),
            "last" or "none". A finished run that has not read the test images reads them now.
        keep: number of newest checkpoints to keep, beside the best.
        save_minutes: minutes between checkpoints; each epoch also ends with one.
        devices: devices that share each batch; None: all.
        quiet: whether to print nothing.

    Raises:
        TrainingError: arguments that do not fit together, or a folder of another run.
        TrainingFailedError: a loss that is not finite, out of memory, or a full disk.
        Stopped: SIGTERM or Ctrl-C; the state was saved.
    """
    out = Path(out)
    devices = devices_module.find() if devices is None else devices
    if test not in ("best", "last", "none"):
        raise TrainingError(f"test: {shorten(test)} is not among best, last, none")
    _check_limits(keep, save_minutes)
    with memory(recipe):
        job = prepared(network, data, recipe, seed, init, freeze, teacher, devices)
    check_signals()
    with run.locked(out) if devices.leads else contextlib.nullcontext():
        exists = run.check(out, job.identity)
        if exists and (out / run.RESULT).is_file():
            result = Result.load(out)
            if test in ("none", result.tested):
                return result
            if result.tested:
                raise TrainingError(
                    f"test: {out} has read the test images with its {result.tested} network; they are read "
                    f"once: give {result.tested}, or another folder"
                )
        if devices.leads:
            run.begin(out, job.identity)
        with Checkpoints(out / "checkpoints", keep) as checkpoints, memory(recipe):
            state = _train(job, checkpoints, out, save_minutes, quiet)
            return _finished(job, checkpoints, state, out, test)


def _check_limits(keep: object, save_minutes: object) -> None:
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise TrainingError(f"keep: {shorten(keep)} is not a whole number of at least 1")
    if not isinstance(save_minutes, int | float) or not save_minutes >= 0:
        raise TrainingError(f"save_minutes: {shorten(save_minutes)} is not a number of at least 0")


def check(
    network: Arch | Network,
    data: Data,
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    init: str | Path | Weights | None = None,
    freeze: Sequence[str] = (),
    teacher: str | Path | TeacherFile | Teacher | None = None,
    devices: Devices | None = None,
) -> None:
    """Raise the errors that :func:`fit` would raise at its start, without training or writing anything."""
    devices = devices_module.find() if devices is None else devices
    job = prepared(network, data, recipe, seed, init, freeze, teacher, devices)
    run.check(Path(out), job.identity)


# -- training --------------------------------------------------------------------------------------


def _train(
    job: TrainingJob, checkpoints: Checkpoints, out: Path, save_minutes: float, quiet: bool
) -> State:
    """Train from the start or from the newest checkpoint, and return the last state."""
    state, status = _initial_state(job, checkpoints)
    recipe, devices, steps = job.recipe, job.devices, job.length.epoch_steps
    show = devices.leads and not quiet
    with (
        Interrupts() as interrupts,
        Log(out, status.step, devices.leads) as log,
        ProgressBar(job.length.total_steps, status.step, show) as progress,
    ):
        for note in job.notes:
            progress.write_line(note)
        session = TrainingSession(job, log, progress, out, status)
        saved = time.monotonic()
        for epoch in range(status.step // steps, recipe.epochs):
            batches = job.data.train.batches(
                recipe.batch, seed=job.identity.seed, epoch=epoch, start=status.step % steps
            )
            for batch in batches:
                if _stop_requested(interrupts, status.step, recipe, devices):
                    session.save(checkpoints, state)
                    checkpoints.wait()
                    raise Stopped(interrupts.received or 15, status.step)
                late = devices.hosts == 1 and time.monotonic() - saved > 60 * save_minutes
                if late and status.step % steps:
                    session.save(checkpoints, state)
                    saved = time.monotonic()
                state = session.step(state, batch)
            session.end_epoch(state, epoch)
            session.save(checkpoints, state)
            saved = time.monotonic()
        checkpoints.wait()
        if interrupts.received is not None and devices.hosts == 1:
            raise Stopped(interrupts.received, status.step)  # a repeated call tests and exports
    return state


def _initial_state(job: TrainingJob, checkpoints: Checkpoints) -> tuple[State, TrainingStatus]:
    state = job.start()
    newest = checkpoints.newest
    if newest is None:
        return state, TrainingStatus()
    stored, status = checkpoints.restore(state, newest)
    return job.devices.share(stored), TrainingStatus(**status)


def _stop_requested(interrupts: Interrupts, step: int, recipe: Recipe, devices: Devices) -> bool:
    """Return whether to stop; several hosts agree on it, at every ``log_steps``-th step."""
    if devices.hosts == 1:
        return interrupts.received is not None
    if step % recipe.log_steps:
        return False
    return devices_module.any_host(interrupts.received is not None)


# -- results ---------------------------------------------------------------------------------------


def _finished(
    job: TrainingJob, checkpoints: Checkpoints, state: State, out: Path, test: TestChoice
) -> Result:
    """Export the best and the last network, read the test images, write the result."""
    checkpoints.wait()
    _, status = _stored(job, checkpoints, state, int(state.step))
    assert status.best_step is not None  # the last epoch is always validated
    best, _ = _stored(job, checkpoints, state, status.best_step)
    states = {"best": best, "last": state}
    weights = {name: _weights(job, s) for name, s in states.items()}
    epochs = tuple(line for line in read(out) if line["kind"] == "epoch")
    check_signals()
    if job.devices.leads:
        exporting.export(out, weights, job.identity.arch, job.data, job.recipe.augment)
    check_signals()
    tested = None if test == "none" else job.scores(states[test], job.data.test)
    result = Result(
        out=out,
        arch=job.identity.arch,
        recipe=job.recipe,
        seed=job.identity.seed,
        epochs=epochs,
        best_epoch=status.best_epoch,
        validation=_validation_of(epochs, status.best_epoch),
        tested="" if test == "none" else test,
        test=tested,
        params=sum(job.weights[name].size for name in job.net.params.names),
        steps=status.step,
        seconds=status.seconds,
        images_s=status.step * job.recipe.batch / max(status.seconds, 1e-9),
        compile_seconds=_compile_seconds(out),
        surroundings=run.surroundings(),
    )
    if job.devices.leads:
        result.save()
    return result


def _stored(
    job: TrainingJob, checkpoints: Checkpoints, like: State, at: int
) -> tuple[State, TrainingStatus]:
    stored, status = checkpoints.restore(like, at)
    return job.devices.share(stored), TrainingStatus(**status)


def _weights(job: TrainingJob, state: State) -> dict[str, NDArray[np.float32]]:
    params, stats = job.program.tested(state)
    weights = {**jax.device_get(params), **jax.device_get(stats)}
    names = onnx_export.names(job.identity.arch, job.identity.classes)
    return {name: np.ascontiguousarray(weights[name]) for name in names}


def _validation_of(epochs: Sequence[Mapping[str, Any]], epoch: int) -> Scores:
    (line,) = (e for e in epochs if e["epoch"] == epoch)
    start = "validation_"
    return Scores.from_data(
        {k.removeprefix(start): v for k, v in line.items() if k.startswith(start)}
    )


def _compile_seconds(out: Path) -> float:
    return float(sum(e["compile_seconds"] for e in run.entries(out / run.SESSIONS)))
