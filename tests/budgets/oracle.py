"""Small spaces with terms, and everything about them by brute force over all networks."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from lcnas import spaces
from lcnas.arch import Arch, walk
from lcnas.budgets import Budget, Terms
from lcnas.spaces import Space
from tests.spaces.small import SMALL

# Order rules and kinds of block over several resolutions of one shape class, and a head of its own choices.
MIXED = """
version = 1
resolution = [32, 48, [32, 48]]

[network.act]
choices = ["relu", "hard_swish"]

[blocks.plain]
type = "depthwise_separable"

[blocks.shortcut]
type = "depthwise_separable"
rest = { shortcut = true }

[stem]
block = "conv"
width = { choices = [8, 16, 24] }
stride = 2
act = { gene = "act" }

[[stages]]
block = { choices = ["plain", "shortcut"] }
depth = { choices = [1, 3] }
stride = 2
width = { choices = [8, 16] }
kernel = { choices = [3, 5], per = "block" }
act = { gene = "act" }

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [8, 16, 24] }
act = { gene = "act" }

[head]
block = "classifier"
width = { choices = [0, 8] }
act = { gene = "act" }

[[rules]]
name = "widths_grow"
non_decreasing = "width"
"""
TEXTS = {**{name: text for name, (text, _) in SMALL.items()}, "mixed": MIXED}


@dataclass(frozen=True)
class Case:
    """A space and all its networks."""

    space: Space
    archs: list[Arch]
    codes: np.ndarray  # (n, genes) canonical
    ids: list[list[int]]  # the numbers of each network's placed blocks

    def terms(self, seed: int, *, pairs: bool, low: int = -20, high: int = 60) -> Terms:
        """Return random terms."""
        rng = np.random.default_rng(seed)
        n = len(self.space.placed_blocks())
        entries, base = rng.integers(low, high, n), int(rng.integers(-50, 50))
        if not pairs:
            return Terms(base, entries)
        kinds = np.stack([rng.integers(0, 4, n), rng.integers(0, 3, n)], axis=1)
        return Terms(base, entries, kinds, rng.integers(-9, 9, (4, 3)))

    def costs(self, terms: Terms) -> np.ndarray:
        """Return the cost of each network, added up one by one."""
        out = []
        for ids in self.ids:
            total = terms.base + sum(int(terms.entries[i]) for i in ids)
            if terms.pairs is not None and terms.kinds is not None:
                for left, right in itertools.pairwise(ids):
                    total += int(terms.pairs[terms.kinds[left, 0], terms.kinds[right, 1]])
            out.append(total)
        return np.array(out)

    def tally(self, codes: np.ndarray) -> np.ndarray:
        """Return how often each network occurs among codes."""
        index = {tuple(row): i for i, row in enumerate(self.codes.tolist())}
        return np.bincount([index[tuple(row)] for row in codes.tolist()], minlength=len(index))

    def present(self) -> np.ndarray:
        """Return (n, genes) whether a gene belongs to blocks that the network has."""
        out = np.ones(self.codes.shape, dtype=bool)
        for i, arch in enumerate(self.archs):
            depth = {stage.name: len(stage.blocks) for stage in arch.stages}
            for column, gene in enumerate(self.space.genes):
                stage, _, rest = gene.name.partition("_block")
                if rest[:1].isdigit():
                    out[i, column] = int(rest.partition("_")[0]) <= depth[stage]
        return out


@functools.cache
def case(name: str) -> Case:
    """Return a small space with all its networks."""
    space = spaces.loads(TEXTS[name], name)
    archs = list(space.enumerate())
    number = {placed: i for i, placed in enumerate(space.placed_blocks())}
    ids = [[number[placed] for placed in walk(arch)] for arch in archs]
    return Case(space, archs, space.encode(archs), ids)


def windows(costs: np.ndarray, seed: int) -> list[tuple[float, float]]:
    """Return (least, most) costs: whole, one-sided, two-sided, a single cost."""
    rng = np.random.default_rng(seed)
    a, b = sorted(int(x) for x in rng.choice(costs, 2))
    return [(-math.inf, math.inf), (-math.inf, a), (b, math.inf), (a, b), (a, a)]


def budget(space: Space, terms: Terms, window: tuple[float, float]) -> Budget:
    """Return the budget of a window (least, most)."""
    return Budget(space, terms, window[1], window[0])


def lowest(codes: np.ndarray) -> tuple[int, ...]:
    """Return the lowest row."""
    return min(map(tuple, codes.tolist()))
