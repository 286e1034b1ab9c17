"""Reading image files, in the same way for training, test, calibration and deployment.

Images of any format, mode and depth are returned upright, in RGB, with 8 bits per channel. The content of a
file determines its format, not its suffix.

| mode | result |
|---|---|
| RGB, L, 1 | the same; black and white are 0 and 255 |
| P, PA | the colours of the palette |
| LA, RGBA, La, RGBa, RGBX | their colours, without the transparency |
| CMYK, YCbCr, LAB, HSV | Pillow's conversion |
| I;16 and its byte orders | the upper 8 of the 16 bits; of a 12-bit TIFF file the upper 8 of the 12 |
| I | as 16 bits if all values are 0 to 65,535, otherwise an error |
| F | an error: the values of black and white are unknown |

Of several frames or pages the first is read, of an icon the largest.

Examples:
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("I;16", (2, 1), 200 << 8).save(file, "PNG")
    >>> read(file.getvalue()).getpixel((0, 0))
    (200, 200, 200)
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcnas import renamed
from lcnas.errors import ImageError, shorten

if TYPE_CHECKING:
    from PIL import Image

LOG = logging.getLogger(__name__)
# Without a handler Python prints log messages about damaged files, without the file's name.
for _log in (LOG, logging.getLogger("PIL")):
    _log.addHandler(logging.NullHandler())

ImageSource = str | Path | bytes  # path of a file, or its content

# Pillow's names. The first bytes of a file identify its format. Common formats come first, so that the others
# cost a common file nothing; a file of none of them costs 40 us.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000"),
    *("BLP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "ICNS", "ICO", "MCIDAS", "MSP"),
    *("PCX", "PIXAR", "PSD", "QOI", "SGI", "SUN", "XBM", "XPM", "XVTHUMB"),
)
BY_SUFFIX = ("IM", "PCD", "TGA")  # without a signature at their beginning: identified by suffix
# Other formats of Pillow, and why they are not read.
NOT_READ = {
    "BUFR": "weather data that Pillow cannot decode",
    "EPS": "a program, which Ghostscript would run",
    "FITS": "measurements whose scale Pillow ignores",
    "GRIB": "weather data that Pillow cannot decode",
    "HDF5": "arrays that Pillow cannot decode",
    "IMT": "a format without a signature",
    "IPTC": "a wrapper around a file of any format",
    "MPEG": "a video that Pillow cannot decode",
    "SPIDER": "floats, in a format without a signature",
    "WMF": "drawings, not pixels",
}

_ORIENTATION = 0x0112  # the EXIF tag
_LAZY = ("JPEG", "MPO")  # can be decoded at a half, a quarter or an eighth of the size
_BITS = 258  # the TIFF tag: bits of each sample
_PREFIX_BYTES = 16  # bytes by which Pillow identifies a format
_MAX_16_BIT = (1 << 16) - 1  # largest value of 16 bits


def read(source: ImageSource) -> Image.Image:
    """Return the image of a file, upright, in RGB, 8 bits per channel.

    Args:
        source: path of the file, or its content.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged, or has a mode that is not read; the
            message is one line.
    """
    with open_image(source) as image:
        return to_rgb(image)


@contextlib.contextmanager
def open_image(source: ImageSource) -> Iterator[Image.Image]:
    """Open the image of a file, upright; a JPEG is decoded only if it has to be turned; see :func:`to_rgb`.

    Raises:
        ImageError: as :func:`read`; errors within the ``with`` block become one too.
    """
    with _open_header(source) as image:
        yield _turn_upright(image)


def size(source: ImageSource) -> tuple[int, int]:
    """Return (width, height) of the image of a file as stored, from its header alone.

    Raises:
        ImageError: as :func:`read`, for errors in the header.
    """
    with _open_header(source) as image:
        return image.size


@contextlib.contextmanager
def _open_header(source: ImageSource) -> Iterator[Image.Image]:
    """Open the image of a file without decoding it; errors within the ``with`` block become ImageErrors.

    Pillow's warnings go to this module's log, which is silent unless you add a handler. They are about
    metadata, or about sizes that are read all the same, and the pixels are correct nevertheless; wrong pixels
    are an error.
    """
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Image.open(file, formats=_formats_of(source)) as image:
                yield image
        except (MemoryError, ImageError):
            raise
        except UnidentifiedImageError:
            raise ImageError(_why_unknown(source, [str(w.message) for w in caught])) from None
        except Exception as error:  # noqa: BLE001 - decoders of broken files raise errors of all kinds
            raise ImageError(f"cannot be read as an image: {_reason(error)}") from None
        finally:
            for warning in caught:
                LOG.warning(shorten_text(str(warning.message)))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image decoded, in RGB, 8 bits per channel; the module's table lists the modes.

    Raises:
        ImageError: the pixels are floats, or 32-bit values that do not fit 16 bits.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "F":
        raise ImageError(
            "has floats as pixels, whose values of black and white are unknown; convert it to 8 or 16 bits"
        )
    if image.mode.startswith("I"):  # Pillow would clip at 255
        return _keep_upper_bits(image).convert("RGB")
    if (via := _VIA_MODE.get(image.mode)) is not None:
        image = image.convert(via)
    return image.convert("RGB")


# Converted directly to RGB, Pillow warns of a palette's transparency, and leaves premultiplied colours.
_VIA_MODE = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


def _keep_upper_bits(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "I" and not 0 <= values.min() <= values.max() <= _MAX_16_BIT:
        raise ImageError(
            f"has values from {values.min()} to {values.max()}; of 32-bit pixels only 0 to "
            f"{_MAX_16_BIT} are read: convert it to 8 or 16 bits"
        )
    tags = getattr(image, "tag_v2", {})
    bits = 12 if tuple(tags.get(_BITS, ())) == (12,) else 16
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


# -- upright ---------------------------------------------------------------------------------------


def _turn_upright(image: Image.Image) -> Image.Image:
    """Return an image upright, as its EXIF says; a JPEG that is upright already is not decoded."""
    if image.format not in _LAZY:
        image.load()  # reading a PNG's EXIF would decode it, and hide its errors
    orientation = _orientation(image)
    if orientation == 1:
        return image
    rgb, method = to_rgb(image), _transpositions().get(orientation)
    return rgb if method is None else rgb.transpose(method)


def _transpositions() -> dict[int, Image.Transpose]:
    """Return EXIF orientation -> transposition that turns the image upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _orientation(image: Image.Image) -> int:
    """Return the orientation in EXIF or XMP, 2 to 8 if not upright; 1 if it is missing or damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - damaged metadata raise errors of all kinds
        return 1
    return value if isinstance(value, int) else 1


# -- formats -----------------------------------------------------------------------------------------


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read, in lower case, with a dot."""
    from PIL import Image

    Image.init()
    read_formats = (*FORMATS, *BY_SUFFIX)
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in read_formats)


def is_image(path: str) -> bool:
    """Return whether a file is an image, by its header alone; its name does not matter."""
    try:
        with Path(path).open("rb") as file:
            prefix = file.read(_PREFIX_BYTES)
        if not any(_has_prefix_of(prefix, name) for name in _installed_formats()):
            return False
        size(path)
    except (OSError, ImageError):
        return False
    return True


@functools.cache
def _installed_formats() -> tuple[str, ...]:
    """Return the formats of the installed Pillow; a format without its library fails when it is read."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _formats_of(source: ImageSource) -> tuple[str, ...]:
    if isinstance(source, bytes):
        return _installed_formats()
    from PIL import Image

    by_suffix = Image.EXTENSION.get(os.path.splitext(source)[1].lower())  # noqa: PTH122 - for any name
    return (*_installed_formats(), by_suffix) if by_suffix in BY_SUFFIX else _installed_formats()


def _has_prefix_of(prefix: bytes, name: str) -> bool:
    """Return whether bytes are the beginning of a file of that format."""
    from PIL import Image

    _, accept = Image.OPEN[name]
    try:
        return accept is not None and bool(accept(prefix))
    except Exception:  # noqa: BLE001 - the test may need more bytes
        return False


# -- reasons -----------------------------------------------------------------------------------------


def _why_unknown(source: ImageSource, pillow_warnings: list[str]) -> str:
    """Return the reason why a file is of no known format, with Pillow's first warning."""
    from PIL import Image

    prefix = source[:_PREFIX_BYTES] if isinstance(source, bytes) else _prefix(source)
    if not prefix:
        return "is not an image that Pillow can read: it is empty"
    if pillow_warnings:  # such as "... AVIF support not installed"
        return f"is not an image that Pillow can read: {shorten_text(pillow_warnings[0])}"
    for name in _installed_formats():
        if _has_prefix_of(prefix, name):
            return f"is damaged: it begins like a {name} file, but its rest is not one"
    for name, reason in NOT_READ.items():
        if name in Image.OPEN and _has_prefix_of(prefix, name):
            return f"is not read: {name}, {reason}"
    return f"is not an image that Pillow can read: it begins with {shorten(prefix)}"


def _prefix(path: str | Path) -> bytes:
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        return file.read(_PREFIX_BYTES)
    return b""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the caller adds
    return shorten_text(str(error)) or type(error).__name__


def shorten_text(text: str, limit: int = 120) -> str:
    """Return a text as one printable line, shortened to ``limit`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


__getattr__ = renamed.in_module(__name__, {"Source": "ImageSource", "opened": "open_image"})
