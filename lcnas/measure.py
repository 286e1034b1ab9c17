"""Command line: measure whole networks on this machine, interleaved, with intervals and ratios.

python -m lcnas.measure pplcnet_0.5x mobilenet_v3_small runs/found/ their_model.onnx
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcnas import blocks, commandline, latency, onnx_export, renamed, terminal, zoo
from lcnas.arch import Arch, check_resolution, height_width
from lcnas.errors import LcnasError, OnnxError, listing, shorten_path
from lcnas.latency import Engine, Measurement, TimingPlan, engines, timing
from lcnas.latency.commandline import add_engine_options, engine_of
from lcnas.latency.sources import OnnxFile, Source, onnx_bytes
from lcnas.latency.table import LatencyTable

PROG = "lcnas.measure"
VERSION = 2  # of the file that --json writes; 1 had no noise floor
RUNS = 2  # complete measurements; the second against the first is the noise floor
MAX_NAME_BYTES = 200  # of a file name, so that the temporary file beside it fits as well
Ratio = tuple[float, float, float]  # ratio, and its 90 % interval


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    blocks.load_files(args.blocks)
    engine = engine_of(args)
    size = None if args.resolution is None else commandline.resolution(args.resolution)
    classes = commandline.classes(args.classes)
    sources = find(args.networks, size)
    plan = _plan(args)
    if size is not None:
        _warn_of_fixed_resolutions(sources)
    _warn_of_other_tests(sources, engine)
    _warn_of_overflows(sources, engine, classes)
    visits = [
        visit
        for run in range(RUNS)
        for visit in latency.visits_of(
            sources,
            engine,
            classes=classes,
            plan=plan,
            seed=args.seed + run,
            run=run,
            time_budget=args.time_budget / RUNS,
        )
    ]
    measurements = NetworkMeasurements(engine, sources, plan, args.seed, visits)
    commandline.show_result(
        args, report(measurements, terminal.columns()), lambda: to_data(measurements)
    )
    return 0


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Measure the latency of whole networks on this machine. The networks are visited in turn, many\n"
        "times, in random order, each in several fresh sessions, so that their ratios hold on a noisy\n"
        "machine. Everything is measured twice: the difference between the two is the noise floor. Run\n"
        "nothing else meanwhile.",
        is_json_file=_is_json_file,
    )
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="names of published networks, arch .json files, any .onnx files, or folders of such files",
    )
    add_engine_options(parser)
    parser.add_argument(
        "--resolution",
        metavar="R",
        help="resolution in pixels, a side or HEIGHTxWIDTH; of an ONNX file only where it leaves it open "
        "(default: the network's own)",
    )
    parser.add_argument(
        "--classes",
        metavar="N",
        default="1000",
        help="outputs of the last layer; an ONNX file keeps its own",
    )
    _add_plan_options(parser)
    parser.add_argument(
        "--seed",
        type=commandline.integer(0, 2**32 - 1),
        metavar="N",
        default=0,
        help="seed of the order of visits",
    )
    commandline.add_blocks_option(parser)
    return parser


def _warn_of_fixed_resolutions(sources: Mapping[str, Source]) -> None:
    """Print which networks --resolution does not change."""
    files = [
        shorten_path(str(source.path))
        for source in sources.values()
        if isinstance(source, OnnxFile) and not onnx_export.takes_any_size(source.path)
    ]
    if files:
        message = f"resolution: an ONNX file keeps its own; not changed: {listing(files)}"
        print(f"{commandline.spelling(PROG)}: {message}", file=sys.stderr)


def _warn_of_other_tests(sources: Mapping[str, Source], engine: Engine) -> None:
    """Print which files were trained at another resolution than they take, or tested in another precision."""
    for source in sources.values():
        file = OnnxFile(source) if isinstance(source, Path) else source
        if not isinstance(file, OnnxFile):
            continue
        for warning in (
            onnx_export.resolution_warning(file.path, file.size),
            onnx_export.precision_warning(file.path, engine.precision),
        ):
            if warning is not None:
                print(f"{commandline.spelling(PROG)}: {warning}", file=sys.stderr)


def _warn_of_overflows(sources: Mapping[str, Source], engine: Engine, classes: int) -> None:
    """Print which int8 files give wrong outputs on this processor; their latency is right all the same."""
    for source in sources.values():
        if not isinstance(source, Path | OnnxFile):
            continue
        path = source.path if isinstance(source, OnnxFile) else source
        with contextlib.suppress(OnnxError):  # no ONNX model: the engine reports it
            warning = onnx_export.int8_warning(onnx_bytes(source, engine, classes), engine.isa)
            if warning is not None:
                print(
                    f"{commandline.spelling(PROG)}: {shorten_path(str(path))}: {warning}",
                    file=sys.stderr,
                )


def _is_json_file(text: str) -> bool:
    """Return whether the word behind --json is its file, which may have any name, and not a network."""
    return not (text.startswith("--") or text.endswith(".onnx") or text in zoo.names())


def _add_plan_options(parser: commandline.Parser) -> None:
    """Add the options of the :class:`TimingPlan`."""
    parser.add_argument(
        "--sessions",
        type=commandline.integer(1, 1000),
        metavar="N",
        default=2,
        help="fresh sessions of each network, in each of the two measurements",
    )
    parser.add_argument(
        "--rounds",
        type=commandline.integer(1, 10_000),
        metavar="N",
        default=8,
        help="minimum visits in each session",
    )
    parser.add_argument(
        "--most-rounds",
        type=commandline.integer(1, 10_000),
        metavar="N",
        help="maximum visits in each session, where the target is missed (default: twice --rounds)",
    )
    parser.add_argument(
        "--target",
        type=commandline.number(0, 100),
        metavar="PERCENT",
        default=1.0,
        help="half-width of a session's 90 %% interval at which its visits end, percent",
    )
    parser.add_argument(
        "--time-budget",
        type=commandline.number(0, 1e6),
        metavar="S",
        default=math.inf,
        help="time after which no visit begins, once every network was visited in both measurements, seconds",
    )


def _plan(args: argparse.Namespace) -> TimingPlan:
    most_rounds = 2 * args.rounds if args.most_rounds is None else args.most_rounds
    if most_rounds < args.rounds:
        raise LcnasError(f"most-rounds: {most_rounds} is below rounds, {args.rounds}")
    return TimingPlan(
        sessions=args.sessions,
        rounds=args.rounds,
        most_rounds=most_rounds,
        target=args.target / 100,
        visit_ms=8.0,
    )


@dataclass(frozen=True)
class NetworkMeasurements:
    """Two complete measurements of several networks, and their settings."""

    engine: Engine
    sources: Mapping[str, Source]
    plan: TimingPlan
    seed: int
    visits: Sequence[timing.Visit]  # of both measurements

    @functools.cached_property
    def measured(self) -> Mapping[Any, Measurement]:
        """The latency of each network, from the visits of both measurements."""
        return timing.estimates(self.visits)

    @functools.cached_property
    def by_run(self) -> tuple[Mapping[Any, Measurement], ...]:
        """The latency of each network, from each measurement alone."""
        runs = [[v for v in self.visits if v.run == run] for run in range(RUNS)]
        return tuple(timing.estimates(visits) for visits in runs)

    @functools.cached_property
    def ratios(self) -> Mapping[str, Ratio]:
        """Each network's ratio to the first network."""
        return ratios_to_first(self.visits, list(self.sources), self.seed)

    @property
    def repeat_errors(self) -> list[float]:
        """The relative difference of each network's second measurement from its first."""
        first, again = self.by_run
        return [again[name].ms / first[name].ms - 1 for name in self.sources]


def find(names: Sequence[str], resolution: Any = None) -> dict[str, Source]:
    """Return the networks of zoo names, files and folders, by unique names.

    Args:
        names: as the command takes them.
        resolution: resolution of networks, and of ONNX files where they leave it open; None: their own.
    """
    named: list[_NamedSource] = []
    for text in names:
        if not text:
            raise LcnasError("network: '' names none; give a name of the zoo, a file or a folder")
        named += _sources(text)
    stems = collections.Counter(item.name for item in named)
    out: dict[str, Source] = {}
    for item in named:
        is_unique = item.path is None or stems[item.name] == 1
        name = item.name if is_unique else str(item.path)  # paths tell files of one stem apart
        if name in out:
            raise LcnasError(f"network: {name} is named twice")
        source = item.source
        if isinstance(source, Arch) and resolution is not None:
            source = source.at(resolution)
        if isinstance(source, Path) and resolution is not None:
            source = OnnxFile(source, height_width(check_resolution(resolution, "--resolution")))
        out[name] = source
    return out


class _NamedSource(NamedTuple):
    """A network, and its name in the command."""

    name: str  # name in the zoo, or a file's stem
    source: Source
    path: Path | None = None  # None: a name of the zoo


def _sources(text: str) -> list[_NamedSource]:
    path = Path(text)
    if not commandline.is_file(text) and _is_folder(path):
        files = sorted(p for p in path.iterdir() if p.suffix in (".json", ".onnx"))
        if not files:
            raise LcnasError(
                f"network: the folder {shorten_path(text)} has no .json and no .onnx file"
            )
        return [named for file in files for named in _sources(str(file))]
    if path.suffix == ".onnx":
        if not commandline.is_file(text):
            raise LcnasError(f"network: there is no file {shorten_path(text)}")
        return [_NamedSource(path.stem, path, path)]
    if path.suffix == ".json":
        return [_NamedSource(path.stem, commandline.network(text), path)]
    return [_NamedSource(text, commandline.network(text))]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def ratios_to_first(
    visits: Sequence[timing.Visit], names: Sequence[str], seed: int = 0
) -> dict[str, Ratio]:
    """Return each network's latency over the first one's, with a 90 % interval by bootstrap."""
    corrected = timing.drift_corrected(visits)
    groups = {name: timing.by_session(v for v in corrected if v.key == name) for name in names}
    rng = np.random.default_rng(seed)
    draws = {name: timing.bootstrap(groups[name], rng) for name in names}
    medians = {name: np.median(np.concatenate(groups[name])) for name in names}
    out = {}
    for name in names:
        ratio = float(medians[name] / medians[names[0]])
        low, high = np.quantile(draws[name] / draws[names[0]], [0.05, 0.95])
        is_first = name == names[0]
        out[name] = (
            (1.0, 1.0, 1.0)
            if is_first
            else (ratio, min(float(low), ratio), max(float(high), ratio))
        )
    return out


def report(measurements: NetworkMeasurements, columns: int | None = None) -> str:
    """Return the table to print; in a narrow terminal one line per value.

    Args:
        measurements: the measurements.
        columns: width of the terminal; None: unlimited.
    """
    engine = measurements.engine
    lines = [LatencyTable(engines.machine_of(engine.name), engine).machine_label, ""]
    lines += _rows(measurements, columns)
    errors = np.abs(measurements.repeat_errors)
    lines += [
        "",
        f"noise floor: measured again, {errors.mean():.1%} off on average, {errors.max():.1%} at most",
    ]
    return "\n".join(lines)


def _rows(measurements: NetworkMeasurements, columns: int | None) -> list[str]:
    interval = "90 % interval"
    head = ("network", "ms", interval, "n", "ratio", interval)
    rows = []
    for name in measurements.sources:
        m, (ratio, low, high) = measurements.measured[name], measurements.ratios[name]
        ratio_interval = f"{low:.3f} - {high:.3f}" if (low, high) != (1.0, 1.0) else ""
        values = (f"{m.ms:.3f}", f"{m.low:.3f} - {m.high:.3f}", str(m.rounds), f"{ratio:.3f}")
        rows.append((name, *values, ratio_interval))
    width = max(7, *(len(name) for name in measurements.sources))
    if columns is not None and columns < min(width + _VALUE_COLUMNS, terminal.NARROW):
        return terminal.stacked(rows, columns, head)
    return [_row(width, row) for row in (head, *rows)]


def _row(width: int, cells: Sequence[str]) -> str:
    name, ms, interval, n, ratio, ratio_interval = cells
    values = f"{ms:>8}  {interval:>17}  {n:>4}  {ratio:>6}  {ratio_interval:>15}"
    return f"{name:<{width}}  {values}".rstrip()


_VALUE_COLUMNS = 60  # width of the values of a row


def _id(source: Source) -> str | None:
    """Return the id of a network; of an ONNX file the id in its metadata, if there is one."""
    if isinstance(source, Arch):
        return source.id
    if not isinstance(source, Path | OnnxFile):
        return None
    with contextlib.suppress(OnnxError):
        model = onnx_export.read(source.path if isinstance(source, OnnxFile) else source)
        return next((p.value for p in model.metadata_props if p.key == "lcnas.id"), None)
    return None


def to_data(measurements: NetworkMeasurements) -> dict[str, Any]:
    """Return all measurements as JSON data, which another machine can read."""
    first, again = measurements.by_run
    errors = np.abs(measurements.repeat_errors)
    return {
        "format": "lcnas-measurements",
        "version": VERSION,
        "machine": dataclasses.asdict(engines.machine_of(measurements.engine.name)),
        "engine": dataclasses.asdict(measurements.engine),
        "plan": dataclasses.asdict(measurements.plan),
        "seed": measurements.seed,
        "noise_floor": {"mean": float(errors.mean()), "largest": float(errors.max())},
        "networks": [
            {
                "name": name,
                "id": _id(source),
                # The resolution that --resolution set where an ONNX file leaves it open.
                "size": source.size if isinstance(source, OnnxFile) else None,
                **dataclasses.asdict(measurements.measured[name]),
                "first_ms": first[name].ms,
                "again_ms": again[name].ms,
                "ratio_to_first": list(measurements.ratios[name]),
            }
            for name, source in measurements.sources.items()
        ],
    }


__getattr__ = renamed.in_module(__name__, {"Result": "NetworkMeasurements"})

if __name__ == "__main__":
    commandline.run(PROG, main)
