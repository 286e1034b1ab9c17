"""Small spaces against brute force over all codes: counting, drawing, neighbours, canonical codes."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
from scipy import stats

from lcnas import cost, spaces
from lcnas.arch import Arch
from lcnas.errors import CodesError
from lcnas.spaces import Space

from .small import SMALL


@pytest.fixture(scope="module", params=sorted(SMALL))
def case(request: pytest.FixtureRequest) -> tuple[Space, int, dict[Arch, list[tuple[int, ...]]]]:
    """A small space, its size worked out by hand, and every network with all its codes."""
    text, size = SMALL[request.param]
    space = spaces.loads(text, request.param)
    spellings: dict[Arch, list[tuple[int, ...]]] = collections.defaultdict(list)
    for codes in itertools.product(*(range(len(gene.choices)) for gene in space.genes)):
        try:
            (arch,) = space.decode(np.array(codes))
        except CodesError as error:
            assert "widths_grow" in str(error)
            continue
        spellings[arch].append(codes)
    return space, size, dict(spellings)


def test_size_is_the_number_of_different_networks(case):
    space, size, spellings = case
    assert space.size == len(spellings) == size


def test_enumerate_lists_each_network_once(case):
    space, _, spellings = case
    listed = list(space.enumerate())
    assert len(listed) == len(set(listed))
    assert set(listed) == set(spellings)
    assert all(arch in space for arch in listed)


def test_canonical_codes_are_the_lowest_of_each_network(case):
    space, _, spellings = case
    for arch, codes in spellings.items():
        canonical = space.canonical(np.array(codes))
        assert {tuple(row) for row in canonical} == {min(codes)}
        assert tuple(space.encode(arch)[0]) == min(codes)


def test_decode_of_encode_is_the_network(case):
    space, _, spellings = case
    archs = list(spellings)
    assert space.decode(space.encode(archs)) == archs


def test_drawing_is_uniform_over_networks(case):
    space, size, spellings = case
    draws = 30 * size
    codes = space.sample_codes(draws, np.random.default_rng(20_260_101))
    assert (space.canonical(codes) == codes).all()
    counts = collections.Counter(map(tuple, codes.tolist()))
    assert set(counts) <= {min(c) for c in spellings.values()}
    observed = [counts[min(c)] for c in spellings.values()]
    assert stats.chisquare(observed).pvalue > 1e-3


def test_neighbours_are_exactly_the_one_choice_changes(case):
    space, _, spellings = case
    owner = {codes: arch for arch, all_codes in spellings.items() for codes in all_codes}
    for arch, all_codes in list(spellings.items())[::7]:
        expected = set()
        for codes in all_codes:
            for i, gene in enumerate(space.genes):
                for choice in range(len(gene.choices)):
                    other = owner.get((*codes[:i], choice, *codes[i + 1 :]))
                    if other is not None and other != arch:
                        expected.add(other)
        neighbors = space.neighbors(arch)
        assert len(neighbors) == len(set(neighbors))
        assert set(neighbors) == expected


def test_being_neighbours_is_mutual(case):
    space, _, spellings = case
    arch = next(iter(spellings))
    for other in space.neighbors(arch):
        assert arch in space.neighbors(other)


def test_mutation_draws_from_the_neighbours_and_reaches_them_all(case):
    space, _, spellings = case
    rng = np.random.default_rng(7)
    arch = list(spellings)[len(spellings) // 2]
    neighbours = set(space.neighbors(arch))
    drawn = {space.mutate(arch, rng) for _ in range(60 * len(neighbours))}
    assert drawn == neighbours


def test_crossover_stays_inside_and_takes_each_gene_from_a_parent(case):
    space, _, spellings = case
    rng = np.random.default_rng(8)
    archs = list(spellings)
    children = set()
    for _ in range(300):
        a, b = (archs[int(i)] for i in rng.integers(len(archs), size=2))
        child = space.crossover(a, b, rng)
        assert child in space
        # Some code of the child has at every gene the (canonical) choice of one of the parents.
        pairs = list(zip(min(spellings[a]), min(spellings[b]), strict=True))
        assert any(
            all(choice in pair for choice, pair in zip(codes, pairs, strict=True))
            for codes in spellings[child]
        )
        children.add(child in (a, b))
    assert children == {True, False}  # some children are new, some a parent


def test_crossover_of_a_network_with_itself_is_the_network(case):
    space, _, spellings = case
    rng = np.random.default_rng(9)
    for arch in list(spellings)[::11]:
        assert space.crossover(arch, arch, rng) == arch


def test_costs_of_codes_equal_those_of_the_networks(case):
    space, _, spellings = case
    archs = list(spellings)
    codes = np.array([spellings[arch][-1] for arch in archs])  # not canonical ones
    assert cost.macs_codes(space, codes).tolist() == [cost.macs(a) for a in archs]
    assert cost.params_codes(space, codes, 10).tolist() == [cost.params(a, 10) for a in archs]
    assert cost.activations_codes(space, codes).tolist() == [cost.activations(a) for a in archs]
    assert cost.peak_memory_codes(space, codes).tolist() == [cost.peak_memory(a) for a in archs]
    assert cost.paddle_flops_codes(space, codes).tolist() == [cost.paddle_flops(a) for a in archs]


def test_extremes_are_the_least_and_the_greatest_of_all(case):
    space, _, spellings = case
    values = [cost.of(placed).macs for placed in space.placed_blocks()]
    (low, least), (high, most) = space.extremes(values)
    macs = [cost.macs(arch) for arch in spellings]
    assert (low, high) == (min(macs), max(macs))
    assert (cost.macs(least), cost.macs(most)) == (low, high)
    assert least in space
    assert most in space


def test_rows_are_the_distinct_placed_blocks_of_all_networks(case):
    from lcnas.arch import walk

    space, _, spellings = case
    used = {placed for arch in spellings for placed in walk(arch)}
    assert used == set(space.placed_blocks())
    assert len(set(space.placed_blocks())) == len(space.placed_blocks())


def test_why_not_is_none_exactly_for_members(case):
    space, _, spellings = case
    arch = next(iter(spellings))
    assert space.why_not(arch) is None
    for other in (arch.at(48), Arch(arch.stages[:-1], arch.resolution)):
        assert other not in space
        assert space.why_not(other)
