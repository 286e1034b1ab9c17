"""Three ONNX files that lcnas did not make: lcnas.measure beside onnxruntime's own timing of the same file.

    python -m results.third_party_onnx

The files are the small classics that the onnx package carries for its tests. Onnxruntime's own timing is the
"model_run" of its profiler. Both time the same file in turn, and lcnas measures it twice: the difference
between its two measurements is the noise floor. Writes results/third-party-onnx-<machine>.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks import _report
from lcnas import latency
from lcnas.latency import Plan, engines, machine, timing
from lcnas.latency.table import write_text

FILES = ("light_squeezenet", "light_shufflenet", "light_resnet50")
PLAN = Plan(sessions=1, rounds=6, most_rounds=6, visit_ms=60.0, least_runs=8)
TURNS = 6
ENGINES = ("mlas", "openvino")


def own_timing(path: Path, engine: latency.Engine) -> list[float]:
    """Return the ms of each run as onnxruntime's profiler tells them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.intra_op_num_threads = engine.threads
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        settings: dict[str, str] = {}
        provider = "CPUExecutionProvider"
        if engine.name == "openvino":
            provider = "OpenVINOExecutionProvider"
            hint = {"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}
            settings = {
                "device_type": "CPU",
                "num_of_threads": str(engine.threads),
                "num_streams": "1",
                "load_config": json.dumps(hint),
            }
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[provider], provider_options=[settings]
        )
        given = session.get_inputs()[0]
        feed = {given.name: np.random.default_rng(0).standard_normal(given.shape, dtype=np.float32)}
        for _ in range(3 + 30):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    return [e["dur"] / 1000 for e in events if e.get("name") == "model_run"][3:]


def compare(path: Path, engine: latency.Engine) -> dict[str, Any]:
    """Return both timings of a file, in turn, and lcnas's own second measurement."""
    ours, again, theirs = [], [], []
    with machine.pinned(engine.threads):
        for turn in range(TURNS):
            for into, seed in ((ours, turn), (again, 100 + turn)):
                visits = latency.visits_of({"file": path}, engine, plan=PLAN, seed=seed)
                into.append(timing.estimate([v for v in visits if v.key == "file"]).ms)
            theirs.append(float(np.quantile(own_timing(path, engine), timing.QUANTILE)))
    ratio = np.array(ours) / np.array(theirs)
    floor = np.array(again) / np.array(ours)
    return {
        "lcnas_ms": round(float(np.median(ours)), 4),
        "onnxruntime_ms": round(float(np.median(theirs)), 4),
        "ratio_median": round(float(np.median(ratio)), 4),
        "ratio_std": round(float(ratio.std(ddof=1)), 4),
        "floor_median": round(float(np.median(floor)), 4),
        "floor_std": round(float(floor.std(ddof=1)), 4),
        "n": TURNS,
    }


def main() -> None:
    """Compare all files on both engines."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    this = latency.this_machine()
    out: dict[str, Any] = {**_report.conditions(list(range(TURNS))), "files": {}}
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
