"""Do the searchers beat random search? The hypervolume that each reaches, by the number of evaluations.

    python -m results.searchers
    python -m results.searchers --recorded

Every searcher has the same budget, the same number of evaluations, the same seeds and the same lag as a search with
two workers. With --recorded, an evaluation is what a supernet said of the network once (``results/recorded.py``): the
accuracies are real, the space is small enough to be known as a whole (1,920 networks), and it costs nothing to repeat.
Without, the space is pplcnet_tail between PP-LCNet 0.25x and 1.0x by the committed table, and an evaluation is a synthetic
accuracy, from the codes alone. Both are about searchers; they say nothing about networks. The synthetic accuracy:

- each stage adds accuracy that saturates in its MACs: a (1 - exp(-MACs / what it needs));
- each step of width from stage to stage has a best size; other ones cost accuracy, by the square of the octaves;
- 5x5 kernels and SE add a little, less where there are many, as in the paper's ablations;
- pairs of widths, depths and the head interact: products of standardised choices with weights drawn once;
- noise as of one training, normal with 0.5 points, fixed by the network.

The sizes are those seen on Imagenette at 64 pixels (12 points between 0.25x and 1.0x, networks of one latency spread
by 2 to 3 points). Points are percent and milliseconds; the hypervolume is above 45 % (recorded: above the lowest
accuracy) and below the budget's slowest, as a share of that of the best networks that all runs together have found
(recorded: of all networks). Writes results/searchers.json or results/searchers-recorded.json.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _report
from lcnas import cost, latency, spaces, zoo
from lcnas.budgets import Budget
from lcnas.latency.table import TICKS_PER_MS, LatencyTable
from results import recorded
from search import pareto, searchers
from search.trials import Trial

TABLE = "amd-epyc-avx512bf16-openvino1.24.1-fp32-t1-b1"
SPACE = "pplcnet_tail"
SEEDS = list(range(12))
TRIALS = 300
LAG = 4
SHOWN = (25, 50, 75, 100, 150, 200, 250, 300)  # evaluations
FLOOR = 45.0  # percent, of the hypervolume
STAGES = (
    (0, 1),
    (1, 2),
    (2, 5),
    (5, 8),
    (8, 16),
    (16, 19),
    (19, 20),
)  # slots of stem, stages and head
GAINS = (1.5, 2.0, 4.0, 5.0, 6.0, 4.0, 3.0)  # points that each adds at most
STEPS = (0.0, 1.8, 0.2, 1.4, 0.2)  # octaves by which a stage is best wider than the one before
NEEDS = (
    0.5,
    2.0,
    0.5,
    1.5,
    0.5,
    2.0,
    0.3,
)  # MACs at which a stage has 63 % of it, PP-LCNet 0.5x's being 1
NOISE = 0.5  # points

Floats = NDArray[np.float64]


class Synthetic:
    """A synthetic accuracy over the codes of pplcnet_tail."""

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self.macs = np.array(
            [*(cost.of(placed).macs for placed in space.placed_blocks()), 0], dtype=np.float64
        )
        self.needs = np.array(NEEDS) * self._macs(space.encode(zoo.load("pplcnet_0.5x")))[0]
        names = [g.name for g in space.genes]
        self.columns = {name: i for i, name in enumerate(names)}
        self.widths = [i for i, n in enumerate(names) if n.endswith("width") and n != "head_width"]
        self.coarse = [i for i, n in enumerate(names) if n.endswith(("width", "depth"))]
        pairs = list(itertools.combinations(range(len(self.coarse)), 2))
        self.pairs = np.array(pairs).T
        self.weights = np.random.default_rng(1).normal(0, 1.2 / math.sqrt(len(pairs)), len(pairs))

    def _macs(self, codes: NDArray[np.int64]) -> Floats:
        rows = self.macs[self.space.block_ids(codes)]  # absent slots have id -1: the 0 at the end
        return np.stack([rows[:, a:b].sum(axis=1) for a, b in STAGES], axis=1)

    def exact(self, codes: NDArray[np.int64]) -> Floats:
        """Return accuracies without noise (n,), percent, of canonical codes (n, genes)."""
        ratio = self._macs(codes) / self.needs
        accuracy = 52 + (1 - np.exp(-ratio)) @ np.array(GAINS)
        widths = np.stack([self._values(i)[codes[:, i]] for i in self.widths], axis=1)
        steps = np.diff(np.log2(widths), axis=1)
        accuracy -= 0.2 * ((steps - STEPS) ** 2).sum(axis=1)
        accuracy += 1.5 * np.tanh(0.4 * self._number(codes, "_kernel")) + 1.5 * np.tanh(
            0.8 * self._number(codes, "_se")
        )
        z = np.stack([self._standard(i)[codes[:, i]] for i in self.coarse], axis=1)
        return accuracy + (z[:, self.pairs[0]] * z[:, self.pairs[1]]) @ self.weights

    def __call__(self, codes: NDArray[np.int64]) -> Floats:
        """Return accuracies (n,), percent, with the noise that is each network's own."""
        return self.exact(codes) + NOISE * np.array(
            [_normal(row.tobytes()) for row in codes.astype("<i8")]
        )

    def _number(self, codes: NDArray[np.int64], ending: str) -> Floats:
        """Return how many blocks have the second choice of a gene; absent ones have the first."""
        return (
            codes[:, [i for n, i in self.columns.items() if n.endswith(ending)]]
            .sum(axis=1)
            .astype(np.float64)
        )

    @functools.cache
    def _values(self, i: int) -> Floats:
        return np.array(self.space.genes[i].choices, dtype=np.float64)

    @functools.cache
    def _standard(self, i: int) -> Floats:
        values = np.arange(len(self.space.genes[i].choices), dtype=np.float64)
        return (values - values.mean()) / values.std()


def _normal(content: bytes) -> float:
    """Return a standard normal number that depends on the content alone."""
    digest = hashlib.sha256(content).digest()
    return float(np.random.default_rng(list(digest[:8])).standard_normal())


def run(
    name: str, budget: Budget, evaluate: Synthetic, seed: int, trials: int = TRIALS, **options: Any
) -> list[Trial]:
    """Return the trials of one search."""
    strategy = searchers.create(name, budget, seed, trials=trials, **options)
    proposals = searchers.Proposals(strategy, budget, seed, LAG)
    curve = []
    for _ in range(trials):
        proposed = proposals.next()
        assert proposed is not None
        number, codes = proposed
        ms = float(budget.costs(codes[None])[0]) / TICKS_PER_MS
        curve.append(Trial(number, tuple(codes.tolist()), "", ms, float(evaluate(codes[None])[0])))
        proposals.record(curve[-1])
    return curve


class Recorded:
    """Accuracies as a supernet gave them."""

    def __init__(self) -> None:
        self.known = recorded.read()

    def __call__(self, codes: NDArray[np.int64]) -> Floats:
        """Return accuracies (n,), percent."""
        return np.array([self.known[tuple(row)] for row in codes.tolist()])

    def trials(self, budget: Budget) -> list[Trial]:
        """Return all networks that were recorded."""
        codes = np.array(list(self.known), dtype=np.int64)
        times = budget.costs(codes) / TICKS_PER_MS
        pairs = zip(self.known.items(), times, strict=True)
        return [Trial(i, key, "", float(ms), value) for i, ((key, value), ms) in enumerate(pairs)]


def volumes(
    trials: list[Trial], shown: tuple[int, ...], slowest: float, floor: float
) -> list[float]:
    """Return the hypervolume after each of so many evaluations."""
    points = pareto.points(trials)
    return [pareto.hypervolume(points[:n], (floor, -slowest)) for n in shown]


def summary(values: list[float]) -> dict[str, Any]:
    """Return n, mean and standard deviation."""
    return {
        "n": len(values),
        "mean": round(float(np.mean(values)), 5),
        "std": round(float(np.std(values, ddof=1)), 5),
    }


def against(mine: Floats, base: Floats) -> dict[str, Any]:
    """Return how a searcher compares with random search at the end, seed by seed (n, shown)."""
    difference = mine[:, -1] - base[:, -1]
    reached = [
        next((n for n, v in zip(SHOWN, row, strict=True) if v >= base[:, -1].mean()), None)
        for row in mine
    ]
    numbers = sorted(n for n in reached if n is not None)
    return {
        **summary(difference.tolist()),
        "better_in": int((difference > 0).sum()),
        "evaluations_to_its_end": numbers[len(numbers) // 2]
        if len(numbers) > len(reached) // 2
        else None,
    }


def limits(table: LatencyTable) -> Any:
    """Return the latencies of PP-LCNet 0.25x and 1.0x, ms."""
    return table.predict([zoo.load("pplcnet_0.25x"), zoo.load("pplcnet_1.0x")])


def compare(budget: Budget, evaluate: Any, slowest: float, floor: float) -> dict[str, Any]:
    """Run all searchers with all seeds; return the results of each."""
    runs = {name: [run(name, budget, evaluate, seed) for seed in SEEDS] for name in searchers.NAMES}
    if isinstance(evaluate, Recorded):
        everything = evaluate.trials(budget)
    else:
        everything = [t for mine in runs.values() for trials in mine for t in trials]
    most = volumes(everything, (len(everything),), slowest, floor)[0]
    shares = {
        name: np.array([volumes(t, SHOWN, slowest, floor) for t in mine]) / most
        for name, mine in runs.items()
    }
    return {
        name: {
            "hypervolume": {
                str(n): summary(column.tolist()) for n, column in zip(SHOWN, mine.T, strict=True)
            },
            **({} if name == "random" else {"against_random": against(mine, shares["random"])}),
        }
        for name, mine in shares.items()
    }


def main() -> None:
    """Run all searchers and write what they reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recorded", action="store_true", help="on recorded evaluations, not on synthetic ones"
    )
    args = parser.parse_args()
    space = recorded.space() if args.recorded else spaces.load(SPACE)
    table = LatencyTable.load(
        Path(__file__).resolve().parent.parent / "latency_tables" / f"{TABLE}.json"
    )
    evaluate: Any = Recorded() if args.recorded else Synthetic(space)
    if args.recorded:
        times = table.predict_codes(space, recorded.members())
        low, high, floor = float(times.min()), float(times.max()), min(evaluate.known.values())
    else:
        low, high, floor = *(float(x) for x in limits(table)), FLOOR
    budget = latency.Budget(space, table, max_ms=high, min_ms=low)
    results = compare(budget, evaluate, high, floor)
    facts = {"space": space.name, "networks": budget.count(), "table": TABLE, "min_ms": low, "max_ms": high,
            "trials": TRIALS, "lag": LAG, "floor": floor}  # fmt: skip
    name = "searchers-recorded" if args.recorded else "searchers"
    path = _report.write(name, {**_report.conditions(SEEDS), **facts, "results": results})
    for name, mine in results.items():
        print(
            name.ljust(10),
            *(f"{x['mean']:.4f}" for x in mine["hypervolume"].values()),
            mine.get("against_random", ""),
        )
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
