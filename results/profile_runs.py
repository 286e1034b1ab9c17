"""The default table built three times from nothing: how wrong it is, on networks used for nothing else.

    python -m results.profile_runs

Runs ``python -m lcnas.profile_blocks --seed 0``, ``1`` and ``2``, each into a folder of its own, and writes
results/profile-runs-<machine>.json: each run's seconds and errors by every method, beside the noise floor of the
same run (every held-out network measured a second time, completely), and the errors pooled over the runs.
A run that is in the file already is not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report
from lcnas import latency
from lcnas.latency import predict
from lcnas.latency.table import LatencyTable, write_text

SEEDS = (0, 1, 2)


def one_run(seed: int) -> dict[str, Any]:
    """Build a table from nothing; returns its errors and what each held-out network took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "lcnas.profile_blocks",
            "--seed",
            str(seed),
            "--out",
            folder,
        ]
        subprocess.run(command, check=True)
        seconds = time.monotonic() - start
        (path,) = Path(folder).glob("*.json")
        table = LatencyTable.load(path)
    held = [n for n in table.networks if n.role == "held_out"]
    low, high = table.bounds(0.9)
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "rows": len(table.entries),
        "calibration": sum(n.role == "calibration" for n in table.networks),
        "errors": table.errors["pplcnet_tail"],
        "interval_90": [low, high],
        "fit": table.method,
        "held_out": [[n.predicted_ms, n.ms, n.again_ms] for n in held],
    }


def pooled(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the errors over the held-out networks of all runs."""
    triples = np.array([row for run in runs for row in run["held_out"]])
    predicted, first, again = triples.T
    bounds = [run["interval_90"] for run in runs for _ in run["held_out"]]
    low, high = np.array(bounds).T
    inside = (first >= predicted * (1 + low)) & (first <= predicted * (1 + high))
    fit, floor = predict.errors(predicted, first), predict.errors(again, first)
    return {
        "n": len(first),
        "mape": fit.mape,
        "mape_floor": floor.mape,
        "mape_std_over_runs": float(
            np.std([r["errors"]["held_out"]["fit"]["mape"] for r in runs], ddof=1)
        )
        if len(runs) > 1
        else None,
        "tau": [fit.tau, fit.tau_low, fit.tau_high],
        "tau_floor": [floor.tau, floor.tau_low, floor.tau_high],
        "within_5": fit.within_5,
        "within_10": fit.within_10,
        "coverage_90": float(inside.mean()),
    }


def main() -> None:
    """Do the runs that are not in the file yet."""
    machine = latency.this_machine()
    path = Path("results") / f"profile-runs-{machine.slug}-{machine.isa}.json"
    data = json.loads(path.read_text()) if path.is_file() else _report.conditions(list(SEEDS))
    runs = data.setdefault("runs", [])
    for seed in SEEDS:
        if seed in [run["seed"] for run in runs]:
            continue
        runs.append(one_run(seed))
        data["pooled"] = pooled(runs)
        write_text(path, json.dumps(data, indent=1) + "\n")
        print(json.dumps(data["pooled"], indent=1), flush=True)


if __name__ == "__main__":
    main()
