import collections

import numpy as np
import pytest

from lcnas.errors import DataError
from lcnas.training.data import _order


def test_a_permutation_holds_each_row_once():
    for n in (0, 1, 2, 7, 1000):
        assert sorted(_order.permutation(n, 3, 4)) == list(range(n))


def test_a_permutation_is_the_same_everywhere():
    # Written down once: another NumPy that gave another order would break the resuming of old runs.
    assert _order.permutation(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert _order.permutation(6, 12345, 2).tolist() == [3, 1, 0, 2, 4, 5]


def test_permutations_are_uniform():
    counts = collections.Counter(
        tuple(_order.permutation(3, seed).tolist()) for seed in range(3000)
    )
    assert len(counts) == 6
    # Chi-square with 5 degrees of freedom: above 25 once in 7,000 times.
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 25


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_stratified_split_has_each_row_once_and_each_class_in_proportion(share):
    rng = np.random.default_rng(0)
    labels = rng.choice(6, 500, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]).astype(np.int32)
    first, second = _order.stratified(labels, share, 9)
    assert sorted([*first, *second]) == list(range(500))
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()
    for c in range(6):
        n = int((labels == c).sum())
        expected = min(max(int(share * n + 0.5), 1), n - 1)
        assert (labels[second] == c).sum() == expected


def test_a_split_is_fixed_by_its_seed():
    labels = np.arange(400, dtype=np.int32) % 4
    splits = [_order.stratified(labels, 0.2, seed)[1].tolist() for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_tiny_classes_keep_one_and_give_one():
    labels = np.array([0, 1, 1, 2, 2, 2], np.int32)
    first, second = _order.stratified(labels, 0.2, 0)
    assert collections.Counter(labels[second].tolist()) == {1: 1, 2: 1}
    assert 0 in labels[first]


def test_which_rows_are_held_out_is_uniform():
    labels = np.zeros(10, np.int32)
    held = np.zeros(10)
    for seed in range(2000):
        held[_order.stratified(labels, 0.2, seed)[1]] += 1
    assert held.sum() == 4000
    assert (
        (held - 400) ** 2 / 400
    ).sum() < 30  # chi-square, 9 degrees of freedom (less, being drawn 2 at once)


def test_batches_drop_the_last_part_and_can_start_later():
    rows = np.arange(10)
    assert [b.tolist() for b in _order.batches(rows, 3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [b.tolist() for b in _order.batches(rows, 3, 2)] == [[6, 7, 8]]
    assert list(_order.batches(rows, 3, 3)) == []


def test_padded_batches_say_what_counts():
    parts = list(_order.padded(np.array([5, 6, 7, 8, 9]), 3))
    assert [(rows.tolist(), mask.tolist()) for rows, mask in parts] == [
        ([5, 6, 7], [True, True, True]),
        ([8, 9, 8], [True, True, False]),
    ]
    assert list(_order.padded(np.arange(0), 3)) == []


def test_fingerprints_distinguish_contents_types_shapes_and_order():
    values, two = np.arange(6), np.arange(6).astype(np.int32)
    variants: list = [
        ["ab", "c"],
        ["a", "bc"],
        [b"ab", "c"],
        ["c", "ab"],
        [values],
        [two],
        [values.reshape(2, 3)],
        [values[::-1]],
    ]
    prints = [_order.fingerprint(parts) for parts in variants]
    assert len(set(prints)) == len(variants)
    assert _order.fingerprint([values[::-1]]) == _order.fingerprint([values[::-1].copy()])
    assert all(len(text) == 20 for text in prints)


@pytest.mark.parametrize("value", [-1, 1.5, "3", True, None, 1 << 70])
def test_numbers_that_are_no_counts_are_refused(value):
    with pytest.raises(DataError, match=r"batch: .* is not a whole number of"):
        _order.check_whole("batch", value, 0)
    assert _order.check_whole("batch", np.int64(3), 0) == 3
