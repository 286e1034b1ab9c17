"""Preprocessing of images, compared with closed forms and with two steps of Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcnas import onnx_export
from lcnas.errors import ImageError
from lcnas.onnx_export import Preprocessing

RAW: dict[str, Any] = {
    "mean": (0.0, 0.0, 0.0),
    "std": (1 / 255,) * 3,
}  # pixels come out as they go in


def noise(height, width, n=1, seed=0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_normalisation():
    prepare = Preprocessing((4, 5), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), crop=1.0)
    pixels = noise(4, 5, n=3)
    expected = (pixels / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.25, 0.5])
    x = prepare(pixels)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, expected, atol=2e-6)
    np.testing.assert_array_equal(prepare(pixels.astype(np.float32)), x)


@pytest.mark.parametrize(
    ("size", "crop", "image", "box"),
    [
        ((224, 224), 0.875, (256, 512), (144, 16, 368, 240)),
        ((224, 224), 0.875, (512, 256), (16, 144, 240, 368)),
        ((32, 32), 1.0, (32, 32), (0, 0, 32, 32)),
        ((80, 160), 1.0, (100, 100), (0, 25, 100, 75)),
        ((80, 160), 0.5, (80, 400), (160, 20, 240, 60)),
    ],
)
def test_what_the_network_sees(size, crop, image, box):
    seen = Preprocessing(size, crop=crop).box(*image)
    assert seen == pytest.approx(box)
    assert Preprocessing(size, squash=True).box(*image) == (0, 0, image[1], image[0])


def test_a_crop_without_a_resize_is_a_slice():
    x = noise(256, 256)[0]
    cropped = Preprocessing((224, 224), **RAW).of_image(Image.fromarray(x))
    np.testing.assert_allclose(cropped, x[16:240, 16:240], atol=1e-3)


def test_halving_weights_neighbours_1_3_3_1():
    """The triangle filter of a resize by half spans two pixels on each side."""
    x = noise(24, 24)[0].astype(np.float64)
    halved = Preprocessing((12, 12), squash=True, **RAW).of_image(
        Image.fromarray(x.astype(np.uint8))
    )
    taps = np.array([1, 3, 3, 1]) / 8
    by_rows = sum(t * x[i + 1 : i + 20 : 2] for i, t in enumerate(taps))
    expected = sum(t * by_rows[:, i + 1 : i + 20 : 2] for i, t in enumerate(taps))
    np.testing.assert_allclose(halved[1:-1, 1:-1], expected, atol=1.01)  # rounded twice


def test_resize_and_crop_at_once_are_the_same_as_in_two_steps():
    x = noise(64, 80)[0]
    at_once = Preprocessing((28, 28), **RAW).of_image(Image.fromarray(x))
    resized = Image.fromarray(x).resize((40, 32), Image.Resampling.BILINEAR)  # 28 / 0.875 = 32
    by_steps = np.asarray(resized)[2:30, 6:34]
    np.testing.assert_allclose(at_once, by_steps, atol=1.01)


def test_arrays_are_resized_like_images_and_floats_like_whole_numbers():
    x = noise(30, 20, n=2)
    prepare = Preprocessing((14, 12), crop=0.9, **RAW)
    resized = prepare(x)
    assert resized.shape == (2, 14, 12, 3)
    for image, array in zip(x, resized, strict=True):
        np.testing.assert_array_equal(array, prepare.of_image(Image.fromarray(image)))
    np.testing.assert_allclose(prepare(x.astype(np.float32)), resized, atol=1.01)


def test_arrays_of_the_networks_size_are_cropped_too_unless_all_is_kept():
    x = noise(16, 16, n=2)
    np.testing.assert_allclose(Preprocessing((16, 16), crop=1.0, **RAW)(x), x, atol=1e-3)
    np.testing.assert_allclose(Preprocessing((16, 16), squash=True, **RAW)(x), x, atol=1e-3)
    prepare = Preprocessing((16, 16), crop=0.5, **RAW)
    np.testing.assert_array_equal(prepare(x)[0], prepare.of_image(Image.fromarray(x[0])))
    assert np.abs(prepare(x) - x).max() > 50


def test_a_squashed_image_is_cropped_in_its_original_proportions():
    """An image of aspect 2 in a square: only half of its width is seen."""
    prepare = Preprocessing((16, 16), crop=1.0, **RAW)
    assert prepare.box(32, 32, 2.0) == (8, 0, 24, 32)
    assert prepare.box(32, 32, 0.5) == (0, 8, 32, 24)
    x = noise(32, 32, n=2)
    cropped = prepare(x, np.array([2.0, 1.0], np.float32))
    narrow = Image.fromarray(x[0, :, 8:24]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(cropped[0, :, 1:-1], np.asarray(narrow)[:, 1:-1], atol=1.01)
    np.testing.assert_array_equal(cropped[1], prepare(x)[1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"the shape \(4, 4, 3\) is not \(n, height"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"the shape \(2, 3, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"the shape \(0, 4, 4, 3\)"),
        (np.zeros((2, 4, 4, 3)), "float64 is neither uint8 nor float32"),
    ],
)
def test_arrays_that_are_not_images(images, message):
    with pytest.raises(ImageError, match=message):
        Preprocessing((4, 4))(images)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "I;16", "1"])
def test_images_of_any_mode_become_rgb(mode, tmp_path):
    suffix = ".tif" if mode == "CMYK" else ".png"
    Image.new(mode, (5, 4)).save(tmp_path / f"a{suffix}")
    image = onnx_export.read_image(tmp_path / f"a{suffix}")
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_an_image_is_turned_upright_by_its_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert onnx_export.read_image(tmp_path / "a.jpg").size == (4, 6)


def test_files_that_are_not_images(tmp_path):
    intact = tmp_path / "whole.png"
    Image.fromarray(noise(64, 64)[0]).save(intact)
    (tmp_path / "cut.png").write_bytes(intact.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, message in (
        ("none.png", "there is no such file"),
        ("", "is a folder; name its images"),
        ("text.png", r"is not an image that Pillow can read: it begins with b'not an image'"),
        ("empty.jpg", "is not an image that Pillow can read: it is empty"),
        ("cut.png", "cannot be read as an image: image file is truncated"),
        ("x" * 5000, "there is no such file"),
    ):
        with pytest.raises(ImageError, match=message) as error:
            onnx_export.read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_an_image_of_unreasonable_size(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit"):
        onnx_export.read_image(tmp_path / "a.png")


def test_an_image_with_a_damaged_header(tmp_path):
    """Every error of a decoder becomes one line."""
    path = tmp_path / "a.png"
    Image.fromarray(noise(32, 32)[0]).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(data)
        for i in rng.integers(8, len(data), 3):
            broken[i] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            onnx_export.read_image(path)
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20


@pytest.mark.parametrize(
    ("values", "what", "message"),
    [
        ((1, 2), "mean", r"mean: \(1, 2\) is not one number for each"),
        ((1, 2, np.nan), "mean", "is not one number for each"),
        (None, "mean", "mean: None is not one number"),
        ((1, 0, 1), "std", r"std: \[1.0, 0.0, 1.0\] is not positive"),
    ],
)
def test_invalid_constants(values, what, message):
    with pytest.raises(ImageError, match=message):
        onnx_export.constants(values, what)
