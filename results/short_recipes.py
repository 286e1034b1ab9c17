"""Which learning rate and warm-up make the short trainings of a search reliable? Validation accuracy over seeds.

    python -m results.short_recipes

Trains two networks by the evaluator ``train`` on the quick preset's made-up pictures, with each recipe and seed;
two processes of one core share the work. Test pictures are not read. Writes results/short-recipes.json.
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
RATES, WARMUPS, CLIPS = (0.1, 0.05, 0.025), (0.4, 1.0), (0.0,)
SEEDS, SIZE, PICTURES, EPOCHS = (0, 1, 2), 64, 4000, 4


def work(core: int) -> None:
    """Train every second setting and print a line each."""
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
    all_settings = itertools.product(NETWORKS, RATES, WARMUPS, CLIPS, SEEDS)
    for i, (name, rate, warmup, clip, seed) in enumerate(all_settings):
        if i % 2 != core:
            continue
        changes: dict[str, Any] = {"learning_rate": rate, "warmup_epochs": warmup, "clip": clip}
        spec = train.Spec(SIZE, usual.override(changes), seed)
        (made,) = train.create(spec, shown).evaluate([Candidate(0, (), zoo.load(name))])
        known = {"network": name, "seed": seed, "batch": usual.batch, **changes}
        print(json.dumps({**known, "accuracy": made.accuracy, "reason": made.reason}), flush=True)


def main() -> None:
    """Run all, sum up, write."""
    if len(sys.argv) > 1:
        work(int(sys.argv[1]))
        return
    command = [sys.executable, "-m", "results.short_recipes"]
    begun = [
        subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE, text=True) for core in (0, 1)
    ]
    runs = [json.loads(line) for p in begun for line in p.communicate()[0].splitlines()]
    rows: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        key = (run["network"], run["learning_rate"], run["warmup_epochs"], run["clip"])
        rows.setdefault(key, []).append(run["accuracy"])
    names = ("network", "learning_rate", "warmup_epochs", "clip")
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
    _report.write("short-recipes", {**_report.conditions(list(SEEDS)), **settings, "validation": summary, "runs": runs})
    print("\n".join(map(str, summary)))


if __name__ == "__main__":
    main()
