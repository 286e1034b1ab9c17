"""Does measuring candidate and reference at once, one a core, lower the noise floor? (A duet.)

    python -m results.duet

Twelve networks are measured twice, completely, in two ways: as lcnas does (one core, a reference visited in
between), and as a duet, in which a second process runs the reference on another core during each visit, and the
visit is divided by how slow the reference was at that very time. The floor is the spread of the second
measurement against the first, their common factor taken out; the bias is what the duet says of the ratios between
networks against what the other way says. Writes results/duet-<machine>.json.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report
from lcnas import latency, zoo
from lcnas.latency import TimingPlan, engines, sources, timing
from lcnas.latency.table import write_text
from lcnas.latency.timing import Item, Stopwatch, Visit

NAMES = (
    "pplcnet_0.25x", "pplcnet_0.35x", "pplcnet_0.5x", "pplcnet_0.75x", "pplcnet_1.0x",
    "mobilenet_v3_small_0.75x", "mobilenet_v3_small_1.0x", "mobilenet_v4_conv_small_0.5x",
    "mobilenet_v2_0.35x", "shufflenet_v2_0.5x", "ghostnet_0.5x", "mobilenet_v1_0.25x",
)  # fmt: skip
PLAN = TimingPlan(sessions=2, rounds=8, most_rounds=8, visit_ms=10.0)


def partner(pipe: Connection, core: int) -> None:
    """Run the reference on request; answer with its 20 % quantile."""
    os.sched_setaffinity(0, {core})
    session = sources.open_fresh(zoo.load("pplcnet_0.5x"), engines.engine("openvino"))
    for _ in range(10):
        session.run()
    pipe.send("ready")
    while pipe.recv():
        pipe.send(timing.run_visit(session, PLAN, time.perf_counter))


def duet(pipe: Connection, seed: int) -> dict[str, float]:
    """Return each network's ratio to the reference, both at once."""
    rng = np.random.default_rng(seed)
    engine = engines.engine("openvino")
    ratios: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(PLAN.sessions):
        sessions = {n: sources.open_fresh(zoo.load(n), engine) for n in NAMES}
        for session in sessions.values():
            session.run()
        for _ in range(PLAN.rounds):
            for i in rng.permutation(len(NAMES)):
                pipe.send(True)
                own = timing.run_visit(sessions[NAMES[i]], PLAN, time.perf_counter)
                ratios[NAMES[i]].append(own / pipe.recv())
    return {name: float(np.median(values)) for name, values in ratios.items()}


def solo(seed: int) -> dict[str, float]:
    """Return each network's latency as lcnas measures it."""
    engine = engines.engine("openvino")
    watch = Stopwatch(latency.reference(engine), PLAN, np.random.default_rng(seed))
    items = [Item(n, partial(sources.open_fresh, zoo.load(n), engine)) for n in NAMES]
    visits: list[Visit] = list(watch.measure(items))
    return {str(key): m.ms for key, m in timing.estimates(visits).items()}


def floor(first: dict[str, float], second: dict[str, float]) -> float:
    """Return the mean absolute relative difference, the common factor taken out."""
    ratio = np.array([second[n] / first[n] for n in NAMES])
    return float(np.abs(ratio / np.median(ratio) - 1).mean())


def main() -> None:
    """Measure both ways, twice each, in turn."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("a duet needs two cores")
    ours, theirs = multiprocessing.Pipe()
    helper = multiprocessing.Process(target=partner, args=(theirs, cores[0]), daemon=True)
    helper.start()
    ours.recv()
    os.sched_setaffinity(0, {cores[-1]})
    duets, solos = [], []
    for turn in range(4):
        solos.append(solo(turn))
        duets.append(duet(ours, turn))
        print(f"turn {turn + 1} of 4", flush=True)
    ours.send(False)
    bias = [
        np.array([d[n] / d["pplcnet_0.5x"] / (s[n] / s["pplcnet_0.5x"]) for n in NAMES]) - 1
        for d, s in zip(duets, solos, strict=True)
    ]
    out: dict[str, Any] = {
        **_report.conditions([0, 1, 2, 3]),
        "networks": list(NAMES),
        "floor_solo": [floor(solos[i], solos[j]) for i, j in ((0, 1), (2, 3), (0, 3), (1, 2))],
        "floor_duet": [floor(duets[i], duets[j]) for i, j in ((0, 1), (2, 3), (0, 3), (1, 2))],
        "bias_mean_abs": float(np.abs(np.mean(bias, axis=0)).mean()),
        "bias_largest": float(np.abs(np.mean(bias, axis=0)).max()),
        "bias": dict(zip(NAMES, [round(float(b), 4) for b in np.mean(bias, axis=0)], strict=True)),
    }
    print({k: v for k, v in out.items() if k.startswith(("floor", "bias"))})
    this = latency.this_machine()
    write_text(
        Path("results") / f"duet-{this.slug}-{this.isa}.json", json.dumps(out, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
