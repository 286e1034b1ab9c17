"""Budget: the networks of a space with a cost in a window."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas.arch import Arch
from lcnas.budgets._coarse import Coarse
from lcnas.budgets._passes import Tables, TooFineError
from lcnas.budgets._scores import EdgeScores, whole_scores
from lcnas.budgets._table import DENSE
from lcnas.budgets._terms import Terms
from lcnas.budgets._walk import Sampler, Window, best_codes
from lcnas.budgets.bands import edges as edges_of
from lcnas.errors import BudgetError, EmptyBandWarning, shorten
from lcnas.spaces import Space

Ints = NDArray[np.int64]

_TRIES = 100  # random children before the fallback
_WITNESSES = 1024  # random networks tried before a search for one in the window


def in_ticks(ticks: int) -> str:
    """Return a cost as text."""
    return f"{ticks:,} ticks"


class Budget:
    """The networks of a space with a cost from ``min_cost`` to ``max_cost``, inclusive.

    Results are exact: dynamic programs over the chains of the space, in the terms' integer ticks.
    If ticks are so fine that nearly every network has a different cost (MACs of a large space), exact
    tables can be too large. Then :meth:`count` raises and :meth:`count_bounds` returns an interval, samples
    are still inside and uniform, and methods without an exact result raise :class:`BudgetError`.

    Memory is bounded for every space: tables at the borders of stages take at most about 128 MB and those
    inside them 64 MB more, tables of one stage 256 MB while they are built; at most 2 million chains
    are listed. Ticks of a microsecond take 10 to 90 MB (results/budgets-speed.json).

    Args:
        space: the networks.
        terms: their costs.
        max_cost: ticks, or ``math.inf``.
        min_cost: ticks, or ``-math.inf``.
        show: function from ticks to text, for messages.

    Raises:
        BudgetError: no network meets the budget; names the lowest and the highest cost in the space.

    Examples:
        >>> from lcnas import budgets, spaces
        >>> budget = budgets.macs(spaces.load("pplcnet"), max_macs=100e6)
        >>> budget.count()
        290
        >>> budget.cost(budget.fastest())
        14293312
    """

    def __init__(
        self,
        space: Space,
        terms: Terms,
        max_cost: float,
        min_cost: float = 0,
        *,
        show: Callable[[int], str] = in_ticks,
    ) -> None:
        self.space = space
        self.terms = terms
        self.show = show
        self._graph, self._bounds = terms.graph(space)
        self.lowest = self._cost_of(self._bounds.least[0])  # ticks, of all networks of the space
        self.highest = self._cost_of(self._bounds.most[0])
        ends = (self.lowest, self.highest)
        self.min_cost = max(_whole_ticks("min_cost", min_cost, math.ceil, ends), self.lowest)
        self.max_cost = min(_whole_ticks("max_cost", max_cost, math.floor, ends), self.highest)
        self._limits = (min_cost, max_cost)
        self._window = self._window_of(self.min_cost, self.max_cost)
        self._check()

    def __repr__(self) -> str:
        return (
            f"Budget({self.space.name}, {self.show(self.min_cost)} to {self.show(self.max_cost)})"
        )

    # -- costs and windows -------------------------------------------------------------------------

    def _cost_of(self, ticks: int) -> int:
        return self.terms.base + self._graph.unit * ticks

    def _window_of(self, low: int, high: int) -> Window:
        """Return a window in units of the graph, without the base."""
        unit, base = self._graph.unit, self.terms.base
        return -(-(low - base) // unit), (high - base) // unit

    def _check(self) -> None:
        """Raise BudgetError if no network meets the budget."""
        low, high = self.min_cost, self.max_cost
        if low <= high:
            if self.lowest >= low or self.highest <= high or self._has_witness():
                return
            if self.count_bounds()[1]:
                return
        raise BudgetError(
            f"budget: no network of {self.space.name} costs {self._window_text()}; "
            f"the lowest cost is {self.show(self.lowest)}, the highest {self.show(self.highest)}"
        )

    def _window_text(self) -> str:
        """Return the window as text, for messages."""
        low, high = (self.show(int(x)) if math.isfinite(x) else "any" for x in self._limits)
        if self._limits[0] <= self.lowest:
            return f"at most {high}"
        return f"at least {low}" if self._limits[1] >= self.highest else f"from {low} to {high}"

    def _has_witness(self) -> bool:
        codes = self.space.sample_codes(_WITNESSES, np.random.default_rng(0))
        return bool(self.inside(codes).any())

    def costs(self, codes: ArrayLike) -> Ints:
        """Return the costs (n,) of codes (n, genes), in ticks."""
        return self.terms.cost(self.space, codes)

    def inside(self, codes: ArrayLike) -> NDArray[np.bool_]:
        """Return which rows of codes (n, genes) meet the budget."""
        costs = self.costs(codes)
        out: NDArray[np.bool_] = (costs >= self.min_cost) & (costs <= self.max_cost)
        return out

    def cost(self, arch: Arch) -> int:
        """Return the cost of a network of the space, in ticks."""
        return int(self.costs(self.space.encode(arch))[0])

    def __contains__(self, arch: object) -> bool:
        if not isinstance(arch, Arch) or arch not in self.space:
            return False
        return self.min_cost <= self.cost(arch) <= self.max_cost

    # -- counting and drawing ----------------------------------------------------------------------

    @functools.cached_property
    def _sampler(self) -> Sampler | None:
        """Exact tables, or None if ticks are too fine."""
        try:
            tables = Tables(self._graph, self._bounds, self._window)
        except TooFineError:
            return None
        return Sampler(tables, len(self.space.genes))

    @functools.cached_property
    def _coarse(self) -> Coarse:
        return Coarse.of(self._graph, self._bounds, self._window, len(self.space.genes))

    def count(self) -> int:
        """Return the number of distinct networks in the budget, exactly.

        Raises:
            BudgetError: ticks are too fine to count exactly; see :meth:`count_bounds`.

        Examples:
            >>> from lcnas import budgets, spaces
            >>> budgets.macs(spaces.load("pplcnet_tail"), max_macs=100e6).count()
            21306861694
        """
        low, high = self.count_bounds()
        if low != high:
            raise self._too_fine(f"count; there are from {low:,} to {high:,}, see count_bounds()")
        return low

    @property
    def size(self) -> int:
        """The value of :meth:`count`."""
        return self.count()

    def count_bounds(self) -> tuple[int, int]:
        """Return a lower and an upper bound of the number of networks; equal if the count is exact."""
        if self._window == (self._bounds.least[0], self._bounds.most[0]):
            return self._bounds.paths[-1], self._bounds.paths[-1]
        return self._count_between(self._window)

    def _count_between(self, window: Window) -> tuple[int, int]:
        if self._sampler is None:
            return self._coarse.bounds(window)
        exact = self._sampler.count(window)
        return exact, exact

    def _too_fine(self, what: str) -> BudgetError:
        return BudgetError(
            f"budget: costs of {self.space.name} in single ticks are too many for an exact {what}"
        )

    def sample(self, rng: np.random.Generator) -> Arch:
        """Return a network, sampled uniformly over the distinct networks of the budget.

        Examples:
            >>> import numpy as np
            >>> from lcnas import budgets, spaces
            >>> budget = budgets.macs(spaces.load("pplcnet_tail"), max_macs=100e6)
            >>> arch = budget.sample(np.random.default_rng(0))
            >>> budget.cost(arch) <= 100_000_000
            True
        """
        return self.space.decode(self.sample_codes(1, rng))[0]

    def sample_codes(self, n: int, rng: np.random.Generator, bands: int = 1) -> Ints:
        """Return canonical codes of n networks, sampled uniformly over the distinct networks of the budget.

        With at most 4.6e18 networks in the space, samples are exactly uniform; with more, probabilities are
        exact counts rounded to floats, off by about 1e-15.

        Args:
            n: number of networks.
            rng: source of randomness.
            bands: number of equal parts, on a log scale, of the costs between max(min, lowest) and
                min(max, highest). Each band has an equal share of the samples (up to one network),
                uniform within it. The share of an empty band goes to the others, with an
                :class:`EmptyBandWarning`.

        Returns:
            An integer array of shape (n, genes), in random order.

        Examples:
            >>> import numpy as np
            >>> from lcnas import budgets, spaces
            >>> budget = budgets.macs(spaces.load("pplcnet_tail"), max_macs=100e6)
            >>> codes = budget.sample_codes(50, np.random.default_rng(0), bands=5)
            >>> np.histogram(budget.costs(codes), budget.band_edges(5))[0].tolist()
            [10, 10, 10, 10, 10]
        """
        _check_number("n", n, 0)
        _check_number("bands", bands, 1)
        if bands == 1:
            return self._draw([(self._window, int(n))], rng)
        windows = self._bands(bands)
        shares = np.full(len(windows), n // len(windows))
        shares[rng.permutation(len(windows))[: n % len(windows)]] += 1
        each = [(window, int(share)) for window, share in zip(windows, shares, strict=True)]
        return rng.permutation(self._draw(each, rng), axis=0)

    def _draw(self, shares: Sequence[tuple[Window, int]], rng: np.random.Generator) -> Ints:
        """Return codes of networks sampled from windows, in order; each window has its number."""
        if self._sampler is not None:
            return self._sampler.draw(shares, rng)
        return np.concatenate([self._draw_coarse(window, n, rng) for window, n in shares])

    def _draw_coarse(self, window: Window, n: int, rng: np.random.Generator) -> Ints:
        low, high = (self._cost_of(x) for x in window)

        def inside(codes: Ints) -> NDArray[np.bool_]:
            costs = self.costs(codes)
            out: NDArray[np.bool_] = (costs >= low) & (costs <= high)
            return out

        return self._coarse.draw(window, n, rng, inside)

    def band_edges(self, bands: int) -> NDArray[np.float64]:
        """Return the edges of bands, (bands + 1,) ticks; a cost on an edge belongs to the band above."""
        if self.min_cost <= 0:
            raise BudgetError(
                f"budget: bands are equal parts of log cost, but costs begin at {self.show(self.min_cost)}"
            )
        return edges_of(self.min_cost, self.max_cost, bands)

    def _bands(self, bands: int) -> list[Window]:
        """Return the windows of the bands that are not empty."""
        edges = [math.ceil(x) for x in self.band_edges(bands)]
        edges[0], edges[-1] = self.min_cost, self.max_cost + 1
        windows: list[Window] = []
        empty: list[int] = []
        for i in range(bands):
            window = self._window_of(edges[i], edges[i + 1] - 1)
            holds_networks = window[0] <= window[1] and self._count_between(window)[1] > 0
            if holds_networks:
                windows.append(window)
            else:
                empty.append(i)
        if empty:
            warnings.warn(
                f"budget: {len(empty)} of {bands} bands hold no network, the first from "
                f"{self.show(edges[empty[0]])} on; the others take their share",
                EmptyBandWarning,
                stacklevel=3,
            )
        return windows

    # -- extremes ----------------------------------------------------------------------------------

    def fastest(self) -> Arch:
        """Return the network with the lowest cost in the budget; ties go to the lowest codes."""
        return self._extreme(0)

    def slowest(self) -> Arch:
        """Return the network with the highest cost in the budget; ties go to the lowest codes."""
        return self._extreme(1)

    def _extreme(self, end: int) -> Arch:
        extreme = (self._bounds.least[0], self._bounds.most[0])[end]
        if self._window[0] <= extreme <= self._window[1]:
            codes = self._search((extreme, extreme), np.zeros(len(self._graph.to), dtype=np.int64))
        elif self._sampler is None:
            raise self._too_fine(("fastest()", "slowest()")[end])
        else:
            ends = self._sampler.extremes(self._window)
            assert ends is not None
            window = (ends[end], ends[end])
            codes = best_codes(self._sampler.tables, window, len(self.space.genes))
        assert codes is not None
        return self.space.decode(codes)[0]

    @functools.cached_property
    def _edge_scores(self) -> EdgeScores:
        return EdgeScores(self._graph, self.space.genes)

    def best(self, scores: Sequence[ArrayLike]) -> Arch:
        """Return the network in the budget with the greatest sum of scores.

        Sums are exact for scores rounded to 2**-58 of the largest possible sum; ties go to the lowest
        canonical codes.

        Args:
            scores: one array per gene, the score of each choice. Genes of absent blocks add 0.

        Raises:
            BudgetError: arrays of wrong shapes, values that are not finite, or ticks that are too fine.

        Examples:
            >>> import numpy as np
            >>> from lcnas import budgets, spaces
            >>> space = spaces.load("pplcnet_tail")
            >>> budget = budgets.macs(space, max_macs=100e6)
            >>> scores = [np.arange(len(gene.choices), dtype=float) for gene in space.genes]
            >>> budget.best(scores) in budget
            True
        """
        flat = whole_scores(self.space.genes, scores)
        return self.space.decode(self._best(self._edge_scores.of(flat)))[0]

    def _best(self, scores: Ints) -> Ints:
        """Return the codes (genes,) of the best network in the budget, by scores of edges."""
        low, high = self._window
        ways = [(self._bounds.least[0], high), (low, self._bounds.most[0])]
        # The best network under one limit of the window is the best of the window if it is inside; tables
        # with one limit are much smaller.
        ways.insert(0 if high - low < DENSE else 2, self._window)
        for window in ways:
            try:
                codes = self._search(window, scores)
            except TooFineError:
                continue
            if codes is not None and self.inside(codes)[0]:
                return codes
        raise self._too_fine("best()")

    def _search(self, window: Window, scores: Ints) -> Ints | None:
        """Return the codes of the best network in a window, or None if it is empty."""
        tables = Tables(self._graph, self._bounds, window, scores)
        return best_codes(tables, (tables.low, tables.high), len(self.space.genes))

    # -- changing ----------------------------------------------------------------------------------

    def neighbors(self, arch: Arch) -> list[Arch]:
        """Return the neighbours of a network that meet the budget."""
        codes = self.space.neighbor_codes(arch)
        return self.space.decode(codes[self.inside(codes)])

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return a random neighbour that meets the budget, with the distribution of ``space.mutate``.

        Raises:
            BudgetError: no neighbour meets the budget.
        """
        for _ in range(_TRIES):
            mutant = self.space.mutate(arch, rng)
            if mutant in self:
                return mutant
        others = self.neighbors(arch)
        if not others:
            raise BudgetError(
                f"budget: no neighbour of {arch.name or shorten(arch)} meets {self!r}"
            )
        return others[int(rng.integers(len(others)))]

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return a network in the budget with each gene from one of two parents.

        If no random child meets the budget, one is changed by :meth:`repair`.
        """
        for _ in range(_TRIES):
            child = self.space.crossover(a, b, rng)
            if child in self:
                return child
        return self.space.decode(self.repair(self.space.encode(child)))[0]

    def repair(self, codes: ArrayLike) -> Ints:
        """Return, for each row of codes, the network in the budget with the fewest changes.

        Changes are counted between canonical codes, at genes of the result's blocks; ties go to the
        lowest codes. Rows that meet the budget are unchanged.

        Args:
            codes: integers of shape (n, genes) or (genes,), canonical or not.

        Returns:
            Integers of shape (n, genes).

        Examples:
            >>> import numpy as np
            >>> from lcnas import budgets, spaces
            >>> space = spaces.load("pplcnet_tail")
            >>> budget = budgets.macs(space, max_macs=50e6)
            >>> codes = space.sample_codes(3, np.random.default_rng(0))
            >>> budget.inside(codes).tolist(), budget.inside(budget.repair(codes)).tolist()
            ([False, False, False], [True, True, True])
        """
        out = self.space.checked(codes).copy()
        rows = np.flatnonzero(~self.inside(out))
        for row, canonical in zip(rows, self.space.canonical(out[rows]), strict=True):
            flat = self._edge_scores.unchanged(canonical, self.space.genes)
            out[row] = self._best(self._edge_scores.of(flat))
        return out


def _whole_ticks(name: str, value: float, to: Callable[[float], int], ends: tuple[int, int]) -> int:
    """Return a cost as whole ticks; an infinite one becomes the first beyond all costs of the space."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or math.isnan(value):
        raise BudgetError(f"budget: {name}: {shorten(value)} is not a number of ticks")
    if math.isinf(value):
        return ends[1] + 1 if value > 0 else ends[0] - 1
    return int(to(value))


def _check_number(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BudgetError(f"{name}: {shorten(value)} is not a whole number of at least {least}")
