"""Passes over a graph: bounds of all totals, then tables from the end to the root.

Tables are kept at borders; those inside an element are kept if they are small, otherwise rebuilt from the
borders after it when a walk passes through. A pass stops at the border where the next element's tables
would grow too large (ticks so fine that nearly every network has a different total), and the chains
before that border are listed one by one: :class:`Prefixes`. If those are too many as well, the
ticks are too fine (:class:`TooFineError`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcnas.budgets import _table
from lcnas.budgets._graph import Graph
from lcnas.budgets._table import Table

Ints = NDArray[np.int64]

WORK = 1 << 30  # additions of a pass
SORTING = 128  # additions that sorting an entry into a sparse table is worth
BORDER_BYTES = 1 << 27  # tables at borders
ELEMENT_BYTES = 1 << 28  # tables of one element while they are built
INSIDE_BYTES = 1 << 26  # kept tables inside elements; others are rebuilt
MAX_PREFIXES = 1 << 21  # listed chains before the border where a pass stops


class TooFineError(Exception):
    """Ticks are too fine for an exact pass."""


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest ticks before and after each node, (nodes,) each."""

    least_before: tuple[int, ...]
    most_before: tuple[int, ...]
    least: tuple[int, ...]
    most: tuple[int, ...]
    paths: tuple[int, ...]  # number of paths to each node

    @classmethod
    def of(cls, graph: Graph) -> Bounds:
        """Return the bounds of a graph."""
        n, to, ticks = graph.nodes, graph.to.tolist(), graph.ticks.tolist()
        low: list[int | None] = [0] + [None] * (n - 1)
        high, paths = [0] * n, [1] + [0] * (n - 1)
        least, most = [0] * n, [0] * n
        for i in range(n):
            here = low[i]
            assert here is not None
            for k in graph.edges(i):
                j, a, b = to[k], here + ticks[k], high[i] + ticks[k]
                old = low[j]
                low[j], high[j] = (a, b) if old is None else (min(old, a), max(high[j], b))
                paths[j] += paths[i]
        for i in range(n - 2, -1, -1):
            least[i] = min(least[to[k]] + ticks[k] for k in graph.edges(i))
            most[i] = max(most[to[k]] + ticks[k] for k in graph.edges(i))
        before = tuple(x for x in low if x is not None)
        return cls(before, tuple(high), tuple(least), tuple(most), tuple(paths))


@dataclass(frozen=True)
class Prefixes:
    """The chains before a border, one by one, in no particular order."""

    node: int
    ticks: Ints  # (n,)
    scores: Ints | None  # (n,)
    steps: tuple[Steps, ...]  # of the nodes before the border
    index: Ints  # (n,) position of each chain in the steps of its node


@dataclass(frozen=True)
class Steps:
    """The chains to one node: the last edge of each, and the chain before it."""

    ticks: Ints
    scores: Ints | None
    edge: NDArray[np.int32]
    before: NDArray[np.int32]  # index among the chains to the edge's node


class Tables:
    """The tables of all chains with a total in a window: counts, or best scores.

    Args:
        graph: the chains.
        bounds: of the graph.
        window: lowest and highest total, ticks.
        scores: score of each edge, (edges,); None: count.

    Raises:
        TooFineError: the tables would grow too large.
    """

    def __init__(
        self, graph: Graph, bounds: Bounds, window: tuple[int, int], scores: Ints | None = None
    ) -> None:
        self.graph = graph
        self.bounds = bounds
        self.low = max(window[0], bounds.least[0])
        self.high = min(window[1], bounds.most[0])
        # Limit of the window that matters for scores: -1: the upper, 1: the lower; 0: both, or counts.
        self.side = 0
        if scores is not None:
            self.side = -1 if self.low <= bounds.least[0] else int(self.high >= bounds.most[0])
        self.scores: list[int] | None = None if scores is None else scores.tolist()
        self.to: list[int] = graph.to.tolist()
        self.ticks: list[int] = graph.ticks.tolist()
        self.limbs = _table.limbs_for(bounds.paths[-1]) if scores is None else 1
        self.by_node: dict[int, Table] = {}
        self.source = np.repeat(np.arange(graph.nodes), np.diff(graph.start)).tolist()
        self.kept_elements: set[int] = set()  # elements whose inside tables are kept
        self.work = 0  # additions so far
        self.bytes = 0  # of the element's tables so far
        self._by_element: dict[int, list[int]] = {}
        for node, e in enumerate(graph.element.tolist()):
            self._by_element.setdefault(e, []).append(node)
        self.by_node[graph.nodes - 1] = _table.point(self.limbs, 1 if scores is None else 0)
        self.stop = self._fill()  # element whose borders the pass reached
        self._check_prefixes()

    # -- from the end to the root --

    def _fill(self) -> int:
        """Fill the tables of all borders as far as it goes; return the last element reached."""
        last = int(self.graph.element[-1])
        spare = INSIDE_BYTES
        kept = 0
        for e in range(last - 1, -2, -1):
            try:
                inside = self._element(e)
            except TooFineError:
                return e + 1
            borders = {i: table for i, table in inside.items() if self.graph.border[i]}
            kept += sum(table.nbytes for table in borders.values())
            if kept > BORDER_BYTES and e + 2 <= last:
                return e + 1
            spare -= self.bytes  # most nodes inside share another node's table
            self.by_node.update(inside if spare >= 0 else borders)
            if spare >= 0:
                self.kept_elements.add(e)
        return -1

    def _element(self, e: int) -> dict[int, Table]:
        """Return the tables of an element's nodes, from those of the borders after it."""
        tables: dict[int, Table] = {}
        self.bytes = 0
        for i in reversed(self._by_element[e]):
            table = self._node(i, tables)
            if table is not None:
                tables[i] = table
        return tables

    def _node(self, i: int, tables: dict[int, Table]) -> Table | None:
        low = self.low - self.bounds.most_before[i]
        high = self.high - self.bounds.least_before[i]
        parts = []
        for k in self.graph.edges(i):
            j = self.to[k]
            next_table = tables.get(j) or self.by_node.get(j)
            if next_table is not None:
                score = 0 if self.scores is None else self.scores[k]
                part = next_table.moved(self.ticks[k], score).clip(low, high)
                if part is not None:
                    parts.append(part)
        return self._merge(parts)

    def _merge(self, parts: Sequence[Table]) -> Table | None:
        if len(parts) < 2:
            return parts[0] if parts else None
        entries = sum(len(part) for part in parts) * self.limbs
        self.work += entries * (SORTING if self.side or not _table.spans(parts)[2] else 1)
        if self.work > WORK:
            raise TooFineError
        if self.scores is None:
            table = _table.merge_counts(parts)
        elif self.side:
            table = _table.best_within(parts, below=self.side < 0)
        else:
            table = _table.merge_scores(parts)
        self.bytes += table.nbytes
        if self.bytes > ELEMENT_BYTES:
            raise TooFineError
        return table

    def inside(self, e: int) -> Callable[[int], Table | None]:
        """Return a function from a node of an element, or a border after it, to its table."""
        tables: dict[int, Table] = {}
        if e not in self.kept_elements:
            self.work = 0
            tables = self._element(e)
        return lambda i: tables.get(i) or self.by_node.get(i)

    # -- from the root to where the pass stopped --

    def _check_prefixes(self) -> None:
        borders = [i for i in self._by_element[self.stop] if self.graph.border[i]]
        if sum(self.bounds.paths[i] for i in borders) > MAX_PREFIXES:
            raise TooFineError

    def prefixes(self) -> list[Prefixes]:
        """Return the chains before the border where the pass stopped; a single empty one at the root."""
        if self.stop == -1:
            return [self._prefixes(0, {0: self._root()})] if 0 in self.by_node else []
        steps: dict[int, Steps] = {0: self._root()}
        ends = [i for i in self._by_element[self.stop] if self.graph.border[i]]
        coming: dict[int, list[int]] = {}
        for k, j in enumerate(self.to[: int(self.graph.start[ends[-1]])]):
            coming.setdefault(j, []).append(k)
        for i in range(1, ends[-1] + 1):
            if i in coming:
                steps[i] = self._step(coming[i], steps)
        return [self._prefixes(i, steps) for i in ends if i in self.by_node]

    def _root(self) -> Steps:
        zero = np.zeros(1, dtype=np.int64)
        none = np.full(1, -1, dtype=np.int32)
        return Steps(zero, None if self.scores is None else zero, none, none)

    def _step(self, edges: Sequence[int], steps: dict[int, Steps]) -> Steps:
        before = [steps[self.source[k]] for k in edges]
        lengths = [len(s.ticks) for s in before]
        scores = None
        if self.scores is not None:
            each = zip(edges, before, strict=True)
            scores = np.concatenate([s.scores + self.scores[k] for k, s in each])  # type: ignore[operator]
        return Steps(
            np.concatenate([s.ticks + self.ticks[k] for k, s in zip(edges, before, strict=True)]),
            scores,
            np.repeat(np.array(edges, dtype=np.int32), lengths),
            np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        )

    def _prefixes(self, node: int, steps: dict[int, Steps]) -> Prefixes:
        mine = steps[node]
        steps_of_nodes = tuple(steps.get(i, mine) for i in range(node + 1))
        table = self.by_node[node]
        index = np.flatnonzero(
            (mine.ticks + table.first <= self.high) & (mine.ticks + table.last >= self.low)
        )
        scores = None if mine.scores is None else mine.scores[index]
        return Prefixes(node, mine.ticks[index], scores, steps_of_nodes, index)


def write_prefixes(
    graph: Graph, source: Sequence[int], prefixes: Prefixes, picked: Ints, codes: Ints, rows: Ints
) -> None:
    """Write the codes of chains before a border.

    Args:
        graph: the chains.
        source: the node of each edge.
        prefixes: chains up to a border.
        picked: (n,) indices of chains.
        codes: (m, genes), written in place.
        rows: (n,) the row of codes for each chain.
    """
    groups = [(prefixes.node, rows, prefixes.index[picked])]
    while groups:
        node, rows, index = groups.pop()
        if node == 0 or not len(rows):
            continue
        steps = prefixes.steps[node]
        edges = steps.edge[index]
        for k in np.unique(edges).tolist():
            mine = np.flatnonzero(edges == k)
            for column, code in graph.genes[k]:
                codes[rows[mine], column] = code
            groups.append((source[k], rows[mine], steps.before[index[mine]].astype(np.int64)))
