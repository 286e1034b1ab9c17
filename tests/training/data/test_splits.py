"""Splits as types, and the batches that they give."""

import numpy as np
import pytest

from lcnas.errors import DataError
from lcnas.training import data
from lcnas.training.data import _types
from lcnas.training.data._memory import Memory
from tests.training.data.conftest import marked, numbers_of


def memory(n):
    """n marked images of 3 classes."""
    images = np.stack([marked(i, (4, 4)) for i in range(n)])
    return Memory(images, np.arange(n, dtype=np.int32) % 3, np.ones(n, np.float32))


@pytest.fixture
def train():
    return data.Train(memory(50), np.arange(3, 50))


def test_an_epoch_has_each_image_at_most_once_with_its_label(train):
    pairs = [
        pair
        for b in train.batches(8, seed=1, epoch=0)
        for pair in zip(numbers_of(b), b.labels.tolist(), strict=True)
    ]
    assert len(pairs) == len({number for number, _ in pairs}) == 40 == 8 * train.steps(8)
    assert all(3 <= number < 50 and label == number % 3 for number, label in pairs)


def test_batches_have_their_types(train):
    batch = next(train.batches(8, seed=0, epoch=0))
    assert (batch.images.dtype, batch.images.shape) == (np.uint8, (8, 4, 4, 3))
    assert (batch.labels.dtype, batch.mask.dtype) == (np.int32, np.bool_)
    assert batch.mask.all()
    assert batch.aspect.dtype == np.float32


def order(train, seed, epoch, start=0):
    return [numbers_of(b) for b in train.batches(8, seed=seed, epoch=epoch, start=start)]


def test_the_order_depends_on_seed_and_epoch(train):
    orders = [str(order(train, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert str(order(train, 0, 1)) == orders[1]


def test_what_an_epoch_leaves_out_changes(train):
    numbers = set(range(3, 50))
    missing = [frozenset(numbers - {n for b in order(train, 0, e) for n in b}) for e in range(5)]
    assert all(len(left) == 7 for left in missing)
    assert len(set(missing)) > 1


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_can_be_taken_up_anywhere(train, start):
    assert order(train, 7, 2, start) == order(train, 7, 2)[start:]


def test_held_splits_come_in_order_and_padded():
    split = data.Validation(memory(11), np.array([1, 3, 5, 7, 9]))
    batches = list(split.batches(2))
    assert [numbers_of(b) for b in batches] == [[1, 3], [5, 7], [9, 9]]
    assert [b.mask.tolist() for b in batches] == [[True, True], [True, True], [True, False]]
    assert len(split) == 5
    assert split.labels.tolist() == [1, 0, 2, 1, 0]


def test_training_images_can_be_looked_at_in_order(train):
    batches = list(train.in_order(20))
    assert [n for b in batches for n, ok in zip(numbers_of(b), b.mask, strict=True) if ok] == list(
        range(3, 50)
    )
    assert [len(b.labels) for b in batches] == [20, 20, 20]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 48}, "batch: 48 is more than the 47 training images"),
        ({"batch": 0}, "batch: 0"),
        ({"batch": 2.0}, "batch: 2.0"),
        ({"seed": -1}, "seed: -1"),
        ({"epoch": -1}, "epoch: -1"),
        ({"start": 6}, "start: 6 is not a whole number of 0 to 5"),
    ],
)
def test_impossible_batches_are_refused_at_once(train, arguments, words):
    asked = {"batch": 8, "seed": 0, "epoch": 0} | arguments
    with pytest.raises(DataError, match=words):
        train.batches(asked.pop("batch"), **asked)


KINDS = (data.Train, data.Validation, data.Test)


@pytest.mark.parametrize("actual", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_split_stands_in_for_another(actual, kind):
    split = actual(memory(3), np.arange(3))
    assert not issubclass(actual, kind) or actual is kind
    if actual is kind:
        assert data.require(split, kind) is split
        return
    with pytest.raises(DataError, match=r"the \w+ split is needed here, got the \w+ split"):
        data.require(split, kind)


def test_what_is_no_split_is_none():
    class Sneaky(data.Test):
        pass

    for value in (None, 3, Sneaky(memory(3), np.arange(3))):
        with pytest.raises(DataError, match="the test split is needed here, got a "):
            data.require(value, data.Test)


def test_damaged_images_are_patched_with_readable_ones_and_their_labels():
    images = np.stack([marked(i, (2, 2)) for i in range(4)])
    mask = np.array([False, True, False, True])
    batch = _types._patched(
        _types.Batch(images, np.arange(4, dtype=np.int32), mask, np.arange(4, dtype=np.float32))
    )
    assert numbers_of(batch) == [1, 1, 1, 3]
    assert batch.labels.tolist() == [1, 1, 1, 3]
    assert batch.mask.tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0, 0), (1, 1, 1)), ((0, 0, 0), (1, 0, 1)), ((0, float("nan"), 0), (1, 1, 1))],
)
def test_constants_that_cannot_be_are_refused(mean, std):
    with pytest.raises(DataError, match="normalization: "):
        data.Normalization(mean, std)
