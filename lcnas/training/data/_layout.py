"""Folder layouts of data sets: training, validation and test by their usual names, or class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lcnas import images
from lcnas.errors import DataError, listing, spelt

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_EVAL = ("eval", "evaluation")  # validation, unless another folder is that
_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", *_EVAL), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
# Words ignored in "training_set", "Test Images", "data-train" and so on.
_FILLERS = frozenset(("data", "dataset", "set", "split", "images", "imgs", "img"))
# Folders created by operating systems and archives, which may hold copies of images.
_SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)


@dataclass(frozen=True)
class FolderLayout:
    """The folders of the splits, relative to the root; "" is the root itself."""

    train: str  # holds the class folders
    validation: str | None = None
    test: str | None = None
    others: tuple[str, ...] = ()  # other folders, which are left out
    notes: tuple[str, ...] = ()  # lines on choices where the layout is ambiguous


def role(name: str) -> str | None:
    """Return the split that a folder's name stands for, ignoring case, or None.

    >>> role("Training"), role("val"), role("test_set"), role("trainer")
    ('train', 'validation', 'test', None)
    """
    words = [w for w in re.split(r"[\W_]+", name.casefold()) if w and w not in _FILLERS]
    return _NAMES.get(words[0].removesuffix("set")) if len(words) == 1 else None


def visible(name: str) -> bool:
    """Return whether a file or folder is part of the data, by its name."""
    return not name.startswith(".") and name not in _SYSTEM_FOLDERS


def folders(root: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted."""
    with scanned(root) as entries:
        return sorted(entry.name for entry in entries if visible(entry.name) and is_folder(entry))


def scanned(folder: Path) -> os._ScandirIterator[str]:  # a context manager, unlike an Iterator
    """Return the entries of a folder.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return os.scandir(folder)
    except OSError as error:
        raise DataError(f"data: {spelt(str(folder))} cannot be read: {error.strerror}") from None


def is_folder(entry: os.DirEntry[str], *, follow: bool = True) -> bool:
    """Return whether an entry is a folder; False for broken or circular links."""
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def count(root: Path, folder: str) -> int:
    """Return the number of files below a folder with the suffix of an image."""
    return sum(
        name.lower().endswith(tuple(images.suffixes()))
        for _, _, names in os.walk(root / folder)
        for name in names
    )


def find(root: Path) -> FolderLayout:
    """Return the layout of a data set's folder.

    A folder with the name of a split is one if it holds folders itself, and is next to another split or to
    nothing. So a class may be called "test".

    Raises:
        DataError: the layout is ambiguous, or a split is missing.
    """
    all_folders = folders(root)
    named = {name: part for name in all_folders if (part := role(name)) is not None}
    inner = {name: folders(root / name) for name in named}
    splits = {name: part for name, part in named.items() if inner[name]}
    if TRAIN in splits.values() and len(set(splits.values())) > 1:
        return _splits(root, splits, all_folders)
    if splits:
        return _one_sided(root, splits, inner, all_folders)
    if len(set(named.values())) > 1:
        raise DataError(
            f"imagefolder: {_shown(root)} has {_names(named)}, but no class folders in them; needed is a "
            "folder for each class in each of them"
        )
    return FolderLayout("", notes=_class_notes(named))


def _splits(root: Path, splits: Mapping[str, str], all_folders: Collection[str]) -> FolderLayout:
    """Return the layout where training and at least one other split have class folders."""
    by_role: dict[str, list[str]] = {}
    for name, part in splits.items():
        by_role.setdefault(part, []).append(name)
    held = by_role.get(VALIDATION, [])
    late = [
        name for name in held if role(name) == VALIDATION and name.casefold().startswith("eval")
    ]
    if len(held) == 2 and len(late) == 1 and TEST not in by_role:
        by_role |= {VALIDATION: [n for n in held if n not in late], TEST: late}
    for part, names in by_role.items():
        if len(names) > 1:
            raise DataError(
                f"imagefolder: {_shown(root)} has {_names(names)}, so the {part} set is ambiguous; "
                "rename or move all but one"
            )
    train, validation, test = (by_role.get(p, [None])[0] for p in (TRAIN, VALIDATION, TEST))
    if train is None:  # find() has checked that there is one
        raise DataError(f"imagefolder: {_shown(root)} has no folder of training images")
    if test is None:
        validation, test = None, validation
    others = tuple(name for name in all_folders if name not in (train, validation, test))
    return FolderLayout(train, validation, test, others, (_split_note(train, validation, test),))


def _split_note(train: str, validation: str | None, test: str | None) -> str:
    own = f"20 % of each class of {spelt(train)}" if validation is None else spelt(validation)
    return f"training: {spelt(train)}; validation: {own}; test: {spelt(test or '')}"


def _one_sided(
    root: Path, splits: Mapping[str, str], inner: Mapping[str, list[str]], all_folders: list[str]
) -> FolderLayout:
    """Return the layout if only training holds class folders, or only another split does."""
    flat = [name for name in inner if name not in splits]  # splits without labels, not used
    classes = [name for name in all_folders if name not in inner]  # possible class folders
    if TRAIN in splits.values():
        if classes and not flat and _hold_images(root, classes):
            raise DataError(_unclear(root, _names(splits), classes))
        (train,) = _only(root, splits)
        others = tuple(name for name in all_folders if name != train)
        return FolderLayout(
            train, others=others, notes=(f"all three splits are made from {spelt(train)}",)
        )
    within = {name for split in splits for name in inner[split]}
    beside = {*classes, *(name for folder in classes for name in folders(root / folder))}
    if not classes or flat:
        raise DataError(
            f"imagefolder: {_shown(root)} has {_names(splits)}, but no folder of training images with "
            "class folders; call it train"
        )
    if within & beside:
        raise DataError(_unclear(root, _names(splits), classes))
    return FolderLayout("", notes=_class_notes(splits))


def _only(root: Path, splits: Mapping[str, str]) -> list[str]:
    if len(splits) > 1:
        raise DataError(
            f"imagefolder: {_shown(root)} has {_names(splits)}, so the folder of training images is "
            "ambiguous; rename or move all but one"
        )
    return list(splits)


def _hold_images(root: Path, names: Collection[str]) -> bool:
    return any(count(root, name) for name in names)


def _unclear(root: Path, names: str, classes: list[str]) -> str:
    return (
        f"imagefolder: {_shown(root)} has {names} with folders inside, as splits have, and beside them "
        f"{listing(map(spelt, classes))}, as classes are; put the class folders into a folder train, or the "
        "splits into a folder of their own"
    )


def _class_notes(named: Collection[str]) -> tuple[str, ...]:
    return tuple(f"the folder {spelt(name)} is read as a class" for name in named)


def _names(names: Collection[str]) -> str:
    return " and ".join(spelt(name) for name in names)


def _shown(root: Path) -> str:
    return spelt(str(root))
