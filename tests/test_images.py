"""Reading image files: every mode and format that Pillow writes, by all who read; and what is no image."""

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
PLACES = 20  # at which files are cut off

Image.init()


def photo(height=12, width=16, seed=0):
    """A smooth random image in RGB."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def in_mode(mode, seed=0):
    """The image in a mode; those of 16 bits and more hold 257 times the 8-bit grey, so that 255 is full."""
    image = photo(seed=seed)
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


def written(image, kind, **more):
    """The content of the file, or None where Pillow does not write such a one."""
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # IM is to leave Pillow
            image.save(file, kind, **more)
    except (OSError, ValueError, KeyError, TypeError, SystemError):
        return None
    return file.getvalue()


SUFFIX = {kind: suffix for suffix, kind in Image.EXTENSION.items()} | {"MPO": ".jpg"}


@functools.cache
def files():
    """All that Pillow writes: (format, mode, content); what needs a handler of others is not among it."""
    pairs = [(k, m) for k in sorted(Image.SAVE) for m in MODES]
    made = [(k, m, written(in_mode(m), k)) for k, m in pairs if k != "ICNS"]
    made.append(("ICNS", "RGB", icon(photo(16, 16))))
    return [file for file in made if file[2]]


def icon(image):
    """An ICNS file with this alone; Pillow would write sizes up to 1024."""
    inner = written(image, "PNG")
    entry = b"icp4" + struct.pack(">I", 8 + len(inner)) + inner
    return b"icns" + struct.pack(">I", 8 + len(entry)) + entry


def outcome(read, source):
    """The pixels that a reader finds, or the reason it gives."""
    try:
        found = np.asarray(read(source))
        return found.shape, found.tobytes()
    except ImageError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 400
        return text.removeprefix(f"{source}: ")


def in_training(source):
    """What training sees of the whole image."""
    width, height = _decode.open_size(source)
    done = _decode.run(DecodeTask((source,), ((),), Cut("whole", (height or 1, width or 1))))
    if done.reasons[0]:
        raise ImageError(done.reasons[0])
    return done.images[0]


READERS = (images.read, data.open_rgb, onnx_export.read_image, in_training)


# -- one way of reading ------------------------------------------------------------------------------


def test_all_who_read_see_the_same_in_every_mode_and_format(tmp_path):
    seen: dict[str, dict[str, object]] = {}
    for kind, mode, content in files():
        path = tmp_path / f"x{SUFFIX.get(kind, '')}"
        path.write_bytes(content)
        found = [outcome(read, str(path)) for read in READERS]
        assert all(f == found[0] for f in found[1:]), (kind, mode)
        seen.setdefault(kind, {})[mode] = found[0]
    assert len(seen) > 20
    used = {kind for kind, by in seen.items() if any(isinstance(v, tuple) for v in by.values())}
    # PALM is written and never read by Pillow; the others hold no raster images, or floats alone.
    assert set(seen) - used <= {"EPS", "PALM", "PDF", "SPIDER"}


def shown(mode):
    """The pixels that a file of the image in a mode has to show."""
    image = in_mode(mode)
    if mode.startswith("I"):  # 257 times the grey, whose upper bits are the grey
        return np.stack([np.asarray(photo().convert("L"))] * 3, axis=-1)
    through = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode, mode)
    return np.asarray(image.convert(through).convert("RGB"))


LOSSLESS = ("BMP", "DDS", "DIB", "IM", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF")


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_a_file_shows_is_what_was_written(kind, tmp_path):
    path = tmp_path / f"x{SUFFIX[kind]}"
    for _, mode, content in [file for file in files() if file[0] == kind]:
        path.write_bytes(content)
        if mode == "F":
            with pytest.raises(ImageError, match="has floats as pixels, and nothing says which"):
                images.read(path)
        else:
            np.testing.assert_array_equal(np.asarray(images.read(path)), shown(mode), mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_or_is_refused(mode):
    image = in_mode(mode)
    if mode == "F":
        with pytest.raises(ImageError, match="has floats"):
            images.to_rgb(image)
        return
    made = images.to_rgb(image)
    assert (made.mode, made.size) == ("RGB", image.size)
    found, wanted = (np.asarray(i.convert("L")).astype(float) for i in (made, photo()))
    assert abs(found.mean() - wanted.mean()) < 10
    if mode not in ("1", "P", "PA"):  # these dither
        assert np.abs(found - wanted).mean() < 3


def test_grey_of_16_bits_is_shifted_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 12_800, 51_200, 65_535]], np.uint16)
    for name in ("x.png", "x.tif", "x.pgm", "x.jp2"):
        Image.fromarray(values).save(tmp_path / name)
        for read in (images.read, data.open_rgb, onnx_export.read_image):
            found = np.asarray(read(tmp_path / name))[..., 0].tolist()
            assert found == [[0, 0, 1, 50, 200, 255]], name


def test_a_tiff_of_12_bits_is_not_dark(tmp_path):
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
    assert np.asarray(images.read(written(Image.fromarray(fits), "TIFF")))[0, :, 0].tolist() == [
        0,
        200,
        255,
    ]
    fits[0, 0] = worst
    with pytest.raises(
        ImageError, match=f"has values from .*{worst}.* only 0 to 65535 are read: convert"
    ):
        images.read(written(Image.fromarray(fits), "TIFF"))


TURNED = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B"),
    "WEBP": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(k, m) for k, modes in TURNED.items() for m in modes])
def test_every_turn_is_undone_in_every_mode(kind, mode):
    image = in_mode(mode)
    plain = written(image, kind)
    upright = np.asarray(images.read(plain))
    turned = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright, -1), 8: np.rot90(upright)}
    turned |= {2: upright[:, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2)}
    turned |= {7: upright[::-1, ::-1].transpose(1, 0, 2), 0: upright, 9: upright}
    for told, wanted in turned.items():
        exif = Image.Exif()
        exif[0x0112] = told
        np.testing.assert_array_equal(
            np.asarray(images.read(written(image, kind, exif=exif))), wanted
        )


def test_the_first_of_several_frames_is_taken():
    frames = [photo(seed=i) for i in range(3)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"):
        many = written(frames[0], kind, save_all=True, append_images=frames[1:])
        alone = written(frames[0], kind)
        found = np.asarray(images.read(many)).astype(int)
        assert np.abs(found - np.asarray(images.read(alone))).mean() < 8, kind
        other = np.asarray(images.read(written(frames[1], kind)))
        assert np.abs(found - other).mean() > 20, kind


# -- contents decide ---------------------------------------------------------------------------------


def test_contents_decide_not_the_suffix(tmp_path):
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF"):
        content = written(photo(), kind)
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
        (b"GIF89a", "is damaged: it begins as GIF files do, and does not go on so"),
        (b"\xff\xd8\xff", "is damaged: it begins as JPEG files do, and does not go on so"),
        (written(photo(), "PNG")[:300], "cannot be read as an image: image file is truncated"),
    ],
)
def test_what_is_no_image_has_one_clear_reason(content, reason, tmp_path):
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
    """Files of which Pillow warns, and what of."""
    palette = photo().convert("P")
    palette.info["transparency"] = bytes(range(256))
    exif = Image.Exif()
    exif[0x010E] = "a text that is longer than four bytes"
    plain = written(photo(), "JPEG", exif=exif)
    short = plain.replace(b"\x01\x0e\x00\x02\x00\x00\x00\x26", b"\x01\x0e\x00\x02\x00\xff\x00\x26")
    return {
        "transparency": written(palette, "PNG"),
        "exif": short,
        "bomb": written(photo(40, 40), "PNG"),
    }


def test_what_pillow_warns_of_is_read_in_silence(monkeypatch, capfd):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    heard = {}
    for name, content in noisy_files().items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with Image.open(io.BytesIO(content)) as image:
                image.getexif()
                image.convert("RGB")
        heard[name] = len(told)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert images.read(content).mode == "RGB"
    assert heard.keys() == noisy_files().keys()
    assert all(heard.values()), heard  # else this tests nothing
    assert capfd.readouterr() == ("", "")


def test_what_pillow_logs_is_not_printed_without_a_name(tmp_path):
    content = bytearray(written(photo(), "TIFF"))
    samples = content.index(struct.pack("<HHI", 277, 3, 1)) + 8
    content[samples] = 110  # samples per pixel
    (tmp_path / "x.tif").write_bytes(content)
    code = "import sys\nfrom lcnas import images\nimages.read(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "x.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "More samples per pixel" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lcnas.errors.ImageError: is damaged: it begins as TIFF files do")


def test_an_unreasonable_size_is_a_reason(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"192 pixels\) exceeds limit of 20"):
        images.read(written(photo(), "PNG"))


def test_damaged_exif_costs_no_image():
    content = written(photo(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    plain = np.asarray(images.read(written(photo(), "JPEG")))
    np.testing.assert_array_equal(np.asarray(images.read(content)), plain)


def test_files_cut_off_anywhere_are_used_or_have_one_clear_reason(tmp_path, capfd):
    refused = 0
    for kind, mode, content in files():
        for place in range(PLACES):
            path = tmp_path / f"x{SUFFIX.get(kind, '')}"
            path.write_bytes(content[: place * len(content) // PLACES])
            found = [
                outcome(read, str(path))
                for read in (images.read, onnx_export.read_image, in_training)
            ]
            assert all(f == found[0] for f in found[1:]), (kind, mode, place)
            refused += isinstance(found[0], str)
    assert refused > 0.7 * PLACES * len(files())
    assert capfd.readouterr() == ("", "")
