"""Where the time of a training step goes: by the kind of work, with one thread and with two.

    python -m benchmarks.step_parts --scale 0.25 --side 128

Runs the step of benchmarks.train_step under JAX's profiler, in a process for each number of threads, and adds
up the events of the compiled program by the operation that they come from (a scope of lcnas.models.ops; XLA
fuses across operations, and a fusion counts for its last one). Profiling slows a step down; the time
of a step without it stands beside. A part that two threads do not halve keeps a step from being
twice as fast. Writes results/step-parts.json, an entry a setting.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import _report
from benchmarks.train_step import BATCHES, jax_program

STEPS = 20
KINDS = (  # the scopes of lcnas.models.ops, the first that fits
    "depthwise_kernel_gradient",
    "depthwise_input_gradient",
    "depthwise",
    "pointwise_gradient",
    "pointwise",
    "norm_act_gradient",
    "norm_act",
    "stem",
)


def kind_of(name: str) -> str:
    """Return the kind of work of a name in the metadata."""
    kind = next((kind for kind in KINDS if f"{kind}/" in name or f"({kind})" in name), None)
    return kind or ("rest, backward" if "transpose" in name else "rest, forward")


def names_of(text: str) -> dict[str, str]:
    """Return instruction -> name in the metadata, of a compiled program."""
    pairs = re.findall(r"%?([\w.\-]+) = .*?metadata={[^}]*op_name=\"([^\"]*)\"", text)
    return dict(pairs)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Return ms a step, in all and by kind."""
    import jax

    compiled, carry, x = jax_program(args)
    program = compiled.lower(carry, x).compile()
    names = names_of(program.as_text())
    for _ in range(3):
        carry, loss = program(carry, x)
    float(loss)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=False):
            for _ in range(STEPS):
                carry, loss = program(carry, x)
            float(loss)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    parts: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("ph") == "X" and event["name"] in names:
            parts[kind_of(names[event["name"]])] += event["dur"] / 1000 / STEPS
    clock = []
    for _ in range(STEPS):
        began = time.perf_counter()
        carry, loss = program(carry, x)
        float(loss)
        clock.append(1000 * (time.perf_counter() - began))
    return {"ms": sorted(clock)[STEPS // 2], "parts": dict(sorted(parts.items()))}


def main() -> None:
    """Profile with one thread and with two; write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch, args.column = BATCHES[args.side], "lcnas"
    if args.threads:
        os.sched_setaffinity(0, set(range(args.threads)))
        import numpy as np

        from benchmarks.train_step import _weights
        from lcnas import zoo

        with tempfile.TemporaryDirectory() as folder:
            args.weights = f"{folder}/w.npz"
            np.savez(args.weights, **_weights(zoo.load(f"pplcnet_{args.scale:g}x", args.side)))
            print(json.dumps(work(args)))
        return
    record = {}
    for threads in (1, 2):
        command = [sys.executable, "-m", "benchmarks.step_parts", "--threads", str(threads)]
        command += ["--scale", str(args.scale), "--side", str(args.side)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        record[str(threads)] = json.loads(done.stdout.splitlines()[-1])
        print(threads, json.dumps(record[str(threads)], indent=1), flush=True)
    path = _report.RESULTS / "step-parts.json"
    before = json.loads(path.read_text())["settings"] if path.is_file() else {}
    key = f"{args.scale:g}x, {args.side} px, batch {args.batch}"
    _report.write("step-parts", {**_report.conditions([0]), "settings": {**before, key: record}})


if __name__ == "__main__":
    main()
