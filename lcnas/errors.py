"""The errors that lcnas raises, and the messages for wrong names.

Every error is one line: what was given, what is allowed, and the nearest right value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from lcnas import renamed


class LcnasError(ValueError):
    """Base of every error that bad input can cause; its message is one line."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(str(message).split("\n")).replace("\r", " "))


class WriteError(LcnasError):
    """A file cannot be written, for example to a full disk: a failure (exit code 1), not a bad argument."""


class ShapeError(LcnasError):
    """A layer or block cannot take an input of that shape."""


class BlockError(LcnasError):
    """A block has an unknown type, an unknown key, or a value out of range."""


class ArchError(LcnasError):
    """A description of a network is wrong, or its blocks do not fit together."""


class SpaceError(LcnasError):
    """A space file is wrong, or a network or code does not belong to the space."""


class CodesError(SpaceError):
    """An array of codes does not encode networks of the space."""


class BudgetError(LcnasError):
    """No network meets a budget, or terms do not fit a space."""


class EmptyBandWarning(UserWarning):
    """A latency band holds no network; the other bands take its share."""


class ZooError(LcnasError):
    """There is no published network of that name."""


class EngineError(LcnasError):
    """An inference engine is not installed, or does not take a model or a setting."""


class TableError(LcnasError):
    """A latency table cannot be read, or lacks an entry."""


class TableWriteError(TableError, WriteError):
    """A latency table, or its journal, cannot be written."""


class ExportError(LcnasError):
    """A network cannot be exported, or its weights do not fit it."""


class ExportWriteError(ExportError, WriteError):
    """An exported network cannot be written."""


class PretrainedError(LcnasError):
    """A file of weights cannot be read, is for an unknown network, or does not fit its network."""


class PretrainedWriteError(PretrainedError, WriteError):
    """A file of weights cannot be written."""


class OnnxError(LcnasError):
    """An ONNX file cannot be read, quantised or run, or is not an image classifier."""


class ImageError(LcnasError):
    """An image cannot be read, or images do not have the required shape or type."""


class TeacherError(LcnasError):
    """A teacher cannot be loaded, or does not fit the data."""


class ModelError(LcnasError):
    """A network cannot be built in Flax, or does not take an input or weights."""


class RecipeError(LcnasError):
    """A recipe has an unknown field, or a field an invalid value."""


class TrainingError(LcnasError):
    """Training cannot start: its arguments contradict each other, or the folder holds another run."""


class TrainingFailedError(LcnasError):
    """Training stopped: the loss is not finite, or memory or disk is full; says what to try."""


class DataError(LcnasError):
    """A data set is missing, damaged or of another kind, or the wrong split was passed."""


class AugmentError(LcnasError):
    """A description of an augmentation is wrong."""


_FAR = 10**15  # above it a number gets no hint: the mistake is another, and floats are not exact
_SHOWN = 12  # number of allowed names that a message lists before "and N more"


def listing(allowed: Iterable[object]) -> str:
    """Return the allowed values as a comma-separated text, shortened if there are many."""
    items = [str(item) for item in allowed]
    if len(items) <= _SHOWN:
        return ", ".join(items) if items else "(nothing)"
    return ", ".join(items[:_SHOWN]) + f", and {len(items) - _SHOWN} more"


def nearest(value: object, allowed: Iterable[object]) -> str:
    """Return ``; did you mean 'x'?`` for the closest allowed value, or an empty text.

    Numbers are compared by distance, everything else by spelling.
    """
    options = list(allowed)
    numbers = [o for o in options if isinstance(o, int | float) and not isinstance(o, bool)]
    if isinstance(value, int | float) and not isinstance(value, bool) and numbers:
        if value != value or abs(value) > _FAR:  # NaN has no nearest value
            return ""
        return f"; the nearest is {min(numbers, key=lambda o: abs(o - value))}"
    by_spelling = {str(option): option for option in options}
    close = difflib.get_close_matches(shorten(value, 200).strip("'"), by_spelling, n=1, cutoff=0.5)
    return f"; did you mean {by_spelling[close[0]]!r}?" if close else ""


def not_among(name: str, value: object, allowed: Iterable[object]) -> str:
    """Return the message for a value that is not among the allowed ones."""
    options = list(allowed)
    return f"{name}: {shorten(value)} is not among {listing(options)}{nearest(value, options)}"


def spelt(name: str) -> str:
    r"""Return the name of a file as valid text, with bytes that are not UTF-8 escaped, such as ``\xe9``.

    Python represents such bytes by surrogates, which JSON, ONNX and terminals do not accept.

    >>> spelt("caf\udce9"), spelt("café")
    ('caf\\xe9', 'café')
    """
    return _SURROGATES.sub(_escaped, name)


_SURROGATES = re.compile("[\ud800-\udfff]")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


__getattr__ = renamed.in_module(__name__, {"PictureError": "ImageError"})

# onnxruntime's prefix of a reason: the error's number, and a line in its own source.
_PLACE = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(/\S+:\d+ .*?\) (?=[A-Z]))?")


def reason(error: Exception, limit: int = 300) -> str:
    """Return the first line of a library's error, without its own source lines."""
    text = next(iter(str(error).strip().splitlines()), "")
    return shorten(_PLACE.sub("", text) or text or repr(error), limit)


def shorten(value: object, limit: int = 80) -> str:
    """Return ``repr(value)``, shortened so that a message stays one readable line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of many thousand digits, a list that holds itself
        text = f"a {type(value).__name__} too large to print"
    text = text.replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def shorten_path(path: str, limit: int = 160) -> str:
    """Return a path for a message; the middle of a long one is left out, since its end matters most.

    >>> shorten_path("/home/somebody/images/cat.jpg", 20)
    '/home/so...s/cat.jpg'
    """
    if len(path) <= limit:
        return path
    kept = limit - 3
    return f"{path[: kept // 2]}...{path[-(kept - kept // 2) :]}"
