"""The place of a network's tensors in a file: the prefix of their names, inferred from the names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lcnas.models.pretrained._files import Arrays
from lcnas.models.pretrained._names import SCHEMES as _BY_STAGE
from lcnas.models.pretrained._names import Scheme
from lcnas.models.pretrained._torchvision import TORCHVISION

SCHEMES = (*_BY_STAGE, *TORCHVISION)
# Prefixes of weights averaged over training, which are preferred: "model_ema.module.", "state_dict_ema.", ...
_SMOOTHED = re.compile(r"(?<![a-z])(ema|swa|averaged?|shadow)(?![a-z])")
_MOST = 16  # networks of one scheme per file
_USUAL = ("state_dict", "model")  # usual prefixes of checkpoints, the most likely first


@dataclass(frozen=True, eq=False)
class NetworkTensors:
    """The tensors of one network in a file, by a library's names."""

    scheme: Scheme
    prefix: str  # of the names in the file, without the last dot
    arrays: Arrays
    left: int  # tensors of the file that belong to no network

    @property
    def rank(self) -> tuple[bool, int]:
        """Order of preference, lowest first: averaged weights first, as in timm."""
        first = self.prefix.partition(".")[0]
        usual = _USUAL.index(first) if first in _USUAL else len(_USUAL)
        return not _SMOOTHED.search(self.prefix.lower()), usual

    @property
    def place(self) -> str:
        """The prefix and the number of other tensors, as a text that follows a file's name."""
        under = f", under {self.prefix!r}" if self.prefix else ""
        return f"{under}, {self.left} other tensors left out" if self.left else under


def networks_in(arrays: Arrays) -> list[NetworkTensors]:
    """Return the networks with names under any prefix in a file, the most likely first.

    A prefix is any text that turns a scheme's markers into names of the file, so none needs to be known. A
    network inside another's names is not part of it.
    """
    arrays = _without_wrappers(arrays)
    schemes_and_prefixes = [
        (scheme, prefix)
        for scheme in SCHEMES
        for prefix in itertools.islice(_prefixes(scheme, arrays), _MOST)
    ]
    prefixes = sorted({prefix for _, prefix in schemes_and_prefixes}, key=len, reverse=True)
    owners = {name: next((p for p in prefixes if name.startswith(p)), None) for name in arrays}
    left = sum(owner is None for owner in owners.values())
    networks = [
        NetworkTensors(scheme, prefix.removesuffix("."), _own(scheme, prefix, arrays, owners), left)
        for scheme, prefix in schemes_and_prefixes
    ]
    return sorted(networks, key=lambda named: named.rank)


def _prefixes(scheme: Scheme, arrays: Arrays) -> Iterator[str]:
    first, *others = scheme.markers
    for name in arrays:
        prefix = name.removesuffix(first)
        whole = prefix != name and (not prefix or prefix.endswith("."))
        if whole and all(f"{prefix}{other}" in arrays for other in others):
            yield prefix


def _own(scheme: Scheme, prefix: str, arrays: Arrays, owners: dict[str, str | None]) -> Arrays:
    """Return the tensors under a prefix, with shortened names and without redundant ones."""
    own = {
        name.removeprefix(prefix): array for name, array in arrays.items() if owners[name] == prefix
    }
    return {name: array for name, array in own.items() if not scheme.needless(name, own)}


def _without_wrappers(arrays: Arrays) -> Arrays:
    """Return the arrays without the names of PyTorch's wrappers of inner modules, such as "_orig_mod".

    These begin with "_", unlike the names of any network's modules.
    """
    unwrapped = {_unwrapped(name): array for name, array in arrays.items()}
    return unwrapped if len(unwrapped) == len(arrays) else arrays


def _unwrapped(name: str) -> str:
    *outer, last = name.split(".")
    return ".".join([*(part for part in outer if not part.startswith("_")), last])


def same(one: Arrays, other: Arrays) -> bool:
    """Return whether two networks have the same tensors."""
    return one.keys() == other.keys() and all(
        np.array_equal(array, other[name]) for name, array in one.items()
    )
