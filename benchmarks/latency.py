"""How fast a table answers: predicting networks by their codes, beside adding up a dictionary.

    python -m benchmarks.latency

Takes the first table under latency_tables/ that has pplcnet_tail's rows; the peer is the usual way of other
packages, a dictionary from block to milliseconds added up in a loop, with the look-up of rows already done.
Both run on one core in turn; the median of the ratios counts. Writes results/latency-speed.json.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from benchmarks import _report
from benchmarks.core import compare, timed
from lcnas import latency, spaces
from lcnas.latency.table import LatencyTable

NETWORKS = 1_000_000
LOOPED = 5_000  # networks that the simple loop does; its time is scaled up
SEED = 0


def main() -> None:
    """Compare, print and write."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    space = spaces.load("pplcnet_tail")
    files = sorted(Path("latency_tables").glob("*.json"))
    tables = [t for t in map(LatencyTable.load, files) if t.coverage(space) == 1]
    table = tables[0]
    codes = space.sample_codes(NETWORKS, np.random.default_rng(SEED))
    rows = space.placed_blocks()
    ms = {i: table.term(placed) * 1e-3 for i, placed in enumerate(rows)}
    ids = [[i for i in row if i >= 0] for row in space.block_ids(codes[:LOOPED]).tolist()]
    base = table.base * 1e-3

    def one_by_one() -> float:
        return timed(lambda: [base + sum(ms[i] for i in row) for row in ids]) * NETWORKS / LOOPED

    predicting = compare(lambda: timed(lambda: table.predict_codes(space, codes)), one_by_one)
    seconds = predicting["ours"]["median_s"]
    budget_s = timed(lambda: latency.Budget(space, table, max_ms=2.0).count())
    results = {
        "networks": NETWORKS,
        "predict_codes (peer: a dictionary, rows already looked up)": predicting,
        "networks_per_second": round(NETWORKS / seconds),
        "Budget(max_ms=2).count(), built anew, s": round(budget_s, 3),
    }
    path = _report.write(
        "latency-speed",
        {**_report.conditions([SEED]), "table": table.machine_label, "results": results},
    )
    print(
        f"{results['networks_per_second']:,} networks/s, ratio {predicting['median_ratio_ours_to_peer']}"
    )
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
