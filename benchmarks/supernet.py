"""How many programs a supernet compiles, and what a network's accuracy costs with it and without.

    python -m benchmarks.supernet [--networks 200] [--alone 4] [--size 64]

Trains a supernet of pplcnet_tail (widths up to those of PP-LCNet 0.5x) for a few steps on synthetic images,
then asks it about different networks: statistics over 512 training images, answers to validation images.
Beside it a few networks alone, with the weights that are cut out of the supernet: built in Flax, statistics
and answers compiled, the same images. One thread. Writes results/supernet.json.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

if __name__ == "__main__" and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores

import jax
import numpy as np
from flax import nnx

from benchmarks import _report
from lcnas import budgets, models, spaces, training, zoo
from lcnas.models import memory
from lcnas.models.supernet import Supernet, narrowed
from lcnas.training import recipes
from lcnas.training import supernet as learning
from lcnas.training.supernet.loop import SupernetJob, SupernetStatus

SEED, STEPS, BATCH = 0, 20, 256


def trained(size: int, rng: np.random.Generator) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return (budget, images, (supernet, weights), programs' counts and times) of a short training."""
    space, _ = narrowed(spaces.load("pplcnet_tail"), zoo.load("pplcnet_0.5x"))
    budget = budgets.macs(space, max_macs=10**12)
    codes = budget.sample_codes(256, rng, bands=8)
    data = training.load_data("synthetic", size=size)
    net = Supernet.of(space, data.classes, resolution=size, buckets=2, sample=codes)
    recipe = recipes.load("proxy").override({"batch": 64, "epochs": 1, "dropout": 0.0, "ema": 0.0})

    def draw(rng: np.random.Generator, n: int) -> Any:
        return codes[rng.integers(len(codes), size=n)]

    job = SupernetJob(net, space, data, recipe, SEED, draw, 2, learning.LABELS, None)
    state, status = job.start(), SupernetStatus()
    zeros = job.zeros(state)
    for arrays in job._batches(0):
        state, _, zeros = job._timed(status, state, zeros, arrays)
        if status.step == STEPS:
            break
    programs = job.program
    parts: list[Any] = [programs.prepare, programs.update, *programs.gradients]
    facts = {
        "buckets": len(net.buckets),
        "steps": status.step,
        "compiled": {
            "pictures": parts[0]._cache_size(),
            "update": parts[1]._cache_size(),
            "gradient of each bucket": [p._cache_size() for p in parts[2:]],
        },
        "compile_seconds": round(status.compile_seconds, 1),
        "images_s": round(status.step * 64 / status.seconds, 1),
    }
    return budget, data, (net, job.weights(state)), facts


def asked(scorer: Any, archs: list[Any]) -> dict[str, Any]:
    """Return what asking about networks takes, and how many programs it compiled."""
    began = time.perf_counter()
    first = {scorer.scores([a])[0].bucket for a in archs[:8]}
    compiling = time.perf_counter() - began
    seconds = []
    for arch in archs[8:]:
        began = time.perf_counter()
        first.add(scorer.scores([arch])[0].bucket)
        seconds.append(time.perf_counter() - began)
    return {
        "networks": len(archs),
        "buckets_used": sorted(first),
        "compiled": {
            "statistics of each bucket": [parts[0]._cache_size() for parts in scorer.programs],
            "answers of each bucket": [parts[1]._cache_size() for parts in scorer.programs],
        },
        "first_8_seconds": round(compiling, 1),
        "seconds_per_network": round(float(np.median(seconds)), 3),
        "networks_per_second": round(len(seconds) / sum(seconds), 2),
    }  # fmt: skip


def alone(arch: Any, scorer: Any, data: Any) -> dict[str, float]:
    """Return what the same costs for a network by itself, in seconds."""
    weights = scorer.cut(arch)
    began = time.perf_counter()
    net = models.build(arch, data.classes)
    net.set_weights(weights)
    net.train()
    images, aspects = scorer._calibration
    rngs = nnx.Rngs(dropout=SEED)
    shown, labels, sides = scorer._validation

    @nnx.jit
    def statistics(net: Any, rngs: Any, images: Any, aspects: Any) -> Any:
        for i in range(images.shape[0]):
            net(scorer._view(images[i], aspects[i]), rngs=rngs)
        return jax.tree.leaves(nnx.state(net, nnx.BatchStat))[0]

    @nnx.jit
    def answers(net: Any, images: Any, labels: Any, aspects: Any) -> Any:
        def one(batch: Any) -> Any:
            return jax.numpy.sum(
                jax.numpy.argmax(net(scorer._view(batch[0], batch[2])), -1) == batch[1],
                dtype=jax.numpy.int32,
            )

        return jax.numpy.sum(jax.lax.map(one, (images, labels, aspects)))

    jax.block_until_ready(statistics(net, rngs, images, aspects))
    net.eval()
    right = int(answers(net, shown, labels, sides))
    took = time.perf_counter() - began
    began = time.perf_counter()
    net.train()
    jax.block_until_ready(statistics(net, rngs, images, aspects))
    net.eval()
    assert int(answers(net, shown, labels, sides)) >= 0
    again = time.perf_counter() - began
    assert right >= 0
    return {"seconds": took, "of_it_computing": again}


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--alone", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    memory.keep_freed_memory()
    rng = np.random.default_rng(SEED)
    budget, data, (net, weights), facts = trained(args.size, rng)
    codes = np.unique(budget.sample_codes(2 * args.networks, rng, bands=8), axis=0)
    archs = budget.space.decode(rng.permutation(codes)[: args.networks])
    scorer = learning.Scorer(
        net, weights, data.train, data.validation, data.normalization, batch=BATCH
    )
    accuracies = asked(scorer, archs)
    single = [alone(arch, scorer, data) for arch in archs[: args.alone]]
    each = float(np.median([s["seconds"] for s in single]))
    record = {
        **_report.conditions([SEED]),
        "training": facts,
        "asking": accuracies,
        "alone": {
            "networks": len(single),
            "seconds_per_network": round(each, 2),
            "of_it_computing": round(float(np.median([s["of_it_computing"] for s in single])), 2),
        },
        "ratio": round(each / accuracies["seconds_per_network"], 1),
    }
    print({k: v for k, v in record.items() if k in ("training", "asking", "alone", "ratio")})
    _report.write("supernet", record)


if __name__ == "__main__":
    main()
