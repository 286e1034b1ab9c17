"""Command line: time whole networks on this machine, interleaved, with intervals and ratios.

python -m lcnas.measure pplcnet_0.5x mobilenet_v3_small runs/found/ their_model.onnx
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcnas import _cli, _terminal, blocks, latency, onnx_export
from lcnas.arch import Arch, check_resolution, height_width
from lcnas.errors import LcnasError, OnnxError, TableError, listing, shorten, shorten_path
from lcnas.latency import Engine, Measurement, Plan, engines, timing
from lcnas.latency.commandline import add_engine_options, engine_of
from lcnas.latency.models import OnnxFile, Source, onnx_bytes
from lcnas.latency.table import LatencyTable, destination, write_text

PROG = "lcnas.measure"
VERSION = 2  # of the file that --json writes; 1 had no noise floor
RUNS = 2  # complete measurements, the second against the first being the noise floor
LONGEST = 200  # bytes of a file name, so that the one beside it fits as well
Ratio = tuple[float, float, float]  # ratio, and its 90 % interval


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = _cli.Parser(
        PROG,
        "Time whole networks on this machine. All are visited in turn, many times, in random order, each in\n"
        "several fresh sessions, so that the ratios hold on a noisy machine; and all of it is done twice:\n"
        "what the second measurement differs from the first is the noise floor. Run nothing else meanwhile.",
    )
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="zoo names, arch .json files, .onnx files of anybody's, or folders of such files",
    )
    add_engine_options(parser)
    parser.add_argument(
        "--resolution",
        metavar="R",
        help="pixels, a side or HEIGHTxWIDTH; of ONNX files where they leave it open (default: its own)",
    )
    parser.add_argument(
        "--classes", metavar="N", default="1000", help="outputs of networks of ours"
    )
    _add_plan_options(parser)
    parser.add_argument(
        "--seed",
        type=_cli.integer(0, 2**32 - 1),
        metavar="N",
        default=0,
        help="of the order of visits",
    )
    parser.add_argument("--json", metavar="FILE", help="also write everything to this file")
    _cli.add_blocks_option(parser)
    args = parser.parse_args(argv)
    blocks.load_files(args.blocks)
    target = None if args.json is None else _target(args.json)
    engine = engine_of(args)
    size = None if args.resolution is None else _cli.resolution(args.resolution)
    classes = _cli.classes(args.classes)
    sources = find(args.networks, size)
    plan = _plan(args)
    if size is not None:
        _tell_of_files(sources)
    _tell_of_inputs(sources, engine)
    _tell_of_overflows(sources, engine, classes)
    visits = [
        seen
        for run in range(RUNS)
        for seen in latency.visits_of(
            sources,
            engine,
            classes=classes,
            plan=plan,
            seed=args.seed + run,
            run=run,
            time_budget=args.time_budget / RUNS,
        )
    ]
    made = Result(engine, sources, plan, args.seed, visits)
    print(report(made, _terminal.columns()))
    if target is not None:
        write_text(target, json.dumps(to_data(made), indent=1) + "\n")
        print(f"written: {args.json}")
    return 0


def _tell_of_files(sources: Mapping[str, Source]) -> None:
    """Say which networks --resolution does not change."""
    files = [
        shorten_path(str(source.path))
        for source in sources.values()
        if isinstance(source, OnnxFile) and not onnx_export.takes_any_size(source.path)
    ]
    if files:
        text = f"resolution: an ONNX file keeps its own; not changed: {listing(files)}"
        print(f"python -m {PROG}: {text}", file=sys.stderr)


def _tell_of_inputs(sources: Mapping[str, Source], engine: Engine) -> None:
    """Say which files were trained at another resolution than they take, or tested in another precision."""
    for source in sources.values():
        file = OnnxFile(source) if isinstance(source, Path) else source
        if not isinstance(file, OnnxFile):
            continue
        for warning in (
            onnx_export.resolution_warning(file.path, file.size),
            onnx_export.precision_warning(file.path, engine.precision),
        ):
            if warning is not None:
                print(f"python -m {PROG}: {warning}", file=sys.stderr)


def _tell_of_overflows(sources: Mapping[str, Source], engine: Engine, classes: int) -> None:
    """Say which int8 files give wrong answers on this processor; their latency is right all the same."""
    for source in sources.values():
        if not isinstance(source, Path | OnnxFile):
            continue
        path = source.path if isinstance(source, OnnxFile) else source
        with contextlib.suppress(OnnxError):  # no ONNX model: the engine says so
            text = onnx_export.int8_warning(onnx_bytes(source, engine, classes), engine.isa)
            if text is not None:
                print(f"python -m {PROG}: {shorten_path(str(path))}: {text}", file=sys.stderr)


def _add_plan_options(parser: _cli.Parser) -> None:
    """Add the options that say how thoroughly to measure."""
    parser.add_argument(
        "--sessions",
        type=_cli.integer(1, 1000),
        metavar="N",
        default=2,
        help="fresh loads of each network, in each of the two measurements",
    )
    parser.add_argument(
        "--rounds",
        type=_cli.integer(1, 10_000),
        metavar="N",
        default=8,
        help="visits in each session, at least",
    )
    parser.add_argument(
        "--most-rounds",
        type=_cli.integer(1, 10_000),
        metavar="N",
        help="visits in each session, at most, where the target is missed (default: twice --rounds)",
    )
    parser.add_argument(
        "--target",
        type=_cli.number(0, 100),
        metavar="PERCENT",
        default=1.0,
        help="half-width of a session's 90 %% interval at which its visits end",
    )
    parser.add_argument(
        "--time-budget",
        type=_cli.number(0, 1e6),
        metavar="S",
        default=math.inf,
        help="seconds after which no visit is begun, once every network was visited in both",
    )


def _plan(args: argparse.Namespace) -> Plan:
    most = 2 * args.rounds if args.most_rounds is None else args.most_rounds
    if most < args.rounds:
        raise LcnasError(f"most-rounds: {most} is below rounds, {args.rounds}")
    return Plan(
        sessions=args.sessions,
        rounds=args.rounds,
        most_rounds=most,
        target=args.target / 100,
        visit_ms=8.0,
    )


def _target(text: str) -> Path:
    """Return the file to write, or refuse it before anything is measured."""
    path = Path(text)
    if not path.name or len(path.name.encode(errors="replace")) > LONGEST:
        raise LcnasError(
            f"json: {shorten(text)} is not the name of a file of 1 to {LONGEST} characters"
        )
    _cli.check_folder(str(path.parent), "json")
    try:
        target = destination(path)
    except TableError as error:
        raise LcnasError(f"json: {error}") from None
    _cli.check_folder(str(target.parent), "json")  # that of a link's end
    return path


@dataclass(frozen=True)
class Result:
    """What was measured, twice, and how."""

    engine: Engine
    sources: Mapping[str, Source]
    plan: Plan
    seed: int
    visits: Sequence[timing.Visit]  # of both measurements

    @functools.cached_property
    def measured(self) -> Mapping[Any, Measurement]:
        """The latency of each network, by the visits of both measurements."""
        return timing.estimates(self.visits)

    @functools.cached_property
    def apart(self) -> tuple[Mapping[Any, Measurement], ...]:
        """The latency of each network by each measurement alone."""
        runs = [[v for v in self.visits if v.run == run] for run in range(RUNS)]
        return tuple(timing.estimates(visits) for visits in runs)

    @functools.cached_property
    def ratios(self) -> Mapping[str, Ratio]:
        """Each network's ratio to the first."""
        return ratios_to_first(self.visits, list(self.sources), self.seed)

    @property
    def off(self) -> list[float]:
        """How far the second measurement of each network is from the first, relative."""
        first, again = self.apart
        return [again[name].ms / first[name].ms - 1 for name in self.sources]


def find(names: Sequence[str], resolution: Any = None) -> dict[str, Source]:
    """Return the networks of zoo names, files and folders, each under a name of its own."""
    found: list[_Found] = []
    for text in names:
        if not text:
            raise LcnasError("network: '' names none; give a name of the zoo, a file or a folder")
        found += _sources(text)
    stems = collections.Counter(item.name for item in found)
    out: dict[str, Source] = {}
    for item in found:
        alone = item.path is None or stems[item.name] == 1
        name = item.name if alone else str(item.path)  # files of one stem go by their paths
        if name in out:
            raise LcnasError(f"network: {name} is named twice")
        source = item.source
        if isinstance(source, Arch) and resolution is not None:
            source = source.at(resolution)
        if isinstance(source, Path) and resolution is not None:
            source = OnnxFile(source, height_width(check_resolution(resolution, "--resolution")))
        out[name] = source
    return out


class _Found(NamedTuple):
    """A network as it was named."""

    name: str  # of the zoo, or a file's stem
    source: Source
    path: Path | None = None  # of a file


def _sources(text: str) -> list[_Found]:
    path = Path(text)
    if not _cli.is_file(text) and _is_folder(path):
        files = sorted(p for p in path.iterdir() if p.suffix in (".json", ".onnx"))
        if not files:
            raise LcnasError(
                f"network: the folder {shorten_path(text)} has no .json and no .onnx file"
            )
        return [found for file in files for found in _sources(str(file))]
    if path.suffix == ".onnx":
        if not _cli.is_file(text):
            raise LcnasError(f"network: there is no file {shorten_path(text)}")
        return [_Found(path.stem, path, path)]
    if path.suffix == ".json":
        return [_Found(path.stem, _cli.network(text), path)]
    return [_Found(text, _cli.network(text))]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def ratios_to_first(
    visits: Sequence[timing.Visit], names: Sequence[str], seed: int = 0
) -> dict[str, Ratio]:
    """Return each network's latency over the first one's, with a 90 % interval by bootstrap."""
    steady = timing.steadied(visits)
    groups = {name: timing.by_session(v for v in steady if v.key == name) for name in names}
    rng = np.random.default_rng(seed)
    draws = {name: timing.bootstrap(groups[name], rng) for name in names}
    middle = {name: np.median(np.concatenate(groups[name])) for name in names}
    out = {}
    for name in names:
        ratio = float(middle[name] / middle[names[0]])
        low, high = np.quantile(draws[name] / draws[names[0]], [0.05, 0.95])
        alone = name == names[0]
        out[name] = (
            (1.0, 1.0, 1.0) if alone else (ratio, min(float(low), ratio), max(float(high), ratio))
        )
    return out


def report(made: Result, columns: int | None = None) -> str:
    """Return the table that is printed; where there are few columns, a line a figure."""
    lines = [LatencyTable(engines.machine_of(made.engine.name), made.engine).whose, ""]
    lines += _rows(made, columns)
    off = np.abs(made.off)
    lines += [
        "",
        f"noise floor: measured again, {off.mean():.1%} off on average, {off.max():.1%} at most",
    ]
    return "\n".join(lines)


def _rows(made: Result, columns: int | None) -> list[str]:
    interval = "90 % interval"
    head = ("network", "ms", interval, "n", "ratio", interval)
    rows = []
    for name in made.sources:
        m, (ratio, low, high) = made.measured[name], made.ratios[name]
        around = f"{low:.3f} - {high:.3f}" if (low, high) != (1.0, 1.0) else ""
        figures = (f"{m.ms:.3f}", f"{m.low:.3f} - {m.high:.3f}", str(m.rounds), f"{ratio:.3f}")
        rows.append((name, *figures, around))
    width = max(7, *(len(name) for name in made.sources))
    if columns is not None and columns < min(width + _FIGURES, _terminal.NARROW):
        return _terminal.stacked(rows, columns, head)
    return [_row(width, row) for row in (head, *rows)]


def _row(width: int, cells: Sequence[str]) -> str:
    name, ms, interval, n, ratio, around = cells
    figures = f"{ms:>8}  {interval:>17}  {n:>4}  {ratio:>6}  {around:>15}"
    return f"{name:<{width}}  {figures}".rstrip()


_FIGURES = 60  # columns that they take in a row


def _id(source: Source) -> str | None:
    """Return the id of a network; of an ONNX file the one that it records, if it does."""
    if isinstance(source, Arch):
        return source.id
    if not isinstance(source, Path | OnnxFile):
        return None
    with contextlib.suppress(OnnxError):
        model = onnx_export.read(source.path if isinstance(source, OnnxFile) else source)
        return next((p.value for p in model.metadata_props if p.key == "lcnas.id"), None)
    return None


def to_data(made: Result) -> dict[str, Any]:
    """Return everything as plain data, so that it can be carried to another machine."""
    first, again = made.apart
    off = np.abs(made.off)
    return {
        "format": "lcnas-measurements",
        "version": VERSION,
        "machine": dataclasses.asdict(engines.machine_of(made.engine.name)),
        "engine": dataclasses.asdict(made.engine),
        "plan": dataclasses.asdict(made.plan),
        "seed": made.seed,
        "noise_floor": {"mean": float(off.mean()), "largest": float(off.max())},
        "networks": [
            {
                "name": name,
                "id": _id(source),
                # What --resolution closed where an ONNX file leaves it open.
                "size": source.size if isinstance(source, OnnxFile) else None,
                **dataclasses.asdict(made.measured[name]),
                "first_ms": first[name].ms,
                "again_ms": again[name].ms,
                "ratio_to_first": list(made.ratios[name]),
            }
            for name, source in made.sources.items()
        ],
    }


if __name__ == "__main__":
    _cli.run(PROG, main)
