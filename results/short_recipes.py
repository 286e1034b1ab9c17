"""Which optimiser, rate, warm-up and batch make the short trainings of a search reliable?

    python -m results.short_recipes
    python -m results.short_recipes --data imagefolder:DIR --images 9000

Trains two networks by the evaluator ``train`` with each recipe and seed, and compares validation accuracies; on the
quick preset's synthetic images, or on others. Two processes of one core share the work. Test images are not
read. Every training is appended to results/short-recipes-DATA.jsonl at once and not repeated; at the end
results/short-recipes-DATA.json has them summed up.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report

NETWORKS = ("pplcnet_0.35x", "pplcnet_0.75x")
FIELDS = ("optimizer", "learning_rate", "warmup_epochs", "clip", "batch")
SYNTHETIC = (
    *(("sgd", rate, 0.4, 0.0, 32) for rate in (0.1, 0.05, 0.025)),
    *(("adamw", rate, 0.4, 0.0, 32) for rate in (0.01, 0.003)),
)
PHOTOGRAPHS = (
    *(("sgd", rate, 0.4, 0.0, batch) for batch in (64, 32, 16) for rate in (0.1, 0.05)),
    ("sgd", 0.2, 0.4, 0.0, 64),
    ("sgd", 0.2, 0.4, 0.0, 32),
    ("adamw", 0.01, 0.4, 0.0, 32),
)


def name_of(args: argparse.Namespace) -> str:
    """Return the name of the experiment's files."""
    return f"short-recipes-{args.data.partition(':')[0]}"


def log_of(args: argparse.Namespace) -> Path:
    """Return the file of finished trainings."""
    return Path(__file__).with_name(f"{name_of(args)}.jsonl")


def runs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return all finished trainings."""
    return _report.lines(log_of(args))


def key_of(run: dict[str, Any]) -> tuple[Any, ...]:
    """Return what was trained, and how."""
    return (run["network"], *(run[f] for f in FIELDS))


def jobs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield all trainings, seed by seed."""
    settings = SYNTHETIC if args.data == "synthetic" else PHOTOGRAPHS
    for seed in range(args.seeds):
        for setting in settings:
            for network in NETWORKS:
                yield {"network": network, "seed": seed, **dict(zip(FIELDS, setting, strict=True))}


def work(args: argparse.Namespace) -> None:
    """Train every second one of those missing and append a line each."""
    os.sched_setaffinity(0, {args.core})
    from lcnas import zoo
    from lcnas.models import memory
    from lcnas.training import load_data
    from search import packed, recipes
    from search.evaluators import train
    from search.evaluation import Candidate

    memory.keep_freed_memory()
    shown = packed.pack(load_data(args.data, size=args.size), args.size, most=args.images)
    usual = recipes.search_recipe(shown, args.epochs)
    done = {(key_of(r), r["seed"]) for r in runs(args)}
    for i, job in enumerate(jobs(args)):
        if i // 2 % 2 != args.core or (key_of(job), job["seed"]) in done:
            continue
        changes: dict[str, Any] = {f: job[f] for f in FIELDS}
        spec = train.TrainSpec(args.size, usual.override(changes), job["seed"])
        began = time.monotonic()
        (evaluation,) = train.create(spec, shown).evaluate(
            [Candidate(0, (), zoo.load(job["network"]))]
        )
        took = round(time.monotonic() - began, 1)
        entry = {
            **job,
            "accuracy": evaluation.accuracy,
            "reason": evaluation.reason,
            "seconds": took,
        }
        _report.append(log_of(args), entry)
        print(entry, flush=True)


def summary(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row of each network and recipe."""
    by_setting: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs(args):
        by_setting.setdefault(key_of(run), []).append(run)
    records = []
    for key, lines in sorted(by_setting.items()):
        accuracies = [0.0 if r["accuracy"] is None else r["accuracy"] for r in lines]
        spread = float(np.std(accuracies, ddof=1)) if len(lines) > 1 else None
        timed = [r["seconds"] for r in lines if "seconds" in r]
        records.append(
            {
                **dict(zip(("network", *FIELDS), key, strict=True)),
                "n": len(lines),
                "mean": round(float(np.mean(accuracies)), 4),
                "std": None if spread is None else round(spread, 4),
                "seconds": round(float(np.median(timed)), 1) if timed else None,
            }
        )
    return records


def main() -> None:
    """Train what is missing, sum up, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.core is not None:
        work(args)
        return
    _report.on_each_core()
    conditions = _report.of_data(list(range(args.seeds)), args.data)
    settings = {"size": args.size, "pictures": args.images, "epochs": args.epochs}
    rows = summary(args)
    _report.write(name_of(args), {**conditions, **settings, "validation": rows})
    print("\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
