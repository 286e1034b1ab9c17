"""Latency: measured on this machine, predicted from a table, and known with its error.

``latency_ms`` means one thing everywhere: the median over rounds of each round's 20 % quantile of the run
times, with an interval by bootstrap over sessions and rounds (:mod:`lcnas.latency.timing`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from lcnas import budgets, renamed, zoo
from lcnas.arch import Arch
from lcnas.errors import BudgetError, shorten
from lcnas.latency import engines, machine, timing
from lcnas.latency.engines import Engine
from lcnas.latency.machine import Machine, this_machine
from lcnas.latency.sources import Source, open_fresh
from lcnas.latency.table import TICKS_PER_MS, LatencyTable
from lcnas.latency.timing import Item, Measurement, Stopwatch, TimingPlan, Visit
from lcnas.spaces import Space

REFERENCE = "pplcnet_0.5x"  # the fixed network whose times show the speed of the machine


def reference(engine: Engine) -> Item:
    """Return the reference workload of an engine."""
    arch = zoo.load(REFERENCE)
    return Item(timing.REFERENCE, lambda: open_fresh(arch, engine))


def measure(
    arch: Arch,
    engine: str | Engine | None = None,
    threads: int = 1,
    *,
    precision: str = "fp32",
    batch: int = 1,
    classes: int = 1000,
    plan: TimingPlan | None = None,
    seed: int = 0,
) -> Measurement:
    """Return the latency of a whole network on this machine.

    Args:
        arch: the network; it gets random weights.
        engine: the engine's name, or a whole :class:`Engine`; None: the machine's default.
        threads: number of threads.
        precision: "fp32", "bf16" or "int8".
        batch: images per run.
        classes: outputs of the last layer.
        plan: how thoroughly to measure; None: :class:`TimingPlan`'s defaults.
        seed: seed of the order of visits.
    """
    chosen = _engine(engine, threads, precision, batch)
    return measure_all({"network": arch}, chosen, classes=classes, plan=plan, seed=seed)["network"]


def measure_all(
    sources: Mapping[str, Source],
    engine: Engine,
    *,
    classes: int = 1000,
    plan: TimingPlan | None = None,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Return the latency of several networks, measured interleaved."""
    visits = visits_of(sources, engine, classes=classes, plan=plan, seed=seed)
    measurements = timing.estimates(visits)
    return {name: measurements[name] for name in sources}


def visits_of(
    sources: Mapping[str, Source],
    engine: Engine,
    *,
    classes: int = 1000,
    plan: TimingPlan | None = None,
    seed: int = 0,
    run: int = 0,
    time_budget: float = math.inf,
) -> list[Visit]:
    """Measure several networks and return the single visits, the reference's among them.

    :func:`measure_all` estimates its latencies from these.

    Args:
        sources: the networks, by name.
        engine: the engine that runs them.
        classes: outputs of the last layer; an ONNX file keeps its own.
        plan: how thoroughly to measure; None: :class:`TimingPlan`'s defaults.
        seed: seed of the order of visits.
        run: number of this measurement, to tell several of them apart in one list.
        time_budget: seconds after which measuring ends, once every network has been visited.
    """

    def item(name: str) -> Item:
        return Item(name, lambda: open_fresh(sources[name], engine, classes))

    stopwatch = Stopwatch(
        reference(engine), plan or TimingPlan(), np.random.default_rng(seed), run=run
    )
    until = time.monotonic() + time_budget
    visits: list[Visit] = []
    waiting = set(sources)
    with machine.pinned(engine.threads):
        for visit in stopwatch.measure([item(name) for name in sources]):
            visits.append(visit)
            waiting.discard(str(visit.key))
            if not waiting and time.monotonic() > until:
                break
    return visits


def Budget(  # noqa: N802 - used as the class that it returns an object of
    space: Space,
    table: LatencyTable,
    max_ms: float,
    min_ms: float = 0.0,
    classes: int = 1000,
) -> budgets.Budget:
    """Return the networks of a space whose latency by a table lies within limits.

    Args:
        space: the networks.
        table: the table that predicts; predictions are whole microseconds, so the limits hold exactly.
        max_ms: maximum latency, ms.
        min_ms: minimum latency, ms.
        classes: outputs of the last layer.

    Raises:
        BudgetError: no network lies within the limits; names the lowest and the highest latency that exist.
        TableError: the table lacks an entry for a block of the space.

    Examples:
        budget = latency.Budget(space, table, max_ms=2.0)
        budget.count(), budget.sample(rng), budget.fastest()
    """
    for name, value in (("max_ms", max_ms), ("min_ms", min_ms)):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | np.number)
            or value != value
        ):
            raise BudgetError(f"{name}: {shorten(value)} is not a number of milliseconds")
    terms = table.terms(space, classes)
    try:
        return budgets.Budget(
            space,
            terms,
            max_cost=_ticks_below(float(max_ms)),
            min_cost=-_ticks_below(-float(min_ms)),
            show=lambda ticks: f"{ticks / TICKS_PER_MS:.3f} ms",
        )
    except BudgetError as error:
        raise BudgetError(f"{error} ({table.machine_label})") from None


def _ticks_below(ms: float) -> float:
    """Return the greatest whole number of ticks that is at most ``ms``, as predictions are divided."""
    if math.isinf(ms):
        return ms
    ticks = round(ms * TICKS_PER_MS)
    return ticks if ticks / TICKS_PER_MS <= ms else ticks - 1


def _engine(engine: str | Engine | None, threads: int, precision: str, batch: int) -> Engine:
    if isinstance(engine, Engine):
        return engine
    return engines.engine(engine, threads=threads, precision=precision, batch=batch)


__getattr__ = renamed.in_module(__name__, {"Plan": "TimingPlan"})

__all__: Sequence[str] = [
    "Budget",
    "Engine",
    "LatencyTable",
    "Machine",
    "Measurement",
    "TimingPlan",
    "measure",
    "measure_all",
    "this_machine",
]
