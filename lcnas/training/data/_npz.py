"""User data sets in NumPy archives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import DataError, listing, nearest, shorten
from lcnas.training.data._memory import Pixels, pixels
from lcnas.training.data._types import Images, Labels

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("class_names",)

Part = tuple[Pixels, Labels]


def read(path: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """Read an archive: the training part, the test part, and the names of the classes.

    Its arrays: ``x_train`` and ``x_test``, uint8, (n, height, width, 3), or without the 3 for grey images;
    ``y_train`` and ``y_test``, whole numbers from 0 on, (n,); ``class_names``, texts, optional.

    Raises:
        DataError: the file is not such an archive, or arrays are missing or of another type.
    """
    arrays = _arrays(path)
    x_train, x_test = (_images(path, name, arrays[name]) for name in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"npz: {path}: images of x_train are {x_train.shape[1:]}, those of x_test {x_test.shape[1:]}; "
            "they must be the same"
        )
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train))
    names = _class_names(path, arrays.get("class_names"), y_train)
    y_test = _labels(path, "y_test", arrays["y_test"], len(x_test))
    for name, labels in (("y_train", y_train), ("y_test", y_test)):
        if labels.max() >= len(names):
            raise DataError(
                f"npz: {path}: {name} has the label {labels.max()}; with {len(names)} classes the highest is "
                f"{len(names) - 1}"
            )
    if len(names) < 2:
        raise DataError(
            f"npz: {path}: there is only one class, {names[0]!r}; at least 2 are needed"
        )
    empty = sorted(set(range(len(names))) - set(y_train.tolist()))
    if empty:
        raise DataError(f"npz: {path}: classes without images in x_train: {listing(empty)}")
    return (pixels(x_train), y_train), (pixels(x_test), y_test), names


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:  # NumPy leaves it open where it fails
            return _picked(path, np.load(file, allow_pickle=False))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and NumPy raise many types on damaged files
        if "pickle" in str(error):
            raise DataError(
                f"npz: {path} holds pickled objects, or is not an archive; pickles are not read"
            ) from None
        raise DataError(f"npz: {path} is not a readable .npz archive: {error}") from None


def _picked(path: Path, archive: Any) -> Mapping[str, NDArray[Any]]:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"npz: {path} is a single array (.npy), not an archive (.npz)")
    missing = [name for name in _NEEDED if name not in archive.files]
    if missing:
        others = sorted(set(archive.files) - set(_NEEDED))
        raise DataError(
            f"npz: {path} lacks {listing(missing)}; it has {listing(archive.files)}"
            f"{nearest(missing[0], others)}"
        )
    return {name: archive[name] for name in (*_NEEDED, *_OPTIONAL) if name in archive.files}


def _images(path: Path, name: str, array: NDArray[Any]) -> Images:
    if array.dtype != np.uint8:
        raise DataError(f"npz: {path}: {name} must be uint8 from 0 to 255, got {array.dtype}")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"npz: {path}: {name} must be (n, height, width, 3) or (n, height, width), got {array.shape}"
        )
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    return array


def _labels(path: Path, name: str, array: NDArray[Any], n: int) -> Labels:
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise DataError(
            f"npz: {path}: {name} must be {n} whole numbers, one per image, got {array.dtype} {array.shape}"
        )
    if array.min() < 0 or array.max() >= 1 << 20:
        wrong = array.min() if array.min() < 0 else array.max()
        raise DataError(
            f"npz: {path}: {name} has the label {wrong}; labels are 0 to at most {(1 << 20) - 1}"
        )
    return array.astype(np.int32)


def _class_names(path: Path, array: NDArray[Any] | None, labels: Labels) -> tuple[str, ...]:
    if array is None:
        return tuple(str(i) for i in range(int(labels.max()) + 1))
    if array.dtype.kind != "U" or array.ndim != 1 or len(set(array.tolist())) != len(array):
        raise DataError(
            f"npz: {path}: class_names must be distinct texts, got {shorten(array.tolist())}"
        )
    return tuple(array.tolist())
