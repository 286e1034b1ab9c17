"""The distinct placed blocks of a space, which latency tables have entries for, and how codes select them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import INPUT_CHANNELS, PlacedBlock, check_classes, height_width, place
from lcnas.blocks import Block
from lcnas.errors import ShapeError
from lcnas.layers import Shape
from lcnas.spaces._chain import Chain, follow
from lcnas.spaces._element import ElementTable, Total
from lcnas.spaces._points import Columns, Ints, Part, Point
from lcnas.spaces._structure import Structure

Border = tuple[Shape, Total]  # shape of the feature map, and the total stride from the image
Reached = tuple[int, int, tuple[float, ...]]  # border, assignment, lower bounds of the order rules


class PlacedBlocks:
    """The distinct placed blocks of a space, and arrays that map codes to them."""

    def __init__(self, structure: Structure, chain: Callable[[int], Chain], classes: int) -> None:
        self.structure = structure
        self.chain = chain  # assignment -> its chains
        self.classes = check_classes(classes)
        self._numbers: dict[PlacedBlock, int] = {}
        self.tables = structure.elements
        borders: dict[Border, int] = {}
        for resolution in structure.resolutions:
            shape = (*height_width(resolution), INPUT_CHANNELS)
            borders.setdefault((shape, (1, 1)), len(borders))
        self.borders = [borders]  # before each element: (shape, total stride) -> number
        self.first: list[Ints] = []  # [border, g, s, c] -> number of the first block
        self.after: list[Ints] = []  # [border, g, s] -> border after the element
        self.rest: list[Ints] = []  # [border after, g, s, j - 1, c] -> number of block j
        reached = {
            (number, g, chain(g).start)
            for number in borders.values()
            for g in range(len(structure.assignments))
            if chain(g).total
        }
        for table in self.tables:
            reached = self._fill(table, reached)
        self.blocks = tuple(self._numbers)

    def _place(self, table: ElementTable, block: Block, shape: Shape) -> PlacedBlock:
        try:
            placed = place(block, shape, self.classes)
        except ShapeError as error:
            raise table.structure.error(f"{table.element.where}: {block}: {error}") from None
        self._numbers.setdefault(placed, len(self._numbers))
        return placed

    def _fill(self, table: ElementTable, reached: set[Reached]) -> set[Reached]:
        """Place an element's blocks after each border that some network reaches."""
        e = table.index
        before = list(self.borders[-1])
        G, S, _, C = table.labels.shape
        first = np.full((len(before), G, S, C), -1, dtype=np.int64)
        after = np.full((len(before), G, S), -1, dtype=np.int64)
        behind: dict[Border, int] = {}
        going: set[Reached] = set()
        inside: dict[tuple[int, int, int], int] = {}  # (border after, g, s) -> greatest depth
        for border, g, low in sorted(reached):
            for d, s, follows in self.chain(g).leading(e, low):
                if after[border, g, s] < 0:
                    self._begin(table, g, s, before[border], border, first, after, behind)
                number = int(after[border, g, s])
                going.add((number, g, follows))
                depth = inside.get((number, g, s), 0)
                inside[number, g, s] = max(depth, table.depths[d])
        rest = np.full((len(behind), G, S, max(0, table.slots - 1), C), -1, dtype=np.int64)
        shapes = [shape for shape, _ in behind]
        for (number, g, s), depth in sorted(inside.items()):
            for j in range(1, depth):
                for c in range(len(table.slot_values[j])):
                    placed = self._place(table, table.block(g, s, j, c, (1, 1)), shapes[number])
                    rest[number, g, s, j - 1, c] = self._numbers[placed]
        self.first.append(first)
        self.after.append(after)
        self.rest.append(rest)
        self.borders.append(behind)
        return going

    def _begin(
        self,
        table: ElementTable,
        g: int,
        s: int,
        coming: Border,
        border: int,
        first: Ints,
        after: Ints,
        behind: dict[Border, int],
    ) -> None:
        """Place the first blocks of a signature after a border."""
        shape, total = coming
        leaving = table.total_after(g, s, 0, total)
        for c in range(len(table.slot_values[0])):
            placed = self._place(table, table.block(g, s, 0, c, total), shape)
            first[border, g, s, c] = self._numbers[placed]
            after[border, g, s] = behind.setdefault((placed.out_shape, leaving), len(behind))

    def ids(self, columns: Columns) -> NDArray[np.int32]:
        """Return the number of each slot's placed block, (n, slots); -1 where the block is absent."""
        numbers = []
        border = columns.r
        for e, table in enumerate(self.tables):
            s, c, g = columns.s[e], columns.c[e], columns.g
            numbers.append(self.first[e][border, g, s, c[:, 0]])
            border = self.after[e][border, g, s]
            depth = np.array(table.depths)[columns.d[e]]
            for j in range(1, table.slots):
                number = self.rest[e][border, g, s, j - 1, c[:, j]]
                numbers.append(np.where(depth > j, number, -1))
        return np.stack(numbers, axis=1).astype(np.int32)

    def best(self, values: Sequence[int], better: Callable[..., Any]) -> tuple[int, Point]:
        """Return the least or greatest sum of values over a network's blocks, and that network."""
        orders = self.structure.orders
        ends: list[tuple[int, Point]] = []
        for r in range(len(self.structure.resolutions)):
            for g in range(len(self.structure.assignments)):
                chain = self.chain(g)
                states: dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]] = {
                    (r, (-math.inf,) * len(orders)): (0, ())
                }
                for e in range(len(self.tables)):
                    states = self._step(e, g, chain, states, values, better)
                ends += [(cost, Point(r, g, parts)) for cost, parts in states.values()]
        best: tuple[int, Point] = better(ends, key=lambda end: end[0])
        return best

    def _step(
        self,
        e: int,
        g: int,
        chain: Chain,
        states: dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]],
        values: Sequence[int],
        better: Callable[..., Any],
    ) -> dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]]:
        table = self.tables[e]
        best: dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]] = {}
        for (border, low), (cost, parts) in states.items():
            for (d, s, _), key in zip(chain.variants[e], chain.keys[e], strict=True):
                after = follow(low, key)
                if after is None:
                    continue
                behind = int(self.after[e][border, g, s])
                total, combos = cost, []
                for j in range(table.depths[d]):
                    ids = (
                        self.first[e][border, g, s] if j == 0 else self.rest[e][behind, g, s, j - 1]
                    )
                    c = better(table.distinct(g, s, j), key=lambda c, ids=ids: values[ids[c]])
                    total += values[int(ids[c])]
                    combos.append(c)
                state = (behind, after)
                candidate = (total, (*parts, Part(d, s, tuple(combos))))
                best[state] = (
                    better(best[state], candidate, key=lambda x: x[0])
                    if state in best
                    else candidate
                )
        return best
