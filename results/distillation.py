"""Does a small student learn more from an ONNX teacher than from labels alone? CIFAR-10, three seeds.

    python -m results.distillation --data cifar10:DIR

Trains the teacher (PP-LCNet for small images, at --teacher-scale), takes its ONNX file as the teacher of
PP-LCNet 0.25x, and trains that student with and without it: same recipe, epochs and seeds. The test images
are read once per network, by the last one. Each finished run is appended to results/distillation.jsonl
and not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report

LOG = Path(__file__).with_name("distillation.jsonl")
WHATS = ("teacher", "alone", "distilled")


def train(
    args: argparse.Namespace, scale: float, seed: int, teacher: Path | None, out: Path
) -> Any:
    """Train one network; returns the result."""
    from lcnas import training, zoo
    from lcnas.training import recipes

    changes: dict[str, Any] = {"epochs": args.epochs}
    if teacher is not None:
        changes |= {"distill_weight": args.weight, "temperature": args.temperature}
    recipe = recipes.load("cifar10", **changes)
    data = training.load_data(args.data, size=32)
    arch = zoo.load(f"pplcnet_32_{scale:g}x", 32)
    return training.fit(
        arch, data, recipe, out, seed=seed, teacher=teacher, test="last", quiet=True
    )


def is_of(run: dict[str, Any], epochs: int, teacher_scale: float) -> bool:
    """Return whether a line is of these settings; a student alone has no teacher."""
    same = run["what"] == "alone" or run["teacher_scale"] == teacher_scale
    return bool(run["epochs"] == epochs and same)


def main() -> None:
    """Run what is missing, append, sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--teacher-scale", type=float, default=1.0, help="PP-LCNet's, of the teacher"
    )
    parser.add_argument("--weight", type=float, default=0.7)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--work", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--core", type=int, help="the processor core to stay on")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    from lcnas.models import memory

    memory.keep_freed_memory()
    done = _report.lines(LOG)
    mine = [r for r in done if is_of(r, args.epochs, args.teacher_scale)]
    known = {(r["what"], r["seed"]) for r in mine}

    def note(what: str, seed: int, result: Any) -> None:
        entry = {
            "what": what,
            "seed": seed,
            "epochs": args.epochs,
            "teacher_scale": args.teacher_scale,
            "test": result.test.accuracy,
        }
        mine.append(entry)
        _report.append(LOG, entry)
        print(entry, flush=True)

    folder = args.work / f"{args.epochs}-epochs"
    scale = f"{args.teacher_scale:g}x"
    teacher = train(args, args.teacher_scale, 0, None, folder / f"teacher-{scale}")
    if ("teacher", 0) not in known:
        note("teacher", 0, teacher)
    ways = {
        "alone": (None, "alone"),
        "distilled": (folder / f"teacher-{scale}" / "last.onnx", f"distilled-{scale}"),
    }
    for seed in args.seeds:
        for what, (given, name) in ways.items():
            if (what, seed) not in known:
                note(what, seed, train(args, 0.25, seed, given, folder / f"{name}-{seed}"))
    by_seed = {what: {r["seed"]: r["test"] for r in mine if r["what"] == what} for what in WHATS}
    seeds = {"teacher": [0], "alone": args.seeds, "distilled": args.seeds}
    groups = {what: [by_seed[what][seed] for seed in seeds[what]] for what in WHATS}
    statistics: dict[str, Any] = {
        what: {
            "n": len(v),
            "mean": round(float(np.mean(v)), 5),
            "std": round(float(np.std(v, ddof=1)), 5) if len(v) > 1 else None,
        }
        for what, v in groups.items()
    }
    gains = np.array(groups["distilled"]) - np.array(groups["alone"])
    statistics["gain"] = {"mean": round(float(gains.mean()), 5), "of_each_seed": gains.round(5).tolist()}
    conditions = _report.of_data(args.seeds, args.data)
    settings = {
        "epochs": args.epochs,
        "teacher_scale": args.teacher_scale,
        "weight": args.weight,
        "temperature": args.temperature,
    }
    _report.write("distillation", {**conditions, **settings, "test_accuracy": statistics})
    print(json.dumps(statistics, indent=1))


if __name__ == "__main__":
    main()
