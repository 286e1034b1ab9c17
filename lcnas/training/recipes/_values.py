"""Conversion of field values from Python objects, JSON or text of a command line."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lcnas.errors import RecipeError, not_among, shorten

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def converted(value: object, kind: Any, what: str) -> Any:
    """Return a value, converted to the type of a hint; text is parsed, as from a command line.

    Args:
        value: the object, or text such as "3e-5", "true", "none", "0.08,1", "80x160".
        kind: bool, int, float, str, None, Literal, a tuple of these, or a union of these.
        what: name of the setting, for errors.

    Raises:
        RecipeError: the value does not have that type.
    """
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _one_of(value, kind, what)
    if origin is Literal:
        return _chosen(value, typing.get_args(kind), what)
    if origin is tuple:
        return _tuple(value, typing.get_args(kind), what)
    return _SCALARS[kind](value, what)


def described(kind: Any) -> str:
    """Return a type hint as text: "a whole number", "sgd or adamw".

    Examples:
        >>> described(int | None)
        'a whole number or none'
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(described(arg) for arg in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        inner = described(args[0]).removeprefix("a ")
        return f"{inner}s, joined by commas" if args[-1] is ... else f"{len(args)} {inner}s"
    return _WORDS[kind]


def _wrong(value: object, kind: Any, what: str) -> RecipeError:
    return RecipeError(f"{what}: {shorten(value)} is not {described(kind)}")


def _one_of(value: object, kind: Any, what: str) -> Any:
    for option in typing.get_args(kind):
        try:
            return converted(value, option, what)
        except RecipeError:
            continue
    raise _wrong(value, kind, what)


def _chosen(value: object, options: tuple[Any, ...], what: str) -> Any:
    if value not in options:
        raise RecipeError(not_among(what, value, options))
    return value


def _tuple(value: object, kinds: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part for part in re.split(r"[,x]", value.strip("()[] ")) if part.strip()]
    variadic = len(kinds) == 2 and kinds[1] is ...
    if not isinstance(value, list | tuple) or (not variadic and len(value) != len(kinds)):
        raise _wrong(value, tuple.__class_getitem__(kinds), what)
    each = [kinds[0]] * len(value) if variadic else kinds
    return tuple(converted(item, kind, what) for item, kind in zip(value, each, strict=True))


def _bool(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in (*_YES, *_NO):
        return value.lower() in _YES
    raise _wrong(value, bool, what)


def _int(value: object, what: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,15}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, int, what)
    return value


def _float(value: object, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(value, float, what)
    return number


def _str(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise _wrong(value, str, what)
    return value


def _none(value: object, what: str) -> None:
    if value is not None and not (isinstance(value, str) and value.lower() == "none"):
        raise _wrong(value, types.NoneType, what)


_SCALARS: dict[Any, Callable[[object, str], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    types.NoneType: _none,
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "none",
}


def hints(kind: type) -> Mapping[str, Any]:
    """Return name -> type of the fields of a dataclass, in order."""
    field_types = typing.get_type_hints(kind)
    return {field.name: field_types[field.name] for field in dataclasses.fields(kind)}
