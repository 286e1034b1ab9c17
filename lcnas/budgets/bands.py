"""Bands: equal parts of the logarithm of a cost, such as latency bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def edges(low: float, high: float, bands: int) -> NDArray[np.float64]:
    """Return the edges of bands between two costs above 0, rising, (bands + 1,).

    Examples:
        >>> edges(1.0, 4.0, 2).tolist()
        [1.0, 2.0, 4.0]
    """
    return np.geomspace(low, high, bands + 1)


def band_of(edges: ArrayLike, cost: ArrayLike) -> NDArray[np.intp]:
    """Return the number of the band that each cost lies in; one on an inner edge belongs to the band above.

    Costs below the first edge count to the first band, those above the last edge to the last band.

    Args:
        edges: (bands + 1,), rising.
        cost: of any shape.

    Examples:
        >>> band_of([1.0, 2.0, 4.0], [1.5, 2.0, 9.0]).tolist()
        [0, 1, 1]
    """
    inner: NDArray[Any] = np.asarray(edges)[1:-1]
    return np.searchsorted(inner, cost, side="right")
