"""A realistic synthetic outcome with its folder: trials, hits, finalists and baselines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lcnas import cost, spaces, zoo
from search.outcome import PUBLISHED, FinalNetwork, FinalRun, MeasuredLatency, Outcome
from search.trials import Trial

IMAGES = 1000
TABLE = "Example CPU (avx2), openvino 1.0, fp32, 1 thread, batch 1"
# name, role, band, beside, measured ms, predicted ms, probability of a hit, published top-1
NETWORKS = (
    ("finalist-1", "finalist", 0, (), 0.92, 0.95, 0.66, None),
    ("finalist-2", "finalist", 1, (), 1.31, 1.27, 0.75, None),
    ("finalist-3", "finalist", 2, (), 2.41, 2.52, 0.78, None),
    ("pplcnet_0.35x", "pplcnet", 0, ("finalist-1",), 0.91, 0.9, 0.60, 58.09),
    ("pplcnet_0.62x", "pplcnet", 1, ("finalist-2",), 1.30, 1.33, 0.66, None),
    ("pplcnet_0.75x", "pplcnet", 2, ("finalist-3",), 2.35, 2.2, 0.78, 68.18),
    ("mobilenet_v4_conv_small_0.5x", PUBLISHED, 1, ("finalist-2", "finalist-3"), 1.28, 1.4, 0.55, 64.8),
    ("mobilenet_v3_small_1.0x", PUBLISHED, 2, ("finalist-3",), 2.12, None, 0.70, 67.4),
)  # fmt: skip


def trials(n=200, seed=0, failed=(7, 70)):
    """Return trials of `pplcnet_tail` whose accuracy grows with synthetic latency."""
    rng = np.random.default_rng(seed)
    space = spaces.load("pplcnet_tail", 64)
    codes = space.canonical(space.sample_codes(n, rng))
    results = []
    for i, (row, arch) in enumerate(zip(codes, space.decode(codes), strict=True)):
        ms = float(np.exp(rng.uniform(np.log(0.8), np.log(2.8))))
        accuracy = None if i in failed else float(0.3 + 0.12 * np.log(ms) + 0.03 * rng.normal())
        reason = "the loss is no number" if accuracy is None else ""
        results.append(Trial(i, tuple(map(int, row)), arch.id, ms, accuracy, reason, 12.5))
    return results


def front_of(result):
    """Return the numbers of the trials that none dominates, by latency."""
    done = sorted((t.latency_ms, -t.accuracy, t.number) for t in result if not t.failed)
    best, kept = 1.0, []
    for _, negative, number in done:
        if negative < best:
            best = negative
            kept.append(number)
    return tuple(kept)


def outcome(
    folder: Path,
    *,
    seeds=3,
    n=200,
    synthetic=False,
    measured=True,
    names=None,
    shift=0.0,
    test=True,
):
    """Write trials.jsonl and hits into a folder, and return the outcome.

    Args:
        seeds: trainings of each network.
        n: trials.
        measured: whether networks were measured.
        names: of the networks that were trained; None: all.
        shift: added to the finalists' probability of a hit.
        test: whether the test images were read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    actual = trials(n)
    lines = [json.dumps(trial.to_data()) for trial in actual]
    (folder / "trials.jsonl").write_text("\n".join(lines) + "\n")
    front = front_of(actual)
    rng = np.random.default_rng(5)
    hard = rng.normal(size=IMAGES)
    finals = []
    for i, (name, role, band, beside, ms, predicted, share, top1) in enumerate(NETWORKS):
        if names is not None and name not in names:
            continue
        ours = role == "finalist"
        number = front[(i + 1) * len(front) // 4] if ours else None
        at = spaces.load("pplcnet_tail", 64).decode(np.array([actual[number or 0].codes]))[0]
        arch = at if ours else zoo.load(name, 64)
        finals.append(
            FinalNetwork(
                name, role, arch, band, beside, cost.params(arch, 10), cost.macs(arch, classes=10),
                predicted, predicted and predicted * 0.95, predicted and predicted * 1.06,
                MeasuredLatency(ms, ms * 0.985, ms * 1.02) if measured else None,
                actual[number].accuracy if number is not None else None, number, top1,
                tuple(_run(folder, rng, hard, name, s, share + ours * shift, test) for s in range(seeds)),
                winner=ours,
            )
        )  # fmt: skip
    settings = {
        "space": "pplcnet_tail",
        "resolution": 64,
        "data": "synthetic",
        "evaluator": "train",
    }
    return Outcome(
        settings=settings,
        surroundings={"lcnas": "0.1.0", "libraries": {"jax": "0.10.2"}, "machine": {"cpu": "Example CPU"}},
        space="pplcnet_tail",
        table=TABLE,
        on_this_machine=True,
        max_latency_ms=2.5,
        min_latency_ms=0.8,
        searched_max_ms=2.38,
        networks=123_456_789_012,
        synthetic=synthetic,
        trials=n,
        failed=sum(t.failed for t in actual),
        evaluator="train: from scratch, 2 epochs",
        searcher="nsga2",
        front=front,
        finals=tuple(finals),
        times={"data": 3.2, "search": 3 * 3600 + 700, "finalists and baselines trained": 95.0},
        compile_seconds=61.0,
        evaluation={"images_s": 2345.6, "chance": 0.1, "networks_s": 0.4},
        notes=("finalist-3 was replaced: 2.61 ms measured, more than 2.5",),
    )  # fmt: skip


def _run(folder, rng, hard, name, seed, share, test):
    taste = 0.5 * rng.normal(size=IMAGES) + 0.02 * rng.normal()
    z = hard + taste + rng.normal(size=IMAGES)
    hits = z < np.quantile(z, min(max(share + 0.004 * rng.normal(), 0), 1))
    path = f"finals/{name}/seed{seed}/hits.npy"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / path, hits)
    onnx = f"networks/{name}-s{seed}.onnx"
    return FinalRun(
        seed,
        validation=float(hits[:500].mean()),
        test=float(hits.mean()) if test else None,
        onnx=onnx,
        hits=path if test else "",
    )


def save(folder: Path, result: Outcome) -> Path:
    """Write outcome.json; returns the folder."""
    (folder / "outcome.json").write_text(result.to_json())
    return folder
