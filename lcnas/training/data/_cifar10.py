"""CIFAR-10 in its two layouts without pickles: the hub's parquet files, and the original binary files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError, listing
from lcnas.training.data import _cache
from lcnas.training.data._decode import Cut, Decoders, Faults
from lcnas.training.data._layout import visible
from lcnas.training.data._memory import Pixels, Progress, pixels, read_arrays, shapes
from lcnas.training.data._order import fingerprint
from lcnas.training.data._types import Labels

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE  # label, then the red, the green and the blue plane
_FILES = (
    "train*.parquet and test*.parquet (the hub's copy), or data_batch_1.bin to data_batch_5.bin and "
    "test_batch.bin (the original's binary version)"
)
_PICKLES = re.compile(r"data_batch_\d|test_batch|batches\.meta|cifar-10-python.*")


def read(
    root: Path, decoders: Decoders, faults: Faults, *, cache: bool, progress: Progress | None
) -> tuple[tuple[Pixels, Labels], tuple[Pixels, Labels]]:
    """Read the training and the test set.

    Args:
        root: the folder of the files, or its parent folder.
        decoders: processes that decode the images of parquet files.
        faults: collects damaged images.
        cache: whether to cache decoded images.
        progress: called with the number of images read and their total.

    Raises:
        DataError: files are missing, damaged, of another format, or have labels outside 0 to 9.
    """
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        train, test = _parquet(folder, "train"), _parquet(folder, "test")
        if train and test:
            faults.total = sum(_rows(path) for path in (*train, *test))
            first = _read_parquet(train, decoders, faults, cache=cache, progress=progress)
            return first, _read_parquet(test, decoders, faults, cache=cache, progress=progress)
        train = sorted(folder.glob("data_batch_*.bin"))
        if train and (folder / "test_batch.bin").is_file():
            return _read_binary(train), _read_binary([folder / "test_batch.bin"])
    raise DataError(_missing_message(root))


def _missing_message(root: Path) -> str:
    near = (*root.glob("*"), *root.glob("*/*"))  # not all below: it may be a home directory
    names = sorted(path.name for path in near if path.is_file() and visible(path.name))
    if any(_PICKLES.fullmatch(name) for name in names):
        return (
            f"cifar10: {root} holds CIFAR-10's Python version, which consists of pickles, and a pickle can "
            f"run code; needed are {_FILES}"
        )
    shown = [*names[:3], "..."] if len(names) > 3 else names
    return f"cifar10: {root} lacks {_FILES}; it holds {listing(shown)}"


def _parquet(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"{part}*.parquet"))


def _rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cifar10: {path} is not a readable parquet file: {error}") from None


def _read_parquet(
    paths: Sequence[Path],
    decoders: Decoders,
    faults: Faults,
    *,
    cache: bool,
    progress: Progress | None,
) -> tuple[Pixels, Labels]:
    def make() -> dict[str, NDArray[Any]]:
        tables = [_columns(path) for path in paths]
        sources = [content for contents, _ in tables for content in contents]
        labels = np.concatenate([labels for _, labels in tables])
        return {"labels": labels, **read_arrays(sources, cut, decoders, progress)}

    cut = Cut("whole", (SIDE, SIDE))
    names = shapes(sum(map(_rows, paths)), cut)
    if cache:
        key = f"cifar10-{fingerprint(map(_digest, paths))}"
        arrays = _cache.arrays(key, {"labels": names["reasons"], **names}, make)
    else:
        arrays = make()
    faults.add((f"{paths[0].name} row {i}", str(why)) for i, why in enumerate(arrays["reasons"]))
    return Pixels(**{name: arrays[name] for name in names}), arrays["labels"]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _columns(path: Path) -> tuple[list[bytes], Labels]:
    """Return the image files in the column ``img``, and the column ``label``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cifar10: {path} is not a readable parquet file: {error}") from None
    kind = table.schema.field("img").type if "img" in table.column_names else None
    inner = kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not inner or "label" not in table.column_names:
        names = pq.read_schema(path).names
        raise DataError(
            f"cifar10: {path} must have the columns img (with the files' bytes) and label; its columns are "
            f"{listing(names)}"
        )
    img: Any = table.column("img").combine_chunks()
    contents = img.field("bytes").to_pylist()
    if any(content is None for content in contents):
        raise DataError(f"cifar10: {path} has rows without bytes in img")
    return contents, _labels(path, table.column("label").to_numpy())


def _labels(path: Path, labels: NDArray[Any]) -> Labels:
    integers = labels.dtype.kind in "iu"  # Arrow returns floats if a label is missing
    if not integers or (len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASS_NAMES)):
        wrong = (
            labels[0] if not integers else labels[(labels < 0) | (labels >= len(CLASS_NAMES))][0]
        )
        raise DataError(
            f"cifar10: {path} has the label {wrong}; labels are whole numbers of 0 to 9"
        )
    return labels.astype(np.int32)


def _read_binary(paths: Sequence[Path]) -> tuple[Pixels, Labels]:
    images, labels = [], []
    for path in paths:
        raw = np.fromfile(path, np.uint8)
        if not len(raw) or len(raw) % _RECORD:
            raise DataError(
                f"cifar10: {path} has {len(raw)} bytes, not a multiple of {_RECORD} (label, 32x32x3 pixels)"
            )
        records = raw.reshape(-1, _RECORD)
        labels.append(_labels(path, records[:, 0]))
        images.append(records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return pixels(np.concatenate(images)), np.concatenate(labels)
