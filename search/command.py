"""The console script ``lcnas``: one command with a subcommand for each ``python -m`` command.

Python does not look for modules in the user's folder when it runs a console script, so a ``search.py``
there, which hides this package from ``python -m search.run``, changes nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import lcnas
from lcnas import commandline
from lcnas.errors import LcnasError, not_among

# Subcommand -> its module and what it does.
COMMANDS = {
    "search": ("search.run", "search a space for networks within a latency budget"),
    "profile": ("lcnas.profile_blocks", "build the latency table of this machine"),
    "measure": ("lcnas.measure", "measure the latency of networks on this machine"),
    "train": ("lcnas.train", "train a network and export it"),
    "classify": ("lcnas.classify", "classify images with an ONNX file"),
    "evaluate": ("lcnas.evaluate", "accuracy of ONNX files on a data set, side by side"),
    "show": ("lcnas.show", "print networks and spaces"),
    "report": ("search.report", "write the report of a finished search again"),
}
COMPLETION = "completion"
SHELLS = ("bash", "zsh", "fish")
PROG = "lcnas"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand and exit with its code: 0, 2 for bad arguments, 1 for failures."""
    args = list(sys.argv[1:] if argv is None else argv)
    commandline.spell({module: f"{PROG} {name}" for name, (module, _) in COMMANDS.items()})
    if args and args[0] in COMMANDS:
        name = COMMANDS[args[0]][0]
        commandline.run(name, _main_of(name), args[1:])
    commandline.spell({PROG: PROG})
    commandline.run(PROG, _top_level, args)


def _main_of(name: str) -> Any:
    """Return the function of a command's module that runs it."""
    module = importlib.import_module(name)
    return getattr(module, "main_alone", module.main)


def _top_level(args: list[str]) -> int:
    first = args[0] if args else ""
    if first in ("", "-h", "--help"):
        print(help_text())
        return 0
    if first == "--version":
        print(lcnas.__version__)
        return 0
    if first == COMPLETION:
        print(completion(args[1:]))
        return 0
    words = (*COMMANDS, COMPLETION, "--help", "--version")
    print(f"{PROG}: {not_among('command', first, words)}", file=sys.stderr)
    return commandline.BAD_ARGUMENT


def help_text() -> str:
    """Return the help of the command."""
    lines = [
        f"usage: {PROG} COMMAND [OPTIONS]",
        "",
        "Neural architecture search for vision networks that run on a CPU under a latency budget.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        f"  {COMPLETION:<12}completion script of a shell: {', '.join(SHELLS)}",
        "",
        "options:",
        "  -h, --help  this help; after a command: that command's",
        "  --version   version of lcnas",
        "",
        f"{PROG} COMMAND is python -m MODULE, without a search.py in your folder in the way.",
    ]
    return "\n".join(lines)


def completion(args: Sequence[str]) -> str:
    """Return the completion script of a shell.

    Raises:
        LcnasError: no shell is named, or another one.
    """
    import shtab

    if len(args) != 1 or args[0] not in SHELLS:
        raise LcnasError(not_among("completion: shell", args[0] if args else "", SHELLS))
    return shtab.complete(parser(), args[0])


def parser() -> Any:
    """Return one parser with all commands, for completion."""
    import argparse

    top = argparse.ArgumentParser(PROG)
    top.add_argument("--version", action="store_true")
    sub = top.add_subparsers(dest="command")
    for name, (module, text) in COMMANDS.items():
        own = importlib.import_module(module).make_parser()
        sub.add_parser(name, help=text, parents=[own], add_help=False)
    sub.add_parser(COMPLETION).add_argument("shell", choices=SHELLS)
    return top


if __name__ == "__main__":
    main()
