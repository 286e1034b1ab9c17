"""Names that things had before: they go on working, with a line of deprecation."""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

C = TypeVar("C", bound=type)


def in_module(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__``, which knows old names.

    Args:
        module: its name.
        renamed: old name -> new name in that module.
    """

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is deprecated: use {module}.{renamed[name]}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], renamed[name])

    return get


def warn(old: str, new: str) -> None:
    """Warn that a method or an attribute has a new name; the line shown is that of its caller."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=3)


def keyword(old: str, new: str) -> Callable[[C], C]:
    """Return a class decorator: the class can be called with a keyword's old name as well."""

    def decorate(cls: C) -> C:
        init: Callable[..., None] = cls.__init__  # type: ignore[misc]

        @functools.wraps(init)
        def with_old_name(self: Any, *args: Any, **kwargs: Any) -> None:
            if old in kwargs:
                warn(f"{cls.__name__}({old}=)", f"{cls.__name__}({new}=)")
                kwargs[new] = kwargs.pop(old)
            init(self, *args, **kwargs)

        cls.__init__ = with_old_name  # type: ignore[misc]
        return cls

    return decorate


def option(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Let a parser take an option under its old name as well; help does not show it.

    Args:
        parser: that has the option under its new name.
        old, new: such as "--pictures" and "--images".
    """
    (action,) = (a for a in parser._actions if new in a.option_strings)
    parser.add_argument(old, action=_Renamed, to=new, like=action)


class _Renamed(argparse.Action):
    """Stores what another option would, and says what that is called."""

    def __init__(self, option_strings: list[str], to: str, like: argparse.Action, **_: Any) -> None:
        own: dict[str, Any] = {"nargs": like.nargs, "type": like.type, "choices": like.choices}
        # The default is the other option's.
        hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        super().__init__(option_strings, like.dest, metavar=like.metavar, **own, **hidden)
        self._to = to

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"{parser.prog}: {option_string} is deprecated: use {self._to}", file=sys.stderr)
        setattr(namespace, self.dest, values)


F = TypeVar("F", bound=Callable[..., Any])


def parameter(old: str, new: str) -> Callable[[F], F]:
    """Return a function decorator: the function can be called with a keyword's old name as well."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_old_name(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                name = function.__qualname__
                warn(f"{name}({old}=)", f"{name}({new}=)")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast("F", with_old_name)

    return decorate
