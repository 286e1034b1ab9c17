"""The supernet of a search: trained in a worker before the search, or taken from an earlier one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution
from lcnas.errors import TrainingError
from lcnas.spaces import Space
from lcnas.training.recipes import Recipe
from search import finals, worker
from search.packed import PackedImages, unpack

if TYPE_CHECKING:
    from lcnas.training import supernet as training

TAKEN = "taken_from_an_earlier_search"  # in what is told: its seconds were spent there
_LIMITS = "limits.json"
_SLACK = 0.05  # by which limits may differ, relative: a table that learns moves them a little
_DRAWN = 2  # networks of a step, beside the largest and the smallest


@dataclass(frozen=True)
class Limits:
    """Between which latencies a supernet's networks were drawn."""

    table: str  # whose latencies
    resolution: str  # of deployment, what they mean
    low: float  # ms
    high: float

    def cover(self, other: Limits) -> bool:
        """Return whether networks were drawn, but for what a table learns, wherever the others are."""
        above, below = 1 + _SLACK, 1 - _SLACK
        same = (self.table, self.resolution) == (other.table, other.resolution)
        return same and self.low <= other.low * above and self.high >= other.high * below


@dataclass(frozen=True)
class Job:
    """What is trained."""

    space: Space
    classes: int
    size: Resolution  # pixels that it is trained at
    recipe: Recipe
    codes: NDArray[np.int64]  # (n, genes): networks in the budget that steps draw from
    seed: int
    folder: str  # that holds a folder for each supernet, named by all that decides its weights
    cache: str  # of compiled programs
    buckets: int = 2
    labels: float | None = None  # share of them that networks learn from; None: the usual one
    init: str | None = None  # file of weights to start from
    limits: Limits | None = None  # of the codes; None: only one of just these codes is taken again
    kept: str | None = None  # folder of a copy that is read where it is there; None: there is none
    setup: worker.Setup = field(default_factory=worker.Setup)
    cores: int = 1  # that it trains on


def recipe_for(images: PackedImages, epochs: int) -> Recipe:
    """Return the recipe of a supernet: that of the search.

    In each step the gradients of four networks are added up. The rate is the search's even so: of a half and
    three times as much, of clipping, and of AdamW none was better after 6 epochs (``docs/decisions.md``).
    """
    return finals.search_recipe(images, epochs)


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


def train(job: Job, images: PackedImages, board: Any = None) -> tuple[Any, dict[str, Any]]:
    """Train the supernet, or read it back; returns the evaluator's spec, and what is told of the training.

    Args:
        job: what is trained.
        images: what it learns from.
        board: handle of a :class:`Board` that is told how far it is; None: nobody is.
    """
    worker.prepare(job.setup, job.cores)
    from lcnas.training import run
    from search.evaluators import supernet as evaluator
    from search.evaluators.train import keep_programs

    keep_programs(job.cache)
    kept = None if job.kept is None else Path(job.kept)
    made = None if kept is None else _read(kept)
    if made is None:
        name, made = _trained(job, images, board)
        made = dataclasses.replace(made, about={**made.about, "id": name})
        if kept is not None:
            with run.unwritable(kept):
                kept.mkdir(parents=True, exist_ok=True)
                made.save(kept)
    spec = evaluator.Spec.of(made, job.recipe.augment, cache=job.cache)
    return spec, dict(made.about)


def _trained(job: Job, images: PackedImages, board: Any) -> tuple[str, training.TrainedSupernet]:
    """Return the supernet and its name: one of an earlier search that serves as well, or a new one."""
    from lcnas.models.supernet import Supernet
    from lcnas.training import run
    from lcnas.training import supernet as training

    data = unpack(images)
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

    def named(net: Supernet, draws: str) -> str:
        return training.content_id(
            net,
            job.space,
            recipe,
            data=training.fingerprint(data),
            seed=job.seed,
            random=_DRAWN,
            labels=labels,
            draws=draws,
            init="" if init is None else run.fingerprint(init),
        )

    # Its buckets and draws follow the budget; all else decides which supernets may stand in for one another.
    whole = dataclasses.replace(net, bucket_widths=net.bucket_widths[-1:])
    home, name = Path(job.folder) / named(whole, ""), named(net, draws)
    earlier = _read(home / name)
    if earlier is None and not (home / name).is_dir():
        name, earlier = _earlier(home, job.limits) or (name, None)
    if earlier is not None:
        return name, dataclasses.replace(earlier, about={**earlier.about, TAKEN: True})

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        return job.codes[rng.integers(len(job.codes), size=n)]

    made = training.train(
        net,
        job.space,
        data,
        recipe,
        home / name,
        draw=draw,
        draws=draws,
        seed=job.seed,
        random=_DRAWN,
        labels=labels,
        init=init,
        init_note=told,
        progress=None if board is None else lambda moment: board.write.remote(str(moment)),
    )
    if job.limits is not None:
        limits = dataclasses.asdict(job.limits)
        run.write(home / name / _LIMITS, json.dumps(limits) + "\n")
    shutil.rmtree(home / name / "checkpoints", ignore_errors=True)
    return name, made


def _earlier(home: Path, limits: Limits | None) -> tuple[str, training.TrainedSupernet] | None:
    """Return name and supernet: the one that was drawn over these limits and the least beyond them."""
    fits = []
    for path in home.glob(f"*/{_LIMITS}") if limits is not None else ():
        try:
            found = Limits(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if limits is not None and found.cover(limits):
            fits.append((found.high / found.low, path.parent.name))
    for _, name in sorted(fits):
        made = _read(home / name)
        if made is not None:
            return name, made
    return None


def _read(folder: Path) -> training.TrainedSupernet | None:
    """Return the supernet of a folder, None where there is none that can be read."""
    from lcnas.training import supernet as training

    try:
        return training.TrainedSupernet.load(folder)
    except TrainingError:
        return None


def _started(job: Job, net: Any) -> tuple[Any, str]:
    """Return the weights to start from, and what was taken; (None, "") where they are drawn."""
    if job.init is None:
        return None, ""
    from lcnas import models

    found = models.load_pretrained(job.init)
    arch: Arch = found.arch
    weights, said = net.started(job.seed, found.weights(), arch)
    return weights, said
