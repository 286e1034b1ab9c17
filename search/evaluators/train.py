"""Accuracy after a short training from scratch: the plainest evaluator, and the dearest.

Each network is trained by the steps of :mod:`lcnas.training`, at a size of the evaluator's instead of that of
its deployment, and validated as the ONNX graph that it would leave as: onnxruntime compiles nothing, where
XLA would take seconds for each network. Nothing is stored.
"""

from __future__ import annotations

import functools
import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution
from lcnas.errors import LcnasError, TrainingFailedError, shorten
from lcnas.training.recipes import Recipe
from search.evaluators.base import Candidate, Evaluation
from search.packed import PackedImages, unpack
from search.trials import Trial

if TYPE_CHECKING:
    from lcnas.onnx_export import Classifier
    from lcnas.training.augment import Augment
    from lcnas.training.data import Normalization, Test, Validation
    from lcnas.training.job import TrainingJob
    from lcnas.training.step import State, StepReport

_BATCH = 256  # images validated at once
_AHEAD = 4  # steps that may be under way before one is waited for
_CLEARED = 10  # networks after which JAX forgets what it has compiled
_TRIES = 2  # of a network for which memory did not suffice


@dataclass(frozen=True)
class Spec:
    """How networks are trained."""

    train_size: Resolution  # pixels that they are trained and validated at
    recipe: Recipe  # its own sizes do not count
    seed: int = 0  # with a candidate's number, of all its draws
    cache: str | None = None  # folder of compiled programs; None: nothing is kept


def create(spec: Spec, images: PackedImages) -> Evaluator:
    """Return the evaluator, to be used in this process.

    Raises:
        DataError: a batch of the recipe is more than the images.
        TrainingFailedError: the recipe needs a teacher.
    """
    return Evaluator(spec, images)


class Evaluator:
    """Trains each network for a short while."""

    def __init__(self, spec: Spec, images: PackedImages) -> None:
        sizes = {"resolution": spec.train_size, "train_resolution": None}
        self.recipe = spec.recipe.override(sizes)
        self.spec = spec
        self.done = 0  # networks that were tried
        self.data = unpack(images)
        self.data.train.steps(self.recipe.batch)
        if self.recipe.needs_teacher:
            raise TrainingFailedError(
                f"evaluator train: the recipe {self.recipe.name} needs a teacher, and there is none here"
            )
        keep_programs(spec.cache)

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Return an evaluation for each candidate."""
        return [self._evaluated(candidate) for candidate in candidates]

    def _evaluated(self, candidate: Candidate) -> Evaluation:
        began = time.monotonic()
        reason = ""
        for _ in range(_TRIES):
            found = self._attempted(candidate)
            self._tidy()
            if isinstance(found, _Course):
                return found.evaluation(time.monotonic() - began)
            reason = str(found)
            if not isinstance(found, _OutOfMemoryError):
                break
            forget_programs()
        return Evaluation(None, reason, time.monotonic() - began)

    def _tidy(self) -> None:
        """Free what a network has left: by itself some MB of programs that no other network will use."""
        self.done += 1
        if self.done % _CLEARED == 0:
            forget_programs()
        gc.collect()

    def _attempted(self, candidate: Candidate) -> _Course | LcnasError:
        """Return the finished training, or why it failed."""
        import jax

        try:
            course = _Course()
            course.run(self._job(candidate), candidate.stop_below)
        except LcnasError as error:
            return error
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            # Only the text is kept: the error itself holds on to all that memory was taken for.
            words = str(error).partition("\n")[0]
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in words:
                return _OutOfMemoryError("out of memory, twice")
            return TrainingFailedError(f"JAX: {shorten(words, 200)}")
        return course

    def _job(self, candidate: Candidate) -> TrainingJob:
        from lcnas.training.devices import Devices
        from lcnas.training.job import prepared

        check_size(candidate.arch, self.spec.train_size, self.data.classes)
        seed = draw_seed(self.spec.seed, candidate.number, candidate.attempt)
        return prepared(candidate.arch, self.data, self.recipe, seed, None, (), None, Devices(None))


class _OutOfMemoryError(LcnasError):
    """Memory did not suffice."""


def draw_seed(seed: int, number: int, attempt: int = 0) -> int:
    """Return the seed of a candidate's draws, 0 to 2^31 - 1; those of a second attempt are others."""
    words = [seed, number, attempt] if attempt else [seed, number]
    (word,) = np.random.SeedSequence(words).generate_state(1)
    return int(word) >> 1


def check_size(arch: Arch, size: Resolution, classes: int) -> None:
    """Refuse a network that cannot be trained at another size than that of its deployment.

    Raises:
        TrainingFailedError: its weights would be others there.
    """
    from lcnas import onnx_export

    if onnx_export.names(arch.at(size), classes) != onnx_export.names(arch, classes):
        raise TrainingFailedError(
            f"its head does not pool, so it cannot be trained at {size} instead of {arch.resolution} pixels"
        )


# -- a training ------------------------------------------------------------------------------------


@dataclass
class _Course:
    """One network's training, epoch after epoch."""

    curve: list[float] = field(default_factory=list)  # validation accuracy after each epoch
    stopped: int | None = None  # epochs after which it was given up
    compile_seconds: float = 0.0  # the first step included
    train_seconds: float = 0.0  # the other steps
    evaluate_seconds: float = 0.0
    images: int = 0  # of the other steps

    def run(self, job: TrainingJob, stop_below: Sequence[float]) -> None:
        """Train to the end, or until it is given up."""
        state = job.start()
        for epoch in range(job.recipe.epochs):
            state = self._epoch(job, state, epoch)
            began = time.monotonic()
            self.curve.append(accuracy(job, state))
            self.evaluate_seconds += time.monotonic() - began
            if epoch + 1 < job.recipe.epochs and _hopeless(self.curve[-1], stop_below, epoch):
                self.stopped = epoch + 1
                break

    def _epoch(self, job: TrainingJob, state: State, epoch: int) -> State:
        first = epoch * job.length.epoch_steps
        began = time.monotonic()
        flying: deque[StepReport] = deque()
        batches = job.data.train.batches(job.recipe.batch, seed=job.identity.seed, epoch=epoch)
        for number, batch in enumerate(batches, first):
            state, report = job.step(state, number, batch)
            if number == 0:
                report.norm.block_until_ready()
                self.compile_seconds = time.monotonic() - began
                began = time.monotonic()
            flying.append(report)
            if len(flying) > _AHEAD:
                flying.popleft().norm.block_until_ready()
        _check_loss(flying[-1], epoch)
        self.train_seconds += time.monotonic() - began
        self.images += (job.length.epoch_steps - (epoch == 0)) * job.recipe.batch
        return state

    def evaluation(self, seconds: float) -> Evaluation:
        """Return what came out."""
        details: dict[str, Any] = {
            "curve": self.curve,
            "epochs": len(self.curve),
            "images_s": round(self.images / max(self.train_seconds, 1e-9), 1),
            "compile_seconds": round(self.compile_seconds, 3),
            "train_seconds": round(self.train_seconds, 3),
            "evaluate_seconds": round(self.evaluate_seconds, 3),
        }
        if self.stopped is not None:
            details["stopped"] = self.stopped
        return Evaluation(self.curve[-1], "", seconds, details)


def _check_loss(last: StepReport, epoch: int) -> None:
    loss = float(last.epoch.loss) / max(int(last.epoch.steps), 1)
    if not math.isfinite(loss):
        raise TrainingFailedError(f"the loss is {loss} in epoch {epoch + 1}")


def _hopeless(found: float, stop_below: Sequence[float], epoch: int) -> bool:
    return epoch < len(stop_below) and found < stop_below[epoch]


# -- validation ------------------------------------------------------------------------------------


def accuracy(job: TrainingJob, state: State) -> float:
    """Return the share of validation images that a state's network gets right, as an ONNX graph."""
    import jax

    from lcnas import onnx_export

    params, stats = job.program.tested(state)
    found = {**jax.device_get(params), **jax.device_get(stats)}
    arch, classes = job.identity.arch, job.identity.classes
    weights = {name: np.ascontiguousarray(found[name]) for name in onnx_export.names(arch, classes)}
    model = onnx_export.export(arch, weights=weights, classes=classes, batch=None, check=False)
    view = (job.recipe.augment, job.data.normalization)
    return float(right(onnx_export.Classifier.of(model), *view, job.data.validation).mean())


def right(
    classifier: Classifier,
    augment: Augment,
    normalization: Normalization,
    split: Validation | Test,
) -> NDArray[np.bool_]:
    """Return which images of a split a classifier gets right, in order, (n,).

    It sees what :mod:`lcnas.training.evaluation` would show it; of equal logits the first one counts.

    Args:
        classifier: an ONNX file.
        augment: decides how much of an image is seen.
        normalization: of the set that it was trained on.
        split: the validation or the test images.
    """
    made = [np.zeros(0, bool)]
    for x, labels in views(classifier, augment, normalization, split):
        made.append(classifier.logits(x).argmax(axis=1) == labels)
    return np.concatenate(made)


def views(
    classifier: Classifier, augment: Augment, normalization: Normalization, split: Validation | Test
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Yield the images of a split as :func:`right` shows them, normalised, with their labels.

    Args:
        classifier: whose size counts.
        augment, normalization, split: as of :func:`right`.
    """
    view = _view(augment.evaluate_crop, classifier.size, normalization)
    for batch in split.batches(_BATCH):
        x = np.asarray(view(batch.images, batch.aspect))
        yield x[batch.mask], batch.labels[batch.mask]


@functools.lru_cache(maxsize=4)
def _view(crop: float, size: tuple[int, int], normalization: Normalization) -> Callable[..., Any]:
    """Return the compiled preparation of images, one for all networks."""
    import jax

    from lcnas.training.augment import Augment

    augment = Augment(evaluate_crop=crop)
    return jax.jit(
        lambda images, aspect: augment.evaluate(
            images, size=size, normalization=normalization, aspect=aspect
        )
    )


# -- what is given up ------------------------------------------------------------------------------


def stopping(
    trials: Sequence[Trial],
    edges: Sequence[float],
    latency_ms: float,
    *,
    quantile: float = 0.5,
    least: int = 5,
) -> tuple[float, ...]:
    """Return the accuracy after each epoch below which a new network is to be given up; (): never.

    The median stopping rule (Golovin et al. 2017, "Google Vizier", section 3.2.2): a network goes on as long
    as it is not worse than the median, over finished trainings, of the mean accuracy up to the same epoch.
    Only trainings of the same latency band count, so that fast networks are not measured by slow ones. After
    the first epoch, which says little, and after the last nothing is given up.

    Args:
        trials: what is known; those that failed or were given up do not count.
        edges: of the latency bands, ms, rising, (bands + 1,).
        latency_ms: of the new network.
        quantile: which one of them, 0.5 for the median; lower ones give up fewer networks.
        least: finished trainings in the band before any network is given up.
    """
    band = _band(edges, latency_ms)
    curves = [c for t in trials if _band(edges, t.latency_ms) == band and (c := _finished(t))]
    length = max(map(len, curves), default=0)
    whole = [c for c in curves if len(c) == length]
    if len(whole) < least or length < 3:
        return ()
    means = np.cumsum(whole, axis=1) / np.arange(1, length + 1)
    found = np.quantile(means, quantile, axis=0)
    return (0.0, *map(float, found[1:-1]), 0.0)


def _band(edges: Sequence[float], latency_ms: float) -> int:
    """Return the band of a latency; what lies outside belongs to the nearest one."""
    return int(np.searchsorted(np.asarray(edges)[1:-1], latency_ms, side="right"))


def _finished(trial: Trial) -> list[float]:
    """Return a trial's curve, empty where it has none to its end."""
    if trial.failed or trial.details.get("stopped") is not None:
        return []
    return [float(v) for v in trial.details.get("curve", ())]


# -- compiled programs -----------------------------------------------------------------------------


def forget_programs() -> None:
    """Let JAX forget what it has compiled; what is used again is compiled again, the smallest parts too."""
    import jax

    jax.clear_caches()  # type: ignore[no-untyped-call]


class CompileClock:
    """Counts the seconds that JAX compiles in this process, or reads what was compiled before."""

    def __init__(self) -> None:
        from jax import monitoring

        self.seconds = 0.0
        monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            self.seconds += duration_secs


_COMPILED = "/jax/core/compile/backend_compile_duration"  # of JAX's own events


@functools.cache
def compile_clock() -> CompileClock:
    """Return this process's clock."""
    return CompileClock()


def keep_programs(folder: str | None) -> None:
    """Let JAX keep compiled programs in a folder; the same network and recipe then compile once.

    Args:
        folder: where; each processor and compiler has a folder of its own in it. None: nothing changes.
    """
    if folder is None:
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from lcnas.training.devices import programs_folder

    chosen = str(programs_folder(Path(folder)))
    config: Any = jax.config
    if config.jax_compilation_cache_dir != chosen:
        config.update("jax_compilation_cache_dir", chosen)
        compilation_cache.reset_cache()  # it looks for the folder only once
