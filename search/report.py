"""Command line: write the report of a finished search again, optionally with latencies of another machine.

python -m search.report runs/NAME
python -m lcnas.measure runs/NAME/finals/*/seed-0/network.onnx --json there.json    (on the other machine)
python -m search.report runs/NAME --measurements there.json
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lcnas import commandline, outputs
from lcnas.errors import TrainingFailedError, shorten, shorten_path
from search.console import Console
from search.errors import SearchError

if TYPE_CHECKING:
    from search.outcome import Outcome

PROG = "search.report"


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = make_parser().parse_args(argv)
    from search import reporting
    from search.reporting import measurements

    folder = Path(args.folder)
    outcome, measured_on = load(folder), ""
    if args.measurements is not None:
        latencies = measurements.read(Path(args.measurements))
        outcome, measured_on = measurements.apply(outcome, latencies), latencies.machine
    try:
        paths = reporting.write(outcome, folder, measured_on=measured_on)
    except TrainingFailedError as failure:
        print(f"{commandline.spelling(PROG)}: {failure}", file=sys.stderr)
        return commandline.FAILURE

    def show() -> None:
        Console().result(reporting.table(outcome, folder))
        outputs.message(f"written: {args.folder}: {', '.join(path.name for path in paths)}")

    commandline.show_result(
        args, show, lambda: {"run": args.folder, **json.loads(outcome.to_json())}
    )
    return 0


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Write the report of a finished search again: report.md, report.html (one file, with its figures),\n"
        "front.json and front.png, in the run directory. Nothing is searched, trained or measured, and\n"
        "outcome.json does not change.",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="run directory of the search, such as runs/NAME"
    )
    parser.add_argument(
        "--measurements",
        metavar="FILE",
        help="latencies measured on another machine, by python -m lcnas.measure ... --json FILE there; they "
        "replace those of the search. Networks are identified by id, name or path of the ONNX file",
    )
    return parser


def load(folder: Path) -> Outcome:
    """Return the outcome of a run directory.

    Raises:
        SearchError: no such folder, no search in it, one that is not finished, or a damaged file.
    """
    from search.outcome import Outcome
    from search.run_dir import CONFIG, OUTCOME

    shown = shorten_path(str(folder))
    path = folder / OUTCOME
    if not commandline.is_file(str(path)):
        if not _is_folder(folder):
            raise SearchError(f"folder: {shown} is not a folder")
        if not (folder / CONFIG).is_file():
            raise SearchError(f"folder: {shown} holds no search (no {CONFIG}, no {OUTCOME})")
        raise SearchError(
            f"folder: the search in {shown} is not finished (no {OUTCOME}); "
            f"python -m search.run --resume {shlex.quote(str(folder))} resumes it"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(f"{path}: cannot be read: {shorten(str(error))}") from None
    return Outcome.from_json(text, str(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # an impossible name
        return False


if __name__ == "__main__":
    commandline.run(PROG, main)
