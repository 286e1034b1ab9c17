import dataclasses
import functools
import itertools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from lcnas.errors import AugmentError
from lcnas.training.augment import Augment, _colour, _crop, _mix, _rand
from lcnas.training.data import Normalization
from lcnas.training.data._decode import random_box

UNIT = Normalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # leaves pixels from 0 to 255
NOTHING = Augment(crop="none", flip=0.0)
WHOLE = Augment(crop="resized", scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)


def sample_images(n, height=16, width=None, seed=0):
    """Smooth random images."""
    rng = np.random.default_rng(seed)
    size = (width or height, height)
    small = rng.integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC)) for x in small]
    )


def noise(n, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@functools.cache
def program(augment, size, classes, normalization, cropped):
    return jax.jit(
        lambda images, labels, key, aspect, first: augment.apply(
            images,
            labels,
            key,
            size=size,
            classes=classes,
            normalization=normalization,
            aspect=aspect,
            cropped=cropped,
            first=first,
        )
    )


def apply(
    augment,
    images,
    *,
    labels=None,
    seed=0,
    size=None,
    classes=3,
    aspect=None,
    cropped=False,
    first=0,
    of=UNIT,
):
    """Images and targets, as NumPy arrays."""
    labels = np.arange(len(images), dtype=np.int32) % classes if labels is None else labels
    size = images.shape[1:3] if size is None else size
    run = program(augment, size, classes, of, cropped)
    x, targets = run(images, labels, jax.random.key(seed), aspect, first)
    assert x.dtype == targets.dtype == jnp.float32
    return np.asarray(x), np.asarray(targets)


def draws(n, count, seed=0):
    """Uniform numbers, as the device would draw them."""
    return np.random.default_rng(seed).random((n, count), np.float32)


resample = jax.jit(
    lambda images, boxes, shape: _crop.resample(
        images, _crop.resampling_plan(boxes, images.shape[1:3], shape)
    ),
    static_argnums=2,
)
random_boxes = jax.jit(_crop.random_boxes, static_argnums=(2, 3))
shifted = jax.jit(_crop.shifted, static_argnums=(2, 3))
jitter = jax.jit(_colour.jitter, static_argnums=(2, 3))
erase = jax.jit(_colour.erase, static_argnums=(2, 3, 4))
mix = jax.jit(_mix.mix, static_argnums=(3, 4, 5))
operate = jax.jit(_rand.operate)
operations = jax.jit(_rand.apply, static_argnums=(2, 3, 4))


# -- nothing, and the identity -----------------------------------------------------------------------


@pytest.mark.parametrize("augment", [NOTHING, WHOLE, Augment(crop="shift", pad=0, flip=0.0)])
def test_what_changes_nothing_returns_the_images(augment):
    images = noise(4)
    x, targets = apply(augment, images)
    np.testing.assert_allclose(x, images, atol=1e-3)
    assert (targets == np.eye(3)[np.arange(4) % 3]).all()


def test_images_are_normalised():
    images, of = noise(4), Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    expected = (images / 255 - of.mean) / of.std
    np.testing.assert_allclose(apply(NOTHING, images, of=of)[0], expected, atol=1e-5)
    evaluated = NOTHING.evaluate(images, size=14, normalization=of)
    np.testing.assert_allclose(evaluated, expected[:, 1:-1, 1:-1], atol=1e-5)


def test_what_is_not_asked_for_is_not_in_the_program():
    def primitives(augment):
        run = program(augment, (16, 16), 3, UNIT, False)
        text = str(run.trace(noise(2), np.zeros(2, np.int32), jax.random.key(0), None, 0).jaxpr)
        words = ("gather", "random_bits", "scan", "sqrt", "exp")
        return {word for word in words if f" {word}" in text or f"{word}[" in text}

    assert primitives(NOTHING) == set()
    assert primitives(Augment(crop="none")) == {"random_bits"}
    assert {"gather", "random_bits", "sqrt", "exp"} <= primitives(Augment())
    assert "scan" in primitives(dataclasses.replace(NOTHING, rand_augment=1))


EVERYTHING = Augment(jitter=0.3, mixup=0.3, cutmix=1.0, erase=0.5)


def test_one_draw_is_the_same_each_time_and_another_key_another_draw():
    images = noise(8)
    first, again, other = (apply(EVERYTHING, images, seed=s) for s in (1, 1, 2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[0] != other[0]).any(axis=(1, 2, 3)).all()


def test_parts_of_a_batch_are_what_the_whole_gives():
    images, labels = noise(8), np.arange(8, dtype=np.int32) % 3
    whole = apply(EVERYTHING, images, labels=labels)
    for start in (0, 2, 4, 6):
        part = slice(start, start + 2)
        x, targets = apply(EVERYTHING, images[part], labels=labels[part], first=start)
        np.testing.assert_allclose(x, whole[0][part], atol=1e-3)
        np.testing.assert_allclose(targets, whole[1][part], atol=1e-6)


def test_devices_can_share_a_batch_with_checked_axes():
    run = functools.partial(NOTHING.apply, size=8, classes=3, normalization=UNIT)
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))
    specs = (P("devices"), P("devices"), P())
    shared = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=specs[:2], check_vma=True)
    images, labels = noise(4), np.arange(4, dtype=np.int32) % 3
    x, _ = jax.jit(shared)(images, labels, jax.random.key(0))
    np.testing.assert_allclose(x, apply(NOTHING, images, size=8)[0], atol=1e-3)


def test_equal_images_become_different_ones():
    images = np.repeat(noise(1), 8, axis=0)
    x, _ = apply(EVERYTHING, images)
    assert len(np.unique(x.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize(
    ("augment", "size"),
    [
        (Augment(mixup=1.0), (12, 20)),
        (Augment(crop="shift", pad=2), 24),
    ],
)
def test_any_size(augment, size):
    images = sample_images(4, 15, 22)
    x, targets = apply(augment, images, size=size)
    assert x.shape == (4, *((size, size) if isinstance(size, int) else size), 3)
    assert np.isfinite(x).all()
    assert x.min() > -1
    assert x.max() < 256
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_a_single_image_can_be_augmented():
    x, targets = apply(dataclasses.replace(NOTHING, mixup=0.3, cutmix=1.0, erase=0.5), noise(1))
    assert x.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(targets, [[1, 0, 0]], atol=1e-6)


# -- flips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [NOTHING, WHOLE, Augment(crop="shift", pad=0)])
def test_flipping_twice_is_the_identity(augment):
    images = noise(4)
    always = dataclasses.replace(augment, flip=1.0)
    once, _ = apply(always, images)
    np.testing.assert_allclose(once, images[:, :, ::-1], atol=1e-3)
    twice, _ = apply(always, np.round(once).astype(np.uint8))
    np.testing.assert_allclose(twice, images, atol=1e-3)


def test_as_many_are_flipped_as_asked_for():
    images = np.zeros((2000, 2, 2, 3), np.uint8)
    images[:, :, 0] = 255
    x, _ = apply(Augment(crop="none", flip=0.3), images)
    assert abs((x[:, 0, 1, 0] == 255).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)


# -- resampling --------------------------------------------------------------------------------------


def spans(boxes, width, height):
    """Boxes as Pillow has them (left, top, right, bottom in pixels), as shares."""
    left, top, right, bottom = np.array(boxes, np.float32).T
    return _crop.Boxes(top / height, left / width, (bottom - top) / height, (right - left) / width)


@pytest.mark.parametrize("size", [(7, 9), (20, 30), (33, 40)])
def test_resampling_is_pillows(size):
    # Pillow rounds after each of its two passes.
    images = noise(5, 40)[:, :30]  # (5, 30, 40, 3)
    boxes = [
        (0, 0, 40, 30),
        (3.3, 2.2, 30.7, 25.1),
        (10, 5, 19, 14),
        (0, 10, 40, 20),
        (39, 29, 40, 30),
    ]
    results = np.asarray(resample(images, spans(boxes, 40, 30), size))
    for image, box, result in zip(images, boxes, results, strict=True):
        whole = Image.fromarray(image)
        expected = whole.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
        assert np.abs(result - np.asarray(expected).astype(float)).max() < 1.5


def test_a_constant_stays_one_and_a_slope_a_slope():
    slope = np.broadcast_to(
        np.arange(0, 200, 10, dtype=np.uint8)[None, None, :, None], (1, 20, 20, 3)
    )
    images = np.concatenate([np.full((1, 20, 20, 3), 99, np.uint8), slope])
    boxes = spans([(2, 2, 18, 18), (4, 4, 12, 12)], 20, 20)
    results = np.asarray(resample(images, boxes, (16, 16)))
    np.testing.assert_allclose(results[0], 99, atol=1e-3)
    # Pixel j of the result looks at 4 + (j + 0.5) / 2 - 0.5, and the slope there is ten times that.
    expected = 10 * (4 + (np.arange(16) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(results[1, 3, :, 1], expected, atol=1e-2)


def test_shrinking_is_antialiased():
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    x, _ = apply(NOTHING, stripes, size=8)
    assert np.abs(x[:, :, 1:-1] - 127.5).max() < 1


# -- random crops ------------------------------------------------------------------------------------


def boxes_of(n, aspect, scale, ratio, seed=0):
    aspects = np.full(n, aspect, np.float32)
    boxes = random_boxes(draws(n, _crop.DRAWS, seed), aspects, scale, ratio)
    return [np.asarray(values).astype(float) for values in boxes]


@pytest.mark.parametrize("aspect", [1.0, 3.0, 0.4])
def test_crops_on_the_device_are_drawn_like_those_in_the_workers(aspect):
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 4000
    top, left, height, width = boxes_of(n, aspect, scale, ratio)
    side = 100
    worker_boxes = np.array(
        [
            random_box(int(side * aspect), side, scale, ratio, np.random.default_rng(i))
            for i in range(n)
        ]
    )
    others = (
        worker_boxes[:, 1] / side,
        worker_boxes[:, 0] / side / aspect,
        (worker_boxes[:, 3] - worker_boxes[:, 1]) / side,
        (worker_boxes[:, 2] - worker_boxes[:, 0]) / side / aspect,
    )
    for own, other in zip((top, left, height, width), others, strict=True):
        np.testing.assert_allclose(
            np.quantile(own, [0.1, 0.3, 0.5, 0.7, 0.9]),
            np.quantile(other, [0.1, 0.3, 0.5, 0.7, 0.9]),
            atol=0.03,
        )


def test_crops_keep_to_their_limits():
    aspect = 1.2  # at which every draw fits, so none is drawn again
    top, left, height, width = boxes_of(2000, aspect, (0.1, 0.6), (0.8, 1.3))
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    shape = width * aspect / height
    assert shape.min() > 0.8 - 1e-5
    assert shape.max() < 1.3 + 1e-5
    area = height * width
    assert area.min() > 0.1 - 1e-5
    assert area.max() < 0.6 + 1e-5
    assert stats.kstest(area, stats.uniform(0.1, 0.5).cdf).pvalue > 1e-3
    logs = stats.uniform(np.log(0.8), np.log(1.3 / 0.8))
    assert stats.kstest(np.log(shape), logs.cdf).pvalue > 1e-3


def test_a_crop_that_never_fits_is_the_largest_in_the_middle():
    top, left, height, width = boxes_of(3, 4.0, (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(
        np.stack([top, left, height, width]), np.array([[0], [0.375], [1], [0.25]]) * np.ones(3)
    )


def test_a_squashed_image_is_cropped_in_its_true_shape():
    # A disc in an image twice as wide as high, squashed: crops of shape 1 must show it round.
    y, x = np.mgrid[:64, :64] + 0.5
    squashed = ((2 * (x - 32)) ** 2 + (y - 32) ** 2 < 24**2).astype(np.uint8) * 255
    images = np.repeat(np.repeat(squashed[None, :, :, None], 3, 3), 32, 0)
    augment = Augment(scale=(0.4, 0.5), ratio=(1.0, 1.0), flip=0.0)
    x, _ = apply(augment, images, size=64, aspect=np.full(32, 2.0, np.float32))
    measured = 0
    for mask in x[..., 0] > 127:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows[0] > 0 and rows[-1] < 63 and columns[0] > 0 and columns[-1] < 63:
            assert abs(len(rows) / len(columns) - 1) < 0.1
            measured += 1
    assert measured > 5


def test_cropped_images_are_not_cropped_again():
    images = noise(4)
    x, _ = apply(Augment(flip=0.0), images, cropped=True)
    np.testing.assert_allclose(x, images, atol=1e-3)
    assert apply(Augment(flip=0.0), images, size=12, cropped=True)[0].shape == (4, 12, 12, 3)


# -- shifts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "numpys"), [("reflect", "reflect"), ("black", "constant")])
@pytest.mark.parametrize("mirrored", [False, True])
def test_shifts_are_crops_of_the_padded_image(mode, numpys, mirrored):
    pad, image = 3, noise(1, 8)[0]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=numpys)
    moves = [(i, j) for i in range(7) for j in range(7)]
    places = (np.array(moves, np.float32) + np.float32(0.5)) / np.float32(7)
    results = shifted(np.repeat(image[None], 49, 0), places, pad, mode, np.full(49, mirrored))
    assert results.dtype == jnp.uint8
    for (down, right), result in zip(moves, np.asarray(results), strict=True):
        expected = padded[down : down + 8, right : right + 8]
        assert (result == (expected[:, ::-1] if mirrored else expected)).all()


def test_all_shifts_are_equally_likely():
    images = np.zeros((5000, 11, 11, 3), np.uint8)
    images[:, 5, 5] = 255
    x = np.asarray(shifted(images, draws(5000, 2), 2, "reflect"))
    places = [tuple(np.argwhere(image[..., 0])[0] - 5) for image in x]
    counts = np.array([places.count((i, j)) for i in range(-2, 3) for j in range(-2, 3)])
    assert counts.sum() == 5000
    assert (
        (counts - 200) ** 2 / 200
    ).sum() < 52  # chi-square, 24 degrees of freedom: once in 1,000


def test_a_shift_may_exceed_the_image():
    x = shifted(noise(8, 4), draws(8, 2), 9, "reflect")
    assert set(np.unique(x)) <= set(np.unique(noise(8, 4)))


# -- evaluation --------------------------------------------------------------------------------------


def evaluate(crop, images, size, aspect=None):
    run = functools.partial(Augment(evaluate_crop=crop).evaluate, size=size, normalization=UNIT)
    return np.asarray(jax.jit(lambda images, aspect: run(images, aspect=aspect))(images, aspect))


@pytest.mark.parametrize(("crop", "size"), [(0.875, 28), (1.0, 32), (0.48, 15)])
def test_an_evaluation_takes_the_middle_untouched_where_pixels_fit(crop, size):
    images = noise(3, 32)
    for aspect in (None, np.ones(3, np.float32)):
        results = evaluate(crop, images, size, aspect)
        edge = (32 - size) // 2
        np.testing.assert_allclose(
            results, images[:, edge : edge + size, edge : edge + size], atol=1e-2
        )


@pytest.mark.parametrize("size", [20, 40, (12, 30), (30, 12)])
def test_an_evaluation_is_pillows_resize_and_centre_crop(size):
    images = sample_images(2, 40, 56)
    tall, wide = (size, size) if isinstance(size, int) else size
    results = evaluate(0.8, images, size)
    high = 0.8 * min(40, 56 * tall / wide)
    box = (28 - high * wide / tall / 2, 20 - high / 2, 28 + high * wide / tall / 2, 20 + high / 2)
    for image, result in zip(images, results, strict=True):
        expected = Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR, box=box)
        assert np.abs(result - np.asarray(expected).astype(float)).max() < 1.5


def test_an_evaluation_of_a_squashed_image_shows_it_unsquashed():
    wide = sample_images(2, 32, 64)
    squashed = np.stack(
        [np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BILINEAR)) for x in wide]
    )
    expected = evaluate(0.9, wide, 24)
    aspects = np.full(2, 2.0, np.float32)
    assert np.abs(evaluate(0.9, squashed, 24, aspects) - expected).mean() < 3
    assert np.abs(evaluate(0.9, squashed, 24, aspects / 2) - expected).mean() > 6


# -- colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_jitter_is_pillows_enhancement(which, enhance, factor):
    images = sample_images(3)
    drawn = np.full((3, 4), 0.5, np.float32)
    drawn[:, which] = (factor - 0.6) / 0.8
    results = jitter(images.astype(np.float32), drawn, 0.4, 0.0)
    for image, result in zip(images, np.asarray(results), strict=True):
        expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor)).astype(float)
        assert np.abs(result - expected).max() < 1.6


def test_jitter_in_one_map_is_jitter_step_by_step():
    x = (
        sample_images(5).astype(np.float64) * 0.4 + 70
    )  # far from both ends, where nothing is cut off
    drawn = draws(5, 4)
    brightness, contrast, saturation = (
        1 + 0.2 * (2 * drawn[:, i] - 1)[:, None, None, None] for i in range(3)
    )
    luma = np.array([0.299, 0.587, 0.114])
    expected = x * brightness
    expected = (
        expected * contrast + (1 - contrast) * (expected @ luma).mean((1, 2))[:, None, None, None]
    )
    expected = expected * saturation + (1 - saturation) * (expected @ luma)[..., None]
    result = jitter(x.astype(np.float32), drawn, 0.2, 0.0)
    np.testing.assert_allclose(result, expected, atol=1e-2)


def test_hue_turns_around_grey():
    colours = np.array([[[[90, 20, 20], [20, 90, 20], [77, 77, 77]]]], np.float32)
    third, nothing = np.asarray(
        jax.jit(_colour._rotation)(np.array([2 * np.pi / 3, 0], np.float32))
    )
    np.testing.assert_allclose(
        colours @ third.T, [[[[20, 90, 20], [20, 20, 90], [77, 77, 77]]]], atol=1e-4
    )
    np.testing.assert_allclose(nothing, np.eye(3), atol=1e-6)
    # A draw of 1 turns by `hue` of the circle, a draw of 0 back.
    drawn = np.array([[0.5, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.0]], np.float32)
    both = jitter(np.repeat(colours, 2, 0), drawn, 0.0, 1 / 3)
    np.testing.assert_allclose(both[0, 0, 0], [20, 90, 20], atol=1e-3)
    np.testing.assert_allclose(both[1, 0, 0], [20, 20, 90], atol=1e-3)


def test_jitter_stays_within_0_to_255():
    x = jitter(noise(64).astype(np.float32), draws(64, 4), 1.0, 0.5)
    assert x.min() >= -1e-4
    assert x.max() <= 255 + 1e-3


# -- erasing -----------------------------------------------------------------------------------------


def test_erased_rectangles_have_their_area():
    ones = np.ones((500, 30, 30, 3), np.float32)
    x = np.asarray(erase(ones, draws(500, 5), 0.7, (0.1, 0.3), (0.5, 2.0)))
    erased = x == 0
    assert (erased | (x == 1)).all()
    has_rectangle = erased.any((1, 2, 3))
    assert abs(has_rectangle.mean() - 0.7) < 4 * np.sqrt(0.21 / 500)
    for mask in erased[has_rectangle][..., 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)  # a rectangle
        assert 0.08 < mask.mean() < 0.33
        assert 0.4 < len(columns) / len(rows) < 2.5


def test_what_is_erased_has_the_mean_colour():
    of = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    x, _ = apply(
        dataclasses.replace(NOTHING, erase=1.0), np.full((4, 16, 16, 3), 255, np.uint8), of=of
    )
    assert ((x == 0) | (np.abs(x - 2) < 1e-5)).all()
    assert (x == 0).any((1, 2, 3)).all()


def test_erased_places_are_uniform():
    ones = np.ones((3000, 10, 10, 3), np.float32)
    x = np.asarray(erase(ones, draws(3000, 5), 1.0, (0.01, 0.01), (1.0, 1.0)))
    counts = (x[..., 0] == 0).sum(0)
    assert counts.sum() == 3000
    assert ((counts - 30) ** 2 / 30).sum() < 150  # chi-square, 99 degrees of freedom: once in 1,000


# -- mixing ------------------------------------------------------------------------------------------


def mixed(n, mixup=0.0, cutmix=0.0, share=1.0, side=20):
    """Black images of class 0 and white ones of class 1 by turns, mixed: (images, labels, targets).

    So the mean brightness is the weight of class 1.
    """
    labels = np.arange(n) % 2
    images = np.zeros((n, side, side, 3), np.float32)
    images[labels == 1] = 1
    x, targets = mix(
        images, np.eye(2, dtype=np.float32)[labels], draws(n, _mix.DRAWS), mixup, cutmix, share
    )
    return np.asarray(x), labels, np.asarray(targets)


@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"mixup": 0.4, "cutmix": 1.0},
        {"mixup": 1.0, "share": 0.5},
        {"cutmix": 0.3},
    ],
)
@pytest.mark.parametrize("n", [64, 63])
def test_targets_are_the_shares_of_what_is_seen(options, n):
    x, _, targets = mixed(n, **options)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert targets.min() >= 0
    white = x.mean((1, 2, 3))
    paired = slice(0, n - n % 2)  # the last of an odd number meets the first, of its own class
    np.testing.assert_allclose(white[paired], targets[paired, 1], atol=1e-5)


def test_mixup_is_a_blend_and_cutmix_a_rectangle():
    x, _, _ = mixed(200, mixup=1.0)
    assert np.ptp(x, axis=(1, 2, 3)).max() < 1e-3
    x, labels, targets = mixed(200, cutmix=1.0)
    assert ((x == 0) | (x == 1)).all()
    for image, label, target in zip(x[..., 0], labels, targets, strict=True):
        other = image != label
        rows, columns = other.any(1).sum(), other.any(0).sum()
        assert other.sum() == rows * columns
        assert target[1 - label] == pytest.approx(rows * columns / 400, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_are_distributed_as_beta(alpha):
    weights = np.asarray(jax.jit(_mix._beta, static_argnums=1)(draws(5000, 1)[:, 0], alpha)).astype(
        float
    )
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_the_weight_of_mixup_is_that_of_the_image_itself():
    _, labels, targets = mixed(2000, mixup=0.5, side=2)
    own = targets[np.arange(2000), labels].astype(float)
    assert stats.kstest(own, stats.beta(0.5, 0.5).cdf).pvalue > 1e-3


def test_rectangles_cover_what_is_asked_for_unless_an_edge_cuts_them():
    boxes = jax.jit(_mix._boxes, static_argnums=0)
    left = np.array([0.75, 0.36, 0.0, 1.0], np.float32)
    middle = np.asarray(boxes((40, 40), left, np.full((4, 2), 0.5, np.float32)))
    np.testing.assert_allclose(middle.mean((1, 2)), 1 - left, atol=0.02)
    corner = np.asarray(boxes((40, 40), left, np.zeros((4, 2), np.float32)))[0]
    assert corner[:10, :10].all()
    assert corner.sum() == 100


def test_as_many_are_mixed_as_asked_for_and_half_by_each():
    x, _, targets = mixed(2000, mixup=1.0, cutmix=1.0, share=0.6, side=4)
    blended = (np.ptp(x, axis=(1, 2, 3)) < 1e-3) & (targets.max(1) < 1)
    assert abs(blended.mean() - 0.3) < 0.05
    assert 0.1 < (np.ptp(x, axis=(1, 2, 3)) == 1).mean() < 0.3  # small rectangles may hold no pixel


def test_images_without_a_label_have_empty_targets():
    images = noise(4)
    labels = np.array([0, -1, 2, -1], np.int32)
    _, targets = apply(NOTHING, images, labels=labels)
    assert targets.sum(1).tolist() == [1, 0, 1, 0]
    _, soft = apply(dataclasses.replace(NOTHING, mixup=1.0), images, labels=labels)
    assert ((soft.sum(1) > 0) & (soft.sum(1) < 1)).all()


# -- RandAugment -------------------------------------------------------------------------------------

FILL = (128, 128, 128)


def moved(image, matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL
    )


PILLOWS = {
    "identity": lambda image, level: image,
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 * (1 - abs(level))),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(4 * abs(level))),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(1 + 0.9 * level),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(1 + 0.9 * level),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level),
    "rotate": lambda image, level: image.rotate(
        30 * level, Image.Resampling.BILINEAR, fillcolor=FILL
    ),
    "shear_x": lambda image, level: moved(image, (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": lambda image, level: moved(image, (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": lambda image, level: moved(image, (1, 0, 0.45 * level * image.width, 0, 1, 0)),
    "translate_y": lambda image, level: moved(image, (1, 0, 0, 0, 1, 0.45 * level * image.height)),
}
LEVELS = (-1.0, -0.55, 0.0, 0.5, 1.0)


class Operated(NamedTuple):
    image: np.ndarray
    arguments: tuple  # images, operations, levels
    result: np.ndarray
    results: dict  # name -> (level, result) of each level


@pytest.fixture(scope="module")
def operated():
    """Every operation at every level on one image."""
    image = sample_images(1, 24, 20, seed=3)[0] // 2 + 40
    which = np.repeat(np.arange(14, dtype=np.int32), len(LEVELS))
    levels = np.tile(np.array(LEVELS, np.float32), 14)
    arguments = np.repeat(image[None], len(which), 0).astype(np.float32), which, levels
    result = np.asarray(operate(*arguments))
    parts = result.reshape(14, len(LEVELS), *image.shape)
    pairs = [list(zip(LEVELS, part, strict=True)) for part in parts]
    return Operated(image, arguments, result, dict(zip(_rand.OPERATIONS, pairs, strict=True)))


@pytest.mark.parametrize("name", _rand.OPERATIONS)
def test_operations_are_pillows(operated, name):
    image = operated.image
    assert set(PILLOWS) == set(_rand.OPERATIONS)
    for level, result in operated.results[name]:
        expected = np.asarray(PILLOWS[name](Image.fromarray(image), level)).astype(float)
        off = np.abs(result - expected).max(-1)
        assert (result == np.round(result)).all()
        # Where Pillow rounds another way it is by one; its map may put a pixel of the rim just outside.
        assert (off > 1).mean() <= (0.02 if _rand.OPERATIONS.index(name) >= 9 else 0.0), level


def test_strong_operations_change_the_image(operated):
    for name in _rand.OPERATIONS[1:]:
        assert any(
            np.abs(result - operated.image).mean() > 1 for _, result in operated.results[name]
        ), name


def test_equalize_and_auto_contrast_of_noise_are_pillows():
    pairs: tuple = (
        (jax.jit(_rand.equalize), ImageOps.equalize),
        (jax.jit(_rand.auto_contrast), ImageOps.autocontrast),
    )
    for seed in range(3):
        images = noise(2, 24, seed) // (seed + 1)
        images[1, ..., 0] = 7  # a channel of one value stays as it is
        for image, (f, pillows) in itertools.product(images, pairs):
            expected = np.asarray(pillows(Image.fromarray(image))).astype(float)
            assert np.abs(np.asarray(f(image.astype(np.float32))) - expected).max() <= 1


def test_side_by_side_and_one_by_one_are_the_same(operated, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = jax.jit(functools.partial(_rand.operate))  # not the one that is traced already
    assert "scan" not in str(together.trace(*operated.arguments).jaxpr)
    np.testing.assert_allclose(together(*operated.arguments), operated.result, atol=1)


def test_all_operations_are_drawn_equally_often_with_both_signs():
    draw = jax.jit(_rand.drawn, static_argnums=(1, 2))
    which, level = map(np.asarray, draw(draws(2800, 3), 6.0, 0.0))
    counts = np.bincount(which, minlength=14)
    assert (
        (counts - 200) ** 2 / 200
    ).sum() < 35  # chi-square, 13 degrees of freedom: once in 1,000
    np.testing.assert_allclose(np.abs(level), 0.6, rtol=1e-6)
    assert 0.45 < (level > 0).mean() < 0.55
    _, level = draw(draws(2800, 3), 6.0, 1.0)
    assert np.abs(level).mean() == pytest.approx(0.6, abs=0.01)
    assert np.std(np.abs(level)) == pytest.approx(0.1, abs=0.01)


def test_each_operation_is_drawn_by_itself(monkeypatch):
    def shade(images, operation, level):
        return 100 * images + (operation.astype(jnp.float32) + level)[:, None, None, None]

    monkeypatch.setattr(_rand, "operate", shade)
    results = jax.jit(lambda x: _rand.apply(jnp.ones((5, 1, 1, 3)), x, 2, 5.0, 0.0))(draws(5, 6))
    parts = [
        _rand.drawn(jnp.asarray(part), 5.0, 0.0)
        for part in (draws(5, 6)[:, :3], draws(5, 6)[:, 3:])
    ]
    first, second = (np.asarray(operation) + np.asarray(level) for operation, level in parts)
    np.testing.assert_allclose(results[:, 0, 0, 0], 1e4 + 100 * first + second, rtol=1e-6)


def test_magnitude_0_changes_nothing_but_by_two(operated):
    changed = set()
    for name in _rand.OPERATIONS:
        (result,) = [result for level, result in operated.results[name] if level == 0]
        if not (result == operated.image).all():
            changed.add(name)
    assert changed == {"auto_contrast", "equalize"}


# -- descriptions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"crop": "resize"},
            "augment: crop: 'resize' is not among none, resized, shift; did you mean 'resized'",
        ),
        ({"pad_mode": "white"}, "augment: pad_mode: 'white' is not among"),
        ({"flip": 1.5}, "augment: flip: 1.5 is not a number of 0 to 1"),
        ({"flip": "yes"}, "augment: flip: 'yes'"),
        ({"jitter": float("nan")}, "augment: jitter: nan"),
        ({"pad": 1.5}, "augment: pad: 1.5 is not a whole number"),
        ({"rand_augment": True}, "augment: rand_augment: True is not a number"),
        ({"rand_magnitude": 11}, "augment: rand_magnitude: 11 is not a number of 0 to 10"),
        ({"scale": (0.0, 1.0)}, "augment: scale: 0 < low <= high <= 1 must hold"),
        ({"ratio": (2.0, 1.0)}, "augment: ratio: 0 < low <= high must hold"),
        ({"scale": 0.5}, "augment: scale: .* got 0.5"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(AugmentError, match=words):
        Augment(**options)


def test_a_size_that_cannot_be_is_refused():
    with pytest.raises(AugmentError, match="size: 0 is outside"):
        apply(NOTHING, noise(1), size=0)


def test_an_augment_is_hashable_and_lists_become_pairs():
    listed = Augment(**json.loads('{"scale": [0.1, 1]}'))
    assert listed == Augment(scale=(0.1, 1.0))
    assert hash(listed) == hash(Augment(scale=(0.1, 1.0)))
    assert Augment(mixup=0.1).mixes
    assert not Augment(mixup=0.1, mix_share=0.0).mixes
