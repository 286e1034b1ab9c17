"""The search by Ray Tune, with our own searchers and reused workers."""

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

from search import registry
from search.distributed.worker import WorkerSetup
from search.trials import Trial

FAILURES = 2  # retries of a trial whose worker died


class StopCondition:
    """Whether a search stops proposing networks: after Ctrl-C or SIGTERM, or when its time is over."""

    def __init__(self, seconds: float | None = None) -> None:
        self._asked = False
        self._until = None if seconds is None else time.monotonic() + seconds

    def __call__(self) -> bool:
        """Return whether to propose no more."""
        return self._asked or (self._until is not None and time.monotonic() >= self._until)

    @contextmanager
    def waiting(self, message: Callable[[str], None]) -> Iterator[None]:
        """Raise KeyboardInterrupt after the first signal, once networks in flight are done; after two now."""

        def asked(number: int, _: Any) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True
            word = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            message(f"{word}: waiting for the networks in flight; once more: stop at once")

        with _handled(asked):
            yield
        if self._asked:
            raise KeyboardInterrupt


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""

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
class Workload:
    """What workers evaluate networks with."""

    create: Callable[
        [Any, Any], Any
    ]  # (spec, images) -> search.evaluation.Evaluator, in the worker
    spec: Any
    images: Any
    setup: WorkerSetup


def run(searcher: Any, workload: Workload, storage: Path | str, concurrent: int) -> None:
    """Evaluate the searcher's proposals in workers, until it has no more.

    Args:
        searcher: a :class:`search.searchers.Searcher`, which records the results.
        workload: what the workers evaluate networks with.
        storage: place of Ray Tune's own files; nothing is read from there.
        concurrent: number of trials at once.

    Raises:
        LcnasError: a result could not be recorded, such as on a full disk.
    """
    from ray import cloudpickle, tune

    from search.distributed.objective import Objective

    for module in registry.modules_of_files():
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(tune.with_parameters(Objective, **vars(workload)), {"CPU": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Tune warns of its own future changes
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_reporting_scheduler(searcher),
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


def _reporting_scheduler(searcher: Any) -> Any:
    """Return a scheduler that stops no trial, and reports to the searcher why a trial failed or was lost.

    Tune calls it before the searcher's ``on_trial_complete``; Tune's callbacks come later.
    """
    from ray import exceptions
    from ray.tune import schedulers

    # A worker that ran out of memory is lost as well; that may be the network's fault.
    lost = (exceptions.RayActorError, exceptions.NodeDiedError, exceptions.WorkerCrashedError)

    class Reasons(schedulers.FIFOScheduler):
        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            searcher.note_failure(
                trial.trial_id,
                _last_line(trial.error_file),
                lost=isinstance(_error_of(trial), lost),
            )
            super().on_trial_error(tune_controller, trial)

    return Reasons()  # type: ignore[no-untyped-call]


def _error_of(trial: Any) -> object:
    """Return the error that ended a trial, from the file that Tune has just written; None: unknown."""
    from ray import cloudpickle

    path = trial.pickled_error_file
    try:
        return cloudpickle.loads(Path(path).read_bytes()) if path else None
    # The error may be of a trainable's own class, whose unpickling fails in any way.
    except Exception:  # noqa: BLE001
        return None


def _last_line(path: str | None) -> str:
    lines = Path(path).read_text(errors="replace").split("\n") if path else []
    filled = [line.strip() for line in lines if line.strip()]
    return filled[-1][:300] if filled else "the worker was lost"


def best_so_far(trials: list[Trial]) -> Trial | None:
    """Return the finished trial of the highest accuracy."""
    good = [t for t in trials if t.accuracy is not None]
    return max(good, key=lambda t: (t.accuracy or 0.0, -t.latency_ms), default=None)
