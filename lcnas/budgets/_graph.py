"""The chains of a space as paths of a graph, with the ticks and the codes of each edge.

Nodes, in the order of a path:

* the root, with an edge to each (resolution, network-wide assignment);
* borders: the state before an element (shape, bounds of order rules, kind of the last block);
* gates: a border and the kind of the next block; the edge to it costs the pair (only where
  pairs of several kinds exist);
* insides: an element of chosen depth and signature after its block j;
* the end.

Each distinct network is one path. Without gates, the edges of a node are in the order of codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcnas.spaces.layout import Digit, ElementTable, PlacedBlocks, follow, split_number

Ints = NDArray[np.int64]
Low = tuple[float, ...]  # lower bounds of the order rules


class Border(NamedTuple):
    """The state before an element."""

    e: int
    g: int
    shape: int  # number of the shape among those before the element
    low: Low
    kind: int  # of the last block, as left neighbour; -1: none


class Gate(NamedTuple):
    """A border, and the kind of the next block, as right neighbour."""

    border: Border
    kind: int


class Inside(NamedTuple):
    """An element of chosen depth (index d) and signature s, after its block j."""

    e: int
    g: int
    shape: int  # number of the shape after the element
    low: Low
    d: int
    s: int
    j: int
    kind: int  # of block j, as left neighbour


Node = Border | Gate | Inside | str
ROOT, END = "root", "end"
Genes = tuple[tuple[int, int], ...]  # (column, code)


class Edge(NamedTuple):
    """A step of a path."""

    to: Node
    ticks: int
    genes: Genes


@dataclass(frozen=True)
class Graph:
    """The graph as arrays; nodes are numbered from 0, the root, so that edges lead to higher numbers."""

    start: Ints  # (nodes + 1,) the edges of node i are start[i] to start[i + 1] - 1
    element: (
        Ints  # (nodes,) element that a node's edges belong to; root -1, end: number of elements
    )
    border: NDArray[np.bool_]  # (nodes,) is the root, a border or the end
    gate: NDArray[np.bool_]  # (nodes,) is a gate
    to: Ints  # (edges,) target node
    ticks: Ints  # (edges,) in units of ``unit``
    genes: tuple[Genes, ...]  # (edges,) codes that the edge sets
    order: Ints  # (edges,) position among the edges of the same border, in the order of codes
    unit: int  # greatest common divisor of all ticks

    @property
    def nodes(self) -> int:
        return len(self.element)

    def edges(self, node: int) -> range:
        return range(int(self.start[node]), int(self.start[node + 1]))


class ChainGraphBuilder:
    """Builds the graph from the choices of a space, from the root to the end."""

    def __init__(self, layout: PlacedBlocks, entries: Ints, kinds: Ints, pairs: Ints) -> None:
        self.layout = layout
        self.entries: list[int] = entries.tolist()
        self.left: list[int] = kinds[:, 0].tolist()
        self.right: list[int] = kinds[:, 1].tolist()
        self.pairs: list[list[int]] = pairs.tolist()
        self.gated = pairs.size > 1 or bool(pairs.any())
        self.first: dict[Border, list[tuple[int, int, Edge]]] = {}

    def build(self) -> Graph:
        """Return the graph."""
        edges: dict[Node, list[Edge]] = {ROOT: list(self._root())}
        orders: dict[Node, list[int]] = {}
        for e in range(len(self.layout.tables)):
            layer = list(dict.fromkeys(x.to for leaving in edges.values() for x in leaving))
            layer = [node for node in layer if isinstance(node, Border) and node.e == e]
            while layer:
                for node in layer:
                    edges[node], orders[node] = self._leave(node)
                new = dict.fromkeys(x.to for node in layer for x in edges[node])
                layer = [n for n in new if not (n == END or (isinstance(n, Border) and n.e > e))]
        edges[END] = []
        return self._pack(edges, orders)

    def _pack(self, edges: dict[Node, list[Edge]], orders: dict[Node, list[int]]) -> Graph:
        number = {node: i for i, node in enumerate(edges)}
        all_edges = [edge for leaving in edges.values() for edge in leaving]
        ticks = np.array([edge.ticks for edge in all_edges], dtype=np.int64)
        unit = max(1, math.gcd(*ticks.tolist()))
        places = [
            o for node, leaving in edges.items() for o in orders.get(node, range(len(leaving)))
        ]
        return Graph(
            start=np.cumsum([0, *map(len, edges.values())]),
            element=np.array([self._element(node) for node in edges]),
            border=np.array([isinstance(node, str | Border) for node in edges]),
            gate=np.array([isinstance(node, Gate) for node in edges]),
            to=np.array([number[edge.to] for edge in all_edges]),
            ticks=ticks // unit,
            genes=tuple(edge.genes for edge in all_edges),
            order=np.array(places),
            unit=unit,
        )

    def _element(self, node: Node) -> int:
        if isinstance(node, str):
            return -1 if node == ROOT else len(self.layout.tables)
        return node.border.e if isinstance(node, Gate) else node.e

    # -- edges --

    def _root(self) -> Iterator[Edge]:
        structure = self.layout.structure
        sizes = [digit.size for digit in structure.network_digits]
        for r in range(len(structure.resolutions)):
            for g in range(len(structure.assignments)):
                genes = _codes([structure.resolution_digit], [r])
                genes += _codes(structure.network_digits, split_number(g, sizes))
                chain = self.layout.chain(g)
                if chain.total:
                    yield Edge(Border(0, g, r, chain.start, -1), 0, genes)

    def _leave(self, node: Node) -> tuple[list[Edge], list[int]]:
        """Return the edges of a node, and their positions among the edges of the border."""
        match node:
            case Inside():
                edges = list(self._next_blocks(node))
                return edges, list(range(len(edges)))
            case Gate(border, kind):
                first_blocks = [x for x in self._first_blocks(border) if x[1] == kind]
                return [edge for _, _, edge in first_blocks], [
                    place for place, _, _ in first_blocks
                ]
            case Border() if not self.gated:
                first_blocks = self._first_blocks(node)
                return [edge for _, _, edge in first_blocks], [
                    place for place, _, _ in first_blocks
                ]
            case Border():
                return self._gates(node)
        raise AssertionError(node)

    def _gates(self, node: Border) -> tuple[list[Edge], list[int]]:
        bare = node._replace(kind=-1)
        kinds = sorted({kind for _, kind, _ in self._first_blocks(bare)})
        costs = [self.pairs[node.kind][kind] if node.kind >= 0 else 0 for kind in kinds]
        edges = [Edge(Gate(bare, k), cost, ()) for k, cost in zip(kinds, costs, strict=True)]
        return edges, [0] * len(edges)

    def _first_blocks(self, border: Border) -> list[tuple[int, int, Edge]]:
        """Return (position, kind as right neighbour, edge) of each possible first block of an element."""
        ways = self.first.get(border)
        if ways is None:
            ways = [(i, *x) for i, x in enumerate(self._each_first_block(border))]
            self.first[border] = ways
        return ways

    def _each_first_block(self, border: Border) -> Iterator[tuple[int, Edge]]:
        e, g, shape, low, _ = border
        table, chain = self.layout.tables[e], self.layout.chain(g)
        next_shapes: list[int] = self.layout.after[e][shape, g].tolist()
        numbers: list[list[int]] = self.layout.first[e][shape, g].tolist()
        for (d, s, _), key in zip(chain.variants[e], chain.keys[e], strict=True):
            after = follow(low, key)
            if after is None or not self._goes_on(g, e + 1, after):
                continue
            genes = _codes([table.depth_digit], [d])
            genes += _codes(table.sig_digits, table.signatures[s].digits)
            for c in table.distinct(g, s, 0):
                number = numbers[s][c]
                node = self._next_node(
                    table, Inside(e, g, next_shapes[s], after, d, s, 1, self.left[number])
                )
                edge = Edge(node, self.entries[number], genes + _combo(table, 0, c))
                yield self.right[number], edge

    def _goes_on(self, g: int, e: int, low: Low) -> bool:
        """Return whether the order rules allow some chain from element e on."""
        chain = self.layout.chain(g)
        return e == len(self.layout.tables) or any(chain.weights(e, low))

    def _next_blocks(self, node: Inside) -> Iterator[Edge]:
        table = self.layout.tables[node.e]
        numbers: list[int] = self.layout.rest[node.e][
            node.shape, node.g, node.s, node.j - 1
        ].tolist()
        for c in table.distinct(node.g, node.s, node.j):
            number = numbers[c]
            ticks = self.entries[number] + self.pairs[node.kind][self.right[number]]
            next_node = self._next_node(table, node._replace(j=node.j + 1, kind=self.left[number]))
            yield Edge(next_node, ticks, _combo(table, node.j, c))

    def _next_node(self, table: ElementTable, node: Inside) -> Node:
        if node.j < table.depths[node.d]:
            return node
        if node.e + 1 == len(self.layout.tables):
            return END
        return Border(node.e + 1, node.g, node.shape, node.low, node.kind)


def _combo(table: ElementTable, j: int, c: int) -> Genes:
    digits = table.slot_digits[j]
    return _codes(digits, split_number(c, [digit.size for digit in digits]))


def _codes(digits: list[Digit], numbers: list[int] | tuple[int, ...]) -> Genes:
    return tuple(
        (digit.column, n) for digit, n in zip(digits, numbers, strict=True) if digit.column >= 0
    )
