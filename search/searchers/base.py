"""What a search strategy is, and what several of them use."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch
from lcnas.budgets import Budget, bands
from lcnas.errors import BudgetError, EmptyBandWarning, not_among, shorten
from search.errors import SearchError

Codes = NDArray[np.int64]  # (genes,) or (n, genes), canonical
Key = tuple[int, ...]  # codes of one network

BANDS = 5  # latency bands, equal parts of log cost
_CHUNK = 16  # networks of each band that are drawn at once: one draw costs nearly as much as many


class Strategy(Protocol):
    """Proposes networks; see :class:`search.searchers.Proposals` for who calls it and in what order.

    A strategy draws only from the generator that it is handed and from its own seed, so that the same calls
    give the same networks.
    """

    def ask(self, rng: np.random.Generator) -> Codes:
        """Return the codes (genes,) of a network in the budget."""

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:
        """Take note of a result; they come in the order of the numbers. None: it failed."""


def key_of(codes: Codes) -> Key:
    """Return the codes of one network as a tuple."""
    return tuple(codes.tolist())


def codes_of(budget: Budget, arch: Arch) -> Codes:
    """Return the codes (genes,) of a network."""
    codes: Codes = budget.space.encode(arch)[0]
    return codes


def initial_for(trials: int) -> int:
    """Return how many networks to draw at random at the beginning of a search of so many trials."""
    return min(max(trials // 8, 10), 100)


def mutated(budget: Budget, arch: Arch, rng: np.random.Generator) -> Arch:
    """Return a neighbour in the budget, or the network itself where it has none."""
    try:
        return budget.mutate(arch, rng)
    except BudgetError:
        return arch


def edges(budget: Budget, bands: int) -> NDArray[np.float64]:
    """Return the borders of latency bands, ticks; two where there can be but one band."""
    if budget.min_cost <= 0 or budget.min_cost == budget.max_cost:
        return np.array([budget.min_cost, budget.max_cost], dtype=np.float64)
    return budget.band_edges(bands)


class BandedDraws:
    """Networks drawn uniformly within latency bands, one of each band in turn; the same for the same seed."""

    def __init__(self, budget: Budget, seed: int, bands: int = BANDS) -> None:
        self.budget = budget
        self.seed = seed
        self.edges = edges(budget, bands)
        self._chunks = 0
        self._left: Iterator[Codes] = iter(())

    def next(self) -> Codes:
        """Return the codes (genes,) of the next one."""
        codes = next(self._left, None)
        if codes is None:
            self._left = iter(self._chunk())
            codes = next(self._left)
        return codes

    def _chunk(self) -> Codes:
        rng = np.random.default_rng([self.seed, self._chunks, 1])
        self._chunks += 1
        codes = draw(self.budget, _CHUNK * (len(self.edges) - 1), rng, len(self.edges) - 1)
        band = self.band_of(codes)
        turn = np.empty(len(codes), dtype=np.int64)  # how many of its band come before
        for b in np.unique(band):
            mine = np.flatnonzero(band == b)
            turn[mine] = np.arange(len(mine))
        return codes[np.lexsort((rng.random(len(codes)), turn))]

    def band_of(self, codes: Codes) -> NDArray[np.intp]:
        """Return the number of the band of each row of codes (n, genes)."""
        return bands.band_of(self.edges, self.budget.costs(codes))


def draw(budget: Budget, n: int, rng: np.random.Generator, bands: int = 1) -> Codes:
    """Return codes (n, genes) drawn in latency bands; empty bands are no news in the middle of a search."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyBandWarning)
        return budget.sample_codes(n, rng, bands=bands)


def checked_integer(what: str, given: object, least: int) -> int:
    """Return a whole number of at least so much.

    Raises:
        SearchError: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
        raise SearchError(f"{what}: {shorten(given)} is not a whole number of at least {least}")
    return int(given)


def checked_share(what: str, given: object) -> float:
    """Return a number from 0 to 1.

    Raises:
        SearchError: it is none.
    """
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 <= given <= 1:  # type: ignore[operator]
        raise SearchError(f"{what}: {shorten(given)} is not a number from 0 to 1")
    return float(given)  # type: ignore[arg-type]


def checked_amount(what: str, given: object) -> float:
    """Return a finite number of at least 0.

    Raises:
        SearchError: it is none.
    """
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 <= given < math.inf:  # type: ignore[operator]
        raise SearchError(f"{what}: {shorten(given)} is not a number of at least 0")
    return float(given)  # type: ignore[arg-type]


def check_options(name: str, factory: Callable[..., Strategy], given: Mapping[str, Any]) -> None:
    """Refuse options that a strategy does not have."""
    parameters = inspect.signature(factory).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "trials"]
    for option in given:
        if option not in known:
            raise SearchError(not_among(f"searcher {name}: option", option, known))
