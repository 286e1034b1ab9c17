"""The training loop: one straight line from the first step to the exported model."""

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
from lcnas.training.job import Job, Weights, prepared
from lcnas.training.metrics import Log, Progress, read
from lcnas.training.recipes import Recipe
from lcnas.training.run import Result
from lcnas.training.session import Past, Session, memory
from lcnas.training.step import State
from lcnas.training.teachers import Teacher, TeacherFile

Chosen = Literal["best", "last", "none"]


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
    test: Chosen = "best",
    keep: int = 2,
    save_minutes: float = 10.0,
    devices: Devices | None = None,
    quiet: bool = False,
) -> Result:
    """Train a network and return what came out; the folder then holds models, metrics and the result.

    Called again with the same arguments after a kill, it goes on from the last stored state and ends with
    the same weights, bit for bit on a CPU. Called again when all is done, it returns the result.

    Args:
        network: an arch, whose weights are drawn from the seed, or a network with weights to go on from.
        data: what it learns from, see :func:`lcnas.training.load_data`.
        recipe: how.
        out: folder of the run; empty, or of this very run.
        seed: of the weights, the order of the images and all draws.
        init: weights to start from: by name, or a file of weights (:mod:`lcnas.models.pretrained`), whose
            last layer is drawn anew where its classes are others (another number, or other names).
        freeze: stages or blocks that keep their weights and statistics.
        teacher: whom the network learns from as well: an ONNX classifier or a file of weights of ours (a
            :class:`TeacherFile` says what the file does not: normalisation, size of the images).
        test: which network reads the test images at the end, once: that with the best validation accuracy,
            the last one, or none. A finished run that has not read them reads them now.
        keep: how many of the newest states are kept, beside the best.
        save_minutes: at most this long is lost; states are also stored at the end of each epoch.
        devices: that share each batch; None: all there are.
        quiet: says nothing.

    Raises:
        TrainingError: things that do not fit together, or a folder of another run.
        TrainingFailedError: a loss that is no number, no memory, no space.
        Stopped: by SIGTERM or Ctrl-C, after the state was stored.
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
        begun = run.check(out, job.identity)
        if begun and (out / run.RESULT).is_file():
            known = Result.load(out)
            if test in ("none", known.tested):
                return known
            if known.tested:
                raise TrainingError(
                    f"test: {out} has read the test images with its {known.tested} network; they are read "
                    f"once: give {known.tested}, or another folder"
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
    """Refuse what :func:`fit` would refuse, without training or writing anything."""
    devices = devices_module.find() if devices is None else devices
    job = prepared(network, data, recipe, seed, init, freeze, teacher, devices)
    run.check(Path(out), job.identity)


# -- the line --------------------------------------------------------------------------------------


def _train(
    job: Job, checkpoints: Checkpoints, out: Path, save_minutes: float, quiet: bool
) -> State:
    """Train to the end, from the start or from the newest stored state, and return the last state."""
    state, past = _begun(job, checkpoints)
    recipe, devices, steps = job.recipe, job.devices, job.length.epoch_steps
    tell = devices.leads and not quiet
    with (
        Interrupts() as interrupts,
        Log(out, past.step, devices.leads) as log,
        Progress(job.length.total_steps, past.step, tell) as progress,
    ):
        for note in job.notes:
            progress.say(note)
        session = Session(job, log, progress, out, past)
        saved = time.monotonic()
        for epoch in range(past.step // steps, recipe.epochs):
            batches = job.data.train.batches(
                recipe.batch, seed=job.identity.seed, epoch=epoch, start=past.step % steps
            )
            for batch in batches:
                if _asked(interrupts, past.step, recipe, devices):
                    session.save(checkpoints, state)
                    checkpoints.wait()
                    raise Stopped(interrupts.received or 15, past.step)
                late = devices.hosts == 1 and time.monotonic() - saved > 60 * save_minutes
                if late and past.step % steps:
                    session.save(checkpoints, state)
                    saved = time.monotonic()
                state = session.step(state, batch)
            session.end_epoch(state, epoch)
            session.save(checkpoints, state)
            saved = time.monotonic()
        checkpoints.wait()
        if interrupts.received is not None and devices.hosts == 1:
            raise Stopped(interrupts.received, past.step)  # the same command tests and exports
    return state


def _begun(job: Job, checkpoints: Checkpoints) -> tuple[State, Past]:
    state = job.start()
    newest = checkpoints.newest
    if newest is None:
        return state, Past()
    stored, past = checkpoints.restore(state, newest)
    return job.devices.share(stored), Past(**past)


def _asked(interrupts: Interrupts, step: int, recipe: Recipe, devices: Devices) -> bool:
    """Return whether to stop; several hosts agree on it, at steps where all ask."""
    if devices.hosts == 1:
        return interrupts.received is not None
    if step % recipe.log_steps:
        return False
    return devices_module.any_host(interrupts.received is not None)


# -- the end ---------------------------------------------------------------------------------------


def _finished(job: Job, checkpoints: Checkpoints, state: State, out: Path, test: Chosen) -> Result:
    """Export the best and the last network, read the test images, write the result."""
    checkpoints.wait()
    _, past = _stored(job, checkpoints, state, int(state.step))
    assert past.best_step is not None  # the last epoch is always looked at
    best, _ = _stored(job, checkpoints, state, past.best_step)
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
        best_epoch=past.best_epoch,
        validation=_validation_of(epochs, past.best_epoch),
        tested="" if test == "none" else test,
        test=tested,
        params=sum(job.weights[name].size for name in job.net.params.names),
        steps=past.step,
        seconds=past.seconds,
        images_s=past.step * job.recipe.batch / max(past.seconds, 1e-9),
        compile_seconds=_compile_seconds(out),
        surroundings=run.surroundings(),
    )
    if job.devices.leads:
        result.save()
    return result


def _stored(job: Job, checkpoints: Checkpoints, like: State, at: int) -> tuple[State, Past]:
    stored, past = checkpoints.restore(like, at)
    return job.devices.share(stored), Past(**past)


def _weights(job: Job, state: State) -> dict[str, NDArray[np.float32]]:
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
