"""Training a supernet, and asking it how good its networks are.

Each step trains the largest network on the labels, and the smallest and a few drawn ones on what the largest
says of the same images: the sandwich rule and in-place distillation (Yu and Huang 2019, "Universally
Slimmable Networks and Improved Training Techniques", arXiv 1903.05134). Their gradients are added up, as
there. Only the largest has dropout (Yu et al. 2020, BigNAS, arXiv 2003.11142). The others may learn from the
labels too, as in Once-for-all (Cai et al. 2020, arXiv 1908.09791).

A program is compiled once for each width bucket: the gradient of a network in it, its batch-norm
statistics, its answers. How networks differ is a handful of whole numbers that the program is given.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

import lcnas
from lcnas import blocks
from lcnas.arch import Arch
from lcnas.errors import TrainingError, shorten
from lcnas.models.supernet import Active, Bucket, Drop, Supernet, stacked
from lcnas.spaces import Space
from lcnas.training import ema, losses, optimizers, run, schedules, views
from lcnas.training.augment import Augment
from lcnas.training.checkpoints import Checkpoints
from lcnas.training.data import Data, Normalization, Train, Validation, require
from lcnas.training.interrupts import Interrupts, Stopped
from lcnas.training.recipes import Recipe
from lcnas.training.session import check_loss, memory
from lcnas.training.step import Length, State, Sums, zero

Array = jax.Array
Weights = dict[str, Array]
Draw = Callable[[np.random.Generator, int], NDArray[np.int64]]  # (rng, n) -> codes (n, genes)

LABELS = 0.0  # share of labels in what all but the largest network learn from
VERSION = 1  # of what training does: a change of it makes stored supernets others
WEIGHTS, ABOUT = "supernet.safetensors", "supernet.json"
CALIBRATION = 512  # training images that batch-norm statistics are taken over
BATCH = 256  # images at once in calibration and evaluation


@dataclass(frozen=True)
class Moment:
    """How far a training is."""

    step: int  # steps done
    total: int
    loss: float  # of the largest network, over the last steps
    accuracy: float  # the same, share of 1
    images_s: float  # images a second; each is seen by all networks of its step
    seconds: float  # of all steps so far, without compiling

    def __str__(self) -> str:
        return (
            f"supernet: step {self.step}/{self.total}  loss {self.loss:.4f}, accuracy "
            f"{self.accuracy:.1%}, {self.images_s:,.0f} images/s"
        )


@dataclass(frozen=True)
class Trained:
    """A trained supernet: what ``supernet.json`` and ``supernet.safetensors`` of a folder hold."""

    supernet: Supernet
    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    about: Mapping[str, Any]  # steps, seconds, compile_seconds, images_s, loss, accuracy, init, ...

    def save(self, folder: Path) -> None:
        """Write both files, each beside its place and then renamed."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(w) for name, w in self.weights.items()}
        beside = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
        beside.write_bytes(save(arrays))
        beside.replace(folder / WEIGHTS)
        about = {"format": "lcnas-supernet", "version": VERSION, "about": dict(self.about)}
        text = json.dumps({**about, "supernet": self.supernet.to_data()}, indent=1)
        run.write(folder / ABOUT, text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Trained:
        """Return the supernet of a folder.

        Raises:
            TrainingError: there is none, or one of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = Path(folder) / ABOUT
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if (data["format"], data["version"]) != ("lcnas-supernet", VERSION):
                raise TrainingError(f"{path}: is no supernet of version {VERSION}")
            supernet = Supernet.from_data(data["supernet"])
            weights = load((Path(folder) / WEIGHTS).read_bytes())
            about = data["about"]
        except OSError as error:
            raise TrainingError(f"{error.filename}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, lcnas.errors.LcnasError):
                raise
            raise TrainingError(f"{path}: no supernet: {shorten(str(error))}") from None
        return cls(supernet, check_weights(supernet, weights), about)


def check_weights(supernet: Supernet, weights: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return a supernet's weights in order.

    Raises:
        TrainingError: one is missing, or of another shape.
    """
    for name, shape in supernet.params.items():
        if name not in weights or tuple(weights[name].shape) != tuple(shape):
            raise TrainingError(f"supernet: {name!r} is missing or not of the shape {shape}")
    return {name: np.asarray(weights[name], np.float32) for name in supernet.params}


# -- what a training is a training of --------------------------------------------------------------


def content_id(
    supernet: Supernet,
    space: Space,
    recipe: Recipe,
    *,
    data: str,
    seed: int,
    random: int = 2,
    labels: float = LABELS,
    draws: str = "",
    init: str = "",
) -> str:
    """Return 20 hex digits for a supernet and how it is trained: equal ones need no second training.

    Args:
        supernet: what is trained.
        space: restricted as it is searched.
        recipe: how.
        data: fingerprint of the images, their split and their normalisation.
        seed: of all draws.
        random: networks drawn a step.
        labels: share of them in what all but the largest network learn from.
        draws: what they are drawn from, in words that tell budgets apart.
        init: fingerprint of the weights that it starts from; "": drawn.
    """
    genes = [[gene.name, [_plain(choice) for choice in gene.choices]] for gene in space.genes]
    content = {
        "version": [lcnas.__version__, VERSION],
        "supernet": supernet.to_data(),
        "space": [str(space.size), genes, list(space.rule_texts)],
        "recipe": {k: v for k, v in recipe.to_data().items() if k != "name"},
        "training": [data, seed, random, labels, draws, init],
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _plain(choice: Any) -> Any:
    return blocks.to_data(choice) if isinstance(choice, blocks.Block) else choice


# -- the compiled parts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """The compiled parts of a training: images, one gradient a bucket, the step of the optimiser."""

    start: Callable[[Weights], State]
    prepare: Callable[..., tuple[Array, Array]]  # step, images, labels, aspects -> x, targets
    gradients: tuple[Callable[..., tuple[Weights, Array, Array]], ...]  # one a bucket
    taught: Callable[[Array, Array], Array]  # targets, what the largest says -> others' targets
    update: Callable[..., tuple[State, Sums, Weights]]


def build(
    supernet: Supernet, recipe: Recipe, length: Length, view: Any, seed: int, labels: float = LABELS
) -> Program:
    """Return the program of a training.

    Args:
        supernet: what is trained.
        recipe: how.
        length: of the training.
        view: ``(images, labels, aspects, key, first) -> (x, targets)``.
        seed: of all draws.
        labels: share of them in what all but the largest network learn from.
    """
    optimizer = optimizers.build(recipe, supernet.params)

    def start(weights: Weights) -> State:
        # A copy: the same memory cannot be given away twice.
        average = {name: w + 0.0 for name, w in weights.items()} if recipe.ema else {}
        state = optimizer.init(weights)
        made = State(np.zeros((), np.int32), weights, {}, state, average, zero(), zero())
        return State(*jax.tree.map(jnp.asarray, made))

    def prepare(step: Array, images: Array, labels: Array, aspect: Array) -> tuple[Array, Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        x, targets = view(images, labels, aspect, key, np.int32(0))
        return x, losses.smoothed(targets, recipe.label_smoothing)

    def taught(targets: Array, soft: Array) -> Array:
        return labels * targets + (1 - labels) * soft

    gradient = functools.partial(_gradient, supernet, seed)
    return Program(
        start,
        jax.jit(prepare),
        tuple(
            jax.jit(functools.partial(gradient, bucket), donate_argnums=1)
            for bucket in supernet.buckets
        ),
        jax.jit(taught),
        jax.jit(functools.partial(_update, optimizer, recipe, length), donate_argnums=(0, 1)),
    )


def _gradient(
    supernet: Supernet,
    seed: int,
    bucket: Bucket,
    weights: Weights,
    total: Weights,
    active: Active,
    images: Array,
    targets: Array,
    step: Array,
    dropout: Array,
) -> tuple[Weights, Array, Array]:
    """Return the gradients so far and one network's added, its probabilities, and its loss.

    Args:
        supernet: what is trained.
        seed: of the dropout.
        bucket: in which the network runs.
        weights: of the supernet.
        total: gradients so far.
        active: the network.
        images: (n, height, width, 3).
        targets: (n, classes), of labels, of the largest network, or of both.
        step: (), int32.
        dropout: (), 1.0 where there is any.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    drop = Drop(jax.random.fold_in(key, 1), dropout)

    def loss(weights: Weights) -> tuple[Array, Array]:
        logits, _ = supernet.apply(weights, None, active, images, bucket=bucket, dropout=drop)
        return jnp.mean(losses.cross_entropy(logits, targets)), logits

    # Of the bucket's slices alone: what lies outside gets no gradient.
    (value, logits), found = jax.value_and_grad(loss, has_aux=True)(bucket.of(weights))
    added = {name: _added(total[name], g) for name, g in found.items()}
    return added, jax.nn.softmax(logits, axis=-1), value


def _added(total: Array, part: Array) -> Array:
    """Return the sum of an array and of one that lies at its front."""
    if total.shape == part.shape:
        return total + part
    pads = [(0, whole - n, 0) for whole, n in zip(total.shape, part.shape, strict=True)]
    return total + jax.lax.pad(part, jnp.zeros((), part.dtype), pads)


def _update(
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    length: Length,
    state: State,
    gradients: Weights,
    loss: Array,
    soft: Array,
    targets: Array,
) -> tuple[State, Sums, Weights]:
    """Return the state after a step, the sums since the last line, and the gradients' zeros for the next."""
    at = state.step.astype(jnp.float32)
    rate = schedules.warmup_cosine(
        at,
        peak=recipe.learning_rate,
        final=recipe.final_learning_rate,
        warmup_steps=length.warmup_steps,
        total_steps=length.total_steps,
    )
    weights, kept = optimizers.apply(optimizer, gradients, state.optimizer, state.params, rate)
    average = state.average
    if average:
        average = ema.update(average, weights, ema.decay_at(at, recipe.ema))
    has_label = jnp.sum(targets, axis=-1) > 0
    right = (jnp.argmax(soft, axis=-1) == jnp.argmax(targets, axis=-1)) & has_label
    count = functools.partial(jnp.sum, dtype=jnp.int32)
    now = Sums(loss, count(right), count(has_label), jnp.ones((), jnp.int32))
    fresh = state.step % recipe.log_steps == 0
    window = Sums(*(jnp.where(fresh, 0, a) + b for a, b in zip(state.window, now, strict=True)))
    new = State(state.step + 1, weights, {}, kept, average, state.epoch, window)
    return new, window, jax.tree.map(jnp.zeros_like, gradients)


# -- training --------------------------------------------------------------------------------------


def train(
    supernet: Supernet,
    space: Space,
    data: Data,
    recipe: Recipe,
    out: str | Path,
    *,
    draw: Draw,
    draws: str = "",
    seed: int = 0,
    random: int = 2,
    labels: float = LABELS,
    init: Mapping[str, Any] | None = None,
    told: str = "",
    save_minutes: float = 5.0,
    progress: Callable[[Moment], None] | None = None,
) -> Trained:
    """Train a supernet, or return what the folder holds if it is there already.

    Called again after a kill, it goes on from the last stored state and ends with the same weights.

    Args:
        supernet: what is trained, at its resolution.
        space: the space that it is of.
        data: images; only the training ones are read.
        recipe: how; its epochs are of the training images, its resolutions are not looked at.
        out: folder; name it by :func:`content_id` to use it again.
        draw: gives the codes of networks, such as ``lambda rng, n: budget.sample_codes(n, rng, bands=8)``.
        draws: what it draws from, in words.
        seed: of the weights, the order of the images and all draws.
        random: networks drawn a step, beside the largest and the smallest.
        labels: share of them, 0 to 1, in what all but the largest network learn from; the rest is what the
            largest says. 0 is in-place distillation alone.
        init: weights to start from (:meth:`Supernet.started`); None: drawn.
        told: about these weights, for the record.
        save_minutes: at most this long is lost.
        progress: told every ``recipe.log_steps`` steps and at the end.

    Raises:
        TrainingError: things that do not fit together, or a folder of another training.
        TrainingFailedError: a loss that is no number, no memory, no space.
        Stopped: by SIGTERM or Ctrl-C, after the state was stored.
    """
    out = Path(out)
    recipe = dataclasses.replace(recipe, resolution=None, train_resolution=None)
    _check(supernet, data, recipe, random, labels)
    identity = content_id(
        supernet,
        space,
        recipe,
        data=fingerprint(data),
        seed=seed,
        random=random,
        labels=labels,
        draws=draws,
        init="" if init is None else run.fingerprint(init),
    )
    with run.locked(out):
        if _begun(out, identity):
            return Trained.load(out)
        job = _Job(supernet, space, data, recipe, seed, draw, random, labels, init)
        with Checkpoints(out / "checkpoints") as checkpoints, memory(recipe):
            state, past = job.run(checkpoints, save_minutes, progress)
        trained = Trained(
            supernet,
            job.weights(state),
            {**past.about(recipe, random), "labels": labels, "init": told},
        )
        trained.save(out)
    return trained


def fingerprint(data: Data) -> str:
    """Return what tells data apart: the images, their split and normalisation."""
    constants = data.normalization
    shown = ",".join(f"{v:.9g}" for v in (*data.size, *constants.mean, *constants.std))
    return f"{data.fingerprint}/{shown}"


def _check(supernet: Supernet, data: Data, recipe: Recipe, random: int, labels: float) -> None:
    require(data.train, Train)
    if data.classes != supernet.classes:
        raise TrainingError(
            f"supernet: it has {supernet.classes} classes, the data have {data.classes}"
        )
    for name, only in (("accumulate", 1), ("precision", "float32")):
        if getattr(recipe, name) != only:
            raise TrainingError(
                f"recipe: {name}: a supernet trains with {only} only, got {getattr(recipe, name)}"
            )
    if random < 0:
        raise TrainingError(f"random: {random} is less than 0")
    if not 0 <= labels <= 1:
        raise TrainingError(f"labels: {labels:g} is no share of 0 to 1")


_IDENTITY = "identity.json"


def _begun(out: Path, identity: str) -> bool:
    """Return whether the folder holds the finished supernet; begin it where it holds nothing."""
    path = out / _IDENTITY
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8")).get("id")
        if found != identity:
            raise TrainingError(
                f"supernet: {out} holds another training ({found}, not {identity}); give another folder"
            )
        return (out / ABOUT).is_file()
    run.write(path, json.dumps({"id": identity}) + "\n")
    return False


@dataclass
class _Past:
    """What has been done, with each stored state."""

    step: int = 0
    seconds: float = 0.0  # of steps, without compiling
    compile_seconds: float = 0.0  # first runs included
    loss: float = math.nan
    accuracy: float = math.nan

    def about(self, recipe: Recipe, random: int) -> dict[str, Any]:
        """Return what is told of a finished training."""
        return {
            **dataclasses.asdict(self),
            "epochs": recipe.epochs,
            "images_s": self.images_s(recipe),
            "networks_a_step": 2 + random,
            **run.surroundings(),
        }

    def images_s(self, recipe: Recipe) -> float:
        return self.step * recipe.batch / max(self.seconds, 1e-9)


@dataclass
class _Job:
    """One process's part of a training."""

    supernet: Supernet
    space: Space
    data: Data
    recipe: Recipe
    seed: int
    draw: Draw
    random: int
    labels: float
    init: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        self.length = Length.of(self.recipe, self.data.train.steps(self.recipe.batch))
        view = views.training(self.recipe, self.supernet.arch, self.data)
        self.program = build(self.supernet, self.recipe, self.length, view, self.seed, self.labels)
        self.known: set[Any] = set()  # programs that have run

    def start(self) -> State:
        given = self.supernet.init(self.seed) if self.init is None else self.init
        checked = check_weights(self.supernet, given)
        return self.program.start({name: jnp.asarray(w) for name, w in checked.items()})

    def zeros(self, state: State) -> Weights:
        """Return gradients of nothing."""
        made: Weights = jax.tree.map(jnp.zeros_like, dict(state.params))
        return made

    def weights(self, state: State) -> dict[str, NDArray[np.float32]]:
        """Return the weights that are evaluated: their average where the recipe has one."""
        found = jax.device_get(state.average or state.params)
        return check_weights(self.supernet, found)

    def run(
        self,
        checkpoints: Checkpoints,
        save_minutes: float,
        progress: Callable[[Moment], None] | None,
    ) -> tuple[State, _Past]:
        """Train to the end, from the start or from the newest stored state."""
        state, past = self.start(), _Past()
        if checkpoints.newest is not None:
            stored, told = checkpoints.restore(state, checkpoints.newest)
            state, past = jax.tree.map(jnp.array, stored), _Past(**told)
        zeros = self.zeros(state)
        saved = time.monotonic()
        with Interrupts() as interrupts:
            for arrays in self._batches(past.step):
                if interrupts.received is not None:
                    self._save(checkpoints, state, past)
                    checkpoints.wait()
                    raise Stopped(interrupts.received, past.step)
                state, window, zeros = self._timed(past, state, zeros, arrays)
                if past.step % self.recipe.log_steps == 0 or past.step == self.length.total_steps:
                    self._tell(past, window, progress)
                if time.monotonic() - saved > 60 * save_minutes:
                    self._save(checkpoints, state, past)
                    saved = time.monotonic()
        if past.step:
            self._save(checkpoints, state, past)
        return state, past

    def _batches(self, done: int) -> Iterator[tuple[Any, ...]]:
        steps = self.length.epoch_steps
        for epoch in range(done // steps, self.recipe.epochs):
            start = done % steps if epoch == done // steps else 0
            for batch in self.data.train.batches(
                self.recipe.batch, seed=self.seed, epoch=epoch, start=start
            ):
                yield views.arrays(batch)

    def _timed(
        self, past: _Past, state: State, zeros: Weights, arrays: Sequence[Any]
    ) -> tuple[State, Sums, Weights]:
        """Take a step, and tell apart what compiling takes."""
        began, compiling = time.monotonic(), past.compile_seconds
        made = self._step(past, state, zeros, arrays)
        made[1].loss.block_until_ready()
        past.step += 1
        past.seconds += time.monotonic() - began - (past.compile_seconds - compiling)
        return made

    def _step(
        self, past: _Past, state: State, total: Weights, arrays: Sequence[Any]
    ) -> tuple[State, Sums, Weights]:
        program, step = self.program, np.int32(past.step)
        images, targets = self._ran(past, program.prepare, step, *arrays)
        first, *others = self._networks(past.step)
        total, soft, loss = self._gradient(past, state, total, first, images, targets, step, 1.0)
        taught = self._ran(past, program.taught, targets, soft)
        for active in others:
            total, _, _ = self._gradient(past, state, total, active, images, taught, step, 0.0)
        made: tuple[State, Sums, Weights] = self._ran(
            past, program.update, state, total, loss, soft, targets
        )
        return made

    def _networks(self, step: int) -> list[Active]:
        """Return the networks of a step: the largest, the smallest, and those drawn."""
        rng = np.random.default_rng((self.seed, step))
        codes = self.draw(rng, self.random) if self.random else np.zeros((0, 0), np.int64)
        drawn = [self.supernet.active(arch) for arch in self.space.decode(codes)]
        return [self.supernet.largest(), self.supernet.smallest(), *drawn]

    def _gradient(
        self,
        past: _Past,
        state: State,
        total: Weights,
        active: Active,
        images: Array,
        targets: Array,
        step: Any,
        dropout: float,
    ) -> tuple[Weights, Array, Array]:
        number = self.supernet.bucket_of(active).number
        made: tuple[Weights, Array, Array] = self._ran(
            past,
            self.program.gradients[number],
            state.params,
            total,
            active,
            images,
            targets,
            step,
            np.float32(dropout),
        )
        return made

    def _ran(self, past: _Past, program: Callable[..., Any], *args: Any) -> Any:
        """Return what a program gives; the first time of each is counted as compiling."""
        if program in self.known:
            return program(*args)
        self.known.add(program)
        began = time.monotonic()
        made = program(*args)
        jax.tree.leaves(made)[-1].block_until_ready()
        past.compile_seconds += time.monotonic() - began
        return made

    def _tell(self, past: _Past, window: Sums, progress: Callable[[Moment], None] | None) -> None:
        sums = jax.device_get(window)
        past.loss = float(sums.loss) / max(int(sums.steps), 1)
        past.accuracy = int(sums.correct) / max(int(sums.labelled), 1)
        check_loss(past.loss, past.step, self.recipe, self.length)
        if progress is not None:
            images_s = past.images_s(self.recipe)
            total = self.length.total_steps
            progress(Moment(past.step, total, past.loss, past.accuracy, images_s, past.seconds))

    def _save(self, checkpoints: Checkpoints, state: State, past: _Past) -> None:
        sums = jax.device_get(state.window)
        check_loss(float(sums.loss), past.step, self.recipe, self.length)
        checkpoints.save(state, dataclasses.asdict(past), None)


# -- how good its networks are ---------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How a network did with the supernet's weights."""

    accuracy: float  # on validation images, share of 1
    loss: float  # mean cross entropy, nats
    bucket: int  # in which it ran


class Scorer:
    """Tells how good networks are with a supernet's weights.

    Batch-norm statistics are taken anew for each network, over some training images that are the same for
    all; then it answers the validation images. Both are compiled once a bucket.
    """

    def __init__(
        self,
        supernet: Supernet,
        weights: Mapping[str, Any],
        train: Train,
        validation: Validation,
        normalization: Normalization,
        *,
        augment: Augment | None = None,
        calibration: int = CALIBRATION,
        batch: int = BATCH,
        together: int = 1,
    ) -> None:
        """Put images and weights on the device.

        Args:
            supernet: whose networks are asked.
            weights: of it.
            train: of which statistics are taken.
            validation: what is answered.
            normalization: of the set that the weights were trained on.
            augment: decides how much of an image is seen; None: the middle, as of 256 pixels 224.
            calibration: training images for the statistics, at most.
            batch: images at once.
            together: networks that run at once (``jax.vmap``); 1 is fastest on a CPU, where blocks that a
                network lacks are then not computed.
        """
        train, validation = require(train, Train), require(validation, Validation)
        self.supernet = supernet
        self.together = together
        self._see = views.testing(augment or Augment(), supernet.arch, normalization)
        self.hold(weights)
        images, _, aspects = _all(_some(train, calibration), min(batch, len(train)))
        self._calibration = (images, aspects)
        images, labels, aspects = _all(validation, min(batch, len(validation)))
        self._validation = (images, labels, aspects)
        self.programs = tuple(self._programs(bucket) for bucket in supernet.buckets)

    def hold(self, weights: Mapping[str, Any]) -> None:
        """Take other weights of the same supernet; nothing is compiled anew."""
        checked = check_weights(self.supernet, weights)
        self._weights = tuple(
            {name: jnp.asarray(w) for name, w in bucket.of(checked).items()}
            for bucket in self.supernet.buckets
        )

    def _programs(self, bucket: Bucket) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the compiled statistics and answers of a bucket."""
        statistics = functools.partial(_statistics, self.supernet, bucket, self._see)
        answers = functools.partial(_answers, self.supernet, bucket, self._see)
        if self.together > 1:
            statistics = jax.vmap(statistics, (None, 0, None, None))
            answers = jax.vmap(answers, (None, 0, 0, None, None, None))
        return jax.jit(statistics), jax.jit(answers)

    def scores(self, archs: Sequence[Arch]) -> list[Score]:
        """Return how each network does.

        Raises:
            ModelError: one is not in the supernet.
        """
        active = [self.supernet.active(arch) for arch in archs]
        buckets = [self.supernet.bucket_of(a).number for a in active]
        made: dict[int, Score] = {}
        for number in sorted(set(buckets)):
            mine = [i for i, b in enumerate(buckets) if b == number]
            for at in range(0, len(mine), self.together):
                some = mine[at : at + self.together]
                found = self._scored(number, [active[i] for i in some])
                made.update(zip(some, found, strict=True))
        return [made[i] for i in range(len(archs))]

    def _scored(self, number: int, active: Sequence[Active]) -> list[Score]:
        weights, given = self._weights[number], self._given(active)
        _, answers = self.programs[number]
        stats = self._stats(number, given)
        counts = jax.device_get(answers(weights, stats, given, *self._validation))
        right, loss = (np.atleast_1d(c) for c in counts)
        n = max(int((np.asarray(self._validation[1]) >= 0).sum()), 1)
        return [Score(int(right[i]) / n, float(loss[i]) / n, number) for i in range(len(active))]

    def _given(self, active: Sequence[Active]) -> Active:
        if self.together == 1:
            return active[0]
        return stacked([*active, *[active[-1]] * (self.together - len(active))])

    def _stats(self, number: int, given: Active) -> Any:
        return self.programs[number][0](self._weights[number], given, *self._calibration)

    def cut(self, arch: Arch) -> dict[str, NDArray[np.float32]]:
        """Return a network's own weights by ``onnx_export.names``; its statistics are taken here."""
        active = self.supernet.active(arch)
        number = self.supernet.bucket_of(active).number
        stats = jax.device_get(self._stats(number, self._given([active])))
        if self.together > 1:
            stats = {name: s[0] for name, s in stats.items()}
        return self.supernet.cut(jax.device_get(self._weights[number]), stats, arch)


def _some(train: Train, most: int) -> Train:
    """Return some of the training images, always the same."""
    if len(train) <= most:
        return train
    chosen = np.random.default_rng(0).choice(len(train), most, replace=False)
    return Train(train.source, train.rows[np.sort(chosen)])


def _all(split: Train | Validation, batch: int) -> tuple[Array, Array, Array]:
    """Return images (batches, batch, height, width, 3), labels and aspects (batches, batch)."""
    found = split.in_order(batch) if isinstance(split, Train) else split.batches(batch)
    parts = zip(*(views.arrays(b) for b in found), strict=True)
    images, labels, aspects = (jnp.asarray(np.stack(part)) for part in parts)
    return images, labels, aspects


def _statistics(
    supernet: Supernet,
    bucket: Bucket,
    see: Callable[..., Array],
    weights: Weights,
    active: Active,
    images: Array,
    aspects: Array,
) -> Weights:
    """Return means and variances of all images, each batch normalised by its own."""

    def one(batch: tuple[Array, Array]) -> Weights:
        _, moments = supernet.apply(weights, None, active, see(*batch), bucket=bucket)
        return moments

    found = jax.lax.map(one, (images, aspects))
    made = {}
    for name, values in found.items():
        made[name] = jnp.mean(values, axis=0)
        if name.endswith("/var"):
            means = found[f"{name.removesuffix('var')}mean"]
            made[name] = made[name] + jnp.var(means, axis=0)
    return made


def _answers(
    supernet: Supernet,
    bucket: Bucket,
    see: Callable[..., Array],
    weights: Weights,
    stats: Weights,
    active: Active,
    images: Array,
    labels: Array,
    aspects: Array,
) -> tuple[Array, Array]:
    """Return how many images are answered rightly, and the summed loss."""

    def one(batch: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        images, labels, aspects = batch
        logits, _ = supernet.apply(weights, stats, active, see(images, aspects), bucket=bucket)
        targets = jax.nn.one_hot(labels, supernet.classes, dtype=logits.dtype)  # zeros for -1
        right = (jnp.argmax(logits, axis=-1) == labels) & jnp.all(jnp.isfinite(logits), axis=-1)
        return jnp.sum(right, dtype=jnp.int32), jnp.sum(losses.cross_entropy(logits, targets))

    right, loss = jax.lax.map(one, (images, labels, aspects))
    return jnp.sum(right), jnp.sum(loss)
