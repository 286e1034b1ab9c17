"""The content of a space file: genes, stages, rules."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lcnas import blocks as vocabulary
from lcnas.arch import Resolution
from lcnas.blocks import Block
from lcnas.errors import LcnasError, listing, not_among

Value = Any  # of a block field: a number, text, truth value, or a list of whole numbers


@dataclass(frozen=True)
class Const:
    """A parameter that does not vary."""

    value: Value


@dataclass(frozen=True)
class Choice:
    """A parameter with its own gene, one for the stage or one per block."""

    values: tuple[Value, ...]
    per_block: bool = False


@dataclass(frozen=True)
class FromNetwork:
    """A parameter that follows a network-wide gene; with ``base``: base x value, rounded to eights."""

    gene: str
    base: int | None = None


Param = Const | Choice | FromNetwork


@dataclass(frozen=True)
class NetworkGene:
    """A network-wide gene: its choices, or named patterns with a value for each block."""

    name: str
    choices: tuple[Value, ...]  # of a pattern gene: the names
    patterns: tuple[tuple[Value, ...], ...] = ()  # for each choice, one value per block


@dataclass(frozen=True)
class Template:
    """A block with some of its fields set; the text "$kernel" stands for the stage's parameter "kernel"."""

    name: str
    cls: type[Block]
    fields: tuple[tuple[str, Value], ...] = ()
    first: tuple[tuple[str, Value], ...] = ()  # for a stage's first block, override ``fields``
    rest: tuple[tuple[str, Value], ...] = ()  # for its other blocks, override ``fields``

    def describe(self) -> str:
        """Return the template in words."""
        parts = [self.cls.type, *(_worded(f) for f in self.fields)]
        for place, fields in (("first block", self.first), ("other blocks", self.rest)):
            if fields:
                parts.append(f"({place}: {' '.join(_worded(f) for f in fields)})")
        return " ".join(parts)

    def uses(self, param: str, is_first: bool) -> bool:
        """Return whether a stage's parameter affects the template's block at a place."""
        settings = self.settings(is_first)
        if any(param in refs(value) for value in settings.values()):
            return True
        return param in vocabulary.field_names(self.cls) and param not in settings

    def settings(self, is_first: bool) -> dict[str, Value]:
        """Return the fields that the template sets at a place."""
        return dict(self.fields) | dict(self.first if is_first else self.rest)


def _worded(item: tuple[str, Value]) -> str:
    key, value = item
    if isinstance(value, bool):
        return key if value else f"no {key}"
    return (
        f"{key} {','.join(str(v) for v in value)}" if isinstance(value, tuple) else f"{key} {value}"
    )


@dataclass(frozen=True)
class Element:
    """Stem, stage or head: consecutive blocks of one kind, the first with a stride."""

    name: str
    where: str  # the key in the file, for errors
    depths: tuple[int, ...]
    templates: tuple[Template, ...]
    stride: Value = None  # of the first block; None: the block's default, or from total_stride
    total_stride: tuple[int, int] | None = None  # from the image to the element's end
    params: tuple[tuple[str, Param], ...] = ()


@dataclass(frozen=True)
class Limit:
    """A rule: a parameter has only some values at some places."""

    name: str
    param: str
    values: tuple[Value, ...]
    places: tuple[str, ...]  # "stage4", "stage4.first" or "stage4.rest"

    def describe(self) -> str:
        """Return the rule in words."""
        values = listing(str(v).lower() if isinstance(v, bool) else v for v in self.values)
        whole = [p.removesuffix(".first") for p in self.places if p.endswith(".first")]
        both = [name for name in whole if f"{name}.rest" in self.places]
        places = [p for p in self.places if p.partition(".")[0] not in both] + both
        ordered = sorted(
            places,
            key=lambda p: (
                self.places.index(p) if p in self.places else self.places.index(f"{p}.first")
            ),
        )
        return f"{self.param} is {values} in {', '.join(ordered)}"

    def covers(self, element: str, slot: int) -> bool:
        """Return whether the rule applies to block ``slot`` (0 is the first) of an element."""
        part = f"{element}.first" if slot == 0 else f"{element}.rest"
        return element in self.places or part in self.places


@dataclass(frozen=True)
class NonDecreasing:
    """A rule: a stage-wide parameter does not decrease from one element to the next."""

    name: str
    param: str
    elements: tuple[str, ...]

    def describe(self) -> str:
        """Return the rule in words."""
        return f"{self.param} does not fall from one to the next of {', '.join(self.elements)}"


Rule = Limit | NonDecreasing


@dataclass(frozen=True, repr=False)
class SpaceSpec:
    """The contents of a space file."""

    name: str
    source: str  # the file, for errors
    summary: str
    resolutions: tuple[Resolution, ...]
    network: tuple[NetworkGene, ...]
    elements: tuple[Element, ...]
    rules: tuple[Rule, ...] = field(default=())

    def __repr__(self) -> str:
        # Journals on disk are keyed by a hash of it (lcnas.latency.profile): the class's old name stays.
        values = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self))
        return f"Spec({', '.join(values)})"


def refs(value: Value) -> set[str]:
    """Return the names of the parameters that a template's value refers to."""
    if isinstance(value, tuple):
        return {ref for item in value for ref in refs(item)}
    return {value[1:]} if isinstance(value, str) and value.startswith("$") else set()


class MissingParamError(LcnasError):
    """A template refers to a parameter that its stage does not have."""


def resolve(value: Value, params: dict[str, Value], where: str) -> Value:
    """Return a template's value with each "$name" replaced by the stage's parameter."""
    if isinstance(value, tuple):
        return tuple(resolve(item, params, where) for item in value)
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in params:
            raise MissingParamError(not_among(f"{where}: {value}", value[1:], params))
        return params[value[1:]]
    return value
