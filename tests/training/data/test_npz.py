import os

import numpy as np
import pytest

from lcnas.errors import DataError
from lcnas.training import data
from tests.training.data.conftest import marked, numbers_of

X = np.stack([marked(i, (6, 9)) for i in range(40)])
ARRAYS = {
    "x_train": X[:30],
    "y_train": np.arange(30) % 3,
    "x_test": X[30:],
    "y_test": np.arange(10) % 3,
    "class_names": np.array(["a", "b", "c"]),
}


def load(tmp_path, **changes):
    arrays = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    np.savez(tmp_path / "set.npz", **arrays)
    return data.load(f"npz:{tmp_path / 'set.npz'}")


def test_arrays_become_splits(tmp_path):
    loaded = load(tmp_path)
    assert loaded.class_names == ("a", "b", "c")
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (24, 6, 10)
    assert np.bincount(loaded.validation.labels).tolist() == [2, 2, 2]
    seen = {
        n
        for split in (loaded.train.in_order(4), loaded.validation.batches(4))
        for b in split
        for n in numbers_of(b)
    }
    assert seen == set(range(30))
    (batch,) = loaded.test.batches(10)
    assert numbers_of(batch) == list(range(30, 40))
    assert loaded.size == (6, 9)
    assert (batch.aspect == np.float32(1.5)).all()


def test_names_are_numbers_by_default(tmp_path):
    assert load(tmp_path, class_names=None).class_names == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_labels_of_any_whole_type(tmp_path, dtype):
    assert load(tmp_path, y_train=(np.arange(30) % 3).astype(dtype)).train.labels.dtype == np.int32


def test_grey_images_become_three_channels(tmp_path):
    grey = X[..., 1]
    for x in (grey, grey[..., None]):
        loaded = load(tmp_path, x_train=x[:30], x_test=x[30:])
        (batch,) = loaded.test.batches(10)
        assert batch.images.shape == (10, 6, 9, 3)
        assert (batch.images == grey[30:, ..., None]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "lacks y_test; it has x_train, y_train, x_test, class_names"),
        ({"y_test": None, "y_tset": np.arange(10)}, "lacks y_test; .*did you mean 'y_tset'"),
        (
            {"x_train": X[:30].astype(np.float32)},
            "x_train must be uint8 from 0 to 255, got float32",
        ),
        ({"x_train": X[:30, 0, 0]}, r"x_train must be \(n, height, width, 3\)"),
        ({"x_train": X[:30, ..., :2]}, r"got \(30, 6, 9, 2\)"),
        ({"x_train": X[:0], "y_train": np.arange(0)}, r"got \(0, 6, 9, 3\)"),
        (
            {"x_test": X[30:, :5]},
            r"images of x_train are \(6, 9, 3\), those of x_test \(5, 9, 3\)",
        ),
        (
            {"y_train": np.arange(29) % 3},
            r"y_train must be 30 whole numbers, one per image, got int64 \(29,\)",
        ),
        ({"y_train": (np.arange(30) % 3) / 1}, "y_train must be 30 whole numbers"),
        ({"y_train": np.arange(30) % 3 - 1}, "y_train has the label -1; labels are 0"),
        (
            {"y_train": np.arange(30) % 4},
            "y_train has the label 3; with 3 classes the highest is 2",
        ),
        ({"y_test": np.full(10, 7)}, "y_test has the label 7; with 3 classes the highest is 2"),
        ({"y_train": np.arange(30) % 2}, "classes without images in x_train: 2"),
        (
            {"y_train": np.arange(30) % 3 * 2, "class_names": None},
            "without images in x_train: 1, 3",
        ),
        ({"y_train": np.full(30, 1 << 40)}, "label 1099511627776; labels are 0 to at most"),
        (
            {k: np.zeros(n, int) for k, n in (("y_train", 30), ("y_test", 10))}
            | {"class_names": None},
            "there is only one class, '0'",
        ),
        ({"class_names": np.array(["a", "b", "a"])}, "class_names must be distinct texts"),
        ({"class_names": np.arange(3)}, "class_names must be distinct texts"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        load(tmp_path, **changes)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_objects_are_refused_unread(tmp_path):
    objects = np.empty(30, object)
    objects[:] = [Trap(tmp_path / "sprung")] * 30
    with pytest.raises(
        DataError, match="holds pickled objects, or is not an archive; pickles are not read"
    ):
        load(tmp_path, y_train=objects)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a readable"),
        (b"PK\x03\x04 and no more", "is not a readable"),
        (b"hello", "pickled objects, or is"),
    ],
)
def test_files_that_are_no_archives_are_refused(tmp_path, content, words):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=words):
        data.load(f"npz:{tmp_path / 'x.npz'}")


def test_a_damaged_archive_is_refused(tmp_path):
    load(tmp_path)
    raw = bytearray((tmp_path / "set.npz").read_bytes())
    raw[3000] ^= 1
    (tmp_path / "set.npz").write_bytes(raw)
    with pytest.raises(DataError, match=r"is not a readable \.npz archive: Bad CRC-32"):
        data.load(f"npz:{tmp_path / 'set.npz'}")


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="is a single array"):
        data.load(f"npz:{tmp_path / 'x.npy'}")
