"""Before a search: checks that need neither images nor a table, the dry run, and an estimate of its time."""

from __future__ import annotations

from lcnas import cost, zoo
from lcnas.arch import Arch
from lcnas.errors import spelt
from lcnas.latency.machine import usable_cores
from search import data_sets, problem, resolution, tables
from search.console import Console
from search.distributed import cluster
from search.errors import SearchError
from search.evaluators.requirements import check_weights, not_maskable
from search.packed import check_fits
from search.registry import EVALUATORS, SEARCHERS
from search.run_dir import OUTCOME, RunDir
from search.settings import ExecutionOptions, ResolvedSettings, Settings

_MACS_S = 2.0e9  # MACs of the forward pass per second of training, on one core; rough
_COMPILE_S = 28.0  # seconds per network; rough
_OTHER_S = 1.5  # seconds per network of an evaluator that does not train it; rough


def check_start(run_dir: RunDir, asked: Settings, execution: ExecutionOptions) -> None:
    """Refuse what can be refused before anything is printed or written; a finished search lacks nothing.

    Raises:
        LcnasError: as by :func:`check`.
    """
    if not (run_dir / OUTCOME).is_file():
        check(asked, execution.address)


def check(asked: Settings, address: str | None = None) -> None:
    """Refuse spaces, searchers, evaluators, weights and cluster addresses that cannot be used.

    Raises:
        SpaceError: there is no such space, or it has several resolutions.
        SearchError: a supernet cannot hold the space, or the weights or the cluster do not exist.
    """
    space = resolution.space_of(asked)
    SEARCHERS.load(asked.searcher)
    EVALUATORS.load(asked.evaluator_name)
    if asked.evaluator_name == "supernet" and (reason := not_maskable(space)):
        raise SearchError(f"evaluator: a supernet cannot hold {space.name}: {reason}")
    if asked.init is not None:
        check_weights(asked.init)
    if address is not None:
        cluster.check(address)


def dry_run(asked: Settings, address: str | None = None) -> str:
    """Return the plan of a search: data, table, number of networks, settings, and an estimate of its time.

    Args:
        asked: the settings.
        address: address of its Ray cluster; None: this machine.
    """
    check(asked, address)
    cores = len(usable_cores())
    if address is not None:
        with cluster.started(address, asked.workers) as ray:
            cores = ray.cores
    asked = resolution.resolve(asked)
    with data_sets.load(asked, asked.resolution) as data:
        space = resolution.space_of(asked)
        settings = asked.resolve(cores)
        check_fits(data, most=settings.final_images, seed=settings.seed)
        lines = data_sets.describe(data)
        engine = problem.requested_engine(asked)
        missing = tables.missing(space, engine, data.classes, table=asked.table)
        typical = zoo.load(f"{tables.family(space)}_0.5x", asked.resolution)
        if missing:
            lines += [missing, "the number of networks is known once these are measured"]
        else:
            defined = problem.define(asked, data.classes, Console().detail)
            lines += defined.describe()
            scales = problem.scales_within(space, defined.table, data.classes, defined.max_ms)
            typical = scales[(len(scales) - 1) // 2] if scales else typical
        values = settings.to_data().items()
        lines += [f"{name}: {spelt(str(value))}" for name, value in values if value is not None]
        lines.append(estimate(settings, typical, len(data.train), data.classes))
    return "\n".join(lines)


def estimate(settings: ResolvedSettings, typical: Arch, images: int, classes: int) -> str:
    """Return a rough estimate of the time of the search and of the final trainings, as text.

    Args:
        settings: the settings.
        typical: a network; all are assumed to train as fast.
        images: number of training images.
        classes: number of classes.
    """
    size = settings.train_size or typical.resolution
    macs = max(cost.macs(typical, size, classes), 1)
    final_macs = max(cost.macs(typical, settings.resolution, classes), 1)
    seen = min(settings.images or images, images)
    training_s = seen * (settings.epochs or 1) * macs / _MACS_S
    network_s = _COMPILE_S + training_s if settings.evaluator == "train" else _OTHER_S
    search_s = settings.trials * network_s / settings.workers
    if settings.evaluator == "supernet":  # one process trains it; four networks see each image
        search_s += 4 * training_s + _COMPILE_S
    final_images = min(settings.final_images or images, images)
    final_training_s = final_images * settings.final_epochs * final_macs / _MACS_S
    networks = settings.finalists * (3 if settings.baselines else 1)
    # Seeds share programs.
    final_s = networks * (_COMPILE_S + settings.final_seeds * final_training_s) / settings.workers
    return (
        f"about {search_s / 60:.0f} min of searching and {final_s / 60:.0f} min of training finalists and "
        f"baselines on {settings.workers} workers (a rough guess)"
    )
