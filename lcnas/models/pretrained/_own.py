"""lcnas's files of weights: safetensors with flat names, and arch and classes in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import files
from lcnas.arch import Arch
from lcnas.errors import LcnasError, PretrainedError, PretrainedWriteError, shorten
from lcnas.models.pretrained._fit import check_class_names, classes_of, fit
from lcnas.models.pretrained._program import Weight
from lcnas.onnx_export import MeanStd, constants

KEY = "lcnas"  # the only key of the metadata, since the order of several is not fixed
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
    """Write a network and its weights to a file, which :func:`read` reads.

    The file is written under a temporary name and renamed; equal arguments give equal bytes.

    Args:
        path: the file, usually ``.safetensors``.
        arch: the network.
        weights: name -> float32 array; names are those of :func:`lcnas.onnx_export.names`.
        class_names: the name of each class, in order.
        normalization: mean and standard deviation of the network's images, for pixels from 0 to 1.
        source: origin of the weights, as text.

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
    try:
        files.write(path, data)
    except OSError as error:
        raise PretrainedWriteError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class OwnHeader:
    """The metadata of lcnas's own file."""

    arch: Arch
    classes: int
    class_names: tuple[str, ...] | None
    normalization: StoredNormalization | None
    source: str


@dataclass(frozen=True)
class StoredNormalization:
    """The normalisation of a network's images, for pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def header(text: str, source: str) -> OwnHeader:
    """Return the parsed metadata of lcnas's own file.

    Raises:
        PretrainedError: not metadata of :func:`save`.
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
        raise PretrainedError(f"{source}: not a file of lcnas's weights: {what}") from None
    checked = check_class_names(names, classes, source) if names else None
    normalization = StoredNormalization(*values) if len(values) == len(_CONSTANTS) else None
    return OwnHeader(arch, classes, checked, normalization, source_text)
