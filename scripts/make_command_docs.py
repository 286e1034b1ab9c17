"""Writes docs/reference/commands.md, the help of every command; with --check only compares.

Exit code: 1 where --check finds docs/reference/commands.md out of date.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from lcnas import commandline
from lcnas.latency import engines
from search import command

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "reference" / "commands.md"
COLUMNS = 100
_HEAD = """# Commands

<!-- Made by scripts/make_command_docs.py; do not edit. -->

The console script `lcnas` has a subcommand for each `python -m` command; both are the same:

```sh
lcnas search --space pplcnet_tail --max-latency-ms 2
python -m search.run --space pplcnet_tail --max-latency-ms 2
```

Python looks for modules in your folder first when it runs `python -m`, so a file `search.py` there hides the package `search`
from the second form. The console script does not have that fault.

- Exit codes: 0, 2 for bad arguments, 1 for failures (a full disk, say), 130 after Ctrl-C.
- `--json` prints the result as one JSON document to stdout; messages then go to stderr. `--json FILE.json` writes it to a file beside
  the usual output. `--quiet` leaves out messages and progress. Both work alike in all commands.
- Errors are one line: the value, what is allowed, and the nearest right value.

Completion of commands and options:

```sh
lcnas completion bash > ~/.local/share/bash-completion/completions/lcnas
lcnas completion zsh > ~/.zfunc/_lcnas      # a folder of $fpath
lcnas completion fish > ~/.config/fish/completions/lcnas.fish
```
"""


def render() -> str:
    """Return the text of docs/reference/commands.md."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)  # the width of argparse's help
    try:
        return "\n".join(_lines())
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "```text"
    yield command.help_text()
    yield "```"
    commandline.spell({module: f"lcnas {name}" for name, (module, _) in command.COMMANDS.items()})
    for name, (module, _) in command.COMMANDS.items():
        yield f"\n## lcnas {name}\n"
        yield f"`python -m {module}`\n"
        yield "```text"
        yield _neutral(import_module(module).make_parser().format_help()).rstrip()
        yield "```"
    yield ""


def _neutral(text: str) -> str:
    """Return a help text as it is where the default engine is installed, on any machine."""
    return re.sub(rf"\(default:(\s+){engines.default()}\)", r"(default:\1openvino)", text)


def main(argv: list[str]) -> int:
    """Write docs/reference/commands.md, or compare it; return the exit code."""
    text = render()
    if "--check" in argv:
        return int(text != PATH.read_text(encoding="utf-8"))
    PATH.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
