"""The data of a search, loaded for its resolution or for the evaluator's training size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcnas.arch import Resolution, height_width
from lcnas.errors import spelt
from search.packed import PackedImages, pack
from search.settings import ResolvedSettings, Settings

if TYPE_CHECKING:
    from lcnas.training.data import Data


def load(settings: Settings, size: Resolution | None) -> Data:
    """Return the data of some settings, as needed for networks of that many pixels."""
    from lcnas.training.data import load as load_data

    return load_data(
        settings.data,
        size=size,
        max_bad=settings.max_bad,
        permute_labels=settings.permute_labels,
    )


def describe(data: Data) -> list[str]:
    """Return a description of the data, and notes, a line each."""
    n = len(data.train), len(data.validation), len(data.test)
    splits = f"{n[0]:,} images to train, {n[1]:,} to validate, {n[2]:,} to test"
    skipped = [f"note: {len(data.skipped):,} damaged images are left out"] if data.skipped else []
    return [
        f"{spelt(data.spec)}, {data.classes} classes; {splits}",
        *skipped,
        *(f"note: {note}" for note in data.notes),
    ]


def pack_for_evaluator(settings: ResolvedSettings, data: Data) -> PackedImages:
    """Return the images of the search, loaded for the evaluator's training size."""
    size = settings.train_size
    if size is None or height_width(size) == data.size:
        return pack(data, size, most=settings.images, seed=settings.seed)
    with load(settings, size) as small:
        return pack(small, size, most=settings.images, seed=settings.seed)
