"""Set-up of a training: arguments checked, program built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from lcnas import models, onnx_export
from lcnas.arch import Arch
from lcnas.errors import TrainingError, shorten
from lcnas.latency import engines
from lcnas.latency.machine import usable_cores
from lcnas.models import Network, pretrained
from lcnas.training import evaluation, exporting, run, step, teachers, views
from lcnas.training.data import Batch, Data, Test, Validation
from lcnas.training.devices import Devices
from lcnas.training.evaluation import Scores
from lcnas.training.functional import Functional, blocks_of, is_in, with_dropout
from lcnas.training.recipes import Recipe
from lcnas.training.run import RunIdentity
from lcnas.training.step import Length, State, StepReport, TrainingProgram
from lcnas.training.teachers import Teacher, TeacherFile

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TrainingJob:
    """A training, checked and built."""

    identity: RunIdentity
    data: Data
    recipe: Recipe
    devices: Devices
    length: Length
    net: Functional
    weights: Weights  # initial weights by name
    program: TrainingProgram
    seed: Any  # seed of all draws, (), int32, on the devices
    count_batch: Any  # compiled counts of a batch, see evaluation.build
    teacher: Teacher | None
    notes: tuple[str, ...] = ()  # lines for the console on what may be unexpected

    def start(self) -> State:
        """Return the state before the first step, on the devices."""
        state: State = self.devices.share(self.program.start(*self.net.split(self.weights)))
        return state

    def step(self, state: State, number: int, batch: Batch) -> tuple[State, StepReport]:
        """Take a step."""
        arrays = self.devices.split(*views.arrays(batch))
        if self.program.prepare is None:
            return self.program.step(state, self.seed, *arrays)
        images, targets = self.program.prepare(np.int32(number), self.seed, *arrays)
        if self.teacher is None:
            return self.program.step(state, self.seed, images, targets)
        seen = views.pixels(np.asarray(images), self.data.normalization)
        (logits,) = self.devices.split(self.teacher.logits(seen))
        return self.program.step(state, self.seed, images, targets, logits)

    def scores(self, state: State, split: Validation | Test) -> Scores:
        """Return the scores of the weights to test (their average, if any) on a split."""
        return evaluation.evaluate_weights(
            self.count_batch, self.program.tested(state), split, self.devices
        )


def prepared(
    network: Arch | Network,
    data: Data,
    recipe: Recipe,
    seed: int,
    init: str | Path | Weights | None,
    freeze: Sequence[str],
    teacher: str | Path | TeacherFile | Teacher | None,
    devices: Devices,
) -> TrainingJob:
    """Check the arguments of :func:`lcnas.training.fit` and build the training."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 31:
        raise TrainingError(f"seed: {shorten(seed)} is not a whole number of 0 to {(1 << 31) - 1}")
    for what, value, fits, source in (
        ("network", network, isinstance(network, Arch | Network), "zoo.load(NAME)"),
        ("data", data, hasattr(data, "fingerprint"), "training.load_data(SPEC)"),
        ("recipe", recipe, isinstance(recipe, Recipe), "recipes.load(NAME)"),
    ):
        if not fits:
            raise TrainingError(
                f"{what}: {shorten(value)} is of the wrong type; {source} returns the right one"
            )
    devices.check_batch(recipe.batch, recipe.accumulate, pairs=recipe.augment.mixes)
    arch = network.arch if isinstance(network, Network) else network
    arch = arch if recipe.resolution is None else arch.at(recipe.resolution)
    _check_train_resolution(arch, recipe, data.classes)
    frozen = blocks_of(arch, freeze)
    length = Length.of(recipe, data.train.steps(recipe.batch))
    loaded = _teacher(teacher, data, recipe, devices)
    model = _built(arch, data.classes, recipe, seed, devices)
    initial, notes = _initial(network, init, arch, data, seed)
    weights = model.weights() if initial is None else initial
    net = Functional.of(model, frozen)
    identity = RunIdentity(
        arch=arch,
        classes=data.classes,
        recipe=recipe,
        data=_data_fingerprint(data),
        seed=seed,
        freeze=frozen,
        init="" if initial is None else run.fingerprint(initial),
        teacher=_teacher_fingerprint(teacher),
    )
    program = step.build(
        net,
        recipe,
        length,
        augment=views.training(recipe, arch, data),
        devices=devices,
        frozen=frozenset(name for name in net.params.names if is_in(name, frozen)),
        # A teacher needs the augmented images before the step does.
        separate_augment=loaded is not None,
    )
    count_batch = evaluation.build(
        net, views.testing(recipe.augment, arch, data.normalization), devices
    )
    return TrainingJob(
        identity=identity,
        data=data,
        recipe=recipe,
        devices=devices,
        length=length,
        net=net,
        weights=weights,
        program=program,
        seed=devices.share(np.int32(seed)),
        count_batch=count_batch,
        teacher=loaded,
        notes=notes,
    )


def _check_train_resolution(arch: Arch, recipe: Recipe, classes: int) -> None:
    if recipe.train_resolution is None:
        return
    own = onnx_export.names(arch, classes)
    if onnx_export.names(arch, classes, recipe.train_resolution) != own:
        raise TrainingError(
            f"train_resolution: {recipe.train_resolution} gives the network other weights than its own "
            f"resolution, {arch.resolution}; its head does not pool, so it only trains at that"
        )


def _built(arch: Arch, classes: int, recipe: Recipe, seed: int, devices: Devices) -> Network:
    dtype = jnp.bfloat16 if recipe.precision == "bfloat16" else None
    model = models.build(arch, classes, nnx.Rngs(seed), dtype=dtype, axis_name=devices.axis)
    return with_dropout(model, recipe.dropout)


def _initial(
    network: Arch | Network, init: str | Path | Weights | None, arch: Arch, data: Data, seed: int
) -> tuple[Weights | None, tuple[str, ...]]:
    """Return the initial weights (None: drawn from the seed), and notes on them for the console."""
    classes = data.classes
    if isinstance(init, str | Path):
        names, rngs = data.class_names, nnx.Rngs(seed)
        model = models.load_pretrained(init, arch, classes=classes, class_names=names, rngs=rngs)
        new = not pretrained.read(init, arch).is_for(classes, names)
        note = f"init: the last layer is new, since {init} has other classes"
        return model.weights(), (note,) if new else ()
    if init is not None:
        checked = models.build(arch, classes)
        checked.set_weights(init)
        return checked.weights(), ()
    if not isinstance(network, Network):
        return None, ()
    if network.classes != classes:
        raise TrainingError(
            f"network: it has {network.classes} classes, the data have {classes}; save its weights "
            "and pass them as init, which initialises the last layer anew"
        )
    return network.weights(), ()


def _teacher(
    teacher: str | Path | TeacherFile | Teacher | None, data: Data, recipe: Recipe, devices: Devices
) -> Teacher | None:
    if teacher is None:
        unlabelled = int((data.train.labels < 0).sum())
        if unlabelled:
            raise TrainingError(f"data: {unlabelled} images have no label, and there is no teacher")
        if recipe.needs_teacher:
            raise TrainingError(f"teacher: the recipe {recipe.name} needs one (--teacher FILE)")
        return None
    if devices.hosts > 1:
        raise TrainingError("teacher: not supported on several hosts")
    if isinstance(teacher, str | Path):
        teacher = TeacherFile(teacher)
    if isinstance(teacher, TeacherFile):
        return teachers.load(
            teacher.path,
            normalization=teacher.normalization,
            size=teacher.size,
            default=data.normalization,
            classes=data.classes,
            class_names=data.class_names,
            threads=engines.threads_at_most(len(usable_cores())),
            read=exporting.read,
        )
    if teacher.classes != data.classes:
        raise TrainingError(teachers.unfit("teacher", teacher.classes, data.classes))
    return teacher


def _data_fingerprint(data: Data) -> str:
    """Return a fingerprint of the images, their split, their size and their normalisation."""
    constants = data.normalization
    view = ",".join(f"{v:.9g}" for v in (*data.size, *constants.mean, *constants.std))
    return f"{data.fingerprint}/{view}"


def _teacher_fingerprint(teacher: str | Path | TeacherFile | Teacher | None) -> str:
    if teacher is None:
        return ""
    if isinstance(teacher, str | Path):
        teacher = TeacherFile(teacher)
    if isinstance(teacher, TeacherFile):
        digest = run.file_fingerprint(Path(teacher.path))
        return f"{digest}/{teacher.settings}" if teacher.settings else digest
    return "an object"  # teachers that are objects are not distinguished
