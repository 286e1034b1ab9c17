"""Costs of many networks at once: a few table look-ups per network, instead of one per block.

The genes of an element (or of a part of it, if its table would grow too large) form one number. A table
holds, for each state before the part and each number, the ticks of all its blocks and pairs;
another one holds the state after it. A state is all that later blocks depend on: the shape at the border,
the network-wide assignment, the kind of the last block and, inside an element, its depth and signature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcnas.spaces.layout import Digit, ElementTable, PlacedBlocks

Ints = NDArray[np.int64]
LIMIT = 1 << 16  # entries of the table of a part with more than one block
CHUNK = 1 << 14  # networks at a time, so that arrays stay in the cache


@dataclass(frozen=True)
class PartTables:
    """The tables of some consecutive blocks of an element."""

    size: int  # count of numbers that its genes can form
    ticks: Ints  # (states * size,) sum over its blocks and the pairs that end in it
    after: NDArray[np.intp]  # (states * size,) state after it


@dataclass(frozen=True)
class CostTables:
    """All tables of a space under one set of terms."""

    weights: NDArray[np.float64]  # (genes, 1 + parts): factors of the codes in a part's number
    parts: tuple[PartTables, ...]

    @classmethod
    def of(
        cls, layout: PlacedBlocks, genes: int, entries: Ints, kinds: Ints, pairs: Ints
    ) -> CostTables:
        """Build the tables for ticks of rows, kinds of rows and ticks of pairs of kinds."""
        structure = layout.structure
        digits = [[structure.resolution_digit, *structure.network_digits]]
        state = _first_states(layout)
        builder = _Builder(layout, entries, kinds, pairs)
        parts = []
        for table in layout.tables:
            for slots in _cuts(table, len(state["g"])):
                part, state = builder.part(table, slots, state)
                parts.append(part)
                digits.append(_digits_of(table, slots))
        return cls(np.stack([_weights(d, genes) for d in digits], axis=1), tuple(parts))

    def cost(self, codes: Ints) -> Ints:
        """Return the sums of ticks, (n,), of checked codes."""
        out = np.empty(len(codes), dtype=np.int64)
        for at in range(0, len(codes), CHUNK):
            chunk = codes[at : at + CHUNK].astype(np.float64)
            numbers = (chunk @ self.weights).T.astype(np.intp)  # exact: far below 2**53
            state, total = numbers[0], out[at : at + CHUNK]
            total[:] = 0
            for part, number in zip(self.parts, numbers[1:], strict=True):
                index = state * part.size
                index += number
                total += part.ticks[index]
                state = part.after[index]
        return out


def _weights(digits: Sequence[Digit], genes: int) -> NDArray[np.float64]:
    out = np.zeros(genes)
    step = 1
    for digit in reversed(digits):
        if digit.column >= 0:
            out[digit.column] = step
        step *= digit.size
    return out


def _digits_of(table: ElementTable, slots: range) -> list[Digit]:
    shared = [table.depth_digit, *table.sig_digits] if slots.start == 0 else []
    return [*shared, *(digit for j in slots for digit in table.slot_digits[j])]


def _cuts(table: ElementTable, states: int) -> Iterator[range]:
    """Yield ranges of slots with small tables."""
    start, size = 0, states * len(table.depths) * len(table.signatures)
    for j in range(table.slots):
        combos = len(table.slot_values[j])
        if j > start and size * combos > LIMIT:
            yield range(start, j)
            # After the first block the border is a function of the rest of the state.
            start, size = j, len(table.depths) * len(table.signatures) * states
        size *= combos
    yield range(start, table.slots)


State = dict[
    str, Ints
]  # g, border, and kind of the last block (-1: none); in an element also d and s


def _first_states(layout: PlacedBlocks) -> State:
    shapes = np.arange(len(layout.structure.resolutions))
    assignments = np.arange(len(layout.structure.assignments))
    return {
        "g": np.tile(assignments, len(shapes)),
        "border": np.repeat(shapes, len(assignments)),
        "kind": np.full(len(shapes) * len(assignments), -1),
    }


class _Builder:
    """Fills the tables of parts."""

    def __init__(self, layout: PlacedBlocks, entries: Ints, kinds: Ints, pairs: Ints) -> None:
        self.layout = layout
        self.entries = entries
        self.kinds = kinds
        self.pairs = pairs

    def part(self, table: ElementTable, slots: range, states: State) -> tuple[PartTables, State]:
        """Return the tables of some slots after some states, and the states after the slots."""
        combos = [len(table.slot_values[j]) for j in slots]
        shared = [len(table.depths), len(table.signatures)] if slots.start == 0 else []
        sizes = [*shared, *combos]
        size, count = math.prod(sizes), len(states["g"])
        digits = np.unravel_index(np.tile(np.arange(size), count), sizes)
        at_blocks = {key: np.repeat(values, size) for key, values in states.items()}
        if shared:
            at_blocks["d"], at_blocks["s"] = digits[0], digits[1]
        ticks = np.zeros(size * count, dtype=np.int64)
        for j, c in zip(slots, digits[len(shared) :], strict=True):
            ticks += self._slot(table, j, c, at_blocks)
        if slots.stop == table.slots:
            del at_blocks["d"], at_blocks["s"]
        columns, after = np.unique(np.stack(list(at_blocks.values())), axis=1, return_inverse=True)
        exits = dict(zip(at_blocks, columns, strict=True))
        return PartTables(size, ticks, after.reshape(-1).astype(np.intp)), exits

    def _slot(self, table: ElementTable, j: int, c: NDArray[np.intp], states: State) -> Ints:
        """Return the ticks of slot j, 0 where it is absent; updates the states."""
        e, g, d = table.index, states["g"], states["d"]
        s = table.representative[g, d, states["s"]]  # only canonical choices have numbers
        c = table.combo_of[g, d, states["s"], j, c]
        if j == 0:
            number = self.layout.first[e][states["border"], g, s, c]
            states["border"] = self.layout.after[e][states["border"], g, s]
        else:
            number = self.layout.rest[e][states["border"], g, s, j - 1, c]
        present = np.array(table.depths)[d] > j
        ticks = self.entries[number] + self.pairs[states["kind"], self.kinds[number, 1]] * (
            states["kind"] >= 0
        )
        states["kind"] = np.where(present, self.kinds[number, 0], states["kind"])
        return np.where(present, ticks, 0)
