"""Image files: the one way of reading them, for training, test, calibration and deployment alike.

Whatever the format, the mode and the depth of a file, what comes out is upright, in RGB, with 8 bits a
channel. Contents decide what a file is, not its suffix.

| mode | becomes |
|---|---|
| RGB, L, 1 | the same; black and white are 0 and 255 |
| P, PA | the colours of the palette |
| LA, RGBA, La, RGBa, RGBX | their colours, without the transparency |
| CMYK, YCbCr, LAB, HSV | Pillow's conversion |
| I;16 and its byte orders | the upper 8 of the 16 bits; of a TIFF file of 12 bits, the upper 8 of these |
| I | as 16 bits, if all values are 0 to 65,535; else refused |
| F | refused: nothing says which value is black and which is white |

Of several frames or pages the first is taken, of an icon the largest.

Example:
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

from lcnas.errors import ImageError, shorten

if TYPE_CHECKING:
    from PIL import Image

LOG = logging.getLogger(__name__)
# Without a handler Python prints what is logged of damaged files, and no name with it.
for _log in (LOG, logging.getLogger("PIL")):
    _log.addHandler(logging.NullHandler())

Source = str | Path | bytes  # the path of a file, or its content

# Pillow's names. Each is told by its first bytes, so those met most come first: then the others cost a common
# file nothing, and a file that is none of them 40 us.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000"),
    *("BLP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "ICNS", "ICO", "MCIDAS", "MSP"),
    *("PCX", "PIXAR", "PSD", "QOI", "SGI", "SUN", "XBM", "XPM", "XVTHUMB"),
)
BY_SUFFIX = ("IM", "PCD", "TGA")  # nothing at their beginning tells them: their suffix has to
# What else Pillow registers, and why it is not read.
NOT_READ = {
    "BUFR": "weather data that Pillow cannot decode",
    "EPS": "a program, which Ghostscript would run",
    "FITS": "measurements whose scale Pillow ignores",
    "GRIB": "weather data that Pillow cannot decode",
    "HDF5": "arrays that Pillow cannot decode",
    "IMT": "told by nothing",
    "IPTC": "a wrapper around a file of any format",
    "MPEG": "a film that Pillow cannot decode",
    "SPIDER": "floats, told by nothing",
    "WMF": "drawings, not pixels",
}

_ORIENTATION = 0x0112  # the EXIF tag
_LAZY = ("JPEG", "MPO")  # these can be decoded at a half, a quarter or an eighth
_BITS = 258  # the TIFF tag: bits of each sample
_PREFIX = 16  # bytes from which Pillow tells a format
_MOST = (1 << 16) - 1  # of the values of 16 bits


def read(source: Source) -> Image.Image:
    """Return the image of a file, upright, in RGB, 8 bits a channel.

    Args:
        source: the path of the file, or its content.

    Raises:
        ImageError: the file cannot be read, is no image, is damaged, or is refused; says why in a line.
    """
    with opened(source) as image:
        return to_rgb(image)


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Give the image of a file, upright; a JPEG is decoded only if it had to be turned; see :func:`to_rgb`.

    Raises:
        ImageError: as :func:`read`, also from what is done with the image inside.
    """
    with _head(source) as image:
        yield _upright(image)


def size(source: Source) -> tuple[int, int]:
    """Return (width, height) of the image of a file as stored, from its head alone.

    Raises:
        ImageError: as :func:`read`, as far as the head tells.
    """
    with _head(source) as image:
        return image.size


@contextlib.contextmanager
def _head(source: Source) -> Iterator[Image.Image]:
    """Give the image of a file, not yet decoded; what is raised inside becomes a ImageError.

    What Pillow warns of goes to this module's log, which is silent unless somebody listens: it is of
    metadata, or of sizes that are read all the same, and pixels are right in spite of it. (What makes pixels
    wrong is an error.)
    """
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with Image.open(file, formats=_formats(source)) as image:
                yield image
        except (MemoryError, ImageError):
            raise
        except UnidentifiedImageError:
            raise ImageError(_unknown(source, [str(w.message) for w in told])) from None
        except Exception as error:  # noqa: BLE001 - decoders of broken files raise whatever they meet
            raise ImageError(f"cannot be read as an image: {_reason(error)}") from None
        finally:
            for warning in told:
                LOG.warning(shorten_text(str(warning.message)))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, 8 bits a channel, decoded; the module's table says what becomes of a mode.

    Raises:
        ImageError: 32-bit values of which nothing says how dark they are.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "F":
        raise ImageError(
            "has floats as pixels, and nothing says which is black and which is white; convert it to 8 or "
            "16 bits"
        )
    if image.mode.startswith("I"):  # Pillow would clip at 255
        return _upper_bits(image).convert("RGB")
    if (through := _THROUGH.get(image.mode)) is not None:
        image = image.convert(through)
    return image.convert("RGB")


# Straight to RGB, Pillow warns of a palette's transparency, and leaves colours multiplied by theirs.
_THROUGH = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


def _upper_bits(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "I" and not 0 <= values.min() <= values.max() <= _MOST:
        raise ImageError(
            f"has values from {values.min()} to {values.max()}; of 32-bit pixels only 0 to {_MOST} are read: "
            "convert it to 8 or 16 bits"
        )
    tags = getattr(image, "tag_v2", {})
    bits = 12 if tuple(tags.get(_BITS, ())) == (12,) else 16
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


# -- upright ---------------------------------------------------------------------------------------


def _upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its camera says; a JPEG that needs no turn is not decoded."""
    if image.format not in _LAZY:
        image.load()  # a PNG would do it when it is asked for EXIF, where its errors were hidden
    turn = _orientation(image)
    if turn == 1:
        return image
    made, method = to_rgb(image), _turns().get(turn)
    return made if method is None else made.transpose(method)


def _turns() -> dict[int, Image.Transpose]:
    """Return what brings an image upright, by what EXIF says."""
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
    """Return what EXIF or XMP say, 2 to 8 to be turned; 1 where they say nothing or are damaged."""
    try:
        told = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - damaged metadata of whatever kind
        return 1
    return told if isinstance(told, int) else 1


# -- which files -----------------------------------------------------------------------------------


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read, in lower case, with their dots."""
    from PIL import Image

    Image.init()
    return frozenset(s for s, of in Image.EXTENSION.items() if of in (*FORMATS, *BY_SUFFIX))


def is_image(path: str) -> bool:
    """Return whether a file is an image by its beginning, whatever its name; no pixel is decoded."""
    try:
        with Path(path).open("rb") as file:
            prefix = file.read(_PREFIX)
        if not any(_begins(prefix, name) for name in _known()):
            return False
        size(path)
    except (OSError, ImageError):
        return False
    return True


@functools.cache
def _known() -> tuple[str, ...]:
    """Return the formats that this Pillow has; one built without a library says so when it is met."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _formats(source: Source) -> tuple[str, ...]:
    if isinstance(source, bytes):
        return _known()
    from PIL import Image

    own = Image.EXTENSION.get(os.path.splitext(source)[1].lower())  # noqa: PTH122 - also of odd names
    return (*_known(), own) if own in BY_SUFFIX else _known()


def _begins(prefix: bytes, name: str) -> bool:
    """Return whether bytes are the beginning of a file of a format."""
    from PIL import Image

    _, accept = Image.OPEN[name]
    try:
        return accept is not None and bool(accept(prefix))
    except Exception:  # noqa: BLE001 - fewer bytes than the test takes for granted
        return False


# -- why not ---------------------------------------------------------------------------------------


def _unknown(source: Source, told: list[str]) -> str:
    """Return why a file is none of the formats, with what Pillow told of it."""
    from PIL import Image

    prefix = source[:_PREFIX] if isinstance(source, bytes) else _prefix(source)
    if not prefix:
        return "is not an image that Pillow can read: it is empty"
    if told:  # such as "... AVIF support not installed"
        return f"is not an image that Pillow can read: {shorten_text(told[0])}"
    for name in _known():
        if _begins(prefix, name):
            return f"is damaged: it begins as {name} files do, and does not go on so"
    for name, why in NOT_READ.items():
        if name in Image.OPEN and _begins(prefix, name):
            return f"is not read: {name}, {why}"
    return f"is not an image that Pillow can read: it begins with {shorten(prefix)}"


def _prefix(path: str | Path) -> bytes:
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        return file.read(_PREFIX)
    return b""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which whoever tells it names
    return shorten_text(str(error)) or type(error).__name__


def shorten_text(text: str, limit: int = 120) -> str:
    """Return a text in one line, printable and cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
