"""A folder of images with one folder per class: its files, and the split that each belongs to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lcnas import images
from lcnas.errors import DataError, listing, nearest, spelt
from lcnas.paths import expanded
from lcnas.training.data import _layout
from lcnas.training.data._types import Labels

_KINDS = 5  # kinds of left-out files that a note names
_LONGEST = 12  # characters of a suffix; a longer one is part of the name


@dataclass(frozen=True)
class Listing:
    """The files of a data set; names are relative to the folder, with slashes."""

    root: Path
    folders: tuple[str, ...]  # class folders, sorted, as the file system has them
    class_names: tuple[str, ...]  # the same as valid text, all distinct
    train: tuple[str, ...]  # includes those of splits without a folder
    validation: tuple[str, ...] | None  # None: there is no folder of validation images
    test: tuple[str, ...] | None  # None: there is no folder of test images
    depth: int  # folders above the class folders: 0, or 1 if splits have folders
    notes: tuple[str, ...]  # lines on the choice of splits, and on what is left out

    def labels(self, names: Iterable[str]) -> Labels:
        """Return the class of each file: that of its folder."""
        number = {name: i for i, name in enumerate(self.folders)}
        deep = self.depth
        return np.array([number[name.split("/", deep + 1)[deep]] for name in names], np.int32)


@dataclass
class LeftOut:
    """Counts of left-out files, by kind."""

    files: Counter[str] = field(default_factory=Counter)

    def notes(self) -> tuple[str, ...]:
        """Return the counts as one line, or nothing if there are none.

        >>> LeftOut(Counter({".txt": 10, ".mp4": 2})).notes()
        ('12 files left out: 10 .txt, 2 .mp4',)
        """
        if not self.files:
            return ()
        n = self.files.total()
        kinds = sorted(self.files.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count:,} {kind}" for kind, count in kinds[:_KINDS]]
        rest = sum(count for _, count in kinds[_KINDS:])
        more = [f"{rest:,} others"] if rest else []
        return (f"{n:,} {_plural('file', n)} left out: {', '.join([*shown, *more])}",)


def scan(root: Path) -> Listing:
    """List the images of a folder: of splits with class folders in each, or of class folders.

    Folders and files that begin with a dot are skipped; other files that are not images are counted.

    Raises:
        DataError: the folder has neither layout, or a class has no images.
    """
    layout, left = _layout.find(root), LeftOut()
    folders = _layout.folders(root / layout.train)
    _check_folders(root, layout.train, folders)
    train = _of_classes(root, layout.train, folders, left)
    validation, test = (
        None if part is None else _held_out(root, part, layout.train, folders, left)
        for part in (layout.validation, layout.test)
    )
    for part in {"", layout.train, layout.validation or "", layout.test or ""}:
        _count_loose(root / part, left)
    return Listing(
        root,
        tuple(folders),
        _class_names(folders),
        train,
        validation,
        test,
        depth=1 if layout.train else 0,
        notes=(
            *layout.notes,
            *_splits_within(train, 1 if layout.train else 0),
            *_unused(root, layout.others),
            *left.notes(),
        ),
    )


def _splits_within(names: Iterable[str], depth: int) -> tuple[str, ...]:
    """Return a note if class folders hold splits, instead of the other way round."""
    parts = (name.split("/") for name in names)
    inner = sorted({p[depth + 1] for p in parts if len(p) > depth + 2})
    split_names = [name for name in inner if _layout.role(name) is not None]
    if len({_layout.role(name) for name in split_names}) < 2:
        return ()
    names_of_splits = listing(map(spelt, split_names))
    return (
        f"the class folders hold {names_of_splits}; as splits, these must be the outer folders",
    )


def _check_folders(root: Path, train: str, folders: Sequence[str]) -> None:
    if len(folders) > 1:
        return
    content = f"only the folder {spelt(folders[0])}" if folders else "no folders"
    where = root / train
    inner = where / folders[0] if folders else None
    hint = ""
    if inner is not None and _is_set(inner):
        hint = f"; did you mean imagefolder:{spelt(str(inner))}?"
    raise DataError(
        f"imagefolder: {spelt(str(where))} has {content}; needed is a folder for each of at least 2 classes, "
        f"or train and test (with or without validation) with such folders in each{hint}"
    )


def _is_set(folder: Path) -> bool:
    """Return whether a folder looks as a set does: folders of classes, or of splits."""
    inner = _layout.folders(folder)
    return len(inner) > 1 or any(_layout.role(name) == _layout.TRAIN for name in inner)


def _of_classes(root: Path, part: str, folders: Sequence[str], left: LeftOut) -> tuple[str, ...]:
    """Return the images below the class folders, in the order of their names; no class may be empty."""
    out: list[str] = []
    for name in folders:
        own = LeftOut()
        files = sorted(walk(root, f"{part}/{name}" if part else name, own))
        if not files:
            why = "".join(f" ({note})" for note in own.notes())
            raise DataError(
                f"imagefolder: class {spelt(name)} of {spelt(str(root / part))} has no images{why}; add some "
                "or remove the folder"
            )
        left.files += own.files
        out += files
    return tuple(out)


def _held_out(
    root: Path, part: str, train: str, folders: Sequence[str], left: LeftOut
) -> tuple[str, ...]:
    """Return the images of validation or test, whose classes must be among those of training."""
    out: list[str] = []
    others = []
    for name in _layout.folders(root / part):
        files = sorted(walk(root, f"{part}/{name}", left))
        if files and name not in folders:
            others.append(name)
        out += files
    if others:
        raise DataError(
            f"imagefolder: {spelt(str(root))}: classes of {spelt(part)} that {spelt(train)} does not have: "
            f"{listing(map(spelt, others))}{nearest(others[0], folders)}"
        )
    if not out:
        raise DataError(
            f"imagefolder: {spelt(str(root / part))} has no images{''.join(f' ({n})' for n in left.notes())}"
        )
    return tuple(out)


def _class_names(folders: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the folders as valid text, all distinct."""
    names: dict[str, None] = {}
    for name in map(spelt, folders):
        unique, n = name, 1
        while unique in names or (unique != name and unique in folders):
            unique, n = f"{name}_{n + 1}", n + 1
        names[unique] = None
    return tuple(names)


def _count_loose(folder: Path, left: LeftOut) -> None:
    """Count the files next to the class folders."""
    with _layout.scanned(folder) as entries:
        for entry in entries:
            if _layout.visible(entry.name) and not _layout.is_folder(entry):
                image = _is_file(entry) and _is_image(entry)
                kind = "images outside the class folders" if image else _kind(entry)
                left.files[kind] += 1


def _unused(root: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return a note on the folders outside all splits."""
    if not names:
        return ()
    counts = [_layout.count(root, name) for name in names]
    parts = [
        f"{spelt(n)} ({c:,} {_plural('image', c)})" for n, c in zip(names, counts, strict=True)
    ]
    return (f"{_plural('folder', len(names))} left out: {listing(parts)}",)


def walk(root: Path, folder: str, left: LeftOut) -> list[str]:
    """Return the images at any depth below a folder, relative to the root; count other files."""
    out: list[str] = []
    ahead = [folder]
    while ahead:
        below = ahead.pop()
        with _layout.scanned(root / below) as entries:
            for entry in entries:
                if not _layout.visible(entry.name):
                    continue
                name = f"{below}/{entry.name}" if below else entry.name
                if _layout.is_folder(entry, follow=False):
                    ahead.append(name)
                elif _is_file(entry) and _is_image(entry):
                    out.append(name)
                else:
                    left.files[_kind(entry)] += 1
    return out


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a readable file, not a pipe or a broken link."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether a file is an image, by its suffix (reading checks it later) or by its contents."""
    return _suffix(entry.name) in images.suffixes() or images.is_image(entry.path)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - twice as fast, for millions of names


def _kind(entry: os.DirEntry[str]) -> str:
    if not _is_file(entry):
        return "links to folders" if _layout.is_folder(entry) else "broken links, pipes or devices"
    suffix = spelt(_suffix(entry.name))
    return suffix if 1 < len(suffix) <= _LONGEST and suffix.isprintable() else "without suffix"


def _plural(word: str, n: int) -> str:
    return word if n == 1 else f"{word}s"


def sizes(root: Path, names: Iterable[str]) -> list[str]:
    """Return "name size" of each file, for the fingerprint of a data set.

    Raises:
        OSError: a file no longer exists.
    """
    return [f"{name} {(root / name).stat().st_size}" for name in names]


def existing_folder(kind: str, text: str) -> Path:
    """Return a folder as an absolute path, because Ray Tune changes the working directory."""
    if not text:
        raise DataError(f"{kind}: which folder? Write {kind}:FOLDER")
    path = expanded(text).absolute()
    if not path.is_dir():
        what = "is a file, not a folder" if path.is_file() else "does not exist"
        raise DataError(f"{kind}: the folder {spelt(text)} {what}{_similar(path)}")
    return path


def existing_file(kind: str, text: str) -> Path:
    """Return a file as an absolute path."""
    if not text:
        raise DataError(f"{kind}: which file? Write {kind}:FILE")
    path = expanded(text).absolute()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"{kind}: the file {spelt(text)} {what}{_similar(path)}")
    return path


def _similar(path: Path) -> str:
    if path.exists() or not path.parent.is_dir():
        return ""
    return nearest(spelt(path.name), [spelt(entry.name) for entry in os.scandir(path.parent)])
