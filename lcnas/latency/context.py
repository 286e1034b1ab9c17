"""Blocks in context: what a block adds to a chain.

An int8 block alone carries its own pair of quantise and dequantise, which inside a network is nobody's. So it
is measured in a chain of two as well, and what the other block of the chain takes alone is taken off: entry,
quantise and dequantise are in both, and fall out. Where the two ends have different sizes a little of the
dequantise stays in; it is a prior, and the fit to whole networks has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lcnas.arch import PlacedBlock
from lcnas.layers import Shape


@dataclass(frozen=True)
class Link:
    """A chain of two, and the one of them that is measured alone as well."""

    chain: tuple[PlacedBlock, PlacedBlock]
    other: PlacedBlock


def links(rows: Iterable[PlacedBlock], pool: Sequence[PlacedBlock]) -> dict[PlacedBlock, Link]:
    """Return the chain in which each row is measured; a row that nothing in the pool goes with has none.

    A block that keeps its input's shape stands behind itself; any other behind one that ends where it
    begins, if possible one that keeps its shape; the first of a network in front of one that goes on.
    """
    before: dict[Shape, PlacedBlock] = {}
    behind: dict[Shape, PlacedBlock] = {}
    for p in sorted(pool, key=lambda p: p.in_shape != p.out_shape):  # those that keep it first
        before.setdefault(p.out_shape, p)
        behind.setdefault(p.in_shape, p)
    out = {}
    for row in rows:
        if row.in_shape == row.out_shape:
            out[row] = Link((row, row), row)
        elif row.in_shape in before:
            out[row] = Link((before[row.in_shape], row), before[row.in_shape])
        elif row.out_shape in behind:
            out[row] = Link((row, behind[row.out_shape]), behind[row.out_shape])
    return out
