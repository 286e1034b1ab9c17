"""Which optimiser, rate and warm-up make the short trainings of a search reliable?

    python -m results.short_recipes

Trains two networks by the evaluator ``train`` on the quick preset's made-up pictures, with each recipe
and seed, and compares validation accuracies; two processes of one core share the work.
Test pictures are not read. Writes results/short-recipes.json; runs that it holds already are not repeated.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks import _report

NETWORKS = ("pplcnet_0.35x", "pplcnet_0.75x")
FIELDS = ("optimizer", "learning_rate", "warmup_epochs", "clip", "batch")
SETTINGS = (
    *(("sgd", rate, warmup, 0.0, 32) for rate in (0.1, 0.05, 0.025) for warmup in (0.4, 1.0)),
    ("sgd", 0.1, 0.4, 1.0, 32),
    ("adamw", 0.003, 0.4, 0.0, 32),
    ("adamw", 0.01, 0.4, 0.0, 32),
    # What was tried next: higher rates, smaller batches.
    ("sgd", 0.2, 0.4, 0.0, 32),
    ("sgd", 0.1, 0.4, 0.0, 16),
    ("sgd", 0.2, 0.4, 0.0, 16),
    ("adamw", 0.02, 0.4, 0.0, 32),
    ("adamw", 0.01, 0.4, 0.0, 16),
)
SEEDS, SIZE, PICTURES, EPOCHS = (0, 1, 2), 64, 4000, 4


def runs() -> list[dict[str, Any]]:
    """Return all finished runs."""
    path = _report.RESULTS / "short-recipes.json"
    return json.loads(path.read_text())["runs"] if path.is_file() else []


def done() -> set[Any]:
    """Return what :func:`runs` holds: (network, setting, seed)."""
    return {(r["network"], tuple(r[f] for f in FIELDS), r["seed"]) for r in runs()}


def work(core: int) -> None:
    """Train every second setting of those missing and print a line each."""
    os.sched_setaffinity(0, {core})
    from lcnas import zoo
    from lcnas.models import memory
    from lcnas.training import load_data
    from search import finals, pictures
    from search.evaluators import train
    from search.evaluators.base import Candidate

    memory.keep_freed_memory()
    shown = pictures.pack(load_data("synthetic", size=SIZE), most=PICTURES)
    usual = finals.search_recipe(shown, EPOCHS)
    missing = [job for job in itertools.product(NETWORKS, SETTINGS, SEEDS) if job not in done()]
    for name, setting, seed in missing[core::2]:
        changes: dict[str, Any] = dict(zip(FIELDS, setting, strict=True))
        spec = train.Spec(SIZE, usual.override(changes), seed)
        (made,) = train.create(spec, shown).evaluate([Candidate(0, (), zoo.load(name))])
        known = {"network": name, "seed": seed, **changes}
        print(json.dumps({**known, "accuracy": made.accuracy, "reason": made.reason}), flush=True)


def main() -> None:
    """Run all, sum up, write."""
    if len(sys.argv) > 1:
        work(int(sys.argv[1]))
        return
    command = [sys.executable, "-m", "results.short_recipes"]
    begun = [
        subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE, text=True)
        for core in (0, 1)
    ]
    made = [json.loads(line) for p in begun for line in p.communicate()[0].splitlines()]
    finished = [*runs(), *made]
    rows: dict[tuple[Any, ...], list[float]] = {}
    for run in finished:
        key = (run["network"], *(run[f] for f in FIELDS))
        rows.setdefault(key, []).append(run["accuracy"])
    names = ("network", *FIELDS)
    summary = [
        {
            **dict(zip(names, key, strict=True)),
            "n": len(v),
            "mean": round(float(np.mean(v)), 4),
            "std": round(float(np.std(v, ddof=1)), 4),
        }
        for key, v in sorted(rows.items())
    ]
    settings = {"size": SIZE, "pictures": PICTURES, "epochs": EPOCHS}
    _report.write(
        "short-recipes",
        {**_report.conditions(list(SEEDS)), **settings, "validation": summary, "runs": finished},
    )
    print("\n".join(map(str, summary)))


if __name__ == "__main__":
    main()
