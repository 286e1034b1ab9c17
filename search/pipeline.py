"""The steps of a search: each is announced, timed, and not repeated once it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lcnas import commandline
from lcnas.arch import height_width
from lcnas.latency.machine import usable_cores
from lcnas.latency.table import LatencyTable
from search import data_sets, evaluator_report, pareto, problem, proposing, resolution, tables
from search.console import Console, Progress
from search.context import SearchContext
from search.distributed import cluster, tuning
from search.errors import SearchFailedError
from search.evaluators.context import EvaluatorContext, prepare
from search.finals import participants, testing, training
from search.finals.participants import Participants
from search.outcome import FinalNetwork, Outcome, pixels
from search.packed import check_fits
from search.problem import SearchProblem
from search.run_dir import OUTCOME, PREDICTOR, SEARCHED, TABLE, TABLE_INFO, TUNE, RunDir
from search.settings import ExecutionOptions, ResolvedSettings, Settings
from search.trials import Trial

if TYPE_CHECKING:
    from lcnas.training.data import Data

STEPS = (
    "data",
    "space, table and budget",
    "evaluator",
    "search",
    "finalists measured",
    "finalists and baselines trained",
    "test and report",
)


class SearchPipeline:
    """Executes the remaining steps of a search in its run directory, and writes the report.

    :func:`search.preflight.check_start` comes first.

    Args:
        run_dir: the run directory, locked by this process.
        asked: the settings as asked for.
        execution: where the search runs and how far.
    """

    def __init__(self, run_dir: RunDir, asked: Settings, execution: ExecutionOptions) -> None:
        self.run_dir = run_dir
        self.asked = asked
        self.execution = execution
        self.console = Console()

    def run(self) -> Outcome | None:
        """Execute the remaining steps; return the outcome, or None if the search ends before it.

        Raises:
            LcnasError: a step failed; its finished work is kept.
        """
        self.run_dir.check(self.asked)
        self.run_dir.repair()
        path = self.run_dir / OUTCOME
        if path.is_file():
            outcome: Outcome | None = Outcome.from_json(path.read_text("utf-8"), str(path))
        else:
            self._warn_of_resolutions()
            with tuning.stopping_at_once():
                outcome = self._steps()
        if outcome is not None:
            from search import reporting

            reporting.write(outcome, self.run_dir.path)
        return outcome

    # -- older runs --

    def _warn_of_resolutions(self) -> None:
        """Warn that an older run continues with two resolutions."""
        if self.run_dir.begun and (sizes := self._differing_resolutions()):
            self.console.detail(
                "this run was begun before accuracy and latency were of one resolution: its networks are "
                f"trained and tested at {sizes[0]} px, and timed and exported for {sizes[1]}"
            )

    def _differing_resolutions(self) -> tuple[str, str] | None:
        """Return the resolutions of an older run's final trainings and of their files; None if equal."""
        trained = self.run_dir.final_size()
        deployed = resolution.space_of(self._resolved_resolution()).resolutions[0]
        if trained is None or height_width(trained) == height_width(deployed):
            return None
        return pixels(trained), pixels(deployed)

    def _resolved_resolution(self) -> Settings:
        """Return the settings as asked for, with the resolution of the search."""
        if self.run_dir.begun:
            return replace(self.asked, resolution=self.run_dir.settings().resolution)
        return resolution.resolve(self.asked)

    # -- the steps --

    def _steps(self) -> Outcome | None:
        with self._step("data"):
            asked = self._resolved_resolution()
            data = self._load_data(asked)
        with data:
            if not self.run_dir.begun and self.execution.until != "search":
                most = asked.resolve(1).final_images
                check_fits(data, most=most, seed=asked.seed)
            with self._step("space, table and budget"):
                defined = problem.define(
                    asked, data.classes, self.console.detail, self._table_of_run()
                )
                self._print_lines(defined.describe())
            settings = self._begin(asked, defined)
            context = SearchContext(
                settings, defined, data, self.run_dir, self.console, self.execution
            )
            trials = self._trials(context)
            front = front_of(trials)
            if self.execution.until == "search":
                self._print_front(trials, front)
                return None
            networks, notes, selected = self._final_evaluation(context, trials, front)
            return self._outcome(context, trials, front, networks, notes, selected)

    def _load_data(self, asked: Settings) -> Data:
        size = self.run_dir.final_size() if self.run_dir.begun else asked.resolution
        data = data_sets.load(asked, size)
        self._print_lines(data_sets.describe(data))
        if not self.run_dir.begun or not self._differing_resolutions():
            size_ = pixels(data.size)
            self.console.detail(
                f"resolution: {size_} px, of all that is timed, trained and exported"
            )
        return data

    def _table_of_run(self) -> tables.ResolvedTable | None:
        """Return the table that this search has started with, if it has."""
        info = self.run_dir.load(TABLE_INFO)
        if info is None:
            return None
        (path,) = (self.run_dir / TABLE).glob("*.json")
        table, notes = LatencyTable.load(path), tuple(info["notes"])
        on_this_machine = info["here"] and table.of_this_machine()
        if info["here"] and not on_this_machine:
            notes += (
                f"resumed elsewhere: latencies are those of {table.machine_label}, not of this machine",
            )
        return tables.ResolvedTable(table, on_this_machine, notes)

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        """Announce and time a step."""
        self.console.print(f"[{STEPS.index(title) + 1}/{len(STEPS)}] {title}", "bold")
        began = time.monotonic()
        try:
            yield
        finally:
            self.run_dir.add_time(title, time.monotonic() - began)
        self.console.print(f"  done in {time.monotonic() - began:,.1f} s", "dim")

    def _print_lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.console.detail(line)

    def _begin(self, asked: Settings, defined: SearchProblem) -> ResolvedSettings:
        """Return the settings of the run directory, or resolve them and begin the run."""
        if self.run_dir.begun:
            self._keep_table(defined)
            return self.run_dir.settings()
        cores = len(usable_cores())
        if self.execution.address is not None and self.asked.workers is None:
            with cluster.started(self.execution.address, None) as ray:
                cores = ray.cores
        settings = asked.resolve(cores)
        self.run_dir.begin(self.asked, settings)
        self._keep_table(defined)
        return settings

    def _keep_table(self, defined: SearchProblem) -> None:
        """Copy the table and its notes into the run directory, so that a resumed search has the same."""
        if self.run_dir.load(TABLE_INFO) is None:
            defined.table.save(self.run_dir / TABLE)
            info = {"here": defined.on_this_machine, "notes": list(defined.table_notes)}
            self.run_dir.save(TABLE_INFO, info)

    # -- trials --

    def _trials(self, context: SearchContext) -> list[Trial]:
        """Return the trials of the search, once all are done."""
        settings = context.settings
        if self.run_dir.load(SEARCHED) is None:
            self._search(context)
            count = len(self.run_dir.trials())
            if not count:
                raise SearchFailedError(
                    f"no network was evaluated within the time budget of {settings.time_budget:g} s"
                    if settings.time_budget is not None
                    else "no network was proposed"
                )
            self.run_dir.save(SEARCHED, {"trials": count})
        trials = sorted(self.run_dir.trials(), key=lambda t: t.number)
        if all(t.failed for t in trials):
            reason = trials[0].reason if trials else "none was proposed"
            raise SearchFailedError(f"no network could be evaluated: {reason}")
        return trials

    def _search(self, context: SearchContext) -> None:
        settings, address = context.settings, self.execution.address
        images = data_sets.pack_for_evaluator(settings, context.data)
        store_mb = 2 * (images.nbytes >> 20) + 128
        with cluster.started(address, settings.workers, store_mb) as ray:
            with self._step("evaluator"):
                setup = context.worker_setup(local=ray.local)
                workload = prepare(
                    EvaluatorContext(
                        settings, context.problem, images, self.run_dir, self.console, setup
                    )
                )
            with self._step("search"):
                known = self.run_dir.trials()
                spent = sum(t.seconds for t in known) / max(settings.workers, 1)
                budget = settings.time_budget
                stop = tuning.StopCondition(None if budget is None else budget - spent)
                with stop.waiting(self.console.detail), self._recorder(settings, known) as record:
                    searcher = proposing.searcher(
                        settings, context.problem, known, record=record, stop=stop
                    )
                    storage = self.execution.storage or (ray.temporary or self.run_dir.path) / TUNE
                    tuning.run(searcher, workload, storage, min(settings.workers, ray.cores))
                if report := proposing.predictor_report(searcher):
                    self.console.detail(report["says"])
                    self.run_dir.save(PREDICTOR, report)
                self._print_trials(context)

    @contextlib.contextmanager
    def _recorder(self, settings: ResolvedSettings, known: Sequence[Trial]) -> Iterator[Any]:
        """Give a function that records a finished trial, and shows the progress."""
        trials = list(known)
        with self.console.progress("networks", settings.trials, len(trials)) as report:

            def record(trial: Trial) -> None:
                self.run_dir.add(trial)
                trials.append(trial)
                self._report_best(settings, trials, report)

            yield record

    def _report_best(
        self, settings: ResolvedSettings, trials: list[Trial], report: Progress
    ) -> None:
        best = tuning.best_so_far(trials)
        accuracy = best.accuracy if best and best.accuracy is not None else 0.0
        text = f"{accuracy:.5g}" if settings.evaluator == "proxy" else f"{accuracy:.2%}"
        report(len(trials), f"best {text} at {best.latency_ms:.2f} ms" if best else "")

    def _print_trials(self, context: SearchContext) -> None:
        trials = self.run_dir.trials()
        failed = [t for t in trials if t.failed]
        self.console.detail(f"{len(trials)} networks evaluated, {len(failed)} failed")
        for trial in failed[:3]:
            self.console.detail(f"trial {trial.number} failed: {trial.reason}")
        report = evaluator_report.build(context, trials)
        if line := evaluator_report.summary(context.settings, report):
            self.console.detail(line)
        self._print_compiling(sum(_compile_seconds(t) for t in trials))

    def _print_compiling(self, seconds: float) -> None:
        if seconds:
            self.console.detail(f"compiling: {seconds:,.1f} s, summed over the workers")

    def _print_front(self, trials: Sequence[Trial], front: Sequence[int]) -> None:
        by_number = {t.number: t for t in trials}
        for number in front:
            t = by_number[number]
            self.console.detail(f"trial {number}: {t.accuracy:.5g} at {t.latency_ms:.3f} ms")
        self.console.print(
            f"to go on: {commandline.spelling('search.run')} --resume {self.run_dir.shown}"
        )

    # -- the final evaluation --

    def _final_evaluation(
        self, context: SearchContext, trials: Sequence[Trial], front: Sequence[int]
    ) -> tuple[tuple[FinalNetwork, ...], tuple[str, ...], Participants]:
        """Return finalists and baselines with their accuracies, notes, and the selection."""
        with self._step("finalists measured"):
            selected = participants.select(context, trials, front)
        with self._step("finalists and baselines trained"):
            trained, training_notes = training.train(context, selected)
            self._print_lines(training_notes)
            compiling = sum(one.compile_seconds for t in trained for one in t.trainings)
            self._print_compiling(compiling)
        with self._step("test and report"):
            networks, test_notes = testing.test(context, trained)
            self._print_lines(test_notes)
        return networks, (*selected.notes, *training_notes, *test_notes), selected

    def _outcome(
        self,
        context: SearchContext,
        trials: Sequence[Trial],
        front: Sequence[int],
        networks: tuple[FinalNetwork, ...],
        notes: tuple[str, ...],
        selected: Participants,
    ) -> Outcome:
        config = self.run_dir.config()
        defined, settings = context.problem, context.settings
        report = evaluator_report.build(context, trials)
        outcome = Outcome(
            settings=config["settings"],
            surroundings={**config["surroundings"], "git": config["git"]},
            space=defined.space.name,
            table=defined.table.machine_label,
            on_this_machine=defined.on_this_machine,
            max_latency_ms=defined.max_ms,
            min_latency_ms=defined.min_ms,
            searched_max_ms=defined.searched_max_ms,
            networks=defined.budget.count_bounds()[0],
            synthetic=context.data.spec.partition(":")[0] == "synthetic",
            trials=len(trials),
            failed=sum(t.failed for t in trials),
            evaluator=settings.evaluator,
            searcher=settings.searcher,
            front=tuple(front),
            finals=networks,
            times=self.run_dir.times(),
            compile_seconds=_total_compile_seconds(trials, networks, report),
            evaluation=report,
            notes=(*defined.notes, *notes),
            candidates_measured=selected.candidates_measured,
            tested_by=testing.tested_by(defined),
            measured_by=testing.measured_by(defined, networks),
        )
        self.run_dir.write(OUTCOME, outcome.to_json())
        return outcome


def front_of(trials: Sequence[Trial]) -> list[int]:
    """Return the numbers of the trials that no other trial dominates, the fastest first."""
    complete = [t for t in trials if not t.failed and t.details.get("stopped") is None]
    complete = complete or [t for t in trials if not t.failed]
    front = [complete[i] for i in pareto.front(pareto.points(complete))]
    return [t.number for t in sorted(front, key=lambda t: t.latency_ms)]


def _total_compile_seconds(
    trials: Sequence[Trial], networks: Sequence[FinalNetwork], report: Mapping[str, Any]
) -> float:
    seconds = sum(_compile_seconds(t) for t in trials)
    seconds += evaluator_report.supernet_compile_seconds(report)
    return seconds + sum(run.compile_seconds for network in networks for run in network.runs)


def _compile_seconds(trial: Trial) -> float:
    return float(trial.details.get("compile_seconds", 0.0))
