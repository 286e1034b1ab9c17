"""From networks to what an engine loads: ONNX bytes at the engine's batch and precision."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcnas import onnx_export
from lcnas.arch import Arch, PlacedBlock
from lcnas.errors import EngineError, shorten
from lcnas.latency.engines import Engine, Session

Source = Arch | PlacedBlock | Sequence[PlacedBlock] | Path
_KEPT = 64  # models that are kept for their next session: a round loads no more at once
_CALIBRATION_INPUTS = (
    4  # random pictures from which int8 ranges are taken; latency does not depend on them
)


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


class _RandomInputs:
    """A few random pictures for onnxruntime's calibration."""

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        rng = np.random.default_rng(0)
        draws = (rng.standard_normal(shape, dtype=np.float32) for _ in range(_CALIBRATION_INPUTS))
        self._left: Iterator[dict[str, Any]] = iter([{name: x} for x in draws])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def quantized(model: bytes, batch: int = 1) -> bytes:
    """Return an int8 model with quantise/dequantise pairs, by onnxruntime's static quantisation.

    Ranges come from random inputs: enough for latency, which does not depend on them, not for accuracy.
    """
    import onnx
    from onnxruntime import quantization

    try:
        loaded = onnx.load_model_from_string(model)
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no base in onnx
        raise EngineError(f"model: is not ONNX: {shorten(str(error), 120)}") from None
    given = loaded.graph.input[0]
    shape = [d.dim_value or batch for d in given.type.tensor_type.shape.dim]
    with tempfile.TemporaryDirectory() as folder, _silent():
        before, behind = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(model)
        quantization.quantize_static(
            str(before),
            str(behind),
            _RandomInputs(given.name, shape),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return behind.read_bytes()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep onnxruntime's advice on pre-processing off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
