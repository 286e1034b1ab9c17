"""Building a table: measure blocks alone and whole networks, fit, validate; stop and go on at any moment.

Everything that is measured goes into a journal at once, a line a visit, so that a kill loses at most the
visit in progress. Repeating the command reads the journal and does what is left.
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

from lcnas import zoo
from lcnas.arch import Arch, PlacedBlock, walk
from lcnas.blocks import to_data
from lcnas.budgets import Budget, Terms
from lcnas.errors import BudgetError, EmptyBandWarning, TableError
from lcnas.latency import context, models, timing
from lcnas.latency.context import Link
from lcnas.latency.engines import Engine, machine_of
from lcnas.latency.fitting import FEWEST, refit
from lcnas.latency.journal import Journal
from lcnas.latency.machine import pinned
from lcnas.latency.table import TICK_MS, LatencyTable, Network, Row, destination, update
from lcnas.latency.timing import Item, Measurement, Plan, Stopwatch
from lcnas.spaces import Space

Floats = NDArray[np.float64]
BANDS = 5  # latency bands from which networks are drawn
UNIFORM_SHARE = (
    0.15  # of the networks to fit, drawn over the whole space: bands leave most of it out
)
FEWEST_HELD = 2  # held-out networks, below which none is given up for the fit
SPAN = ("0.25x", "1.0x")  # the scales of PP-LCNet that bound them
FAMILIES = (
    "pplcnet",
    "pplcnet_32",
)  # of the zoo: PP-LCNet's strides, for large and for small images
OVERHEAD = "overhead"
BLOCK_PLAN = Plan(
    sessions=2, rounds=3, most_rounds=6, target=0.03, visit_ms=3.0, warm_up=2, at_once=64
)
NETWORK_PLAN = Plan(sessions=2, rounds=6, most_rounds=12, target=0.01, visit_ms=5.0, warm_up=2)


@dataclass(frozen=True)
class Settings:
    """What a table is built for."""

    spaces: tuple[Space, ...] = ()  # whose rows are measured, and whose networks validate the fit
    archs: tuple[Arch, ...] = ()  # further networks whose rows are measured
    classes: int = 1000
    validate: int = 40  # held-out networks
    uniform: int = 20  # held-out networks drawn uniformly over the space
    calibrate: int = 240  # whole networks that the fit rests on, at most
    time_budget: float = 280.0  # seconds, after which no more calibration networks are begun
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """Progress: what is being done, how much of it, and of how much."""

    title: str
    done: int
    total: int


def held_out_of(networks: int, others: int, settings: Settings) -> int:
    """Return how many of a space's networks are held out.

    In a small space as many as leave enough to fit; where there are too few for both, all of them: then
    nothing is fitted, and every one tells how wrong the sum of the blocks is.

    Args:
        networks: of the space, at most as many as are asked for, to be held out or fitted to.
        others: to fit, in any case.
        settings: of the table.
    """
    held = min(settings.validate, networks)
    lacking = FEWEST - (networks - held) - others  # to fit
    enough = settings.calibrate >= FEWEST and held - lacking >= FEWEST_HELD
    return held - lacking if lacking > 0 and enough else held


def row_key(placed: PlacedBlock) -> str:
    """Return a short name of a row, the same in every process."""
    classes = placed.out_shape[0] if placed.depends_on_classes else 0
    content = [to_data(placed.block), list(placed.in_shape), classes]
    return "row:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# -- building --------------------------------------------------------------------------------------


class Builder:
    """Measures, fits and validates for one engine; see :func:`build`."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        folder: Path,
        *,
        opened: Callable[[models.Source, Engine, int], Any] = models.open_fresh,
        clock: timing.Clock = time.perf_counter,
        told: Callable[[Step], None] = lambda _: None,
        block_plan: Plan = BLOCK_PLAN,
        network_plan: Plan = NETWORK_PLAN,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.folder = folder
        self.opened = opened
        self.clock = clock
        self.told = told
        self.block_plan = block_plan
        self.network_plan = network_plan
        self._estimates: tuple[int, Mapping[Any, Measurement]] | None = None
        self.fresh = LatencyTable(machine_of(engine.name), engine)
        path = folder / self.fresh.file_name
        self._table(path)  # refused before there is a journal
        header = self._header()
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:8]
        self.journal = Journal(path.with_name(f".{path.stem}.{digest}.journal.jsonl"), header)
        self.known = self._table(
            path
        )  # again: a process with the same settings may have ended meanwhile
        self.rng = np.random.default_rng(settings.seed)
        self.watch = Stopwatch(
            self._reference(),
            network_plan,
            self.rng,
            clock=clock,
            told=self.journal.visit,
            run=self.journal.run,
        )

    def _table(self, path: Path) -> LatencyTable:
        """Return the table that is to be extended, or refuse what cannot be."""
        destination(path)
        table = LatencyTable.load(path) if path.is_file() else self.fresh
        check_whose(table, self.fresh)
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
        return Item(timing.REFERENCE, lambda: self.opened(arch, self.engine, 1000))

    def run(self) -> Path:
        """Do what is left to do; returns the path of the finished table."""
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
        """The distinct placed blocks that the table has to have."""
        found: dict[PlacedBlock, None] = {}
        for space in self.settings.spaces:
            found.update(dict.fromkeys(space.placed_blocks(self.settings.classes)))
        for arch in self.settings.archs:
            found.update(dict.fromkeys(walk(arch, None, self.settings.classes)))
        return tuple(found)

    @functools.cached_property
    def lacking(self) -> dict[str, PlacedBlock]:
        """Those of them that the table lacks, by key."""
        return {row_key(p): p for p in self.placed if p not in self.known.rows}

    @functools.cached_property
    def links(self) -> Mapping[PlacedBlock, Link]:
        """Chains in which lacking blocks are measured as well; for int8 only."""
        if self.engine.precision != "int8":
            return {}
        pool = list(dict.fromkeys([*self.placed, *self.known.rows]))
        return context.links(self.lacking.values(), pool)

    def measure_blocks(self) -> None:
        """Measure every block that the table lacks, alone, and the overhead of a session."""
        alone = dict(self.lacking)
        alone.update({row_key(link.other): link.other for link in self.links.values()})
        items = [] if self.known.overhead_ms else [Item(OVERHEAD, self._open_nothing)]
        items += [Item(key, self._opener((placed,))) for key, placed in alone.items()]
        items += [Item(_in_chain(p), self._opener(link.chain)) for p, link in self.links.items()]
        title = "blocks alone and in chains" if self.links else "blocks alone"
        self._measure(title, items, self.block_plan)

    def _open_nothing(self) -> Any:
        """Open a network that does next to nothing: what is left is the entry of a session."""
        return self.opened(_nothing(), self.engine, 1000)

    def _opener(self, source: models.Source) -> Callable[[], Any]:
        return lambda: self.opened(source, self.engine, self.settings.classes)

    def _measure(
        self, title: str, items: Sequence[Item], plan: Plan, until: float = float("inf")
    ) -> None:
        self.watch.plan = plan
        wanted = len(items) * plan.sessions * plan.rounds
        keys = {item.key for item in items}
        done = sum(v.key in keys for v in self.journal.visits)
        for seen in self.watch.measure(items, list(self.journal.visits)):
            done += seen.key in keys
            self.told(Step(title, min(done, wanted), wanted))
            if self.clock() > until:
                break
        self.journal.sync()

    # -- whole networks --

    def measure_networks(self, space: Space, until: float) -> None:
        """Measure a space's networks: held-out ones twice, then calibration ones while time lasts."""
        drawn = self.draws(space)
        held = [*drawn["held_out"], *drawn["uniform"]]
        calibration = self._network_items(space, drawn["calibration"], "first")
        third = max(20, len(calibration) // 3)
        # Held-out networks among others, in random order: neither may have the better hour of the machine.
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
        """Return the codes of the networks to measure; drawn once, by the provisional table."""
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
        known = set(map(tuple, codes.tolist()))
        drawn = np.unique(space.sample_codes(s.uniform + outside, rng), axis=0)
        fresh = [row for row in drawn.tolist() if tuple(row) not in known]  # the sets are disjoint
        shape = len(fresh), codes.shape[1]  # without genes it could not be told from the entries
        others = rng.permutation(np.array(fresh, dtype=np.int64).reshape(shape))
        held = held_out_of(len(codes), len(others[s.uniform :]), s)
        calibration = np.concatenate([codes[held:], others[s.uniform :]])
        return {
            "held_out": codes[:held].tolist(),
            "uniform": others[: s.uniform].tolist(),
            "calibration": rng.permutation(calibration).tolist(),
        }

    def _banded(self, space: Space, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return codes of different networks, spread over latency bands between the span's ends."""
        terms = self.provisional(space)
        low, high = (self._span_ticks(arch) for arch in span(space))
        try:
            budget = Budget(space, terms, max_cost=high, min_cost=low)
        except BudgetError:  # a space that lies elsewhere: all of it
            budget = Budget(space, terms, max_cost=int(1e9))
        with warnings.catch_warnings():
            if not n or budget.count_bounds()[1] <= n:  # none or all are drawn, whatever the bands
                warnings.simplefilter("ignore", EmptyBandWarning)
            codes = budget.sample_codes(2 * n, rng, bands=BANDS)
        different = np.unique(codes, axis=0)
        return rng.permutation(different)[:n]

    def _span_ticks(self, arch: Arch) -> int:
        key = f"net:span:{arch.id}"
        self._measure("the span of PP-LCNet", [Item(key, self._opener(arch))], self.network_plan)
        return round(self._found()[key].ms / TICK_MS)

    def provisional(self, space: Space) -> Terms:
        """Return the naive sum, less the session's entry that each block measured alone contains."""
        alone = self._alone()
        overhead = self._overhead()
        wanted = space.placed_blocks(self.settings.classes)
        rows = [max(0.0, alone[p].inside_ms(overhead)) for p in wanted]
        ticks = np.round(np.array(rows) / TICK_MS).astype(np.int64)
        return Terms(base=round(overhead / TICK_MS), entries=ticks, classes=self.settings.classes)

    # -- results --

    def _found(self) -> Mapping[Any, Measurement]:
        """Return all latencies measured so far; worked out anew only when there are more visits."""
        count = len(self.journal.visits)
        if self._estimates is None or self._estimates[0] != count:
            self._estimates = (count, timing.estimates(self.journal.visits))
        return self._estimates[1]

    def _overhead(self) -> float:
        return self.known.overhead_ms or self._found()[OVERHEAD].ms

    def _alone(self) -> dict[PlacedBlock, Row]:
        """Return the time alone, and in context where it was measured, of every row, old and new."""
        found = self._found()
        rows = dict(self.known.rows)
        for key, placed in self.lacking.items():
            m, link, added = found[key], self.links.get(placed), None
            if link is not None:
                added = found[_in_chain(placed)].ms - found[row_key(link.other)].ms
                added = max(added, TICK_MS)  # below it is noise
            rows[placed] = Row(m.ms, m.low, m.high, m.rounds, m.sessions, context_ms=added)
        return rows

    def _networks(self) -> list[Network]:
        """Return the networks that were measured in full, as the table keeps them."""
        found = self._found()
        out = []
        for space in self.settings.spaces:
            drawn = self.draws(space)
            for role in ("calibration", "held_out", "uniform"):
                for arch in space.decode(np.array(drawn[role])) if drawn[role] else []:
                    made = self._network(arch, role, space.name, found)
                    if made is not None:
                        out.append(made)
        return out

    def _network(
        self, arch: Arch, role: str, space: str, found: Mapping[Any, Measurement]
    ) -> Network | None:
        first = found.get(f"net:first:{arch.id}")
        again = found.get(f"net:again:{arch.id}")
        plan = self.network_plan
        if (
            first is None
            or first.sessions < plan.sessions
            or (role != "calibration" and again is None)
        ):
            return None
        rows = walk(arch, None, self.settings.classes)
        return Network(
            rows, role, space, first.ms, first.low, first.high, again.ms if again else None
        )

    def finish(self) -> Path:
        """Fit, validate, and put everything into the table under its lock."""
        rows, networks = self._alone(), self._networks()
        overhead = self._overhead()

        def change(table: LatencyTable) -> None:
            check_whose(table, self.fresh)
            for placed, row in rows.items():
                table.rows.setdefault(placed, row)
            seen = {n.rows for n in networks}
            table.networks = [n for n in table.networks if n.rows not in seen] + networks
            table.overhead_ms = overhead
            refit(table)

        path = update(self.folder, self.fresh, change)
        self.journal.remove()
        return path


def _in_chain(placed: PlacedBlock) -> str:
    return row_key(placed).replace("row:", "chain:")


def check_whose(table: LatencyTable, ours: LatencyTable) -> None:
    """Refuse to add what is measured here to a table of another machine or engine."""
    if table.engine != ours.engine or not table.machine.same_kind(ours.machine):
        raise TableError(
            f"{table.source}: is of {table.whose}; this is {ours.whose}. Choose another folder with --out"
        )


def content_id(space: Space) -> str:
    """Return an id of what a space is, whatever its file is called."""
    spec = space.layout().structure.spec
    content = [dataclasses.replace(spec, name="", source="", summary=""), space.genes]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def span(space: Space) -> tuple[Arch, Arch]:
    """Return the two networks between whose latencies a space's are drawn: PP-LCNet, in its strides."""
    size = space.resolutions[0]
    fitting = [name for name in FAMILIES if zoo.load(f"{name}_{SPAN[0]}", size) in space]
    family = (fitting or FAMILIES)[0]
    low, high = (zoo.load(f"{family}_{scale}", size) for scale in SPAN)
    return low, high


def _nothing() -> Arch:
    from lcnas.blocks import DenseHead, Pool

    return Arch.of({"stem": [Pool(8, stride=8, padding=(0, 0, 0, 0))], "head": [DenseHead()]}, 8)


def build(settings: Settings, engine: Engine, folder: Path, **options: Any) -> Path:
    """Build or extend the table of an engine on this machine; returns its path."""
    return Builder(settings, engine, folder, **options).run()


__all__ = ["Builder", "Journal", "Settings", "Step", "build", "row_key"]
