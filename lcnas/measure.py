"""Command line: time whole networks on this machine, interleaved, with intervals and ratios.

python -m lcnas.measure pplcnet_0.5x mobilenet_v3_small runs/found/ their_model.onnx
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcnas import _cli, latency
from lcnas.arch import Arch
from lcnas.errors import LcnasError
from lcnas.latency import Engine, Measurement, Plan, timing
from lcnas.latency.commandline import add_engine_options, engine_of
from lcnas.latency.models import Source
from lcnas.latency.table import LatencyTable, write_text

PROG = "lcnas.measure"
VERSION = 1  # of the file that --json writes


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = _cli.Parser(
        PROG,
        "Time whole networks on this machine. All are visited in turn, many times, in random order, each in\n"
        "several fresh sessions, so that the ratios hold on a noisy machine. Run nothing else meanwhile.",
    )
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="zoo names, arch .json files, .onnx files of anybody's, or folders of such files",
    )
    add_engine_options(parser)
    parser.add_argument(
        "--resolution", metavar="R", help="pixels, a side or HEIGHTxWIDTH (default: its own)"
    )
    parser.add_argument(
        "--classes", metavar="N", default="1000", help="outputs of networks of ours"
    )
    parser.add_argument("--sessions", type=int, default=3, help="fresh loads of each network")
    parser.add_argument("--rounds", type=int, default=8, help="visits in each session")
    parser.add_argument("--seed", type=int, default=0, help="of the order of visits")
    parser.add_argument("--json", metavar="FILE", help="also write everything to this file")
    args = parser.parse_args(argv)
    if args.sessions < 1 or args.rounds < 1 or args.seed < 0:
        parser.error("--sessions and --rounds are at least 1, --seed at least 0")
    if args.json and (Path(args.json).is_dir() or not Path(args.json).name):
        parser.error(f"--json: {args.json} is a folder, not a file")
    engine = engine_of(args)
    size = None if args.resolution is None else _cli.resolution(args.resolution)
    sources = find(args.networks, size)
    plan = Plan(sessions=args.sessions, rounds=args.rounds, most_rounds=args.rounds, visit_ms=8.0)
    visits = latency.visits_of(
        sources, engine, classes=_cli.classes(args.classes), plan=plan, seed=args.seed
    )
    found = timing.estimates(visits)
    measured = {name: found[name] for name in sources}
    ratios = ratios_to_first(visits, list(sources), args.seed)
    print(report(engine, measured, ratios))
    if args.json:
        data = to_data(engine, sources, measured, ratios, plan, args.seed)
        write_text(Path(args.json), json.dumps(data, indent=1) + "\n")
        print(f"written: {args.json}")
    return 0


def find(names: Sequence[str], resolution: Any = None) -> dict[str, Source]:
    """Return the networks of zoo names, files and folders, each under a name of its own."""
    out: dict[str, Source] = {}
    for text in names:
        for name, source in _sources(text):
            made = (
                source.at(resolution)
                if isinstance(source, Arch) and resolution is not None
                else source
            )
            if name in out:
                raise LcnasError(f"network: {name} is named twice")
            out[name] = made
    return out


def _sources(text: str) -> list[tuple[str, Source]]:
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".json", ".onnx"))
        if not files:
            raise LcnasError(f"network: the folder {text} has no .json and no .onnx file")
        return [pair for file in files for pair in _sources(str(file))]
    if path.suffix == ".onnx":
        if not path.is_file():
            raise LcnasError(f"network: there is no file {text}")
        return [(path.stem, path)]
    return [(path.stem if text.endswith(".json") else text, _cli.network(text))]


Ratio = tuple[float, float, float]  # ratio, and its 90 % interval


def ratios_to_first(
    visits: Sequence[timing.Visit], names: Sequence[str], seed: int = 0
) -> dict[str, Ratio]:
    """Return each network's latency over the first one's, with a 90 % interval by bootstrap."""
    groups: dict[Any, dict[int, list[float]]] = {}
    for v in timing.steadied(visits):
        groups.setdefault(v.key, {}).setdefault(v.session, []).append(v.ms)
    rng = np.random.default_rng(seed)
    draws = {
        name: timing.bootstrap([np.array(g) for g in groups[name].values()], rng) for name in names
    }
    middle = {name: np.median([x for g in groups[name].values() for x in g]) for name in names}
    out = {}
    for name in names:
        ratio = float(middle[name] / middle[names[0]])
        low, high = np.quantile(draws[name] / draws[names[0]], [0.05, 0.95])
        alone = name == names[0]
        out[name] = (
            (1.0, 1.0, 1.0) if alone else (ratio, min(float(low), ratio), max(float(high), ratio))
        )
    return out


def report(engine: Engine, measured: Mapping[str, Measurement], ratios: Mapping[str, Ratio]) -> str:
    """Return the table that is printed."""
    lines = [LatencyTable(latency.this_machine(), engine).whose, ""]
    width = max(7, *(len(name) for name in measured))
    lines.append(
        f"{'network':<{width}}  {'ms':>8}  {'90 % interval':>17}  {'ratio':>6}  {'90 % interval':>15}"
    )
    for name, m in measured.items():
        ratio, low, high = ratios[name]
        spread = f"{m.low:.3f} - {m.high:.3f}"
        around = f"{low:.3f} - {high:.3f}" if (low, high) != (1.0, 1.0) else ""
        lines.append(
            f"{name:<{width}}  {m.ms:>8.3f}  {spread:>17}  {ratio:>6.3f}  {around:>15}".rstrip()
        )
    return "\n".join(lines)


def to_data(
    engine: Engine,
    sources: Mapping[str, Source],
    measured: Mapping[str, Measurement],
    ratios: Mapping[str, Ratio],
    plan: Plan,
    seed: int,
) -> dict[str, Any]:
    """Return everything as plain data, so that it can be carried to another machine."""
    return {
        "format": "lcnas-measurements",
        "version": VERSION,
        "machine": dataclasses.asdict(latency.this_machine()),
        "engine": dataclasses.asdict(engine),
        "plan": dataclasses.asdict(plan),
        "seed": seed,
        "networks": [
            {
                "name": name,
                "id": source.id if isinstance(source, Arch) else None,
                **dataclasses.asdict(measured[name]),
                "ratio_to_first": list(ratios[name]),
            }
            for name, source in sources.items()
        ],
    }


if __name__ == "__main__":
    _cli.run(PROG, main)
