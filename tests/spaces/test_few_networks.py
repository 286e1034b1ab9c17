"""Spaces of one network, without any gene or left over by a restriction: each method gives that one."""

from __future__ import annotations

import numpy as np
import pytest

from lcnas import budgets, cost, spaces
from lcnas.errors import BudgetError, CodesError, SpaceError

FEW = """
version = 1
resolution = [32]
[stem]
block = "conv"
width = 8
stride = 2
[[stages]]
block = "depthwise_separable"
depth = 1
stride = 2
width = WIDTH
[head]
block = "classifier"
width = 0
"""


def of_widths(*widths: int) -> spaces.Space:
    """Return a space of so many networks; one without genes for a single width."""
    text = f"{{ choices = {list(widths)} }}" if len(widths) > 1 else str(widths[0])
    return spaces.loads(FEW.replace("WIDTH", text), "few")


def restricted() -> spaces.Space:
    return of_widths(16, 24).restrict(stage1_width=16)


@pytest.fixture(params=["no gene", "restricted"])
def one(request):
    return of_widths(16) if request.param == "no gene" else restricted()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_it_is_counted_listed_and_drawn(one, rng):
    genes = len(one.genes)
    assert one.size == 1
    (only,) = one.enumerate()
    assert only in one
    assert one.sample(rng) == only
    for n in (0, 1, 3):
        codes = one.sample_codes(n, rng)
        assert codes.shape == (n, genes)
        assert codes.dtype == np.int64
        assert one.decode(codes) == [only] * n
        assert one.canonical(codes).shape == one.checked(codes).shape == (n, genes)
        assert one.encode([only] * n).shape == (n, genes)
        assert one.block_ids(codes).shape == (n, 3)
        assert one.decode(codes.tolist()) == [only] * n  # as a file keeps them


def test_a_row_of_codes_is_a_network_and_an_empty_list_is_none(rng):
    one = of_widths(16)
    (only,) = one.enumerate()
    assert one.decode(one.sample_codes(3, rng)[0]) == [only]  # of shape (0,)
    assert one.decode([]) == []
    assert of_widths(16, 24).decode([]) == []
    with pytest.raises(CodesError, match=r"codes: shape \(1, 1\) is not \(n, 0\)"):
        one.decode([[0]])


def test_what_changes_a_network_says_that_there_is_no_other(one, rng):
    (only,) = one.enumerate()
    assert one.neighbors(only) == []
    assert one.neighbor_codes(only).shape == (0, len(one.genes))
    assert one.crossover(only, only, rng) == only
    with pytest.raises(SpaceError, match="has no neighbour: it is the one network of the space"):
        one.mutate(only, rng)


def test_a_budget_holds_it_or_is_refused(one, rng):
    (only,) = one.enumerate()
    macs = cost.macs(only, classes=10)
    budget = budgets.macs(one, macs, classes=10)
    assert budget.count() == 1
    assert budget.sample(rng) == budget.fastest() == budget.slowest() == only
    assert budget.best([np.zeros(len(gene.choices)) for gene in one.genes]) == only
    assert budget.neighbors(only) == []
    assert budget.crossover(only, only, rng) == only
    assert budget.sample_codes(3, rng).shape == budget.repair(one.encode([only] * 3)).shape
    assert budget.costs(one.encode([only] * 2)).tolist() == [macs, macs]
    with pytest.raises(SpaceError, match="has no neighbour"):
        budget.mutate(only, rng)
    with pytest.raises(BudgetError, match=f"lowest cost is {macs:,} MACs"):
        budgets.macs(one, macs - 1, classes=10)


def test_of_two_networks_each_is_the_others_neighbour(rng):
    two = of_widths(16, 24)
    first, second = two.enumerate()
    assert two.neighbors(first) == [second]
    assert two.mutate(second, rng) == first
    assert {two.crossover(first, second, rng) for _ in range(40)} == {first, second}
    assert {a.id for a in two.decode(two.sample_codes(40, rng))} == {first.id, second.id}
