"""The search itself: Ray Tune, with proposals of ours and workers that are reused."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.cluster import Cluster
from search.trials import Trial

FAILURES = 2  # times that a trial is tried again whose worker died


class Stop:
    """Whether to end: asked for by Ctrl-C or SIGTERM, or because the time is over."""

    def __init__(self) -> None:
        self.asked = False
        self._until: float | None = None

    def limit(self, seconds: float | None) -> None:
        """Give so many seconds from now on; None: no limit."""
        self._until = None if seconds is None else time.monotonic() + seconds

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self._until is not None and time.monotonic() >= self._until

    def __call__(self) -> bool:
        """Return whether nothing more is to be proposed."""
        return self.asked or self.late

    @contextmanager
    def listening(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Take the first Ctrl-C or SIGTERM as a wish to end; the second ends at once."""

        def asked(number: int, _: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            word = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            tell(f"{word}: waiting for the networks in flight; once more: stop at once")

        before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Work:
    """What workers do."""

    create: Callable[[Any, Any], Any]  # (spec, pictures) -> evaluator
    spec: Any
    pictures: Any


def run(searcher: Any, work: Work, cluster: Cluster, storage: Path | str, concurrent: int) -> None:
    """Let workers evaluate what the searcher proposes, until it proposes no more.

    Args:
        searcher: a :class:`search.searchers.Searcher`; what it is told is what lasts.
        work: what the workers do.
        cluster: the Ray that runs.
        storage: where Ray Tune keeps its own files; nothing is read from there.
        concurrent: trials at once.
    """
    from ray import tune

    from search.objective import Objective

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    parts = {"create": work.create, "spec": work.spec, "pictures": work.pictures}
    home = os.environ.get("HOME") if cluster.local else None
    trainable = tune.with_resources(tune.with_parameters(Objective, **parts, home=home), {"CPU": 1})
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
        tuner.fit()


def _telling_why(searcher: Any) -> Any:
    """Return a scheduler that stops nothing, and tells the searcher why a trial failed.

    It is asked before the searcher hears of the failure; Tune's callbacks come after that.
    """
    from ray.tune import schedulers

    class Reasons(schedulers.FIFOScheduler):
        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            searcher.reasons[trial.trial_id] = _last_line(trial.error_file)
            super().on_trial_error(tune_controller, trial)

    return Reasons()  # type: ignore[no-untyped-call]


def _last_line(path: str | None) -> str:
    lines = Path(path).read_text(errors="replace").split("\n") if path else []
    told = [line.strip() for line in lines if line.strip()]
    return told[-1][:300] if told else "the worker was lost"


def best_so_far(trials: list[Trial]) -> Trial | None:
    """Return the finished trial of the highest accuracy."""
    good = [t for t in trials if t.accuracy is not None]
    return max(good, key=lambda t: (t.accuracy or 0.0, -t.latency_ms), default=None)
