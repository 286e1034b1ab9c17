"""Why a network is not in a space, in words: the first rule, or the first block, that does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lcnas import blocks as vocabulary
from lcnas.arch import Arch, labels
from lcnas.blocks import Block
from lcnas.errors import listing, nearest, not_among
from lcnas.spaces._element import ElementTable, Total, within
from lcnas.spaces._match import broken_order, by_first_block, longest_match, match
from lcnas.spaces._points import Part, Point
from lcnas.spaces._spec import Limit, NonDecreasing, Spec, Value
from lcnas.spaces._structure import Structure


def explain(spec: Spec, kept: Mapping[str, tuple[Any, ...]], arch: Arch) -> str:
    """Return why a network is not in the space of a file restricted to the kept choices.

    The network is looked for in the file without its rules and restrictions. Where it is found, a rule or
    a restriction is to blame; else the first block that fits nowhere.
    """
    structure = Structure(spec, {}, with_rules=False, checked=False)
    for g in by_first_block(structure).get(arch.blocks[0], ()):
        parts = match(structure, g, arch.blocks)
        if parts is not None:
            return _broken_rule(structure, kept, arch, Point(0, g, parts))
    return _mismatch(structure, arch)


def _broken_rule(
    structure: Structure, kept: Mapping[str, tuple[Any, ...]], arch: Arch, point: Point
) -> str:
    names = iter(labels(arch))
    places = [
        (next(names), table, part, j)
        for table, part in zip(structure.elements, point.parts, strict=True)
        for j in range(len(part.combos))
    ]
    for rule in structure.spec.rules:
        if isinstance(rule, NonDecreasing):
            texts = [broken_order(structure, point, rule)]
        else:
            texts = [_limited(rule, point.g, *place) for place in places]
        broken = [text for text in texts if text is not None]
        if broken:
            return broken[0]
    chosen = structure.choices_of(point.g, point.parts)
    for name, choices in kept.items():
        if name in chosen and not within(chosen[name], choices):
            return not_among(f"restricted gene {name}", chosen[name], choices)
    return "a restriction of this space leaves it out"


def _mismatch(structure: Structure, arch: Arch) -> str:
    """Say where a chain of blocks leaves the space, by the assignment that fits furthest."""
    blocks = arch.blocks
    g = max(range(len(structure.assignments)), key=lambda g: longest_match(structure, g, blocks)[1])
    elements = structure.elements
    at = 0
    total: Total = (1, 1)
    for table, following in zip(elements, [*elements[1:], None], strict=True):
        part, used = table.match(g, blocks[at:], total)
        at += used
        name = labels(arch)[at] if at < len(blocks) else ""
        if part is None:
            return _incomplete(table, following, g, total, used, name, blocks[at : at + 1])
        total = table.total_after(g, part[1], part[2][0], total)
        if following is None:
            return f"{table.name}: {name}, {blocks[at]}, follows behind it"
        if name and following.match(g, blocks[at : at + 1], total)[1] == 0:
            return _between(table, following, g, total, used, name, blocks[at])
    raise AssertionError("a chain that fits everywhere is in the space")


def _incomplete(
    table: ElementTable,
    following: ElementTable | None,
    g: int,
    total: Total,
    used: int,
    name: str,
    ahead: Sequence[Block],
) -> str:
    """Say why an element is not complete at the block ahead (or at the network's end)."""
    if not ahead:
        return f"{table.name}: the network ends before it is complete"
    if used and following is not None and _begins(following, g, ahead[0]):
        return (
            f"{table.name}_depth: the network has {used} block{'s' * (used > 1)} there, "
            f"allowed: {listing(table.depths)}"
        )
    return _difference(table.name, name, ahead[0], table.options(g, used, total))


def _limited(rule: Limit, g: int, name: str, table: ElementTable, part: Part, j: int) -> str | None:
    """Return how a block breaks a limit, or None."""
    if not rule.covers(table.name, j):
        return None
    values = table.values(g, part.s, j, part.combos[j])
    values |= {"depth": table.depths[part.d], "block": table.signatures[part.s].template.name}
    if rule.param not in values:
        return None
    value = values[rule.param]
    if within(value, rule.values):
        return None
    block = table.block(g, part.s, j, part.combos[j], (1, 1)) if j else None
    what = f", {block}," if block is not None else ""
    return (
        f"{rule.name}: {name}{what} has {rule.param} {_word(value)}, "
        f"allowed there: {listing(_word(v) for v in rule.values)}"
    )


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _begins(table: ElementTable, g: int, block: Block) -> bool:
    return any(table.match(g, [block], total)[1] for total in {t for t, _ in table.totals[g]})


def _between(
    table: ElementTable,
    following: ElementTable,
    g: int,
    total: Total,
    used: int,
    name: str,
    block: Block,
) -> str:
    """Say why a block can neither go on with one element nor begin the next."""
    later = table.options(g, table.slots - 1, total) if table.slots > 1 else []
    if used == table.slots and block in later:
        return f"{table.name}_depth: {name} is one block too many, allowed: {listing(table.depths)}"
    going_on = table.options(g, used, total) if used < table.slots else []
    begins = following.options(g, 0, total)
    owner = table.name if _distance(block, going_on) <= _distance(block, begins) else following.name
    return _difference(owner, name, block, going_on if owner == table.name else begins)


def _distance(block: Block, options: Sequence[Block]) -> float:
    """Return in how many fields a block differs from the nearest option."""
    fields = vocabulary.field_names(type(block))
    return min(
        (
            sum(getattr(o, f) != getattr(block, f) for f in fields)
            if type(o) is type(block)
            else math.inf
            for o in options
        ),
        default=math.inf,
    )


def _difference(owner: str, name: str, block: Block, options: Sequence[Block]) -> str:
    """Say which field of a block no option has, by the option that differs least."""
    alike = [option for option in options if type(option) is type(block)]
    if not alike:
        kinds = sorted({option.type for option in options})
        given = f"{owner}_block: {name} is {block.type!r}"
        return f"{given}, allowed: {listing(kinds)}{nearest(block.type, kinds)}"
    fields = vocabulary.field_names(type(block))
    closest = min(alike, key=lambda o: sum(getattr(o, f) != getattr(block, f) for f in fields))
    wrong = [f for f in fields if getattr(closest, f) != getattr(block, f)]
    same = [f for f in fields if f not in wrong]
    near = [o for o in alike if all(getattr(o, f) == getattr(closest, f) for f in same)]
    field = wrong[0]
    value = getattr(block, field)
    allowed = list(dict.fromkeys(getattr(o, field) for o in near))
    more = f" (and another {', '.join(wrong[1:])})" if len(wrong) > 1 else ""
    message = f"{owner}_{field}: {name} has {field} {_word(value)}{more}"
    return f"{message}, allowed: {listing(_word(v) for v in allowed)}{nearest(value, allowed)}"
