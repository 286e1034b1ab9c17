"""Reading the plain data of a table, which anybody may have edited: each fault is named with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lcnas.errors import TableError, nearest, not_among, shorten

HELD_OUT = ("held_out", "uniform")  # the sets of networks over which errors are told
_WRONG = ("n", "mape", "rmse", "within_5", "within_10", "tau", "tau_low", "tau_high")
_BAND = ("from_ms", "to_ms", "n", "mape")
_ALWAYS = ("fit", "noise_floor", "sum")  # of a set: what every table tells


# -- JSON ------------------------------------------------------------------------------------------


class _Repeated(dict[str, Any]):
    """An object of a file in which a key is there twice."""

    key = ""


def parsed(raw: bytes, source: str) -> object:
    """Return the data of a JSON file.

    Raises:
        TableError: no JSON, or an object that has a key twice, of which a reader would take one silently.
    """
    twice = False

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        out = dict(pairs)
        if len(out) == len(pairs):
            return out
        twice = True
        names = [name for name, _ in pairs]
        marked = _Repeated(out)
        marked.key = next(name for i, name in enumerate(names) if name in names[:i])
        return marked

    try:
        data: object = json.loads(raw, object_pairs_hook=made)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{source}: not JSON, perhaps cut off: {shorten(str(error))}") from None
    for place in _repeated(data, source) if twice else ():
        raise TableError(place)
    return data


def _repeated(data: object, where: str) -> Iterator[str]:
    """Yield what to say of each key that is there twice."""
    if isinstance(data, _Repeated):
        yield f"{where}: key {shorten(data.key)} is there twice"
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _repeated(
                value, f"{where}: {key}" if ": " not in where else f"{where}.{key}"
            )
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _repeated(value, f"{where}[{i}]")


# -- objects, lists and numbers --------------------------------------------------------------------


def obj(
    data: object, keys: tuple[str, ...] | None, what: str, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return an object, which has those keys and no others; None: any."""
    if not isinstance(data, dict):
        raise TableError(f"{what}: {shorten(data)} is not an object")
    if keys is not None:
        for key in data:
            if key not in keys:
                raise TableError(f"{what}: unknown key {shorten(key)}{nearest(key, keys)}")
        for key in keys:
            if key not in data and key not in optional:
                raise TableError(f"{what}: key {key!r} is missing")
    return data


def items(data: object, what: str) -> list[Any]:
    """Return a list."""
    if not isinstance(data, list):
        raise TableError(f"{what}: {shorten(data)} is not a list")
    return data


def whole(data: object, what: str, low: int | None = None) -> int:
    """Return a whole number, of at least ``low``."""
    if isinstance(data, bool) or not isinstance(data, int) or (low is not None and data < low):
        raise TableError(
            f"{what}: {shorten(data)} is not a whole number"
            + (f" of at least {low}" if low is not None else "")
        )
    return data


def number(data: object, what: str, zero: bool = False, signed: bool = False) -> float:
    """Return a finite number: above 0, or 0 as well, or of any sign."""
    if isinstance(data, bool) or not isinstance(data, int | float) or not abs(data) < 1e12:
        raise TableError(f"{what}: {shorten(data)} is not a finite number")
    if not signed and (data < 0 or (data == 0 and not zero)):
        raise TableError(f"{what}: {shorten(data)} is not above 0; a time cannot be")
    return float(data)


def between(data: object, what: str, low: float, high: float) -> float:
    """Return a number from low to high."""
    value = number(data, what, signed=True)
    if not low <= value <= high:
        raise TableError(f"{what}: {shorten(data)} is not from {low:g} to {high:g}")
    return value


def timed(item: dict[str, Any], what: str) -> tuple[float, float, float]:
    """Return a time and its interval, of which it has to be a part: (ms, low, high)."""
    ms, pair = number(item["ms"], f"{what}.ms"), items(item["interval"], f"{what}.interval")
    if len(pair) != 2:
        raise TableError(f"{what}.interval: {shorten(pair)} is not [low, high]")
    low, high = (number(end, f"{what}.interval") for end in pair)
    if low > high:
        raise TableError(f"{what}.interval: {shorten(pair)} is reversed")
    if not low <= ms <= high:
        raise TableError(f"{what}.ms: {shorten(item['ms'])} is not in its interval {shorten(pair)}")
    return ms, low, high


# -- what a table says of itself -------------------------------------------------------------------


def residuals(data: object, what: str) -> tuple[float, ...]:
    """Return the sorted relative residuals."""
    values = [number(r, what, signed=True) for r in items(data, what)]
    if values != sorted(values) or (values and values[0] <= -1):
        raise TableError(f"{what}: are not sorted numbers above -1")
    return tuple(values)


def method(data: object, what: str) -> dict[str, Any]:
    """Return how the table was fitted: the method's name, and its prior widths."""
    made = obj(data, None, what)
    if not isinstance(made.get("fit", ""), str):
        raise TableError(f"{what}.fit: {shorten(made['fit'])} is not a text")
    for key, value in obj(made.get("settings", {}), None, f"{what}.settings").items():
        number(value, f"{what}.settings.{key}", signed=True)
    return made


def errors(data: object, what: str) -> dict[str, Any]:
    """Return the errors of a table: for each space and set of networks those of each method."""
    made = obj(data, None, what)
    for key, roles in made.items():
        where = f"{what}[{shorten(key)}]"
        for role, found in obj(roles, None, where).items():
            if role not in HELD_OUT:
                raise TableError(not_among(where, role, HELD_OUT))
            _check_set(found, f"{where}.{role}")
    return made


def _check_set(data: object, what: str) -> None:
    """Check the errors over one set of networks."""
    found = obj(data, None, what)
    for key in (*_ALWAYS, "coverage_90", "bands"):
        if key not in found:
            raise TableError(f"{what}: key {key!r} is missing")
    between(found["coverage_90"], f"{what}.coverage_90", 0, 1)
    for i, band in enumerate(items(found["bands"], f"{what}.bands")):
        _check_numbers(band, _BAND, f"{what}.bands[{i}]")
    for name in found:
        if name not in ("coverage_90", "bands"):
            _check_numbers(found[name], _WRONG, f"{what}.{name}")


def _check_numbers(data: object, keys: tuple[str, ...], what: str) -> None:
    """Check an object of numbers: counts, shares, ranks, and what is not below 0."""
    item = obj(data, keys, what)
    for key in keys:
        where = f"{what}.{key}"
        if key == "n":
            whole(item[key], where, 1)
        elif key.startswith("within"):
            between(item[key], where, 0, 1)
        elif key.startswith("tau"):
            between(item[key], where, -1, 1)
        else:
            number(item[key], where, zero=True)
