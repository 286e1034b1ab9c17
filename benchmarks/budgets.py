"""Budgets' speed: costs, counting, drawing and searching under a latency budget, each beside a simple way.

    python -m benchmarks.budgets

Terms are synthetic, of the size of a CPU's latencies: a microsecond for each 50,000 MACs and 20 more a
block, and pairs of neighbours of six by seven kinds; ticks are microseconds and the budget is 5 ms.
Peers: for costs a loop over dictionaries, rows already looked up; for counting the same dynamic program
over dictionaries; for drawing from the fastest hundredth rejection, by the same fast costs; for the best
of a random score the best of 100,000 draws. Each pair is timed in turn in one run. Memory is the peak of
what Python allocates.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np

from benchmarks import _report
from benchmarks.core import compare, summary, timed
from lcnas import cost, spaces
from lcnas.budgets import Budget, Terms
from lcnas.errors import BudgetError
from lcnas.spaces import Space

ROUNDS = 5
SEED = 0
NETWORKS = 1_000_000
LOOPED = 5_000  # networks that the simple loop does; its time is scaled up
DRAWS = 10_000
TRIED = 100_000  # draws among which the peer takes the best
LIMIT = 5_000  # ticks
SPACES = ("pplcnet_tail", "pplcnet_free", "lcnet_next", "mobilenetv3")


def made_up_terms(space: Space) -> Terms:
    """Return terms like a CPU's latencies in microseconds."""
    rng = np.random.default_rng(SEED)
    n = len(space.placed_blocks())
    macs = np.array([cost.of(placed).macs for placed in space.placed_blocks()], dtype=np.int64)
    kinds = np.stack([rng.integers(0, 6, n), rng.integers(0, 7, n)], axis=1)
    return Terms(40, macs // 50_000 + 20, kinds, rng.integers(-10, 10, (6, 7)))


def again(terms: Terms) -> Terms:
    """Return equal terms that know no space yet."""
    return Terms(terms.base, terms.entries, terms.kinds, terms.pairs, terms.classes)


def looped_costs(space: Space, terms: Terms, codes: np.ndarray[Any, Any]) -> float:
    """Return the seconds for NETWORKS costs by dictionaries, from a loop over LOOPED."""
    assert terms.kinds is not None
    assert terms.pairs is not None
    rows = dict(enumerate(terms.entries.tolist()))
    left = dict(enumerate(terms.kinds[:, 0].tolist()))
    right = dict(enumerate(terms.kinds[:, 1].tolist()))
    pairs = {key: int(ticks) for key, ticks in np.ndenumerate(terms.pairs)}
    chains = [[i for i in ids if i >= 0] for ids in space.block_ids(codes[:LOOPED]).tolist()]

    def loop() -> list[int]:
        return [
            terms.base
            + sum(rows[i] for i in ids)
            + sum(pairs[left[a], right[b]] for a, b in itertools.pairwise(ids))
            for ids in chains
        ]

    return timed(loop) * NETWORKS / LOOPED


def looped_count(budget: Budget) -> int:
    """Return the count by the same program over dictionaries of ticks."""
    graph, limit = budget._graph, budget._window[1]
    behind: list[Counter[int]] = [Counter() for _ in range(graph.nodes)]
    behind[-1][0] = 1
    to, ticks = graph.to.tolist(), graph.ticks.tolist()
    for node in range(graph.nodes - 2, -1, -1):
        here = behind[node]
        for k in graph.edges(node):
            for t, n in behind[to[k]].items():
                if t + ticks[k] <= limit:
                    here[t + ticks[k]] += n
    return sum(n for t, n in behind[0].items() if t <= limit)


def rejection(space: Space, budget: Budget, rng: np.random.Generator) -> None:
    """Draw DRAWS networks in the budget by drawing from the whole space."""
    accepted = 0
    while accepted < DRAWS:
        accepted += int(budget.inside(space.sample_codes(100_000, rng)).sum())


def best_of_draws(budget: Budget, scores: list[np.ndarray[Any, Any]]) -> None:
    """Find a good network among TRIED draws."""
    codes = budget.sample_codes(TRIED, np.random.default_rng(SEED))
    sum((mine[codes[:, i]] for i, mine in enumerate(scores)), np.zeros(len(codes))).argmax()


def refused(space: Space, terms: Terms) -> None:
    """Ask for what no network meets."""
    try:
        Budget(space, again(terms), 5)
    except BudgetError:
        return
    raise AssertionError("a budget of 5 ticks was met")


def side_by_side() -> dict[str, Any]:
    """Return each task of pplcnet_tail beside its peer."""
    space = spaces.load("pplcnet_tail")
    terms = made_up_terms(space)
    rng = np.random.default_rng(SEED)
    codes = space.sample_codes(NETWORKS, rng)
    costs = terms.cost(space, codes)
    fast = Budget(space, terms, int(np.quantile(costs, 0.01)))
    wide = Budget(space, terms, LIMIT)
    assert wide.count() == looped_count(wide)
    scores = [rng.normal(size=len(gene.choices)) for gene in space.genes]
    return {
        f"cost of {NETWORKS:,} networks (peer: dictionaries, rows already looked up)": compare(
            lambda: timed(lambda: terms.cost(space, codes)),
            lambda: looped_costs(space, terms, codes),
        ),
        "build a budget of 5 ms and count it (peer: dictionaries, the graph already built)": compare(
            lambda: timed(lambda: Budget(space, again(terms), LIMIT).count()),
            lambda: timed(lambda: looped_count(wide)),
        ),
        f"draw {DRAWS:,} of the fastest hundredth (peer: rejection)": compare(
            lambda: timed(lambda: fast.sample_codes(DRAWS, rng)),
            lambda: timed(lambda: rejection(space, fast, rng)),
        ),
        f"best of a score (peer: the best of {TRIED:,} draws, which is not the best)": compare(
            lambda: timed(lambda: wide.best(scores)),
            lambda: timed(lambda: best_of_draws(wide, scores)),
        ),
    }


def alone(name: str) -> dict[str, Any]:
    """Return the times of a space's budget of 5 ms, and the peak of memory."""
    space = spaces.load(name)
    terms = made_up_terms(space)
    rng = np.random.default_rng(SEED)
    space.layout()
    budget = Budget(space, terms, LIMIT)
    count = budget.count()
    outside = space.sample_codes(1000, rng)
    outside = outside[~budget.inside(outside)][:10]
    tasks = {
        "build": lambda: Budget(space, again(terms), LIMIT),
        "refuse 5 ticks": lambda: refused(space, terms),
        "count, built": lambda: Budget(space, terms, LIMIT).count(),
        f"draw {DRAWS:,}": lambda: budget.sample_codes(DRAWS, rng),
        f"draw {DRAWS:,} in 5 bands": lambda: budget.sample_codes(DRAWS, rng, bands=5),
        "draw one": lambda: budget.sample(rng),
        f"repair {len(outside)}": lambda: budget.repair(outside),
    }
    times = {task: summary([timed(run) for _ in range(ROUNDS)]) for task, run in tasks.items()}
    tracemalloc.start()
    Budget(space, again(terms), LIMIT).sample_codes(DRAWS, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"count": str(count), "peak_mb": round(peak / 2**20), "tasks": times}


def main() -> None:
    """Run everything and write results/budgets-speed.json."""
    results = {
        "side by side, pplcnet_tail": side_by_side(),
        "alone": {name: alone(name) for name in SPACES},
    }
    path = _report.write("budgets-speed", {**_report.conditions([SEED]), "results": results})
    for title, numbers in results["side by side, pplcnet_tail"].items():
        ours, ratio = numbers["ours"]["median_s"], numbers["median_ratio_ours_to_peer"]
        print(f"{title}: {ours:.4f} s, ratio {ratio}")
    for name, numbers in results["alone"].items():
        each = ", ".join(f"{t} {x['median_s']:.3f} s" for t, x in numbers["tasks"].items())
        print(f"{name}: {each}; {numbers['peak_mb']} MB")
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
