"""What the command lines share: one-line errors with exit code 2, and networks by name or file."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import math
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from lcnas import _home, _terminal, zoo
from lcnas.arch import Arch, Resolution
from lcnas.errors import (
    LcnasError,
    TrainingFailedError,
    WriteError,
    ZooError,
    nearest,
    not_among,
    shorten,
)

BAD_ARGUMENT = 2
FAILURE = 1
LONGEST_NAME = 255  # bytes of a file or folder name, on all common systems
LONGEST_PATH = 2048


class Parser(argparse.ArgumentParser):
    """An argument parser whose help shows defaults, and whose errors are one line."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=f"python -m {prog}",
            description=description,
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def parse_args(  # type: ignore[override]
        self, args: list[str], namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the arguments; an unknown option is told with the nearest one."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            options = [text for action in self._actions for text in action.option_strings]
            self.error(f"unknown argument {shorten(rest[0])}{nearest(rest[0], options)}")
        return parsed

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the error and leave with code 2."""
        print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(BAD_ARGUMENT)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the description as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # "(default: None)" tells nobody anything
        return super()._get_help_string(action)


def run(prog: str, main: Callable[[list[str]], int]) -> None:
    """Run a command on ``sys.argv`` and leave with its exit code: 0, 2 for bad arguments, 1 for failure.

    Stdout and stderr take any text in any encoding, and may be closed: see :func:`lcnas._terminal.prepare`.
    """
    _terminal.prepare()
    try:
        _home.settle()
        code = _code(main)
        sys.stdout.flush()
    except LcnasError as error:
        print(f"python -m {prog}: {error}", file=sys.stderr)
        failed = isinstance(error, WriteError | TrainingFailedError)
        code = FAILURE if failed else BAD_ARGUMENT
    except BrokenPipeError:  # the reader of something else than stdout, whose end is forgiven
        code = 0
    except OSError as error:  # a full disk, or a name too long for the file system
        print(f"python -m {prog}: {error}", file=sys.stderr)
        code = BAD_ARGUMENT if error.errno == errno.ENAMETOOLONG else FAILURE
    except KeyboardInterrupt:
        print(f"python -m {prog}: stopped", file=sys.stderr)
        code = 130
    _terminal.leave()
    raise SystemExit(code)


def _code(main: Callable[[list[str]], int]) -> int:
    """Return the exit code of a command, that of its parser too: what --help printed is not yet written."""
    try:
        return main(sys.argv[1:])
    except SystemExit as left:
        if not isinstance(left.code, int):
            raise
        return left.code


def network(text: str) -> Arch:
    """Return the network of a zoo name or of a JSON file."""
    if text.endswith(".json"):
        if not is_file(text):
            raise ZooError(f"network: there is no file {cut(text)}")
        return Arch.load(text)
    return zoo.load(text)


def is_file(text: str) -> bool:
    """Return whether there is a file of that name; a name that no file can have is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def cut(text: str, limit: int = 160) -> str:
    """Return a name as messages show it; of a long one the middle is left out, since a path's end tells most.

    >>> cut("/home/somebody/images/cat.jpg", 20)
    '/home/so...s/cat.jpg'
    """
    if len(text) <= limit:
        return text
    kept = limit - 3
    return f"{text[: kept // 2]}...{text[-(kept - kept // 2) :]}"


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return what reads an option that is a whole number from low to high."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(high))
        if not digits or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{shorten(text)} is not a whole number from {low} to {high}"
            )
        return int(text)

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """Return what reads an option that is a number from low to high."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{shorten(text)} is not a number from {low:g} to {high:g}"
            )
        return value

    return read


def check_folder(text: str, what: str) -> Path:
    """Return a folder to write into, there already or not.

    Raises:
        LcnasError: a name that no folder can have, something that is no folder, or one that is read-only.
    """
    folder = Path(text)
    longest = max((len(os.fsencode(part)) for part in folder.parts), default=0)
    if not text or "\0" in text or longest > LONGEST_NAME or len(text) > LONGEST_PATH:
        raise LcnasError(
            f"{what}: {shorten(text)} names no folder (names have 1 to {LONGEST_NAME} bytes)"
        )
    first = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    if not first.is_dir():
        raise LcnasError(f"{what}: {cut(str(first))} is not a folder")
    if not os.access(first, os.W_OK | os.X_OK):
        raise LcnasError(f"{what}: {cut(str(first))} is read-only")
    return folder


def resolution(text: str) -> Resolution:
    """Return the resolution of "224" or "80x160" (height x width)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(
        part.isascii() and part.isdigit() and len(part) < 9 for part in parts
    ):
        raise LcnasError(
            f"resolution: {text!r} is neither a side such as 224 nor HEIGHTxWIDTH such as 80x160"
        )
    sides = [int(part) for part in parts]
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def classes(text: str) -> int:
    """Return the number of classes of a text."""
    if (
        not (text.isascii() and text.isdigit())
        or not 1 <= int(text[:9]) <= 1 << 20
        or len(text) > 9
    ):
        raise LcnasError(f"classes: {text!r} is not a whole number of 1 to {1 << 20}")
    return int(text)


def add_blocks_option(parser: argparse.ArgumentParser) -> None:
    """Add --blocks."""
    parser.add_argument(
        "--blocks",
        metavar="FILE",
        action="append",
        default=[],
        help="Python file with blocks of your own, may be repeated",
    )


def load_blocks(files: list[str]) -> None:
    """Run Python files that add blocks to the vocabulary."""
    for i, name in enumerate(files):
        path = Path(name)
        if not is_file(name):
            raise LcnasError(f"blocks: there is no file {cut(name)}")
        spec = importlib.util.spec_from_file_location(f"lcnas_user_blocks_{i}_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise LcnasError(f"blocks: {name} is not a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their annotations up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # noqa: BLE001 - whatever a user's file may raise
            raise LcnasError(_blame(name, spec.origin, error)) from None


def _blame(name: str, origin: str | None, error: Exception) -> str:
    """Return file, line and reason of what went wrong in a user's file, in one line."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == origin]
    line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
    where = f"{name}, line {line}" if line else name
    return f"blocks: {where}: {type(error).__name__}: {' '.join(str(error).split())}"


def unknown(text: str, names: tuple[str, ...]) -> LcnasError:
    """Return the error for a word that names nothing."""
    return LcnasError(not_among("network or space", text, names))
