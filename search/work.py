"""What workers do in a search, by its settings: images, evaluator, searcher."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcnas.arch import Resolution
from lcnas.errors import EmptyBandWarning, shorten
from lcnas.spaces import Space
from search import tuning
from search.errors import SearchError, SearchFailedError
from search.folder import Folder
from search.packed import PackedImages, pack
from search.settings import Settings
from search.telling import Told
from search.trials import Trial
from search.worker import Setup

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from search.steps import Field

CACHE = "cache"  # folder of compiled programs
SUPERNET, PREDICTOR = "supernet.json", "predictor.json"  # what is told of them
_LOOK = 30.0  # seconds between looks at how far a supernet's training is
_POOL, _POOL_BANDS = 4096, 8  # networks that a supernet's steps draw from, by latency bands


def not_maskable(space: Space) -> str | None:
    """Return what keeps a supernet from holding a space; None: nothing does."""
    from lcnas.models import supernet

    return supernet.maskable(space)


def check_weights(path: str) -> None:
    """Refuse a file that holds no weights to start from; JAX does not run here.

    Raises:
        SearchError: there is no such file.
        LcnasError: it holds no weights.
    """
    from lcnas.models import pretrained

    if not Path(path).is_file():
        raise SearchError(f"init: there is no file {shorten(path)}")
    pretrained.read(path)


def images(settings: Settings, data: Data) -> PackedImages:
    """Return the images of the search."""
    return pack(data, settings.train_size, most=settings.images, seed=settings.seed)


@dataclass(frozen=True)
class Call:
    """What an evaluator is made for."""

    settings: Settings
    field: Field
    images: PackedImages
    folder: Folder
    tell: Told
    setup: Setup

    @property
    def size(self) -> Resolution:
        """Pixels to train at."""
        return self.settings.train_size or self.images.size

    @property
    def cache(self) -> str:
        """The folder of compiled programs."""
        return str(self.folder / CACHE)


def evaluator(call: Call) -> tuning.Work:
    """Return what the workers evaluate by, ready to use; Ray has to run."""
    makers: Mapping[str, Callable[[Call], tuning.Work]] = {
        "train": _train,
        "proxy": _proxy,
        "supernet": _supernet,
    }
    return makers[str(call.settings.evaluator)](call)


def _train(call: Call) -> tuning.Work:
    from search.evaluators import train
    from search.finals import search_recipe

    recipe = search_recipe(call.images, int(call.settings.epochs or 1))
    call.tell.line(
        f"train: each network from scratch, {recipe.epochs} epochs of "
        f"{len(call.images.train_labels):,} images at {call.size} px, batch {recipe.batch}"
    )
    # Each network has a program of its own, which is worth keeping where the finals take it up again.
    kept = call.cache if call.settings.trains_alike else None
    spec = train.Spec(call.size, recipe, call.settings.seed, kept)
    return tuning.Work(train.create, spec, call.images, call.setup)


def _proxy(call: Call) -> tuning.Work:
    from search.evaluators import proxy

    score = str(call.settings.score)
    call.tell.line(f"proxy: {score} at initialisation, at {call.size} px")
    spec = proxy.Spec(
        score=score,
        classes=call.images.classes,
        train_size=call.size,
        seed=call.settings.seed,
        names=(score,),
    )
    return tuning.Work(proxy.create, spec, call.images, call.setup)


def _supernet(call: Call) -> tuning.Work:
    """Train the supernet in a worker, or read it back, and return what evaluates by it."""
    import ray

    from search import cluster, supernets
    from search.evaluators import supernet

    settings, field = call.settings, call.field
    recipe = supernets.recipe_for(call.images, int(settings.epochs or 1))
    rng = np.random.default_rng([settings.seed, 77])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyBandWarning)
        codes = field.budget.sample_codes(_POOL, rng, bands=_POOL_BANDS)
    job = supernets.Job(
        space=field.space,
        classes=call.images.classes,
        size=call.size,
        recipe=recipe,
        codes=codes,
        seed=settings.seed,
        folder=str(_kept(call.folder)),
        cache=call.cache,
        init=None if settings.init is None else str(Path(settings.init).resolve()),
        limits=supernets.Limits(
            field.table.machine_label,
            str(field.space.resolutions[0]),
            field.min_ms,
            field.searched_max_ms,
        ),
        kept=str(call.folder / "supernet"),
        setup=call.setup,
        cores=max(1, min(int(settings.workers or 1), cluster.cores_here())),
    )
    call.tell.line(
        f"supernet of {field.space.size:,} networks: {recipe.epochs} epochs of "
        f"{len(call.images.train_labels):,} images at {job.size} px, batch {recipe.batch}"
    )
    # On this machine, where the folder is that it goes on from, and the file of weights, if there is one.
    here: Any = cluster.on_this_machine()
    board: Any = ray.remote(num_cpus=0, **here)(supernets.Board).remote()
    task = ray.remote(num_cpus=job.cores, max_calls=1, max_retries=2, **here)(supernets.train)
    made = task.remote(job, call.images, board)
    said, over = "", False
    try:
        while not over:
            over = bool(ray.wait([made], timeout=_LOOK)[0])
            text = ray.get(board.read.remote())
            if text != said:
                said = text
                call.tell.line(text)
        spec, about = ray.get(made)
    except ray.exceptions.RayError as error:
        raise SearchFailedError(f"supernet: {cluster.reason(error)}") from None
    ray.kill(board)
    call.folder.save(SUPERNET, about)
    call.tell.line(
        ", ".join(f"{k} {_shown(v)}" for k, v in about.items() if not isinstance(v, dict))
    )
    return tuning.Work(supernet.create, spec, call.images, call.setup)


def _kept(folder: Folder) -> Path:
    """Return where supernets are kept, so that another search can use them again."""
    from lcnas.training.data import cache_folder

    home = cache_folder()
    return folder.path / "supernets" if home is None else home / "supernets"


def _shown(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def searcher(
    settings: Settings,
    field: Field,
    known: Sequence[Trial],
    record: Callable[[Trial], None],
    stop: Callable[[], bool],
) -> Any:
    """Return the Ray Tune searcher, with the known trials replayed into it."""
    from search.predictor import Screened
    from search.searchers import Searcher, create

    trials = int(settings.trials or 1)
    strategy: Any = create(settings.searcher, field.budget, settings.seed, trials=trials)
    if settings.predictor:
        strategy = Screened(strategy, field.budget)
    return Searcher(
        strategy,
        field.budget,
        trials=trials,
        seed=settings.seed,
        batch=int(settings.networks_per_trial or 1),
        lag=settings.lag,
        known=known,
        record=record,
        stop=stop,
        more=functools.partial(_stopping, settings, field)
        if settings.evaluator == "train"
        else None,
    )


def predictor_of(searcher: Any) -> dict[str, Any] | None:
    """Return how well a search's predictor ranks networks that it was not fitted to; None: there is none."""
    from search.predictor import Screened

    strategy = searcher.strategy
    if not isinstance(strategy, Screened):
        return None
    made = strategy.predictor
    told: dict[str, Any] = {"says": strategy.describe(), "screened": strategy.screened}
    if made is not None:
        told |= {"tau": made.tau, "tau_at_cost": made.tau_at_cost, "networks": made.n}
    return told


def _stopping(
    settings: Settings, field: Field, latency_ms: float, told: Sequence[Trial]
) -> dict[str, Any]:
    """Return what a candidate's config has beside the network: when it is given up."""
    from search.evaluators.train import stopping

    edges = np.geomspace(field.min_ms, field.searched_max_ms, int(settings.bands or 1) + 1)
    return {"stop_below": stopping(told, edges.tolist(), latency_ms)}


def about(
    settings: Settings, data: Data, trials: Sequence[Trial], folder: Folder
) -> dict[str, Any]:
    """Return what the report says of the evaluator."""
    good = [t for t in trials if not t.failed]
    rates = [float(t.details["images_s"]) for t in good if "images_s" in t.details]
    chance = float(np.bincount(data.validation.labels).max() / max(len(data.validation), 1))
    made: dict[str, Any] = {
        "chance": chance,
        "seconds_per_network": float(np.median([t.seconds for t in good])) if good else None,
        "pictures": settings.images,
        "epochs": settings.epochs,
        "train_size": settings.train_size,
        "resolution": settings.resolution,
    }
    if settings.evaluator != "proxy" and good:
        best = max(t.accuracy or 0.0 for t in good)
        made |= {"best": best, "over_chance": best - chance}
    if rates:
        made["images_s"] = float(np.median(rates))
    for name in (SUPERNET, PREDICTOR):
        if found := folder.load(name):
            made[name.partition(".")[0]] = found
    return made
