"""From networks to what an engine loads: ONNX bytes at the engine's batch and precision."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcnas import onnx_export
from lcnas.arch import Arch, PlacedBlock
from lcnas.errors import EngineError, OnnxError, shorten
from lcnas.latency.engines import Array, Engine, Session

Source = Arch | PlacedBlock | Sequence[PlacedBlock] | Path
_KEPT = 64  # models that are kept for their next session: a round loads no more at once
_CALIBRATION_INPUTS = (
    4  # random pictures from which int8 ranges are taken; latency does not depend on them
)
_MOST_BYTES = 2**31 - 1  # of a model in one piece: protobuf's limit


def onnx_bytes(source: Source, engine: Engine, classes: int = 1000) -> bytes:
    """Return what the engine loads: random weights for networks of ours, a file's own for a path.

    Raises:
        EngineError: a file that cannot be read or quantised, or whose weights in other files cannot be read.
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
    with _blaming(source):
        return quantized(model, batch) if int8 else model


def open_fresh(source: Source, engine: Engine, classes: int = 1000) -> Session:
    """Return a fresh session of a network, a block, a chain of blocks, or an ONNX file.

    What goes wrong with a file, then or when it is run, is told with the file's name.
    """
    model = onnx_bytes(source, engine, classes)
    if not isinstance(source, Path):
        return engine.open(model)
    with _blaming(source):
        return _FileSession(engine.open(model), source)


class _FileSession:
    """A session of a file, whose errors name the file."""

    def __init__(self, session: Session, path: Path) -> None:
        self._session = session
        self._path = path

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
        if not isinstance(source, Path):
            raise
        raise EngineError(f"{source}: {error}") from None


# -- files of others -------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """Return the model of a file in one piece, weights in other files included."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}") from None
    return _in_one_piece(data, path)


def _in_one_piece(data: bytes, path: Path) -> bytes:
    """Return a model with the weights that it keeps in other files, which are looked for beside it alone.

    An engine that is given bytes does not know the file's folder, and would take a file of that name from
    the current one.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001 - protobuf's errors have no base in onnx
        return data  # no ONNX model: the engine says so
    outside = [t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    if not outside:
        return data
    try:
        size = len(data) + sum(_outside_bytes(t, path.parent) for t in outside)
        if size > _MOST_BYTES:
            raise EngineError(
                f"{path}: has {size:,} bytes of weights; 2 GB can be measured at most"
            )
        onnx.load_external_data_for_model(model, str(path.parent))
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in outside):
            raise EngineError(f"{path}: keeps sparse weights in another file; save it as one file")
        made: bytes = model.SerializeToString()
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - onnx's checker, the system, or protobuf
        text = shorten(next(iter(str(error).splitlines()), ""), 200)
        raise EngineError(f"{path}: its weights in other files cannot be read: {text}") from None
    return made


def _outside_bytes(tensor: Any, folder: Path) -> int:
    """Return how many bytes a tensor takes from another file."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    if "length" in told:
        return int(told["length"])
    size: int = (folder / told["location"]).stat().st_size
    return size - int(told.get("offset", 0))


def _tensors(part: Any) -> Iterator[Any]:
    """Yield all tensors of a model, graph, function or attribute, those of inner graphs included."""
    for field, value in part.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield item
            else:
                yield from _tensors(item)


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
