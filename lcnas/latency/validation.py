"""Validation of a table's JSON data, which may have been edited: each error names its place in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lcnas.errors import TableError, nearest, not_among, shorten

HELD_OUT = ("held_out", "uniform")  # the sets of networks whose errors a table holds
_ERROR_KEYS = ("n", "mape", "rmse", "within_5", "within_10", "tau", "tau_low", "tau_high")
_BAND_KEYS = ("from_ms", "to_ms", "n", "mape")
_REQUIRED = ("fit", "noise_floor", "sum")  # keys of every set


# -- JSON ------------------------------------------------------------------------------------------


class _Repeated(dict[str, Any]):
    """An object of a file in which a key occurs twice."""

    key = ""


def parse_json(raw: bytes, source: str) -> object:
    """Return the data of a JSON file.

    Raises:
        TableError: the text is not JSON, or an object has a key twice, of which json would drop one silently.
    """
    has_repeated = False

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_repeated
        out = dict(pairs)
        if len(out) == len(pairs):
            return out
        has_repeated = True
        names = [name for name, _ in pairs]
        marked = _Repeated(out)
        marked.key = next(name for i, name in enumerate(names) if name in names[:i])
        return marked

    try:
        data: object = json.loads(raw, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{source}: not JSON, perhaps cut off: {shorten(str(error))}") from None
    for message in _repeated(data, source) if has_repeated else ():
        raise TableError(message)
    return data


def _repeated(data: object, where: str) -> Iterator[str]:
    """Yield a message for each key that occurs twice."""
    if isinstance(data, _Repeated):
        yield f"{where}: key {shorten(data.key)} occurs twice"
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _repeated(
                value, f"{where}: {key}" if ": " not in where else f"{where}.{key}"
            )
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _repeated(value, f"{where}[{i}]")


# -- objects, lists and numbers --------------------------------------------------------------------


def json_object(
    data: object, keys: tuple[str, ...] | None, what: str, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a JSON object that has those keys and no others; None: any keys."""
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


def json_list(data: object, what: str) -> list[Any]:
    """Return a JSON list."""
    if not isinstance(data, list):
        raise TableError(f"{what}: {shorten(data)} is not a list")
    return data


def integer(data: object, what: str, low: int | None = None) -> int:
    """Return an integer, of at least ``low``."""
    if isinstance(data, bool) or not isinstance(data, int) or (low is not None and data < low):
        raise TableError(
            f"{what}: {shorten(data)} is not a whole number"
            + (f" of at least {low}" if low is not None else "")
        )
    return data


def number(data: object, what: str, zero: bool = False, signed: bool = False) -> float:
    """Return a finite number: above 0; with ``zero`` 0 as well, with ``signed`` of any sign."""
    if isinstance(data, bool) or not isinstance(data, int | float) or not abs(data) < 1e12:
        raise TableError(f"{what}: {shorten(data)} is not a finite number")
    if not signed and (data < 0 or (data == 0 and not zero)):
        raise TableError(f"{what}: {shorten(data)} is not above 0, as a time has to be")
    return float(data)


def number_between(data: object, what: str, low: float, high: float) -> float:
    """Return a number from low to high."""
    value = number(data, what, signed=True)
    if not low <= value <= high:
        raise TableError(f"{what}: {shorten(data)} is not from {low:g} to {high:g}")
    return value


def time_and_interval(item: dict[str, Any], what: str) -> tuple[float, float, float]:
    """Return a time and its interval, in which the time has to lie: (ms, low, high)."""
    ms, pair = number(item["ms"], f"{what}.ms"), json_list(item["interval"], f"{what}.interval")
    if len(pair) != 2:
        raise TableError(f"{what}.interval: {shorten(pair)} is not [low, high]")
    low, high = (number(end, f"{what}.interval") for end in pair)
    if low > high:
        raise TableError(f"{what}.interval: {shorten(pair)} is reversed")
    if not low <= ms <= high:
        raise TableError(f"{what}.ms: {shorten(item['ms'])} is not in its interval {shorten(pair)}")
    return ms, low, high


# -- fit and errors of a table ---------------------------------------------------------------------


def residuals(data: object, what: str) -> tuple[float, ...]:
    """Return the sorted relative residuals."""
    values = [number(r, what, signed=True) for r in json_list(data, what)]
    if values != sorted(values) or (values and values[0] <= -1):
        raise TableError(f"{what}: are not sorted numbers above -1")
    return tuple(values)


def fit_method(data: object, what: str) -> dict[str, Any]:
    """Return how the table was fitted: the method's name, and its prior widths."""
    method = json_object(data, None, what)
    if not isinstance(method.get("fit", ""), str):
        raise TableError(f"{what}.fit: {shorten(method['fit'])} is not a text")
    for key, value in json_object(method.get("settings", {}), None, f"{what}.settings").items():
        number(value, f"{what}.settings.{key}", signed=True)
    return method


def errors(data: object, what: str) -> dict[str, Any]:
    """Return the errors of a table: for each space and set of networks those of each method."""
    spaces = json_object(data, None, what)
    for key, roles in spaces.items():
        where = f"{what}[{shorten(key)}]"
        for role, methods in json_object(roles, None, where).items():
            if role not in HELD_OUT:
                raise TableError(not_among(where, role, HELD_OUT))
            _check_set(methods, f"{where}.{role}")
    return spaces


def _check_set(data: object, what: str) -> None:
    """Check the errors over one set of networks."""
    methods = json_object(data, None, what)
    for key in (*_REQUIRED, "coverage_90", "bands"):
        if key not in methods:
            raise TableError(f"{what}: key {key!r} is missing")
    number_between(methods["coverage_90"], f"{what}.coverage_90", 0, 1)
    for i, band in enumerate(json_list(methods["bands"], f"{what}.bands")):
        _check_numbers(band, _BAND_KEYS, f"{what}.bands[{i}]")
    for name in methods:
        if name not in ("coverage_90", "bands"):
            _check_numbers(methods[name], _ERROR_KEYS, f"{what}.{name}")


def _check_numbers(data: object, keys: tuple[str, ...], what: str) -> None:
    """Check an object of numbers: counts, shares, rank correlations, and others of at least 0."""
    item = json_object(data, keys, what)
    for key in keys:
        where = f"{what}.{key}"
        if key == "n":
            integer(item[key], where, 1)
        elif key.startswith("within"):
            number_between(item[key], where, 0, 1)
        elif key.startswith("tau"):
            number_between(item[key], where, -1, 1)
        else:
            number(item[key], where, zero=True)
