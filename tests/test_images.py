"""Reading image files: every mode and format that Pillow writes, by all readers; and other files."""

import functools
import io
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from lcnas import images, onnx_export
from lcnas.errors import ImageError
from lcnas.training import data
from lcnas.training.data import _decode
from lcnas.training.data._decode import Cut, DecodeTask

MODES = (
    *(
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
    ),
    *("I", "I;16", "I;16L", "I;16B", "I;16N", "F"),
)
CUTS = 20  # positions at which files are truncated

Image.init()


def sample_image(height=12, width=16, seed=0):
    """A smooth random image in RGB."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def in_mode(mode, seed=0):
    """The image in a mode; modes of 16 bits and more hold 257 times the 8-bit grey."""
    image = sample_image(seed=seed)
    grey = np.asarray(image.convert("L"))
    if mode in ("La", "RGBa", "PA"):
        return image.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        return ImageCms.applyTransform(image, to_lab)
    if mode.startswith("I;16"):
        order = ">" if mode == "I;16B" else "<"
        raw = (grey.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
        return Image.frombytes(mode, image.size, raw, "raw", mode)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    return image.convert(mode)


def encoded(image, kind, **options):
    """Return the content of a file, or None if Pillow cannot write it."""
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # IM is to leave Pillow
            image.save(file, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError):
        return None
    return file.getvalue()


SUFFIX = {kind: suffix for suffix, kind in Image.EXTENSION.items()} | {"MPO": ".jpg"}


@functools.cache
def files():
    """Return (format, mode, content) of all files that Pillow writes without third-party handlers."""
    pairs = [(k, m) for k in sorted(Image.SAVE) for m in MODES]
    files_made = [(k, m, encoded(in_mode(m), k)) for k, m in pairs if k != "ICNS"]
    files_made.append(("ICNS", "RGB", icon(sample_image(16, 16))))
    return [file for file in files_made if file[2]]


def icon(image):
    """Return an ICNS file with this image alone; Pillow would write sizes up to 1024."""
    inner = encoded(image, "PNG")
    entry = b"icp4" + struct.pack(">I", 8 + len(inner)) + inner
    return b"icns" + struct.pack(">I", 8 + len(entry)) + entry


def outcome(read, source):
    """Return the pixels that a reader returns, or the reason of its error."""
    try:
        pixels = np.asarray(read(source))
        return pixels.shape, pixels.tobytes()
    except ImageError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 400
        return text.removeprefix(f"{source}: ")


def in_training(source):
    """Return the whole image as training reads it."""
    width, height = _decode.open_size(source)
    done = _decode.run(DecodeTask((source,), ((),), Cut("whole", (height or 1, width or 1))))
    if done.reasons[0]:
        raise ImageError(done.reasons[0])
    return done.images[0]


READERS = (images.read, data.open_rgb, onnx_export.read_image, in_training)


# -- all readers -------------------------------------------------------------------------------------


def test_all_readers_return_the_same_in_every_mode_and_format(tmp_path):
    by_format: dict[str, dict[str, object]] = {}
    for kind, mode, content in files():
        path = tmp_path / f"x{SUFFIX.get(kind, '')}"
        path.write_bytes(content)
        outcomes = [outcome(read, str(path)) for read in READERS]
        assert all(f == outcomes[0] for f in outcomes[1:]), (kind, mode)
        by_format.setdefault(kind, {})[mode] = outcomes[0]
    assert len(by_format) > 20
    used = {
        kind
        for kind, modes in by_format.items()
        if any(isinstance(v, tuple) for v in modes.values())
    }
    # PALM is written and never read by Pillow; the others hold no raster images, or floats alone.
    assert set(by_format) - used <= {"EPS", "PALM", "PDF", "SPIDER"}


def expected_pixels(mode):
    """Return the expected pixels of a file of the image in a mode."""
    image = in_mode(mode)
    if mode.startswith("I"):  # 257 times the grey, whose upper bits are the grey
        return np.stack([np.asarray(sample_image().convert("L"))] * 3, axis=-1)
    through = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode, mode)
    return np.asarray(image.convert(through).convert("RGB"))


LOSSLESS = ("BMP", "DDS", "DIB", "IM", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF")


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_files_give_the_written_pixels(kind, tmp_path):
    path = tmp_path / f"x{SUFFIX[kind]}"
    for _, mode, content in [file for file in files() if file[0] == kind]:
        path.write_bytes(content)
        if mode == "F":
            with pytest.raises(ImageError, match="has floats as pixels, whose values of black"):
                images.read(path)
        else:
            np.testing.assert_array_equal(
                np.asarray(images.read(path)), expected_pixels(mode), mode
            )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_or_is_refused(mode):
    image = in_mode(mode)
    if mode == "F":
        with pytest.raises(ImageError, match="has floats"):
            images.to_rgb(image)
        return
    rgb = images.to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", image.size)
    actual, expected = (np.asarray(i.convert("L")).astype(float) for i in (rgb, sample_image()))
    assert abs(actual.mean() - expected.mean()) < 10
    if mode not in ("1", "P", "PA"):  # these dither
        assert np.abs(actual - expected).mean() < 3


def test_grey_of_16_bits_is_shifted_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 12_800, 51_200, 65_535]], np.uint16)
    for name in ("x.png", "x.tif", "x.pgm", "x.jp2"):
        Image.fromarray(values).save(tmp_path / name)
        for read in (images.read, data.open_rgb, onnx_export.read_image):
            greys = np.asarray(read(tmp_path / name))[..., 0].tolist()
            assert greys == [[0, 0, 1, 50, 200, 255]], name


def test_a_tiff_of_12_bits_is_not_too_dark(tmp_path):
    # Two pixels in three bytes: 0xFFF and 0x800.
    tags = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 3)]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = struct.pack("<2sHI", b"II", 42, 12) + b"\xff\xf8\x00\x00"
    file = head + struct.pack("<H", len(tags)) + directory + struct.pack("<I", 0)
    assert np.asarray(images.read(file))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("worst", [-1, 65_536, 2**31 - 1])
def test_32_bits_are_read_as_16_or_refused(worst):
    fits = np.array([[0, 51_200, 65_535]], np.int32)
    assert np.asarray(images.read(encoded(Image.fromarray(fits), "TIFF")))[0, :, 0].tolist() == [
        0,
        200,
        255,
    ]
    fits[0, 0] = worst
    with pytest.raises(
        ImageError, match=f"has values from .*{worst}.* only 0 to 65535 are read: convert"
    ):
        images.read(encoded(Image.fromarray(fits), "TIFF"))


TURNED = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B"),
    "WEBP": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(k, m) for k, modes in TURNED.items() for m in modes])
def test_every_orientation_is_undone_in_every_mode(kind, mode):
    image = in_mode(mode)
    content = encoded(image, kind)
    upright = np.asarray(images.read(content))
    turned = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright, -1), 8: np.rot90(upright)}
    turned |= {2: upright[:, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2)}
    turned |= {7: upright[::-1, ::-1].transpose(1, 0, 2), 0: upright, 9: upright}
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(
            np.asarray(images.read(encoded(image, kind, exif=exif))), expected
        )


def test_the_first_of_several_frames_is_read():
    frames = [sample_image(seed=i) for i in range(3)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"):
        frames_content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        first_content = encoded(frames[0], kind)
        pixels = np.asarray(images.read(frames_content)).astype(int)
        assert np.abs(pixels - np.asarray(images.read(first_content))).mean() < 8, kind
        other = np.asarray(images.read(encoded(frames[1], kind)))
        assert np.abs(pixels - other).mean() > 20, kind


# -- formats -----------------------------------------------------------------------------------------


def test_the_content_determines_the_format_not_the_suffix(tmp_path):
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF"):
        content = encoded(sample_image(), kind)
        for name in ("x.png", "x.jpg", "x.tga", "x.txt", "x", "x.jpg?w=200"):
            (tmp_path / name).write_bytes(content)
            assert images.is_image(str(tmp_path / name))
            assert outcome(images.read, tmp_path / name) == outcome(images.read, content)


def test_every_format_of_this_pillow_is_read_or_has_a_reason():
    assert set(Image.OPEN) <= {*images.FORMATS, *images.BY_SUFFIX, *images.NOT_READ}
    assert {".jpg", ".jfif", ".avif", ".gif", ".tga", ".jp2"} <= images.suffixes()
    assert not {".eps", ".pdf", ".wmf", ".mpg", ".h5", ".txt"} & images.suffixes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not an image that Pillow can read: it is empty"),
        (
            b"<html>404</html>",
            "is not an image that Pillow can read: it begins with b'<html>404</html>'",
        ),
        (b"%!PS-Adobe-3.0\n", "is not read: EPS, a program, which Ghostscript would run"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 8, "is not read: HDF5, arrays that Pillow cannot decode"),
        (b"GIF89a", "is damaged: it begins like a GIF file, but its rest is not one"),
        (b"\xff\xd8\xff", "is damaged: it begins like a JPEG file, but its rest is not one"),
        (
            encoded(sample_image(), "PNG")[:300],
            "cannot be read as an image: image file is truncated",
        ),
    ],
)
def test_files_that_are_not_images_have_one_clear_reason(content, reason, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    for source in (content, tmp_path / "x.jpg"):
        with pytest.raises(ImageError) as error:
            images.read(source)
        assert str(error.value).startswith(reason)
    assert not images.is_image(str(tmp_path / "x.jpg")) or "truncated" in reason


def test_a_path_that_cannot_be_read_has_a_reason(tmp_path):
    for path, reason in (
        (tmp_path / "none.png", "cannot be read as an image: No such file or directory"),
        (tmp_path, "cannot be read as an image: Is a directory"),
        (tmp_path / ("x" * 300), "cannot be read as an image: File name too long"),
    ):
        with pytest.raises(ImageError, match=f"^{reason}$"):
            images.read(path)


# -- warnings and damage -----------------------------------------------------------------------------


def noisy_files():
    """Return files that Pillow warns of, by the subject of the warning."""
    palette = sample_image().convert("P")
    palette.info["transparency"] = bytes(range(256))
    exif = Image.Exif()
    exif[0x010E] = "a text that is longer than four bytes"
    content = encoded(sample_image(), "JPEG", exif=exif)
    short = content.replace(
        b"\x01\x0e\x00\x02\x00\x00\x00\x26", b"\x01\x0e\x00\x02\x00\xff\x00\x26"
    )
    return {
        "transparency": encoded(palette, "PNG"),
        "exif": short,
        "bomb": encoded(sample_image(40, 40), "PNG"),
    }


def test_files_with_warnings_of_pillow_are_read_silently(monkeypatch, capfd):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    counts = {}
    for name, content in noisy_files().items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Image.open(io.BytesIO(content)) as image:
                image.getexif()
                image.convert("RGB")
        counts[name] = len(caught)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert images.read(content).mode == "RGB"
    assert counts.keys() == noisy_files().keys()
    assert all(counts.values()), counts  # otherwise this tests nothing
    assert capfd.readouterr() == ("", "")


def test_log_messages_of_pillow_are_not_printed_without_a_name(tmp_path):
    content = bytearray(encoded(sample_image(), "TIFF"))
    samples = content.index(struct.pack("<HHI", 277, 3, 1)) + 8
    content[samples] = 110  # samples per pixel
    (tmp_path / "x.tif").write_bytes(content)
    code = "import sys\nfrom lcnas import images\nimages.read(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "x.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "More samples per pixel" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lcnas.errors.ImageError: is damaged: it begins like a TIFF file")


def test_an_unreasonable_size_is_a_reason(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"192 pixels\) exceeds limit of 20"):
        images.read(encoded(sample_image(), "PNG"))


def test_an_image_with_damaged_exif_is_read():
    content = encoded(
        sample_image(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40
    )
    expected = np.asarray(images.read(encoded(sample_image(), "JPEG")))
    np.testing.assert_array_equal(np.asarray(images.read(content)), expected)


def test_files_truncated_anywhere_are_read_or_have_one_clear_reason(tmp_path, capfd):
    refused = 0
    for kind, mode, content in files():
        for cut in range(CUTS):
            path = tmp_path / f"x{SUFFIX.get(kind, '')}"
            path.write_bytes(content[: cut * len(content) // CUTS])
            outcomes = [
                outcome(read, str(path))
                for read in (images.read, onnx_export.read_image, in_training)
            ]
            assert all(f == outcomes[0] for f in outcomes[1:]), (kind, mode, cut)
            refused += isinstance(outcomes[0], str)
    assert refused > 0.7 * CUTS * len(files())
    assert capfd.readouterr() == ("", "")
