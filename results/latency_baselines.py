"""Every zoo network measured beside PP-LCNet, and the paper's latency ablation on this machine's processor.

    python -m results.latency_baselines

Writes results/latency-<machine>.json: for openvino and mlas, 1 and 2 threads, fp32 and int8, the latency of
each zoo network with its interval, and the ratio to PP-LCNet 1.0x; the ablation of the paper (SE at four
placements, 5x5 at three, each technique added and taken away) at 0.5x, and what later papers changed,
each as a ratio to PP-LCNet 0.5x measured in the same rounds. Networks of one setting are visited interleaved.
A setting that is in the file already is not measured again, so the command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import _report
from lcnas import cost, latency, zoo
from lcnas.arch import Arch
from lcnas.blocks import Classifier, ConvNormAct, DepthwiseSeparable
from lcnas.latency import Engine, TimingPlan, engines, timing
from lcnas.latency.table import write_text
from lcnas.measure import ratios_to_first
from lcnas.zoo.pplcnet import pplcnet

SEED = 0
PLAN = TimingPlan(sessions=2, rounds=4, most_rounds=4, visit_ms=8.0, least_runs=3, at_once=40)
ABLATION_PLAN = TimingPlan(sessions=4, rounds=8, most_rounds=8, visit_ms=8.0, at_once=40)
SETTINGS = [
    (name, threads, precision)
    for precision in ("fp32", "int8")  # outermost: a model is made once for all engines
    for name in ("openvino", "mlas")
    for threads in (1, 2)
]

NONE = "0" * 13
SMALL = "3" * 13


def ablation() -> dict[str, tuple[Arch, float | None]]:
    """Return the paper's networks at 0.5x with the latency it prints (tables 4 to 7; Xeon 6148, 10 threads)."""
    base = {"act": "relu", "kernels": SMALL, "se": NONE, "last": 0}
    out: dict[str, tuple[Arch, float | None]] = {"PP-LCNet 0.5x": (pplcnet(0.5), 2.05)}
    for pattern, ms in (
        ("1100000000000", 2.06),
        ("0000001100000", 2.03),
        ("1111111111111", 3.80),
    ):
        out[f"SE at {pattern}"] = (pplcnet(0.5, se=pattern), ms)
    for pattern, ms in (("5555555555555", 2.08), ("5555555333333", 2.07)):
        out[f"5x5 at {pattern.replace('3', '0').replace('5', '1')}"] = (
            pplcnet(0.5, kernels=pattern),
            ms,
        )
    added: dict[str, Any] = dict(base)
    out["BaseNet"] = (pplcnet(0.5, **added), 1.61)
    for title, change, ms in (
        ("BaseNet + h-swish", {"act": "hard_swish"}, 1.66),
        ("BaseNet + h-swish + 5x5", {"kernels": "3333335555555"}, 1.70),
        ("BaseNet + h-swish + 5x5 + SE", {"se": "0000000000011"}, 1.85),
    ):
        added |= change
        out[title] = (pplcnet(0.5, **added), ms)
    less: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("without h-swish", {"act": "relu"}, 1.94),
        ("without SE", {"se": NONE}, 1.87),
        ("without 5x5", {"kernels": SMALL}, 2.01),
        ("without the 1280 conv", {"last": 0}, 1.85),
    )
    for title, without, ms in less:
        out[title] = (pplcnet(0.5, **without), ms)
    return out


def later() -> dict[str, tuple[Arch, float | None]]:
    """Return what later papers changed, applied to PP-LCNet 0.5x."""
    base = pplcnet(0.5)
    out: dict[str, tuple[Arch, float | None]] = {
        "shortcuts where shapes allow": (_changed(base, shortcut=True), None),
        "widths in multiples of 16": (_rounded(base, 16), None),
        "widths in multiples of 32": (_rounded(base, 32), None),
    }
    return out


def _changed(arch: Arch, **fields: Any) -> Arch:
    stages = {}
    for stage in arch.stages:
        blocks = list(stage.blocks)
        for i, block in enumerate(blocks[1:], start=1):
            if isinstance(block, DepthwiseSeparable):
                blocks[i] = dataclasses.replace(block, **fields)
        stages[stage.name] = blocks
    return Arch.of(stages, arch.resolution)


def _rounded(arch: Arch, step: int) -> Arch:
    def up(block: Any) -> Any:
        if isinstance(block, DepthwiseSeparable | ConvNormAct):
            return dataclasses.replace(block, width=-(-block.width // step) * step)
        return block

    stages = {
        s.name: [b if isinstance(b, Classifier) else up(b) for b in s.blocks] for s in arch.stages
    }
    return Arch.of(stages, arch.resolution)


def measured(archs: dict[str, Arch], engine: Engine, plan: TimingPlan) -> dict[str, Any]:
    """Return each network's latency, interval and ratio to the first."""
    visits = latency.visits_of(archs, engine, plan=plan, seed=SEED)
    estimates = timing.estimates(visits)
    ratios = ratios_to_first(visits, list(archs), SEED)
    return {
        name: {
            "ms": round(estimates[name].ms, 4),
            "interval": [round(estimates[name].low, 4), round(estimates[name].high, 4)],
            "rounds": estimates[name].rounds,
            "ratio": round(ratios[name][0], 4),
            "ratio_interval": [round(ratios[name][1], 4), round(ratios[name][2], 4)],
            "params": cost.params(arch),
            "macs": cost.macs(arch),
        }
        for name, arch in archs.items()
    }


def zoo_networks() -> dict[str, Arch]:
    """Return PP-LCNet 1.0x first, then every other network for 224 px."""
    names = [n for n in zoo.names() if not n.startswith("pplcnet_32")]
    return {n: zoo.load(n) for n in ["pplcnet_1.0x", *(n for n in names if n != "pplcnet_1.0x")]}


def main() -> None:
    """Measure every setting that is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one setting, such as openvino-t1-fp32")
    args = parser.parse_args()
    if args.only is None:  # a process each: OpenVINO keeps the threads of its first session
        for name, threads, precision in SETTINGS:
            key = f"{name}-t{threads}-{precision}"
            subprocess.run(
                [sys.executable, "-m", "results.latency_baselines", "--only", key], check=True
            )
        return
    machine = latency.this_machine()
    path = Path("results") / f"latency-{machine.slug}-{machine.isa}.json"
    data = json.loads(path.read_text()) if path.is_file() else {**_report.conditions([SEED])}
    data.setdefault("settings", {})
    data.setdefault("ablation", {})
    for name, threads, precision in SETTINGS:
        key = f"{name}-t{threads}-{precision}"
        if args.only not in (None, key):
            continue
        engine = engines.engine(name, threads=threads, precision=precision)
        if key not in data["settings"]:
            data.setdefault("engines", {})[key] = engine.version
            data["settings"][key] = measured(zoo_networks(), engine, PLAN)
            write_text(path, json.dumps(data, indent=1) + "\n")
            print(f"{key}: zoo done", flush=True)
        if key not in data["ablation"] and precision == "fp32":
            networks = ablation() | later()
            measurements = measured({n: a for n, (a, _) in networks.items()}, engine, ABLATION_PLAN)
            paper = {n: ms for n, (_, ms) in networks.items()}
            data["ablation"][key] = {
                n: row | {"paper_ms": paper[n], "paper_ratio": _ratio(paper[n], 2.05)}
                for n, row in measurements.items()
            }
            write_text(path, json.dumps(data, indent=1) + "\n")
            print(f"{key}: ablation done", flush=True)


def _ratio(ms: float | None, base: float) -> float | None:
    return None if ms is None else round(ms / base, 4)


if __name__ == "__main__":
    main()
