"""The end of a search: finalists measured beside baselines, all trained from scratch, then tested once."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lcnas import cost
from lcnas.arch import Arch, Resolution
from lcnas.errors import LcnasError, TableError
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.latency.table import MeasuredNetwork
from lcnas.training import deployed
from lcnas.training import run as files
from lcnas.training.checkpoints import is_full
from lcnas.training.data import Test, require
from lcnas.training.interrupts import Stopped
from lcnas.training.recipes import Recipe
from search import baselines, cluster, finalists, finals, tables, worker
from search.baselines import Baseline
from search.errors import SearchFailedError
from search.finalists import Bench, Finalist
from search.finals import Trained
from search.folder import Folder
from search.outcome import Final, Run, pixels
from search.packed import PackedImages, pack
from search.settings import Settings
from search.telling import Told
from search.trials import Trial
from search.worker import Setup

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from search.steps import Field, Where

MEASURED, FINALS, NETWORKS = "measured.json", "finals", "networks"
# Which test images a file gets right: the delivered one, its fp32 twin; of an older run, last.onnx.
HITS, HITS_FP32, HITS_LAST = "network-hits.npy", "network-fp32-hits.npy", "hits.npy"
_AGAIN = 2  # times that what a lost worker had left to train is given to another


@dataclass(frozen=True)
class Chosen:
    """Who takes part."""

    finalists: tuple[Finalist, ...]
    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...]
    put_up: int = 0  # networks that were measured for a finalist's place; 0: none was measured


# -- choosing and measuring ------------------------------------------------------------------------


def chosen(
    settings: Settings,
    field: Field,
    trials: Sequence[Trial],
    front: Sequence[int],
    folder: Folder,
    tell: Told,
) -> Chosen:
    """Return finalists and baselines, measured as whole networks where that is this machine's business."""
    queues = finalists.choose(
        trials,
        front,
        field.min_ms,
        field.searched_max_ms,
        bands=int(settings.bands or 1),
        n=int(settings.finalists or 1),
    )
    measured = field.here if settings.remeasure is None else settings.remeasure
    if not measured:
        return _by_table(
            settings, field, finalists.remeasure(queues, field.space, field.max_ms, None)
        )
    bench = Bench(
        folder / MEASURED, _engine(field), field.classes, seed=settings.seed, say=tell.line
    )
    rivals = _rivals(settings, field)
    found = finalists.remeasure(queues, field.space, field.max_ms, bench, rivals)
    notes = [*found.notes, *_pace(bench, field)]
    beside: tuple[Baseline, ...] = ()
    if rivals is not None:
        made = rivals.found(found.finalists, bench)
        beside, notes = made.baselines, [*notes, *made.notes]
    if field.here and settings.table is None:
        _teach(field, finalists.learnt(field.table, bench, found.measured, field.space), tell)
    for f in found.finalists:
        assert f.measured is not None
        tell.line(
            f"{f.name}: predicted {f.trial.latency_ms:.3f} ms, measured {f.measured.ms:.3f} ms"
        )
    return Chosen(found.finalists, beside, tuple(notes), len(found.measured))


def _teach(field: Field, networks: Sequence[MeasuredNetwork], tell: Told) -> None:
    """Add what was measured to the table that the next search finds; this one goes on with its own copy."""
    try:
        path = tables.learn(field.table, networks)
    except (
        LcnasError,
        OSError,
    ) as error:  # such as a folder that cannot be written: no reason to stop
        tell.line(f"table: what was measured was not added: {error}")
        return
    if path is not None:
        tell.line(f"table: what was measured joins {path}, by which the next search goes")


def _engine(field: Field) -> Engine:
    """Return the table's engine as it is on this machine."""
    e = field.table.engine
    if field.here:
        return e
    return engines.engine(e.name, threads=e.threads, precision=e.precision, batch=e.batch)


def _rivals(settings: Settings, field: Field) -> baselines.Rivals | None:
    if not settings.baselines:
        return None
    return baselines.Rivals(field.space, field.table, field.classes)


def _by_table(settings: Settings, field: Field, found: finalists.Remeasured) -> Chosen:
    if not settings.baselines:
        return Chosen(found.finalists, (), found.notes)
    made = baselines.by_table(found.finalists, field.space, field.table, field.classes)
    return Chosen(found.finalists, made.baselines, (*found.notes, *made.notes))


def _pace(bench: Bench, field: Field) -> list[str]:
    """Return the note that this machine ran at another pace than when its table was made."""
    found = finalists.pace(bench, field.table)
    if found is None or finalists.of_its_pace(found):
        return []
    return [
        f"this machine took {found:.2f} times as long as when the table was made, for the reference network"
    ]


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A network that is trained, and where."""

    final: Final  # without runs
    folder: Path

    def out(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"


def entries(field: Field, who: Chosen, folder: Folder) -> list[Entry]:
    """Return all that is trained: finalists first."""
    made = [_finalist(field, f) for f in who.finalists]
    bands = {f.name: f.band for f in who.finalists}
    made += [_baseline(field, b, bands) for b in who.baselines]
    return [Entry(final, folder / FINALS / final.name) for final in made]


def _finalist(field: Field, f: Finalist) -> Final:
    made = _final(field, f.arch, name=f.name, role="finalist", band=f.band, beside=())
    return replace(
        made, measured=f.measured, search_accuracy=f.trial.accuracy, number=f.trial.number
    )


def _baseline(field: Field, b: Baseline, bands: Mapping[str, int]) -> Final:
    band = bands[b.beside[0]]
    made = _final(field, b.arch, name=b.name, role=b.role, band=band, beside=b.beside)
    return replace(made, measured=b.measured, published_top1=b.published_top1)


def _final(field: Field, arch: Arch, **known: Any) -> Final:
    try:
        low, high = field.table.interval(arch, classes=field.classes)
        predicted = float(field.table.predict(arch, field.classes)[0])
        ms: tuple[float | None, ...] = (predicted, float(low[0]), float(high[0]))
    except TableError:  # a row that the table lacks, as of most published networks
        ms = (None, None, None)
    return Final(
        arch=arch,
        params=cost.params(arch, field.classes),
        macs=cost.macs(arch, classes=field.classes),
        predicted_ms=ms[0],
        predicted_low=ms[1],
        predicted_high=ms[2],
        **known,
    )


@dataclass(frozen=True)
class _Task:
    """What one worker does: a network, with all its seeds."""

    arch: str  # JSON
    recipe: Recipe
    outs: tuple[str, ...]  # a folder each seed
    seeds: tuple[int, ...]
    size: Resolution
    engine: Engine  # that the delivered files are for
    cache: str
    setup: Setup
    far: bool  # whether the folders may be out of the worker's reach
    finished: tuple[
        Mapping[str, bytes], ...
    ] = ()  # if far: files of what was trained before, a seed each

    def after(self, n: int) -> _Task:
        """Return what is left of it after so many seeds."""
        return replace(self, outs=self.outs[n:], seeds=self.seeds[n:], finished=self.finished[n:])


@dataclass(frozen=True)
class _Apart:
    """A file that does not compute what its network does, which ends the run."""

    reason: str
    seed: int
    files: Mapping[str, bytes]  # to be kept in the run's folder, if the worker does not reach that


def _work(task: _Task, images: PackedImages) -> Iterator[Trained | str | _Apart]:
    """Train a network with each seed; a text where it failed. Runs in a worker."""
    worker.prepare(task.setup)
    arch = Arch.from_data(json.loads(task.arch), "arch")
    with tempfile.TemporaryDirectory(prefix="lcnas-final-") as here:
        for i, seed in enumerate(task.seeds):
            place = Path(here) / f"seed-{seed}" if task.far else Path(task.outs[i])
            if task.far and task.finished[i]:
                finals.settle(place, task.finished[i])  # it is read back, if it is this training
            train = functools.partial(
                finals.train,
                arch,
                images,
                task.recipe,
                place,
                seed,
                train_size=task.size,
                engine=task.engine,
                batch=task.engine.batch,
                cache=task.cache,
                bring=task.far,
            )
            try:
                yield _twice(train)
            except finals.ApartError as error:
                yield _Apart(str(error), seed, finals.finished(place) if task.far else {})
                return


def _twice(train: Callable[[], Trained]) -> Trained | str:
    """Return what was trained, at the second attempt if need be; a text why it failed then too."""
    for last in (False, True):
        try:
            return train()
        except finals.ApartError:
            raise  # neither another attempt nor leaving it out would make it right
        except LcnasError as error:
            if last:
                return str(error)
    raise AssertionError


def trained(
    settings: Settings,
    field: Field,
    data: Data,
    who: Chosen,
    folder: Folder,
    where: Where,
    tell: Told,
) -> tuple[list[tuple[Entry, list[Trained]]], list[str]]:
    """Return all networks with their trainings, done by workers side by side, a network each; and notes.

    What is finished lies in the folder at once, and is read back by the next call. A network that could not
    be trained with every seed is left out, and a note says why.

    Raises:
        SearchFailedError: no finalist could be trained, or a disk is full.
    """
    size = folder.final_size()
    shown = pack(
        data,
        size,
        most=settings.final_images,
        most_validation=len(data.validation),
        seed=settings.seed,
    )
    recipe = finals.final_recipe(shown, int(settings.final_epochs or 1))
    all_entries = entries(field, who, folder)
    seeds = tuple(range(int(settings.final_seeds or 1)))
    tell.line(
        f"{len(all_entries)} networks x {len(seeds)} seeds, {recipe.epochs} epochs of "
        f"{len(shown.train_labels):,} images at {pixels(size or shown.size)} px"
    )
    far = where.address is not None
    tasks = [
        _Task(
            arch=e.final.arch.to_json(),
            recipe=recipe,
            outs=tuple(str(e.out(seed)) for seed in seeds),
            seeds=seeds,
            size=size or shown.size,
            engine=field.table.engine,
            cache=str(folder / "cache"),
            setup=Setup.of(not far, settings.blocks),
            far=far,
            finished=tuple(finals.finished(e.out(seed)) for seed in seeds) if far else (),
        )
        for e in all_entries
    ]
    store_mb = 2 * (shown.nbytes >> 20) + 128
    done: list[list[Trained]] = [[] for _ in tasks]
    failed: dict[str, str] = {}  # name -> why
    with (
        cluster.started(where.address, settings.workers, store_mb),
        tell.progress("trained", len(tasks) * len(seeds)) as moved,
    ):
        for n, (i, one) in enumerate(_side_by_side(tasks, shown), start=1):
            if isinstance(one, _Apart):
                _ended(all_entries[i], one)
            if isinstance(one, str):  # the others are trained all the same, and kept
                failed.setdefault(all_entries[i].final.name, one)
            else:
                if far:
                    finals.settle(all_entries[i].out(one.seed), one.files)
                done[i].append(replace(one, files={}))
            moved(n, all_entries[i].final.name)
    return _whole(all_entries, done, failed)


def _ended(entry: Entry, apart: _Apart) -> NoReturn:
    """End the run where a file does not compute what its network does; its folder keeps the files."""
    out = entry.out(apart.seed)
    if apart.files:
        finals.settle(out, apart.files)
    raise finals.ApartError(f"{entry.final.name}: {apart.reason} in {out}")


def _whole(
    all_entries: Sequence[Entry], done: Sequence[list[Trained]], failed: Mapping[str, str]
) -> tuple[list[tuple[Entry, list[Trained]]], list[str]]:
    """Return the networks of which all trainings succeeded, and notes about the others.

    Raises:
        SearchFailedError: no finalist could be trained, or a disk is full, so that it is worth another try.
    """
    for name, why in failed.items():
        if is_full(SearchFailedError(why)):
            raise SearchFailedError(f"{name}: {why}")
    heads = {e.final.name for e in all_entries if e.final.role == "finalist"} - failed.keys()
    if not heads:
        name, why = next(iter(failed.items()))
        raise SearchFailedError(f"{name}: {why}")
    made = []
    for entry, runs in zip(all_entries, done, strict=True):
        beside = tuple(name for name in entry.final.beside if name in heads)
        if entry.final.name in failed or (entry.final.beside and not beside):
            continue
        made.append((replace(entry, final=replace(entry.final, beside=beside)), runs))
    return made, [
        f"{name} was left out, since it could not be trained: {why}" for name, why in failed.items()
    ]


def _side_by_side(
    tasks: Sequence[_Task], shown: PackedImages
) -> Iterator[tuple[int, Trained | str | _Apart]]:
    """Yield the number of a task and a training of it as that ends, in the order of its seeds.

    What a worker had left to do when it went away is given to another one.
    """
    import ray

    given = ray.put(shown)
    # A process a network: what JAX has compiled for one is of no use to the next. Ray's own retries would
    # begin a task again from its first seed.
    remote: Any = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(_work)
    ended, lost = [0] * len(tasks), [0] * len(tasks)
    waiting: dict[Any, int] = {remote.remote(task, given): i for i, task in enumerate(tasks)}
    while waiting:
        ready: list[Any] = ray.wait(list(waiting))[0]
        for stream in ready:
            i = waiting[stream]
            try:
                made: Trained | str | _Apart = ray.get(next(stream))
            except StopIteration:
                del waiting[stream]
                continue
            except ray.exceptions.RayError as error:
                del waiting[stream]
                lost[i] += 1
                fault = isinstance(error, ray.exceptions.RayTaskError) and not isinstance(
                    error.cause,
                    Stopped,  # by a signal, as a machine's that is taken away in good order
                )
                if fault or lost[i] > _AGAIN:
                    raise SearchFailedError(
                        f"training: a worker failed: {cluster.reason(error)}"
                    ) from None
                waiting[remote.remote(tasks[i].after(ended[i]), given)] = i
                continue
            ended[i] += 1
            yield i, made


# -- testing ---------------------------------------------------------------------------------------


def tested(
    field: Field,
    data: Data,
    made: Sequence[tuple[Entry, list[Trained]]],
    folder: Folder,
) -> tuple[tuple[Final, ...], tuple[str, ...]]:
    """Return all networks with their accuracies, and notes; winners are named before test images are read.

    The exported files are run, on the engine whose latency is printed, over images read from their originals
    and prepared as ``lcnas.classify`` prepares them. In a run of version 1, whose networks were trained at
    another size than they are exported for, it is the file of the training size.
    """
    winners = _winners(made)
    engine, note = deployed.local_engine(field.table.engine)
    _test(data, made, engine)
    out = []
    for entry, runs in made:
        final = replace(entry.final, winner=entry.final.name in winners)
        _collect(entry, max(runs, key=lambda one: one.validation), folder)
        out.append(replace(final, runs=tuple(_run(entry, one, engine, folder) for one in runs)))
    return tuple(out), (note,) if note else ()


def tested_by(field: Field) -> str:
    """Return the engine that runs exported files for their accuracies, as a report names it."""
    return deployed.local_engine(field.table.engine)[0].label


def measured_by(field: Field, finals_: Sequence[Final]) -> str:
    """Return the engine of the measured latencies, as a report names it; "" where none was measured."""
    return _engine(field).label if any(f.measured is not None for f in finals_) else ""


def _test(data: Data, made: Sequence[tuple[Entry, list[Trained]]], engine: Engine) -> None:
    """Run all files over the test images that have not been run yet, and keep which images they get right."""
    files: dict[str, Path] = {}
    twins: dict[str, Path] = {}
    for entry, runs in made:
        for one in runs:
            out = entry.out(one.seed)
            if one.is_deployed:
                files |= _lacking(out / HITS, out / one.onnx)
            elif not (out / HITS_LAST).is_file():
                finals.save_hits(out / HITS_LAST, finals.test_hits(out, data))
            if one.is_deployed and engine.precision != "fp32":
                twin = out / finals.FP32
                twins |= _lacking(out / HITS_FP32, twin if twin.is_file() else out / one.onnx)
    for wanted, by in ((files, engine), (twins, deployed.with_precision(engine, "fp32"))):
        if wanted:
            for path, found in deployed.hits(
                wanted, data, require(data.test, Test), engine=by
            ).items():
                finals.save_hits(path, found.correct)


def _lacking(hits: Path, file: Path) -> dict[str, Path]:
    return {} if hits.is_file() else {str(hits): file}


def _collect(entry: Entry, best: Trained, folder: Folder) -> None:
    """Copy the network of the best seed by validation to where all of them lie together, under its name."""
    target = folder / NETWORKS / f"{entry.final.name}.onnx"
    with files.unwritable(target.parent):
        target.parent.mkdir(exist_ok=True)
        beside = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(entry.out(best.seed) / best.onnx, beside)
        beside.replace(target)


def _winners(made: Sequence[tuple[Entry, list[Trained]]]) -> set[str]:
    """Return the name of the best finalist of each band by validation accuracy, mean over seeds."""
    best: dict[int, tuple[float, str]] = {}
    # Workers without the engine validate by another: then what all have in common counts, fp32.
    mixed = len({one.engine for _, runs in made for one in runs}) > 1
    for entry, runs in made:
        final = entry.final
        if final.role == "finalist":
            mean = float(np.mean([one.fp32 if mixed else one.validation for one in runs]))
            if final.band not in best or mean > best[final.band][0]:
                best[final.band] = (mean, final.name)
    return {name for _, name in best.values()}


def _run(entry: Entry, one: Trained, engine: Engine, folder: Folder) -> Run:
    out = entry.out(one.seed)
    path, twin = out / (HITS if one.is_deployed else HITS_LAST), out / HITS_FP32
    return Run(
        seed=one.seed,
        validation=one.validation,
        test=_share(path),
        onnx=str((out / one.onnx).relative_to(folder.path)),
        hits=str(path.relative_to(folder.path)),
        seconds=one.seconds,
        compile_seconds=one.compile_seconds,
        images_s=one.images_s,
        resolution=one.size,
        precision=engine.precision if one.is_deployed else "fp32",
        test_fp32=_share(twin) if one.is_deployed and twin.is_file() else None,
    )


def _share(path: Path) -> float:
    return float(np.load(path, allow_pickle=False).mean())
