"""The search itself: Ray Tune, with proposals of ours and workers that are reused."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.trials import Trial
from search.worker import Setup

FAILURES = 2  # times that a trial is tried again whose worker died


class Stop:
    """Whether a search is to propose no more: by Ctrl-C or SIGTERM, or because the time is over."""

    def __init__(self, seconds: float | None = None) -> None:
        self._asked = False
        self._until = None if seconds is None else time.monotonic() + seconds

    def __call__(self) -> bool:
        """Return whether nothing more is to be proposed."""
        return self._asked or (self._until is not None and time.monotonic() >= self._until)

    @contextmanager
    def waiting(self, tell: Callable[[str], None]) -> Iterator[None]:
        """At the first signal wait for what is in flight, then raise KeyboardInterrupt; at the second now."""

        def asked(number: int, _: Any) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True
            word = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            tell(f"{word}: waiting for the networks in flight; once more: stop at once")

        with _handled(asked):
            yield
        if self._asked:
            raise KeyboardInterrupt


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C is taken."""

    def asked(number: int, _: Any) -> None:
        del number
        raise KeyboardInterrupt

    with _handled(asked):
        yield


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@dataclass(frozen=True)
class Work:
    """What workers do."""

    create: Callable[[Any, Any], Any]  # (spec, images) -> evaluator
    spec: Any
    images: Any
    setup: Setup


def run(searcher: Any, work: Work, storage: Path | str, concurrent: int) -> None:
    """Let workers evaluate what the searcher proposes, until it proposes no more.

    Args:
        searcher: a :class:`search.searchers.Searcher`; what it is told is what lasts.
        work: what the workers do.
        storage: where Ray Tune keeps its own files; nothing is read from there.
        concurrent: trials at once.

    Raises:
        LcnasError: a result could not be recorded, such as on a full disk.
    """
    from ray import tune

    from search.objective import Objective

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(tune.with_parameters(Objective, **vars(work)), {"CPU": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Tune, about its own coming changes
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_telling_why(searcher),
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=concurrent,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=FAILURES),
            ),
        )
        try:
            tuner.fit()
        finally:
            if searcher.fault is not None:
                raise searcher.fault


def _telling_why(searcher: Any) -> Any:
    """Return a scheduler that stops nothing, and tells the searcher why a trial failed, and which were lost.

    It is asked before the searcher hears of the failure; Tune's callbacks come after that.
    """
    from ray import exceptions
    from ray.tune import schedulers

    # A worker that ran out of memory is lost as well; that may be the network's fault.
    lost = (exceptions.RayActorError, exceptions.NodeDiedError, exceptions.WorkerCrashedError)

    class Reasons(schedulers.FIFOScheduler):
        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            searcher.reasons[trial.trial_id] = _last_line(trial.error_file)
            if isinstance(_error_of(trial), lost):
                searcher.lost.add(trial.trial_id)
            else:
                searcher.lost.discard(trial.trial_id)
            super().on_trial_error(tune_controller, trial)

    return Reasons()  # type: ignore[no-untyped-call]


def _error_of(trial: Any) -> object:
    """Return what ended a trial, from the file that Tune has just written in this process; None: unknown."""
    from ray import cloudpickle

    path = trial.pickled_error_file
    try:
        return cloudpickle.loads(Path(path).read_bytes()) if path else None
    # It may be of a trainable's own kind, which fails in any way when it is read.
    except Exception:  # noqa: BLE001
        return None


def _last_line(path: str | None) -> str:
    lines = Path(path).read_text(errors="replace").split("\n") if path else []
    told = [line.strip() for line in lines if line.strip()]
    return told[-1][:300] if told else "the worker was lost"


def best_so_far(trials: list[Trial]) -> Trial | None:
    """Return the finished trial of the highest accuracy."""
    good = [t for t in trials if t.accuracy is not None]
    return max(good, key=lambda t: (t.accuracy or 0.0, -t.latency_ms), default=None)
