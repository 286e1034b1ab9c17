"""From networks to what an engine loads: ONNX bytes at the engine's batch and precision."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lcnas import onnx_export
from lcnas.arch import Arch, PlacedBlock
from lcnas.errors import EngineError, OnnxError
from lcnas.latency.engines import Engine, Session

Source = Arch | PlacedBlock | Sequence[PlacedBlock] | Path
_KEPT = 64  # models that are kept for their next session: a round loads no more at once
_CALIBRATION_INPUTS = (
    4  # random pictures from which int8 ranges are taken; latency does not depend on them
)
_SCHEME = "all"  # as in the committed int8 latencies; mlas computes in integers with no other


def onnx_bytes(source: Source, engine: Engine, classes: int = 1000) -> bytes:
    """Return what the engine loads: random weights for networks of ours, a file's own for a path.

    Raises:
        EngineError: a file that is no ONNX model, or that cannot be quantised.
        ExportError: a network that ONNX cannot express.
    """
    known = source if isinstance(source, Arch | PlacedBlock | Path) else tuple(source)
    return _made(known, engine.batch, engine.precision == "int8", classes)


@functools.lru_cache(maxsize=_KEPT)
def _made(
    source: Arch | PlacedBlock | Path | tuple[PlacedBlock, ...],
    batch: int,
    int8: bool,
    classes: int,
) -> bytes:
    if isinstance(source, Path):
        model = _read(source)
    else:
        made = onnx_export.export(source, classes=classes, batch=batch, check=False)
        model = onnx_export.to_bytes(made)
    return quantized(model, batch) if int8 else model


def open_fresh(source: Source, engine: Engine, classes: int = 1000) -> Session:
    """Return a fresh session of a network, a block, a chain of blocks, or an ONNX file."""
    return engine.open(onnx_bytes(source, engine, classes))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}") from None


def quantized(model: bytes, batch: int = 1) -> bytes:
    """Return an int8 model, as :func:`lcnas.onnx_export.quantise` makes it; one that is int8 stays as it is.

    Ranges come from random inputs: enough for latency, which does not depend on them, not for accuracy.
    """
    try:
        loaded = onnx_export.read(model)
        if onnx_export.is_quantised(loaded):
            return model
        given = onnx_export.single_input(loaded)
        first, *sides = (d.dim_value or batch for d in given.type.tensor_type.shape.dim)
        rng = np.random.default_rng(0)
        draws = rng.standard_normal((_CALIBRATION_INPUTS * first, *sides), dtype=np.float32)
        return onnx_export.quantise(loaded, [draws], scheme=_SCHEME)
    except OnnxError as error:
        raise EngineError(str(error)) from None
