"""Names of searchers and evaluators: built in, of installed packages, or of a file of your own.

A package offers its own by an entry point in the group ``lcnas.searchers`` or ``lcnas.evaluators``::

    [project.entry-points."lcnas.evaluators"]
    mine = "my_package.evaluators:prepare"

Without a package, ``FILE.py:NAME`` or ``MODULE:NAME`` in place of a name means the object of that name in a
Python file or module.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from lcnas.errors import not_among, shorten
from search.errors import SearchError

_USER = "lcnas_user_"  # prefix of the names of modules of users' files


class Registry:
    """Objects of one kind by name; each is imported when it is asked for.

    Args:
        kind: what they are, for messages: "searcher".
        builtin: name -> "module:attribute".
        group: the group of entry points that adds to them.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self.builtin = dict(builtin)
        self.group = group

    @property
    def names(self) -> tuple[str, ...]:
        """All names: built-in ones first, then those of installed packages."""
        return (*self.builtin, *(name for name in self._installed() if name not in self.builtin))

    def check(self, name: str) -> None:
        """Refuse a name that is neither known nor FILE.py:NAME nor MODULE:NAME.

        Raises:
            SearchError: it is none of these; lists the names.
        """
        if name not in self.names and not _is_reference(name):
            raise SearchError(not_among(self.kind, name, self.names))

    def load(self, name: str) -> Any:
        """Return the object of a name.

        Raises:
            SearchError: there is none, or it cannot be imported.
        """
        self.check(name)
        if name in self.builtin:
            return _attribute(self.builtin[name], self.kind)
        installed = self._installed()
        return _attribute(installed.get(name, name), self.kind)

    @functools.cache  # noqa: B019 - registries live as long as the process
    def _installed(self) -> dict[str, str]:
        return {point.name: point.value for point in metadata.entry_points(group=self.group)}


def modules_of_files() -> list[ModuleType]:
    """Return the modules of files given as FILE.py:NAME, which other processes cannot import."""
    return [module for name, module in sys.modules.items() if name.startswith(_USER)]


def _is_reference(name: str) -> bool:
    module, _, attribute = name.rpartition(":")
    return bool(module) and attribute.isidentifier()


def _attribute(reference: str, kind: str) -> Any:
    place, _, attribute = reference.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except SearchError:
        raise
    except Exception as error:  # noqa: BLE001 - the code of others fails in any way
        reason = f"{type(error).__name__}: {error}"
        raise SearchError(
            f"{kind}: {shorten(place)} cannot be imported: {shorten(reason, 200)}"
        ) from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise SearchError(f"{kind}: {shorten(place)} has no {attribute}") from None


def _file(path: Path) -> ModuleType:
    """Return the module of a Python file, imported once per process."""
    if not path.is_file():
        raise SearchError(f"there is no file {shorten(str(path))}")
    resolved = path.resolve()
    name = f"{_USER}{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, resolved)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


SEARCHERS = Registry(
    "searcher",
    {
        "nsga2": "search.searchers.nsga2:NSGA2",
        "evolution": "search.searchers.evolution:Evolution",
        "tpe": "search.searchers.tpe:TPE",
        "random": "search.searchers.uniform:Random",
        "local": "search.searchers.local:Local",
    },
    "lcnas.searchers",
)
EVALUATORS = Registry(
    "evaluator",
    {
        "supernet": "search.evaluators.supernet_training:prepare",
        "train": "search.evaluators.train:prepare",
        "proxy": "search.evaluators.proxy:prepare",
    },
    "lcnas.evaluators",
)
