"""Building a table: measure blocks alone and whole networks, fit, validate; stop and resume at any moment.

Each visit is written to a journal at once, so that a kill loses at most the visit in progress. Repeating the
command reads the journal and does the rest.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import renamed, zoo
from lcnas.arch import Arch, PlacedBlock, walk
from lcnas.blocks import to_data
from lcnas.budgets import Budget, Terms
from lcnas.errors import BudgetError, EmptyBandWarning, TableError
from lcnas.latency import sources, timing
from lcnas.latency.chains import ContextChain, context_chains
from lcnas.latency.engines import Engine, machine_of
from lcnas.latency.fitting import MIN_NETWORKS, refit
from lcnas.latency.journal import Journal
from lcnas.latency.machine import pinned
from lcnas.latency.table import (
    TICK_MS,
    Entry,
    LatencyTable,
    MeasuredNetwork,
    destination,
    update,
)
from lcnas.latency.timing import Item, Measurement, Stopwatch, TimingPlan
from lcnas.spaces import Space

Floats = NDArray[np.float64]
BANDS = 5  # latency bands from which networks are drawn
UNIFORM_SHARE = (
    0.15  # of the networks to fit, drawn over the whole space: the bands leave most of it out
)
MIN_HELD_OUT = 2  # held-out networks that have to remain if some are moved to the fit
SPAN = ("0.25x", "1.0x")  # the scales of PP-LCNet that bound the bands
FAMILIES = (
    "pplcnet",
    "pplcnet_32",
)  # of the zoo: PP-LCNet's strides, for large and for small images
OVERHEAD = "overhead"
BLOCK_PLAN = TimingPlan(
    sessions=2, rounds=3, most_rounds=6, target=0.03, visit_ms=3.0, warm_up=2, at_once=64
)
NETWORK_PLAN = TimingPlan(
    sessions=2, rounds=6, most_rounds=12, target=0.01, visit_ms=5.0, warm_up=2
)


@dataclass(frozen=True)
class ProfileSettings:
    """What to measure for a table."""

    spaces: tuple[Space, ...] = ()  # spaces whose blocks and networks are measured
    archs: tuple[Arch, ...] = ()  # further networks to measure the blocks of
    classes: int = 1000  # outputs of the last layer
    validate: int = 40  # held-out networks per space
    uniform: int = 20  # held-out networks per space, drawn uniformly
    calibrate: int = 240  # maximum networks to fit per space
    time_budget: float = 280.0  # seconds after which no more networks to fit are begun
    seed: int = 0


@dataclass(frozen=True)
class ProfileStep:
    """Progress of one step of a profile."""

    title: str
    done: int  # visits so far
    total: int  # visits of the step


def held_out_count(networks: int, others: int, settings: ProfileSettings) -> int:
    """Return how many of a space's networks to hold out.

    A small space holds out as many as leave enough to fit. If there are too few for both, it holds out all of
    them: then nothing is fitted, and every network measures the error of the sum of the blocks.

    Args:
        networks: number of the space's networks to divide, at most as many as the settings ask for.
        others: number of networks that are fitted to in any case.
        settings: the settings of the table.
    """
    held = min(settings.validate, networks)
    short = MIN_NETWORKS - (networks - held) - others  # of networks to fit
    enough = settings.calibrate >= MIN_NETWORKS and held - short >= MIN_HELD_OUT
    return held - short if short > 0 and enough else held


def entry_key(placed: PlacedBlock) -> str:
    """Return a short key of a placed block, the same in every process."""
    classes = placed.out_shape[0] if placed.depends_on_classes else 0
    content = [to_data(placed.block), list(placed.in_shape), classes]
    return "row:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# -- building --------------------------------------------------------------------------------------


class Builder:
    """Measures, fits and validates for one engine; see :func:`build`.

    Args:
        settings: what to measure.
        engine: the engine of the table.
        folder: the folder of the table and of its journal.
        open_session: opens a session of a source, an engine and a number of classes.
        clock: returns the time in seconds.
        on_progress: is called after each visit.
        block_plan: how thoroughly to measure blocks.
        network_plan: how thoroughly to measure whole networks.

    Raises:
        TableError: the folder's table is of another machine or engine, or cannot be read or written, or
            another process has the journal open.
    """

    def __init__(
        self,
        settings: ProfileSettings,
        engine: Engine,
        folder: Path,
        *,
        open_session: Callable[[sources.Source, Engine, int], Any] = sources.open_fresh,
        clock: timing.Clock = time.perf_counter,
        on_progress: Callable[[ProfileStep], None] = lambda _: None,
        block_plan: TimingPlan = BLOCK_PLAN,
        network_plan: TimingPlan = NETWORK_PLAN,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.folder = folder
        self.open_session = open_session
        self.clock = clock
        self.on_progress = on_progress
        self.block_plan = block_plan
        self.network_plan = network_plan
        self._estimates: tuple[int, Mapping[Any, Measurement]] | None = None  # visits, results
        self.fresh = LatencyTable(machine_of(engine.name), engine)
        path = folder / self.fresh.file_name
        self._existing_table(path)  # an unsuitable table is refused before there is a journal
        header = self._header()
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:8]
        self.journal = Journal(path.with_name(f".{path.stem}.{digest}.journal.jsonl"), header)
        # Read again: a process with the same settings may have ended meanwhile.
        self.existing = self._existing_table(path)
        self.rng = np.random.default_rng(settings.seed)
        self.stopwatch = Stopwatch(
            self._reference(),
            network_plan,
            self.rng,
            clock=clock,
            on_visit=self.journal.visit,
            run=self.journal.run,
        )

    def _existing_table(self, path: Path) -> LatencyTable:
        """Return the table to extend; refuse one that cannot be."""
        destination(path)
        table = LatencyTable.load(path) if path.is_file() else self.fresh
        check_same_machine(table, self.fresh)
        return table

    def _header(self) -> dict[str, Any]:
        s = self.settings
        return {
            "spaces": [[space.name, content_id(space)] for space in s.spaces],
            "archs": [arch.id for arch in s.archs],
            "classes": s.classes,
            "validate": s.validate,
            "calibrate": s.calibrate,
            "uniform": s.uniform,
            "seed": s.seed,
            "engine": dataclasses.asdict(self.engine),
        }

    def _reference(self) -> Item:
        arch = zoo.load("pplcnet_0.5x")
        return Item(timing.REFERENCE, lambda: self.open_session(arch, self.engine, 1000))

    def run(self) -> Path:
        """Measure what is not measured yet, and fit; returns the path of the finished table."""
        started = self.clock()
        with pinned(self.engine.threads):
            self.measure_blocks()
            for done, space in enumerate(self.settings.spaces):
                left = started + self.settings.time_budget - self.clock()
                share = left / (len(self.settings.spaces) - done)
                self.measure_networks(space, self.clock() + share)
        return self.finish()

    # -- blocks alone --

    @functools.cached_property
    def placed(self) -> tuple[PlacedBlock, ...]:
        """The distinct placed blocks that the table needs entries for."""
        distinct: dict[PlacedBlock, None] = {}
        for space in self.settings.spaces:
            distinct.update(dict.fromkeys(space.placed_blocks(self.settings.classes)))
        for arch in self.settings.archs:
            distinct.update(dict.fromkeys(walk(arch, None, self.settings.classes)))
        return tuple(distinct)

    @functools.cached_property
    def missing(self) -> dict[str, PlacedBlock]:
        """The placed blocks that the existing table has no entries for, by key."""
        return {entry_key(p): p for p in self.placed if p not in self.existing.entries}

    @functools.cached_property
    def chains(self) -> Mapping[PlacedBlock, ContextChain]:
        """Chains in which missing blocks are measured in context; for int8 only."""
        if self.engine.precision != "int8":
            return {}
        pool = list(dict.fromkeys([*self.placed, *self.existing.entries]))
        return context_chains(self.missing.values(), pool)

    def measure_blocks(self) -> None:
        """Measure every missing block alone (for int8 in a chain as well), and the overhead of a session."""
        alone = dict(self.missing)
        alone.update({entry_key(chain.other): chain.other for chain in self.chains.values()})
        items = [] if self.existing.overhead_ms else [Item(OVERHEAD, self._open_minimal)]
        items += [Item(key, self._opener((placed,))) for key, placed in alone.items()]
        items += [
            Item(_chain_key(p), self._opener(chain.blocks)) for p, chain in self.chains.items()
        ]
        title = "blocks alone and in chains" if self.chains else "blocks alone"
        self._measure(title, items, self.block_plan)

    def _open_minimal(self) -> Any:
        """Open a network that does next to nothing: its time is the overhead of a session."""
        return self.open_session(_minimal_network(), self.engine, 1000)

    def _opener(self, source: sources.Source) -> Callable[[], Any]:
        return lambda: self.open_session(source, self.engine, self.settings.classes)

    def _measure(
        self, title: str, items: Sequence[Item], plan: TimingPlan, until: float = float("inf")
    ) -> None:
        self.stopwatch.plan = plan
        total = len(items) * plan.sessions * plan.rounds
        keys = {item.key for item in items}
        done = sum(v.key in keys for v in self.journal.visits)
        for visit in self.stopwatch.measure(items, list(self.journal.visits)):
            done += visit.key in keys
            self.on_progress(ProfileStep(title, min(done, total), total))
            if self.clock() > until:
                break
        self.journal.sync()

    # -- whole networks --

    def measure_networks(self, space: Space, until: float) -> None:
        """Measure a space's networks: held-out ones twice, then calibration ones until the time is over."""
        drawn = self.draws(space)
        held = [*drawn["held_out"], *drawn["uniform"]]
        calibration = self._network_items(space, drawn["calibration"], "first")
        third = max(20, len(calibration) // 3)
        # Held-out networks among others, in random order: neither may have the faster hour of the machine.
        first = [*self._network_items(space, held, "first"), *calibration[:third]]
        self._measure(f"{space.name}: networks, held-out ones among them", first, self.network_plan)
        again = self._network_items(space, held, "again")
        self._measure(f"{space.name}: held-out networks again", again, self.network_plan)
        title, size = f"{space.name}: more networks to fit", self.network_plan.at_once
        for i in range(third, len(calibration), size):
            if self.clock() > until:
                break
            self._measure(title, calibration[i : i + size], self.network_plan, until)

    def _network_items(self, space: Space, codes: Sequence[Sequence[int]], run: str) -> list[Item]:
        if not len(codes):
            return []
        archs = space.decode(np.array(codes))
        return [Item(f"net:{run}:{arch.id}", self._opener(arch)) for arch in archs]

    def draws(self, space: Space) -> dict[str, list[list[int]]]:
        """Return the codes of the networks to measure, by role; drawn once, by provisional terms."""
        key = f"draws:{space.name}"
        if key not in self.journal.notes:
            self.journal.note(key, self._draw(space))
        drawn: dict[str, list[list[int]]] = self.journal.notes[key]
        return drawn

    def _draw(self, space: Space) -> dict[str, list[list[int]]]:
        s = self.settings
        rng = np.random.default_rng(s.seed + 1)
        outside = int(s.calibrate * UNIFORM_SHARE)
        codes = self._banded(space, s.validate + s.calibrate - outside, rng)
        banded = set(map(tuple, codes.tolist()))
        drawn = np.unique(space.sample_codes(s.uniform + outside, rng), axis=0)
        # The sets are disjoint.
        new = [network for network in drawn.tolist() if tuple(network) not in banded]
        shape = len(new), codes.shape[1]  # a list of networks without genes does not show it
        others = rng.permutation(np.array(new, dtype=np.int64).reshape(shape))
        held = held_out_count(len(codes), len(others[s.uniform :]), s)
        calibration = np.concatenate([codes[held:], others[s.uniform :]])
        return {
            "held_out": codes[:held].tolist(),
            "uniform": others[: s.uniform].tolist(),
            "calibration": rng.permutation(calibration).tolist(),
        }

    def _banded(self, space: Space, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return codes of different networks, spread over latency bands between the ends of the span."""
        terms = self.provisional(space)
        low, high = (self._span_ticks(arch) for arch in span(space))
        try:
            budget = Budget(space, terms, max_cost=high, min_cost=low)
        except BudgetError:  # no network of the space lies between: take all of it
            budget = Budget(space, terms, max_cost=int(1e9))
        with warnings.catch_warnings():
            if not n or budget.count_bounds()[1] <= n:  # none or all are drawn, in any bands
                warnings.simplefilter("ignore", EmptyBandWarning)
            codes = budget.sample_codes(2 * n, rng, bands=BANDS)
        different = np.unique(codes, axis=0)
        return rng.permutation(different)[:n]

    def _span_ticks(self, arch: Arch) -> int:
        key = f"net:span:{arch.id}"
        self._measure("the span of PP-LCNet", [Item(key, self._opener(arch))], self.network_plan)
        return round(self._measurements()[key].ms / TICK_MS)

    def provisional(self, space: Space) -> Terms:
        """Return the terms of the naive sum: each block's time alone, less the overhead of a session."""
        entries = self._measured_entries()
        overhead = self._overhead()
        placed = space.placed_blocks(self.settings.classes)
        times = [max(0.0, entries[p].inside_ms(overhead)) for p in placed]
        ticks = np.round(np.array(times) / TICK_MS).astype(np.int64)
        return Terms(base=round(overhead / TICK_MS), entries=ticks, classes=self.settings.classes)

    # -- results --

    def _measurements(self) -> Mapping[Any, Measurement]:
        """Return all latencies measured so far, by key; cached until there are more visits."""
        count = len(self.journal.visits)
        if self._estimates is None or self._estimates[0] != count:
            self._estimates = (count, timing.estimates(self.journal.visits))
        return self._estimates[1]

    def _overhead(self) -> float:
        return self.existing.overhead_ms or self._measurements()[OVERHEAD].ms

    def _measured_entries(self) -> dict[PlacedBlock, Entry]:
        """Return the entries of the existing table, and new ones, which have no terms yet."""
        measurements = self._measurements()
        entries = dict(self.existing.entries)
        for key, placed in self.missing.items():
            m, chain, added = measurements[key], self.chains.get(placed), None
            if chain is not None:
                other = measurements[entry_key(chain.other)]
                added = measurements[_chain_key(placed)].ms - other.ms
                added = max(added, TICK_MS)  # below it is noise
            entries[placed] = Entry(m.ms, m.low, m.high, m.rounds, m.sessions, context_ms=added)
        return entries

    def _measured_networks(self) -> list[MeasuredNetwork]:
        """Return the networks that were measured completely, as the table stores them."""
        measurements = self._measurements()
        out = []
        for space in self.settings.spaces:
            drawn = self.draws(space)
            for role in ("calibration", "held_out", "uniform"):
                for arch in space.decode(np.array(drawn[role])) if drawn[role] else []:
                    network = self._network(arch, role, space.name, measurements)
                    if network is not None:
                        out.append(network)
        return out

    def _network(
        self, arch: Arch, role: str, space: str, measurements: Mapping[Any, Measurement]
    ) -> MeasuredNetwork | None:
        first = measurements.get(f"net:first:{arch.id}")
        again = measurements.get(f"net:again:{arch.id}")
        plan = self.network_plan
        if (
            first is None
            or first.sessions < plan.sessions
            or (role != "calibration" and again is None)
        ):
            return None
        placed = walk(arch, None, self.settings.classes)
        return MeasuredNetwork(
            placed, role, space, first.ms, first.low, first.high, again.ms if again else None
        )

    def finish(self) -> Path:
        """Fit, validate, and write everything into the table under its lock; returns its path."""
        entries, networks = self._measured_entries(), self._measured_networks()
        overhead = self._overhead()

        def change(table: LatencyTable) -> None:
            check_same_machine(table, self.fresh)
            for placed, entry in entries.items():
                table.entries.setdefault(placed, entry)
            measured = {n.placed for n in networks}
            table.networks = [n for n in table.networks if n.placed not in measured] + networks
            table.overhead_ms = overhead
            refit(table)

        path = update(self.folder, self.fresh, change)
        self.journal.remove()
        return path


def _chain_key(placed: PlacedBlock) -> str:
    return entry_key(placed).replace("row:", "chain:")


def check_same_machine(table: LatencyTable, own: LatencyTable) -> None:
    """Refuse to add measurements of this machine and engine to a table of others.

    Args:
        table: the table to add to.
        own: a table of this machine and engine.

    Raises:
        TableError: the two are of different machines or engines.
    """
    if table.engine != own.engine or not table.machine.same_kind(own.machine):
        raise TableError(
            f"{table.source}: is of {table.machine_label}; this is {own.machine_label}. "
            "Choose another folder with --out"
        )


def content_id(space: Space) -> str:
    """Return an id of a space's content, which does not depend on the name of its file."""
    spec = space.layout().structure.spec
    content = [dataclasses.replace(spec, name="", source="", summary=""), space.genes]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def span(space: Space) -> tuple[Arch, Arch]:
    """Return the two networks that bound the latency bands of a space: PP-LCNet, with the space's strides."""
    size = space.resolutions[0]
    fitting = [name for name in FAMILIES if zoo.load(f"{name}_{SPAN[0]}", size) in space]
    family = (fitting or FAMILIES)[0]
    low, high = (zoo.load(f"{family}_{scale}", size) for scale in SPAN)
    return low, high


def _minimal_network() -> Arch:
    from lcnas.blocks import DenseHead, Pool

    return Arch.of({"stem": [Pool(8, stride=8, padding=(0, 0, 0, 0))], "head": [DenseHead()]}, 8)


def build(settings: ProfileSettings, engine: Engine, folder: Path, **options: Any) -> Path:
    """Build or extend the table of an engine on this machine; returns its path.

    Args:
        settings: what to measure.
        engine: the engine of the table.
        folder: the folder of the table.
        options: further arguments of :class:`Builder`.
    """
    return Builder(settings, engine, folder, **options).run()


__getattr__ = renamed.in_module(
    __name__, {"Settings": "ProfileSettings", "Step": "ProfileStep", "row_key": "entry_key"}
)

__all__ = ["Builder", "Journal", "ProfileSettings", "ProfileStep", "build", "entry_key"]
