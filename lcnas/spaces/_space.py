"""Space: counting, sampling, mutating and recognising the networks of a space file."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas import renamed
from lcnas.arch import Arch, PlacedBlock, Resolution, Stage
from lcnas.blocks import Block
from lcnas.errors import CodesError, SpaceError, listing, not_among, shorten
from lcnas.spaces._chain import Chain
from lcnas.spaces._draw import draw
from lcnas.spaces._element import Digit, ElementTable, Gene, Total, digits_off, within
from lcnas.spaces._explain import explain
from lcnas.spaces._match import broken_order, by_first_block, match
from lcnas.spaces._placed_blocks import PlacedBlocks
from lcnas.spaces._points import Columns, Ints, Part, Point
from lcnas.spaces._spec import SpaceSpec, Value
from lcnas.spaces._structure import Structure

_TRIES = 200  # random changes tried before the neighbours are listed


class Space:
    """The networks that a space file describes; see :func:`lcnas.spaces.load`.

    Each network is sampled, counted and listed once, even if several codes encode it. Codes are arrays
    of integers, (n, genes), with the index of a choice for each network and gene.
    """

    def __init__(
        self, spec: SpaceSpec, kept: Mapping[str, tuple[Value, ...]] | None = None
    ) -> None:
        self._spec = spec
        self._kept = dict(kept or {})
        self._structure = Structure(spec, self._kept)
        self._elements = self._structure.elements
        # Caches of the instance, not of the class: they are freed with the space.
        self._chain = functools.cache(functools.partial(Chain, self._structure))
        self._placed_blocks = functools.lru_cache(maxsize=4)(
            functools.partial(PlacedBlocks, self._structure, self._chain)
        )
        self._blocks = functools.lru_cache(maxsize=1 << 14)(self._make_blocks)
        self.name: str = spec.name
        self.summary: str = spec.summary
        self.source: str = spec.source
        self.genes: tuple[Gene, ...] = self._structure.genes
        self.resolutions: tuple[Resolution, ...] = self._structure.resolutions
        if not self._kept:  # a restriction may leave genes without effect, a file may not
            whole = self._open_structure if self._spec.rules else self._structure
            whole.check_idle_genes()
        if self.size == 0:
            rules = listing(repr(rule.name) for rule in self._structure.orders)
            raise SpaceError(f"{spec.source}: rules: no network meets {rules}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments only; the rest is rebuilt."""
        return Space, (self._spec, self._kept)

    def __repr__(self) -> str:
        kept = f", restricted at {len(self._kept)} genes" if self._kept else ""
        return f"Space({self.name}, {len(self.genes)} genes, {self.size:,} networks{kept})"

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the rules, in the order of the file."""
        return tuple(rule.name for rule in self._spec.rules)

    @property
    def rule_texts(self) -> tuple[str, ...]:
        """The rules in words, in the order of the file."""
        return tuple(f"{rule.name}: {rule.describe()}" for rule in self._spec.rules)

    @property
    def block_texts(self) -> tuple[str, ...]:
        """The file's own kinds of block in words."""
        used = {t.name: t for e in self._spec.elements for t in e.templates if t.name != t.cls.type}
        return tuple(f"{name}: {template.describe()}" for name, template in used.items())

    @property
    def elements(self) -> tuple[str, ...]:
        """Names of stem, stages and head, in order."""
        return tuple(table.name for table in self._elements)

    # -- counting and drawing ------------------------------------------------------------------

    @functools.cached_property
    def size(self) -> int:
        """Number of distinct networks, exactly."""
        per_assignment = [self._chain(g).total for g in range(len(self._structure.assignments))]
        return len(self.resolutions) * sum(per_assignment)

    def sample_codes(self, n: int, rng: np.random.Generator) -> Ints:
        """Return the canonical codes of n networks, sampled uniformly and independently.

        Args:
            n: number of networks.
            rng: source of randomness.

        Returns:
            An integer array of shape (n, genes).

        Examples:
            >>> import numpy as np
            >>> from lcnas import spaces
            >>> space = spaces.load("pplcnet_tail")
            >>> codes = space.sample_codes(4, np.random.default_rng(0))
            >>> codes.shape
            (4, 24)
            >>> (codes == space.canonical(codes)).all()
            np.True_
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise CodesError(f"n: {shorten(n)} is not a whole number of at least 0")
        if not isinstance(rng, np.random.Generator):
            raise CodesError(f"rng: {shorten(rng)} is not a numpy.random.Generator")
        n = int(n)
        count = len(self._structure.assignments)
        r = rng.integers(0, len(self.resolutions), size=n)
        g = draw([self._chain(i).total for i in range(count)], n, rng)
        d = [np.zeros(n, dtype=np.int64) for _ in self._elements]
        s = [np.zeros(n, dtype=np.int64) for _ in self._elements]
        for i in np.unique(g):
            rows = np.flatnonzero(g == i)
            for e, (depth, signature) in enumerate(self._chain(int(i)).draw(len(rows), rng)):
                d[e][rows], s[e][rows] = depth, signature
        c = tuple(
            self._draw_combos(table, g, d[e], s[e], rng) for e, table in enumerate(self._elements)
        )
        return self._pack(Columns(r, g, tuple(d), tuple(s), c))

    def _draw_combos(
        self, table: ElementTable, g: Ints, d: Ints, s: Ints, rng: np.random.Generator
    ) -> Ints:
        """Draw a block for each slot, uniformly over the distinct ones."""
        depth = np.array(table.depths)[d]
        out = np.zeros((len(g), table.slots), dtype=np.int64)
        for j in range(table.slots):
            rows = np.flatnonzero(depth > j)
            if len(rows) and table.labels.shape[3] > 1:
                choice = rng.integers(0, table.counts[g[rows], s[rows], j])
                out[rows, j] = table.nth_combo[g[rows], s[rows], j, choice]
        return out

    def sample(self, rng: np.random.Generator) -> Arch:
        """Return a network, sampled uniformly over the distinct networks of the space.

        Examples:
            >>> import numpy as np
            >>> from lcnas import spaces
            >>> space = spaces.load("pplcnet_tail")
            >>> space.sample(np.random.default_rng(0)) in space
            True
        """
        return self.decode(self.sample_codes(1, rng))[0]

    def enumerate(self) -> Iterator[Arch]:
        """Yield every network once."""
        for point in self._points():
            yield self._arch(point)

    def _points(self) -> Iterator[Point]:
        for r in range(len(self.resolutions)):
            for g in range(len(self._structure.assignments)):
                choices = [
                    [
                        part
                        for d, s, _ in table.variants(g)
                        for part in self._all_combos(table, g, d, s)
                    ]
                    for table in self._elements
                ]
                for parts in itertools.product(*choices):
                    point = Point(r, g, parts)
                    if broken_order(self._structure, point) is None:
                        yield point

    def _all_combos(self, table: ElementTable, g: int, d: int, s: int) -> Iterator[Part]:
        slots = [table.distinct(g, s, j) for j in range(table.depths[d])]
        for combos in itertools.product(*slots):
            yield Part(d, s, combos)

    # -- codes -----------------------------------------------------------------------------------

    def encode(self, archs: Arch | Iterable[Arch]) -> Ints:
        """Return the canonical codes of networks, an array of shape (n, genes).

        Raises:
            SpaceError: a network is not in the space; names the first rule that it breaks.
        """
        if isinstance(archs, str) or not isinstance(archs, Arch | Iterable):
            raise SpaceError(f"{self.name}: {shorten(archs)} is neither an Arch nor a list of them")
        return self._codes([self._own(a) for a in ([archs] if isinstance(archs, Arch) else archs)])

    def decode(self, codes: ArrayLike) -> list[Arch]:
        """Return the networks of codes, an integer array of shape (n, genes) or (genes,).

        Raises:
            CodesError: a wrong shape, or a code out of its gene's range.

        Examples:
            >>> from lcnas import spaces, zoo
            >>> space = spaces.load("pplcnet_tail")
            >>> codes = space.encode([zoo.load("pplcnet_0.5x"), zoo.load("pplcnet_1.0x")])
            >>> codes.shape
            (2, 24)
            >>> [arch.id[:8] for arch in space.decode(codes)]
            ['adc75934', '49e18c35']
        """
        return [self._arch(point) for point in self._points_in(self._columns(codes))]

    def canonical(self, codes: ArrayLike) -> Ints:
        """Return codes with each row replaced by its network's canonical codes, where absent genes are 0."""
        return self._pack(self._columns(codes))

    def _codes(self, points: Sequence[Point]) -> Ints:
        n = len(points)
        c = []
        for e, table in enumerate(self._elements):
            combos = np.zeros((n, table.slots), dtype=np.int64)
            for i, point in enumerate(points):
                combos[i, : len(point.parts[e].combos)] = point.parts[e].combos
            c.append(combos)
        elements = range(len(self._elements))
        return self._pack(
            Columns(
                np.array([p.r for p in points], dtype=np.int64),
                np.array([p.g for p in points], dtype=np.int64),
                tuple(np.array([p.parts[e].d for p in points], dtype=np.int64) for e in elements),
                tuple(np.array([p.parts[e].s for p in points], dtype=np.int64) for e in elements),
                tuple(c),
            )
        )

    def _points_in(self, columns: Columns) -> Iterator[Point]:
        r, g = columns.r.tolist(), columns.g.tolist()
        d = [x.tolist() for x in columns.d]
        s = [x.tolist() for x in columns.s]
        c = [x.tolist() for x in columns.c]
        for i in range(len(r)):
            parts = []
            for e, table in enumerate(self._elements):
                depth = table.depths[d[e][i]]
                parts.append(Part(d[e][i], s[e][i], tuple(c[e][i][:depth])))
            yield Point(r[i], g[i], tuple(parts))

    def _checked(self, codes: ArrayLike) -> Ints:
        try:
            unchecked = np.asarray(codes)
        except ValueError:  # rows of different lengths
            raise CodesError(f"codes: {shorten(codes)} is not an array") from None
        if (
            unchecked.size == 0
            and unchecked.ndim <= 2
            and unchecked.shape[-1:] in ((0,), (len(self.genes),))
        ):
            unchecked = np.zeros(
                (self._networks_without_codes(unchecked), len(self.genes)), dtype=np.int64
            )
        if unchecked.dtype.kind not in "iu":
            raise CodesError(f"codes: {unchecked.dtype} is not an integer type")
        array = unchecked.reshape(1, -1) if unchecked.ndim == 1 else unchecked
        if array.ndim != 2 or array.shape[1] != len(self.genes):
            raise CodesError(
                f"codes: shape {unchecked.shape} is not (n, {len(self.genes)}), "
                f"a column for each gene of {self.name}"
            )
        sizes = np.array([len(gene.choices) for gene in self.genes], dtype=np.int64)
        bad = (array < 0) | (array >= sizes)
        if bad.any():
            row, column = (int(x) for x in np.argwhere(bad)[0])
            gene = self.genes[column]
            raise CodesError(
                f"codes: row {row}, gene {gene.name!r}: {array[row, column]} is not one of 0 to "
                f"{len(gene.choices) - 1}, which stand for {listing(gene.choices)}"
                f"; the nearest is {0 if array[row, column] < 0 else len(gene.choices) - 1}"
            )
        return array.astype(np.int64)

    def _networks_without_codes(self, codes: NDArray[Any]) -> int:
        """Return the number of networks of an array without a code.

        In a space without genes it has a row per network: (n, 0), or (0,) for one. An empty list,
        which NumPy makes an array of floats, is never a network.
        """
        if self.genes:
            return 0
        return len(codes) if codes.ndim == 2 else int(codes.dtype.kind in "iu")

    def checked(self, codes: ArrayLike) -> Ints:
        """Return codes as an (n, genes) array, unchanged, after checking that each row is a network.

        Raises:
            CodesError: a wrong shape, a code out of its gene's range, or a broken rule.
        """
        array = self._checked(codes)
        if self._structure.orders:
            self._columns(array)
        return array

    def _columns(self, codes: ArrayLike) -> Columns:
        """Decode codes into canonical columns."""
        array = self._checked(codes)
        r = _read(array, [self._structure.resolution_digit])
        g = _read(array, self._structure.network_digits)
        d, s, c = [], [], []
        for table in self._elements:
            depth = _read(array, [table.depth_digit])
            raw = _read(array, table.sig_digits)
            combos = np.stack([_read(array, digits) for digits in table.slot_digits], axis=1)
            slots = np.arange(table.slots)
            if table.labels.shape[3] > 1:
                combos = table.combo_of[
                    g[:, None], depth[:, None], raw[:, None], slots[None, :], combos
                ]
            absent = slots[None, :] >= np.array(table.depths)[depth][:, None]
            combos[absent] = 0
            d.append(depth)
            s.append(table.representative[g, depth, raw])
            c.append(combos)
        columns = Columns(r, g, tuple(d), tuple(s), tuple(c))
        self._check_orders(columns)
        return columns

    def _check_orders(self, columns: Columns) -> None:
        for rule in self._structure.orders:
            low = np.full(len(columns.g), -np.inf)
            for table in self._elements:
                if table.name not in rule.elements:
                    continue
                value = table.param_table(rule.param)[columns.g, columns.s[table.index]]
                if (value < low).any():
                    row = int(np.flatnonzero(value < low)[0])
                    raise CodesError(
                        f"codes: row {row} breaks rule {rule.name!r}: {rule.param} falls "
                        f"from {low[row]:g} to {value[row]:g} in {table.name}"
                    )
                low = np.where(np.isnan(value), low, value)

    def _pack(self, columns: Columns) -> Ints:
        out = np.zeros((len(columns.r), len(self.genes)), dtype=np.int64)
        _write(out, [self._structure.resolution_digit], columns.r)
        _write(out, self._structure.network_digits, columns.g)
        for e, table in enumerate(self._elements):
            _write(out, [table.depth_digit], columns.d[e])
            _write(out, table.sig_digits, columns.s[e])
            for j, digits in enumerate(table.slot_digits):
                _write(out, digits, columns.c[e][:, j])
        return out

    # -- networks --------------------------------------------------------------------------------

    def _arch(self, point: Point) -> Arch:
        stages = []
        total: Total = (1, 1)
        for table, part in zip(self._elements, point.parts, strict=True):
            blocks, total = self._blocks(table.index, point.g, part, total)
            stages.append(Stage(table.name, blocks))
        return Arch(tuple(stages), self.resolutions[point.r], self.name)

    def _make_blocks(
        self, e: int, g: int, part: Part, total: Total
    ) -> tuple[tuple[Block, ...], Total]:
        table = self._elements[e]
        blocks = tuple(table.block(g, part.s, j, c, total) for j, c in enumerate(part.combos))
        return blocks, table.total_after(g, part.s, part.combos[0], total)

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Arch) and self._find(arch) is not None

    def _find(self, arch: Arch) -> Point | None:
        """Return the network's canonical point, or None if it is not in the space."""
        if not isinstance(arch, Arch) or arch.resolution not in self.resolutions:
            return None
        for g in self._by_first_block.get(arch.blocks[0], ()):
            parts = match(self._structure, g, arch.blocks)
            if parts is not None:
                point = Point(self.resolutions.index(arch.resolution), g, parts)
                return point if broken_order(self._structure, point) is None else None
        return None

    @functools.cached_property
    def _by_first_block(self) -> dict[Block, list[int]]:
        """First block -> the network-wide assignments that it can begin."""
        return by_first_block(self._structure)

    def why_not(self, arch: Arch) -> str | None:
        """Return a message about the first rule that the network breaks; None for a network of the space.

        The message begins with the rule's name, or with the gene or key of the file that does not allow
        the network, and names the block.

        Examples:
            >>> from lcnas import spaces, zoo
            >>> spaces.load("pplcnet_tail").why_not(zoo.load("pplcnet_0.5x")) is None
            True
            >>> spaces.load("pplcnet_tail").why_not(zoo.load("mobilenet_v1_1.0x"))[:43]
            "block: head is 'dense_head', of which the s"
        """
        if not isinstance(arch, Arch):
            raise SpaceError(f"{self.name}: {shorten(arch)} is not an Arch")
        if arch in self:
            return None
        if arch.resolution not in self.resolutions:
            return not_among("resolution", arch.resolution, self.resolutions)
        kept = {gene.name: gene.choices for gene in self.genes if gene.name in self._kept}
        return explain(self._open_structure, kept, arch)

    @functools.cached_property
    def _open_structure(self) -> Structure:
        """The file without rules and restrictions, where a network may have two spellings."""
        return Structure(self._spec, {}, with_rules=False, checked=False)

    # -- changing --------------------------------------------------------------------------------

    def neighbors(self, arch: Arch) -> list[Arch]:
        """Return all networks that differ in exactly one choice, each once.

        Two networks are neighbours if some codes of one and some codes of the other differ in exactly one
        gene; genes of absent blocks may have any value, so a deeper neighbour's new blocks may be any.

        Examples:
            >>> from lcnas import spaces, zoo
            >>> space = spaces.load("pplcnet_tail")
            >>> len(space.neighbors(zoo.load("pplcnet_0.5x")))
            70
        """
        return [self._arch(point) for point in self._neighbors(self._own(arch))]

    def neighbor_codes(self, arch: Arch) -> Ints:
        """Return the canonical codes (n, genes) of :meth:`neighbors`, in the same order."""
        return self._codes(list(self._neighbors(self._own(arch))))

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return a random neighbour: draw a gene, then its new value; absent genes are random.

        Raises:
            SpaceError: the network is not in the space, or has no neighbour.

        Examples:
            >>> import numpy as np
            >>> from lcnas import spaces, zoo
            >>> space, arch = spaces.load("pplcnet_tail"), zoo.load("pplcnet_0.5x")
            >>> space.mutate(arch, np.random.default_rng(0)) in space.neighbors(arch)
            True
        """
        point = self._own(arch)
        sizes = np.array([len(gene.choices) for gene in self.genes])
        free = np.flatnonzero(sizes > 1)
        for _ in range(_TRIES if len(free) else 0):
            codes = self._random_codes(point, rng)
            column = int(rng.choice(free))
            codes[column] = (codes[column] + rng.integers(1, sizes[column])) % sizes[column]
            mutant = self._point_of(codes)
            if mutant is not None and mutant != point:
                return self._arch(mutant)
        others = sorted(self._neighbors(point))
        if not others:
            why = ": it is the one network of the space" if self.size == 1 else ""
            raise SpaceError(f"{self.name}: {_named(arch)} has no neighbour{why}")
        return self._arch(others[int(rng.integers(len(others)))])

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return a network with each gene from one of two parents, with equal probability.

        A gene of blocks that only one parent has comes from that parent.
        """
        first, second = self._own(a), self._own(b)
        codes = self._codes([first, second])
        present = np.stack([self._present(first), self._present(second)])
        for _ in range(_TRIES):
            take = rng.integers(0, 2, size=len(self.genes))
            take = np.where(present[0] == present[1], take, present[1].astype(np.int64))
            child = self._point_of(codes[take, np.arange(len(self.genes))])
            if child is not None:
                return self._arch(child)
        return self._arch((first, second)[int(rng.integers(2))])

    def restrict(self, **choices: Any) -> Space:
        """Return the space of the same file with fewer choices.

        Args:
            **choices: gene -> the choices to keep, a list or a single one. ``stage4_kernel``
                stands for the genes ``stage4_block1_kernel``, ``stage4_block2_kernel`` and so on.

        Examples:
            >>> from lcnas import spaces
            >>> space = spaces.load("pplcnet_tail")
            >>> small = space.restrict(stage2_width=[16, 24, 32], stage4_kernel=[3])
            >>> small.size < space.size
            True
        """
        kept = dict(self._kept)
        for key, value_or_values in choices.items():
            genes = self._genes_named(key)
            values = self._kept_values(value_or_values, genes)
            for gene in genes:
                for value in values:
                    if not within(value, gene.choices):
                        raise SpaceError(
                            not_among(f"{self.name}: gene {gene.name}", value, gene.choices)
                        )
                if not values:
                    raise SpaceError(
                        f"{self.name}: gene {gene.name}: keeps none of {listing(gene.choices)}"
                    )
                kept[gene.name] = tuple(c for c in gene.choices if within(c, values))
        return Space(self._spec, kept)

    def _kept_values(self, choices: Any, genes: Sequence[Gene]) -> list[Any]:
        """Return the choices to keep as a list, from a list or from a single choice."""
        if isinstance(choices, np.generic | np.ndarray):
            choices = choices.tolist()
        if isinstance(choices, str | int | float) or any(choices in gene.choices for gene in genes):
            return [choices]
        if not isinstance(choices, Iterable):
            raise SpaceError(
                not_among(f"{self.name}: gene {genes[0].name}", choices, genes[0].choices)
            )
        return [v.item() if isinstance(v, np.generic) else v for v in choices]

    def _genes_named(self, key: str) -> list[Gene]:
        exact = [gene for gene in self.genes if gene.name == key]
        if exact:
            return exact
        groups: dict[str, list[Gene]] = {}
        for gene in self.genes:
            for table in self._elements:
                head, _, rest = gene.name.removeprefix(f"{table.name}_").partition("_")
                if gene.name.startswith(f"{table.name}_block") and rest and head[5:].isdigit():
                    groups.setdefault(f"{table.name}_{rest}", []).append(gene)
        if key not in groups:
            names = [*(gene.name for gene in self.genes), *groups]
            raise SpaceError(f"{self.name}: {not_among('gene', key, names)}")
        return groups[key]

    def _own(self, arch: Arch) -> Point:
        if not isinstance(arch, Arch):
            raise SpaceError(f"{self.name}: {shorten(arch)} is not an Arch")
        point = self._find(arch)
        if point is None:
            raise SpaceError(f"{_named(arch)} is not in {self.name}: {self.why_not(arch)}")
        return point

    def _present(self, point: Point) -> NDArray[np.bool_]:
        """Return which genes belong to the network's blocks."""
        out = np.ones(len(self.genes), dtype=bool)
        for table, part in zip(self._elements, point.parts, strict=True):
            for digits in table.slot_digits[len(part.combos) :]:
                out[[digit.column for digit in digits if digit.column >= 0]] = False
        return out

    def _random_codes(self, point: Point, rng: np.random.Generator) -> Ints:
        """Return random codes of the network: genes without effect have any value."""
        parts = []
        for table, part in zip(self._elements, point.parts, strict=True):
            s = int(rng.choice(table.equals(point.g, part.d, part.s)))
            combos = [
                int(rng.choice(table.same_blocks(point.g, part, j, s)))
                for j in range(len(part.combos))
            ]
            absent = table.slot_values[len(combos) :]
            combos += [int(rng.integers(len(values))) for values in absent]
            parts.append((part.d, s, combos))
        out = np.zeros((1, len(self.genes)), dtype=np.int64)
        _write(out, [self._structure.resolution_digit], np.array([point.r]))
        _write(out, self._structure.network_digits, np.array([point.g]))
        for table, (d, s, combos) in zip(self._elements, parts, strict=True):
            _write(out, [table.depth_digit], np.array([d]))
            _write(out, table.sig_digits, np.array([s]))
            for digits, c in zip(table.slot_digits, combos, strict=True):
                _write(out, digits, np.array([c]))
        codes: Ints = out[0]
        return codes

    def _point_of(self, codes: Ints) -> Point | None:
        """Return the canonical point of codes (genes,), or None if a rule forbids it."""
        try:
            return next(self._points_in(self._columns(codes[None])))
        except CodesError:
            return None

    def _neighbors(self, point: Point) -> dict[Point, None]:
        points: dict[Point, None] = {}
        for other in itertools.chain(self._other_networks(point), self._other_parts(point)):
            if other != point and broken_order(self._structure, other) is None:
                points.setdefault(other)
        return points

    def _other_networks(self, point: Point) -> Iterator[Point]:
        """Yield the networks of another resolution, or of another choice of one network-wide gene."""
        for r in range(len(self.resolutions)):
            yield Point(r, point.g, point.parts)
        sizes = [digit.size for digit in self._structure.network_digits]
        for g in digits_off(point.g, sizes):
            options = [
                {
                    table.part_of(g, part.d, s, combos)
                    for s in table.equals(point.g, part.d, part.s)
                    for combos in table.codes_of(point.g, part, s)
                }
                for table, part in zip(self._elements, point.parts, strict=True)
            ]
            for parts in itertools.product(*(sorted(option) for option in options)):
                yield Point(point.r, g, tuple(Part(*part) for part in parts))

    def _other_parts(self, point: Point) -> Iterator[Point]:
        """Yield the networks with another choice of one gene of one element."""
        for e, (table, part) in enumerate(zip(self._elements, point.parts, strict=True)):
            for other in table.changed(point.g, part):
                parts = (*point.parts[:e], Part(*other), *point.parts[e + 1 :])
                yield Point(point.r, point.g, parts)

    # -- placed blocks ---------------------------------------------------------------------------

    def placed_blocks(self, classes: int = 1000) -> tuple[PlacedBlock, ...]:
        """Return the distinct placed blocks of all networks, for which a latency table has entries.

        Args:
            classes: outputs of the last layer.

        Examples:
            >>> from lcnas import spaces
            >>> placed = spaces.load("pplcnet_tail").placed_blocks(classes=10)
            >>> len(placed)
            584
            >>> print(placed[0])
            conv(width=8, stride=2, act='hard_swish') 224x224x3 -> 112x112x8
        """
        return self._placed_blocks(classes).blocks

    def block_ids(self, codes: ArrayLike) -> NDArray[np.int32]:
        """Return the number in :meth:`placed_blocks` of each block of each network.

        Returns:
            An array of shape (n, slots), slots in the order of the chain; -1 where a block is absent.
        """
        return self._placed_blocks(1000).ids(self._columns(codes))

    def rows(self, classes: int = 1000) -> tuple[PlacedBlock, ...]:
        """Deprecated name of :meth:`placed_blocks`."""
        renamed.warn("Space.rows", "Space.placed_blocks")
        return self.placed_blocks(classes)

    def row_ids(self, codes: ArrayLike) -> NDArray[np.int32]:
        """Deprecated name of :meth:`block_ids`."""
        renamed.warn("Space.row_ids", "Space.block_ids")
        return self.block_ids(codes)

    def layout(self, classes: int = 1000) -> PlacedBlocks:
        """Return how choices map to placed blocks and borders, for programs over all chains."""
        return self._placed_blocks(classes)

    def extremes(
        self, values: Sequence[int], classes: int = 1000
    ) -> tuple[tuple[int, Arch], tuple[int, Arch]]:
        """Return the least and the greatest sum of values over the blocks of a network, each with a network.

        Args:
            values: one number for each of :meth:`placed_blocks`, in their order.
            classes: argument of :meth:`placed_blocks`.
        """
        layout = self._placed_blocks(classes)
        if len(values) != len(layout.blocks):
            raise SpaceError(
                f"{self.name}: {len(values)} values are not one for each of {len(layout.blocks)} "
                "placed blocks"
            )
        low, least = layout.best(values, min)
        high, most = layout.best(values, max)
        return (low, self._arch(least)), (high, self._arch(most))


def _read(codes: Ints, digits: Sequence[Digit]) -> Ints:
    """Return the mixed-radix numbers in some columns."""
    numbers = np.zeros(len(codes), dtype=np.int64)
    for digit in digits:
        numbers *= digit.size
        if digit.column >= 0:
            numbers += codes[:, digit.column]
    return numbers


def _write(codes: Ints, digits: Sequence[Digit], numbers: Ints) -> None:
    """Write mixed-radix numbers into some columns."""
    for digit in reversed(digits):
        if digit.column >= 0:
            codes[:, digit.column] = numbers % digit.size
        numbers = numbers // digit.size


def _named(arch: Arch) -> str:
    return arch.name or repr(arch)
