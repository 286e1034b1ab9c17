"""Why a network is not in a space: the first rule that it breaks, or the first block that does not fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lcnas import blocks as vocabulary
from lcnas.arch import Arch, labels
from lcnas.blocks import Block
from lcnas.errors import listing, nearest, not_among
from lcnas.spaces._element import ElementTable, Total, within
from lcnas.spaces._match import broken_order, by_first_block, match
from lcnas.spaces._points import Part, Point
from lcnas.spaces._spec import Choice, FromNetwork, Limit, NonDecreasing, Value
from lcnas.spaces._structure import Structure

# Costs of differences between a network and its nearest one; a differing field costs 1.
_OTHER_TYPE = 30.0
_WRONG_DEPTH = 1.0  # plus the same for each block too many or too few
_LEFT_OVER = 40.0  # a block after the head
_SLACK = 3  # blocks by which a stage's depth may be wrong and the stage still recognised


def explain(structure: Structure, kept: Mapping[str, tuple[Any, ...]], arch: Arch) -> str:
    """Return why a network is not in a space.

    Args:
        structure: the space's file without rules and restrictions.
        kept: gene -> the choices that a restriction keeps.
        arch: the network. If it is in ``structure``, the reason is a rule or a restriction; otherwise
            it is the first difference from the nearest network of ``structure``.
    """
    for g in by_first_block(structure).get(arch.blocks[0], ()):
        parts = match(structure, g, arch.blocks)
        if parts is not None:
            return _broken_rule(structure, kept, arch, Point(0, g, parts))
    return _foreign(structure, arch) or _Nearest(structure, arch).words()


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


def _foreign(structure: Structure, arch: Arch) -> str | None:
    """Return a message about a block of a type that the space does not have, or None."""
    kinds = sorted({t.cls.type for table in structure.elements for t in table.element.templates})
    for name, block in zip(labels(arch), arch.blocks, strict=True):
        if block.type not in kinds:
            problem = f"block: {name} is {block.type!r}, of which the space has none"
            return f"{problem}; it has {listing(kinds)}{nearest(block.type, kinds)}"
    return None


@dataclass(frozen=True)
class _Piece:
    """The best match of an element, under a signature, with some blocks of a network."""

    table: ElementTable
    s: int
    start: int  # number of its first block
    options: tuple[Block, ...]  # the space's nearest option for each block
    total: Total  # total stride before it


@dataclass(frozen=True)
class _Partial:
    """A match of the blocks so far."""

    cost: float
    at: int  # number of matched blocks
    total: Total
    pieces: tuple[_Piece, ...]


class _Nearest:
    """The network of the space that is nearest to another one, element by element."""

    def __init__(self, structure: Structure, arch: Arch) -> None:
        self.structure = structure
        self.arch = arch
        self.blocks = arch.blocks
        self.fits = functools.cache(self._fits)
        self.g = 0
        self.best: _Partial | None = None
        for g in range(len(structure.assignments)):
            self._try(g)

    def _try(self, g: int) -> None:
        """Find the best match under an assignment, without matches that cost more than the best so far."""
        partials = [_Partial(0.0, 0, (1, 1), ())]
        for table in self.structure.elements:
            cheapest: dict[tuple[int, Total], _Partial] = {}
            for grown in (p for partial in partials for p in self._grow(g, table, partial)):
                known = cheapest.setdefault((grown.at, grown.total), grown)
                if grown.cost < known.cost:
                    cheapest[grown.at, grown.total] = grown
            partials = list(cheapest.values())
        for partial in partials:
            cost = partial.cost + _LEFT_OVER * (len(self.blocks) - partial.at)
            if self.best is None or cost < self.best.cost:
                self.g = g
                self.best = _Partial(cost, partial.at, partial.total, partial.pieces)

    def _grow(self, g: int, table: ElementTable, partial: _Partial) -> Iterator[_Partial]:
        """Yield a partial match with one more element: the cheapest for each place where it can end."""
        limit = math.inf if self.best is None else self.best.cost
        low = max(0, min(table.depths) - _SLACK)
        high = min(len(self.blocks) - partial.at, max(table.depths) + _SLACK)
        steps = [self._step(table, g, partial, k) for k in range(high)]
        cheapest: dict[tuple[int, Total], tuple[float, int]] = {}
        for s in range(len(table.signatures)):
            total = table.total_after(g, s, 0, partial.total)
            cost = partial.cost
            for k in range(high + 1):
                cost += steps[k - 1][s][0] if k else 0.0
                if cost >= limit:
                    break
                depth = min(abs(k - d) for d in table.depths)
                whole = cost + (_WRONG_DEPTH * (1 + depth) if depth else 0)
                if k >= low and whole < cheapest.get((k, total), (limit, 0))[0]:
                    cheapest[k, total] = (whole, s)
        for (k, total), (cost, s) in cheapest.items():
            piece = _Piece(
                table, s, partial.at, tuple(step[s][1] for step in steps[:k]), partial.total
            )
            yield _Partial(cost, partial.at + k, total, (*partial.pieces, piece))

    def _step(
        self, table: ElementTable, g: int, partial: _Partial, k: int
    ) -> dict[int, tuple[float, Block]]:
        """Return, for each signature, the cost of block k after a partial match, and its nearest option."""
        slot = min(k, table.slots - 1)
        if slot > 1 and table.like_the_second(slot):
            slot = 1
        total = partial.total if slot == 0 else (1, 1)
        return self.fits(table, g, slot, total, partial.at + k)

    def _fits(
        self, table: ElementTable, g: int, j: int, total: Total, number: int
    ) -> dict[int, tuple[float, Block]]:
        """Return, for each signature, the cost of a block at a slot, and its nearest option."""
        best: dict[int, tuple[float, Block]] = {}
        for option, signatures in table.named(g, j, total).items():
            cost = _distance(self.blocks[number], option)
            for s in signatures:
                if s not in best or cost < best[s][0]:
                    best[s] = (cost, option)
        return best

    def words(self) -> str:
        """Return a message about the first difference from the nearest network of the space."""
        assert self.best is not None  # every assignment has a match
        names = labels(self.arch)
        for piece in self.best.pieces:
            for j, option in enumerate(piece.options):
                if option != self.blocks[piece.start + j]:
                    return self._difference(piece, j, names[piece.start + j], option)
            depth = len(piece.options)
            if depth not in piece.table.depths:
                blocks = f"{depth} block{'s' * (depth != 1)}"
                allowed = f"{listing(piece.table.depths)}{nearest(depth, piece.table.depths)}"
                return (
                    f"{piece.table.name}_depth: the network has {blocks} there, allowed: {allowed}"
                )
        if self.best.at < len(self.blocks):
            block = self.blocks[self.best.at]
            return f"{piece.table.name}: {names[self.best.at]}, {block}, follows it"
        return "no reason was found, which is a mistake of lcnas; please report it"

    def _difference(self, piece: _Piece, j: int, name: str, option: Block) -> str:
        """Return a message about the field in which a block differs from its nearest option."""
        block, owner = self.blocks[piece.start + j], piece.table.name
        options = self._all_options(piece, j)
        if type(option) is not type(block):
            kinds = sorted({o.type for o in options})
            problem = f"{owner}_block: {name} is {block.type!r}"
            return f"{problem}, allowed: {listing(kinds)}{nearest(block.type, kinds)}"
        fields = vocabulary.field_names(type(block))
        wrong = [f for f in fields if getattr(option, f) != getattr(block, f)]
        same = [f for f in fields if f not in wrong]
        near = [
            o
            for o in options
            if type(o) is type(block) and all(getattr(o, f) == getattr(block, f) for f in same)
        ]
        key = wrong[0]
        value, nearest_value = getattr(block, key), getattr(option, key)
        allowed = list(dict.fromkeys(getattr(o, key) for o in near))
        problem = f"{owner}_{key}: {name} has {key} {_word(value)}"
        if within(value, allowed) and not wrong[1:]:
            whole = "network" if self._is_network_wide(piece.table, key) else "stage"
            return f"{problem}, but the rest of the {whole} goes with {key} {_word(nearest_value)}"
        more = f" (and another {', '.join(wrong[1:])})" if wrong[1:] else ""
        return f"{problem}{more}, allowed: {listing(_word(v) for v in allowed)}{nearest(value, allowed)}"

    def _is_network_wide(self, table: ElementTable, key: str) -> bool:
        return isinstance(dict(table.element.params).get(key), FromNetwork)

    def _all_options(self, piece: _Piece, j: int) -> list[Block]:
        """Return all blocks that a slot can have, under any assignment."""
        slot = min(j, piece.table.slots - 1)
        options: dict[Block, None] = {}
        for g in range(len(self.structure.assignments)):
            if any(total == piece.total for total, _ in piece.table.totals[g]):
                options.update(dict.fromkeys(piece.table.named(g, slot, piece.total)))
        return list(options)


@functools.lru_cache(maxsize=1 << 16)
def _distance(block: Block, option: Block) -> float:
    """Return the number of fields in which two blocks differ."""
    if type(option) is not type(block):
        return _OTHER_TYPE
    fields = vocabulary.field_names(type(block))
    return float(sum(getattr(option, f) != getattr(block, f) for f in fields))


def _limited(rule: Limit, g: int, name: str, table: ElementTable, part: Part, j: int) -> str | None:
    """Return a message about the limit that a block breaks, or None."""
    if not _binds(rule, table, j) or not _matters(rule.param, table, part, j):
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


def _binds(rule: Limit, table: ElementTable, j: int) -> bool:
    """Return whether a limit applies to a block; one on a stage-wide choice applies to the whole stage."""
    param = dict(table.element.params).get(rule.param)
    if isinstance(param, Choice) and not param.per_block:
        return any(rule.covers(table.name, k) for k in range(max(table.element.depths)))
    return rule.covers(table.name, j)


def _matters(param: str, table: ElementTable, part: Part, j: int) -> bool:
    """Return whether a parameter affects a block, or is the stage's depth or kind of block."""
    return param in ("depth", "block") or table.signatures[part.s].template.uses(param, j == 0)


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
