"""Folders of images, in memory and streamed."""

import shutil

import numpy as np
import pytest
from PIL import Image

from lcnas.errors import DataError
from lcnas.training import data
from lcnas.training.data import _decode, _imagefolder
from lcnas.training.data._decode import Cut
from tests.training.data.conftest import marked, number_of, numbers_of, save
from tests.training.data.test_decode import sample_pixels


def load(root, **options):
    return data.load(f"imagefolder:{root}", **({"size": 8, "workers": 0} | options))


def numbers(split):
    """The numbers of all images of a split, in order."""
    batches = split.in_order(7) if isinstance(split, data.Train) else split.batches(7)
    return [number_of(x) for b in batches for x in b.images[b.mask]]


MODES = [{}, {"memory_mb": 0}]


# -- which image is in which split -----------------------------------------------------------------


@pytest.mark.parametrize("options", MODES)
def test_val_is_the_test_set_and_validation_comes_from_train(split_folder, options):
    loaded = load(split_folder, **options)
    assert numbers(loaded.test) == list(range(40, 46))
    assert loaded.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    train, validation = numbers(loaded.train), numbers(loaded.validation)
    assert sorted(train + validation) == list(range(40))
    assert np.bincount(loaded.validation.labels).tolist() == [5, 3]
    assert loaded.class_names == ("n01", "n02")


def test_test_may_be_called_test(split_folder):
    (split_folder / "val").rename(split_folder / "test")
    assert numbers(load(split_folder).test) == list(range(40, 46))


def test_imagenets_test_images_have_no_labels_and_are_left_alone(split_folder):
    before = load(split_folder)
    save(split_folder / "test" / "unknown.png", marked(1))
    after = load(split_folder)
    assert after.fingerprint == before.fingerprint
    assert numbers(after.test) == numbers(before.test)


@pytest.mark.parametrize("options", MODES)
def test_class_folders_alone_are_split_by_seed(plain_folder, options):
    loaded = load(plain_folder, **options)
    parts = [numbers(split) for split in (loaded.train, loaded.validation, loaded.test)]
    assert sorted(n for part in parts for n in part) == list(range(60))
    assert np.bincount(loaded.test.labels).tolist() == [4, 6, 2]
    assert np.bincount(loaded.validation.labels).tolist() == [3, 5, 2]
    for split, part in zip((loaded.train, loaded.validation, loaded.test), parts, strict=True):
        true = [0 if n < 20 else 1 if n < 50 else 2 for n in part]
        assert split.labels.tolist() == true
    assert numbers(load(plain_folder, **options).train) == parts[0]
    assert numbers(load(plain_folder, seed=1, **options).test) != parts[2]


def test_memory_and_stream_are_the_same_set(plain_folder):
    memory, stream = (load(plain_folder, **options) for options in MODES)
    assert memory.fingerprint == stream.fingerprint
    assert not memory.train.cropped
    assert stream.train.cropped
    for a, b in ((memory.test, stream.test), (memory.validation, stream.validation)):
        for x, y in zip(a.batches(5), b.batches(5), strict=True):
            assert (x.images == y.images).all()
            assert (x.labels == y.labels).all()
            assert (x.mask == y.mask).all()
    for x, y in zip(*(s.train.batches(9, seed=1, epoch=2) for s in (memory, stream)), strict=True):
        assert numbers_of(x) == numbers_of(y)


def test_the_fingerprint_distinguishes_data_sets_and_splits(plain_folder):
    prints = [load(plain_folder).fingerprint, load(plain_folder, size=4).fingerprint]
    assert prints[0] == prints[1]  # the size is not the set's
    prints.append(load(plain_folder, seed=1).fingerprint)
    moved = shutil.move(plain_folder, plain_folder.with_name("moved"))
    assert load(moved).fingerprint == prints[0]
    save(plain_folder.with_name("moved") / "ant" / "20.png", marked(61))
    prints.append(load(moved).fingerprint)
    assert len(set(prints)) == 3


def test_hidden_and_other_files_are_left_out(plain_folder):
    (plain_folder / "ant" / "notes.txt").write_text("no image")
    save(plain_folder / "ant" / ".hidden.png", marked(70))
    save(plain_folder / ".trash" / "x.png", marked(71))
    save(plain_folder / "ant" / "deep" / "er" / "20.PNG", marked(60))
    loaded = load(plain_folder)
    loaded_numbers = [
        n for split in (loaded.train, loaded.validation, loaded.test) for n in numbers(split)
    ]
    assert sorted(loaded_numbers) == list(range(61))
    assert loaded.classes == 3


# -- pixels ------------------------------------------------------------------------------------------


@pytest.fixture
def wide_folder(tmp_path):
    """Images of 60 x 40 pixels that differ from place to place."""
    for name in ("a", "b"):
        for i in range(10):
            save(tmp_path / "wide" / name / f"{i}.png", sample_pixels(40, 60, i))
    return tmp_path / "wide"


def pixels(path, kind, side, entropy=()):
    return _decode.cut_image(str(path), Cut(kind, (side, side)), entropy)[0]


def test_in_memory_training_images_are_whole_and_others_the_middle(wide_folder):
    loaded = load(wide_folder, size=28)
    assert loaded.size == (28, 28)
    batch = next(loaded.train.in_order(12))
    assert batch.images.shape[1:] == (32, 32, 3)  # 28 / 0.875
    assert (batch.aspect == np.float32(1.5)).all()
    held = next(loaded.test.batches(4))
    assert held.images.shape[1:] == (32, 32, 3)
    assert (held.aspect == 1).all()
    files = sorted(wide_folder.rglob("*.png"))
    for images, kind in ((batch.images, "whole"), (held.images, "centre")):
        expected = [pixels(path, kind, 32) for path in files]
        assert all(any((x == y).all() for y in expected) for x in images)


def test_streamed_training_images_are_cropped_from_the_whole(wide_folder):
    loaded = load(wide_folder, size=16, memory_mb=0, scale=(0.3, 0.9), ratio=(0.9, 1.1))
    names = loaded.train.source.names
    for epoch in (0, 1):
        rows = loaded.train.rows[data._order.permutation(12, 5, epoch, 7)]
        for i, batch in enumerate(loaded.train.batches(4, seed=5, epoch=epoch)):
            for image, row in zip(batch.images, rows[4 * i : 4 * i + 4], strict=True):
                cut = Cut("random", (16, 16), (0.3, 0.9), (0.9, 1.1))
                path = str(wide_folder / names[row])
                assert (image == _decode.cut_image(path, cut, (5, epoch, int(row)))[0]).all()


def test_workers_may_crop_nothing(wide_folder):
    loaded = load(wide_folder, size=28, memory_mb=0, scale=None)
    assert not loaded.train.cropped
    batch = next(loaded.train.batches(4, seed=0, epoch=0))
    assert batch.images.shape == (4, 32, 32, 3)
    assert (batch.aspect == np.float32(1.5)).all()


@pytest.mark.parametrize(
    ("size", "stored"),
    [(8, (10, 10)), (10, (12, 12)), (14, (12, 12)), (None, (12, 12)), ((7, 14), (6, 12))],
)
def test_images_are_never_kept_larger_than_they_are(plain_folder, size, stored):
    loaded = load(plain_folder, size=size)
    assert next(loaded.test.batches(4)).images.shape == (4, *stored, 3)
    assert loaded.size == (
        (12, 12) if size is None else size if isinstance(size, tuple) else (size, size)
    )


def test_the_default_size_is_224(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / name / f"{i}.jpg", sample_pixels(300, 280, i))
    loaded = load(tmp_path, size=None, memory_mb=0)
    assert loaded.size == (224, 224)
    assert next(loaded.train.batches(1, seed=0, epoch=0)).images.shape == (1, 224, 224, 3)
    assert next(loaded.test.batches(1)).images.shape == (1, 256, 256, 3)


@pytest.mark.parametrize("options", MODES)
def test_constants_are_those_of_the_training_images(plain_folder, options):
    loaded = load(plain_folder, **options)
    colours = np.stack([marked(n)[0, 0] for n in numbers(loaded.train)]) / 255
    np.testing.assert_allclose(loaded.normalization.mean, colours.mean(0), atol=1e-6)
    np.testing.assert_allclose(loaded.normalization.std[:2], colours.std(0)[:2], atol=1e-6)
    assert loaded.normalization.std[2] == 1 / 255  # the blue never changes: nothing is divided by 0


def test_real_images_have_about_imagenets_constants(shared_data, tmp_path):
    for part, n in (("train", 30), ("val", 4)):
        for folder in sorted((shared_data / "imagenette128" / part).iterdir()):
            (tmp_path / part / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:n]:
                (tmp_path / part / folder.name / path.name).symlink_to(path)
    loaded = load(tmp_path, size=64, workers=1)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (240, 60, 40)
    # Ten classes are not a thousand; the published deviation is the mean of each image's own.
    np.testing.assert_allclose(loaded.normalization.mean, data.IMAGENET.mean, atol=0.06)
    images = np.concatenate([b.images[b.mask] for b in loaded.train.in_order(60)]) / 255
    np.testing.assert_allclose(images.std((1, 2)).mean(0), data.IMAGENET.std, atol=0.03)
    np.testing.assert_allclose(loaded.normalization.std, images.std((0, 1, 2)), atol=1e-6)
    assert (np.array(loaded.normalization.std) > data.IMAGENET.std).all()


# -- workers, resuming -------------------------------------------------------------------------------


def test_processes_change_nothing_and_an_epoch_can_be_taken_up_anywhere(wide_folder):
    alone = load(wide_folder, size=12, memory_mb=0)
    whole = list(alone.train.batches(3, seed=2, epoch=1))
    assert len(whole) == 4
    with load(wide_folder, size=12, memory_mb=0, workers=2) as shared:
        for start in (0, 1, 3, 4):
            rest = list(shared.train.batches(3, seed=2, epoch=1, start=start))
            assert len(rest) == 4 - start
            for a, b in zip(whole[start:], rest, strict=True):
                assert all(
                    (getattr(a, f) == getattr(b, f)).all() for f in ("images", "labels", "mask")
                )
    for start in range(5):
        rest = list(alone.train.batches(3, seed=2, epoch=1, start=start))
        assert all((a.images == b.images).all() for a, b in zip(whole[start:], rest, strict=True))


def test_batches_larger_than_a_task(plain_folder):
    loaded = load(plain_folder, memory_mb=0)
    (batch,) = loaded.train.batches(38, seed=0, epoch=0)
    assert sorted(numbers_of(batch)) == sorted(numbers(loaded.train))


def test_decoding_in_processes_gives_what_decoding_here_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("lcnas.training.data._memory._FEW", 10)
    for name in ("a", "b"):
        for i in range(30):
            save(tmp_path / "s" / name / f"{i:02}.png", sample_pixels(9, 9, i))
    calls = []
    with load(
        tmp_path / "s", workers=2, cache=False, progress=lambda *n: calls.append(n)
    ) as shared:
        alone = load(tmp_path / "s", cache=False)
        for a, b in ((shared.train, alone.train), (shared.test, alone.test)):
            assert (a.source.images == b.source.images).all()
    assert {total for _, total in calls} == {
        len(shared.train),
        len(shared.validation),
        len(shared.test),
    }
    assert (38, 38) in calls


# -- the cache ---------------------------------------------------------------------------------------


def test_decoded_images_are_found_again_until_a_file_changes(plain_folder, cache, monkeypatch):
    first = load(plain_folder)
    assert len(list(cache.glob("pictures-*.npz"))) == 3
    monkeypatch.setattr("lcnas.training.data._decode.cut_image", None)
    again = load(plain_folder)
    assert numbers(again.train) == numbers(first.train)
    assert again.normalization == first.normalization
    monkeypatch.undo()
    monkeypatch.setenv("LCNAS_CACHE", str(cache))
    save(plain_folder / "ant" / "00.png", marked(100, (13, 13)))
    changed = load(plain_folder)
    assert 100 in numbers(changed.train) + numbers(changed.validation) + numbers(changed.test)


# -- faults ------------------------------------------------------------------------------------------


def damage(root, *names):
    for name in names:
        (root / name).write_bytes(b"damaged")


def test_damaged_images_in_memory_are_left_out_and_move_no_others(plain_folder):
    whole = load(plain_folder)
    before = [set(numbers(s)) for s in (whole.train, whole.validation, whole.test)]
    damage(plain_folder, "ant/03.png", "bee/07.png")  # 3 and 27
    loaded = load(plain_folder, max_bad=0.04)
    after = [set(numbers(s)) for s in (loaded.train, loaded.validation, loaded.test)]
    assert after == [part - {3, 27} for part in before]
    assert sorted(loaded.skipped) == ["ant/03.png", "bee/07.png"]
    assert all(loaded.skipped.values())


def test_damaged_images_streamed_are_masked(plain_folder):
    damage(plain_folder, "ant/03.png", "bee/07.png")
    loaded = load(plain_folder, memory_mb=0, max_bad=0.04)
    seen, masked = [], 0
    for batch in loaded.train.batches(19, seed=0, epoch=0):
        seen += numbers_of(batch)
        masked += (~batch.mask).sum()
        true = [0 if n < 20 else 1 if n < 50 else 2 for n in numbers_of(batch)]
        assert batch.labels.tolist() == true  # what stands in for them has its own label
    for split in (loaded.validation, loaded.test):
        for batch in split.batches(4):
            masked += (~batch.mask).sum()
            seen += [number_of(x) for x in batch.images[batch.mask]]
    padding = -len(loaded.validation) % 4 + -len(loaded.test) % 4
    assert masked == 2 + padding
    assert not {3, 27} & set(seen)
    assert sorted(loaded.skipped) == ["ant/03.png", "bee/07.png"]


@pytest.mark.parametrize("options", MODES)
def test_too_many_damaged_images_are_an_error_that_names_them(plain_folder, options):
    damage(plain_folder, "ant/03.png", "bee/07.png")
    words = r"\d of 60 images cannot be read, more than the 1 % allowed: (ant/03|bee/07)\.png \("
    with pytest.raises(DataError, match=words):  # noqa: PT012 - streamed, it shows when it is read
        loaded = load(plain_folder, **options)
        numbers(loaded.train)
        numbers(loaded.validation)
        numbers(loaded.test)


def test_an_empty_class_is_named(plain_folder):
    (plain_folder / "dog").mkdir()
    (plain_folder / "dog" / "readme.txt").write_text("")
    with pytest.raises(
        DataError,
        match=r"class dog of .*images has no images \(1 file left out: 1 .txt\); .*remove the fol",
    ):
        load(plain_folder)


def test_a_class_that_training_lacks_is_refused_with_the_nearest(split_folder):
    save(split_folder / "val" / "n03" / "x.png", marked(3))
    words = "classes of val that train does not have: n03; did you mean 'n0"
    with pytest.raises(DataError, match=words):
        load(split_folder)
    (split_folder / "val" / "n03" / "x.png").unlink()
    assert numbers(load(split_folder).test) == list(range(40, 46))  # an empty folder is no class


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ([], "has no folders; needed is a folder for each of at least 2 classes"),
        (["a/x.png"], "has only the folder a; needed"),
        (["a/b/x.png", "a/c/x.png"], "has only the folder a; .*did you mean imagefolder:.*/x/a"),
        (["x.png"], "has no folders"),
        (["train/a/x.png", "train/b/x.png"], "the validation split is empty; .* at least 3 images"),
        (["val/a/x.png", "train"], "has val, but no folder of training images .*; call it train"),
        (["val/a/x.png", "test/b/x.png"], "has test and val, but no folder of training images"),
        (["train/x.png", "test/x.png"], "has test and train, but no class folders in them"),
        (
            [f"{part}/{name}/x.png" for part in ("train", "val", "Valid") for name in "ab"],
            "has Valid and val, so the validation set is ambiguous; rename",
        ),
        (
            [f"{part}/{name}/x.png" for part in ("train", "Train") for name in "ab"],
            "has Train and train, so the folder of training images is ambiguous",
        ),
        (
            ["train/a/x.png", "test/a/x.png"],
            "x/train has only the folder a; needed is a folder for each of at least 2 classes, or",
        ),
        (
            ["a/x.png", "b/x.png", "test/a/x.png", "test/b/x.png"],
            "has test with folders inside, as splits have, and beside them a, b, as classes are",
        ),
        (
            ["imgs/a/x.png", "imgs/b/x.png", "test/a/x.png", "test/b/x.png"],
            "has test with folders inside, as splits have, and beside them imgs, as classes are",
        ),
        (["a/x.png", "b/x.png", "train/c/x.png"], "has train with folders inside, as splits have"),
        (
            ["train/a/x.png", "train/b/x.png", "val/a/readme", "test/a/x.png"],
            "x/val has no images .1 file left out: 1 without suffix",
        ),
        (["a/x.png", "b/x.png"], "the validation split is empty; each class needs at least 3"),
    ],
)
def test_other_layouts_are_refused_with_what_is_needed(tmp_path, make, words):
    root = tmp_path / "x"
    root.mkdir()
    for name in make:
        if name.endswith(".png"):
            save(root / name, marked(1))
        elif name.endswith("readme"):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text("none")
        else:
            (root / name).mkdir()
    with pytest.raises(DataError, match=words):
        load(root)


def test_many_images_are_probed_evenly(plain_folder):
    shape, stored = _imagefolder._sizes(plain_folder, ["ant/00.png"] * 1000, (10, 10))
    assert (shape, stored) == ((10, 10), (12, 12))
    damage(plain_folder, "ant/00.png")
    assert _imagefolder._sizes(plain_folder, ["ant/00.png"], None) == ((224, 224), (256, 256))


def test_an_image_that_vanishes_is_a_damaged_one(plain_folder):
    loaded = load(plain_folder, memory_mb=0, max_bad=0.5)
    (plain_folder / "bee" / "07.png").unlink()
    everything = numbers(loaded.train) + numbers(loaded.validation) + numbers(loaded.test)
    assert sorted(everything) == [n for n in range(60) if n != 27]
    assert "No such file" in loaded.skipped["bee/07.png"]


def test_images_of_one_class_are_grey_and_small_too(tmp_path):
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (1, 1), 9).save(tmp_path / name / f"{i}.png")
    loaded = load(tmp_path, size=8)
    assert (next(loaded.test.batches(2)).images == 9).all()
