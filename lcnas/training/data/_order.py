"""Orders and splits that depend on a seed alone.

They rest on the raw words of a bit generator, which NumPy keeps the same from version to version; what
``Generator.permutation`` makes of them it may change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError, shorten

Rows = NDArray[np.intp]

VALIDATION = 0.2  # share of each class of the training images that is kept for validation
TEST = 0.2  # share of each class that becomes the test set, where a set has none of its own
_MOST_WORDS = 1 << 64


def permutation(n: int, *entropy: int) -> Rows:
    """Return 0 to n - 1 in an order that ``entropy`` (whole numbers of at least 0) decides."""
    words = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(n)
    return np.argsort(np.atleast_1d(words), kind="stable").astype(np.intp)


def stratified(labels: NDArray[np.int32], share: float, *entropy: int) -> tuple[Rows, Rows]:
    """Split 0 to n - 1 in two, each class in the same proportion.

    A class of n images gives ``share * n`` to the second part, rounded, but at least one, and keeps at
    least one.

    Args:
        labels: (n,), the class of each row.
        share: of each class, what goes into the second part; between 0 and 1.
        entropy: whole numbers that decide which rows those are.

    Returns:
        The rows of the first and of the second part, each in rising order.
    """
    order = permutation(len(labels), *entropy)
    by_class = order[np.argsort(labels[order], kind="stable")]
    borders = np.flatnonzero(np.diff(labels[by_class])) + 1
    second = [rows[: _part(len(rows), share)] for rows in np.split(by_class, borders)]
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(second)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _part(n: int, share: float) -> int:
    return min(max(int(share * n + 0.5), 1), n - 1)


def batches(rows: Rows, batch: int, start: int = 0) -> Iterator[Rows]:
    """Yield full batches of rows from the batch ``start`` on; what is left over at the end is dropped."""
    for i in range(start, len(rows) // batch):
        yield rows[i * batch : (i + 1) * batch]


def padded(rows: Rows, batch: int) -> Iterator[tuple[Rows, NDArray[np.bool_]]]:
    """Yield batches of rows and which of them count: the last is filled up with its first row."""
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        fill = np.full(batch - len(part), part[0], dtype=np.intp)
        yield np.concatenate([part, fill]), np.arange(batch) < len(part)


def fingerprint(parts: Iterable[str | bytes | NDArray[np.generic]]) -> str:
    """Return 20 hex digits (80 bits of SHA-256) of texts, bytes and arrays, order included."""
    digest = hashlib.sha256()
    for part in parts:
        data: bytes | memoryview
        if isinstance(part, np.ndarray):
            head, data = f"{part.dtype.str}{part.shape}", np.ascontiguousarray(part).data.cast("B")
        else:
            # Names of files may hold bytes that are no UTF-8.
            data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            head = type(part).__name__
        digest.update(f"{head}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:20]


def check_whole(what: str, value: object, low: int, high: int = _MOST_WORDS) -> int:
    """Return a whole number from ``low`` to ``high``, or raise DataError."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= high:  # type: ignore[call-overload]
        allowed = f"at least {low}" if high == _MOST_WORDS else f"{low} to {high}"
        raise DataError(f"{what}: {shorten(value)} is not a whole number of {allowed}")
    return int(value)  # type: ignore[call-overload,no-any-return]
