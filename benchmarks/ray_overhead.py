"""What Ray Tune and a searcher cost a trial, with a trainable that does nothing.

    python -m benchmarks.ray_overhead [--trials 200 1000 2000] [--searchers random nsga2] [--out NAME]

The setting is the search's own: a class trainable whose actors are reused, two actors, Tune's logs off, and
``search.searchers.Searcher`` on pplcnet_tail between PP-LCNet 0.25x and 1.0x. A run is timed from its first
result to its last, so without the start of Ray and of its actors; the searcher's share is
separate.
``ms_last_tenth`` is that of the last tenth of the trials: whether a trial costs more the more there are.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
)  # before Ray is imported: loopback alone
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")

from benchmarks import _report
from lcnas import latency, spaces, zoo
from lcnas.budgets import Budget
from lcnas.latency.table import LatencyTable
from search.trials import Trial

TABLE = "amd-epyc-avx512bf16-openvino1.24.1-fp32-t1-b1"
TRIALS = (200, 1000, 2000)
WORKERS = 2
SEED = 0


def limits() -> Budget:
    """Return the budget: pplcnet_tail between PP-LCNet 0.25x and 1.0x by the committed table."""
    table = LatencyTable.load(_report.RESULTS.parent / "latency_tables" / f"{TABLE}.json")
    low, high = table.predict([zoo.load("pplcnet_0.25x"), zoo.load("pplcnet_1.0x")])
    return latency.Budget(spaces.load("pplcnet_tail"), table, max_ms=float(high), min_ms=float(low))


def searcher(name: str, budget: Budget, trials: int, ends: list[float]) -> Any:
    """Return the searcher, which notes its own seconds in ``spent`` and when each trial ended."""
    from search import searchers

    class MeasuredLatency(searchers.Searcher):
        spent = 0.0

        def suggest(self, trial_id: str) -> Any:
            start = time.perf_counter()
            config = super().suggest(trial_id)
            self.spent += time.perf_counter() - start
            return config

        def on_trial_complete(self, *given: Any, **named: Any) -> None:
            start = time.perf_counter()
            super().on_trial_complete(*given, **named)
            self.spent += time.perf_counter() - start

    def record(_: Trial) -> None:
        ends.append(time.perf_counter())

    return MeasuredLatency(name, budget, trials=trials, seed=SEED, record=record)


def nothing() -> Any:
    """Return a trainable that does nothing."""
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.number = config["number"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.number = new_config["number"]
            return True

        def step(self) -> dict[str, Any]:
            return {"accuracy": (self.number * 7919 % 1000) / 1000, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            del checkpoint_dir

        def load_checkpoint(self, checkpoint: Any) -> None:
            del checkpoint

    return tune.with_resources(Nothing, {"CPU": 1})


def run(name: str, budget: Budget, trials: int, storage: str) -> dict[str, Any]:
    """Return the milliseconds a trial of one search."""
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it lists each trial without a log
    ends: list[float] = []
    proposer = searcher(name, budget, trials, ends)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Tune, about its own coming changes
        tune.Tuner(
            nothing(),
            tune_config=tune.TuneConfig(
                search_alg=proposer,
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=WORKERS,
            ),
            run_config=tune.RunConfig(name=f"{name}-{trials}", storage_path=storage, verbose=0),
        ).fit()
    assert len(ends) == trials
    tenth = max(trials // 10, 2)
    return {
        "trials": trials,
        "ms": round(1000 * (ends[-1] - ends[0]) / (trials - 1), 2),
        "ms_first_tenth": round(1000 * (ends[tenth - 1] - ends[0]) / (tenth - 1), 2),
        "ms_last_tenth": round(1000 * (ends[-1] - ends[-tenth]) / (tenth - 1), 2),
        "ms_in_searcher": round(1000 * proposer.spent / trials, 2),
    }


def main() -> None:
    """Run all and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--trials", type=int, nargs="+", default=list(TRIALS), help="trials of each run"
    )
    parser.add_argument("--searchers", nargs="+", default=["random", "nsga2"], help="by name")
    parser.add_argument("--out", default="ray-overhead", help="name of the file in results/")
    given = parser.parse_args()
    import ray

    budget = limits()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ro") as folder:
        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(Path(folder) / "r"),
        )
        try:
            for name in given.searchers:
                results[name] = [run(name, budget, n, folder) for n in given.trials]
                for row in results[name]:
                    print(name, row)
        finally:
            ray.shutdown()
    path = _report.write(
        given.out, {**_report.conditions([SEED]), "workers": WORKERS, "results": results}
    )
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
