"""What int8 costs in accuracy: exported networks and their quantised files, on pictures that none has seen.

    python -m results.int8_accuracy --data imagefolder:DIR --size 64 NETWORK.onnx ...

Each file is quantised in every way of lcnas.onnx_export.quantise (scheme "dense" and "all", ranges by extremes and
by their mean), calibrated with the same training pictures, drawn by seed; then all answer the test pictures of
the set. The networks are files of trainings of this set. Writes results/int8-accuracy.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report

CALIBRATE, BATCH, SEED = 512, 32, 0
WAYS: dict[str, dict[str, Any]] = {
    f"{scheme}, {ranges}": {"scheme": scheme, "ranges": ranges}
    for scheme, ranges in itertools.product(("dense", "all"), ("extremes", "mean"))
}


def pictures(data: Any) -> list[Any]:
    """Return batches of training pictures to calibrate with."""
    taken = data.train.batches(BATCH, seed=SEED, epoch=0)
    return [batch.images for batch in itertools.islice(taken, CALIBRATE // BATCH)]


def check(path: Path, data: Any) -> dict[str, Any]:
    """Return the accuracies of one network's files."""
    from lcnas import onnx_export

    files: dict[str, Any] = {"fp32": path.read_bytes()}
    for name, options in WAYS.items():
        files[name] = onnx_export.quantise(files["fp32"], pictures(data), **options)
    found = onnx_export.compare(files, data.test.batches(250))
    made = {name: {"accuracy": a.top1, "bytes": len(files[name])} for name, a in found.items()}
    return {"network": path.stem, "pictures": len(data.test), "files": made}


def main() -> None:
    """Check all networks, write, print."""
    from lcnas import training

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, required=True)
    args = parser.parse_args()
    rows = []
    with training.load_data(args.data, size=args.size) as data:
        for path in args.networks:
            rows.append(check(path, data))
            print(json.dumps(rows[-1]), flush=True)
    off = {
        way: [row["files"][way]["accuracy"] - row["files"]["fp32"]["accuracy"] for row in rows]
        for way in WAYS
    }
    difference = {
        way: {"n": len(d), "mean": float(np.mean(d)), "std": float(np.std(d, ddof=1))}
        for way, d in off.items()
        if len(d) > 1
    }
    kind = args.data.partition(":")[0]
    command = f"python -m results.int8_accuracy --data {kind}:DIR --size {args.size} NETWORKS"
    about = {**_report.conditions([SEED]), "command": command}
    _report.write("int8-accuracy", {**about, "minus_fp32": difference, "rows": rows})


if __name__ == "__main__":
    main()
