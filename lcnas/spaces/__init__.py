"""Search spaces as data, with exact counting and uniform sampling.

Examples:
    >>> import numpy as np
    >>> from lcnas import spaces
    >>> space = spaces.load("pplcnet_tail")
    >>> space.size
    137642803200
    >>> arch = space.sample(np.random.default_rng(0))
    >>> arch in space
    True
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lcnas import paths
from lcnas.arch import Resolution, check_resolution
from lcnas.errors import ArchError, SpaceError, not_among, shorten
from lcnas.spaces import _read
from lcnas.spaces._element import Gene
from lcnas.spaces._space import Space


def available() -> tuple[str, ...]:
    """Return the names of lcnas's own spaces."""
    return tuple(sorted(path.stem for path in paths.spaces_dir().glob("*.toml")))


def load(name: str | Path, resolution: Resolution | list[Resolution] | None = None) -> Space:
    """Return a space.

    Args:
        name: one of :func:`available`, or the path of a TOML file (see ``docs/reference/spaces.md``).
        resolution: deployment resolutions, pixels: a number, a (height, width) tuple or a list of them;
            None: those of the file.

    Raises:
        SpaceError: unknown name, or an error in the file; names the file, the key, the value and
            the allowed ones.

    Examples:
        >>> from lcnas import spaces
        >>> space = spaces.load("pplcnet_tail", resolution=128)
        >>> space.size, space.resolutions
        (137642803200, (128,))
    """
    space_spec = _read.read(_find(name))
    if resolution is not None:
        space_spec = dataclasses.replace(space_spec, resolutions=_resolutions(resolution))
    return Space(space_spec)


def loads(text: str, name: str = "space") -> Space:
    """Return the space of TOML text.

    Args:
        text: the contents of a space file.
        name: name of the space, also in errors.
    """
    if not isinstance(text, str):
        raise SpaceError(f"{name}: {shorten(text)} is not the text of a space file")
    return Space(_read.parse(text, name, name))


def _find(name: str | Path) -> Path:
    if isinstance(name, str) and name in available():
        return paths.spaces_dir() / f"{name}.toml"
    if not isinstance(name, str | Path):
        raise SpaceError(not_among("space", name, available()))
    text = str(name)
    if "\0" not in text and (text.endswith(".toml") or "/" in text or isinstance(name, Path)):
        if Path(name).is_file():
            return Path(name)
        raise SpaceError(f"space: there is no file {text}; {_built_in()}")
    raise SpaceError(f"{not_among('space', name, available())}; or give the path of a .toml file")


def _built_in() -> str:
    return f"lcnas's own are {', '.join(available())}"


def _resolutions(resolution: Resolution | list[Resolution]) -> tuple[Resolution, ...]:
    try:
        values = resolution if isinstance(resolution, list) else [resolution]
        resolutions = tuple(dict.fromkeys(check_resolution(item) for item in values))
    except ArchError as error:
        raise SpaceError(str(error)) from None
    if not resolutions:
        raise SpaceError(f"resolution: {shorten(resolution)} is empty")
    return resolutions


__all__ = ["Gene", "Space", "available", "load", "loads"]
