"""The one resolution of a search, at which networks are trained, tested, measured and exported.

Only an evaluator may use fewer pixels (``--train-size``): it is a cheap proxy, and nothing is delivered.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lcnas import paths, spaces
from lcnas.arch import Resolution
from lcnas.errors import SpaceError
from lcnas.spaces import Space
from search.settings import Settings

SYNTHETIC = 48  # pixels of synthetic images; the packaged tables have all of its entries
STEP, SMALLEST, LARGEST = 32, 32, 224  # of resolutions that follow from the images' own size
# ImageNet's resolution: a packaged space that lists it alone suits any images.
_PUBLISHED: tuple[Resolution, ...] = (224,)


def resolve(asked: Settings) -> Settings:
    """Return settings with the resolution of the search.

    It is the requested one; else the space's own, unless the space is a packaged one that lists 224 alone;
    else the images' own size: their median short side, rounded to a multiple of 32, 32 to 224.

    Raises:
        SpaceError: there is no such space, or it lists several resolutions and none was requested.
        DataError: there is no such set.
    """
    if asked.resolution is not None:
        return asked
    return dataclasses.replace(asked, resolution=_of_space(asked) or of_images(asked.data))


def space_of(asked: Settings) -> Space:
    """Return the space of some settings, at its one resolution.

    Raises:
        SpaceError: there is no such space, or it lists several resolutions and none was requested.
    """
    space = spaces.load(asked.space, asked.resolution)
    if len(space.resolutions) > 1:
        sizes = ", ".join(map(str, space.resolutions))
        raise SpaceError(f"resolution: {space.name} has several ({sizes}); choose one of them")
    return space


def _of_space(asked: Settings) -> Resolution | None:
    packaged = asked.space in spaces.available() or _is_packaged(asked.space)
    space = space_of(asked)
    return None if packaged and space.resolutions == _PUBLISHED else space.resolutions[0]


def _is_packaged(path: str) -> bool:
    return Path(path).resolve().parent == paths.spaces_dir().resolve()


def of_images(spec: str) -> int:
    """Return the resolution that suits a set's images, in pixels."""
    from lcnas.training.data import own_size

    side = own_size(spec)
    if side is None:
        return SYNTHETIC
    return min(max(STEP * int(side / STEP + 0.5), SMALLEST), LARGEST)
