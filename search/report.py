"""Command line: make the report of a finished search again, with latencies measured elsewhere if given.

python -m search.report runs/NAME
python -m lcnas.measure runs/NAME/finals/*/seed-0/network.onnx --json there.json    (on the other machine)
python -m search.report runs/NAME --measurements there.json
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcnas import _cli
from lcnas.errors import TrainingFailedError, shorten, shorten_path
from search.errors import SearchError

if TYPE_CHECKING:
    from search.outcome import Outcome

PROG = "search.report"
OUTCOME = "outcome.json"


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    from search import reporting
    from search.reporting import measurements

    folder = Path(args.folder)
    outcome, whose = load(folder), ""
    if args.measurements is not None:
        found = measurements.read(Path(args.measurements))
        outcome, whose = measurements.apply(outcome, found), found.whose
    try:
        made = reporting.write(outcome, folder, measured_on=whose)
    except TrainingFailedError as failure:
        print(f"python -m {PROG}: {failure}", file=sys.stderr)
        return _cli.FAILURE
    from rich.console import Console

    Console(highlight=False).print(reporting.table(outcome, folder))
    print(f"written: {args.folder}: {', '.join(path.name for path in made)}")
    return 0


def _parser() -> _cli.Parser:
    parser = _cli.Parser(
        PROG,
        "Make the report of a finished search again: report.md, report.html (one file, figures inside),\n"
        "front.json and front.png, in the search's folder. Nothing is searched, trained or measured, and\n"
        "outcome.json stays as it is.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="of the search, such as runs/NAME")
    parser.add_argument(
        "--measurements",
        metavar="FILE",
        help="latencies measured on another machine, by python -m lcnas.measure ... --json FILE there: "
        "they take the place of those measured in the search. Networks are found by id, name or path of the "
        "ONNX file",
    )
    return parser


def load(folder: Path) -> Outcome:
    """Return the outcome of a search's folder.

    Raises:
        SearchError: no such folder, no search in it, one that is not finished, or a broken file.
    """
    from search.folder import CONFIG
    from search.outcome import Outcome

    shown = shorten_path(str(folder))
    path = folder / OUTCOME
    if not _cli.is_file(str(path)):
        if not _is_folder(folder):
            raise SearchError(f"folder: {shown} is no folder")
        if not (folder / CONFIG).is_file():
            raise SearchError(f"folder: {shown} holds no search (no {CONFIG}, no {OUTCOME})")
        raise SearchError(
            f"folder: the search in {shown} is not finished (no {OUTCOME}); "
            f"python -m search.run --resume {shlex.quote(str(folder))} goes on with it"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(f"{path}: cannot be read: {shorten(str(error))}") from None
    return Outcome.from_json(text, str(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False


if __name__ == "__main__":
    _cli.run(PROG, main)
