"""Whether one network is better than another: paired intervals over seeds and test images.

Both networks are trained with the same seeds and tested on the same images, so the difference of their
hits, d[s, p] in {-1, 0, 1}, is a table of seeds by images. Its mean differs from the truth for two
reasons: other seeds would have given other networks, and other images other hits. In the two-way
random-effects model

    d[s, p] = difference + seed[s] + image[p] + rest[s, p]

the variance of the mean is (MS_s + MS_p - MS_rest) / (S P), with the mean squares of the table's analysis of
variance (Searle, Casella and McCulloch, "Variance Components", 1992, chapter 4). The part of the seeds, MS_s,
rests on S - 1 degrees of freedom, one to four in practice; that of the images on hundreds. So each part
gets a quantile of its own, t with S - 1 for the seeds and with P - 1 for the images, and the squares add
up (Banerjee, Sankhya 22, 1960, who shows for such sums that the interval covers at least what it says). The
pigeonhole bootstrap (Owen, Ann. Appl. Stat. 1, 2007) resamples rows and columns of such a table; two or
three rows are too few to resample, so it is not used.
tests/search/test_comparison.py simulates how often the interval holds the truth.

Where few images or none differ, a normal interval is too sure of itself. Two synthetic images, half of
one in favour of each network, widen it (Agresti and Min, Stat. Med. 24, 2005); with a thousand images
they change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas.errors import shorten
from search.errors import SearchError

LEVEL = 0.95
_HALF = math.sqrt(0.5)  # its square is half an image that differs


@dataclass(frozen=True)
class Comparison:
    """By how much a first network is better than a second one, in shares of 1."""

    difference: float  # mean accuracy of the first less that of the second
    low: float  # interval; -1 to 1 where nothing is known of the spread
    high: float
    seeds: int
    images: int  # 0: not known, accuracies alone were there
    covers: (
        str  # "seeds and images", "images" or "seeds": what the interval accounts for; "": nothing
    )

    @property
    def better(self) -> bool:
        """Whether the first is better: the whole interval lies above 0."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the first is worse: the whole interval lies below 0."""
        return self.high < 0


def compare(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Comparison:
    """Return the difference of two networks' accuracies by their hits.

    Args:
        first: bools (seeds, images): which images the network got right, a row a seed.
        second: the same of the other network, with the same seeds and images in the same order.
        level: of the interval.

    Raises:
        SearchError: no such arrays, or of different shapes.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> ours, theirs = rng.random((3, 500)) < 0.8, rng.random((3, 500)) < 0.6
        >>> result = compare(ours, theirs)
        >>> result.better, round(result.difference, 3)
        (True, 0.163)
    """
    a, b = _hits(first, "first"), _hits(second, "second")
    if a.shape != b.shape:
        raise SearchError(
            f"comparison: hits of {a.shape} and {b.shape} (seeds, images) are not paired"
        )
    d = a.astype(np.float64) - b
    seeds, images = d.shape
    half = _half_width(d, level)
    mean = float(d.mean())
    covers = "images" if seeds == 1 else "seeds and images"
    return Comparison(mean, max(mean - half, -1.0), min(mean + half, 1.0), seeds, images, covers)


def _hits(given: ArrayLike, which: str) -> NDArray[np.bool_]:
    hits: NDArray[Any] = np.asarray(given)
    if hits.dtype != np.bool_ or hits.ndim != 2 or 0 in hits.shape:
        raise SearchError(
            f"comparison: {which}: {hits.dtype} of shape {hits.shape} are not bools of (seeds, images)"
        )
    return hits


def _half_width(d: NDArray[np.float64], level: float) -> float:
    """Return half the interval's width for differences of shape (seeds, images)."""
    seeds = len(d)
    pseudo = np.tile([_HALF, -_HALF], (seeds, 1))
    d = np.concatenate([d, pseudo], axis=1)
    images = d.shape[1]
    by_image = d.mean(axis=0)
    ms_images = seeds * float(by_image.var(ddof=1))
    z = _quantile(level, images - 1)
    from_images = z**2 * ms_images  # the least there is: the seeds add to it
    if seeds == 1:
        return math.sqrt(from_images / images)
    by_seed = d.mean(axis=1, keepdims=True)
    ms_seeds = images * float(by_seed.var(ddof=1))
    rest = d - by_seed - by_image + d.mean()
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    t = _quantile(level, seeds - 1)
    both = t**2 * ms_seeds + z**2 * max(ms_images - ms_rest, 0.0)
    return math.sqrt(max(both, from_images) / (seeds * images))


def compare_accuracies(
    first: Sequence[float], second: Sequence[float], level: float = LEVEL
) -> Comparison:
    """Return the difference of two networks' accuracies where their hits are not there: paired t over seeds.

    The interval does not cover that other images would give other accuracies. One seed, or differences
    that are all equal (as they can be by chance, with few images), say nothing about the spread: then it is
    -1 to 1.

    Args:
        first: accuracy of each seed, shares of 1.
        second: the same of the other network, with the same seeds in the same order.
        level: of the interval.

    Raises:
        SearchError: none, not as many, or no shares of 1.

    Examples:
        >>> result = compare_accuracies([0.71, 0.72, 0.73], [0.65, 0.67, 0.66])
        >>> result.better, result.covers
        (True, 'seeds')
    """
    if not first or len(first) != len(second):
        raise SearchError(
            f"comparison: {len(first)} and {len(second)} accuracies are not paired seeds"
        )
    for value in (*first, *second):
        if not 0 <= value <= 1:
            raise SearchError(f"comparison: {shorten(value)} is no accuracy of 0 to 1")
    d = np.array(first, np.float64) - np.array(second, np.float64)
    mean = float(d.mean())
    if len(d) == 1 or np.ptp(d) < 1e-12:
        return Comparison(mean, -1.0, 1.0, len(d), 0, "")
    half = _quantile(level, len(d) - 1) * float(d.std(ddof=1)) / math.sqrt(len(d))
    return Comparison(mean, max(mean - half, -1.0), min(mean + half, 1.0), len(d), 0, "seeds")


def _quantile(level: float, freedom: int) -> float:
    """Return how many standard errors to each side a two-sided t interval of that level reaches."""
    from scipy import special

    return float(special.stdtrit(freedom, (1 + level) / 2))
