"""Record what a supernet says of every network of a small space, so that searchers can be compared on it at no cost.

    python -m results.recorded --data imagefolder:DIR
    python -m results.searchers --recorded

The space is a part of pplcnet_tail in the widths of PP-LCNet 0.35x and 0.5x: two widths of most stages, depths, kernels
and SE of the last stage, two widths of the head. A supernet of it is trained once; then two processes ask it about every
network (batch-norm statistics over training images, answers on validation images; test images are not read).
Every answer is appended to results/recorded.jsonl at once and not asked again: its first line has the space, the
others a network's codes and accuracy in percent. results/recorded.json sums up.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _report

NAME = "recorded"
LOG = Path(__file__).with_name("recorded.jsonl")
FOLDER = Path("runs") / "recorded"
CORES = 2
STAGE = """
[[stages]]
block = "depthwise_separable"
depth = {depth}
stride = {stride}
width = {{ choices = {widths} }}
kernel = {kernel}
se = {se}
act = "hard_swish"
"""
KERNELS, SES = '{ choices = [3, 5], per = "block" }', '{ choices = [false, true], per = "block" }'
STAGES = (
    ("1", 1, [16], "3", "false"),
    ("2", 2, [32], "3", "false"),
    ("{ from = 1, to = 2 }", 2, [48, 64], "3", "false"),
    ("{ choices = [2, 4, 6] }", 2, [88, 128], "3", "false"),
    ("{ from = 1, to = 2 }", 2, [176, 256], KERNELS, SES),
)
SPACE = (
    'version = 1\nresolution = [224]\n[stem]\nblock = "conv"\nwidth = 8\nkernel = 3\nstride = 2\nact = "hard_swish"\n'
    + "".join(
        STAGE.format(depth=depth, stride=stride, widths=widths, kernel=kernel, se=se)
        for depth, stride, widths, kernel, se in STAGES
    )
    + '[head]\nblock = "classifier"\nwidth = { choices = [640, 1280] }\nact = "hard_swish"\n'
)


def space() -> Any:
    """Return the space."""
    from lcnas import spaces

    return spaces.loads(SPACE, NAME)


def members() -> NDArray[np.int64]:
    """Return the codes of all its networks, (n, genes), in their order."""
    there = space()
    return np.asarray(there.encode(list(there.enumerate())), dtype=np.int64)


def read() -> dict[tuple[int, ...], float]:
    """Return what was recorded: accuracy, percent, by codes."""
    lines = _report.lines(LOG)
    if lines and lines[0]["space"] != SPACE:
        raise SystemExit(f"{LOG.name} is of another space; remove it to record anew")
    return {tuple(codes): accuracy for codes, accuracy in lines[1:]}


def supernet(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Return (evaluator's spec, images, a report on the training); trains where it was not."""
    from lcnas import training
    from search import packed
    from search.evaluators import supernet_training
    from search.recipes import search_recipe

    shown = packed.pack(training.load_data(args.data, size=args.size), args.size)
    job = supernet_training.SupernetTraining(
        space(), shown.classes, args.size, search_recipe(shown, args.epochs), members(),
        args.seed, str(FOLDER / "supernets"), str(FOLDER / "cache"), cores=CORES,
    )  # fmt: skip
    spec, about = supernet_training.train(job, shown)
    return spec, shown, about


def work(args: argparse.Namespace) -> None:
    """Ask about every second network that was not asked about."""
    os.sched_setaffinity(0, {args.core})
    from search.evaluators import supernet as evaluator
    from search.evaluation import Candidate

    spec, shown, _ = supernet(args)
    asked = evaluator.create(spec, shown)
    codes, done = members(), read()
    for i, row in enumerate(codes):
        key = tuple(row.tolist())
        if i % CORES != args.core or key in done:
            continue
        (evaluation,) = asked.evaluate([Candidate(i, key, space().decode(row[None])[0])])
        if evaluation.accuracy is None:
            raise SystemExit(f"{key}: {evaluation.reason}")
        _report.append(LOG, [key, round(100 * evaluation.accuracy, 3)])


def main() -> None:
    """Train the supernet, record, sum up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.core is not None:
        work(args)
        return
    if not LOG.is_file():
        _report.append(LOG, {"space": SPACE})
    read()
    began = time.monotonic()
    _, shown, about = supernet(args)
    trained = time.monotonic() - began
    began, before = time.monotonic(), len(read())
    _report.on_each_core(CORES)
    accuracies = np.array(list(read().values()))
    asked = time.monotonic() - began
    conditions = _report.of_data([args.seed], args.data)
    facts = {
        "networks": len(accuracies),
        "accuracy": {"mean": round(float(accuracies.mean()), 3), "std": round(float(accuracies.std(ddof=1)), 3),
                     "low": float(accuracies.min()), "high": float(accuracies.max())},
        "validation_pictures": len(shown.validation_labels),
        "supernet": {**about, "wall_seconds": round(trained, 1)},
        "networks_per_second": round((len(accuracies) - before) / asked, 3) if len(accuracies) > before else None,
    }  # fmt: skip
    print(_report.write(NAME, {**conditions, **facts}).name, json.dumps(facts["accuracy"]))


if __name__ == "__main__":
    main()
