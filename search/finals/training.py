"""Final trainings of finalists and baselines by workers, a network each, with the same seeds for all."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from lcnas import cost
from lcnas.arch import Arch, Resolution
from lcnas.errors import LcnasError, TableError
from lcnas.files import is_full
from lcnas.latency.engines import Engine
from lcnas.training.recipes import Recipe
from search.context import SearchContext
from search.distributed import cluster, tasks, worker
from search.distributed.worker import WorkerSetup
from search.errors import SearchFailedError
from search.finals import network_training
from search.finals.baselines import Baseline
from search.finals.deployment import ApartError
from search.finals.network_training import TrainedNetwork
from search.finals.participants import Participants
from search.finals.selection import Finalist
from search.outcome import FINALIST, FinalNetwork, pixels
from search.packed import PackedImages, pack
from search.problem import SearchProblem
from search.recipes import final_recipe
from search.run_dir import CACHE, FINALS


@dataclass(frozen=True)
class FinalEntry:
    """A network of the final evaluation, and the folder of its trainings."""

    network: FinalNetwork  # without runs
    folder: Path

    @property
    def name(self) -> str:
        """The name of the network."""
        return self.network.name

    def out(self, seed: int) -> Path:
        """Return the folder of one training."""
        return self.folder / f"seed-{seed}"


@dataclass(frozen=True)
class TrainedEntry:
    """A network with all its trainings, in the order of the seeds."""

    entry: FinalEntry
    trainings: tuple[TrainedNetwork, ...]


def entries(context: SearchContext, participants: Participants) -> list[FinalEntry]:
    """Return all networks to train: finalists first."""
    problem = context.problem
    networks = [_finalist(problem, f) for f in participants.finalists]
    bands = {f.name: f.band for f in participants.finalists}
    networks += [_baseline(problem, b, bands) for b in participants.baselines]
    folder = context.run_dir / FINALS
    return [FinalEntry(network, folder / network.name) for network in networks]


def _finalist(problem: SearchProblem, f: Finalist) -> FinalNetwork:
    network = _network(problem, f.arch, name=f.name, role=FINALIST, band=f.band, beside=())
    return replace(
        network, measured=f.measured, search_accuracy=f.trial.accuracy, number=f.trial.number
    )


def _baseline(problem: SearchProblem, b: Baseline, bands: Mapping[str, int]) -> FinalNetwork:
    band = bands[b.beside[0]]
    network = _network(problem, b.arch, name=b.name, role=b.role, band=band, beside=b.beside)
    return replace(network, measured=b.measured, published_top1=b.published_top1)


def _network(problem: SearchProblem, arch: Arch, **fields: Any) -> FinalNetwork:
    try:
        low, high = problem.table.interval(arch, classes=problem.classes)
        predicted = float(problem.table.predict(arch, problem.classes)[0])
        ms: tuple[float | None, ...] = (predicted, float(low[0]), float(high[0]))
    except TableError:  # the table lacks an entry, as for most published networks
        ms = (None, None, None)
    return FinalNetwork(
        arch=arch,
        params=cost.params(arch, problem.classes),
        macs=cost.macs(arch, classes=problem.classes),
        predicted_ms=ms[0],
        predicted_low=ms[1],
        predicted_high=ms[2],
        **fields,
    )


@dataclass(frozen=True)
class _Task:
    """The work of one worker: a network with all its seeds."""

    arch: str  # JSON
    recipe: Recipe
    outs: tuple[str, ...]  # a folder per seed
    seeds: tuple[int, ...]
    size: Resolution
    engine: Engine  # of the deployed files
    cache: str
    setup: WorkerSetup
    remote: bool  # whether the worker may not reach the folders
    finished: tuple[
        Mapping[str, bytes], ...
    ] = ()  # if remote: files of earlier trainings, per seed

    def rest(self, n: int) -> _Task:
        """Return what remains after so many seeds."""
        return replace(self, outs=self.outs[n:], seeds=self.seeds[n:], finished=self.finished[n:])


@dataclass(frozen=True)
class _Mismatch:
    """A file that does not compute what its network computes, which ends the run."""

    reason: str
    seed: int
    files: Mapping[str, bytes]  # for the run directory, if the worker does not reach it


def _train_seeds(task: _Task, images: PackedImages) -> Iterator[TrainedNetwork | str | _Mismatch]:
    """Train a network with each seed; a text if it failed. Runs in a worker."""
    worker.prepare(task.setup)
    arch = Arch.from_data(json.loads(task.arch), "arch")
    with tempfile.TemporaryDirectory(prefix="lcnas-final-") as temporary:
        for i, seed in enumerate(task.seeds):
            out = Path(temporary) / f"seed-{seed}" if task.remote else Path(task.outs[i])
            if task.remote and task.finished[i]:
                network_training.write_files(out, task.finished[i])  # read if it is this training
            train = functools.partial(
                network_training.train,
                arch,
                images,
                task.recipe,
                out,
                seed,
                train_size=task.size,
                engine=task.engine,
                batch=task.engine.batch,
                cache=task.cache,
                with_files=task.remote,
            )
            try:
                yield _with_retry(train)
            except ApartError as error:
                files = network_training.finished_files(out) if task.remote else {}
                yield _Mismatch(str(error), seed, files)
                return


def _with_retry(train: Callable[[], TrainedNetwork]) -> TrainedNetwork | str:
    """Return the result of a training, after a retry if necessary; a text if it failed again."""
    for last in (False, True):
        try:
            return train()
        except ApartError:
            raise  # a retry would not mend it, nor leaving the network out
        except LcnasError as error:
            if last:
                return str(error)
    raise AssertionError


def train(
    context: SearchContext, participants: Participants
) -> tuple[list[TrainedEntry], list[str]]:
    """Train all networks, in workers, a network each; return them, and notes.

    Finished trainings are in the run directory at once, and are read by the next call. A network that cannot
    be trained with every seed is left out, and a note says why.

    Raises:
        SearchFailedError: no finalist could be trained, or a disk is full.
    """
    settings, run_dir = context.settings, context.run_dir
    size = run_dir.final_size()
    images = pack(
        context.data,
        size,
        most=settings.final_images,
        most_validation=len(context.data.validation),
        seed=settings.seed,
    )
    recipe = final_recipe(images, settings.final_epochs)
    all_entries = entries(context, participants)
    seeds = tuple(range(settings.final_seeds))
    context.console.detail(
        f"{len(all_entries)} networks x {len(seeds)} seeds, {recipe.epochs} epochs of "
        f"{len(images.train_labels):,} images at {pixels(size or images.size)} px"
    )
    remote = context.execution.address is not None
    all_tasks = [
        _Task(
            arch=e.network.arch.to_json(),
            recipe=recipe,
            outs=tuple(str(e.out(seed)) for seed in seeds),
            seeds=seeds,
            size=size or images.size,
            engine=context.problem.table.engine,
            cache=str(run_dir / CACHE),
            setup=context.worker_setup(local=not remote),
            remote=remote,
            finished=tuple(network_training.finished_files(e.out(seed)) for seed in seeds)
            if remote
            else (),
        )
        for e in all_entries
    ]
    trained: list[list[TrainedNetwork]] = [[] for _ in all_tasks]
    failures: dict[str, str] = {}  # name -> reason
    store_mb = 2 * (images.nbytes >> 20) + 128
    with (
        cluster.started(context.execution.address, settings.workers, store_mb),
        context.console.progress("trained", len(all_tasks) * len(seeds)) as report,
    ):
        for n, (i, result) in enumerate(_results(all_tasks, images), start=1):
            entry = all_entries[i]
            if isinstance(result, _Mismatch):
                _end_run(entry, result)
            if isinstance(result, str):  # the others are trained all the same, and kept
                failures.setdefault(entry.name, result)
            else:
                if remote:
                    network_training.write_files(entry.out(result.seed), result.files)
                trained[i].append(replace(result, files={}))
            report(n, entry.name)
    return _complete(all_entries, trained, failures)


def _results(
    all_tasks: Sequence[_Task], images: PackedImages
) -> Iterator[tuple[int, TrainedNetwork | str | _Mismatch]]:
    """Yield the index of a task and the result of one of its trainings, as trainings finish."""
    return tasks.run_streams("training", _train_seeds, all_tasks, images, _Task.rest)


def _end_run(entry: FinalEntry, mismatch: _Mismatch) -> NoReturn:
    """End the run if a file does not compute what its network computes; its folder keeps the files."""
    out = entry.out(mismatch.seed)
    if mismatch.files:
        network_training.write_files(out, mismatch.files)
    raise ApartError(f"{entry.name}: {mismatch.reason} in {out}")


def _complete(
    all_entries: Sequence[FinalEntry],
    trained: Sequence[list[TrainedNetwork]],
    failures: Mapping[str, str],
) -> tuple[list[TrainedEntry], list[str]]:
    """Return the networks of which all trainings succeeded, and notes on the others.

    Raises:
        SearchFailedError: no finalist could be trained, or a disk is full, so that it is worth another try.
    """
    for name, reason in failures.items():
        if is_full(SearchFailedError(reason)):
            raise SearchFailedError(f"{name}: {reason}")
    finalists = {e.name for e in all_entries if e.network.role == FINALIST} - failures.keys()
    if not finalists:
        name, reason = next(iter(failures.items()))
        raise SearchFailedError(f"{name}: {reason}")
    complete = []
    for entry, trainings in zip(all_entries, trained, strict=True):
        beside = tuple(name for name in entry.network.beside if name in finalists)
        if entry.name in failures or (entry.network.beside and not beside):
            continue
        network = replace(entry.network, beside=beside)
        complete.append(TrainedEntry(replace(entry, network=network), tuple(trainings)))
    return complete, [
        f"{name} was left out, since it could not be trained: {reason}"
        for name, reason in failures.items()
    ]
