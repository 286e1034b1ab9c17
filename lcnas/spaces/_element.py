"""An element of a space (stem, stage or head): its choices, and the block of each combination.

Terms used here and in ``_space.py``:

* element: stem, a stage, or the head;
* assignment ``g``: one combination of the network-wide genes;
* signature ``s``: one combination of an element's stage-wide genes (its depth not among them);
* slot ``j``: a block's place in its element, 0 the first;
* combo ``c``: one combination of a slot's per-block genes.

``(g, s, j, c)`` stands for a block. Several can stand for the same block (a kernel gene where the kind of
block has no kernel), and several signatures for the same chain (with and without shortcut at depth 1).
The tables here map each to one representative, so that each network counts once.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcnas import blocks as vocabulary
from lcnas.arch import place
from lcnas.blocks import Block
from lcnas.errors import BlockError, ShapeError, SpaceError, shorten
from lcnas.spaces._points import Ints
from lcnas.spaces._spec import (
    Choice,
    Const,
    Element,
    FromNetwork,
    Limit,
    MissingParamError,
    SpaceSpec,
    Template,
    Value,
    resolve,
)

MAX_TABLE = 5_000_000  # entries of one element's tables
PROBE = 1 << 12  # pixels per side of the input by which a block's stride is determined

Total = tuple[int, int]  # total stride from the image, (vertical, horizontal)
T = TypeVar("T")


@dataclass(frozen=True)
class Gene:
    """A choice of the space: its name, and its values in the order of their codes."""

    name: str
    choices: tuple[Any, ...]


@dataclass(frozen=True)
class Digit:
    """A gene's position in the codes: column (-1: it does not vary) and number of choices."""

    column: int
    size: int


class Genes:
    """Collects the genes of a space in the order of their codes, under rules and restrictions."""

    def __init__(self, spec: SpaceSpec, kept: Mapping[str, tuple[Value, ...]]) -> None:
        self.spec = spec
        self.kept = dict(kept)
        self.genes: list[Gene] = []

    def add(
        self, name: str, choices: tuple[T, ...], names: tuple[Any, ...] = ()
    ) -> tuple[tuple[T, ...], Digit]:
        """Add a gene if it has several choices; return the kept choices and its digit."""
        labels = names or choices
        if len(choices) == 1:
            return choices, Digit(-1, 1)
        if name in self.kept:
            kept = self.kept[name]
            pairs = [(c, s) for c, s in zip(choices, labels, strict=True) if s in kept]
            choices, labels = tuple(c for c, _ in pairs), tuple(s for _, s in pairs)
        if any(name == gene.name for gene in self.genes):
            message = f"two genes are called {name!r}; rename the network-wide gene or the stage"
            raise SpaceError(f"{self.spec.source}: {message}")
        self.genes.append(Gene(name, labels))
        return choices, Digit(len(self.genes) - 1, len(choices))


class Host(Protocol):
    """The part of a structure (``_structure.py``) that its elements use."""

    spec: SpaceSpec
    builder: Genes
    limits: list[Limit]
    assignments: list[dict[str, int]]
    checked: bool

    def error(self, message: str) -> SpaceError:
        """Return the error for this file."""

    def network_value(self, param: FromNetwork, g: int, index: int, j: int) -> Value:
        """Return the value of a network-wide gene at slot j of element ``index`` under assignment g."""


@dataclass(frozen=True)
class Signature:
    """One combination of an element's stage-wide choices."""

    digits: tuple[int, ...]
    template: Template
    values: tuple[tuple[str, Value], ...]  # stage-wide parameters


class ElementTable:
    """An element's choices, and its blocks for every (g, s, j, c)."""

    def __init__(self, structure: Host, element: Element, index: int) -> None:
        self.structure = structure
        self.element = element
        self.index = index
        self.name = element.name
        # Caches of the instance, not of the class: they are freed with the space.
        self.param_table = functools.cache(self._param_table)
        self._index = functools.lru_cache(maxsize=4096)(self._make_index)
        self._total_after = functools.lru_cache(maxsize=1 << 14)(self._make_total_after)
        self._add_genes()
        self._check_size()

    # -- genes --

    def _add_genes(self) -> None:
        genes = self.structure.builder
        e = self.element
        slots = range(max(e.depths))
        depths = self._allowed("depth", slots, e.depths, f"{e.name}_depth")
        self.depths, self.depth_digit = genes.add(f"{e.name}_depth", depths)
        self.slots = max(self.depths)
        names = tuple(t.name for t in e.templates)
        kept = self._allowed("block", slots, names, f"{e.name}_block")
        templates = tuple(t for t in e.templates if t.name in kept)
        templates, digit = genes.add(f"{e.name}_block", templates, tuple(t.name for t in templates))
        self.sig_digits = [digit]
        stage_wide: list[tuple[str, tuple[Value, ...]]] = []
        for key, param in e.params:
            if isinstance(param, Choice) and not param.per_block:
                name = f"{e.name}_{key}"
                choices, digit = genes.add(name, self._allowed(key, slots, param.values, name))
                self.sig_digits.append(digit)
                stage_wide.append((key, choices))
        self.signatures = [
            Signature(
                digits,
                templates[digits[0]],
                tuple(
                    (key, choices[d])
                    for (key, choices), d in zip(stage_wide, digits[1:], strict=True)
                ),
            )
            for digits in itertools.product(*(range(d.size) for d in self.sig_digits))
        ]
        # For each slot the values of the per-block parameters, and their digits.
        per_block = [(k, p) for k, p in e.params if isinstance(p, Choice) and p.per_block]
        self.slot_digits: list[list[Digit]] = []
        self.slot_values: list[list[tuple[tuple[str, Value], ...]]] = []
        for j in range(self.slots):
            digits_here: list[Digit] = []
            values_here: list[tuple[Value, ...]] = []
            for key, param in per_block:
                name = f"{e.name}_{key}" if self.slots == 1 else f"{e.name}_block{j + 1}_{key}"
                choices, digit = genes.add(name, self._allowed(key, [j], param.values, name))
                digits_here.append(digit)
                values_here.append(choices)
            self.slot_digits.append(digits_here)
            self.slot_values.append(
                [
                    tuple(zip((k for k, _ in per_block), combo, strict=True))
                    for combo in itertools.product(*values_here)
                ]
            )

    def _allowed(
        self, param: str, slots: Sequence[int], values: tuple[T, ...], gene: str
    ) -> tuple[T, ...]:
        """Return the values of a parameter that the rules allow at some slots."""
        for rule in self.structure.limits:
            if rule.param == param and any(rule.covers(self.name, j) for j in slots):
                left = tuple(v for v in values if within(v, rule.values))
                if not left:
                    raise self.structure.error(
                        f"rule {rule.name!r} leaves nothing of {gene}: {shorten(list(values))}, "
                        f"of which it allows {shorten(list(rule.values))}; no network can meet it"
                    )
                values = left
        return values

    def _check_size(self) -> None:
        combos = max(len(v) for v in self.slot_values)
        entries = len(self.structure.assignments) * len(self.signatures) * self.slots * combos
        if entries * len(self.depths) > MAX_TABLE:
            raise self.structure.error(
                f"{self.element.where}: {entries * len(self.depths)} combinations are more than {MAX_TABLE}; "
                "give it fewer stage-wide or network-wide choices"
            )

    # -- blocks --

    def values(self, g: int, s: int, j: int, c: int) -> dict[str, Value]:
        """Return the value of each parameter at a block."""
        out = {key: param.value for key, param in self.element.params if isinstance(param, Const)}
        for key, param in self.element.params:
            if isinstance(param, FromNetwork):
                out[key] = self.structure.network_value(param, g, self.index, j)
        out.update(self.signatures[s].values)
        out.update(self.slot_values[j][c])
        return out

    def block(self, g: int, s: int, j: int, c: int, total: Total) -> Block:
        """Return the block of ``(g, s, j, c)``; ``total`` is the total stride before it."""
        template = self.signatures[s].template
        stride = self._stride(total) if j == 0 else 1
        values = tuple(sorted(self.values(g, s, j, c).items()))
        try:
            return _make(template, j == 0, stride, values)
        except (BlockError, MissingParamError) as error:
            raise self.structure.error(f"{self.element.where}: {error}") from None

    def _stride(self, total: Total) -> Value:
        target = self.element.total_stride
        if target is None:
            return self.element.stride
        if any(w % t for w, t in zip(target, total, strict=True)):
            raise self.structure.error(
                f"{self.element.where}.total_stride: {target} is not a multiple of {total}, "
                "the total stride before it"
            )
        stride = tuple(w // t for w, t in zip(target, total, strict=True))
        return stride[0] if stride[0] == stride[1] else stride

    # -- representatives --

    def build(self, totals: Mapping[int, set[tuple[Total, int]]]) -> None:
        """Fill the tables; ``totals`` has, for each g, the possible (total stride, channels) of the input."""
        shape = (len(self.structure.assignments), len(self.signatures), self.slots)
        combos = max(len(v) for v in self.slot_values)
        self.labels = np.full((*shape, combos), -1, dtype=np.int64)
        self.totals = totals
        # A label stands for a block, or at slot 0 for one block per possible total stride of the input.
        self.names: dict[tuple[Block, ...], int] = {}
        for g, s in itertools.product(range(shape[0]), range(shape[1])):
            incoming = sorted({total for total, _ in totals[g]})
            for j in range(self.slots):
                if j > 1 and self.like_the_second(j):
                    self.labels[g, s, j] = self.labels[g, s, 1]
                    continue
                for c in range(len(self.slot_values[j])):
                    name = tuple(
                        self.block(g, s, j, c, t) for t in (incoming if j == 0 else incoming[:1])
                    )
                    self.labels[g, s, j, c] = self.names.setdefault(name, len(self.names))
        if self.structure.checked:
            self._check_totals()
        self.first_combo, self.counts = _first_of_each(self.labels)
        self.sets = [
            [{int(x) for x in np.unique(self.labels[g, :, j]) if x >= 0} for j in range(self.slots)]
            for g in range(shape[0])
        ]
        self._merge_signatures()

    def _check_totals(self) -> None:
        """Refuse first blocks that are one block after some total stride and several after another."""
        for g, totals in self.totals.items():
            labels = {int(x) for x in np.unique(self.labels[g, :, 0]) if x >= 0}
            names = [name for name, number in self.names.items() if number in labels]
            for t in range(len({total for total, _ in totals})):
                if len({name[t] for name in names}) < len(names):
                    raise self.structure.error(
                        f"{self.element.where}: two of its choices give the same first block after one "
                        "stem and not after another; one network would have two spellings"
                    )

    def like_the_second(self, j: int) -> bool:
        """Return whether a slot has the same choices and blocks as slot 1."""
        return self.slot_values[j] == self.slot_values[1] and not self._has_pattern

    @functools.cached_property
    def _has_pattern(self) -> bool:
        patterns = {gene.name for gene in self.structure.spec.network if gene.patterns}
        return any(
            isinstance(p, FromNetwork) and p.gene in patterns for _, p in self.element.params
        )

    def first_blocks(self, g: int) -> set[Block]:
        """Return all blocks that the element can begin with."""
        sigs, combos = range(len(self.signatures)), range(len(self.slot_values[0]))
        totals = {total for total, _ in self.totals[g]}
        return {self.block(g, s, 0, c, t) for t in totals for s in sigs for c in combos}

    def later_blocks(self, g: int, slots: Sequence[int]) -> set[Block]:
        """Return all blocks that some slots after the first can have."""
        names = list(self.names)
        return {names[int(x)][0] for x in np.unique(self.labels[g][:, slots]) if x >= 0}

    def label_set(self, g: int, s: int, j: int) -> frozenset[int]:
        """Return all labels that slot j can have."""
        return frozenset(int(x) for x in self.labels[g, s, j] if x >= 0)

    def _merge_signatures(self) -> None:
        """Find, for each g, depth and signature, the lowest signature with the same chains."""
        G, S, _ = self.labels.shape[:3]
        self.representative = np.tile(np.arange(S), (G, len(self.depths), 1))
        self.combo_of = np.zeros((G, len(self.depths), *self.labels.shape[1:]), dtype=np.int64)
        for g in range(G):
            sets = [[self.label_set(g, s, j) for j in range(self.slots)] for s in range(S)]
            for d, depth in enumerate(self.depths):
                self._merge_at(g, d, depth, sets)
        for d in range(len(self.depths)):
            for g in range(G):
                self._map_combos(g, d)

    def _merge_at(self, g: int, d: int, depth: int, sets: list[list[frozenset[int]]]) -> None:
        seen: dict[tuple[frozenset[int], ...], int] = {}
        by_label: dict[int, list[int]] = {}
        for s, slots in enumerate(sets):
            key = tuple(slots[:depth])
            if key in seen:
                self.representative[g, d, s] = seen[key]
                continue
            earlier = {r for label in slots[0] for r in by_label.get(label, ())}
            for other in sorted(earlier):
                if self.structure.checked and all(
                    a & b for a, b in zip(key, sets[other][:depth], strict=True)
                ):
                    raise self.structure.error(
                        f"{self.element.where}: {self._describe(other)} and {self._describe(s)} give "
                        f"some of the same networks at depth {depth}, but not all; "
                        "one network would have two spellings"
                    )
            seen[key] = s
            for label in slots[0]:
                by_label.setdefault(label, []).append(s)

    def _describe(self, s: int) -> str:
        signature = self.signatures[s]
        parts = [f"block {signature.template.name!r}"]
        return ", ".join(parts + [f"{key} {value!r}" for key, value in signature.values])

    def _map_combos(self, g: int, d: int) -> None:
        for s in range(len(self.signatures)):
            r = int(self.representative[g, d, s])
            self.combo_of[g, d, s] = self.first_combo[g, s]
            if r != s:
                for j in range(self.depths[d]):
                    where = {
                        int(x): c
                        for c, x in reversed(list(enumerate(self.labels[g, r, j])))
                        if x >= 0
                    }
                    for c, x in enumerate(self.labels[g, s, j]):
                        if x >= 0:
                            self.combo_of[g, d, s, j, c] = where[int(x)]

    @functools.cached_property
    def nth_combo(self) -> Ints:
        """Return [g, s, j, n] -> the combo of the n-th distinct block of a slot."""
        different = (self.first_combo == np.arange(self.labels.shape[-1])) & (self.labels >= 0)
        return np.argsort(~different, axis=-1, kind="stable")

    def distinct(self, g: int, s: int, j: int) -> list[int]:
        """Return one combo for each distinct block of a slot."""
        return [int(c) for c in self.nth_combo[g, s, j, : self.counts[g, s, j]]]

    def _param_table(self, param: str) -> NDArray[np.float64]:
        """Return [g, s] -> the value of a stage-wide number; NaN if the kind of block ignores it."""
        G, S = self.labels.shape[:2]
        table = np.full((G, S), np.nan)
        for g, s in itertools.product(range(G), range(S)):
            template = self.signatures[s].template
            if template.uses(param, is_first=True) or (
                self.slots > 1 and template.uses(param, is_first=False)
            ):
                table[g, s] = float(self.values(g, s, 0, 0)[param])
        return table

    # -- from blocks back to choices --

    def _make_index(self, g: int, j: int, total: Total) -> dict[Block, dict[int, int]]:
        """Return block -> {signature: lowest combo} for a slot."""
        out: dict[Block, dict[int, int]] = {}
        for s in range(len(self.signatures)):
            for c in range(len(self.slot_values[j])):
                out.setdefault(self.block(g, s, j, c, total), {}).setdefault(s, c)
        return out

    def match(
        self, g: int, blocks: Sequence[Block], total: Total
    ) -> tuple[tuple[int, int, tuple[int, ...]] | None, int]:
        """Return (depth index, signature, combos) of the element at the start of a chain, or None.

        The second value is the number of blocks that fit. No chain can be split in two ways (borders are
        checked when the file is loaded), so the longest fit is the right one.
        """
        alive: dict[int, tuple[int, ...]] = dict.fromkeys(range(len(self.signatures)), ())
        longest: tuple[int, dict[int, tuple[int, ...]]] | None = None
        used = 0
        for j, block in enumerate(blocks[: self.slots]):
            here = self._index(g, j, total if j == 0 else (1, 1)).get(block, {})
            alive = {s: (*combos, here[s]) for s, combos in alive.items() if s in here}
            if not alive:
                break
            used = j + 1
            if used in self.depths:
                longest = (self.depths.index(used), alive)
        if longest is None:
            return None, used
        d, alive = longest
        s = int(self.representative[g, d, min(alive)])
        return (d, s, alive[s]), self.depths[d]

    def named(self, g: int, j: int, total: Total) -> dict[Block, dict[int, int]]:
        """Return all blocks that a slot can have, each with its signatures and their lowest combos."""
        return self._index(g, j, total if j == 0 else (1, 1))

    def total_after(self, g: int, s: int, c: int, total: Total) -> Total:
        """Return the total stride after the element."""
        if self.index + 1 == len(self.structure.spec.elements):
            return total
        return self._total_after(self.block(g, s, 0, c, total), total, g)

    def _make_total_after(self, block: Block, total: Total, g: int) -> Total:
        channels = min(n for t, n in self.totals[g] if t == total)
        return self._after(block, total, channels)[0]

    # -- one-choice changes --

    def equals(self, g: int, d: int, s: int) -> list[int]:
        """Return all signatures with the same chains at that depth."""
        return [
            int(x)
            for x in np.flatnonzero(self.representative[g, d] == self.representative[g, d, s])
        ]

    def same_blocks(
        self, g: int, part: tuple[int, int, tuple[int, ...]], j: int, s: int
    ) -> list[int]:
        """Return the combos of signature s that give the part's block at slot j."""
        _, own, combos = part
        label = self.labels[g, own, j, combos[j]]
        return [int(c) for c in np.flatnonzero(self.labels[g, s, j] == label)]

    def codes_of(
        self, g: int, part: tuple[int, int, tuple[int, ...]], s: int
    ) -> Iterator[tuple[int, ...]]:
        """Yield all combos of signature s that give the part's blocks."""
        slots = [self.same_blocks(g, part, j, s) for j in range(len(part[2]))]
        yield from itertools.product(*slots)

    def part_of(
        self, g: int, d: int, s: int, combos: Sequence[int]
    ) -> tuple[int, int, tuple[int, ...]]:
        """Return the canonical part of any choices."""
        canonical = tuple(int(self.combo_of[g, d, s, j, c]) for j, c in enumerate(combos))
        return d, int(self.representative[g, d, s]), canonical

    def changed(
        self, g: int, part: tuple[int, int, tuple[int, ...]]
    ) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yield the canonical parts that differ from a part in one gene of the element."""
        d, _, own = part
        for s in self.equals(g, d, part[1]):
            slots = [self.same_blocks(g, part, j, s) for j in range(len(own))]
            for other in digits_off(s, [digit.size for digit in self.sig_digits]):
                for combos in itertools.product(*slots):
                    yield self.part_of(g, d, other, combos)
            for deeper, depth in enumerate(self.depths):
                if deeper != d:
                    new = [self.distinct(g, s, j) for j in range(len(own), depth)]
                    for combos in itertools.product(*slots[:depth], *new):
                        yield self.part_of(g, deeper, s, combos)
            for j, digits in enumerate(self.slot_digits[: len(own)]):
                sizes = [digit.size for digit in digits]
                fixed = [slot[0] for slot in slots]
                for c in slots[j]:
                    for other in digits_off(c, sizes):
                        yield self.part_of(g, d, s, [*fixed[:j], other, *fixed[j + 1 :]])

    def variants(self, g: int) -> list[tuple[int, int, int]]:
        """Return (depth index, representative signature, number of chains) of all distinct variants."""
        return [
            (d, s, math.prod(int(n) for n in self.counts[g, s, :depth]))
            for d, depth in enumerate(self.depths)
            for s in range(len(self.signatures))
            if self.representative[g, d, s] == s
        ]

    def leaving(self, g: int) -> set[tuple[Total, int]]:
        """Return the possible (total stride, channels) of the element's output."""
        ends = set()
        for total, channels in self.totals[g]:
            for s in range(len(self.signatures)):
                for c in range(len(self.slot_values[0])):
                    ends.add(self._after(self.block(g, s, 0, c, total), total, channels))
        return ends

    def _after(self, block: Block, total: Total, channels: int) -> tuple[Total, int]:
        try:
            out = place(block, (PROBE, PROBE, channels)).out_shape
        except ShapeError as error:
            raise self.structure.error(
                f"{self.element.where}: {block} after {channels} channels: {error}"
            ) from None
        if len(out) != 3:
            if self.index + 1 < len(self.structure.spec.elements):
                raise self.structure.error(
                    f"{self.element.where}: {block} ends the network, but more follows"
                )
            return total, out[0]
        step = [max(1, round(PROBE / side)) for side in out[:2]]
        return (total[0] * step[0], total[1] * step[1]), out[2]


def split_number(number: int, sizes: Sequence[int]) -> list[int]:
    """Return the digits of a mixed-radix number."""
    digits = []
    for size in reversed(sizes):
        digits.append(number % size)
        number //= size
    return digits[::-1]


def digits_off(number: int, sizes: Sequence[int]) -> Iterator[int]:
    """Yield the mixed-radix numbers that differ from ``number`` in exactly one digit."""
    step = 1
    for size in reversed(sizes):
        digit = number // step % size
        for other in range(size):
            if other != digit:
                yield number + (other - digit) * step
        step *= size


def _first_of_each(labels: Ints) -> tuple[Ints, Ints]:
    """Return, for each combo, the first one with the same label, and each slot's number of labels."""
    same = (labels[..., :, None] == labels[..., None, :]) & (labels[..., None, :] >= 0)
    first = same.argmax(axis=-1)
    counts = ((first == np.arange(labels.shape[-1])) & (labels >= 0)).sum(axis=-1)
    return first, counts


def within(value: object, allowed: Sequence[Value]) -> bool:
    """Return whether a value is among the allowed ones; 1 and true are different values."""
    return any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed)


@functools.lru_cache(maxsize=1 << 16)
def _make(
    template: Template, is_first: bool, stride: Value, values: tuple[tuple[str, Value], ...]
) -> Block:
    """Return the block of a template with a stage's parameters."""
    names = vocabulary.field_names(template.cls)
    params = dict(values)
    fields = {
        key: resolve(value, params, template.name)
        for key, value in template.settings(is_first).items()
    }
    for key, value in params.items():
        if key in names:
            fields.setdefault(key, value)
    if "stride" in names:
        if stride is not None:
            fields["stride"] = stride
    elif stride not in (None, 1):
        raise BlockError(
            f"{template.name}: a block {template.cls.type!r} has no stride, got {stride}"
        )
    return vocabulary.create(template.cls, fields)
