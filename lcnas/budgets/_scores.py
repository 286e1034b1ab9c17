"""Scores of choices as integers, so that sums and ties are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas.budgets._graph import Graph
from lcnas.errors import BudgetError, shorten
from lcnas.spaces import Gene

Ints = NDArray[np.int64]
SCALE = 58  # sums of scores are below 2**59


def whole_scores(genes: Sequence[Gene], scores: Sequence[ArrayLike]) -> Ints:
    """Return checked scores of all genes, concatenated, as multiples of one power of two.

    Raises:
        BudgetError: not one array per gene, with one finite number per choice.
    """
    if len(scores) != len(genes):
        raise BudgetError(
            f"scores: {len(scores)} arrays are not one for each of {len(genes)} genes"
        )
    arrays = [_checked(gene, values) for gene, values in zip(genes, scores, strict=True)]
    largest = sum(float(np.abs(array).max()) for array in arrays)
    if not math.isfinite(largest):
        raise BudgetError("scores: their sums are beyond what a float holds")
    flat = np.concatenate([*arrays, np.zeros(0)])
    exponent = SCALE - math.frexp(largest)[1] if largest else 0
    out: Ints = np.rint(np.ldexp(flat, exponent)).astype(np.int64)
    return out


def _checked(gene: Gene, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BudgetError(f"scores: gene {gene.name}: {shorten(values)} is not numbers") from None
    if array.shape != (len(gene.choices),):
        raise BudgetError(
            f"scores: gene {gene.name}: shape {array.shape} is not ({len(gene.choices)},), "
            "a number for each choice"
        )
    if not np.isfinite(array).all():
        raise BudgetError(f"scores: gene {gene.name}: {shorten(array.tolist())} is not finite")
    return array


class EdgeScores:
    """Sums the scores of each edge's genes, for all edges of a graph at once."""

    def __init__(self, graph: Graph, genes: Sequence[Gene]) -> None:
        begins = np.cumsum([0, *(len(gene.choices) for gene in genes)])
        width = max(len(codes) for codes in graph.genes)
        self.size = int(begins[-1])
        self.index = np.full((len(graph.genes), width), self.size, dtype=np.int64)
        for k, codes in enumerate(graph.genes):
            self.index[k, : len(codes)] = [begins[column] + code for column, code in codes]

    def of(self, flat: Ints) -> Ints:
        """Return the score of each edge, (edges,), from the scores of all genes' choices."""
        out: Ints = np.append(flat, 0)[self.index].sum(axis=1)
        return out

    def unchanged(self, codes: Ints, genes: Sequence[Gene]) -> Ints:
        """Return scores (all genes' choices,) of -1 for each change of codes (genes,)."""
        flat = np.full(self.size, -1, dtype=np.int64)
        begins = np.cumsum([0, *(len(gene.choices) for gene in genes)])[:-1]
        flat[begins + codes] = 0
        return flat
