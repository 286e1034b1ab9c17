"""What workers train on, against the splits that it is made of."""

from __future__ import annotations

import dataclasses
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from lcnas.errors import DataError
from lcnas.training import data as data_module
from lcnas.training.data import IMAGENET, Test
from search import packed
from search.packed import PackedImages, pack, unpack

SPEC = "synthetic:classes=3,train=60,test=9"


def build(counts, held=(2, 2, 2), side=4, seed=0):
    """Return noise with so many training images of each class."""
    rng = np.random.default_rng(seed)

    def part(numbers):
        labels = rng.permutation(np.repeat(np.arange(len(numbers), dtype=np.int32), numbers))
        images = rng.integers(0, 256, (len(labels), side, side, 3), np.uint8)
        return images, labels, rng.uniform(0.5, 2, len(labels)).astype(np.float32)

    names = tuple(f"class{i}" for i in range(len(counts)))
    kinds = {"train": part(counts), "validation": part(held)}
    whats = ("images", "labels", "aspect")
    arrays = {
        f"{kind}_{what}": array
        for kind, actual in kinds.items()
        for what, array in zip(whats, actual, strict=True)
    }
    return PackedImages(
        **arrays,
        normalization=IMAGENET,
        class_names=names,
        fingerprint="f" * 20,
        spec="made",
        size=(side, side),
    )


@pytest.fixture
def data_set():
    return data_module.load(SPEC, size=8, workers=0)


class Forbidden:
    """A source of images that nobody may look at."""

    @property
    def labels(self):
        raise AssertionError("read")

    cropped = labels

    def read(self, plan, view):
        raise AssertionError("read")

    def original(self, row):
        raise AssertionError("read")


def all_of(batches):
    kept = [(b.images[b.mask], b.labels[b.mask], b.aspect[b.mask]) for b in batches]
    return [np.concatenate(parts) for parts in zip(*kept, strict=True)]


def test_all_images_but_those_of_the_test(data_set):
    closed = dataclasses.replace(data_set, test=Test(Forbidden(), np.arange(9)))
    packed = pack(closed)
    for kind, batches in (
        ("train", data_set.train.in_order(7)),
        ("validation", data_set.validation.batches(7)),
    ):
        for what, wanted in zip(("images", "labels", "aspect"), all_of(batches), strict=True):
            array = getattr(packed, f"{kind}_{what}")
            np.testing.assert_array_equal(array, wanted)
            assert array.dtype == wanted.dtype
    assert len(packed.train_labels) == 48
    assert (packed.size, packed.spec, packed.fingerprint) == ((8, 8), SPEC, data_set.fingerprint)
    assert (packed.classes, packed.normalization) == (3, data_set.normalization)
    assert packed.nbytes == 60 * (8 * 8 * 3 + 4 + 4)


def test_the_way_back_gives_the_same_batches_and_no_test(data_set):
    back = unpack(pack(data_set))
    for epoch in range(2):
        wanted = data_set.train.batches(16, seed=3, epoch=epoch)
        for a, b in zip(back.train.batches(16, seed=3, epoch=epoch), wanted, strict=True):
            for one, other in zip(vars(a).values(), vars(b).values(), strict=True):
                np.testing.assert_array_equal(one, other)
    a, b = all_of(back.validation.batches(5)), all_of(data_set.validation.batches(5))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(back.test) == 0
    assert list(back.test.batches(4)) == []
    assert (back.fingerprint, back.size) == (data_set.fingerprint, data_set.size)
    assert (back.class_names, back.train.cropped) == (data_set.class_names, False)


def test_arrays_are_not_copied_and_may_be_read_only(data_set):
    packed = pack(data_set)
    for array in vars(packed).values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    back = unpack(packed)
    assert back.train.source.images is packed.train_images  # type: ignore[attr-defined]
    batch = next(back.train.batches(16, seed=0, epoch=0))
    batch.images[:] = 0  # a batch is a copy, that anybody may write to


def test_it_travels_between_processes(data_set):
    packed = pack(data_set)
    there = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(there.train_images, packed.train_images)
    assert (there.normalization, there.size) == (packed.normalization, packed.size)


def test_another_size_may_be_meant(data_set):
    assert pack(data_set, (12, 16)).size == (12, 16)
    assert pack(data_set, 12).size == (12, 12)


# -- a share ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [3, 4, 10, 29])
def test_a_share_has_each_class_in_proportion(most):
    counts = np.array([10, 5, 15])
    data = unpack(build(counts))
    packed = pack(data, most=most)
    assert len(packed.train_labels) == most
    taken = np.bincount(packed.train_labels, minlength=3)
    assert taken.min() >= 1
    assert np.abs(taken - most * counts / 30).max() <= 1
    # Each image that was taken is one of the set with its own label and aspect, and none comes twice.
    of = {
        i.tobytes(): (label, a) for i, label, a in zip(*all_of(data.train.in_order(8)), strict=True)
    }
    results = [i.tobytes() for i in packed.train_images]
    assert len(set(results)) == most
    shown = list(zip(packed.train_labels, packed.train_aspect, strict=True))
    assert [of[key] for key in results] == shown


def test_a_share_depends_on_the_seed_alone():
    data = unpack(build((30, 30)))
    first, again, other = (pack(data, most=20, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train_images, again.train_images)
    assert (first.train_images != other.train_images).any()
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, data.fingerprint}) == 3


def test_a_share_that_is_all_is_the_set_itself():
    data = unpack(build((4, 4)))
    assert pack(data, most=8).fingerprint == data.fingerprint
    assert pack(data, most=8, most_validation=4).fingerprint != data.fingerprint


def test_validation_images_are_at_most_as_many():
    data = unpack(build((20, 20, 20), held=(10, 10, 10)))
    assert [len(pack(data, most=n).validation_labels) for n in (12, 40)] == [12, 30]
    assert len(pack(data, most=12, most_validation=21).validation_labels) == 21


def test_images_without_a_label_stay_behind():
    few = build((4, 4))
    labels = np.where(np.arange(8) == 5, np.int32(-1), few.train_labels)
    packed = pack(unpack(dataclasses.replace(few, train_labels=labels)))
    np.testing.assert_array_equal(packed.train_images, np.delete(few.train_images, 5, axis=0))


@pytest.mark.parametrize("most", [1, 0, -3, 2.5, True])
def test_a_share_below_an_image_a_class_is_refused(most):
    with pytest.raises(DataError, match=r"images: .* at least 2, the number of classes"):
        pack(unpack(build((4, 4))), most=most)


def test_chance_is_the_share_of_the_most_frequent_class():
    assert build((2, 2), held=(1, 4)).chance == 0.8


# -- folders ---------------------------------------------------------------------------------------


@pytest.fixture
def streamed(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 10), ("val", 2)):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                noise = rng.integers(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.png")
    return data_module.load(f"imagefolder:{tmp_path}", size=8, memory_mb=0, workers=0, cache=False)


def test_streamed_images_are_taken_as_an_evaluation_sees_them(streamed):
    assert streamed.train.cropped
    packed = pack(streamed)
    images, labels, _ = all_of(streamed.train.in_order(3))
    np.testing.assert_array_equal(packed.train_images, images)
    np.testing.assert_array_equal(packed.train_labels, labels)
    assert len(packed.validation_labels) == 4
    assert (
        packed.fingerprint != streamed.fingerprint
    )  # its crops are others than those of the files
    assert not unpack(packed).train.cropped


def test_damaged_images_are_left_out(streamed, tmp_path):
    streamed.faults.share = 0.5
    row = streamed.train.source.names[3]
    (tmp_path / row).write_bytes(b"no image")
    packed = pack(streamed)
    assert len(packed.train_labels) == len(packed.train_images) == len(streamed.train) - 1
    assert list(streamed.skipped) == [row]


def test_too_many_for_memory_are_refused_with_a_way_out(streamed):
    _, height, width, _ = pack(streamed).train_images.shape
    limit = 12 * height * width * 3 / 2**20 + 1e-9  # 12 of 16 + 4 images
    with pytest.raises(DataError, match=r"--train-size\), or on at most 8 images \(--images\)"):
        pack(streamed, memory_mb=limit)
    assert len(pack(streamed, most=8, memory_mb=limit).train_labels) == 8
    with pytest.raises(DataError, match="a search keeps in memory"):
        pack(streamed, most=9, memory_mb=limit)
    assert packed.pack(streamed, memory_mb=1).train_images.nbytes < 2**20


def test_what_the_finals_would_train_on_is_counted_without_reading_it(streamed):
    _, height, width, _ = pack(streamed).train_images.shape
    limit = 12 * height * width * 3 / 2**20 + 1e-9  # 12 of 16 + 4 images
    message = r"\(--resolution\), or on at most 8 images \(--final-images\)"
    with pytest.raises(DataError, match=message):
        packed.check_fits(streamed, memory_mb=limit)
    packed.check_fits(streamed, most=8, memory_mb=limit)
    packed.check_fits(streamed)


@pytest.mark.parametrize(("pages", "mib"), [(2**22, 4096), (2**16, 2048), (None, 2048)])
def test_a_quarter_of_the_memory_is_taken_at_most(monkeypatch, pages, mib):
    def sysconf(name):
        if pages is None:
            raise ValueError("unrecognized configuration name")
        return {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert packed.memory_mb_here() == mib
