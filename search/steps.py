"""A search, step by step: each is told, timed, and not repeated once it is done."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lcnas import cost, latency, spaces, zoo
from lcnas.arch import Arch, Resolution, height_width
from lcnas.budgets import Budget
from lcnas.errors import spelt
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.latency.machine import usable_cores
from lcnas.latency.table import LatencyTable
from lcnas.spaces import Space
from search import cluster, contest, pareto, resolution, supernets, tables, tuning, work
from search.errors import SearchError, SearchFailedError
from search.folder import Folder
from search.outcome import Final, Outcome, pixels
from search.packed import PackedImages, check_fits
from search.settings import Settings
from search.telling import Told
from search.trials import Trial
from search.worker import Setup

if TYPE_CHECKING:
    from lcnas.training.data import Data

OUTCOME, SEARCHED, TABLE, FOUND = "outcome.json", "searched.json", "table", "table.json"
STEPS = (
    "data",
    "space, table and budget",
    "evaluator",
    "search",
    "finalists measured",
    "finalists and baselines trained",
    "test and report",
)


@dataclass(frozen=True)
class Where:
    """Where and how far a search runs; it changes nothing of what comes out."""

    address: str | None = None  # of a Ray cluster
    storage: str | None = None  # of Ray Tune's own files
    until: str | None = None  # the last step to do; None: all


@dataclass(frozen=True)
class Field:
    """What is searched: a space, a table, and the networks within the budget."""

    space: Space
    table: LatencyTable
    here: bool  # whether the table is this machine's
    classes: int
    max_ms: float  # of measured latency
    min_ms: float
    margin: float  # by which a measured network may exceed its prediction, relative
    budget: Budget
    notes_of_table: tuple[str, ...] = ()
    notes_of_budget: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result has to know."""
        return self.notes_of_table + self.notes_of_budget

    @property
    def searched_max_ms(self) -> float:
        """What predictions keep to, so that measured networks keep to the budget."""
        return self.max_ms / (1 + self.margin)


def search(folder: Folder, asked: Settings, where: Where) -> Outcome | None:
    """Do what is left to do of a search, and show what came out; None where it ends before that.

    :func:`check_start` comes first.
    """
    return _Search(folder, asked, where).run()


class _Search:
    """One process's part of a search."""

    def __init__(self, folder: Folder, asked: Settings, where: Where) -> None:
        self.folder = folder
        self.asked = asked
        self.where = where
        self.tell = Told()

    def run(self) -> Outcome | None:
        """Do what is left, and show the result."""
        self.folder.check(self.asked)
        self.folder.mend()
        known = self.folder / OUTCOME
        if known.is_file():
            made: Outcome | None = Outcome.from_json(known.read_text("utf-8"), str(known))
        else:
            self._warn_of_sizes()
            with tuning.stopping_at_once():
                made = self._whole()
        if made is not None:
            self._show(made)
        return made

    def _show(self, made: Outcome) -> None:
        from search import reporting

        shown = self.folder.shown
        reporting.write(made, self.folder.path)
        self.tell.show(reporting.table(made, self.folder.shown))
        self.tell(f"written: {shown}/report.md, report.html, front.json, front.png")

    def _warn_of_sizes(self) -> None:
        """Say first of all that an older run goes on as it began."""
        if self.folder.begun and (sizes := self._sizes_apart()):
            self.tell.line(
                "this run was begun before accuracy and latency were of one resolution: its networks are "
                f"trained and tested at {sizes[0]} px, and timed and exported for {sizes[1]}"
            )

    def _sizes_apart(self) -> tuple[str, str] | None:
        """Return the pixels of a begun run's finals and of their files; None where they are the same."""
        size, deployed = self.folder.final_size(), resolution.one(self._asked()).resolutions[0]
        if size is None or height_width(size) == height_width(deployed):
            return None
        return pixels(size), pixels(deployed)

    def _asked(self) -> Settings:
        """Return what is asked for, with the resolution that was decided."""
        if self.folder.begun:
            return replace(self.asked, resolution=self.folder.settings().resolution)
        return resolution.decided(self.asked)

    def _whole(self) -> Outcome | None:
        with self._step("data"):
            asked = self._asked()
            size = self.folder.final_size() if self.folder.begun else asked.resolution
            data = load_data(asked, size)
            for line in words_of_data(data):
                self.tell(f"  {line}")
            if not self.folder.begun or not self._sizes_apart():
                size_ = pixels(data.size)
                self.tell(f"  resolution: {size_} px, of all that is timed, trained and exported")
        with data:
            if not self.folder.begun and self.where.until != "search":
                check_fits(data, most=asked.filled(1).final_images, seed=asked.seed)
            with self._step("space, table and budget"):
                field = field_of(asked, data.classes, self.tell, self._found())
                for line in words_of_field(field):
                    self.tell(f"  {line}")
            settings = self._begun(asked, field)
            trials = self._searched(settings, field, data)
            front = front_of(trials)
            if self.where.until == "search":
                self._tell_front(trials, front)
                return None
            finals, chosen = self._contest(settings, field, data, trials, front)
            return self._outcome(settings, field, data, trials, front, finals, chosen)

    def _found(self) -> tables.Found | None:
        """Return the table that this search has begun with, if it has."""
        about = self.folder.load(FOUND)
        if about is None:
            return None
        (path,) = (self.folder / TABLE).glob("*.json")
        table, notes = LatencyTable.load(path), tuple(about["notes"])
        here = about["here"] and table.of_this_machine()
        if about["here"] and not here:
            notes += (
                f"went on elsewhere: latencies are those of {table.machine_label}, not of this machine",
            )
        return tables.Found(table, here, notes)

    # -- each step is told and timed --

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        self.tell(f"[{STEPS.index(title) + 1}/{len(STEPS)}] {title}", "bold")
        began = time.monotonic()
        try:
            yield
        finally:
            self.folder.took(title, time.monotonic() - began)
        self.tell(f"  done in {time.monotonic() - began:,.1f} s", "dim")

    def _begun(self, asked: Settings, field: Field) -> Settings:
        """Return the settings with nothing left open: those of the folder, or new ones."""
        if self.folder.begun:
            self._keep(field)
            return self.folder.settings()
        cores = len(usable_cores())
        if self.where.address is not None and self.asked.workers is None:
            with cluster.started(self.where.address, None) as there:
                cores = there.cores
        made = asked.filled(cores)
        self.folder.begin(self.asked, made)
        self._keep(field)
        return made

    def _keep(self, field: Field) -> None:
        """Keep the table, and what is told of it, so that the search goes on with the same."""
        if self.folder.load(FOUND) is None:
            field.table.save(self.folder / TABLE)
            self.folder.save(FOUND, {"here": field.here, "notes": list(field.notes_of_table)})

    # -- the search --

    def _searched(self, settings: Settings, field: Field, data: Data) -> list[Trial]:
        """Return the trials of the search, all of them made."""
        done = self.folder.load(SEARCHED)
        if done is None:
            self._search(settings, field, data)
            made = len(self.folder.trials())
            if not made:
                raise SearchFailedError(
                    f"no network was evaluated within the time budget of {settings.time_budget:g} s"
                    if settings.time_budget is not None
                    else "no network was proposed"
                )
            self.folder.save(SEARCHED, {"trials": made})
        trials = sorted(self.folder.trials(), key=lambda t: t.number)
        if all(t.failed for t in trials):
            why = trials[0].reason if trials else "none was proposed"
            raise SearchFailedError(f"no network could be evaluated: {why}")
        return trials

    def _search(self, settings: Settings, field: Field, data: Data) -> None:
        images = self._seen(settings, data)
        store_mb = 2 * (images.nbytes >> 20) + 128
        with cluster.started(self.where.address, settings.workers, store_mb) as ray:
            with self._step("evaluator"):
                setup = Setup.of(ray.local, settings.blocks)
                call = work.Call(settings, field, images, self.folder, self.tell, setup)
                made = work.evaluator(call)
            with self._step("search"):
                known = self.folder.trials()
                spent = sum(t.seconds for t in known) / max(settings.workers or 1, 1)
                left = None if settings.time_budget is None else settings.time_budget - spent
                stop = tuning.Stop(left)
                with stop.waiting(self.tell), self._progress(settings, known) as record:
                    searcher = work.searcher(settings, field, known, record, stop)
                    storage = self.where.storage or (ray.temporary or self.folder.path) / "tune"
                    workers = min(settings.workers or 1, ray.cores)
                    tuning.run(searcher, made, storage, workers)
                if told := work.predictor_of(searcher):
                    self.tell.line(told["says"])
                    self.folder.save(work.PREDICTOR, told)
                self._tell_trials(self.folder.trials())
                self._tell_evaluator(settings, data)

    def _seen(self, settings: Settings, data: Data) -> PackedImages:
        """Return the images of the search, loaded for the size that its evaluator looks at."""
        size = settings.train_size
        if size is None or height_width(size) == data.size:
            return work.images(settings, data)
        with load_data(settings, size) as small:
            return work.images(settings, small)

    @contextlib.contextmanager
    def _progress(self, settings: Settings, known: Sequence[Trial]) -> Iterator[Any]:
        """Give what records a finished trial, and shows it."""
        trials = list(known)
        with self.tell.progress("networks", settings.trials or 0, len(trials)) as moved:

            def record(trial: Trial) -> None:
                self.folder.add(trial)
                trials.append(trial)
                best = tuning.best_so_far(trials)
                score = best.accuracy if best and best.accuracy is not None else 0.0
                shown = f"{score:.5g}" if settings.evaluator == "proxy" else f"{score:.2%}"
                word = f"best {shown} at {best.latency_ms:.2f} ms" if best else ""
                moved(len(trials), word)

            yield record

    def _tell_trials(self, trials: Sequence[Trial]) -> None:
        failed = [t for t in trials if t.failed]
        self.tell(f"  {len(trials)} networks evaluated, {len(failed)} failed")
        for trial in failed[:3]:
            self.tell(f"  trial {trial.number} failed: {trial.reason}")

    def _tell_evaluator(self, settings: Settings, data: Data) -> None:
        trials = self.folder.trials()
        told = work.about(settings, data, trials, self.folder)
        words = []
        if rate := told.get("images_s"):
            words.append(f"{rate:,.0f} images/s a worker")
        if rate := told.get("supernet", {}).get("images_s"):
            words.append(f"{rate:,.0f} images/s on all its cores")
        if "over_chance" in told:
            words.append(f"best {told['over_chance']:.1%} over chance ({told['chance']:.1%})")
        if settings.evaluator == "supernet":
            words.insert(0, f"{settings.epochs} epochs")
        if words:
            self.tell.line(f"evaluator {settings.evaluator}: {', '.join(words)}")
        self._tell_compiling(sum(_compiling(t) for t in trials))

    def _tell_compiling(self, seconds: float) -> None:
        if seconds:
            self.tell.line(f"compiling: {seconds:,.1f} s, summed over the workers")

    def _tell_front(self, trials: Sequence[Trial], front: Sequence[int]) -> None:
        found = {t.number: t for t in trials}
        for number in front:
            t = found[number]
            self.tell(f"  trial {number}: {t.accuracy:.5g} at {t.latency_ms:.3f} ms")
        self.tell(f"to go on: python -m search.run --resume {self.folder.shown}")

    # -- finalists and baselines --

    def _contest(
        self,
        settings: Settings,
        field: Field,
        data: Data,
        trials: Sequence[Trial],
        front: Sequence[int],
    ) -> tuple[tuple[Final, ...], contest.Chosen]:
        with self._step("finalists measured"):
            chosen = contest.chosen(settings, field, trials, front, self.folder, self.tell)
        with self._step("finalists and baselines trained"):
            trained, left_out = contest.trained(
                settings, field, data, chosen, self.folder, self.where, self.tell
            )
            for note in left_out:
                self.tell(f"  {note}")
            self._tell_compiling(sum(run.compile_seconds for _, runs in trained for run in runs))
        with self._step("test and report"):
            tested, said = contest.tested(field, data, trained, self.folder)
            for note in said:
                self.tell(f"  {note}")
        return tested, replace(chosen, notes=(*chosen.notes, *left_out, *said))

    def _outcome(
        self,
        settings: Settings,
        field: Field,
        data: Data,
        trials: Sequence[Trial],
        front: Sequence[int],
        finals: tuple[Final, ...],
        chosen: contest.Chosen,
    ) -> Outcome:
        config = self.folder.config()
        told = work.about(settings, data, trials, self.folder)
        made = Outcome(
            settings=config["settings"],
            surroundings={**config["surroundings"], "git": config["git"]},
            space=field.space.name,
            table=field.table.machine_label,
            on_this_machine=field.here,
            max_latency_ms=field.max_ms,
            min_latency_ms=field.min_ms,
            searched_max_ms=field.searched_max_ms,
            networks=field.budget.count_bounds()[0],
            synthetic=data.spec.partition(":")[0] == "synthetic",
            trials=len(trials),
            failed=sum(t.failed for t in trials),
            evaluator=str(settings.evaluator),
            searcher=settings.searcher,
            front=tuple(front),
            finals=finals,
            times=self.folder.times(),
            compile_seconds=_compile_seconds(trials, finals, told),
            evaluation=told,
            notes=(*field.notes, *chosen.notes),
            put_up=chosen.put_up,
            tested_by=contest.tested_by(field),
            measured_by=contest.measured_by(field, finals),
        )
        self.folder.write(OUTCOME, made.to_json())
        return made


def _compile_seconds(
    trials: Sequence[Trial], finals: Sequence[Final], told: Mapping[str, Any]
) -> float:
    own = sum(_compiling(t) for t in trials)
    trained = told.get("supernet", {})
    own += 0.0 if trained.get(supernets.TAKEN) else float(trained.get("compile_seconds", 0.0))
    return own + sum(run.compile_seconds for final in finals for run in final.runs)


def _compiling(trial: Trial) -> float:
    return float(trial.details.get("compile_seconds", 0.0))


# -- what is searched ------------------------------------------------------------------------------


def check_start(folder: Folder, asked: Settings, where: Where) -> None:
    """Refuse what can be refused before anything is shown or written; a search that is over lacks nothing.

    Raises:
        LcnasError: as by :func:`check`.
    """
    if not (folder / OUTCOME).is_file():
        check(asked, where.address)


def check(asked: Settings, address: str | None = None) -> None:
    """Refuse what needs neither images nor a table to be refused: spaces, weights, a cluster's address.

    Raises:
        SpaceError: there is no such space, or it has several resolutions.
        SearchError: a supernet cannot hold the space, or there are no such weights, or no such cluster.
    """
    space = resolution.one(asked)
    if asked.evaluated_by == "supernet" and (why := work.not_maskable(space)):
        raise SearchError(f"evaluator: a supernet cannot hold {space.name}: {why}")
    if asked.init is not None:
        work.check_weights(asked.init)
    if address is not None:
        cluster.check(address)


def load_data(asked: Settings, size: Resolution | None) -> Data:
    """Return the images that a search learns from, as they are needed for networks of that many pixels."""
    from lcnas.training.data import load

    labels = asked.permute_labels
    return load(asked.data, size=size, max_bad=asked.max_bad, permute_labels=labels)


def field_of(asked: Settings, classes: int, tell: Told, found: tables.Found | None = None) -> Field:
    """Return what is searched; rows that the table lacks are measured first.

    Args:
        asked: the settings.
        classes: of the data.
        tell: says what happens.
        found: the table that the search has begun with; None: the one that fits.

    Raises:
        SearchError: no network meets the budget; names the lowest latency.
        BudgetError: no network is within both of its bounds.
    """
    space = spaces.load(asked.space, asked.resolution)
    found = found or tables.find(space, _engine(asked), classes, table=asked.table, say=tell.line)
    table = found.table
    notes = []
    span = tables.span(space, table, classes)
    max_ms = asked.max_latency_ms or span.high
    min_ms = asked.min_latency_ms or min(span.low, max_ms)
    margin = tables.margin(table, space=space)
    notes += [span.note] if span.note else []
    if asked.evaluated_by == "supernet":
        space, said = narrowed(space, table, classes, max_ms)
        notes.append(said)
    lowest = latency.Budget(space, table, float("inf"), classes=classes).lowest / 1000
    kept = max_ms / (1 + margin)  # what predictions keep to
    if min_ms >= kept and asked.min_latency_ms is not None:
        raise SearchError(
            f"min_latency_ms: {min_ms:g} is not below {kept:.3f}, which predictions keep to so that networks "
            f"are measured within {max_ms:g} ms; give less, or a higher max_latency_ms"
        )
    if lowest > kept:
        raise SearchError(
            f"max_latency_ms: no network of {space.name} would be measured within {max_ms:g} ms: "
            f"predictions are kept to {kept:.3g}, and the lowest is {lowest:.3f} ms; "
            f"give {least_budget(lowest, margin):g} or more"
        )
    if min_ms >= kept:
        min_ms = min(lowest, min_ms)
    budget = latency.Budget(space, table, kept, min_ms, classes)
    low, high = budget.count_bounds()
    if low != high:
        notes.append(f"networks in the budget: at least {low:,} and at most {high:,}")
    return Field(
        space, table, found.here, classes, max_ms, min_ms, margin, budget, found.notes, tuple(notes)
    )


def least_budget(lowest: float, margin: float) -> float:
    """Return the least budget in ms, rounded up to three digits, whose margin leaves ``lowest``.

    >>> least_budget(0.2234, 0.1), least_budget(2.0, 0.0)
    (0.246, 2.0)
    """
    least = lowest * (1 + margin)
    step = 10.0 ** (math.floor(math.log10(least)) - 2)
    return round(math.ceil(least / step) * step, 9)


def narrowed(space: Space, table: LatencyTable, classes: int, max_ms: float) -> tuple[Space, str]:
    """Return a space cut to the widths of the largest PP-LCNet in the budget, and what was cut."""
    scales = _scales_within(space, table, classes, max_ms)
    within = [arch for arch in scales if len(arch.stages) == len(space.elements)]
    if not within:
        why = "has as many stages as the space" if scales else "is in the budget"
        return space, f"no scale of PP-LCNet {why}: the supernet holds the whole space"
    from lcnas.models import supernet

    made, said = supernet.narrowed(space, within[-1])
    return made, f"the supernet holds widths up to those of {within[-1].name}: {said}"


def _scales_within(space: Space, table: LatencyTable, classes: int, max_ms: float) -> list[Arch]:
    """Return the published scales of PP-LCNet that are in a budget by a table, from the smallest on."""
    scales = tables.published_scales(space)
    known = tables.predicted(table, scales, classes)
    return [a for a in scales if known.get(a.id, max_ms + 1) <= 1.001 * max_ms]


def _engine(asked: Settings) -> Engine | None:
    """Return the engine that is asked for; None: that of the table."""
    plain = (asked.engine, asked.threads, asked.precision, asked.batch) == (None, 1, "fp32", 1)
    if plain and asked.table is not None:
        return None
    return engines.engine(
        asked.engine, threads=asked.threads, precision=asked.precision, batch=asked.batch
    )


def words_of_data(data: Data) -> list[str]:
    """Return what the images are, in a line, and what is to be told of them, in more."""
    n = len(data.train), len(data.validation), len(data.test)
    made = f"{spelt(data.spec)}, {data.classes} classes; {n[0]:,} images to train, {n[1]:,} to validate, "
    skipped = [f"note: {len(data.skipped):,} damaged images are left out"] if data.skipped else []
    return [f"{made}{n[2]:,} to test", *skipped, *(f"note: {note}" for note in data.notes)]


def words_of_field(field: Field) -> list[str]:
    """Return what is searched, in lines."""
    whose = "this machine's" if field.here else "another machine's"
    low, high = field.budget.count_bounds()
    count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [
        f"table: {field.table.machine_label} ({whose})",
        f"budget: {field.min_ms:.3f} to {field.max_ms:.3f} ms measured",
        _words_of_margin(field),
        f"networks of {field.space.name} within: {count} of {field.space.size:,}",
        *(f"note: {note}" for note in field.notes),
    ]


def _words_of_margin(field: Field) -> str:
    return (
        f"predictions up to {field.searched_max_ms:.3f} ms: 90 % of networks are measured at most "
        f"{field.margin:.1%} above theirs"
    )


def front_of(trials: Sequence[Trial]) -> list[int]:
    """Return the numbers of the trials that no other one dominates, the fastest first."""
    whole = [t for t in trials if not t.failed and t.details.get("stopped") is None]
    whole = whole or [t for t in trials if not t.failed]
    found = [whole[i] for i in pareto.front(pareto.points(whole))]
    return [t.number for t in sorted(found, key=lambda t: t.latency_ms)]


# -- what would be done ----------------------------------------------------------------------------

_MACS_S = 2.0e9  # that one core trains, forward pass alone counted; rough
_COMPILE_S = 28.0  # seconds for a network, rough


def dry_run(asked: Settings, address: str | None = None) -> str:
    """Return what a search would do, how many networks there are, and about how long it would take.

    Args:
        asked: the settings.
        address: of the Ray cluster that would do it; None: this machine would.
    """
    check(asked, address)
    cores = len(usable_cores())
    if address is not None:
        with cluster.started(address, asked.workers) as there:
            cores = there.cores
    asked = resolution.decided(asked)
    with load_data(asked, asked.resolution) as data:
        space = resolution.one(asked)
        made = asked.filled(cores)
        check_fits(data, most=made.final_images, seed=made.seed)
        lines = words_of_data(data)
        missing = tables.missing(space, _engine(asked), data.classes, table=asked.table)
        typical = zoo.load(f"{tables.family(space)}_0.5x", asked.resolution)
        if missing:
            lines += [missing, "the number of networks is known once these are measured"]
        else:
            tell = Told()
            field = field_of(asked, data.classes, tell)
            lines += words_of_field(field)
            within = _scales_within(space, field.table, data.classes, field.max_ms)
            typical = within[(len(within) - 1) // 2] if within else typical
        lines += [f"{k}: {spelt(str(v))}" for k, v in made.to_data().items() if v is not None]
        lines.append(estimate(made, typical, data))
    return "\n".join(lines)


def estimate(settings: Settings, typical: Arch, data: Data) -> str:
    """Return a rough estimate of the time of the search and of the finals, in words.

    All networks are taken to train as fast as a typical one.
    """
    size = settings.train_size or typical.resolution
    macs = max(cost.macs(typical, size, data.classes), 1)
    final_macs = max(cost.macs(typical, settings.resolution, data.classes), 1)
    workers = settings.workers or 1
    images = min(settings.images or len(data.train), len(data.train))
    each = _COMPILE_S + images * (settings.epochs or 1) * macs / _MACS_S
    if settings.evaluator != "train":
        each = 1.5
    search_s = (settings.trials or 0) * each / workers
    if settings.evaluator == "supernet":  # trained by one process; four networks see each image
        search_s += 4 * images * (settings.epochs or 1) * macs / _MACS_S + _COMPILE_S
    final_images = min(settings.final_images or len(data.train), len(data.train))
    one = final_images * (settings.final_epochs or 1) * final_macs / _MACS_S
    networks = (settings.finalists or 0) * (3 if settings.baselines else 1)
    # Seeds share programs.
    final_s = networks * (_COMPILE_S + (settings.final_seeds or 1) * one) / workers
    return (
        f"about {search_s / 60:.0f} min of searching and {final_s / 60:.0f} min of training finalists and "
        f"baselines on {workers} workers (a rough guess)"
    )
