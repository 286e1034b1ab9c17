"""From networks to what an engine loads: ONNX bytes at the engine's batch and precision."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcnas import onnx_export
from lcnas.arch import Arch, PlacedBlock
from lcnas.errors import EngineError, OnnxError
from lcnas.latency.engines import Array, Engine, Session


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file, and what its height and width are where they are open."""

    path: Path
    size: tuple[int, int] | None = None  # (height, width) in pixels


Source = Arch | PlacedBlock | Sequence[PlacedBlock] | Path | OnnxFile
_KEPT = 64  # models that are kept for their next session: a round loads no more at once
_CALIBRATION_INPUTS = (
    4  # random images from which int8 ranges are taken; latency does not depend on them
)


def onnx_bytes(source: Source, engine: Engine, classes: int = 1000) -> bytes:
    """Return what the engine loads: random weights for networks of ours, a file's own for a path.

    Raises:
        EngineError: a file that cannot be read or quantised, or whose weights in other files cannot be read.
        ExportError: a network that ONNX cannot express.
    """
    if isinstance(source, Path):
        source = OnnxFile(source)
    known = source if isinstance(source, Arch | PlacedBlock | OnnxFile) else tuple(source)
    return _made(known, engine.batch, engine.precision == "int8", classes)


@functools.lru_cache(maxsize=_KEPT)
def _made(
    source: Arch | PlacedBlock | OnnxFile | tuple[PlacedBlock, ...],
    batch: int,
    int8: bool,
    classes: int,
) -> bytes:
    if isinstance(source, OnnxFile):
        model = _read(source, batch)
    else:
        made = onnx_export.export(source, classes=classes, batch=batch, check=False)
        model = onnx_export.to_bytes(made)
    with _blaming(source):
        return quantized(model, batch) if int8 else model


def open_fresh(source: Source, engine: Engine, classes: int = 1000) -> Session:
    """Return a fresh session of a network, a block, a chain of blocks, or an ONNX file.

    What goes wrong with a file, then or when it is run, is told with the file's name.
    """
    model = onnx_bytes(source, engine, classes)
    if not isinstance(source, Path | OnnxFile):
        return engine.open(model)
    with _blaming(source):
        return _FileSession(engine.open(model), source)


class _FileSession:
    """A session of a file, whose errors name the file."""

    def __init__(self, session: Session, source: Path | OnnxFile) -> None:
        self._session = session
        self._path = source.path if isinstance(source, OnnxFile) else source

    def run(self) -> None:
        try:  # not _blaming: this is what is timed
            self._session.run()
        except EngineError as error:
            raise EngineError(f"{self._path}: {error}") from None

    def outputs(self, inputs: Array) -> Array:
        with _blaming(self._path):
            return self._session.outputs(inputs)


@contextlib.contextmanager
def _blaming(source: object) -> Iterator[None]:
    """Put the name of a file before what an engine says of it."""
    try:
        yield
    except EngineError as error:
        path = source.path if isinstance(source, OnnxFile) else source
        if not isinstance(path, Path):
            raise
        raise EngineError(f"{path}: {error}") from None


# -- files of others -------------------------------------------------------------------------------


def _read(file: OnnxFile, batch: int) -> bytes:
    try:
        return onnx_export.engine_bytes(file.path, file.size, batch)
    except OnnxError as error:
        raise EngineError(str(error)) from None


def quantized(model: bytes, batch: int = 1) -> bytes:
    """Return an int8 model, as :func:`lcnas.onnx_export.quantise` makes it; one that is int8 stays as it is.

    What is quantised is what an exported file quantises, so that its latency is this one's. Only the ranges
    come from random inputs: enough for latency, which does not depend on them, not for accuracy.
    """
    try:
        loaded = onnx_export.read(model)
        if onnx_export.is_quantised(loaded):
            return model
        given = onnx_export.single_input(loaded)
        first, *sides = (d.dim_value or batch for d in given.type.tensor_type.shape.dim)
        rng = np.random.default_rng(0)
        draws = rng.standard_normal((_CALIBRATION_INPUTS * first, *sides), dtype=np.float32)
        return onnx_export.quantise(loaded, [draws])
    except OnnxError as error:
        raise EngineError(str(error)) from None
