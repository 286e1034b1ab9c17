"""Images as a deployed network is given them: from the originals, by the function that deployment uses."""

import numpy as np
import pytest
from PIL import Image

from lcnas import onnx_export
from lcnas.errors import DataError
from lcnas.training import data as data_module

SIZE = (20, 24)
PREPARE = onnx_export.Preprocessing(SIZE, crop=0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of many shapes, as JPEG and PNG."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("val", 7)):
        for name in ("a", "b"):
            place = root / part / name
            place.mkdir(parents=True)
            for i in range(n):
                shape = (*rng.integers(30, 90, 2), 3)
                image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                image.save(place / f"{i}.{'png' if i % 2 else 'jpg'}")
    return root


def load(spec, **more):
    return data_module.load(spec, size=16, workers=0, cache=False, **more)


def all_of(data, split, batch=4):
    batches = list(data.prepared(split, PREPARE, batch))
    keep = np.concatenate([b.mask for b in batches])
    images = np.concatenate([b.images for b in batches])[keep]
    return images, np.concatenate([b.labels for b in batches])[keep]


@pytest.mark.parametrize("memory_mb", [100, 0])  # decoded, or left in their files
def test_files_are_preprocessed_as_classify_does(folder, memory_mb):
    data = load(f"imagefolder:{folder}", memory_mb=memory_mb)
    images, labels = all_of(data, data.test)
    paths = [data.test.source.original(int(row)) for row in data.test.rows]
    assert len(paths) == 14
    for path, image, label in zip(paths, images, labels, strict=True):
        expected = PREPARE.of_image(onnx_export.read_image(path))
        np.testing.assert_array_equal(PREPARE.normalized(image), expected)
        assert path.split("/")[-2] == data.class_names[label]


def test_the_originals_are_preprocessed_and_not_the_stored_images(folder):
    """A set decoded for a small training size still gives its originals."""
    small, large = (data_module.load(f"imagefolder:{folder}", size=s, workers=0) for s in (8, 64))
    np.testing.assert_array_equal(all_of(small, small.test)[0], all_of(large, large.test)[0])


def test_arrays_are_their_own_originals(tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (40, 30, 50, 3), np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    data = load(f"npz:{tmp_path / 'set.npz'}")
    images, labels = all_of(data, data.test)
    np.testing.assert_array_equal(labels, y[:9])
    np.testing.assert_array_equal(PREPARE.normalized(images), PREPARE(x[:9]))


def test_synthetic_images_are_made_again():
    data = load("synthetic:train=40,test=20,classes=4", memory_mb=0)
    images, labels = all_of(data, data.validation)
    batch = next(data.validation.batches(len(data.validation)))
    np.testing.assert_array_equal(labels, batch.labels)
    np.testing.assert_array_equal(PREPARE.normalized(images), PREPARE(batch.images))


def test_a_damaged_original_is_left_out_and_named(folder, tmp_path):
    import shutil

    root = tmp_path / "set"
    shutil.copytree(folder, root)
    data = load(f"imagefolder:{root}", max_bad=0.1)
    broken = root / "val" / "a" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    images, _ = all_of(data, data.test)
    assert len(images) == 13
    assert [name for name in data.skipped if name.endswith("val/a/3.png")]
    data = load(f"imagefolder:{folder}", max_bad=0.0)
    black, aspect = np.zeros((1, 4, 4, 3), np.uint8), np.ones(1, np.float32)
    source = data_module.Memory(black, np.zeros(1, np.int32), aspect, files=(str(broken),))
    with pytest.raises(DataError, match=r"1 of 38 \w+ cannot be read"):
        all_of(data, data_module.Test(source, np.arange(1)))


def test_the_size_of_a_sets_own_images(folder, tmp_path):
    paths = sorted((folder / "train").rglob("*.*"))
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(min(image.size))
    median = int(np.median(sizes))
    assert data_module.own_size(f"imagefolder:{folder}") == median
    assert data_module.own_size("cifar10:anywhere") == 32
    assert data_module.own_size("synthetic:100") is None
    x = np.zeros((8, 30, 50, 3), np.uint8)
    y = np.arange(8) % 2
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert data_module.own_size(f"npz:{tmp_path / 'set.npz'}") == 30
    with pytest.raises(DataError, match="did you mean 'synthetic'"):
        data_module.own_size("syntetic")
