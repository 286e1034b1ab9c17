"""Files of named arrays of any format, read as name -> array.

Each reader checks the sizes that a file states, so that no file makes it allocate much more than
the file's size.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import PretrainedError, listing, shorten
from lcnas.models.pretrained import _pickles
from lcnas.models.pretrained._pickles import BFLOAT16, Pickle, Storage, Tensor, as_array, decode

Arrays = dict[str, NDArray[Any]]

_MOST_NESTED = 8  # depth of nested dicts
_LONGEST = 256  # characters of a name; one long text may be the key of many dicts
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file of PyTorch before 1.6
_SAFETENSORS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": BFLOAT16,
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "b1",
}


@dataclass(frozen=True)
class FileContent:
    """The arrays and the metadata of a file."""

    arrays: Arrays
    kind: str  # kind of file, for messages
    metadata: dict[str, str] = field(default_factory=dict)  # of safetensors


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        PretrainedError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PretrainedError(f"{path}: cannot be read: {error.strerror}") from None


def decoded(what: str, data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array from bytes; see :func:`lcnas.models.pretrained._pickles.decode`.

    Raises:
        PretrainedError: more or fewer bytes than the shape needs; the message begins with ``what``.
    """
    try:
        return decode(data, dtype, shape)
    except ValueError as error:
        raise PretrainedError(f"{what}: {error}") from None


# -- safetensors -----------------------------------------------------------------------------------


def safetensors(path: Path) -> FileContent:
    """Return the arrays and the metadata of a safetensors file."""
    from safetensors import SafetensorError, deserialize

    data = read_bytes(path)
    try:
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise PretrainedError(f"{path}: no safetensors file: {shorten(str(error))}") from None
    arrays: Arrays = {}
    for name, tensor in tensors:
        what = f"{path}: {shorten(name)}"
        if tensor["dtype"] not in _SAFETENSORS:
            raise PretrainedError(
                f"{what}: type {tensor['dtype']} is not among {listing(_SAFETENSORS)}"
            )
        dtype = _SAFETENSORS[tensor["dtype"]]
        arrays[name] = decoded(what, bytes(tensor["data"]), dtype, tuple(tensor["shape"]))
    (length,) = struct.unpack("<Q", data[:8])  # checked by deserialize
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return FileContent(arrays, "safetensors", metadata)


# -- pickles ---------------------------------------------------------------------------------------


def paddle_pickle(path: Path) -> FileContent:
    """Return the arrays of a ``.pdparams`` file."""
    loaded = _pickles.load(io.BytesIO(read_bytes(path)), str(path))
    return FileContent(_state(path, loaded, {}, 0), "Paddle's pickle")


def torch_pickle(path: Path) -> FileContent:
    """Return the arrays of a file by ``torch.save``: a zip archive, or a sequence of pickles."""
    data = read_bytes(path)
    if data[:4] == b"PK\x03\x04":
        return FileContent(_torch_zip(path, data), "PyTorch's archive")
    return FileContent(_torch_stream(path, data), "PyTorch's old format")


def _torch_zip(path: Path, data: bytes) -> Arrays:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > len(data):  # a bomb
                raise PretrainedError(f"{path}: the archive holds more than its size allows")
            folder = _folder(path, archive)
            loaded = _pickles.load(
                io.BytesIO(_entry(path, archive, f"{folder}data.pkl")), str(path)
            )
            values = {key: _entry(path, archive, f"{folder}data/{key}") for key in loaded.storages}
    except (zipfile.BadZipFile, RuntimeError, EOFError, struct.error, ValueError, OSError) as error:
        if isinstance(error, PretrainedError):
            raise
        raise PretrainedError(f"{path}: a broken archive: {shorten(str(error))}") from None
    return _state(path, loaded, values, len(data))


def _folder(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the folder of the pickle in the archive."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PretrainedError(f"{path}: a zip archive that is not torch.save's (no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"  # since PyTorch 2.1
    if order in archive.NameToInfo and _entry(path, archive, order) != b"little":
        raise PretrainedError(f"{path}: written on a machine with big-endian numbers")
    return folder


def _entry(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.NameToInfo.get(name)
    if info is None:
        raise PretrainedError(f"{path}: the archive has no {shorten(name)}")
    if info.compress_type != zipfile.ZIP_STORED:  # torch.save compresses nothing; a zip bomb does
        raise PretrainedError(f"{path}: {shorten(name)} is compressed; torch.save does not do that")
    return archive.read(info)


def _torch_stream(path: Path, data: bytes) -> Arrays:
    """Read a file of PyTorch before 1.6: four pickles, the keys of the storages, their values."""
    stream = io.BytesIO(data)
    if _pickles.load(stream, str(path)).root != _TORCH_MAGIC:
        raise PretrainedError(f"{path}: a pickle, but not torch.save's")
    _pickles.load(stream, str(path))  # the version of the format
    system = _pickles.load(stream, str(path)).root
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise PretrainedError(f"{path}: written on a machine with big-endian numbers")
    loaded = _pickles.load(stream, str(path))
    keys = _pickles.load(stream, str(path)).root
    if not isinstance(keys, list) or set(map(type, keys)) - {str}:
        raise PretrainedError(f"{path}: broken: its list of storages is none")
    values = {}
    for key in keys:
        if key not in loaded.storages:
            raise PretrainedError(f"{path}: broken: nothing refers to the storage {shorten(key)}")
        storage = loaded.storages[key]
        count = int.from_bytes(stream.read(8), "little")
        if count != storage.size:
            raise PretrainedError(
                f"{path}: broken: a storage of {count} values, not {storage.size}"
            )
        values[key] = stream.read(count * _width(storage))
    return _state(path, loaded, values, len(data))


def _width(storage: Storage) -> int:
    """Return the bytes of one value."""
    return 2 if storage.dtype == BFLOAT16 else np.dtype(storage.dtype).itemsize


# -- the weights of a pickle -----------------------------------------------------------------------


def _state(path: Path, loaded: Pickle, values: dict[str, bytes], size: int) -> Arrays:
    """Return the arrays of a state dict and of nested dicts; see :func:`_named`."""
    stores = {
        key: decoded(str(path), values.get(key, b""), store.dtype, (store.size,))
        for key, store in loaded.storages.items()
    }
    arrays: Arrays = {}
    budget = 8 * size + 1024  # bfloat16 doubles, and weights may be tied
    for name, value in _entries(path, loaded.root).items():
        array = value
        if isinstance(array, Tensor):
            array = _window(path, name, array, stores)
            budget -= array.nbytes
            if budget < 0:
                raise PretrainedError(f"{path}: its tensors have far more values than it holds")
        arrays[name] = array
    return arrays


def _window(path: Path, name: str, tensor: Tensor, stores: Arrays) -> NDArray[Any]:
    try:
        return tensor.array(stores[tensor.storage.key])
    except ValueError as error:
        raise PretrainedError(f"{path}: {shorten(name)}: {error}") from None


def _entries(path: Path, root: Any) -> dict[str, NDArray[Any] | Tensor]:
    """Return the arrays of a pickle by name; raise PretrainedError if there are none."""
    arrays = dict(_named(root, "", set(), 0))
    if arrays:
        return arrays
    if not isinstance(root, dict):
        raise PretrainedError(f"{path}: holds no dict of arrays by name")
    for name in root:
        raise PretrainedError(f"{path}: the entry {shorten(name)} is not an array with a name")
    return {}


def _named(
    table: Any, prefix: str, seen: set[int], depth: int
) -> Iterator[tuple[str, NDArray[Any] | Tensor]]:
    """Yield (name, array) of a dict and of nested dicts, with names joined by ".".

    So a checkpoint around a state dict is another prefix of its names, like those of wrapper modules.
    Each dict is visited once, since a pickle may contain itself.
    """
    if id(table) in seen or depth > _MOST_NESTED:
        return
    seen.add(id(table))
    for key, value in _items(table):
        if len(prefix) + len(key) > _LONGEST:
            continue
        name = f"{prefix}{key}"
        array = as_array(value) if isinstance(table, dict) else None
        if array is not None:
            yield name, array
        else:
            yield from _named(value, f"{name}.", seen, depth + 1)


def _items(table: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of a dict with text keys, or those of a list by index."""
    if isinstance(table, dict):
        yield from ((key, value) for key, value in table.items() if isinstance(key, str))
    elif isinstance(table, list | tuple):
        yield from ((str(i), value) for i, value in enumerate(table))
