"""Orders and splits that depend on a seed alone.

They use the raw words of a bit generator, which NumPy keeps stable between versions, unlike
``Generator.permutation``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError, shorten

Indices = NDArray[np.intp]

VALIDATION = 0.2  # share of each class of the training images that is held out for validation
TEST = 0.2  # share of each class that becomes the test split, if the data set has none
_MAX = 1 << 64


def permutation(n: int, *entropy: int) -> Indices:
    """Return a permutation of 0 to n - 1 with the seed ``entropy`` (integers of at least 0)."""
    words = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(n)
    return np.argsort(np.atleast_1d(words), kind="stable").astype(np.intp)


def stratified(labels: NDArray[np.int32], share: float, *entropy: int) -> tuple[Indices, Indices]:
    """Split the indices 0 to n - 1 in two parts, stratified by class.

    Of a class of n images, ``share * n`` are in the second part, rounded, but at least one in each part.

    Args:
        labels: (n,), the class of each image.
        share: share of each class in the second part, between 0 and 1.
        entropy: integers, the seed.

    Returns:
        The indices of the first and of the second part, each in ascending order.
    """
    order = permutation(len(labels), *entropy)
    by_class = order[np.argsort(labels[order], kind="stable")]
    borders = np.flatnonzero(np.diff(labels[by_class])) + 1
    second = [indices[: _part(len(indices), share)] for indices in np.split(by_class, borders)]
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(second)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _part(n: int, share: float) -> int:
    return min(max(int(share * n + 0.5), 1), n - 1)


def batches(indices: Indices, batch: int, start: int = 0) -> Iterator[Indices]:
    """Yield full batches of indices from the batch ``start`` on; a last partial batch is dropped."""
    for i in range(start, len(indices) // batch):
        yield indices[i * batch : (i + 1) * batch]


def padded(indices: Indices, batch: int) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """Yield batches of indices with masks; the last batch is padded with its first index."""
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        fill = np.full(batch - len(part), part[0], dtype=np.intp)
        yield np.concatenate([part, fill]), np.arange(batch) < len(part)


def fingerprint(parts: Iterable[str | bytes | NDArray[np.generic]]) -> str:
    """Return 20 hex digits (80 bits of SHA-256) of a sequence of texts, bytes and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        data: bytes | memoryview
        if isinstance(part, np.ndarray):
            head, data = f"{part.dtype.str}{part.shape}", np.ascontiguousarray(part).data.cast("B")
        else:
            # Names of files may hold bytes that are not UTF-8.
            data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            head = type(part).__name__
        digest.update(f"{head}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:20]


def check_whole(what: str, value: object, low: int, high: int = _MAX) -> int:
    """Return an integer from ``low`` to ``high``, or raise DataError."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or not low <= int(value) <= high:  # type: ignore[call-overload]
        allowed = f"at least {low}" if high == _MAX else f"{low} to {high}"
        raise DataError(f"{what}: {shorten(value)} is not a whole number of {allowed}")
    return int(value)  # type: ignore[call-overload,no-any-return]
