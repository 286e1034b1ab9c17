"""The supernet of a search: trained in a worker before the search, or taken from an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution
from lcnas.spaces import Space
from lcnas.training.recipes import Recipe
from search import finals, worker
from search.pictures import Pictures, unpack


@dataclass(frozen=True)
class Job:
    """What is trained."""

    space: Space
    classes: int
    size: Resolution  # pixels that it is trained at
    recipe: Recipe
    codes: NDArray[
        np.int64
    ]  # (n, genes): networks in the budget, in latency bands, that steps draw from
    seed: int
    folder: str  # that holds a folder for each supernet, named by all that decides its weights
    cache: str  # of compiled programs
    buckets: int = 2
    labels: float | None = (
        None  # share of them in what its networks learn from; None: the usual one
    )
    init: str | None = None  # file of weights to start from
    setup: worker.Setup = field(default_factory=worker.Setup)
    cores: int = 1  # that it trains on


def recipe_for(pictures: Pictures, epochs: int) -> Recipe:
    """Return the recipe of a supernet: that of the search.

    In each step the gradients of four networks are added up. The rate is the search's even so: of a half and
    three times as much, of clipping, and of AdamW none was better after 6 epochs (``docs/decisions.md``).
    """
    return finals.search_recipe(pictures, epochs)


class Board:
    """Where a training writes how far it is, for whoever looks; an actor of Ray's."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> None:
        """Write a line in place of the last one."""
        self._text = text

    def read(self) -> str:
        """Return the line."""
        return self._text


def train(job: Job, pictures: Pictures, board: Any = None) -> tuple[Any, dict[str, Any]]:
    """Train the supernet, or read it back; returns the evaluator's spec, and what is told of the training.

    Args:
        job: what is trained.
        pictures: what it learns from.
        board: handle of a :class:`Board` that is told how far it is; None: nobody is.
    """
    worker.prepare(job.setup, job.cores)
    from lcnas.models.supernet import Supernet
    from lcnas.training import run
    from lcnas.training import supernet as training
    from search.evaluators import supernet as evaluator
    from search.evaluators.train import keep_programs

    keep_programs(job.cache)
    data = unpack(pictures)
    net = Supernet.of(
        job.space,
        job.classes,
        resolution=job.size,
        buckets=job.buckets,
        sample=job.codes[:256],
        dropout=job.recipe.dropout,
    )
    init, told = _started(job, net)
    draws = f"{len(job.codes)} networks {run.fingerprint({'codes': job.codes})}"
    recipe = job.recipe.override({"resolution": None, "train_resolution": None})
    labels = training.LABELS if job.labels is None else job.labels
    name = training.content_id(
        net,
        job.space,
        recipe,
        data=training.fingerprint(data),
        seed=job.seed,
        random=2,
        labels=labels,
        draws=draws,
        init="" if init is None else run.fingerprint(init),
    )

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        return job.codes[rng.integers(len(job.codes), size=n)]

    made = training.train(
        net,
        job.space,
        data,
        recipe,
        Path(job.folder) / name,
        draw=draw,
        draws=draws,
        seed=job.seed,
        labels=labels,
        init=init,
        told=told,
        progress=None if board is None else lambda moment: board.write.remote(str(moment)),
    )
    spec = evaluator.Spec.of(made, recipe.augment, cache=job.cache)
    return spec, {**made.about, "id": name}


def _started(job: Job, net: Any) -> tuple[Any, str]:
    """Return the weights to start from, and what was taken; (None, "") where they are drawn."""
    if job.init is None:
        return None, ""
    from lcnas import models

    found = models.load_pretrained(job.init)
    arch: Arch = found.arch
    weights, said = net.started(job.seed, found.weights(), arch)
    return weights, said
