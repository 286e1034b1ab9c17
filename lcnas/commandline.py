"""Shared parts of the command lines: parser, exit codes, one-line errors, types of options."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcnas import home, outputs, terminal, zoo
from lcnas.arch import Arch, Resolution
from lcnas.errors import (
    LcnasError,
    TableError,
    TrainingFailedError,
    WriteError,
    ZooError,
    nearest,
    not_among,
    shorten,
    shorten_path,
)

BAD_ARGUMENT = 2
STDOUT = "-"  # of --json: the standard output
FAILURE = 1
MAX_NAME_BYTES = 255  # of a file or folder name, on all common systems
MAX_PATH_LENGTH = 2048


class Parser(argparse.ArgumentParser):
    """An argument parser whose help shows defaults, and whose errors are one line.

    Args:
        prog: the command's module.
        description: what it does.
        is_json_file: whether the word behind --json is its file; None: if it ends in ``.json``.
    """

    def __init__(
        self, prog: str, description: str, is_json_file: Callable[[str], bool] | None = None
    ) -> None:
        super().__init__(
            prog=spelling(prog),
            description=description,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self._is_json_file = is_json_file or (lambda text: text.endswith(".json"))
        self._output = group = self.add_argument_group("output")
        group.add_argument(
            "-q",
            "--quiet",
            action="store_true",
            help="no messages and no progress, only the result",
        )
        group.add_argument(
            "--json",
            nargs="?",
            const=STDOUT,
            metavar="FILE",
            help="result as JSON, to stdout or to a .json file",
        )

    def parse_args(  # type: ignore[override]
        self, args: list[str], namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the arguments; the error of an unknown option names the nearest one."""
        parsed, unknown = self.parse_known_args(_separated(args, self._is_json_file), namespace)
        if unknown:
            options = [text for action in self._actions for text in action.option_strings]
            self.error(f"unknown argument {shorten(unknown[0])}{nearest(unknown[0], options)}")
        if parsed.json not in (None, STDOUT):
            _check_json_file(parsed.json)
        outputs.configure(quiet=parsed.quiet, json_to_stdout=parsed.json == STDOUT)
        return parsed

    def format_help(self) -> str:
        """Return the help: a short usage, and the options that all commands share at the end."""
        places = [action for action in self._actions if not action.option_strings]
        names = [f"{a.metavar or a.dest}{' ...' if a.nargs in ('*', '+') else ''}" for a in places]
        self.usage = " ".join([self.prog, "[OPTIONS]", *names])
        self._action_groups.sort(key=lambda group: group is self._output)
        return super().format_help()

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print the error and exit with code 2."""
        print(f"{self.prog}: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(BAD_ARGUMENT)


def _separated(args: Sequence[str], is_file: Callable[[str], bool]) -> list[str]:
    """Return arguments in which a --json without a file takes none: not the image or network that follows."""
    out = []
    for i, text in enumerate(args):
        following = args[i + 1] if i + 1 < len(args) else STDOUT
        takes_file = i + 1 < len(args) and (following == STDOUT or is_file(following))
        out.append(f"--json={STDOUT}" if text == "--json" and not takes_file else text)
    return out


def _check_json_file(text: str) -> None:
    """Refuse a file that cannot be written, before any work is done."""
    path = Path(text)
    if not path.name or len(path.name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise LcnasError(
            f"json: {shorten(text)} is not the name of a file of 1 to {MAX_NAME_BYTES} characters"
        )
    check_folder(str(path.parent), "json")
    try:
        target = outputs.destination(path)
    except TableError as error:
        raise LcnasError(f"json: {error}") from None
    check_folder(str(target.parent), "json")  # that of a link's end


def show_result(
    args: argparse.Namespace, text: str | Callable[[], None], data: Callable[[], Mapping[str, Any]]
) -> None:
    """Show a command's result: as text, and as JSON if --json is given.

    Args:
        args: parsed arguments.
        text: the text, or a function that prints it; JSON to stdout takes its place.
        data: function that returns the result as JSON data.
    """
    if args.json == STDOUT:
        print(json.dumps(data(), indent=1))
        return
    if callable(text):
        text()
    else:
        print(text)
    if args.json is not None:
        outputs.write_text(Path(args.json), json.dumps(data(), indent=1) + "\n")
        outputs.message(f"written: {args.json}")


_spellings: dict[str, str] = {}  # module -> how the user calls it, if not by python -m


def spell(commands: Mapping[str, str]) -> None:
    """Set how commands are called in help and messages, by module: as by the console script."""
    _spellings.update(commands)


def spelling(prog: str) -> str:
    """Return how the user calls the command of a module: "python -m lcnas.show" or "lcnas show"."""
    return _spellings.get(prog, f"python -m {prog}")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the description as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help  # without "(default: None)"
        return super()._get_help_string(action)


def run(prog: str, main: Callable[[list[str]], int], argv: list[str] | None = None) -> None:
    """Run a command and exit with its code: 0, 2 for bad arguments, 1 for failures.

    stdout and stderr accept any text in any encoding, and may be closed; see
    :func:`lcnas.terminal.prepare_streams`.
    """
    terminal.prepare_streams()
    try:
        home.ensure_user()
        code = _code(main, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except LcnasError as error:
        print(f"{spelling(prog)}: {error}", file=sys.stderr)
        failed = isinstance(error, WriteError | TrainingFailedError)
        code = FAILURE if failed else BAD_ARGUMENT
    except BrokenPipeError:  # of another pipe than stdout, whose errors are ignored
        code = 0
    except OSError as error:  # a full disk, or a name too long for the file system
        print(f"{spelling(prog)}: {error}", file=sys.stderr)
        code = BAD_ARGUMENT if error.errno == errno.ENAMETOOLONG else FAILURE
    except KeyboardInterrupt:
        print(f"{spelling(prog)}: stopped", file=sys.stderr)
        code = 130
    terminal.flush_stdout()
    raise SystemExit(code)


def _code(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Return the exit code of a command or of its parser, whose --help is not yet flushed."""
    try:
        return main(argv)
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
