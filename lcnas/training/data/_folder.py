"""A folder of pictures, a folder a class: which files there are, and which split each belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcnas.errors import DataError, listing, nearest
from lcnas.paths import expanded
from lcnas.training.data._types import Labels

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_HELD = ("val", "test")  # what the folder of the test set may be called


@dataclass(frozen=True)
class Listing:
    """The files of a set; names are relative to the folder, with slashes."""

    root: Path
    class_names: tuple[str, ...]  # sorted
    train: tuple[str, ...]  # those of validation among them
    test: tuple[str, ...] | None  # None: the set has no test set of its own

    def labels(self, names: Iterable[str]) -> Labels:
        """Return the class of each file, which is the folder it is in."""
        depth = 1 if self.test is not None else 0
        number = {name: i for i, name in enumerate(self.class_names)}
        return np.array([number[name.split("/", depth + 1)[depth]] for name in names], np.int32)


def scan(root: Path) -> Listing:
    """List ImageNet's own layout (train/ and val/ with a folder a class), or one folder a class.

    Folders and files that begin with a dot, and files that are no pictures by their suffix, are left out.

    Raises:
        DataError: if the folder has neither layout, or a class has no pictures.
    """
    folders = set(_folders(root))
    held = [name for name in _HELD if name in folders]
    if len(held) > 1 and not _folders(root / "test"):
        held = ["val"]  # as ImageNet comes: its test pictures have no labels
    if "train" in folders and len(held) > 1:
        raise DataError(
            f"imagefolder: {root} has train, val and test, so which is the test set cannot be told; make a "
            "folder with links to train and to one of them"
        )
    if "train" in folders and held:
        return _scan_split(root, held[0])
    if folders & {"train", *_HELD}:
        raise DataError(
            f"imagefolder: {root} has {listing(sorted(folders & {'train', *_HELD}))}, but both train and val "
            "(the test set) are needed, or else class folders alone"
        )
    return Listing(root, tuple(sorted(folders)), _pictures(root, sorted(folders)), None)


def _scan_split(root: Path, held: str) -> Listing:
    classes = sorted(_folders(root / "train"))
    others = sorted(_folders(root / held))
    for here, there, missing in (
        ("train", held, sorted(set(classes) - set(others))),
        (held, "train", sorted(set(others) - set(classes))),
    ):
        if missing:
            raise DataError(
                f"imagefolder: {root}: classes of {here} that {there} does not have: {listing(missing)}"
            )
    train = _pictures(root, [f"train/{name}" for name in classes])
    return Listing(
        root, tuple(classes), train, _pictures(root, [f"{held}/{name}" for name in classes])
    )


def _folders(root: Path) -> list[str]:
    return [
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    ]


def _pictures(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Return the pictures below the class folders, in the order of their names."""
    if len(folders) < 2:
        found = f"only the folder {folders[0]}" if folders else "no folders"
        raise DataError(
            f"imagefolder: {root} has {found}; needed is a folder for each of at least 2 classes, or train "
            "and val with such folders in each"
        )
    out: list[str] = []
    for folder in folders:
        found_here = unsorted(root, folder)
        if not found_here:
            raise DataError(
                f"imagefolder: class {folder} of {root} has no pictures ({', '.join(SUFFIXES)}); put some "
                "in, or remove the folder"
            )
        out.extend(sorted(found_here))
    return tuple(out)


def unsorted(root: Path, folder: str) -> list[str]:
    """Return the pictures anywhere below a folder of the root, relative to the root."""
    out = []
    for place, inner, files in os.walk(root / folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = Path(place).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        out += [
            prefix + name
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return out


def sizes(root: Path, names: Iterable[str]) -> list[str]:
    """Return "name size" of each file: what a set's fingerprint rests on."""
    return [f"{name} {(root / name).stat().st_size}" for name in names]


def existing_folder(kind: str, text: str) -> Path:
    """Return the folder of that name, made absolute; Ray Tune changes the working directory."""
    if not text:
        raise DataError(f"{kind}: which folder? Write {kind}:FOLDER")
    path = expanded(text).absolute()
    if not path.is_dir():
        what = "is a file, not a folder" if path.is_file() else "does not exist"
        raise DataError(f"{kind}: the folder {text} {what}{_similar(path)}")
    return path


def existing_file(kind: str, text: str) -> Path:
    """Return the file of that name, made absolute."""
    if not text:
        raise DataError(f"{kind}: which file? Write {kind}:FILE")
    path = expanded(text).absolute()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"{kind}: the file {text} {what}{_similar(path)}")
    return path


def _similar(path: Path) -> str:
    if path.exists() or not path.parent.is_dir():
        return ""
    return nearest(path.name, [entry.name for entry in os.scandir(path.parent)])
