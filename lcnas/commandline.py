"""Shared parts of the command lines: parser, exit codes, one-line errors, types of options."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lcnas import home, terminal, zoo
from lcnas.arch import Arch, Resolution
from lcnas.errors import (
    LcnasError,
    TrainingFailedError,
    WriteError,
    ZooError,
    nearest,
    not_among,
    shorten,
    shorten_path,
)

BAD_ARGUMENT = 2
FAILURE = 1
MAX_NAME_BYTES = 255  # of a file or folder name, on all common systems
MAX_PATH_LENGTH = 2048


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
        """Return the arguments; the error of an unknown option names the nearest one."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [text for action in self._actions for text in action.option_strings]
            self.error(f"unknown argument {shorten(unknown[0])}{nearest(unknown[0], options)}")
        return parsed

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the error and exit with code 2."""
        print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(BAD_ARGUMENT)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the description as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # without "(default: None)"
        return super()._get_help_string(action)


def run(prog: str, main: Callable[[list[str]], int]) -> None:
    """Run a command on ``sys.argv`` and exit with its code: 0, 2 for bad arguments, 1 for failures.

    stdout and stderr accept any text in any encoding, and may be closed; see
    :func:`lcnas.terminal.prepare_streams`.
    """
    terminal.prepare_streams()
    try:
        home.ensure_user()
        code = _code(main)
        sys.stdout.flush()
    except LcnasError as error:
        print(f"python -m {prog}: {error}", file=sys.stderr)
        failed = isinstance(error, WriteError | TrainingFailedError)
        code = FAILURE if failed else BAD_ARGUMENT
    except BrokenPipeError:  # of another pipe than stdout, whose errors are ignored
        code = 0
    except OSError as error:  # a full disk, or a name too long for the file system
        print(f"python -m {prog}: {error}", file=sys.stderr)
        code = BAD_ARGUMENT if error.errno == errno.ENAMETOOLONG else FAILURE
    except KeyboardInterrupt:
        print(f"python -m {prog}: stopped", file=sys.stderr)
        code = 130
    terminal.flush_stdout()
    raise SystemExit(code)


def _code(main: Callable[[list[str]], int]) -> int:
    """Return the exit code of a command or of its parser, whose --help is not yet flushed."""
    try:
        return main(sys.argv[1:])
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        return error.code


def network(text: str) -> Arch:
    """Return the network of a zoo name or of a JSON file."""
    if text.endswith(".json"):
        if not is_file(text):
            raise ZooError(f"network: there is no file {shorten_path(text)}")
        return Arch.load(text)
    return zoo.load(text)


def is_file(text: str) -> bool:
    """Return whether there is a file of that name; False for invalid names."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number from low to high."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(high))
        if not digits or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{shorten(text)} is not a whole number from {low} to {high}"
            )
        return int(text)

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """Return the type of an option that is a number from low to high."""

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
    """Return a folder to write into, which need not exist.

    Raises:
        LcnasError: the name is invalid, it is not a folder, or it is read-only.
    """
    folder = Path(text)
    longest = max((len(os.fsencode(part)) for part in folder.parts), default=0)
    if not text or "\0" in text or longest > MAX_NAME_BYTES or len(text) > MAX_PATH_LENGTH:
        raise LcnasError(
            f"{what}: {shorten(text)} names no folder (names have 1 to {MAX_NAME_BYTES} bytes)"
        )
    first = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    if not first.is_dir():
        raise LcnasError(f"{what}: {shorten_path(str(first))} is not a folder")
    if not os.access(first, os.W_OK | os.X_OK):
        raise LcnasError(f"{what}: {shorten_path(str(first))} is read-only")
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
    """Return the number of classes in an option's text."""
    if (
        not (text.isascii() and text.isdigit())
        or not 1 <= int(text[:9]) <= 1 << 20
        or len(text) > 9
    ):
        raise LcnasError(f"classes: {text!r} is not a whole number of 1 to {1 << 20}")
    return int(text)


def add_blocks_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --blocks."""
    parser.add_argument(
        "--blocks",
        metavar="FILE",
        action="append",
        default=[],
        help="Python file with additional blocks; repeatable",
    )


def unknown(text: str, names: tuple[str, ...]) -> LcnasError:
    """Return the error for an unknown name."""
    return LcnasError(not_among("network or space", text, names))
