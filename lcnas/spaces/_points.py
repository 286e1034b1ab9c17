"""Networks of a space as numbers: the canonical point of one, and columns of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Part(NamedTuple):
    """One element of a network: depth index, signature, and one combo per block."""

    d: int
    s: int
    combos: tuple[int, ...]


class Point(NamedTuple):
    """A network in canonical form: resolution, network-wide assignment, and elements."""

    r: int
    g: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Columns:
    """Decoded columns of an array of codes, one row per network."""

    r: Ints  # (n,)
    g: Ints  # (n,)
    d: tuple[Ints, ...]  # for each element (n,)
    s: tuple[Ints, ...]  # for each element (n,)
    c: tuple[Ints, ...]  # for each element (n, slots); 0 at absent blocks
