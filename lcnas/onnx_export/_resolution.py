"""Whether an ONNX file takes images of the resolution that its network was trained and tested at."""

from __future__ import annotations

import json
from typing import Any

from lcnas.errors import OnnxError
from lcnas.onnx_export._file import File, called, interface, metadata, read

# The key of its own; searches used to record it among what they measured.
_TRAINED, _VALIDATION = "lcnas.training_resolution", "lcnas.validation"
Size = tuple[int, int]  # (height, width) in pixels


def resolution_warning(model: File, size: Size | None = None) -> str | None:
    """Return a line of warning where a file's metadata give another training resolution than its graph takes.

    Args:
        model: a file, its bytes, or the model.
        size: (height, width) that images get where the graph leaves them open; None: then nothing is said.

    Returns:
        The warning; None where the two are equal, where either is not recorded, or where the file is no
        classifier of images at all.

    Example:
        >>> from lcnas import onnx_export, zoo
        >>> made = onnx_export.export(zoo.load("pplcnet_0.25x", resolution=64), classes=10)
        >>> _ = made.metadata_props.add(key="lcnas.training_resolution", value="32")
        >>> resolution_warning(made)
        'model: was trained at 32x32 pixels, but takes 64x64: accuracies reported for it are those of 32x32'
    """
    try:
        read_in = read(model)
        taken = interface(read_in).preprocessing(size).size
    except OnnxError:
        return None
    for trained in _recorded(metadata(read_in)):
        if trained != taken:
            there, here = (f"{s[0]}x{s[1]}" for s in (trained, taken))
            return (
                f"{called(model)}: was trained at {there} pixels, but takes {here}: accuracies "
                f"reported for it are those of {there}"
            )
    return None


def precision_warning(model: File, precision: str) -> str | None:
    """Return a line of warning where a file was tested in bf16, and is run in another precision.

    Args:
        model: a file, its bytes, or the model.
        precision: that it is run in: "fp32", "bf16" or "int8".

    Returns:
        The warning; None where the two are equal, or where the file does not say that it is for bf16. Files
        for int8 are quantised, and run so everywhere.
    """
    try:
        told = metadata(read(model)).get("lcnas.precision")
    except OnnxError:
        return None
    if told != "bf16" or precision == told:
        return None
    return (
        f"{called(model)}: was tested in bf16, is run in {precision} (--precision bf16): accuracies reported "
        "for it are those of bf16"
    )


def _recorded(about: dict[str, str]) -> list[Size]:
    """Return the training resolutions that metadata give; what cannot be understood gives none."""
    validation = _json(about.get(_VALIDATION))
    given = [_json(about.get(_TRAINED))]
    given += [validation.get("resolution")] if isinstance(validation, dict) else []
    return [size for size in map(_size, given) if size is not None]


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _size(value: Any) -> Size | None:
    """Return the (height, width) of a side or of a pair."""
    sides = value if isinstance(value, list) else [value, value]
    whole = all(isinstance(s, int) and not isinstance(s, bool) for s in sides)
    return (sides[0], sides[1]) if whole and len(sides) == 2 else None
