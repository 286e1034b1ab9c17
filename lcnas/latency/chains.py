"""Blocks in context: what a block adds to a chain.

An int8 block alone carries its own pair of quantise and dequantise, which it does not have inside a network.
So each block is measured in a chain of two as well, and the time of the chain's other block alone is
subtracted: the session's overhead, quantise and dequantise are in both measurements, and cancel out. Where
the two ends have different sizes a little of the dequantise remains. The difference is a prior: the fit to
whole networks has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lcnas.arch import PlacedBlock
from lcnas.layers import Shape


@dataclass(frozen=True)
class ContextChain:
    """A chain of two blocks in which one of them is measured in context."""

    blocks: tuple[PlacedBlock, PlacedBlock]
    other: PlacedBlock  # the block of the chain whose time alone is subtracted


def context_chains(
    placed_blocks: Iterable[PlacedBlock], pool: Sequence[PlacedBlock]
) -> dict[PlacedBlock, ContextChain]:
    """Return the chain in which to measure each placed block.

    A block that keeps its input's shape stands behind itself. Any other stands behind a block that ends
    where it begins, if possible one that keeps its shape; the first block of a network stands in front of
    one that goes on. A block that fits to nothing in the pool has no chain.
    """
    before: dict[Shape, PlacedBlock] = {}
    behind: dict[Shape, PlacedBlock] = {}
    for p in sorted(pool, key=lambda p: p.in_shape != p.out_shape):  # those that keep it first
        before.setdefault(p.out_shape, p)
        behind.setdefault(p.in_shape, p)
    out = {}
    for placed in placed_blocks:
        if placed.in_shape == placed.out_shape:
            out[placed] = ContextChain((placed, placed), placed)
        elif placed.in_shape in before:
            first = before[placed.in_shape]
            out[placed] = ContextChain((first, placed), first)
        elif placed.out_shape in behind:
            second = behind[placed.out_shape]
            out[placed] = ContextChain((placed, second), second)
    return out
