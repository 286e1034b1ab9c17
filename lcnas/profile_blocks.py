"""Command line: build a latency table for this machine, block by block, and print its error.

python -m lcnas.profile_blocks
python -m lcnas.profile_blocks --space lcnet_next --threads 2
python -m lcnas.profile_blocks --blocks-from mobilenet_v3_small my_network.json
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from lcnas import blocks, commandline, outputs, renamed, spaces
from lcnas.latency.commandline import add_engine_options, engine_of
from lcnas.latency.fitting import MIN_NETWORKS
from lcnas.latency.profile import Builder, ProfileSettings, ProfileStep
from lcnas.latency.table import LatencyTable

PROG = "lcnas.profile_blocks"
MAX_NETWORKS = 10_000
MAX_SECONDS = 1e6
MIN_ESTIMATE = 10  # held-out networks, below which their error is no estimate
MIN_INTERVAL = 19  # networks, of which the outermost bound an interval of 90 %


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    blocks.load_files(args.blocks)
    builder = _builder(args)
    started = time.monotonic()
    try:
        with ProfileProgress() as progress:
            builder.on_progress = progress
            path = builder.run()
    except KeyboardInterrupt:
        print("stopped; all measurements are kept: the same command resumes", file=sys.stderr)
        return 130
    table = LatencyTable.load(path)
    text = f"{summary(table, builder.settings)}\n\nwritten: {path}   ({time.monotonic() - started:.0f} s)"
    commandline.show_result(args, text, lambda: to_data(table))
    return 0


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Build a latency table for this machine: measure every distinct placed block of a space, then whole\n"
        "networks, fit one to the other, and print the error on networks that were used for nothing else.\n"
        "You can stop it at any moment (Ctrl-C, a kill): the same command resumes it. Run nothing else\n"
        "meanwhile.",
    )
    parser.add_argument(
        "--space",
        action="append",
        metavar="NAME",
        help="space to measure, by name or .toml file; may be repeated (default: pplcnet_tail)",
    )
    parser.add_argument(
        "--blocks-from",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help="further networks to measure the blocks of: names of published networks, or arch .json files",
    )
    add_engine_options(parser)
    parser.add_argument("--classes", metavar="N", default="1000", help="outputs of the last layer")
    parser.add_argument(
        "--resolution",
        metavar="R",
        help="resolution in pixels, a side or HEIGHTxWIDTH (default: the space's own)",
    )
    _add_amount_options(parser)
    parser.add_argument(
        "--out", default="latency_tables", metavar="FOLDER", help="output folder of the table"
    )
    commandline.add_blocks_option(parser)
    return parser


def _add_amount_options(parser: commandline.Parser) -> None:
    """Add the options for the amount of measurements."""
    parser.add_argument(
        "--validate",
        type=commandline.integer(0, MAX_NETWORKS),
        default=40,
        metavar="N",
        help="held-out networks per space",
    )
    parser.add_argument(
        "--calibrate",
        type=commandline.integer(0, MAX_NETWORKS),
        default=240,
        metavar="N",
        help="maximum networks to fit per space",
    )
    parser.add_argument(
        "--time-budget",
        type=commandline.number(0, MAX_SECONDS),
        default=270.0,
        metavar="S",
        help="time after which no more networks to fit are begun, seconds",
    )
    parser.add_argument(
        "--seed",
        type=commandline.integer(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="seed of draws and of the order of visits",
    )


def _builder(args: Any) -> Builder:
    folder = commandline.check_folder(args.out, "out")
    size = None if args.resolution is None else commandline.resolution(args.resolution)
    names = list(dict.fromkeys(args.space or []))
    names = names or ([] if args.blocks_from else ["pplcnet_tail"])
    archs = [commandline.network(name) for name in args.blocks_from]
    settings = ProfileSettings(
        spaces=tuple(spaces.load(name, size) for name in names),
        archs=tuple(arch if size is None else arch.at(size) for arch in archs),
        classes=commandline.classes(args.classes),
        validate=args.validate,
        calibrate=args.calibrate,
        time_budget=args.time_budget,
        seed=args.seed,
    )
    return Builder(settings, engine_of(args), folder)


class ProfileProgress:
    """A progress bar with the time left, or simple lines where the output is no terminal."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = outputs.console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("visits"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
        )
        self._print_line: Callable[[str], None] | None = (
            None if console.is_terminal else console.print
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._print_line is None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._print_line is None:
            self._bar.stop()

    def __call__(self, step: ProfileStep) -> None:
        if step.title not in self._tasks:
            self._tasks[step.title] = self._bar.add_task(step.title, total=step.total)
            if self._print_line is not None:
                self._print_line(f"{step.title} ({step.total} visits)")
        self._bar.update(self._tasks[step.title], completed=step.done, total=step.total)


def to_data(table: LatencyTable) -> dict[str, Any]:
    """Return what a table is of, its size and its errors, as JSON data; the rest stands in its file."""
    return {
        "table": table.source,
        "machine": dataclasses.asdict(table.machine),
        "engine": dataclasses.asdict(table.engine),
        "entries": len(table.entries),
        "networks": len(table.networks),
        "errors": table.errors,
    }


def summary(table: LatencyTable, settings: ProfileSettings | None = None) -> str:
    """Return the summary of a table: its machine, its size and its errors.

    Args:
        table: the table.
        settings: the settings of its last profile, whose small spaces are noted; None: no notes.
    """
    size = f"{len(table.entries)} entries, {len(table.networks)} whole networks"
    lines = [table.machine_label, size]
    if not table.errors:
        return "\n".join([*lines, "not validated: no network was held out (see --validate)"])
    if table.method.get("fit") == "sum":
        lines.append(
            f"nothing is fitted, which takes {MIN_NETWORKS} networks: the blocks are summed"
        )
    title = "error on networks used for nothing else"
    lines += ["", f"{title:<52} {'n':>4} {'MAPE':>6} {'<5 %':>5} {'<10 %':>5} {'tau':>6}"]
    for space, errors in table.errors.items():
        lines.append(f"{space}:")
        for role, where in _ROLE_LABELS.items():
            lines += _error_lines(errors.get(role, {}), where)
        for role, e in errors.items():
            bands = [
                f"{b['from_ms']:.2f}-{b['to_ms']:.2f} ms {b['mape']:.1%}"
                for b in e.get("bands", ())
            ]
            lines.append(f"  by latency, {_ROLE_LABELS[role]}: {', '.join(bands)}")
        lines += [_interval_line(table, role, e) for role, e in errors.items()]
    return "\n".join(lines + _notes_on_size(table, settings))


def _interval_line(table: LatencyTable, role: str, e: Mapping[str, Any]) -> str:
    n = len(table.residuals)
    if n < MIN_INTERVAL:
        return (
            f"  no 90 % intervals, which take {MIN_INTERVAL} networks: this table's reach as far as the "
            f"errors of {n}"
        )
    return f"  90 % intervals hold {e['coverage_90']:.0%} of {e['fit']['n']} networks, {_ROLE_LABELS[role]}"


def _notes_on_size(table: LatencyTable, settings: ProfileSettings | None) -> list[str]:
    """Return notes on spaces so small that an error over their networks means little."""
    lines = []
    for space in settings.spaces if settings else ():
        placed = set(space.placed_blocks(settings.classes if settings else 1000))
        measured = sum(
            n.space == space.name and placed.issuperset(n.placed) for n in table.networks
        )
        if space.size > measured:
            continue
        networks = "the only network" if space.size == 1 else f"all {space.size} networks"
        lines.append(f"{space.name}: {networks} of the space measured; there are no more")
    if any(
        e["fit"]["n"] < MIN_ESTIMATE for errors in table.errors.values() for e in errors.values()
    ):
        lines.append(f"an error over fewer than {MIN_ESTIMATE} networks is a hint, not an estimate")
    return lines


_ROLE_LABELS = {"held_out": "in latency bands", "uniform": "uniform over the space"}
_METHOD_LABELS = {
    "fit": "this table",
    "noise_floor": "a second measurement",
    "sum": "sum of the blocks alone",
}


def _error_lines(errors: Mapping[str, Any], where: str) -> list[str]:
    out = []
    for key, label in _METHOD_LABELS.items():
        e = errors.get(key)
        if e is not None:
            tau = f"{e['tau']:.3f}" if e["n"] > 2 else "-"  # of two, one is before the other
            numbers = f"{e['mape']:>6.1%} {e['within_5']:>5.0%} {e['within_10']:>5.0%} {tau:>6}"
            out.append(f"{f'  {label}, {where}':<52} {e['n']:>4} {numbers}")
    return out


__getattr__ = renamed.in_module(__name__, {"Progress": "ProfileProgress"})

if __name__ == "__main__":
    commandline.run(PROG, main)
