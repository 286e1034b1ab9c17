"""Sources of models: networks, blocks and ONNX files become the ONNX bytes that an engine loads."""

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
    """An ONNX file, and the height and width to give it where it leaves them open."""

    path: Path
    size: tuple[int, int] | None = None  # (height, width) in pixels


Source = Arch | PlacedBlock | Sequence[PlacedBlock] | Path | OnnxFile
_CACHED_MODELS = 64  # kept for their next session: a round loads no more at the same time
_CALIBRATION_INPUTS = (
    4  # random images from which int8 ranges are taken; latency does not depend on them
)


def onnx_bytes(source: Source, engine: Engine, classes: int = 1000) -> bytes:
    """Return the ONNX bytes that the engine loads: random weights for a network, a file's own for a path.

    Raises:
        EngineError: a file that cannot be read or quantised, or whose weights in other files cannot be read.
        ExportError: a network that ONNX cannot express.
    """
    if isinstance(source, Path):
        source = OnnxFile(source)
    hashable = source if isinstance(source, Arch | PlacedBlock | OnnxFile) else tuple(source)
    return _onnx_bytes(hashable, engine.batch, engine.precision == "int8", classes)


@functools.lru_cache(maxsize=_CACHED_MODELS)
def _onnx_bytes(
    source: Arch | PlacedBlock | OnnxFile | tuple[PlacedBlock, ...],
    batch: int,
    int8: bool,
    classes: int,
) -> bytes:
    if isinstance(source, OnnxFile):
        model = _read(source, batch)
    else:
        exported = onnx_export.export(source, classes=classes, batch=batch, check=False)
        model = onnx_export.to_bytes(exported)
    with _naming_file(source):
        return quantized(model, batch) if int8 else model


def open_fresh(source: Source, engine: Engine, classes: int = 1000) -> Session:
    """Return a fresh session of a network, a block, a chain of blocks, or an ONNX file.

    Errors of a file, now or when it is run, name the file.
    """
    model = onnx_bytes(source, engine, classes)
    if not isinstance(source, Path | OnnxFile):
        return engine.open(model)
    with _naming_file(source):
        return _FileSession(engine.open(model), source)


class _FileSession:
    """A session of a file, whose errors name the file."""

    def __init__(self, session: Session, source: Path | OnnxFile) -> None:
        self._session = session
        self._path = source.path if isinstance(source, OnnxFile) else source

    def run(self) -> None:
        try:  # not _naming_file: this is what is timed
            self._session.run()
        except EngineError as error:
            raise EngineError(f"{self._path}: {error}") from None

    def outputs(self, inputs: Array) -> Array:
        with _naming_file(self._path):
            return self._session.outputs(inputs)


@contextlib.contextmanager
def _naming_file(source: object) -> Iterator[None]:
    """Prefix an engine's error with the name of the file that caused it."""
    try:
        yield
    except EngineError as error:
        path = source.path if isinstance(source, OnnxFile) else source
        if not isinstance(path, Path):
            raise
        raise EngineError(f"{path}: {error}") from None


# -- ONNX files ------------------------------------------------------------------------------------


def _read(file: OnnxFile, batch: int) -> bytes:
    try:
        return onnx_export.engine_bytes(file.path, file.size, batch)
    except OnnxError as error:
        raise EngineError(str(error)) from None


def quantized(model: bytes, batch: int = 1) -> bytes:
    """Return the model in int8, as :func:`lcnas.onnx_export.quantise` makes it; an int8 model stays as it is.

    The same operators are quantised as in an exported file, so that both have the same latency. Only the
    ranges come from random inputs: enough for latency, which does not depend on them, not for accuracy.
    """
    try:
        loaded = onnx_export.read(model)
        if onnx_export.is_quantised(loaded):
            return model
        model_input = onnx_export.single_input(loaded)
        first, *sides = (d.dim_value or batch for d in model_input.type.tensor_type.shape.dim)
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((_CALIBRATION_INPUTS * first, *sides), dtype=np.float32)
        return onnx_export.quantise(loaded, [inputs])
    except OnnxError as error:
        raise EngineError(str(error)) from None
