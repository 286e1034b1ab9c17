"""Warnings if an ONNX file is run at another resolution or precision than it was trained and tested at."""

from __future__ import annotations

import json
from typing import Any

from lcnas.errors import OnnxError
from lcnas.onnx_export._file import File, display_name, interface, metadata, read

# The first key is that of `export`; earlier searches recorded the resolution in the second.
_TRAINING_RESOLUTION, _VALIDATION = "lcnas.training_resolution", "lcnas.validation"
Size = tuple[int, int]  # (height, width) in pixels


def resolution_warning(model: File, size: Size | None = None) -> str | None:
    """Return a warning if a file's metadata give another training resolution than its graph takes.

    Args:
        model: a file, its bytes, or the model.
        size: (height, width) of the images if the graph leaves them open; None: no warning in that case.

    Returns:
        The warning, one line; None if the two are equal, if either is not recorded, or if the file is not an
        image classifier.

    Examples:
        >>> from lcnas import onnx_export, zoo
        >>> model = onnx_export.export(zoo.load("pplcnet_0.25x", resolution=64), classes=10)
        >>> _ = model.metadata_props.add(key="lcnas.training_resolution", value="32")
        >>> resolution_warning(model)
        'model: was trained at 32x32 pixels, but takes 64x64: accuracies reported for it are those of 32x32'
    """
    try:
        loaded = read(model)
        size_taken = interface(loaded).preprocessing(size).size
    except OnnxError:
        return None
    for trained in _recorded(metadata(loaded)):
        if trained != size_taken:
            training_text, taken_text = (f"{s[0]}x{s[1]}" for s in (trained, size_taken))
            return (
                f"{display_name(model)}: was trained at {training_text} pixels, but takes {taken_text}: "
                f"accuracies reported for it are those of {training_text}"
            )
    return None


def precision_warning(model: File, precision: str) -> str | None:
    """Return a warning if a file was tested in bf16 and is run in another precision.

    Args:
        model: a file, its bytes, or the model.
        precision: precision that it is run in: "fp32", "bf16" or "int8".

    Returns:
        The warning, one line; None if the two are equal, or if the file does not record bf16. int8 files need
        no warning: they are quantised, and run in int8 everywhere.
    """
    try:
        recorded = metadata(read(model)).get("lcnas.precision")
    except OnnxError:
        return None
    if recorded != "bf16" or precision == recorded:
        return None
    return (
        f"{display_name(model)}: was tested in bf16, is run in {precision} (--precision bf16): "
        "accuracies reported for it are those of bf16"
    )


def _recorded(properties: dict[str, str]) -> list[Size]:
    """Return the training resolutions in metadata; values that cannot be parsed are ignored."""
    validation = _json(properties.get(_VALIDATION))
    values = [_json(properties.get(_TRAINING_RESOLUTION))]
    values += [validation.get("resolution")] if isinstance(validation, dict) else []
    return [size for size in map(_size, values) if size is not None]


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _size(value: Any) -> Size | None:
    """Return (height, width) of a side or of a pair."""
    sides = value if isinstance(value, list) else [value, value]
    are_integers = all(isinstance(s, int) and not isinstance(s, bool) for s in sides)
    return (sides[0], sides[1]) if are_integers and len(sides) == 2 else None
