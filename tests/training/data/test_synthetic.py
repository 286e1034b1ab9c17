import dataclasses
import itertools

import numpy as np
import pytest

from lcnas.errors import DataError
from lcnas.training import data
from lcnas.training.data import _synthetic


def arrays(split, batch=500):
    """All images and labels of a split, in order."""
    batches = list(split.in_order(batch) if isinstance(split, data.Train) else split.batches(batch))
    images = np.concatenate([b.images[b.mask] for b in batches])
    return images, np.concatenate([b.labels[b.mask] for b in batches])


def source(split):
    assert isinstance(split.source, _synthetic.SyntheticImages)
    return split.source


@pytest.fixture(scope="module")
def sample():
    loaded = data.load("synthetic:train=3000,test=1200")
    return loaded, arrays(loaded.train), arrays(loaded.test)


def test_sizes_and_balance(sample):
    loaded, (images, labels), (_, test_labels) = sample
    assert images.shape == (2400, 32, 32, 3)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (2400, 600, 1200)
    for part_labels in (labels, loaded.validation.labels, test_labels):
        counts = np.bincount(part_labels, minlength=12)
        assert counts.max() - counts.min() <= 1
    assert loaded.classes == len(loaded.class_names) == len(set(loaded.class_names)) == 12


def test_every_image_depends_on_seed_row_and_class_alone():
    maker = _synthetic.ImageGenerator((24, 24), 12, seed=5)
    rows, labels = np.arange(40), np.arange(40, dtype=np.int32) % 12
    whole = maker(rows, labels)
    alone = np.concatenate([maker(rows[i : i + 1], labels[i : i + 1]) for i in range(40)])
    assert (whole == alone).all()
    assert (maker(rows[::-1], labels[::-1])[::-1] == whole).all()
    assert len(np.unique(whole.reshape(40, -1), axis=0)) == 40
    other = dataclasses.replace(maker, seed=6)(rows, labels)
    assert (other != whole).any(axis=(1, 2, 3)).all()


def test_kept_and_made_anew_are_the_same():
    kept = data.load("synthetic:train=200,test=24", size=16, seed=3)
    anew = data.load("synthetic:train=200,test=24", size=16, seed=3, memory_mb=0)
    assert source(kept.train).keep
    assert not source(anew.train).keep
    for _ in range(2):  # the second time from memory
        pairs = zip(
            kept.train.batches(32, seed=1, epoch=0),
            anew.train.batches(32, seed=1, epoch=0),
            strict=True,
        )
        assert all((a.images == b.images).all() and (a.labels == b.labels).all() for a, b in pairs)
    assert kept.fingerprint == anew.fingerprint
    assert kept.normalization == anew.normalization


@pytest.mark.parametrize("size", [8, 33, (20, 44), (64, 24)])
def test_any_size(size):
    loaded = data.load("synthetic:classes=4,train=16,test=4", size=size)
    shape = (size, size) if isinstance(size, int) else size
    assert next(loaded.test.batches(4)).images.shape == (4, *shape, 3)
    assert loaded.size == shape


def test_colour_histograms_are_near_chance(sample):
    _, (images, labels), (tested, truth) = sample
    chance = 1 / 12
    deviation = np.sqrt(chance * (1 - chance) / len(truth))
    for features in (fine_histogram, joint_histogram):
        accuracy = nearest_mean(features(images), labels, features(tested), truth)
        assert accuracy < chance + 4 * deviation, features.__name__
    for features in (fine_histogram, joint_histogram):
        accuracy = ridge(features(images), labels, features(tested), truth)
        assert accuracy < chance + 4 * deviation, features.__name__


def test_the_mean_image_and_a_linear_model_of_the_pixels_find_little(sample):
    # A little of the disc's place can be seen in where it is bright, for twice and three times chance.
    _, (images, labels), (tested, truth) = sample
    assert nearest_mean(flat(images), labels, flat(tested), truth) < 2 / 12
    small = lambda x: x.reshape(len(x), 16, 2, 16, 2, 3).mean((2, 4)).reshape(len(x), -1)  # noqa: E731
    assert ridge(small(images), labels, small(tested), truth) < 3 / 12


def test_the_classes_can_be_distinguished(sample):
    # Where there are edges, and which way they run, is enough for six times chance even in a linear model.
    _, (images, labels), (tested, truth) = sample
    assert ridge(edges(images), labels, edges(tested), truth) > 0.4


def test_each_of_shape_texture_and_place_is_needed():
    # With all classes in use, classes that share two of the three are as many as the third has values.
    for classes, levels in ((8, (2, 2, 2)), (12, (3, 2, 2)), (27, (3, 3, 3)), (60, (5, 4, 3))):
        triples = [tuple(row) for row in _synthetic.triples(classes).tolist()]
        assert sorted(triples) == list(itertools.product(*map(range, levels)))
    for classes in range(2, 61):
        assert len({tuple(row) for row in _synthetic.triples(classes).tolist()}) == classes


def test_shapes_cover_equal_areas_and_textures_equal_shares():
    side = np.linspace(-2, 2, 801, dtype=np.float32)
    u, v = np.meshgrid(side, side)
    for name, shape in _synthetic.SHAPES.items():
        area = (shape(u, v) < 0).mean() * 16
        assert abs(area - np.pi) < 0.02, name
    for name, texture in _synthetic.TEXTURES.items():
        values = [texture(9 * u, 9 * v, a, a) for a in np.array([0, 0.3, 0.6], np.float32)]
        assert abs(np.mean(values)) < 0.02, name


def test_everything_drawn_is_inside_the_image():
    maker = _synthetic.ImageGenerator((48, 48), 60, seed=1)
    labels = np.arange(240, dtype=np.int32) % 60
    images = maker(np.arange(240), labels).astype(float)
    ring = np.concatenate(
        [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1
    ).std(1)
    # The ground is a slope of at most 0.12 with noise of 0.04 of the range.
    assert ring.max() < 255 * 0.1


def test_permuted_labels_are_the_same_labels_for_other_images():
    unpermuted = data.load("synthetic:train=600,test=120", size=16)
    control = data.load("synthetic:train=600,test=120", size=16, permute_labels=True)
    for name in ("train", "test"):
        permuted, true = (
            getattr(control, name).source.labels,
            getattr(unpermuted, name).source.labels,
        )
        assert sorted(permuted) == sorted(true)
        assert 0.0 < (permuted == true).mean() < 0.2
    rows = control.train.rows[:20]
    assert (source(control.train).images(rows) == source(unpermuted.train).images(rows)).all()
    assert control.fingerprint != unpermuted.fingerprint


def test_constants_are_those_of_the_pixels(sample):
    loaded, (images, _), _ = sample
    pixels = images[:2000].astype(np.float64) / 255
    np.testing.assert_allclose(loaded.normalization.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(loaded.normalization.std, pixels.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "synthetic:klasses=3",
            "'klasses' is not among train, test, classes; did you mean 'classes'",
        ),
        ("synthetic:classes=1", "classes: 1 is not a whole number of 2 to 60"),
        ("synthetic:classes=61", "2 to 60"),
        ("synthetic:train=23", "train: 23 is not a whole number of 24 to"),
        ("synthetic:test=3", "test: 3 is not"),
        ("synthetic:many", "'many' is not a whole number"),
        ("synthetic:400,train=300", "train is given twice, in '400,train=300'"),
        ("synthetic:train=-5", "'-5' is not a whole number"),
    ],
)
def test_wrong_options_are_refused(spec, words):
    with pytest.raises(DataError, match=words):
        data.load(spec)


def test_a_number_alone_is_that_of_the_training_images():
    assert len(data.load("synthetic:240", size=8).train) == 192


# -- simple models -----------------------------------------------------------------------------------


def flat(images):
    return images.reshape(len(images), -1) / 255.0


def fine_histogram(images):
    bins = images // 8
    counts = [
        np.stack([np.bincount(i.ravel(), minlength=32) for i in bins[..., c]]) for c in range(3)
    ]
    return np.concatenate(counts, 1).astype(float)


def joint_histogram(images):
    bins = (images // 64).astype(int) @ np.array([16, 4, 1])
    return np.stack([np.bincount(i.ravel(), minlength=64) for i in bins]).astype(float)


def edges(images):
    values = images.astype(float)
    across = np.abs(np.diff(values, axis=2, append=values[:, :, -1:])).sum(-1)
    down = np.abs(np.diff(values, axis=1, append=values[:, -1:])).sum(-1)
    pooled = [
        e.reshape(len(e), 8, 4, 8, 4).mean((2, 4)).reshape(len(e), -1) for e in (across, down)
    ]
    return np.concatenate(pooled, 1)


def nearest_mean(features, labels, tested, truth):
    means = np.stack([features[labels == c].mean(0) for c in range(12)])
    distance = (means**2).sum(1) - 2 * tested @ means.T
    return (distance.argmin(1) == truth).mean()


def ridge(features, labels, tested, truth):
    mean, std = features.mean(0), features.std(0) + 1e-6
    features, tested = (features - mean) / std, (tested - mean) / std
    square = features.T @ features + 300 * np.eye(features.shape[1])
    weights = np.linalg.solve(square, features.T @ np.eye(12)[labels])
    return ((tested @ weights).argmax(1) == truth).mean()
