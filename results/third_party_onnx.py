"""Three ONNX files that lcnas did not make: lcnas.measure beside a simple loop of onnxruntime's session.run.

    python -m results.third_party_onnx

The files are the small classics that the onnx package carries for its tests. The peer is what anybody would
write: a session with onnxruntime's own settings for the same provider and threads, the same input, and a clock
around each ``session.run``. Both report the same statistic, the median over rounds of each round's 20 % quantile,
and take turns: in each turn lcnas measures twice and the loop once, in random order, each in a fresh session. What
lcnas's two measurements of a turn differ by is the noise floor. (onnxruntime's profiler is not used on either
engine: it costs time a node, several per cent of a network of many nodes, and nothing here needs it.) Takes about
three minutes; writes results/third-party-onnx-<machine>.json.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks import _report
from lcnas import latency
from lcnas.latency import TimingPlan, engines, machine, timing
from lcnas.latency.table import write_text

FILES = ("light_squeezenet", "light_shufflenet", "light_resnet50")
PLAN = TimingPlan(sessions=1, rounds=3, most_rounds=3, visit_ms=60.0, least_runs=6)
TURNS = 12
SEED = 0
ENGINES = ("mlas", "openvino")
PEER = "a simple loop of session.run"


def open_plainly(path: Path, engine: latency.Engine) -> onnxruntime.InferenceSession:
    """Return a session as onnxruntime's documentation opens one, on the engine's provider and threads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = engine.threads
    if engine.name == "mlas":
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    hint = {"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}
    settings = {
        "device_type": "CPU",
        "num_of_threads": str(engine.threads),
        "num_streams": "1",
        "load_config": json.dumps(hint),
    }
    return onnxruntime.InferenceSession(
        str(path), options, providers=["OpenVINOExecutionProvider"], provider_options=[settings]
    )


def plain_loop(path: Path, engine: latency.Engine) -> list[float]:
    """Return each round's 20 % quantile, ms, of a loop around session.run."""
    session = open_plainly(path, engine)
    given = session.get_inputs()[0]
    feed = {given.name: np.random.default_rng(0).standard_normal(given.shape, dtype=np.float32)}
    for _ in range(PLAN.warm_up):
        session.run(None, feed)
    rounds = []
    for _ in range(PLAN.rounds):
        times: list[float] = []
        while len(times) < PLAN.least_runs or sum(times) < PLAN.visit_ms:
            start = time.perf_counter()
            session.run(None, feed)
            times.append((time.perf_counter() - start) * 1e3)
        rounds.append(float(np.quantile(times, timing.QUANTILE)))
    return rounds


def measured(path: Path, engine: latency.Engine, seed: int) -> list[float]:
    """Return each round's 20 % quantile, ms, as lcnas.measure takes them."""
    visits = latency.visits_of({"file": path}, engine, plan=PLAN, seed=seed)
    return [v.ms for v in timing.drift_corrected(visits) if v.key == "file"]


def compare(path: Path, engine: latency.Engine) -> dict[str, Any]:
    """Return both timings of a file, in turn, and lcnas's own second measurement."""
    rng = np.random.default_rng(SEED)
    rounds: dict[str, list[list[float]]] = {"lcnas": [], "again": [], "onnxruntime": []}
    with machine.pinned(engine.threads):
        for turn in range(TURNS):
            ways = {
                "lcnas": lambda: measured(path, engine, turn),
                "again": lambda: measured(path, engine, TURNS + turn),
                "onnxruntime": lambda: plain_loop(path, engine),
            }
            for i in rng.permutation(len(ways)):
                way = list(ways)[i]
                rounds[way].append(ways[way]())
    turns = {way: np.median(values, axis=1) for way, values in rounds.items()}
    ratio = turns["lcnas"] / turns["onnxruntime"]
    floor = turns["again"] / turns["lcnas"]
    noise = float(np.abs(floor - 1).mean())
    return {
        "lcnas_ms": round(float(np.median(rounds["lcnas"])), 4),
        "onnxruntime_ms": round(float(np.median(rounds["onnxruntime"])), 4),
        "ratio_median": round(float(np.median(ratio)), 4),
        "ratio_std": round(float(ratio.std(ddof=1)), 4),
        "floor_median": round(float(np.median(floor)), 4),
        "floor_std": round(float(floor.std(ddof=1)), 4),
        "off_mean": round(float(np.abs(ratio - 1).mean()), 4),  # of a turn, absolute
        "floor_mean": round(noise, 4),
        "agrees": bool(abs(np.median(ratio) - 1) <= noise),
        "n": TURNS,
    }


def main() -> None:
    """Compare all files on both engines."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    this = latency.this_machine()
    plan = dataclasses.asdict(PLAN)
    out: dict[str, Any] = {**_report.conditions([SEED]), "peer": PEER, "plan": plan, "files": {}}
    for name in FILES:
        for kind in ENGINES:
            out["files"][f"{name}, {kind}"] = compare(folder / f"{name}.onnx", engines.engine(kind))
            print(name, kind, out["files"][f"{name}, {kind}"], flush=True)
    write_text(
        Path("results") / f"third-party-onnx-{this.slug}-{this.isa}.json",
        json.dumps(out, indent=1) + "\n",
    )


if __name__ == "__main__":
    main()
