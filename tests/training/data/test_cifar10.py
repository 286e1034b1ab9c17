import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcnas.errors import DataError
from lcnas.training import data
from lcnas.training.data import _cifar10
from tests.training.data.test_decode import encoded


def images(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), (np.arange(n) % 10).astype(
        np.int64
    )


def write_parquet(path, images, labels, kind="WEBP", **changes):
    options = {"lossless": True} if kind == "WEBP" else {}
    img = [{"bytes": encoded(x, kind, **options), "path": f"{i}.png"} for i, x in enumerate(images)]
    columns = {"img": pa.array(img), "label": pa.array(labels)} | changes
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    pq.write_table(table, path)


def write_binary(path, images, labels):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    np.concatenate([labels[:, None].astype(np.uint8), planes], 1).tofile(path)


TRAIN, TEST = images(60, 0), images(20, 1)


@pytest.fixture
def parquet(tmp_path):
    root = tmp_path / "hub"
    root.mkdir()
    write_parquet(root / "train-00000-of-00002.parquet", TRAIN[0][:35], TRAIN[1][:35])
    write_parquet(root / "train-00001-of-00002.parquet", TRAIN[0][35:], TRAIN[1][35:], "PNG")
    write_parquet(root / "test-00000-of-00001.parquet", *TEST)
    return root


@pytest.fixture
def binary(tmp_path):
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for i in range(5):
        part = slice(12 * i, 12 * i + 12)
        write_binary(root / f"data_batch_{i + 1}.bin", TRAIN[0][part], TRAIN[1][part])
    write_binary(root / "test_batch.bin", *TEST)
    return root


def everything(loaded):
    """Row -> (image, label) of training and validation together, and the test set."""
    rows, images, labels = [], [], []
    for split in (loaded.train, loaded.validation):
        batches = list(split.in_order(7) if isinstance(split, data.Train) else split.batches(7))
        rows.append(split.rows)
        images += [b.images[b.mask] for b in batches]
        labels += [b.labels[b.mask] for b in batches]
    back = np.argsort(np.concatenate(rows))
    test = list(loaded.test.batches(6))
    return (
        np.concatenate(images)[back],
        np.concatenate(labels)[back],
        np.concatenate([b.images[b.mask] for b in test]),
        np.concatenate([b.labels[b.mask] for b in test]),
    )


def test_both_layouts_give_the_pixels_that_went_in(parquet, binary):
    for root in (parquet, binary, binary.parent):
        if root == binary.parent:
            (parquet / "test-00000-of-00001.parquet").unlink()  # leaves one folder inside that fits
        loaded = data.load(f"cifar10:{root}")
        images, labels, test_images, test_labels = everything(loaded)
        assert (images == TRAIN[0]).all()
        assert (labels == TRAIN[1]).all()
        assert (test_images == TEST[0]).all()
        assert (test_labels == TEST[1]).all()
        assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (50, 10, 20)
        assert (loaded.classes, loaded.size) == (10, (32, 32))
        assert loaded.skipped == {}


def test_the_fingerprint_is_of_contents_and_split(parquet, binary):
    prints = [data.load(f"cifar10:{root}").fingerprint for root in (parquet, binary, parquet)]
    assert len(set(prints)) == 1
    others = [
        data.load(f"cifar10:{parquet}", seed=1).fingerprint,
        data.load(f"cifar10:{parquet}", permute_labels=True).fingerprint,
    ]
    write_parquet(parquet / "test-00000-of-00001.parquet", *images(20, 2))
    others.append(data.load(f"cifar10:{parquet}").fingerprint)
    assert len({*prints, *others}) == 4


def test_what_is_decoded_is_kept_and_found_again(parquet, cache, monkeypatch):
    first = data.load(f"cifar10:{parquet}")
    assert len(list(cache.glob("cifar10-*.npz"))) == 2
    monkeypatch.setattr(_cifar10, "read_arrays", None)
    again = data.load(f"cifar10:{parquet}")
    assert again.fingerprint == first.fingerprint
    with pytest.raises(TypeError):
        data.load(f"cifar10:{parquet}", cache=False)


def test_a_set_that_changed_is_decoded_anew(parquet):
    data.load(f"cifar10:{parquet}")
    write_parquet(parquet / "test-00000-of-00001.parquet", *images(20, 7))
    assert (everything(data.load(f"cifar10:{parquet}"))[2] == images(20, 7)[0]).all()


def test_constants_are_of_the_training_split(binary):
    loaded = data.load(f"cifar10:{binary}", seed=4)
    pixels = TRAIN[0][loaded.train.rows] / 255
    np.testing.assert_allclose(loaded.normalization.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(loaded.normalization.std, pixels.std((0, 1, 2)), rtol=1e-9)
    imagenet = data.load(f"cifar10:{binary}", normalization=data.IMAGENET)
    assert imagenet.normalization == data.IMAGENET


def test_damaged_rows_are_left_out_or_too_many(parquet):
    images, labels = TRAIN
    img = [{"bytes": encoded(x), "path": ""} for x in images]
    img[7]["bytes"] = b"damaged"
    write_parquet(parquet / "train-00000-of-00002.parquet", images, labels, img=pa.array(img))
    (parquet / "train-00001-of-00002.parquet").unlink()
    whole = data.load(f"cifar10:{parquet}", max_bad=0.02)
    assert list(whole.skipped) == ["train-00000-of-00002.parquet row 7"]
    assert len(whole.train) + len(whole.validation) == 59
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            DataError,
            match=r"1 of 80 images .* than the 1 % allowed: train.* row 7 \(is not an image",
        ):
            data.load(f"cifar10:{parquet}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img": None}, "must have the columns img .* and label; its columns are label"),
        ({"label": None}, "its columns are img"),
        ({"img": pa.array(["x"] * 20)}, "must have the columns img"),
        ({"img": pa.array([{"bytes": None, "path": "a"}] * 20)}, "has rows without bytes in img"),
        ({"label": pa.array([10] * 20)}, "has the label 10; labels are whole numbers of 0 to 9"),
        ({"label": pa.array([-1] * 20)}, "has the label -1"),
        ({"label": pa.array([None, *range(19)], pa.int64())}, "has the label nan"),
    ],
)
def test_wrong_columns_are_named(parquet, changes, words):
    write_parquet(parquet / "test-00000-of-00001.parquet", *TEST, **changes)
    with pytest.raises(DataError, match=words):
        data.load(f"cifar10:{parquet}")


def test_a_parquet_file_that_is_none_is_named(parquet):
    (parquet / "test-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(
        DataError, match=r"test-00000-of-00001\.parquet is not a readable parquet file"
    ):
        data.load(f"cifar10:{parquet}")


def test_wrong_binary_files_are_named(binary):
    raw = (binary / "data_batch_3.bin").read_bytes()
    (binary / "data_batch_3.bin").write_bytes(raw[:-1])
    with pytest.raises(
        DataError, match=r"data_batch_3.bin has 36875 bytes, not a multiple of 3073"
    ):
        data.load(f"cifar10:{binary}")
    (binary / "data_batch_3.bin").write_bytes(b"\x0b" + raw[1:])
    with pytest.raises(DataError, match=r"data_batch_3.bin has the label 11"):
        data.load(f"cifar10:{binary}")


def test_the_python_version_is_refused(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"\x80\x04}.")
    with pytest.raises(
        DataError,
        match=r"Python version, which consists of pickles.*needed are train\*\.parquet.*data_batch_1\.bin",
    ):
        data.load(f"cifar10:{tmp_path}")


def test_missing_files_are_named(tmp_path, parquet):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"lacks train\*\.parquet .* it holds \(nothing\)"):
        data.load(f"cifar10:{tmp_path / 'empty'}")
    (parquet / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"it holds train-00000-of-00002.parquet, train-00001"):
        data.load(f"cifar10:{parquet}")


def test_the_real_set_has_the_known_constants(shared_data, tmp_path):
    for name, step in (("train", 25), ("test", 50)):
        table = pq.read_table(shared_data / "cifar10" / f"{name}-00000-of-00001.parquet")
        pq.write_table(table.take(list(range(0, len(table), step))), tmp_path / f"{name}.parquet")
    loaded = data.load(f"cifar10:{tmp_path}")
    assert (len(loaded.train) + len(loaded.validation), len(loaded.test)) == (2000, 200)
    # Means of 1,600 images, each with a standard deviation of about 0.12 from image to image.
    np.testing.assert_allclose(loaded.normalization.mean, (0.4914, 0.4822, 0.4465), atol=0.01)
    np.testing.assert_allclose(loaded.normalization.std, (0.2470, 0.2435, 0.2616), atol=0.01)
    assert loaded.class_names == tuple(
        (shared_data / "cifar10" / "classes.txt").read_text().split()
    )
