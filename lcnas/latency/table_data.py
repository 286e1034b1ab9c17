"""The parts of a latency table, and their JSON data in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcnas import blocks as vocabulary
from lcnas import renamed
from lcnas.arch import PlacedBlock, place
from lcnas.blocks import Block
from lcnas.errors import BlockError, ShapeError, TableError, shorten
from lcnas.latency import validation
from lcnas.latency.machine import Machine

_MAX_TICKS = 10**12  # of a term; more is a mistake
ROLES = ("calibration", "held_out", "uniform")


@dataclass(frozen=True)
class Entry:
    """One placed block: its time alone, and its term in the sum."""

    ms: float  # alone, the session's overhead included
    low: float  # 90 % interval
    high: float
    rounds: int
    sessions: int
    term: int | None = None  # ticks; None: not fitted yet
    context_ms: float | None = None  # added to a chain of two; int8 only (lcnas.latency.chains)

    def inside_ms(self, overhead_ms: float) -> float:
        """Return what it should add to a network before any fit, ms: in context, or alone less overhead."""
        return self.ms - overhead_ms if self.context_ms is None else self.context_ms


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network that was measured on the table's machine."""

    placed: tuple[PlacedBlock, ...]  # its blocks, in order
    role: str  # "calibration", "held_out" or "uniform"
    space: str  # name of the space that it was drawn from
    ms: float
    low: float  # 90 % interval
    high: float
    again_ms: float | None = None  # a second, independent measurement
    predicted_ms: float | None = (
        None  # by the fit; of calibration networks by one that has not seen them
    )

    @property
    def rows(self) -> tuple[PlacedBlock, ...]:
        """The former name of :attr:`placed`; deprecated."""
        renamed.warn("MeasuredNetwork.rows", "placed")
        return self.placed


def rounded(ms: float) -> float:
    return float(f"{ms:.5g}")


def entry_data(placed: PlacedBlock, entry: Entry, blocks: Mapping[Block, int]) -> dict[str, Any]:
    out: dict[str, Any] = {"block": blocks[placed.block], "in": list(placed.in_shape)}
    if placed.depends_on_classes:
        out["classes"] = placed.out_shape[0]
    out |= {"ms": rounded(entry.ms), "interval": [rounded(entry.low), rounded(entry.high)]}
    if entry.context_ms is not None:
        out["context_ms"] = rounded(entry.context_ms)
    out |= {"rounds": entry.rounds, "sessions": entry.sessions, "term_us": entry.term}
    return out


def block_of(data: object, what: str) -> Block:
    try:
        return vocabulary.from_data(data)
    except BlockError as error:
        raise TableError(f"{what}: {error}") from None


def entry_of(data: object, blocks: Sequence[Block], what: str) -> tuple[PlacedBlock, Entry]:
    keys = (
        "block",
        "in",
        "classes",
        "ms",
        "interval",
        "context_ms",
        "rounds",
        "sessions",
        "term_us",
    )
    item = validation.json_object(data, keys, what, optional=("classes", "context_ms"))
    number = validation.integer(item["block"], f"{what}.block", 0)
    if number >= len(blocks):
        raise TableError(f"{what}.block: {number} is not one of the table's {len(blocks)} blocks")
    sides = validation.json_list(item["in"], f"{what}.in")
    shape = tuple(validation.integer(n, f"{what}.in", 1) for n in sides)
    classes = (
        validation.integer(item["classes"], f"{what}.classes", 1) if "classes" in item else 1000
    )
    try:
        placed = place(blocks[number], shape, classes)
    except ShapeError as error:
        raise TableError(f"{what}: {error}") from None
    ms, low, high = validation.time_and_interval(item, what)
    term = None if item["term_us"] is None else ticks(item["term_us"], f"{what}.term_us")
    return placed, Entry(
        ms,
        low,
        high,
        validation.integer(item["rounds"], f"{what}.rounds", 1),
        validation.integer(item["sessions"], f"{what}.sessions", 1),
        term,
        validation.number(item["context_ms"], f"{what}.context_ms")
        if "context_ms" in item
        else None,
    )


def network_data(network: MeasuredNetwork, numbers: Mapping[PlacedBlock, int]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": network.role, "space": network.space}
    out["rows"] = [numbers[p] for p in network.placed]
    out |= {"ms": rounded(network.ms), "interval": [rounded(network.low), rounded(network.high)]}
    for key, value in (("again_ms", network.again_ms), ("predicted_ms", network.predicted_ms)):
        if value is not None:
            out[key] = rounded(value)
    return out


def network_of(data: object, order: Sequence[PlacedBlock], what: str) -> MeasuredNetwork:
    keys = ("role", "space", "rows", "ms", "interval", "again_ms", "predicted_ms")
    item = validation.json_object(data, keys, what, optional=("again_ms", "predicted_ms"))
    if item["role"] not in ROLES:
        raise TableError(f"{what}.role: {shorten(item['role'])} is not among {', '.join(ROLES)}")
    numbers = validation.json_list(item["rows"], f"{what}.rows")
    ids = [validation.integer(n, f"{what}.rows", 0) for n in numbers]
    if any(n >= len(order) for n in ids):
        raise TableError(f"{what}.rows: {max(ids)} is not one of the table's {len(order)} entries")
    if not ids:
        raise TableError(f"{what}.rows: is empty; a network has blocks")
    ms, low, high = validation.time_and_interval(item, what)
    optional = {
        key: validation.number(item[key], f"{what}.{key}")
        for key in ("again_ms", "predicted_ms")
        if key in item
    }
    if not isinstance(item["space"], str):
        raise TableError(f"{what}.space: {shorten(item['space'])} is not a text")
    placed = tuple(order[n] for n in ids)
    return MeasuredNetwork(placed, item["role"], item["space"], ms, low, high, **optional)


def ticks(data: object, what: str) -> int:
    value = validation.integer(data, what)
    if abs(value) > _MAX_TICKS:
        raise TableError(f"{what}: {shorten(value)} is beyond {_MAX_TICKS}")
    return value


def machine_of(data: object, what: str) -> Machine:
    item = validation.json_object(data, ("cpu", "isa", "cores", "system"), what)
    for key in ("cpu", "isa", "system"):
        if not isinstance(item[key], str):
            raise TableError(f"{what}.{key}: {shorten(item[key])} is not a text")
    return Machine(
        item["cpu"],
        item["isa"],
        validation.integer(item["cores"], f"{what}.cores", 1),
        item["system"],
    )
