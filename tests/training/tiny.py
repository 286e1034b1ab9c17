"""A network, data and a recipe so small that a training takes moments, most of them compiling."""

from __future__ import annotations

import contextlib
import dataclasses
from importlib import metadata
from typing import Any

import numpy as np

from lcnas import blocks
from lcnas.arch import Arch
from lcnas.blocks import Block
from lcnas.training import data as data_module
from lcnas.training.augment import Augment
from lcnas.training.recipes import Recipe

SIDE = 8
# XLA flag to compile faster and run slower. Newer versions exit on this flag, which they do not know.
_OLD_XLA = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11)
QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false" if _OLD_XLA else ""


@contextlib.contextmanager
def quick_compiling():
    """Have XLA optimise little: programs this small are compiled for longer than they run."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def arch(dropout=0.0, norm=True) -> Arch:
    """Return a stem and a head, with or without dropout and batch norm."""
    stages: dict[str, list[Block]] = {
        "stem": [blocks.ConvNormAct(4, stride=2, norm=norm)],
        "stage1": [blocks.ConvNormAct(6, kernel=1, norm=norm, act="hard_swish")],
        "head": [blocks.DenseHead(dropout=dropout)],
    }
    return Arch.of(stages, resolution=SIDE, name="tiny")


def separable() -> Arch:
    """Return one with a depthwise-separable block with squeeze-and-excite between."""
    stages: dict[str, list[Block]] = {
        "stem": [blocks.ConvNormAct(4, stride=2)],
        "stage1": [blocks.DepthwiseSeparable(8, kernel=5, stride=2, se=True)],
        "head": [blocks.DenseHead(dropout=0.0)],
    }
    return Arch.of(stages, resolution=SIDE, name="separable")


def data(train=60, classes=3, seed=0):
    """Return synthetic images; a fifth of them is for validation."""
    spec = f"synthetic:classes={classes},train={train},test=20"
    return data_module.load(spec, size=SIDE, seed=seed, workers=0)


def recipe(**changes):
    """Return two epochs of three steps."""
    base = Recipe(
        name="tiny",
        epochs=2,
        batch=16,
        augment=Augment(crop="none", flip=0.5, evaluate_crop=1.0),
        learning_rate=0.05,
        warmup_epochs=1,
        label_smoothing=0.1,
        ema=0.9,
        log_steps=2,
    )
    return base.override(changes)


def batches(n, batch=16, classes=3, seed=0):
    """Return n batches of noise: (images uint8, labels, aspects)."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, 256, (batch, SIDE, SIDE, 3), np.uint8),
            rng.integers(0, classes, batch, np.int32),
            np.ones(batch, np.float32),
        )
        for _ in range(n)
    ]


def watched(dataset, on_batch=lambda number: None) -> Any:
    """Return a data set that records each training batch and each split that is read."""
    return _Watched(dataset, on_batch)


class _Watched:
    """A data set that records reads of its training batches and splits."""

    def __init__(self, dataset, on_batch):
        self._data = dataset
        self._on_batch = on_batch
        self.reads: list[str] = []
        self.train = _Train(dataset.train, self)
        self.validation = _Split(dataset.validation, "validation", self.reads)
        self.test = _Split(dataset.test, "test", self.reads)

    def __getattr__(self, name):
        return getattr(self._data, name)


class _Train:
    def __init__(self, split, owner):
        self._split, self._owner, self.read_count = split, owner, 0

    def __getattr__(self, name):
        return getattr(self._split, name)

    def batches(self, *args, **kwargs):
        for batch in self._split.batches(*args, **kwargs):
            self.read_count += 1
            self._owner._on_batch(self.read_count)
            yield batch


class _Split:
    def __init__(self, split, name, reads):
        self._split, self._name, self._reads = split, name, reads

    def __getattr__(self, name):
        return getattr(self._split, name)

    def batches(self, *args, **kwargs):
        self._reads.append(self._name)
        return self._split.batches(*args, **kwargs)


def lines(epochs, timed=("images_s", "seconds")):
    """Return lines of metrics without measured times."""
    return [{k: v for k, v in line.items() if k not in timed} for line in epochs]


def with_augment(base, **changes):
    """Return a recipe with other augmentation."""
    return dataclasses.replace(base, augment=dataclasses.replace(base.augment, **changes))
