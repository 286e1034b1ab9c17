"""lcnas's own file of weights: safetensors with flat names, the arch and the classes in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch
from lcnas.errors import LcnasError, PretrainedError, PretrainedWriteError, shorten
from lcnas.models.pretrained._fit import check_class_names, classes_of, fit
from lcnas.models.pretrained._program import Weight
from lcnas.onnx_export import MeanStd, constants

KEY = "lcnas"  # of the metadata; one key, since their order in a file is not fixed
VERSION = 1
_CONSTANTS = ("mean", "std")


def save(
    path: str | Path,
    arch: Arch,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    class_names: Sequence[str] | None = None,
    normalization: MeanStd | None = None,
    source: str = "",
) -> None:
    """Write a network and its weights into one file, which :func:`read` takes back.

    The file is written beside and renamed; equal arguments give equal bytes.

    Args:
        path: the file, by habit ``.safetensors``.
        arch: the network.
        weights: name -> float32 array, as :func:`lcnas.onnx_export.names` lists them.
        class_names: the name of each class, in order.
        normalization: mean and deviation, of pixels from 0 to 1, that the network's images had.
        source: where the weights are from, in words.

    Raises:
        PretrainedError: weights that do not fit the arch, or a file that cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    arrays = {name: np.asarray(array) for name, array in weights.items()}
    classes = classes_of(arch, arrays)
    identity = {name: Weight(name) for name in arrays}
    fitting = fit(arrays, identity, arch, classes, "weights")
    metadata: dict[str, Any] = {
        "version": VERSION,
        "arch": json.loads(arch.to_json()),
        "classes": classes,
        "source": source,
    }
    if class_names is not None:
        metadata["class_names"] = list(check_class_names(class_names, classes, "class_names"))
    if normalization is not None:
        for name in _CONSTANTS:
            values = constants(getattr(normalization, name), f"normalization: {name}")
            metadata[name] = list(values)
    _write(Path(path), to_bytes(fitting, {KEY: json.dumps(metadata, ensure_ascii=False)}))


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise PretrainedWriteError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class OwnHeader:
    """What the metadata of an own file say."""

    arch: Arch
    classes: int
    class_names: tuple[str, ...] | None
    normalization: StoredNormalization | None
    source: str


@dataclass(frozen=True)
class StoredNormalization:
    """How the images of a network were normalised, of pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def header(text: str, source: str) -> OwnHeader:
    """Return what the metadata of an own file say.

    Raises:
        PretrainedError: the metadata are not those that :func:`save` writes.
    """
    try:
        metadata = json.loads(text)
        if metadata["version"] != VERSION:
            raise ValueError(f"version {shorten(metadata['version'])} is not {VERSION}")
        arch = Arch.from_data(metadata["arch"], "arch")
        classes, names, source_text = (
            metadata["classes"],
            metadata.get("class_names"),
            metadata["source"],
        )
        if (
            isinstance(classes, bool)
            or not isinstance(classes, int)
            or not isinstance(source_text, str)
        ):
            raise ValueError("classes or source is of the wrong kind")
        values = [constants(metadata[name], name) for name in _CONSTANTS if name in metadata]
    except (LcnasError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = error if isinstance(error, LcnasError) else shorten(str(error))
        raise PretrainedError(f"{source}: no file of lcnas's weights: {what}") from None
    checked = check_class_names(names, classes, source) if names else None
    normalization = StoredNormalization(*values) if len(values) == len(_CONSTANTS) else None
    return OwnHeader(arch, classes, checked, normalization, source_text)
