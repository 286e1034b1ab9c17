"""Exact sampling by integer weights of any size, many draws at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_WORD = 64


def draw(weights: Sequence[int], n: int, rng: np.random.Generator) -> Ints:
    """Return n indices, each with probability exactly weights[i] / sum(weights).

    A random 64-bit word almost always decides; if a border between two choices lies inside the word's
    interval, more bits are drawn until none does. So weights of 10^20 and more are exact.
    """
    borders = list(itertools.accumulate(weights))
    total = borders.pop()
    if not borders:
        return np.zeros(n, dtype=np.int64)
    words = rng.integers(0, 1 << _WORD, size=n, dtype=np.uint64)
    # A border that rounds to 2**64 is never passed; it does not fit into the 64-bit array.
    floors = [(border << _WORD) // total for border in borders]
    thresholds = np.array([f for f in floors if f < 1 << _WORD], dtype=np.uint64)
    picked = np.searchsorted(thresholds, words, side="right").astype(np.int64)
    # Only a word that equals the floor of a border can have that border inside its interval.
    unsure = (
        (picked > 0) & (thresholds[picked - 1] == words)
        if len(thresholds)
        else np.zeros(n, dtype=bool)
    )
    for i in np.flatnonzero(unsure):
        picked[i] = _settle(int(words[i]), borders, total, rng)
    return picked


def _settle(word: int, borders: Sequence[int], total: int, rng: np.random.Generator) -> int:
    bits = _WORD
    while True:
        low = sum(border << bits <= word * total for border in borders)
        high = sum(border << bits < (word + 1) * total for border in borders)
        if low == high:
            return low
        word = (word << _WORD) | int(rng.integers(0, 1 << _WORD, dtype=np.uint64))
        bits += _WORD
