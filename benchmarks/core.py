"""The core's speed: importing, loading, counting and drawing, each in a ratio to a simple way.

    python -m benchmarks.core

Peers: importing NumPy alone for ``import lcnas.spaces``; for drawing, a loop of one ``random.choice`` a gene
(which is not uniform over networks) and, for costs, adding up a dictionary of row costs. Each pair is timed
in turn in one run; the median of the ratios is what counts on a noisy machine.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _report
from lcnas import cost, spaces
from lcnas.spaces import Space

ROUNDS = 7
SEED = 0
NETWORKS = 100_000
LOOPED = 2_000  # networks that the simple loop do; their time is scaled up


def timed(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def summary(seconds: list[float]) -> dict[str, float | int]:
    """Return n, mean, standard deviation and median."""
    return {
        "n": len(seconds),
        "mean_s": round(statistics.mean(seconds), 6),
        "std_s": round(statistics.stdev(seconds), 6),
        "median_s": round(statistics.median(seconds), 6),
    }


def compare(ours: Callable[[], float], peer: Callable[[], float]) -> dict[str, Any]:
    """Time two things in turn; returns both and the median ratio of ours to the peer."""
    ours(), peer()  # warm-up
    pairs = [(ours(), peer()) for _ in range(ROUNDS)]
    return {
        "ours": summary([a for a, _ in pairs]),
        "peer": summary([b for _, b in pairs]),
        "median_ratio_ours_to_peer": round(statistics.median(a / b for a, b in pairs), 4),
    }


def in_a_new_process(code: str) -> float:
    """Return the seconds that importing takes in a new interpreter, its start left out."""
    text = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return float(done.stdout)


def fresh_size(name: str) -> Callable[[], float]:
    """Return a timer of loading a space and counting it anew."""
    return lambda: timed(lambda: spaces.load(name).size)


def plain_draws(space: Space) -> float:
    """Return the seconds for NETWORKS networks, one random choice a gene, from a loop over LOOPED."""
    rng = random.Random(SEED)
    sizes = [range(len(gene.choices)) for gene in space.genes]
    return (
        timed(lambda: [[rng.choice(s) for s in sizes] for _ in range(LOOPED)]) * NETWORKS / LOOPED
    )


def plain_costs(space: Space, codes: np.ndarray[Any, Any]) -> float:
    """Return the seconds for NETWORKS networks by adding up a dictionary, from a loop over LOOPED."""
    macs = {row: cost.of(placed).macs for row, placed in enumerate(space.placed_blocks())}
    rows = [[i for i in ids if i >= 0] for ids in space.block_ids(codes[:LOOPED]).tolist()]
    return timed(lambda: [sum(macs[i] for i in ids) for ids in rows]) * NETWORKS / LOOPED


def main() -> None:
    """Run all comparisons and write results/core-speed.json."""
    space = spaces.load("pplcnet_tail")
    codes = space.sample_codes(NETWORKS, np.random.default_rng(SEED))
    draw = np.random.default_rng(SEED)
    results = {
        "import lcnas.spaces (peer: import numpy)": compare(
            lambda: in_a_new_process("import lcnas.spaces"),
            lambda: in_a_new_process("import numpy"),
        ),
        "load pplcnet_tail and count it (peer: the same of pplcnet, 640 networks)": compare(
            fresh_size("pplcnet_tail"), fresh_size("pplcnet")
        ),
        f"sample_codes({NETWORKS:,}) of pplcnet_tail (peer: a choice a gene in a loop, not uniform)": compare(
            lambda: timed(lambda: space.sample_codes(NETWORKS, draw)), lambda: plain_draws(space)
        ),
        f"macs_codes of {NETWORKS:,} networks (peer: a dictionary, rows already looked up)": compare(
            lambda: timed(lambda: cost.macs_codes(space, codes)), lambda: plain_costs(space, codes)
        ),
    }
    path = _report.write("core-speed", {**_report.conditions([SEED]), "results": results})
    for title, numbers in results.items():
        print(
            f"{title}: {numbers['ours']['median_s']:.4f} s, ratio {numbers['median_ratio_ours_to_peer']}"
        )
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
