"""A space file compiled with its rules and restrictions: genes, elements, and checks.

``_element.py`` defines the terms.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lcnas.arch import INPUT_CHANNELS, place
from lcnas.blocks import make_divisible
from lcnas.errors import SpaceError, shorten
from lcnas.spaces._element import (
    PROBE,
    Digit,
    ElementTable,
    Genes,
    Total,
    split_number,
    within,
)
from lcnas.spaces._points import Ints
from lcnas.spaces._spec import (
    Choice,
    Const,
    FromNetwork,
    Limit,
    NonDecreasing,
    SpaceSpec,
    Value,
    refs,
)

MAX_ASSIGNMENTS = 20_000  # combinations of network-wide genes


class Structure:
    """A space file compiled with its rules and restrictions."""

    def __init__(
        self,
        spec: SpaceSpec,
        kept: Mapping[str, tuple[Value, ...]],
        *,
        with_rules: bool = True,
        checked: bool = True,
    ) -> None:
        self.spec = spec
        self.checked = checked  # a network with two spellings is an error
        rules = spec.rules if with_rules else ()
        self.limits = [rule for rule in rules if isinstance(rule, Limit)]
        self.orders = [rule for rule in rules if isinstance(rule, NonDecreasing)]
        self.builder = Genes(spec, kept)
        self.resolutions, self.resolution_digit = self.builder.add("resolution", spec.resolutions)
        self._add_network()
        self.elements = [ElementTable(self, e, i) for i, e in enumerate(spec.elements)]
        self.genes = tuple(self.builder.genes)
        self._check_orders()
        self._check_constants()
        self._fill()
        if checked:
            self._check_assignments()
            self._check_borders()

    def error(self, message: str) -> SpaceError:
        """Return an error that names the file."""
        return SpaceError(f"{self.spec.source}: {message}")

    # -- network-wide genes --

    def _add_network(self) -> None:
        self.network_digits: list[Digit] = []
        choices: list[list[tuple[int, Value]]] = []
        for gene in self.spec.network:
            indices = self._network_choices(gene.name)
            names_of_choices = tuple(gene.choices[i] for i in indices)
            kept, digit = self.builder.add(gene.name, indices, names_of_choices)
            self.network_digits.append(digit)
            choices.append([(i, gene.choices[i]) for i in kept])
        if math.prod(len(c) for c in choices) > MAX_ASSIGNMENTS:
            raise self.error(
                f"network: more than {MAX_ASSIGNMENTS} combinations of network-wide choices"
            )
        names = [gene.name for gene in self.spec.network]
        self.assignments = [
            dict(zip(names, (i for i, _ in combo), strict=True))
            for combo in itertools.product(*choices)
        ]

    def _network_choices(self, name: str) -> tuple[int, ...]:
        """Return the indices of the choices of a network-wide gene that the rules allow."""
        gene = next(g for g in self.spec.network if g.name == name)
        kept = list(range(len(gene.choices)))
        for rule in self.limits:
            kept = [
                i for i in kept if all(within(v, rule.values) for v in self._limited(rule, name, i))
            ]
            if not kept:
                raise self.error(
                    f"rule {rule.name!r} leaves nothing of {name}; no network can meet it"
                )
        return tuple(kept)

    def _limited(self, rule: Limit, name: str, i: int) -> Iterator[Value]:
        for index, element in enumerate(self.spec.elements):
            for key, param in element.params:
                if key == rule.param and isinstance(param, FromNetwork) and param.gene == name:
                    for j in range(max(element.depths)):
                        if rule.covers(element.name, j):
                            yield self._value(param, i, index, j)

    def _check_constants(self) -> None:
        """Refuse a rule that forbids a constant of a stage or of a kind of block."""
        for rule, element in itertools.product(self.limits, self.spec.elements):
            for j in range(max(element.depths)):
                if not rule.covers(element.name, j):
                    continue
                param = dict(element.params).get(rule.param)
                if isinstance(param, Const) and not within(param.value, rule.values):
                    where = f"{element.where}.{rule.param} = {shorten(param.value)}"
                    raise self.error(
                        f"rule {rule.name!r} does not allow {where}; no network can meet it"
                    )
                for template in element.templates:
                    value = template.settings(j == 0).get(rule.param, rule.values[0])
                    if not refs(value) and not within(value, rule.values):
                        where = f"blocks.{template.name}: {rule.param} = {shorten(value)}"
                        raise self.error(
                            f"rule {rule.name!r} does not allow {where} in {element.name}"
                        )

    def network_value(self, param: FromNetwork, g: int, index: int, j: int) -> Value:
        """Return the value of a network-wide gene at slot j of element ``index`` under assignment g."""
        return self._value(param, self.assignments[g][param.gene], index, j)

    def _value(self, param: FromNetwork, i: int, index: int, j: int) -> Value:
        gene = next(x for x in self.spec.network if x.name == param.gene)
        if gene.patterns:
            return gene.patterns[i][self._positions[index] + j]
        value = gene.choices[i]
        return value if param.base is None else make_divisible(param.base * value)

    @functools.cached_property
    def _positions(self) -> list[int]:
        """Number of stage blocks before each element; used only where depths are fixed."""
        counts = [e.depths[0] if e.where.startswith("stages") else 0 for e in self.spec.elements]
        return [0, *itertools.accumulate(counts)]

    def choices_of(
        self, g: int, parts: Sequence[tuple[int, int, tuple[int, ...]]]
    ) -> dict[str, Any]:
        """Return the choice of each gene of a network, by the gene's name, without absent genes."""
        numbers = list(zip(self.network_digits, self._digits_of_assignment(g), strict=True))
        for table, (d, s, combos) in zip(self.elements, parts, strict=True):
            numbers.append((table.depth_digit, d))
            numbers += zip(table.sig_digits, table.signatures[s].digits, strict=True)
            for digits, c in zip(table.slot_digits, combos, strict=False):
                numbers += zip(digits, split_number(c, [x.size for x in digits]), strict=True)
        return {
            self.genes[digit.column].name: self.genes[digit.column].choices[n]
            for digit, n in numbers
            if digit.column >= 0
        }

    def _digits_of_assignment(self, g: int) -> list[int]:
        return split_number(g, [digit.size for digit in self.network_digits])

    # -- checks --

    def _fill(self) -> None:
        incoming: dict[int, set[tuple[Total, int]]] = {
            g: {((1, 1), INPUT_CHANNELS)} for g in range(len(self.assignments))
        }
        for table in self.elements:
            table.build(incoming)
            incoming = {g: table.leaving(g) for g in incoming}
        last = self.elements[-1]
        block = last.block(0, 0, 0, 0, min(last.totals[0])[0])
        if len(place(block, (PROBE, PROBE, min(last.totals[0])[1])).out_shape) == 3:
            raise self.error(
                f"head: {block} does not end in classes; use a head, such as 'classifier'"
            )

    def _check_orders(self) -> None:
        """Refuse an order rule on a parameter that is not one number per element."""
        patterns = {gene.name for gene in self.spec.network if gene.patterns}
        for rule in self.orders:
            for element in self.spec.elements:
                param = dict(element.params).get(rule.param)
                if element.name not in rule.elements or param is None:
                    continue
                wandering = (isinstance(param, Choice) and param.per_block) or (
                    isinstance(param, FromNetwork) and param.gene in patterns
                )
                values = param.values if isinstance(param, Choice) else ()
                if isinstance(param, Const):
                    values = (param.value,)
                if isinstance(param, FromNetwork) and not wandering:
                    values = next(g for g in self.spec.network if g.name == param.gene).choices
                if wandering or any(
                    isinstance(v, bool) or not isinstance(v, int | float) for v in values
                ):
                    raise self.error(
                        f"rule {rule.name!r}: {element.where}.{rule.param} is not one number for the element"
                    )

    def check_idle_genes(self) -> None:
        """Refuse a stage-wide or per-block gene with two choices that always give the same network."""
        for table in self.elements:
            for position, digit in enumerate(table.sig_digits):
                self._check_digit(table, position, digit)
            for j, digits in enumerate(table.slot_digits):
                sizes = [d.size for d in digits]
                if not sizes or max(sizes) < 2:
                    continue
                labels = table.labels[:, :, j, : math.prod(sizes)].reshape(
                    *table.labels.shape[:2], *sizes
                )
                for axis, digit in enumerate(digits):
                    self._compare(digit, np.moveaxis(labels, 2 + axis, 0).reshape(digit.size, -1))

    def _check_digit(self, table: ElementTable, position: int, digit: Digit) -> None:
        if digit.size < 2:
            return
        sizes = [d.size for d in table.sig_digits]
        labels = table.labels.reshape(table.labels.shape[0], *sizes, *table.labels.shape[2:])
        self._compare(digit, np.moveaxis(labels, 1 + position, 0).reshape(digit.size, -1))

    def _compare(self, digit: Digit, labels: Ints) -> None:
        seen: dict[bytes, int] = {}
        for i, choice_labels in enumerate(labels):
            key = choice_labels.tobytes()
            if key in seen:
                gene = self.genes[digit.column]
                raise self.error(
                    f"gene {gene.name!r}: {shorten(gene.choices[seen[key]])} and "
                    f"{shorten(gene.choices[i])} always give the same network; leave one out"
                )
            seen[key] = i

    def _check_assignments(self) -> None:
        """Refuse network-wide assignments if two of them can give the same network."""
        groups = [list(range(len(self.assignments)))]
        for table in self.elements:
            for j in range(min(table.depths)):
                groups = [
                    part for group in groups for part in _split(table, group, j) if len(part) > 1
                ]
        if groups:
            a, b = (self._describe(g) for g in groups[0][:2])
            raise self.error(
                f"network: {a} and {b} can give the same network, which would have two spellings; "
                "make such a choice per stage, or leave one out"
            )

    def _describe(self, g: int) -> str:
        chosen = self.assignments[g]
        return ", ".join(
            f"{gene.name} = {gene.choices[chosen[gene.name]]!r}" for gene in self.spec.network
        )

    def _check_borders(self) -> None:
        """Refuse an element that can continue with a block that can also begin the next element."""
        for table, following in itertools.pairwise(self.elements):
            open_slots = list(range(min(table.depths), max(table.depths)))
            if not open_slots:
                continue
            assignments = range(len(self.assignments))
            going_on = set().union(*(table.later_blocks(g, open_slots) for g in assignments))
            beginning = set().union(*(following.first_blocks(g) for g in assignments))
            if going_on & beginning:
                block = min(going_on & beginning, key=str)
                raise self.error(
                    f"{following.element.where}: its first block can be {block}, with which "
                    f"{table.name} can also continue; one network could have two spellings. Give "
                    f"{following.name} a stride, or {table.name} a fixed depth"
                )


def _split(table: ElementTable, group: list[int], j: int) -> list[list[int]]:
    """Split assignments into groups that share labels at slot j."""
    group_of: dict[int, list[int]] = {}
    for g in group:
        labels = table.sets[g][j]
        joined = {id(part): part for x in labels if (part := group_of.get(x)) is not None}
        merged = [*(m for part in joined.values() for m in part), g]
        stale = (
            {x for x, part in group_of.items() if id(part) in joined} if len(joined) > 1 else set()
        )
        if len(joined) == 1:
            merged = next(iter(joined.values()))
            merged.append(g)
        group_of.update(dict.fromkeys(labels | stale, merged))
    return list({id(part): part for part in group_of.values()}.values())
