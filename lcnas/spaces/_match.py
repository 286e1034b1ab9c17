"""From blocks to choices: the choices of a space, if any, that give a chain of blocks."""

from __future__ import annotations

import math

from lcnas.blocks import Block
from lcnas.spaces._element import Total
from lcnas.spaces._points import Part, Point
from lcnas.spaces._spec import NonDecreasing
from lcnas.spaces._structure import Structure


def by_first_block(structure: Structure) -> dict[Block, list[int]]:
    """Return, for each possible first block of a network, the assignments that it can begin."""
    assignments: dict[Block, list[int]] = {}
    for g in range(len(structure.assignments)):
        for block in structure.elements[0].first_blocks(g):
            assignments.setdefault(block, []).append(g)
    return assignments


def match(structure: Structure, g: int, blocks: tuple[Block, ...]) -> tuple[Part, ...] | None:
    """Return the parts of a chain of blocks under assignment g, or None if it does not match."""
    position = 0
    total: Total = (1, 1)
    parts: list[Part] = []
    for table in structure.elements:
        part, used = table.match(g, blocks[position:], total)
        if part is None:
            return None
        position += used
        parts.append(Part(*part))
        total = table.total_after(g, part[1], part[2][0], total)
    return tuple(parts) if position == len(blocks) else None


def broken_order(
    structure: Structure, point: Point, only: NonDecreasing | None = None
) -> str | None:
    """Return a message about the order rule (all, or ``only``) that a network breaks, or None."""
    for rule in structure.orders if only is None else [only]:
        before, low = "", -math.inf
        for table in structure.elements:
            value = math.nan
            if table.name in rule.elements:
                value = table.param_table(rule.param)[point.g, point.parts[table.index].s]
            if value < low:
                return (
                    f"{rule.name}: {rule.param} falls from {low:g} in {before} "
                    f"to {value:g} in {table.name}"
                )
            if not math.isnan(value):
                before, low = table.name, float(value)
    return None
