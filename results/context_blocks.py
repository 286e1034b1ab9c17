"""Are blocks measured in context better than blocks alone? Differences of chains against the other methods.

    python -m results.context_blocks

Every row of pplcnet_tail is measured alone and in context: a block whose output has the shape of its input as
half the difference of three copies and one; any other as the difference between a chain of two (a block that
ends at its input's shape, then it) and the first of them alone. Then networks in latency bands, as
``lcnas.profile_blocks`` draws them, tell how far the sums of either are off, with and without one affine
correction fitted on networks of their own. Writes results/context-blocks-<machine>.json.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report
from lcnas import latency, spaces
from lcnas.arch import PlacedBlock
from lcnas.latency import engines, machine, predict, sources, timing
from lcnas.latency.profile import BLOCK_PLAN, NETWORK_PLAN
from lcnas.latency.table import write_text
from lcnas.latency.timing import Item, Stopwatch

SEED = 0
FIT, HELD = 60, 40


def partner(rows: tuple[PlacedBlock, ...], row: PlacedBlock) -> PlacedBlock | None:
    """Return a block that ends at the shape where a row begins; one that keeps its shape if there is any."""
    ends = [p for p in rows if p.out_shape == row.in_shape]
    keeping = [p for p in ends if p.in_shape == p.out_shape]
    return next(iter(keeping or ends), None)


def chains(rows: tuple[PlacedBlock, ...]) -> dict[str, tuple[PlacedBlock, ...]]:
    """Return every chain that has to be measured, by key."""
    out: dict[str, tuple[PlacedBlock, ...]] = {}
    for i, row in enumerate(rows):
        out[f"alone:{i}"] = (row,)
        if row.in_shape == row.out_shape:
            out[f"context:{i}"] = (row, row, row)
        else:
            before = partner(rows, row)
            if before is not None:
                out[f"context:{i}"] = (before, row)
    return out


def in_context(
    rows: tuple[PlacedBlock, ...], ms: dict[str, float], overhead: float
) -> np.ndarray[Any, Any]:
    """Return each row's time in context."""
    numbers = {row: i for i, row in enumerate(rows)}
    out = np.array([ms[f"alone:{i}"] - overhead for i in range(len(rows))])
    for i, row in enumerate(rows):
        key = f"context:{i}"
        if key not in ms:
            continue
        if row.in_shape == row.out_shape:
            out[i] = (ms[key] - ms[f"alone:{i}"]) / 2
        else:
            before = partner(rows, row)
            assert before is not None
            out[i] = ms[key] - ms[f"alone:{numbers[before]}"]
    return out


def main() -> None:
    """Measure and compare."""
    space = spaces.load("pplcnet_tail")
    rows = space.placed_blocks()
    engine = engines.engine("openvino")
    rng = np.random.default_rng(SEED)
    watch = Stopwatch(latency.reference(engine), BLOCK_PLAN, rng)
    items_of_rows = chains(rows)
    with machine.pinned(1):
        items = [Item(k, partial(sources.open_fresh, c, engine)) for k, c in items_of_rows.items()]
        visits = list(watch.measure(items))
        alone = {str(k): m.ms for k, m in timing.estimates(visits).items()}
        overhead = 0.013
        terms = np.array([alone[f"alone:{i}"] for i in range(len(rows))])
        codes = space.sample_codes(40_000, rng)
        ids = space.block_ids(codes)
        rough = np.append(terms - overhead, 0.0)[ids].sum(axis=1)
        picked = banded(rough, rng)
        archs = space.decode(codes[picked])
        watch.plan = NETWORK_PLAN
        items = [Item(i, partial(sources.open_fresh, a, engine)) for i, a in enumerate(archs)]
        estimates = timing.estimates(list(watch.measure(items)))
    times = np.array([estimates[i].ms for i in range(len(archs))])
    counts = predict.count_matrix(ids[picked].tolist(), len(rows))
    context = in_context(rows, alone, overhead)
    out: dict[str, Any] = {**_report.conditions([SEED]), "held_out": HELD, "errors": {}}
    for name, values in (("alone", terms), ("context", context)):
        sums = counts @ values
        out["errors"][f"sum, {name}"] = dataclasses.asdict(predict.errors(sums[FIT:], times[FIT:]))
        design = np.stack([np.ones(FIT), sums[:FIT]], axis=1) / times[:FIT, None]
        base, slope = np.linalg.lstsq(design, np.ones(FIT), rcond=None)[0]
        out["errors"][f"affine, {name}"] = dataclasses.asdict(
            predict.errors(base + slope * sums[FIT:], times[FIT:])
        )
    for name, values in (("alone", terms), ("context", context + overhead)):
        values = np.maximum(values, 1e-3)
        kept = predict.BlockTimes(rows, values, values - overhead)
        fit = predict.fit("shrunk", kept, counts[:FIT], times[:FIT], overhead)
        error = predict.errors(fit.predict(counts[FIT:]), times[FIT:])
        out["errors"][f"shrunk to blocks {name}, {FIT} networks"] = dataclasses.asdict(error)
    this = latency.this_machine()
    for name, e in out["errors"].items():
        print(f"{name}: MAPE {e['mape']:.1%}, tau {e['tau']:.3f}")
    path = Path("results") / f"context-blocks-{this.slug}-{this.isa}.json"
    write_text(path, json.dumps(out, indent=1) + "\n")


def banded(rough: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the numbers of networks spread over five bands of the naive sum, in random order."""
    edges = np.geomspace(np.quantile(rough, 0.002), np.quantile(rough, 0.25), 6)
    part = (FIT + HELD) // 5
    bands = [
        rng.choice(np.flatnonzero((rough >= a) & (rough < b)), part, replace=False)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    return rng.permutation(np.concatenate(bands))


if __name__ == "__main__":
    main()
