"""Walks from the root to the end through filled tables: random walks, and the best one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.budgets import _table
from lcnas.budgets._passes import Prefixes, Tables, write_prefixes
from lcnas.budgets._table import Table

Ints = NDArray[np.int64]
Window = tuple[int, int]  # lowest and highest total, ticks

AT_ONCE = 1 << 21  # weights of edges in memory at once
CHUNK = 1 << 15  # chains compared at once


# -- random walks ------------------------------------------------------------------------------------


class Sampler:
    """Samples chains uniformly, by tables of counts."""

    def __init__(self, tables: Tables, genes: int) -> None:
        self.tables = tables
        self.genes = genes
        self.prefixes = tables.prefixes()

    def counts(self, window: Window) -> list[Ints]:
        """Return, for each border's prefixes, the number of chains in a window after each, (limbs, n)."""
        tables = self.tables.by_node
        return [
            tables[f.node].between(window[0] - f.ticks, window[1] - f.ticks) for f in self.prefixes
        ]

    def count(self, window: Window) -> int:
        """Return the exact number of chains with a total in a window."""
        return sum(_table.to_int(x) for x in self.counts(window))

    def extremes(self, window: Window) -> Window | None:
        """Return the lowest and the highest total of chains in a window, or None if it is empty."""
        ends: list[int] = []
        for prefixes in self.prefixes:
            table = self.tables.by_node[prefixes.node]
            totals = table.ticks()[(table.values != 0).any(axis=0)]
            a = np.searchsorted(totals, window[0] - prefixes.ticks)
            b = np.searchsorted(totals, window[1] - prefixes.ticks + 1)
            nonempty = a < b
            if nonempty.any():
                ends.append(int((prefixes.ticks[nonempty] + totals[a[nonempty]]).min()))
                ends.append(int((prefixes.ticks[nonempty] + totals[b[nonempty] - 1]).max()))
        return (min(ends), max(ends)) if ends else None

    def draw(self, shares: Sequence[tuple[Window, int]], rng: np.random.Generator) -> Ints:
        """Return codes (n, genes) of chains, sampled uniformly from windows.

        Args:
            shares: windows that are not empty, each with a number of samples, in order.
            rng: source of randomness.
        """
        codes = np.zeros((sum(n for _, n in shares), self.genes), dtype=np.int64)
        pending: dict[int, list[tuple[Ints, Ints]]] = {}
        begin = 0
        for window, n in shares:
            if n:
                self._begin(window, np.arange(begin, begin + n), codes, pending, rng)
            begin += n
        self._walk(pending, codes, rng)
        return codes

    def _begin(
        self,
        window: Window,
        rows: Ints,
        codes: Ints,
        pending: dict[int, list[tuple[Ints, Ints]]],
        rng: np.random.Generator,
    ) -> None:
        """Draw, for each row, the chain before the border where the pass stopped, and the remaining ticks."""
        weights = [x[0] if len(x) == 1 else _table.to_float(x) for x in self.counts(window)]
        picked = _pick_each(np.cumsum(np.concatenate(weights)), len(rows), rng)
        begins = np.cumsum([0, *map(len, weights)])
        for prefixes, begin, end in zip(self.prefixes, begins, begins[1:], strict=False):
            drawn = np.flatnonzero((picked >= begin) & (picked < end))
            if len(drawn):
                index = picked[drawn] - begin
                write_prefixes(
                    self.tables.graph, self.tables.source, prefixes, index, codes, rows[drawn]
                )
                table = self.tables.by_node[prefixes.node]
                ticks = _draw_ticks(table, prefixes.ticks[index], window, rng)
                pending.setdefault(prefixes.node, []).append((rows[drawn], ticks))

    def _walk(
        self, pending: dict[int, list[tuple[Ints, Ints]]], codes: Ints, rng: np.random.Generator
    ) -> None:
        """Walk to the end; ``pending`` maps nodes to the rows there and their remaining ticks."""
        graph, order, element = self.tables.graph, list(pending), -2
        heapq.heapify(order)
        while order:
            node = heapq.heappop(order)
            if node == graph.nodes - 1:
                continue
            if graph.element[node] != element:
                element = int(graph.element[node])
                table_of = self.tables.inside(element)
            parts = pending.pop(node)
            rows, ticks = (np.concatenate(x) for x in zip(*parts, strict=True))
            step = max(1, AT_ONCE // len(graph.edges(node)))
            for at in range(0, len(rows), step):
                here = slice(at, at + step)
                for to, moved in self._step(node, table_of, rows[here], ticks[here], codes, rng):
                    if to not in pending:
                        pending[to] = []
                        heapq.heappush(order, to)
                    pending[to].append(moved)

    def _step(
        self,
        node: int,
        table_of: Callable[[int], Table | None],
        rows: Ints,
        ticks: Ints,
        codes: Ints,
        rng: np.random.Generator,
    ) -> Iterator[tuple[int, tuple[Ints, Ints]]]:
        """Draw an edge for each row at a node; yield (next node, (rows, remaining ticks))."""
        t = self.tables
        tables = [(k, table_of(t.to[k])) for k in t.graph.edges(node)]
        open_to = [(k, table) for k, table in tables if table is not None]
        edges = [k for k, _ in open_to]
        picked = np.zeros(len(rows), dtype=np.int64)
        if len(edges) > 1:
            weights = [table.counts_at(ticks - t.ticks[k]) for k, table in open_to]
            picked = _pick(np.stack(weights), rng)
        order = np.argsort(picked, kind="stable")
        kinds, starts = np.unique(picked[order], return_index=True)
        for i, chosen in zip(kinds.tolist(), np.split(order, starts[1:]), strict=True):
            k = edges[i]
            for column, code in t.graph.genes[k]:
                codes[rows[chosen], column] = code
            yield t.to[k], (rows[chosen], ticks[chosen] - t.ticks[k])


def _draw_ticks(table: Table, spent: Ints, window: Window, rng: np.random.Generator) -> Ints:
    """Draw, for each row, the ticks after a node, so that the total is in the window."""
    a, b = table.index_of(window[0] - spent), table.index_of(window[1] - spent + 1)
    if len(table.values) == 1:
        sums = table.sums[0]
        position = sums[a] + rng.integers(0, sums[b] - sums[a])
        index = np.searchsorted(sums, position, side="right") - 1
    elif (a == a[0]).all() and (b == b[0]).all():
        weights = _table.to_float(table.values[:, a[0] : b[0]])
        index = a[0] + _pick_each(np.cumsum(weights), len(spent), rng)
    else:
        reals = _table.to_float(table.sums)
        position = reals[a] + rng.random(len(a)) * (reals[b] - reals[a])
        index = np.clip(np.searchsorted(reals, position, side="right") - 1, a, b - 1)
    out: Ints = table.ticks()[index]
    return out


def _pick(weights: NDArray[Any], rng: np.random.Generator) -> Ints:
    """Return, for each column of weights (edges, n), a row drawn by weight; no column is all 0."""
    sums = np.cumsum(weights, axis=0)
    total = sums[-1]
    if sums.dtype.kind == "i":
        position = rng.integers(0, total)
    else:
        position = np.minimum(rng.random(len(total)) * total, np.nextafter(total, 0))
    picked: Ints = (sums <= position).sum(axis=0)
    return picked


def _pick_each(sums: NDArray[Any], n: int, rng: np.random.Generator) -> Ints:
    """Return n indices drawn by weights with these running sums."""
    if sums.dtype.kind == "i":
        position = rng.integers(0, sums[-1], size=n)
    else:
        position = np.minimum(rng.random(n) * sums[-1], np.nextafter(sums[-1], 0))
    return np.searchsorted(sums, position, side="right").astype(np.int64)


# -- the best walk -----------------------------------------------------------------------------------


def best_codes(tables: Tables, window: Window, genes: int) -> Ints | None:
    """Return the codes (genes,) of the best chain in a window, or None if it is empty.

    Args:
        tables: tables of scores; or of counts, where all chains in the window are equal.
        window: lowest and highest total, ticks; for scores that of the tables.
        genes: columns of codes.

    Returns:
        The lowest codes of all chains with the best score.
    """
    all_prefixes = tables.prefixes()
    reach = [_reach(tables, prefixes, window) for prefixes in all_prefixes]
    best = max((int(x.max()) for x in reach if len(x)), default=_table.NONE)
    if best <= _table.REACHED:
        return None
    ties = [(f, np.flatnonzero(x == best)) for f, x in zip(all_prefixes, reach, strict=True)]
    prefixes, index, codes = _lowest_prefix(tables, ties, genes)
    spent = int(prefixes.ticks[index])
    target = 0 if prefixes.scores is None else best - int(prefixes.scores[index])
    _Finish(tables, codes).go(prefixes.node, (window[0] - spent, window[1] - spent), target)
    return codes


def _reach(tables: Tables, prefixes: Prefixes, window: Window) -> Ints:
    """Return the best total score of each prefix; for counts 0 if chains follow it."""
    table = tables.by_node[prefixes.node]
    low, high = window[0] - prefixes.ticks, window[1] - prefixes.ticks
    if prefixes.scores is None:
        nonempty = (table.between(low, high) != 0).any(axis=0)
        return np.where(nonempty, 0, _table.NONE)
    a, b = table.index_of(low), table.index_of(high + 1)
    best = _table.range_max(table.values[0], a, b)
    out: Ints = np.where(best > _table.REACHED, best + (table.bias + prefixes.scores), _table.NONE)
    return out


def _lowest_prefix(
    tables: Tables, ties: Sequence[tuple[Prefixes, NDArray[np.intp]]], genes: int
) -> tuple[Prefixes, int, Ints]:
    """Return the prefix with the lowest codes: its border's prefixes, its index, and its codes."""
    lowest: list[tuple[tuple[int, ...], int, Prefixes]] = []
    for prefixes, index in ties:
        for at in range(0, len(index), CHUNK):
            chunk = index[at : at + CHUNK]
            codes = np.zeros((len(chunk), genes), dtype=np.int64)
            write_prefixes(
                tables.graph, tables.source, prefixes, chunk, codes, np.arange(len(chunk))
            )
            i = lowest_row(codes)
            lowest.append((tuple(codes[i].tolist()), int(chunk[i]), prefixes))
    lowest_codes, lowest_index, prefixes = min(lowest, key=lambda x: x[0])
    return prefixes, lowest_index, np.array(lowest_codes, dtype=np.int64)


def lowest_row(codes: Ints) -> int:
    """Return the index of the lowest row in lexicographic order."""
    left = np.arange(len(codes))
    for column in codes.T:
        here = column[left]
        left = left[here == here.min()]
    return int(left[0])


class _Finish:
    """The rest of the best chain: at each node the first edge, by codes, that reaches the target."""

    def __init__(self, tables: Tables, codes: Ints) -> None:
        self.tables = tables
        self.codes = codes

    def go(self, node: int, window: Window, target: int) -> None:
        """Write the lowest codes of a chain after a node with the target score in the window."""
        graph, element = self.tables.graph, -2
        while node != graph.nodes - 1:
            if graph.element[node] != element:
                element = int(graph.element[node])
                table_of = self.tables.inside(element)
            for _, path in sorted(self._options(node)):
                ticks = sum(self.tables.ticks[k] for k in path)
                score = 0 if self.tables.scores is None else self.tables.scores[path[-1]]
                to = self.tables.to[path[-1]]
                left = (window[0] - ticks, window[1] - ticks)
                if self._reaches(table_of(to), left, target - score):
                    break
            else:
                raise AssertionError("no edge leads on")
            for column, code in graph.genes[path[-1]]:
                self.codes[column] = code
            node, window, target = to, left, target - score

    def _options(self, node: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (position in the order of codes, edges) of the next steps; gates are skipped."""
        graph = self.tables.graph
        for k in graph.edges(node):
            next_node = self.tables.to[k]
            if graph.gate[next_node]:
                yield from ((int(graph.order[m]), (k, m)) for m in graph.edges(next_node))
            else:
                yield int(graph.order[k]), (k,)

    def _reaches(self, table: Table | None, window: Window, target: int) -> bool:
        """Return whether a chain with the target score is in the window."""
        part = None if table is None else table.clip(*window)
        if part is None:
            return False
        if self.tables.scores is None:
            return bool(part.values.any())
        return int(part.values[0].max()) + part.bias == target
