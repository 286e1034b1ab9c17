"""What budgets and terms refuse, in one line each."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from lcnas import budgets, spaces
from lcnas.budgets import Budget, Terms
from lcnas.errors import BudgetError, CodesError, LcnasError, SpaceError

from .oracle import case


def refused(make, *parts):
    with pytest.raises(BudgetError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300
    assert isinstance(error.value, LcnasError)
    for part in parts:
        assert part in text


@pytest.fixture
def small():
    return case("per_block")


ENTRIES = np.arange(5)
KINDS = np.zeros((5, 2), dtype=int)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((1.5, ENTRIES), "base: 1.5 is not one whole number"),
        ((True, ENTRIES), "base: True is not one whole number"),
        ((0, ENTRIES * 0.5), "entries: array([0. , 0.5, 1. , 1.5, 2. ]) is not whole numbers (n,)"),
        ((0, [[1, 2]]), "entries: [[1, 2]] is not whole numbers (n,)"),
        ((0, [[1], [1, 2]]), "entries: [[1], [1, 2]] is not whole numbers"),
        ((0, [1 << 60]), "a value is beyond 4503599627370496 ticks"),
        ((0, ENTRIES, KINDS), "kinds and pairs belong together"),
        ((0, ENTRIES, KINDS[:4], [[1]]), "kinds: shape (4, 2) is not (5, 2)"),
        (
            (0, ENTRIES, KINDS + np.array([0, 1]), [[1]]),
            "entry 0: 1 is not one of the 1 right kinds",
        ),
        (
            (0, ENTRIES, KINDS - np.array([1, 0]), [[1]]),
            "entry 0: -1 is not one of the 1 left kinds",
        ),
    ],
)
def test_terms_that_are_wrong(arguments, complaint):
    refused(lambda: Terms(*arguments), "terms: ", complaint)


def test_terms_of_another_space(small):
    n = len(small.space.placed_blocks())
    terms = Terms(0, np.ones(n + 1, dtype=int))
    complaint = f"{n + 1} entries are not the {n} of per_block with 1000 classes"
    refused(lambda: terms.cost(small.space, small.codes), complaint)
    refused(lambda: Budget(small.space, terms, 10), complaint)


def test_terms_cannot_be_changed_afterwards():
    values = np.arange(3)
    terms = Terms(0, values)
    values[0] = 100
    assert terms.entries.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        terms.entries[0] = 1


def test_terms_can_be_copied_and_sent_to_other_processes(small):
    terms = small.terms(0, pairs=True)
    costs = terms.cost(small.space, small.codes)
    for other in (copy.deepcopy(terms), pickle.loads(pickle.dumps(terms))):
        assert (other.cost(small.space, small.codes) == costs).all()


def test_costs_of_wrong_codes(small):
    terms = small.terms(0, pairs=True)
    with pytest.raises(CodesError, match="shape"):
        terms.cost(small.space, small.codes[:, 1:])
    with pytest.raises(CodesError, match="is not one of 0 to"):
        terms.cost(small.space, small.codes + 99)
    mixed = case("mixed")
    wrong = mixed.codes[:1].copy()
    names = [gene.name for gene in mixed.space.genes]
    wrong[0, names.index("stem_width")] = 2
    wrong[0, names.index("stage1_width")] = 0
    with pytest.raises(CodesError, match="widths_grow"):
        mixed.terms(0, pairs=True).cost(mixed.space, wrong)


def test_limits_that_are_no_numbers(small):
    terms = small.terms(0, pairs=False)
    for wrong in ("5", None, math.nan, True):
        refused(
            lambda w=wrong: Budget(small.space, terms, w), f"max_cost: {wrong!r} is not a number"
        )
    text: Any = "1"
    refused(lambda: Budget(small.space, terms, 5, text), "min_cost: '1' is not a number of ticks")


def test_messages_write_costs_in_the_given_unit(small):
    terms = Terms(1500, np.zeros(len(small.space.placed_blocks()), dtype=int))

    def make(most, least=0):
        return Budget(small.space, terms, most, least, show=lambda t: f"{t / 1000:.3f} ms")

    ends = "the lowest cost is 1.500 ms, the highest 1.500 ms"
    refused(lambda: make(1499), "no network of per_block costs at most 1.499 ms", ends)
    refused(lambda: make(math.inf, 1501), "costs at least 1.501 ms", ends)
    assert repr(make(9999)) == "Budget(per_block, 1.500 ms to 1.500 ms)"
    space = spaces.load("pplcnet_tail")
    refused(lambda: budgets.macs(space, 1e6), "at most 1,000,000 MACs", "7,488,192 MACs")
    refused(lambda: budgets.params(space, 1e5), "at most 100,000 params", "147,008 params")


def test_a_gap_between_costs_of_a_large_space_is_found():
    space = spaces.load("pplcnet_tail")
    entries = np.full(len(space.placed_blocks()), 10)
    refused(lambda: Budget(space, Terms(0, entries), 99, 91), "from 91 ticks to 99 ticks")
    # two networks of 1.4e11 inside
    entries = np.zeros(len(space.placed_blocks()), dtype=int)
    entries[-1] = 10
    assert Budget(space, Terms(0, entries), 10, 5).count() > 0


def test_scores_that_are_wrong(small):
    budget = Budget(small.space, small.terms(0, pairs=False), math.inf, -math.inf)
    genes = small.space.genes
    zeros = [np.zeros(len(gene.choices)) for gene in genes]
    refused(
        lambda: budget.best(zeros[1:]), f"scores: {len(genes) - 1} arrays", f"{len(genes)} genes"
    )
    refused(
        lambda: budget.best([np.zeros(9), *zeros[1:]]), "gene stem_width: shape (9,) is not (2,)"
    )
    refused(lambda: budget.best([["a", "b"], *zeros[1:]]), "gene stem_width", "is not numbers")
    refused(lambda: budget.best([[0, math.inf], *zeros[1:]]), "gene stem_width", "is not finite")
    refused(lambda: budget.best([[0, 1e308]] * len(genes)), "")


def test_numbers_of_draws_and_bands(small):
    budget = Budget(small.space, small.terms(0, pairs=False), math.inf, -math.inf)
    rng = np.random.default_rng(0)
    refused(lambda: budget.sample_codes(-1, rng), "n: -1 is not a whole number of at least 0")
    refused(
        lambda: budget.sample_codes(1, rng, bands=0), "bands: 0 is not a whole number of at least 1"
    )
    assert budget.sample_codes(0, rng).shape == (0, len(small.space.genes))
    two: Any = np.int64(2)
    assert budget.sample_codes(two, rng).shape == (2, len(small.space.genes))
    negative = Terms(-10_000, small.terms(0, pairs=False).entries)
    wrong = Budget(small.space, negative, math.inf, -math.inf)
    refused(lambda: wrong.sample_codes(1, rng, bands=2), "equal parts of log cost")


def test_networks_of_other_spaces(small):
    budget = Budget(small.space, small.terms(0, pairs=False), math.inf, -math.inf)
    other = case("kinds").archs[0]
    assert other not in budget
    for method in (budget.cost, budget.neighbors):
        with pytest.raises(SpaceError, match="is not in per_block"):
            method(other)


def test_a_space_of_one_network():
    space = spaces.load("pplcnet_tail")
    codes = space.sample_codes(1, np.random.default_rng(0))
    chosen = {g.name: [g.choices[c]] for g, c in zip(space.genes, codes[0], strict=True)}
    one = space.restrict(**chosen)
    assert one.size == 1
    terms = Terms(3, np.arange(len(one.placed_blocks())))
    budget = Budget(one, terms, math.inf)
    assert budget.count() == 1
    zeros = [np.zeros(len(gene.choices)) for gene in one.genes]
    arch = budget.sample(np.random.default_rng(1))
    assert budget.fastest() == budget.slowest() == budget.best(zeros) == arch
    assert budget.cost(arch) == budget.lowest == budget.highest
    with pytest.raises(SpaceError, match="has no neighbour"):
        budget.mutate(arch, np.random.default_rng(2))
    assert budget.crossover(arch, arch, np.random.default_rng(3)) == arch


def test_draws_repeat_with_their_seed(small):
    budget = Budget(small.space, small.terms(0, pairs=True), math.inf, 100)
    a, b = (budget.sample_codes(50, np.random.default_rng(4), bands=3) for _ in range(2))
    assert (a == b).all()
    assert budget.sample(np.random.default_rng(5)) == budget.sample(np.random.default_rng(5))
