"""Terms: what a network costs, as a sum of whole ticks over its blocks and its pairs of neighbours."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas import renamed
from lcnas.budgets._cost import CostTables
from lcnas.budgets._graph import ChainGraphBuilder, Graph
from lcnas.budgets._passes import Bounds
from lcnas.errors import BudgetError, shorten
from lcnas.spaces import Space

Ints = NDArray[np.int64]
LARGEST = 1 << 52  # |ticks| of one term: sums stay far below 2**62


@renamed.keyword("rows", "entries")
@dataclass(frozen=True, eq=False)
class Terms:
    """Additive costs of a space's networks, in whole ticks of any unit; they may be negative.

    The cost of a network is ``base`` + the sum of ``entries`` over its blocks + the sum of
    ``pairs[kinds[left, 0], kinds[right, 1]]`` over its pairs of consecutive blocks.

    Raises:
        BudgetError: values that are not whole numbers, or shapes that do not fit each other.

    Examples:
        >>> import numpy as np
        >>> from lcnas import budgets, spaces
        >>> space = spaces.load("pplcnet")
        >>> terms = budgets.Terms(base=10, entries=np.arange(len(space.placed_blocks())))
        >>> terms.cost(space, space.sample_codes(3, np.random.default_rng(0))).shape
        (3,)
    """

    base: int  # ticks, once a network
    entries: Ints  # (entries,) ticks of each of space.placed_blocks(classes), in their order
    kinds: Ints | None = None  # (entries, 2) kind of each block, as left and as right neighbour
    pairs: Ints | None = None  # (left kinds, right kinds) ticks of two neighbours
    classes: int = 1000  # outputs of the last layer, as in space.placed_blocks(classes)
    _tables: weakref.WeakKeyDictionary[Space, CostTables] = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False
    )
    _graphs: weakref.WeakKeyDictionary[Space, tuple[Graph, Bounds]] = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", int(_whole("base", self.base, 0)))
        object.__setattr__(self, "entries", _whole("entries", self.entries, 1))
        if (self.kinds is None) != (self.pairs is None):
            raise BudgetError("terms: kinds and pairs belong together: give both, or neither")
        if self.kinds is not None and self.pairs is not None:
            object.__setattr__(self, "kinds", _whole("kinds", self.kinds, 2))
            object.__setattr__(self, "pairs", _whole("pairs", self.pairs, 2))
            self._check_kinds(self.kinds, self.pairs)

    @property
    def rows(self) -> Ints:
        """Deprecated name of :attr:`entries`."""
        renamed.warn("Terms.rows", "Terms.entries")
        return self.entries

    def __reduce__(
        self,
    ) -> tuple[type[Terms], tuple[object, ...]]:  # caches of spaces are not pickled
        return Terms, (self.base, self.entries, self.kinds, self.pairs, self.classes)

    def _check_kinds(self, kinds: Ints, pairs: Ints) -> None:
        if kinds.shape != (len(self.entries), 2):
            raise BudgetError(
                f"terms: kinds: shape {kinds.shape} is not ({len(self.entries)}, 2), "
                "the kind of each entry as left and as right neighbour"
            )
        bad = (kinds < 0) | (kinds >= np.array(pairs.shape))
        if bad.any():
            entry, side = (int(x) for x in np.argwhere(bad)[0])
            raise BudgetError(
                f"terms: kinds: entry {entry}: {kinds[entry, side]} is not one of the "
                f"{pairs.shape[side]} {('left', 'right')[side]} kinds of pairs"
            )

    def check(self, space: Space) -> None:
        """Raise BudgetError unless there is one entry for each placed block of the space."""
        count = len(space.placed_blocks(self.classes))
        if len(self.entries) != count:
            raise BudgetError(
                f"terms: {len(self.entries)} entries are not the {count} of {space.name} "
                f"with {self.classes} classes"
            )

    def cost(self, space: Space, codes: ArrayLike) -> Ints:
        """Return the cost of each network in ticks, exactly.

        Args:
            space: the space that the terms belong to.
            codes: integers of shape (n, genes) or (genes,), canonical or not.

        Returns:
            Integers of shape (n,).
        """
        tables = self._tables.get(space)
        if tables is None:
            self.check(space)
            layout = space.layout(self.classes)
            tables = CostTables.of(layout, len(space.genes), *self.parts())
            self._tables[space] = tables
        return tables.cost(space.checked(codes)) + self.base

    def graph(self, space: Space) -> tuple[Graph, Bounds]:
        """Return the graph of a space's chains under these terms, without the base, and its bounds."""
        cached = self._graphs.get(space)
        if cached is None:
            self.check(space)
            graph = ChainGraphBuilder(space.layout(self.classes), *self.parts()).build()
            cached = self._graphs[space] = graph, Bounds.of(graph)
        return cached

    def parts(self) -> tuple[Ints, Ints, Ints]:
        """Return entries (entries,), kinds (entries, 2) and pairs (left, right); equal kinds are merged.

        Without pairs all entries are of one kind, and a pair costs nothing.
        """
        if self.kinds is None or self.pairs is None:
            kinds = np.zeros((len(self.entries), 2), np.int64)
            return self.entries, kinds, np.zeros((1, 1), np.int64)
        left, kind_left = np.unique(self.pairs, axis=0, return_inverse=True)
        pairs, kind_right = np.unique(left, axis=1, return_inverse=True)
        kinds = np.stack([kind_left[self.kinds[:, 0]], kind_right[self.kinds[:, 1]]], axis=1)
        return self.entries, kinds, pairs


def _whole(name: str, value: ArrayLike, dimensions: int) -> Ints:
    """Return whole numbers as a read-only array of 64 bits."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iu" or array.ndim != dimensions:
        shape = ("one whole number", "whole numbers (n,)", "whole numbers (n, m)")[dimensions]
        raise BudgetError(f"terms: {name}: {shorten(value)} is not {shape}")
    if array.size and max(int(array.max()), -int(array.min())) > LARGEST:
        raise BudgetError(f"terms: {name}: a value is beyond {LARGEST} ticks; use coarser ticks")
    ticks = array.astype(np.int64)
    ticks.flags.writeable = False
    return ticks
