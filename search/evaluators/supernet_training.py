"""The supernet of a search: trained in a worker before the trials, or reused from an earlier search."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas import renamed
from lcnas.arch import Arch, Resolution
from lcnas.errors import EmptyBandWarning, TrainingError
from lcnas.spaces import Space
from lcnas.training.recipes import Recipe
from search.distributed import cluster, tasks, worker
from search.distributed.tuning import Workload
from search.evaluator_report import REUSED
from search.evaluators.context import EvaluatorContext
from search.packed import PackedImages, unpack
from search.recipes import search_recipe
from search.run_dir import SUPERNET, SUPERNET_WEIGHTS, RunDir

if TYPE_CHECKING:
    from lcnas.training import supernet as training

_LIMITS = "limits.json"
_SLACK = 0.05  # relative tolerance of limits: a table that learns moves them a little
_DRAWN = 2  # networks per step in addition to the largest and the smallest
_POOL, _POOL_BANDS = 4096, 8  # networks that the steps draw from, by latency bands


@dataclass(frozen=True)
class LatencyLimits:
    """The latencies between which a supernet's networks were drawn."""

    table: str  # label of the table's machine
    resolution: str  # of deployment, as in the latencies
    low: float  # ms
    high: float

    def cover(self, other: LatencyLimits) -> bool:
        """Return whether networks were drawn over all of the other limits, within a tolerance."""
        above, below = 1 + _SLACK, 1 - _SLACK
        same = (self.table, self.resolution) == (other.table, other.resolution)
        return same and self.low <= other.low * above and self.high >= other.high * below


@dataclass(frozen=True)
class SupernetTraining:
    """The training of a supernet."""

    space: Space
    classes: int
    size: Resolution  # training size, pixels
    recipe: Recipe
    codes: NDArray[np.int64]  # (n, genes): networks in the budget that steps draw from
    seed: int
    folder: str  # parent of one folder per supernet, named after all that decides its weights
    cache: str  # folder of compiled programs
    buckets: int = 2
    labels: float | None = None  # share of labels in the targets; None: the default
    init: str | None = None  # file of initial weights
    limits: LatencyLimits | None = (
        None  # of the codes; None: only a supernet of these codes is reused
    )
    copy: str | None = None  # folder of a copy, read if it exists; None: no copy
    setup: worker.WorkerSetup = field(default_factory=worker.WorkerSetup)
    cores: int = 1  # cores of its training


def prepare(context: EvaluatorContext) -> Workload:
    """Train the supernet in a worker, or read an earlier one, and return the evaluator's workload."""
    from search.evaluators import supernet

    job = job_of(context)
    context.console.detail(
        f"supernet of {job.space.size:,} networks: {job.recipe.epochs} epochs of "
        f"{len(context.images.train_labels):,} images at {job.size} px, batch {job.recipe.batch}"
    )
    spec, report = tasks.run_reporting(
        "supernet",
        train,
        (job, context.images),
        cores=job.cores,
        on_report=context.console.detail,
    )
    context.run_dir.save(SUPERNET, report)
    values = {k: v for k, v in report.items() if not isinstance(v, dict)}
    context.console.detail(", ".join(f"{k} {_shown(v)}" for k, v in values.items()))
    return context.workload(supernet.create, spec)


def job_of(context: EvaluatorContext) -> SupernetTraining:
    """Return the training of a search's supernet."""
    settings, problem = context.settings, context.problem
    rng = np.random.default_rng([settings.seed, 77])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyBandWarning)
        codes = problem.budget.sample_codes(_POOL, rng, bands=_POOL_BANDS)
    return SupernetTraining(
        space=problem.space,
        classes=context.images.classes,
        size=context.train_size,
        recipe=search_recipe(context.images, settings.epochs or 1),
        codes=codes,
        seed=settings.seed,
        folder=str(_shared_folder(context.run_dir)),
        cache=context.cache,
        init=None if settings.init is None else str(Path(settings.init).resolve()),
        limits=LatencyLimits(
            problem.table.machine_label,
            str(problem.space.resolutions[0]),
            problem.min_ms,
            problem.searched_max_ms,
        ),
        copy=str(context.run_dir / SUPERNET_WEIGHTS),
        setup=context.worker_setup,
        cores=max(1, min(settings.workers, cluster.local_cores())),
    )


def _shared_folder(run_dir: RunDir) -> Path:
    """Return the folder of all supernets, for reuse by other searches."""
    from lcnas.training.data import cache_folder

    home = cache_folder()
    return run_dir.path / "supernets" if home is None else home / "supernets"


def _shown(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def train(
    job: SupernetTraining, images: PackedImages, report: Callable[[str], None] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Train the supernet, or read an earlier one; return the evaluator's spec, and a report as JSON data.

    Args:
        job: the training.
        images: training and validation images.
        report: called with a line on the progress; None: no progress is reported.
    """
    worker.prepare(job.setup, job.cores)
    from lcnas.training import run
    from lcnas.training.compilation import keep_programs
    from search.evaluators import supernet as evaluator

    keep_programs(job.cache)
    copy = None if job.copy is None else Path(job.copy)
    trained = None if copy is None else _read(copy)
    if trained is None:
        name, trained = _trained(job, images, report)
        trained = dataclasses.replace(trained, about={**trained.about, "id": name})
        if copy is not None:
            with run.unwritable(copy):
                copy.mkdir(parents=True, exist_ok=True)
                trained.save(copy)
    spec = evaluator.SupernetSpec.of(trained, job.recipe.augment, cache=job.cache)
    return spec, dict(trained.about)


def _trained(
    job: SupernetTraining, images: PackedImages, report: Callable[[str], None] | None
) -> tuple[str, training.TrainedSupernet]:
    """Return the supernet and its name: a suitable one of an earlier search, or a new one."""
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
    init, init_note = _initial_weights(job, net)
    draws = f"{len(job.codes)} networks {run.fingerprint({'codes': job.codes})}"
    recipe = job.recipe.override({"resolution": None, "train_resolution": None})
    labels = training.LABELS if job.labels is None else job.labels

    def content_id(net: Supernet, draws: str) -> str:
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

    # Buckets and draws follow the budget; supernets that agree in all else may replace one another.
    one_bucket = dataclasses.replace(net, bucket_widths=net.bucket_widths[-1:])
    home, name = Path(job.folder) / content_id(one_bucket, ""), content_id(net, draws)
    earlier = _read(home / name)
    if earlier is None and not (home / name).is_dir():
        name, earlier = _earlier(home, job.limits) or (name, None)
    if earlier is not None:
        return name, dataclasses.replace(earlier, about={**earlier.about, REUSED: True})

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        return job.codes[rng.integers(len(job.codes), size=n)]

    trained = training.train(
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
        init_note=init_note,
        progress=None if report is None else lambda moment: report(str(moment)),
    )
    if job.limits is not None:
        limits = dataclasses.asdict(job.limits)
        run.write(home / name / _LIMITS, json.dumps(limits) + "\n")
    shutil.rmtree(home / name / "checkpoints", ignore_errors=True)
    return name, trained


def _earlier(
    home: Path, limits: LatencyLimits | None
) -> tuple[str, training.TrainedSupernet] | None:
    """Return name and supernet: the one that was drawn over these limits, and least beyond them."""
    fits = []
    for path in home.glob(f"*/{_LIMITS}") if limits is not None else ():
        try:
            drawn = LatencyLimits(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if limits is not None and drawn.cover(limits):
            fits.append((drawn.high / drawn.low, path.parent.name))
    for _, name in sorted(fits):
        trained = _read(home / name)
        if trained is not None:
            return name, trained
    return None


def _read(folder: Path) -> training.TrainedSupernet | None:
    """Return the supernet of a folder; None if there is none that can be read."""
    from lcnas.training import supernet as training

    try:
        return training.TrainedSupernet.load(folder)
    except TrainingError:
        return None


def _initial_weights(job: SupernetTraining, net: Any) -> tuple[Any, str]:
    """Return the initial weights, and a note on their origin; (None, "") if they are drawn."""
    if job.init is None:
        return None, ""
    from lcnas import models

    source = models.load_pretrained(job.init)
    arch: Arch = source.arch
    weights, note = net.started(job.seed, source.weights(), arch)
    return weights, note


__getattr__ = renamed.in_module(__name__, {"Job": "SupernetTraining", "Limits": "LatencyLimits"})
