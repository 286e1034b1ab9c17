"""Space: the networks of a space file, to count, draw, change and recognise."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas import blocks as vocabulary
from lcnas.arch import Arch, PlacedBlock, Resolution, Stage, height_width, labels, place
from lcnas.arch import INPUT_CHANNELS
from lcnas.blocks import Block
from lcnas.errors import CodesError, ShapeError, SpaceError, listing, nearest, not_among, shorten
from lcnas.layers import Shape
from lcnas.spaces._draw import Ints, draw
from lcnas.spaces._spec import Limit, NonDecreasing, Spec, Value
from lcnas.spaces._structure import Digit, ElementTable, Gene, Structure, Total, digits_off

_TRIES = 200  # random changes tried before the neighbours are listed


class Part(NamedTuple):
    """One element of a network: depth index, signature, and a combo for each block it has."""

    d: int
    s: int
    combos: tuple[int, ...]


class Point(NamedTuple):
    """A network in canonical form: resolution, network-wide assignment, and its elements."""

    r: int
    g: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Columns:
    """Codes taken apart, one row a network."""

    r: Ints  # (n,)
    g: Ints  # (n,)
    d: tuple[Ints, ...]  # for each element (n,)
    s: tuple[Ints, ...]  # for each element (n,)
    c: tuple[Ints, ...]  # for each element (n, slots); 0 at absent blocks


class Space:
    """The networks that a space file describes; made by :func:`lcnas.spaces.load`.

    A network is drawn, counted and listed once, however many codes lead to it. Codes are integer arrays
    of shape (n, genes): one row a network, one column a gene, each entry the index of a choice.
    """

    def __init__(self, spec: Spec, kept: Mapping[str, tuple[Value, ...]] | None = None) -> None:
        self._spec = spec
        self._kept = dict(kept or {})
        self._structure = Structure(spec, self._kept)
        self._elements = self._structure.elements
        self.name: str = spec.name
        self.summary: str = spec.summary
        self.source: str = spec.source
        self.genes: tuple[Gene, ...] = self._structure.genes
        self.resolutions: tuple[Resolution, ...] = self._structure.resolutions
        if self.size == 0:
            rules = listing(repr(rule.name) for rule in self._structure.orders)
            raise SpaceError(f"{spec.source}: rules: no network meets {rules}")

    def __repr__(self) -> str:
        kept = f", restricted at {len(self._kept)} genes" if self._kept else ""
        return f"Space({self.name}, {len(self.genes)} genes, {self.size:.3g} networks{kept})"

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

    @functools.lru_cache(maxsize=None)  # noqa: B019 - kept as long as the space
    def _chain(self, g: int) -> _Chain:
        return _Chain(self._structure, g)

    def sample_codes(self, n: int, rng: np.random.Generator) -> Ints:
        """Return the canonical codes of n networks, drawn uniformly and independently.

        Args:
            n: how many.
            rng: the source of randomness.

        Returns:
            An integer array of shape (n, genes).
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise CodesError(f"n: {shorten(n)} is not a whole number of at least 0")
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
        """Draw a block for each slot, uniformly over the different ones."""
        depth = np.array(table.depths)[d]
        out = np.zeros((len(g), table.slots), dtype=np.int64)
        for j in range(table.slots):
            rows = np.flatnonzero(depth > j)
            if len(rows) and table.labels.shape[3] > 1:
                choice = rng.integers(0, table.counts[g[rows], s[rows], j])
                out[rows, j] = table.nth_combo[g[rows], s[rows], j, choice]
        return out

    def sample(self, rng: np.random.Generator) -> Arch:
        """Return a network drawn uniformly over the distinct networks of the space."""
        return self.decode(self.sample_codes(1, rng))[0]

    def enumerate(self) -> Iterator[Arch]:
        """Yield every network once."""
        for point in self._points():
            yield self._arch(point)

    def _points(self) -> Iterator[Point]:
        for r in range(len(self.resolutions)):
            for g in range(len(self._structure.assignments)):
                choices = [
                    [part for d, s, _ in table.variants(g) for part in self._all_combos(table, g, d, s)]
                    for table in self._elements
                ]
                for parts in itertools.product(*choices):
                    point = Point(r, g, parts)
                    if self._broken_order(point) is None:
                        yield point

    def _all_combos(self, table: ElementTable, g: int, d: int, s: int) -> Iterator[Part]:
        slots = [table.distinct(g, s, j) for j in range(table.depths[d])]
        for combos in itertools.product(*slots):
            yield Part(d, s, combos)

    # -- codes -----------------------------------------------------------------------------------

    def encode(self, archs: Arch | Iterable[Arch]) -> Ints:
        """Return the canonical codes of networks, an array of shape (n, genes).

        Raises:
            SpaceError: a network is not in the space; says the first rule that it breaks.
        """
        points = []
        for arch in [archs] if isinstance(archs, Arch) else archs:
            point = self._find(arch)
            if point is None:
                raise SpaceError(f"{_named(arch)} is not in {self.name}: {self.why_not(arch)}")
            points.append(point)
        return self._codes(points)

    def decode(self, codes: ArrayLike) -> list[Arch]:
        """Return the networks of codes, an integer array of shape (n, genes) or (genes,).

        Raises:
            CodesError: a wrong shape, or a code that its gene does not have.
        """
        return [self._arch(point) for point in self._rows_of(self._columns(codes))]

    def canonical(self, codes: ArrayLike) -> Ints:
        """Return for each row the one code array that stands for its network: absent genes are 0."""
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

    def _rows_of(self, columns: Columns) -> Iterator[Point]:
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
        given = np.asarray(codes)
        if given.size == 0 and given.ndim <= 2 and given.shape[-1:] in ((0,), (len(self.genes),)):
            given = given.astype(np.int64)
        if given.dtype.kind not in "iu":
            raise CodesError(f"codes: {given.dtype} is not an integer type")
        rows = given.reshape(1, -1) if given.ndim == 1 else given
        if rows.ndim != 2 or rows.shape[1] != len(self.genes):
            raise CodesError(
                f"codes: shape {given.shape} is not (n, {len(self.genes)}), a column for each gene of {self.name}"
            )
        sizes = np.array([len(gene.choices) for gene in self.genes], dtype=np.int64)
        bad = (rows < 0) | (rows >= sizes)
        if bad.any():
            row, column = (int(x) for x in np.argwhere(bad)[0])
            gene = self.genes[column]
            raise CodesError(
                f"codes: row {row}, gene {gene.name!r}: {rows[row, column]} is not one of 0 to "
                f"{len(gene.choices) - 1}, which stand for {listing(gene.choices)}"
                f"; the nearest is {0 if rows[row, column] < 0 else len(gene.choices) - 1}"
            )
        return rows.astype(np.int64)

    def _columns(self, codes: ArrayLike) -> Columns:
        """Take codes apart into canonical columns."""
        rows = self._checked(codes)
        r = _read(rows, [self._structure.resolution_digit])
        g = _read(rows, self._structure.network_digits)
        d, s, c = [], [], []
        for table in self._elements:
            depth = _read(rows, [table.depth_digit])
            raw = _read(rows, table.sig_digits)
            combos = np.stack([_read(rows, digits) for digits in table.slot_digits], axis=1)
            slots = np.arange(table.slots)
            if table.labels.shape[3] > 1:
                combos = table.combo_of[g[:, None], depth[:, None], raw[:, None], slots[None, :], combos]
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
            tables = [t for t in self._elements if t.name in rule.elements]
            for before, behind in itertools.pairwise(tables):
                low = before.param_table(rule.param)[columns.g, columns.s[before.index]]
                high = behind.param_table(rule.param)[columns.g, columns.s[behind.index]]
                if (low > high).any():
                    row = int(np.flatnonzero(low > high)[0])
                    raise CodesError(
                        f"codes: row {row} breaks rule {rule.name!r}: {rule.param} falls from {low[row]:g} in "
                        f"{before.name} to {high[row]:g} in {behind.name}"
                    )

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

    @functools.lru_cache(maxsize=1 << 14)  # noqa: B019 - kept as long as the space
    def _blocks(self, e: int, g: int, part: Part, total: Total) -> tuple[tuple[Block, ...], Total]:
        table = self._elements[e]
        made = tuple(table.block(g, part.s, j, c, total) for j, c in enumerate(part.combos))
        return made, table.total_after(g, part.s, part.combos[0], total)

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Arch) and self._find(arch) is not None

    def _find(self, arch: Arch) -> Point | None:
        """Return the network's canonical point, or None where it is not in the space."""
        if not isinstance(arch, Arch) or arch.resolution not in self.resolutions:
            return None
        r = self.resolutions.index(arch.resolution)
        for g in self._assignments_of(arch.blocks[0]):
            parts, _ = self._match(g, arch.blocks)
            if parts is not None:
                point = Point(r, g, parts)
                return point if self._broken_order(point) is None else None
        return None

    @functools.cached_property
    def _by_first_block(self) -> dict[Block, list[int]]:
        out: dict[Block, list[int]] = {}
        for g in range(len(self._structure.assignments)):
            for block in self._elements[0].first_blocks(g):
                out.setdefault(block, []).append(g)
        return out

    def _assignments_of(self, first: Block) -> Sequence[int]:
        return self._by_first_block.get(first, ())

    def _match(self, g: int, blocks: tuple[Block, ...]) -> tuple[tuple[Part, ...] | None, int]:
        """Return the parts of a chain of blocks under assignment g, or None; and how many blocks fit."""
        at = 0
        total: Total = (1, 1)
        parts: list[Part] = []
        for table in self._elements:
            part, used = table.match(g, blocks[at:], total)
            if part is None:
                return None, at + used
            parts.append(Part(*part))
            total = table.total_after(g, part[1], part[2][0], total)
            at += used
        return (tuple(parts), at) if at == len(blocks) else (None, at)

    # -- why not ---------------------------------------------------------------------------------

    def why_not(self, arch: Arch) -> str | None:
        """Return the first rule that the network breaks, in words; None for a network of the space.

        The text begins with the rule's name, or with the gene or key of the file that does not allow the
        network, and names the block.
        """
        if not isinstance(arch, Arch):
            raise SpaceError(f"{self.name}: {shorten(arch)} is not an Arch")
        if arch in self:
            return None
        if arch.resolution not in self.resolutions:
            return not_among("resolution", arch.resolution, self.resolutions)
        open_space = self._without_rules
        for g in open_space._assignments_of(arch.blocks[0]):
            parts, _ = open_space._match(g, arch.blocks)
            if parts is not None:
                return self._broken_rule(arch, open_space, Point(0, g, parts))
        return self._mismatch(arch, open_space)

    @functools.cached_property
    def _without_rules(self) -> Space:
        """The same file without its rules and this space's restrictions."""
        if not self._spec.rules and not self._kept:
            return self
        open_space = object.__new__(Space)
        open_space._spec = self._spec
        open_space._kept = {}
        open_space._structure = Structure(self._spec, {}, with_rules=False, checked=False)
        open_space._elements = open_space._structure.elements
        open_space.name, open_space.genes = self.name, open_space._structure.genes
        open_space.resolutions = open_space._structure.resolutions
        return open_space

    def _broken_rule(self, arch: Arch, open_space: Space, point: Point) -> str:
        names = iter(labels(arch))
        places = [
            (next(names), table, part, j)
            for table, part in zip(open_space._elements, point.parts, strict=True)
            for j in range(len(part.combos))
        ]
        for rule in self._spec.rules:
            if isinstance(rule, NonDecreasing):
                broken = open_space._broken_order(point, rule)
                if broken is not None:
                    return broken
                continue
            for name, table, part, j in places:
                text = _limited(rule, open_space, point.g, name, table, part, j)
                if text is not None:
                    return text
        for gene in self.genes:
            if gene.name in self._kept:
                full = open_space._codes([point])[0]
                column = [g.name for g in open_space.genes].index(gene.name)
                value = open_space.genes[column].choices[int(full[column])]
                if value not in gene.choices:
                    return not_among(f"restricted gene {gene.name}", value, gene.choices)
        return "the restriction of this space leaves it out"

    def _broken_order(self, point: Point, only: NonDecreasing | None = None) -> str | None:
        for rule in self._structure.orders if only is None else [only]:
            tables = [t for t in self._elements if t.name in rule.elements]
            for before, behind in itertools.pairwise(tables):
                low = before.param_table(rule.param)[point.g, point.parts[before.index].s]
                high = behind.param_table(rule.param)[point.g, point.parts[behind.index].s]
                if low > high:
                    return (
                        f"{rule.name}: {rule.param} falls from {low:g} in {before.name} "
                        f"to {high:g} in {behind.name}"
                    )
        return None

    def _mismatch(self, arch: Arch, open_space: Space) -> str:
        """Say where a chain of blocks leaves the space, by the assignment that fits furthest."""
        blocks = arch.blocks
        assignments = range(len(open_space._structure.assignments))
        g = max(assignments, key=lambda g: open_space._match(g, blocks)[1])
        at = 0
        total: Total = (1, 1)
        for table, following in itertools.pairwise([*open_space._elements, None]):
            assert table is not None
            part, used = table.match(g, blocks[at:], total)
            name = labels(arch)[at + used] if at + used < len(blocks) else ""
            if part is None or following is None:
                break
            behind = table.total_after(g, part[1], part[2][0], total)
            ahead = blocks[at + used : at + used + 1]
            if ahead and following.match(g, ahead, behind)[1] == 0:
                return _between(table, following, g, behind, used, name, ahead[0])
            total, at = behind, at + used
        if not name and (part is None or following is not None):
            return f"{table.name}: the network ends after {at + used} blocks, before this is complete"
        if part is not None:
            return f"{table.name}: {name}, {blocks[at + used]}, follows behind it"
        if following is not None and used and _begins(following, g, blocks[at + used]):
            allowed = listing(table.depths)
            return f"{table.name}_depth: the network has {used} blocks there, allowed: {allowed}"
        return _difference(table.name, name, blocks[at + used], table.options(g, used, total))

    # -- changing --------------------------------------------------------------------------------

    def neighbors(self, arch: Arch) -> list[Arch]:
        """Return every network that differs in exactly one choice, each once.

        Two networks are neighbours if some codes of one and some codes of the other differ in exactly one
        gene; genes of absent blocks may have any value, so a deeper neighbour's new blocks may be any.
        """
        return [self._arch(point) for point in self._neighbors(self._own(arch))]

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Return a random neighbour: a gene is drawn first, then its new value; absent genes are random.

        Raises:
            SpaceError: the network is not in the space, or has no neighbour.
        """
        point = self._own(arch)
        sizes = np.array([len(gene.choices) for gene in self.genes])
        free = np.flatnonzero(sizes > 1)
        for _ in range(_TRIES if len(free) else 0):
            codes = self._random_codes(point, rng)
            column = int(rng.choice(free))
            codes[column] = (codes[column] + rng.integers(1, sizes[column])) % sizes[column]
            made = self._point_of(codes)
            if made is not None and made != point:
                return self._arch(made)
        others = sorted(self._neighbors(point))
        if not others:
            raise SpaceError(f"{self.name}: {_named(arch)} has no neighbour")
        return self._arch(others[int(rng.integers(len(others)))])

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Return a network each of whose genes comes from one of two parents, with even chances.

        A gene that only one parent's blocks have comes from that one.
        """
        first, second = self._own(a), self._own(b)
        codes = self._codes([first, second])
        present = np.stack([self._present(first), self._present(second)])
        for _ in range(_TRIES):
            take = rng.integers(0, 2, size=len(self.genes))
            take = np.where(present[0] == present[1], take, present[1].astype(np.int64))
            made = self._point_of(codes[take, np.arange(len(self.genes))])
            if made is not None:
                return self._arch(made)
        return self._arch((first, second)[int(rng.integers(2))])

    def restrict(self, **choices: Iterable[Any]) -> Space:
        """Return the space of the same file with fewer choices.

        Args:
            **choices: for a gene's name, the choices to keep. ``stage4_kernel`` stands for the genes
                ``stage4_block1_kernel``, ``stage4_block2_kernel`` and so on.

        Example:
            >>> from lcnas import spaces
            >>> space = spaces.load("pplcnet_tail")
            >>> small = space.restrict(stage2_width=[16, 24, 32], stage4_kernel=[3])
            >>> small.size < space.size
            True
        """
        kept = dict(self._kept)
        for key, given in choices.items():
            genes = self._genes_named(key)
            values = [given] if isinstance(given, str | int | float) else list(given)
            for gene in genes:
                for value in values:
                    if not any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in gene.choices):
                        raise SpaceError(not_among(f"{self.name}: gene {gene.name}", value, gene.choices))
                if not values:
                    raise SpaceError(
                        f"{self.name}: gene {gene.name}: keeps none of {listing(gene.choices)}"
                    )
                kept[gene.name] = tuple(c for c in gene.choices if c in values)
        return Space(self._spec, kept)

    def _genes_named(self, key: str) -> list[Gene]:
        exact = [gene for gene in self.genes if gene.name == key]
        if exact:
            return exact
        stage, _, field = key.partition("_")
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
        point = self._find(arch)
        if point is None:
            raise SpaceError(f"{_named(arch)} is not in {self.name}: {self.why_not(arch)}")
        return point

    def _present(self, point: Point) -> NDArray[np.bool_]:
        """Return which genes belong to blocks that the network has."""
        out = np.ones(len(self.genes), dtype=bool)
        for table, part in zip(self._elements, point.parts, strict=True):
            for digits in table.slot_digits[len(part.combos) :]:
                out[[digit.column for digit in digits if digit.column >= 0]] = False
        return out

    def _random_codes(self, point: Point, rng: np.random.Generator) -> Ints:
        """Return one of the network's codes at random: genes without effect have any value."""
        parts = []
        for table, part in zip(self._elements, point.parts, strict=True):
            s = int(rng.choice(table.equals(point.g, part.d, part.s)))
            combos = [
                int(rng.choice(table.same_blocks(point.g, part, j, s)))
                for j in range(len(part.combos))
            ]
            for j in range(len(combos), table.slots):
                combos.append(int(rng.integers(len(table.slot_values[j]))))
            parts.append((part.d, s, combos))
        out = np.zeros((1, len(self.genes)), dtype=np.int64)
        _write(out, [self._structure.resolution_digit], np.array([point.r]))
        _write(out, self._structure.network_digits, np.array([point.g]))
        for table, (d, s, combos) in zip(self._elements, parts, strict=True):
            _write(out, [table.depth_digit], np.array([d]))
            _write(out, table.sig_digits, np.array([s]))
            for digits, c in zip(table.slot_digits, combos, strict=True):
                _write(out, digits, np.array([c]))
        return out[0]

    def _point_of(self, codes: Ints) -> Point | None:
        """Return the canonical point of one row of codes, or None where a rule forbids it."""
        try:
            return next(self._rows_of(self._columns(codes[None])))
        except CodesError:
            return None

    def _neighbors(self, point: Point) -> dict[Point, None]:
        found: dict[Point, None] = {}
        for other in itertools.chain(self._other_networks(point), self._other_parts(point)):
            if other != point and self._broken_order(other) is None:
                found.setdefault(other)
        return found

    def _other_networks(self, point: Point) -> Iterator[Point]:
        """Yield what a change of resolution or of one network-wide gene gives."""
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
        """Yield what a change of one gene of one element gives."""
        for e, (table, part) in enumerate(zip(self._elements, point.parts, strict=True)):
            for other in table.changed(point.g, part):
                parts = (*point.parts[:e], Part(*other), *point.parts[e + 1 :])
                yield Point(point.r, point.g, parts)

    # -- placed blocks ---------------------------------------------------------------------------

    def rows(self, classes: int = 1000) -> tuple[PlacedBlock, ...]:
        """Return the distinct placed blocks of all networks of the space: the rows of a table."""
        return self._table(classes).rows

    def row_ids(self, codes: ArrayLike) -> NDArray[np.int32]:
        """Return for each network the number in :meth:`rows` of each of its blocks.

        Returns:
            An array of shape (n, slots), slots in the order of the chain; -1 where a block is absent.
        """
        return self._table(1000).ids(self._columns(codes))

    @functools.lru_cache(maxsize=4)  # noqa: B019 - kept as long as the space
    def _table(self, classes: int) -> _Rows:
        return _Rows(self, classes)

    def extremes(
        self, values: Sequence[int], classes: int = 1000
    ) -> tuple[tuple[int, Arch], tuple[int, Arch]]:
        """Return the least and the greatest sum of row values over all networks, each with a network.

        Args:
            values: one number for each of :meth:`rows`, in their order.
            classes: of :meth:`rows`.
        """
        table = self._table(classes)
        low, least = table.best(values, min)
        high, most = table.best(values, max)
        return (low, self._arch(least)), (high, self._arch(most))


class _Chain:
    """The different chains of one network-wide assignment, counted by a pass from the head to the stem.

    A variant is a depth and a signature of an element; rules over neighbours (a width that does not fall)
    decide which variant may follow which.
    """

    def __init__(self, structure: Structure, g: int) -> None:
        self.tables = structure.elements
        self.variants = [table.variants(g) for table in self.tables]
        self.keys = [
            [tuple(_order_key(structure, table, g, s)) for _, s, _ in variants]
            for table, variants in zip(self.tables, self.variants, strict=True)
        ]
        # behind[e][key]: number of chains from element e on, where ``key`` is what came before.
        self.behind: list[dict[tuple[float, ...], int]] = [{} for _ in range(len(self.tables) + 1)]
        start = (-math.inf,) * len(structure.orders)
        self.start = start
        self.total = self._count(0, start)

    def _count(self, e: int, before: tuple[float, ...]) -> int:
        if e == len(self.tables):
            return 1
        known = self.behind[e].get(before)
        if known is None:
            known = sum(self.weights(e, before))
            self.behind[e][before] = known
        return known

    @functools.lru_cache(maxsize=None)  # noqa: B019 - kept as long as the space
    def weights(self, e: int, before: tuple[float, ...]) -> tuple[int, ...]:
        """Return the number of chains from element e on that begin with each of its variants."""
        out = []
        for (_, _, n), key in zip(self.variants[e], self.keys[e], strict=True):
            after = _follow(before, key)
            out.append(0 if after is None else n * self._count(e + 1, after))
        return tuple(out)

    def draw(self, n: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
        """Yield for each element (depth indices, signatures) of n chains drawn uniformly."""
        states = [self.start]
        state = np.zeros(n, dtype=np.int64)
        for e, variants in enumerate(self.variants):
            picked = np.zeros(n, dtype=np.int64)
            following: dict[tuple[float, ...], int] = {}
            new = np.zeros(n, dtype=np.int64)
            for i, before in enumerate(states):
                rows = np.flatnonzero(state == i)
                if not len(rows):  # nothing leads here, or nothing leads on from here
                    continue
                picked[rows] = draw(self.weights(e, before), len(rows), rng)
                ends = [_follow(before, key) for key in self.keys[e]]
                number = [following.setdefault(end, len(following)) if end is not None else 0 for end in ends]
                new[rows] = np.array(number)[picked[rows]]
            states, state = list(following), new
            pairs = np.array([(d, s) for d, s, _ in variants], dtype=np.int64)
            yield pairs[picked, 0], pairs[picked, 1]


def _order_key(structure: Structure, table: ElementTable, g: int, s: int) -> Iterator[float]:
    """Yield, for each order rule, the signature's value, or NaN where the rule passes over the element."""
    for rule in structure.orders:
        value = math.nan
        if table.name in rule.elements:
            value = float(table.param_table(rule.param)[g, s])
        yield value


def _follow(before: tuple[float, ...], key: tuple[float, ...]) -> tuple[float, ...] | None:
    """Return what the next element must not fall below, or None where this one already does."""
    out = []
    for low, value in zip(before, key, strict=True):
        if value < low:
            return None
        out.append(low if math.isnan(value) else value)
    return tuple(out)


class _Rows:
    """The distinct placed blocks of a space, and arrays that lead from codes to them."""

    def __init__(self, space: Space, classes: int) -> None:
        self.space = space
        self.classes = classes
        self._numbers: dict[PlacedBlock, int] = {}
        self.tables = space._elements
        borders: dict[Shape, int] = {}
        for resolution in space.resolutions:
            borders.setdefault((*height_width(resolution), INPUT_CHANNELS), len(borders))
        self.borders = [borders]  # before each element: shape -> number
        self.first: list[Ints] = []  # [border, g, s, c] -> row of the first block
        self.after: list[Ints] = []  # [border, g, s] -> border behind the element
        self.rest: list[Ints] = []  # [border behind, g, s, j - 1, c] -> row of block j
        reached = {
            (number, g, (1, 1)) for number in borders.values() for g in range(len(space._structure.assignments))
        }
        for table in self.tables:
            reached = self._fill(table, reached)
        self.rows = tuple(self._numbers)

    def _row(self, table: ElementTable, block: Block, shape: Shape) -> int:
        try:
            placed = place(block, shape, self.classes)
        except ShapeError as error:
            raise table.structure.error(f"{table.element.where}: {block}: {error}") from None
        return self._numbers.setdefault(placed, len(self._numbers))

    def _fill(
        self, table: ElementTable, reached: set[tuple[int, int, Total]]
    ) -> set[tuple[int, int, Total]]:
        before = self.borders[-1]
        shapes = list(before)
        G, S, _, C = table.labels.shape
        first = np.full((len(shapes), G, S, C), -1, dtype=np.int64)
        after = np.full((len(shapes), G, S), -1, dtype=np.int64)
        behind: dict[Shape, int] = {}
        going: set[tuple[int, int, Total]] = set()
        inside: set[tuple[int, int, int]] = set()
        for border, g, total in sorted(reached):
            for s in range(S):
                for c in range(len(table.slot_values[0])):
                    block = table.block(g, s, 0, c, total)
                    first[border, g, s, c] = self._row(table, block, shapes[border])
                    out = place(block, shapes[border], self.classes).out_shape
                    after[border, g, s] = behind.setdefault(out, len(behind))
                number = int(after[border, g, s])
                going.add((number, g, table.total_after(g, s, 0, total)))
                inside.add((number, g, s))
        rest = np.full((len(behind), G, S, max(0, table.slots - 1), C), -1, dtype=np.int64)
        names = list(behind)
        for number, g, s in sorted(inside):
            for j in range(1, table.slots):
                for c in range(len(table.slot_values[j])):
                    block = table.block(g, s, j, c, (1, 1))
                    rest[number, g, s, j - 1, c] = self._row(table, block, names[number])
        self.first.append(first)
        self.after.append(after)
        self.rest.append(rest)
        self.borders.append(behind)
        return going

    def ids(self, columns: Columns) -> NDArray[np.int32]:
        """Return the row of each slot of each network, -1 where a block is absent."""
        out = []
        border = columns.r
        for e, table in enumerate(self.tables):
            s, c, g = columns.s[e], columns.c[e], columns.g
            out.append(self.first[e][border, g, s, c[:, 0]])
            border = self.after[e][border, g, s]
            depth = np.array(table.depths)[columns.d[e]]
            for j in range(1, table.slots):
                row = self.rest[e][border, g, s, j - 1, c[:, j]]
                out.append(np.where(depth > j, row, -1))
        return np.stack(out, axis=1).astype(np.int32)

    def best(
        self, values: Sequence[int], better: Callable[..., Any]
    ) -> tuple[int, Point]:
        """Return the least or greatest sum over a network's rows, and that network."""
        orders = self.space._structure.orders
        ends: list[tuple[int, Point]] = []
        for r in range(len(self.space.resolutions)):
            for g in range(len(self.space._structure.assignments)):
                chain = self.space._chain(g)
                states: dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]] = {
                    (r, (-math.inf,) * len(orders)): (0, ())
                }
                for e in range(len(self.tables)):
                    states = self._step(e, g, chain, states, values, better)
                ends += [(cost, Point(r, g, parts)) for cost, parts in states.values()]
        return better(ends, key=lambda end: end[0])

    def _step(
        self,
        e: int,
        g: int,
        chain: _Chain,
        states: dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]],
        values: Sequence[int],
        better: Callable[..., Any],
    ) -> dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]]:
        table = self.tables[e]
        out: dict[tuple[int, tuple[float, ...]], tuple[int, tuple[Part, ...]]] = {}
        for (border, low), (cost, parts) in states.items():
            for (d, s, _), key in zip(chain.variants[e], chain.keys[e], strict=True):
                after = _follow(low, key)
                if after is None:
                    continue
                behind = int(self.after[e][border, g, s])
                total, combos = cost, []
                for j in range(table.depths[d]):
                    ids = self.first[e][border, g, s] if j == 0 else self.rest[e][behind, g, s, j - 1]
                    c = better(table.distinct(g, s, j), key=lambda c, ids=ids: values[ids[c]])  # type: ignore[misc]
                    total += values[int(ids[c])]
                    combos.append(c)
                state = (behind, after)
                made = (total, (*parts, Part(d, s, tuple(combos))))
                out[state] = better(out[state], made, key=lambda x: x[0]) if state in out else made
        return out


# -- small helpers ---------------------------------------------------------------------------------


def _read(rows: Ints, digits: Sequence[Digit]) -> Ints:
    """Return the mixed-radix number of several columns."""
    out = np.zeros(len(rows), dtype=np.int64)
    for digit in digits:
        out *= digit.size
        if digit.column >= 0:
            out += rows[:, digit.column]
    return out


def _write(rows: Ints, digits: Sequence[Digit], numbers: Ints) -> None:
    """Write a mixed-radix number into several columns."""
    for digit in reversed(digits):
        if digit.column >= 0:
            rows[:, digit.column] = numbers % digit.size
        numbers = numbers // digit.size


def _named(arch: Arch) -> str:
    return arch.name or repr(arch)


def _limited(
    rule: Limit, space: Space, g: int, name: str, table: ElementTable, part: Part, j: int
) -> str | None:
    """Return how a block breaks a limit, or None."""
    if not rule.covers(table.name, j):
        return None
    values = table.values(g, part.s, j, part.combos[j])
    values |= {"depth": table.depths[part.d], "block": table.signatures[part.s].template.name}
    if rule.param not in values:
        return None
    value = values[rule.param]
    if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in rule.values):
        return None
    block = table.block(g, part.s, j, part.combos[j], (1, 1)) if j else None
    what = f", {block}," if block is not None else ""
    return (
        f"{rule.name}: {name}{what} has {rule.param} {_word(value)}, "
        f"allowed there: {listing(_word(v) for v in rule.values)}"
    )


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _begins(table: ElementTable, g: int, block: Block) -> bool:
    return any(table.match(g, [block], total)[1] for total in {t for t, _ in table.totals[g]})


def _between(
    table: ElementTable,
    following: ElementTable,
    g: int,
    total: Total,
    used: int,
    name: str,
    block: Block,
) -> str:
    """Say why a block can neither go on with one element nor begin the next."""
    later = table.options(g, table.slots - 1, total) if table.slots > 1 else []
    if used == table.slots and block in later:
        return (
            f"{table.name}_depth: {name} is one block too many, allowed: {listing(table.depths)}"
        )
    going_on = table.options(g, used, total) if used < table.slots else []
    begins = following.options(g, 0, total)
    owner = table.name if _distance(block, going_on) <= _distance(block, begins) else following.name
    return _difference(owner, name, block, going_on if owner == table.name else begins)


def _distance(block: Block, options: Sequence[Block]) -> float:
    """Return in how many fields a block differs from the nearest option."""
    fields = vocabulary.field_names(type(block))
    return min(
        (
            sum(getattr(o, f) != getattr(block, f) for f in fields)
            if type(o) is type(block)
            else math.inf
            for o in options
        ),
        default=math.inf,
    )


def _difference(owner: str, name: str, block: Block, options: Sequence[Block]) -> str:
    """Say which field of a block no option has, by the option that differs least."""
    alike = [option for option in options if type(option) is type(block)]
    if not alike:
        kinds = sorted({option.type for option in options})
        given = f"{owner}_block: {name} is {block.type!r}"
        return f"{given}, allowed: {listing(kinds)}{nearest(block.type, kinds)}"
    fields = vocabulary.field_names(type(block))
    closest = min(alike, key=lambda o: sum(getattr(o, f) != getattr(block, f) for f in fields))
    wrong = [f for f in fields if getattr(closest, f) != getattr(block, f)]
    same = [f for f in fields if f not in wrong]
    near = [o for o in alike if all(getattr(o, f) == getattr(closest, f) for f in same)]
    field = wrong[0]
    value = getattr(block, field)
    allowed = list(dict.fromkeys(getattr(o, field) for o in near))
    more = f" (and another {', '.join(wrong[1:])})" if len(wrong) > 1 else ""
    message = f"{owner}_{field}: {name} has {field} {_word(value)}{more}"
    return f"{message}, allowed: {listing(_word(v) for v in allowed)}{nearest(value, allowed)}"
