"""What is asked for, and what joins a set."""

import numpy as np
import pytest

from lcnas.errors import DataError
from lcnas.training import data
from tests.training.data.conftest import marked, number_of, save


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "cifar:x",
            "data: 'cifar' is not among synthetic, cifar10, imagefolder, npz; did you mean 'cifar10'",
        ),
        ("", "data: '' is not a text such as synthetic or cifar10:FOLDER"),
        (None, "data: None is not a text"),
        ("cifar10", "cifar10: which folder. Write cifar10:FOLDER"),
        ("imagefolder:", "imagefolder: which folder"),
        ("npz", "npz: which file. Write npz:FILE"),
    ],
)
def test_wrong_specs_are_refused(spec, words):
    with pytest.raises(DataError, match=words):
        data.load(spec)


def test_a_folder_without_a_kind_is_recognised(plain_folder):
    with pytest.raises(DataError, match=f"for a folder of images write imagefolder:{plain_folder}"):
        data.load(str(plain_folder))


def test_missing_folders_and_files_are_reported_with_the_nearest(tmp_path):
    (tmp_path / "imagenette").mkdir()
    (tmp_path / "set.npz").write_bytes(b"")
    for spec, words in (
        (f"imagefolder:{tmp_path}/imagenete", "does not exist; did you mean 'imagenette'"),
        (f"cifar10:{tmp_path}/set.npz", "is a file, not a folder"),
        (f"npz:{tmp_path}/sets.npz", "does not exist; did you mean 'set.npz'"),
        (f"npz:{tmp_path}/imagenette", "is a folder, not a file"),
        (f"imagefolder:{tmp_path}/no/where", "does not exist$"),
    ):
        with pytest.raises(DataError, match=words):
            data.load(spec)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size: 0 is outside"),
        ({"size": (3, 4, 5)}, "size: .3, 4, 5. is neither"),
        ({"seed": -1}, "seed: -1 is not"),
        ({"workers": -1}, "workers: -1 is not a whole number of 0 to 256"),
        ({"memory_mb": -1}, "memory_mb: -1 is not a number of 0 to inf"),
        ({"memory_mb": float("nan")}, "memory_mb: nan"),
        ({"max_bad": 2}, "max_bad: 2 is not a number of 0 to 1"),
        ({"scale": (0.5, 1.5)}, "scale: 0 < low <= high <= 1 must hold, got .0.5, 1.5."),
        ({"ratio": (2.0, 1.0)}, "ratio: 0 < low <= high must hold, got .2.0, 1.0."),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(DataError, match=words):
        data.load("synthetic:classes=2,train=4,test=2", **options)


def test_relative_folders_stay_right_when_the_working_directory_changes(
    plain_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(plain_folder.parent)
    loaded = data.load("imagefolder:images", size=8, memory_mb=0, workers=0)
    monkeypatch.chdir("/")
    assert len(list(loaded.test.batches(4))) == 3


def test_a_set_is_a_context_manager(plain_folder):
    with data.load(f"imagefolder:{plain_folder}", size=8, memory_mb=0, workers=1) as loaded:
        next(loaded.train.batches(4, seed=0, epoch=0))
        assert loaded.decoders._executor is not None
    assert loaded.decoders._executor is None


@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}])
def test_labels_can_be_permuted(plain_folder, options):
    asked = {"size": 8, "workers": 0, **options}
    control = data.load(f"imagefolder:{plain_folder}", permute_labels=True, **asked)
    unpermuted = data.load(f"imagefolder:{plain_folder}", **asked)
    assert control.fingerprint != unpermuted.fingerprint
    permuted, true = [], []
    for split in (control.train, control.validation, control.test):
        for b in split.in_order(60) if isinstance(split, data.Train) else split.batches(60):
            numbers = np.array([number_of(x) for x in b.images])[b.mask]
            permuted += b.labels[b.mask].tolist()
            true += np.digitize(numbers, [20, 50]).tolist()
    assert sorted(permuted) == sorted(true)
    assert 0.2 < np.mean(np.equal(permuted, true)) < 0.6  # by chance 0.39


# -- images without labels -------------------------------------------------------------------------


@pytest.fixture
def unlabelled(tmp_path):
    for i in range(100, 110):
        save(tmp_path / "more" / f"{i % 3}" / f"{i}.png", marked(i))
    return tmp_path / "more"


def training(loaded):
    """Number -> label of the training images."""
    return {
        number_of(x): label
        for b in loaded.train.in_order(8)
        for x, label, ok in zip(b.images, b.labels.tolist(), b.mask, strict=True)
        if ok
    }


@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}])
def test_images_without_labels_join_the_training_split_alone(plain_folder, unlabelled, options):
    asked = {"size": 8, "workers": 0, **options}
    before = data.load(f"imagefolder:{plain_folder}", **asked)
    loaded = data.load(f"imagefolder:{plain_folder}", unlabelled=unlabelled, **asked)
    by_number = training(loaded)
    assert {n for n, label in by_number.items() if label == -1} == set(range(100, 110))
    assert {n: label for n, label in by_number.items() if label >= 0} == training(before)
    assert loaded.validation.labels.tolist() == before.validation.labels.tolist()
    assert len(loaded.test) == len(before.test)
    assert loaded.normalization == before.normalization
    assert loaded.fingerprint != before.fingerprint
    labels = np.concatenate([b.labels for b in loaded.train.batches(8, seed=0, epoch=0)])
    assert -1 in labels


def test_they_join_sets_of_arrays_and_synthetic_ones(tmp_path, unlabelled):
    x = np.stack([marked(i, (6, 6)) for i in range(20)])
    np.savez(
        tmp_path / "x.npz", x_train=x, y_train=np.arange(20) % 2, x_test=x, y_test=np.arange(20) % 2
    )
    by_number = training(data.load(f"npz:{tmp_path / 'x.npz'}", unlabelled=unlabelled))
    assert sum(label == -1 for label in by_number.values()) == 10
    assert len(by_number) == 26
    loaded = data.load("synthetic:classes=2,train=20,test=4", size=8, unlabelled=unlabelled)
    assert sorted(np.bincount(loaded.train.labels + 1).tolist()) == [8, 8, 10]
    unpermuted = data.load("synthetic:classes=2,train=20,test=4", size=8)
    assert (
        next(loaded.train.in_order(4)).images == next(unpermuted.train.in_order(4)).images
    ).all()


def test_none_or_too_many_of_them_are_refused(tmp_path, unlabelled):
    with pytest.raises(DataError, match=r"unlabelled: the folder .* does not exist"):
        data.load("synthetic:100", unlabelled=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"unlabelled: .*empty has no images"):
        data.load("synthetic:100", unlabelled=tmp_path / "empty")
    with pytest.raises(
        DataError, match=r"10 images take 30 MiB, with the others more than memory_mb \(5\)"
    ):
        data.load(
            "synthetic:classes=2,train=4,test=2", size=1024, memory_mb=5, unlabelled=unlabelled
        )


def test_what_they_lack_counts_with_the_others(plain_folder, unlabelled):
    (unlabelled / "1" / "100.png").write_bytes(b"damaged")
    spec = f"imagefolder:{plain_folder}"
    loaded = data.load(spec, size=8, unlabelled=unlabelled, max_bad=0.02)
    assert list(loaded.skipped) == ["1/100.png"]
    assert 100 not in training(loaded)
    with pytest.raises(DataError, match="1 of 70 images"):
        data.load(spec, size=8, unlabelled=unlabelled)
