"""The base class of blocks, the checks of their fields, and the vocabulary of blocks by name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from lcnas.errors import BlockError, ShapeError, listing, not_among, shorten
from lcnas.layers import ACTIVATIONS, Layer, Pair, Shape, format_shape

LIMIT = (
    1 << 20
)  # of every width, kernel and stride, so that a typing error does not become a huge network


def _whole(value: object, low: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BlockError(f"{what}: {shorten(value)} is not a whole number")
    if not low <= value <= LIMIT:
        raise BlockError(f"{what}: {shorten(value)} is outside {low} to {LIMIT}")
    return value


@dataclass(frozen=True)
class Whole:
    """Check for a whole number of at least ``low``."""

    low: int = 0

    def __call__(self, value: object, what: str) -> int:
        return _whole(value, self.low, what)


@dataclass(frozen=True)
class OneOrPair:
    """Check for a number or a (vertical, horizontal) pair; a pair of equal numbers becomes the number."""

    low: int = 1

    def __call__(self, value: object, what: str) -> int | Pair:
        if not isinstance(value, list | tuple):
            return _whole(value, self.low, what)
        if len(value) != 2:
            raise BlockError(
                f"{what}: {shorten(value)} is neither a number nor a (vertical, horizontal) pair"
            )
        first, second = (_whole(v, self.low, what) for v in value)
        return first if first == second else (first, second)


@dataclass(frozen=True)
class WholeNumbers:
    """Check for a tuple of whole numbers, of any length, or empty or of ``length``."""

    low: int = 0
    length: int | None = None

    def __call__(self, value: object, what: str) -> tuple[int, ...]:
        if not isinstance(value, list | tuple):
            raise BlockError(f"{what}: {shorten(value)} is not a list of whole numbers")
        if self.length is not None and value and len(value) != self.length:
            raise BlockError(
                f"{what}: {shorten(value)} has {len(value)} numbers, not {self.length}"
            )
        return tuple(_whole(v, self.low, what) for v in value)


@dataclass(frozen=True)
class Between:
    """Check for a number of at least ``low`` and at most ``high``."""

    low: float
    high: float

    def __call__(self, value: object, what: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BlockError(f"{what}: {shorten(value)} is not a number")
        if not self.low <= value <= self.high:  # NaN is neither
            raise BlockError(f"{what}: {shorten(value)} is outside {self.low} to {self.high}")
        return float(value) + 0.0  # -0.0 becomes 0.0: equal values have one spelling


@dataclass(frozen=True)
class OneOf:
    """Check for one of a few names."""

    names: tuple[str, ...]

    def __call__(self, value: object, what: str) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise BlockError(not_among(what, value, self.names))
        return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise BlockError(f"{what}: {shorten(value)} is neither true nor false")
    return value


Width = Annotated[int, Whole(1)]  # channels
Count = Annotated[int, Whole(0)]  # a number of something, or 0 for none
Stride = Annotated[int | Pair, OneOrPair(1)]
Kernel = Annotated[int | Pair, OneOrPair(1)]
OptionalKernel = Annotated[int | Pair, OneOrPair(0)]  # 0: no convolution
Kernels = Annotated[tuple[int, ...], WholeNumbers(0)]  # one per branch; 0: batch norm alone
Widths = Annotated[tuple[int, ...], WholeNumbers(1)]
Sides = Annotated[
    tuple[int, ...], WholeNumbers(0, length=4)
]  # (top, bottom, left, right), or () for k // 2
Activation = Annotated[str, OneOf(ACTIVATIONS)]
Ratio = Annotated[float, Between(1 / 1024, 1024)]
Share = Annotated[float, Between(0.0, 0.99)]

Check = Callable[[object, str], Any]


_checks: dict[type, dict[str, Check]] = {}


def field_checks(cls: type[Block]) -> dict[str, Check]:
    """Return the check of each field of a block class, from the field's annotation."""
    if cls in _checks:
        return _checks[cls]
    hints = typing.get_type_hints(cls, include_extras=True)
    checks: dict[str, Check] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        annotated = [m for m in getattr(hint, "__metadata__", ()) if callable(m)]
        if annotated:
            checks[field.name] = annotated[0]
        elif hint is bool:
            checks[field.name] = _flag
        else:
            raise BlockError(
                f"{cls.__name__}.{field.name}: the annotation {hint} is none that lcnas.blocks knows; "
                "use bool or one of lcnas.blocks.FIELD_TYPES"
            )
    _checks[cls] = checks
    return checks


FIELD_TYPES = (
    "Width",
    "Count",
    "Stride",
    "Kernel",
    "OptionalKernel",
    "Kernels",
    "Widths",
    "Sides",
    "Activation",
    "Ratio",
    "Share",
)


@dataclass(frozen=True)
class Block:
    """Base of all blocks: a few settings, from which :meth:`lower` builds the layers.

    Subclasses are frozen dataclasses. Annotate their fields with the types of this module, and add them to
    the vocabulary with :func:`register`. The input's channels are not a field: they follow from
    the block before.
    """

    type: ClassVar[str] = ""  # the name in JSON and TOML, set by register()

    def __post_init__(self) -> None:
        cls = type_of(self)
        if not vars(cls).get("type"):  # an inherited name is another block's
            raise BlockError(
                f"{cls.__name__} is not in the vocabulary: put @blocks.register(...) above the class"
            )
        for name, check in field_checks(cls).items():
            value = check(getattr(self, name), f"{self.type}.{name}")
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise a BlockError if fields contradict each other; reset fields that have no effect."""

    def _forget(self, *names: str) -> None:
        """Reset fields that have no effect to their defaults, so that equal blocks have equal fields."""
        for field in dataclasses.fields(self):
            if field.name in names:
                object.__setattr__(self, field.name, field.default)

    def lower(self, in_shape: Shape) -> Layer:
        """Return the block's primitive layers for an input of ``in_shape``."""
        raise NotImplementedError(f"{type_of(self).__name__} has no lower()")

    def __repr__(self) -> str:
        return f"{self.type}({', '.join(f'{k}={v!r}' for k, v in settings(self).items())})"


def type_of(block: Block) -> type[Block]:
    """Return the class of a block (``Block.type`` is its name in files)."""
    return block.__class__


def settings(block: Block) -> dict[str, Any]:
    """Return the fields that differ from their defaults, and those without a default, in order."""
    out = {}
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            out[field.name] = value
    return out


# -- the vocabulary -------------------------------------------------------------------------------

_vocabulary: dict[str, type[Block]] = {}
B = TypeVar("B", bound=type[Block])


def register(name: str) -> Callable[[B], B]:
    """Return a decorator that adds a block class to the vocabulary, for JSON and TOML files.

    Examples:
        >>> from dataclasses import dataclass
        >>> from lcnas import layers
        >>> @register("doc_pointwise")
        ... @dataclass(frozen=True, repr=False)
        ... class Pointwise(Block):
        ...     width: Width
        ...
        ...     def lower(self, in_shape):
        ...         return layers.Conv(self.width)
        >>> Pointwise(8)
        doc_pointwise(width=8)
    """

    def enter(cls: B) -> B:
        known = _vocabulary.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise BlockError(
                f"block type {name!r} is taken by {known.__module__}.{known.__qualname__}"
            )
        cls.type = name
        field_checks(cls)  # so that a wrong annotation fails at once
        _vocabulary[name] = cls
        return cls

    return enter


def types() -> tuple[str, ...]:
    """Return the names of all blocks of the vocabulary, sorted."""
    return tuple(sorted(_vocabulary))


def find(name: object) -> type[Block]:
    """Return the block class of a name."""
    if not isinstance(name, str) or name not in _vocabulary:
        raise BlockError(not_among("block type", name, types()))
    return _vocabulary[name]


def field_names(cls: type[Block]) -> tuple[str, ...]:
    """Return the names of a block's fields, in order."""
    return tuple(field.name for field in dataclasses.fields(cls))


def create(cls: type[Block], fields: dict[str, Any]) -> Block:
    """Return ``cls(**fields)``; errors name unknown and missing fields."""
    names = field_names(cls)
    for key in fields:
        if key not in names:
            raise BlockError(not_among(f"{cls.type}: unknown key", key, names))
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.name not in fields
    ]
    if missing:
        raise BlockError(f"{cls.type}: missing {listing(missing)}; its keys are {listing(names)}")
    return cls(**fields)


def to_data(block: Block) -> dict[str, Any]:
    """Return a block as a dict for JSON: its type and every field that is not at its default."""
    data: dict[str, Any] = {"type": block.type}
    for key, value in settings(block).items():
        data[key] = list(value) if isinstance(value, tuple) else value
    return data


def from_data(data: object) -> Block:
    """Return the block of a dict from :func:`to_data`."""
    if not isinstance(data, dict):
        raise BlockError(f"a block is a table of its type and fields, got {shorten(data)}")
    if "type" not in data:
        raise BlockError(f"a block needs a type, one of {listing(types())}")
    return create(find(data["type"]), {k: v for k, v in data.items() if k != "type"})


# -- helpers that several blocks share -------------------------------------------------------------


def pair(value: int | Pair) -> Pair:
    """Return (v, v) for a number v, and a pair unchanged."""
    return value if isinstance(value, tuple) else (value, value)


def channels_of(block: Block, shape: Shape) -> int:
    """Return the channels of a (height, width, channels) input."""
    if len(shape) != 3:
        raise ShapeError(
            f"{block.type} needs a (height, width, channels) input, got {format_shape(shape)}"
        )
    return shape[2]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, at least ``divisor``, never below 90 % of the value.

    The channel rounding of MobileNetV2's code, which PP-LCNet and most later networks use.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
