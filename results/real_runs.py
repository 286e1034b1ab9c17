"""PP-LCNet 0.5x trained on real images by lcnas and by PyTorch: the same network, recipe, epochs and images.

    python -m results.real_runs --data cifar10:DIR --epochs 6
    python -m results.real_runs --data imagefolder:DIR --recipe imagenette --side 96 --epochs 10

PyTorch (channels_last) starts from the same weights, sees the same images in the same order, made by the same
augmentation, and follows the same schedule; only dropout draws differ. The last network of each run reads the test
images once. For each seed both run side by side, each on a core of its own. Needs the extra ``bench``. Each finished
run is appended to results/real-runs.jsonl at once and not repeated; results/real-runs.json sums up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report

LOG = Path(__file__).with_name("real-runs.jsonl")
SIDES = ("lcnas", "torch")


def settings(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return (arch, data, recipe) of a run."""
    from lcnas import training, zoo
    from lcnas.training import recipes

    recipe = recipes.load(args.recipe, epochs=args.epochs, resolution=args.side)
    kind = "pplcnet_32_" if args.side == 32 else "pplcnet_"
    arch = zoo.load(f"{kind}{args.scale:g}x", args.side)
    return arch, training.load_data(args.data, size=args.size or args.side), recipe


def lcnas_run(args: argparse.Namespace) -> dict[str, Any]:
    """Train by training.fit; returns the test accuracy of the last network."""
    from lcnas import training

    arch, data, recipe = settings(args)
    with tempfile.TemporaryDirectory() as folder:
        result = training.fit(
            arch, data, recipe, Path(folder) / "run", seed=args.seed, test="last", quiet=True
        )
    assert result.test is not None
    losses = [e["train_loss"] for e in result.epochs]
    validation = [e["validation_accuracy"] for e in result.epochs]
    return {
        "test": result.test.accuracy,
        "validation": validation,
        "train_loss": losses,
        "images_s": result.images_s,
        "compile_s": result.compile_seconds,
    }


def torch_run(args: argparse.Namespace) -> dict[str, Any]:
    """Train by PyTorch in the same way."""
    import jax
    import torch
    from flax import nnx
    from torch.nn import functional

    from benchmarks import _torch
    from lcnas import models

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    arch, data, recipe = settings(args)
    model = _torch.network(arch, data.classes)
    model.load(models.build(arch, data.classes, nnx.Rngs(args.seed)).weights())
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
    )
    known = {"size": args.side, "normalization": data.normalization}
    show = jax.jit(lambda i, y, k: recipe.augment.apply(i, y, k, classes=data.classes, **known))
    see = jax.jit(lambda i: recipe.augment.evaluate(i, **known))

    def tensor(x: Any) -> Any:
        array = np.array(x, np.float32).transpose(0, 3, 1, 2)
        return torch.from_numpy(array).contiguous(memory_format=torch.channels_last)

    def accuracy(split: Any) -> float:
        model.eval()
        right = count = 0
        with torch.no_grad():
            for batch in split.batches(250):
                logits = model(tensor(see(batch.images)))
                hit = logits.argmax(1).numpy() == batch.labels
                right, count = right + int((hit & batch.mask).sum()), count + int(batch.mask.sum())
        model.train()
        return right / count

    steps = len(data.train) // recipe.batch
    losses, validation, seconds, step = [], [], 0.0, 0
    for epoch in range(recipe.epochs):
        total = 0.0
        for batch in data.train.batches(recipe.batch, seed=args.seed, epoch=epoch):
            # as in lcnas's loop: the key of a step's images
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(args.seed), step), 0)
            x, y = show(batch.images, batch.labels, key)
            images, goal = tensor(x), torch.from_numpy(np.array(y))
            began = time.perf_counter()
            rate = _rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            smooth = goal * (1 - recipe.label_smoothing) + recipe.label_smoothing / data.classes
            optimizer.zero_grad(set_to_none=True)
            loss = -(functional.log_softmax(model(images), 1) * smooth).sum(1).mean()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            seconds += time.perf_counter() - began
            step += 1
        losses.append(total / steps)
        validation.append(accuracy(data.validation))
    return {
        "test": accuracy(data.test),
        "validation": validation,
        "train_loss": losses,
        "images_s": step * recipe.batch / seconds,  # augmentation apart
    }


def _rate(recipe: Any, step: int, epoch_steps: int) -> float:
    import jax.numpy as jnp

    from lcnas.training import schedules

    warmup = round(recipe.warmup_epochs * epoch_steps)
    return float(
        schedules.warmup_cosine(
            jnp.float32(step),
            peak=recipe.learning_rate,
            final=recipe.final_learning_rate,
            warmup_steps=warmup,
            total_steps=recipe.epochs * epoch_steps,
        )
    )


def _worker(args: argparse.Namespace) -> None:
    os.sched_setaffinity(0, {SIDES.index(args.worker)})
    from lcnas.models import memory

    memory.keep_freed_memory()
    began = time.monotonic()
    record = lcnas_run(args) if args.worker == "lcnas" else torch_run(args)
    record["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(record))


def _name(args: argparse.Namespace) -> str:
    kind = args.data.partition(":")[0]
    return f"{kind} {args.side}px {args.scale:g}x {args.recipe} {args.epochs} epochs"


def runs() -> list[dict[str, Any]]:
    """Return all finished runs."""
    return _report.lines(LOG)


def summary() -> dict[str, Any]:
    """Return n, mean and deviation of the test accuracies, a line an experiment and side."""
    by_setting: dict[str, dict[str, list[float]]] = {}
    for run in runs():
        by_setting.setdefault(run["experiment"], {}).setdefault(run["side"], []).append(run["test"])
    record: dict[str, Any] = {}
    for name, sides in by_setting.items():
        record[name] = {
            side: {
                "n": len(v),
                "mean": round(float(np.mean(v)), 5),
                "std": round(float(np.std(v, ddof=1)), 5) if len(v) > 1 else None,
            }
            for side, v in sides.items()
        }
        if len(sides) == 2:
            off = np.mean(sides["lcnas"]) - np.mean(sides["torch"])
            record[name]["lcnas_minus_torch"] = round(float(off), 5)
        spent = [r["seconds"] for r in runs() if (r["experiment"], r["side"]) == (name, "lcnas")]
        record[name]["lcnas_minutes"] = round(float(np.median(spent)) / 60, 1)
    return record


def _command(args: argparse.Namespace) -> str:
    """Return the command without the folder of the data."""
    given = [a.replace(args.data, args.data.partition(":")[0] + ":DIR") for a in sys.argv[1:]]
    return " ".join(["python -m results.real_runs", *given])


def main() -> None:
    """Run what is missing, append, sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--size", type=int, help="pixels at which images are kept")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _worker(args)
        return
    for seed in args.seeds:
        done = {r["side"] for r in runs() if (r["experiment"], r["seed"]) == (_name(args), seed)}
        begun = {}
        for side in (s for s in SIDES if s not in done):
            command = [sys.executable, "-m", "results.real_runs", "--worker", side]
            command += ["--seed", str(seed), *sys.argv[1:]]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            begun[side] = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        for side, process in begun.items():
            text, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"{side} failed; its message is above")
            entry = {"experiment": _name(args), "side": side, "seed": seed}
            entry["command"] = _command(args)
            entry |= json.loads(text.splitlines()[-1])
            _report.append(LOG, entry)
            print(entry["experiment"], side, seed, f"{entry['test']:.4f}", flush=True)
    seeds = sorted({run["seed"] for run in runs()})
    commands = "; ".join(dict.fromkeys(run["command"] for run in runs()))
    conditions = {**_report.conditions(seeds), "command": commands}
    _report.write("real-runs", {**conditions, "test_accuracy": summary()})
    print(json.dumps(summary(), indent=1))


if __name__ == "__main__":
    main()
