"""Checks of the values of a space file; errors name the file and the place."""

from __future__ import annotations

from typing import Any

from lcnas.errors import SpaceError, listing, not_among, shorten
from lcnas.spaces._spec import Value

MAX_CHOICES = 1000  # of one gene


class FieldReader:
    """Checks the types of values read from TOML."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, where: str, message: str) -> SpaceError:
        return SpaceError(f"{self.source}: {where}: {message}")

    def table(self, data: object, where: str) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self.fail(where, f"{shorten(data)} is not a table")
        return data

    def keys(
        self,
        data: dict[str, Any],
        where: str,
        allowed: tuple[str, ...],
        needed: tuple[str, ...] = (),
    ) -> None:
        for key in data:
            if key not in allowed:
                raise SpaceError(
                    f"{self.source}: {not_among(f'{where}: unknown key', key, allowed)}"
                )
        for key in needed:
            if key not in data:
                raise self.fail(where, f"key {key!r} is missing; its keys are {listing(allowed)}")

    def text(self, value: object, where: str) -> str:
        if not isinstance(value, str) or not value:
            raise self.fail(where, f"{shorten(value)} is not a text")
        return value

    def whole(self, value: object, where: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(where, f"{shorten(value)} is not a whole number")
        if not low <= value <= high:
            raise self.fail(where, f"{shorten(value)} is outside {low} to {high}")
        return value

    def listed(self, value: object, where: str, what: str = "a list") -> list[Any]:
        if not isinstance(value, list):
            raise self.fail(where, f"{shorten(value)} is not {what}")
        if not value:
            raise self.fail(where, "the list is empty; it needs at least one value")
        if len(value) > MAX_CHOICES:
            raise self.fail(where, f"{len(value)} values are more than {MAX_CHOICES}")
        return value

    def values(self, value: object, where: str) -> tuple[Value, ...]:
        """Return a list of distinct field values."""
        choices: list[Value] = []
        for item in self.listed(value, where):
            choice = self.value(item, where)
            if any(_same(choice, other) for other in choices):
                raise self.fail(
                    where, f"{shorten(item)} is listed twice; each choice is a different one"
                )
            choices.append(choice)
        return tuple(choices)

    def value(self, item: object, where: str) -> Value:
        if isinstance(item, bool | int | str):
            return item
        if isinstance(item, float) and item == item and abs(item) < 1e9:
            return item
        if isinstance(item, list) and len(item) <= 16:
            return tuple(self.value(inner, where) for inner in item)
        raise self.fail(
            where, f"{shorten(item)} is not a number, text, truth value or short list of them"
        )


def _same(a: Value, b: Value) -> bool:
    """Return whether two field values are the same choice: 1 and 1.0 are, 1 and true are not."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
