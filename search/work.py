"""What workers do in a search, by its settings: pictures, evaluator, searcher."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lcnas import cost
from lcnas.spaces import Space
from search import tuning
from search.folder import Folder
from search.pictures import Pictures, pack
from search.settings import Settings
from search.telling import Told
from search.trials import Trial

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from search.steps import Field

CACHE = "cache"  # folder of compiled programs


def not_maskable(space: Space) -> str | None:
    """Return what keeps a supernet from holding a space; None: nothing does."""
    from lcnas.models import supernet

    return supernet.maskable(space)


def pictures(settings: Settings, data: Data) -> Pictures:
    """Return the pictures of the search."""
    return pack(data, settings.train_size, most=settings.pictures, seed=settings.seed)


def evaluator(
    settings: Settings, field: Field, shown: Pictures, folder: Folder, tell: Told
) -> tuning.Work:
    """Return what the workers evaluate by, ready to use."""
    makers: Mapping[str, Callable[..., tuning.Work]] = {
        "train": _train,
        "proxy": _proxy,
        "supernet": _supernet,
    }
    return makers[str(settings.evaluator)](settings, field, shown, folder, tell)


def _train(
    settings: Settings, field: Field, shown: Pictures, folder: Folder, tell: Told
) -> tuning.Work:
    from search.evaluators import train
    from search.finals import search_recipe

    assert settings.train_size is not None
    recipe = search_recipe(shown, int(settings.epochs or 1))
    tell.line(
        f"train: each network from scratch, {recipe.epochs} epochs of {len(shown.train_labels):,} "
        f"pictures at {settings.train_size} px, batch {recipe.batch}"
    )
    spec = train.Spec(settings.train_size, recipe, settings.seed, str(folder / CACHE))
    return tuning.Work(train.create, spec, shown)


def _proxy(
    settings: Settings, field: Field, shown: Pictures, folder: Folder, tell: Told
) -> tuning.Work:
    from search.evaluators import proxy

    assert settings.train_size is not None
    tell.line(f"proxy: {settings.score} at initialisation, at {settings.train_size} px")
    spec = proxy.Spec(
        score=str(settings.score),
        classes=shown.classes,
        train_size=settings.train_size,
        seed=settings.seed,
    )
    return tuning.Work(proxy.create, spec, shown)


def _supernet(
    settings: Settings, field: Field, shown: Pictures, folder: Folder, tell: Told
) -> tuning.Work:
    raise NotImplementedError


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
        "pictures": settings.pictures,
        "epochs": settings.epochs,
        "train_size": settings.train_size,
    }
    if settings.evaluator != "proxy" and good:
        best = max(t.accuracy or 0.0 for t in good)
        made |= {"best": best, "over_chance": best - chance}
    if rates:
        made["images_s"] = float(np.median(rates))
    supernet = folder.load("supernet.json")
    return made | ({"supernet": supernet} if supernet else {})


def macs(space: Space, codes: Sequence[int], classes: int) -> int:
    """Return the MACs of a network by its codes."""
    return cost.macs(space.decode(np.array([codes]))[0], classes=classes)
