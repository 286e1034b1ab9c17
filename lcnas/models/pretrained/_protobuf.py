"""The part of protocol buffers' wire format that Paddle's files use."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST = 10  # bytes of a varint


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of each field of a message: an int for a varint, otherwise bytes.

    Raises:
        ValueError: not a message.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the wire type {kind}")
        if at + length > len(data):
            raise ValueError("the message ends in the middle of a field")
        yield number, data[at : at + length]
        at += length


def whole_numbers(value: int | bytes) -> list[int]:
    """Return the signed numbers of a repeated field, single or packed."""
    if isinstance(value, int):
        return [signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(signed(number))
    return numbers


def signed(value: int) -> int:
    """Return the signed number of an unsigned 64-bit varint."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = 0
    for i in range(_LONGEST):
        if at + i >= len(data):
            raise ValueError("the message ends in the middle of a number")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if not data[at + i] & 0x80:
            return value & ((1 << 64) - 1), at + i + 1
    raise ValueError("a number of more than 64 bits")
