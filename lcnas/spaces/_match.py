"""From blocks back to choices: which choices of a space, if any, give a chain of blocks."""

from __future__ import annotations

import itertools

from lcnas.blocks import Block
from lcnas.spaces._element import Total
from lcnas.spaces._points import Part, Point
from lcnas.spaces._spec import NonDecreasing
from lcnas.spaces._structure import Structure


def by_first_block(structure: Structure) -> dict[Block, list[int]]:
    """Return for each block that can begin a network the assignments that it can begin."""
    out: dict[Block, list[int]] = {}
    for g in range(len(structure.assignments)):
        for block in structure.elements[0].first_blocks(g):
            out.setdefault(block, []).append(g)
    return out


def match(structure: Structure, g: int, blocks: tuple[Block, ...]) -> tuple[Part, ...] | None:
    """Return the parts of a chain of blocks under assignment g, or None where it has none."""
    parts, fitting = longest_match(structure, g, blocks)
    return parts if len(parts) == len(structure.elements) and fitting == len(blocks) else None


def longest_match(
    structure: Structure, g: int, blocks: tuple[Block, ...]
) -> tuple[tuple[Part, ...], int]:
    """Return the parts of the elements that fit from the front on, and the number of blocks that fit."""
    at = 0
    total: Total = (1, 1)
    parts: list[Part] = []
    for table in structure.elements:
        part, used = table.match(g, blocks[at:], total)
        at += used
        if part is None:
            break
        parts.append(Part(*part))
        total = table.total_after(g, part[1], part[2][0], total)
    return tuple(parts), at


def broken_order(
    structure: Structure, point: Point, only: NonDecreasing | None = None
) -> str | None:
    """Return how a network breaks an order rule (or a given one), or None."""
    for rule in structure.orders if only is None else [only]:
        tables = [table for table in structure.elements if table.name in rule.elements]
        for before, behind in itertools.pairwise(tables):
            low = before.param_table(rule.param)[point.g, point.parts[before.index].s]
            high = behind.param_table(rule.param)[point.g, point.parts[behind.index].s]
            if low > high:
                return (
                    f"{rule.name}: {rule.param} falls from {low:g} in {before.name} "
                    f"to {high:g} in {behind.name}"
                )
    return None
