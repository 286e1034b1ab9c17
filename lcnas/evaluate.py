"""Command line: how accurate ONNX classifiers are on labelled images, side by side.

python -m lcnas.evaluate network.onnx --data imagefolder:DIR
python -m lcnas.evaluate fp32.onnx int8.onnx --data cifar10:DIR --engine openvino
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas import _cli, onnx_export
from lcnas.arch import check_resolution, height_width
from lcnas.errors import LcnasError
from lcnas.latency import engines

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from lcnas.training.deployed import Hits

PROG = "lcnas.evaluate"
LEVEL = 0.95  # of intervals
SPLITS = ("test", "validation", "train")
_OPEN = (224, 224)  # pixels, where a file leaves its size open and none is given


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, with its interval."""

    value: float
    low: float
    high: float


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    from lcnas.training import deployed
    from lcnas.training.data import load

    files = named(args.models)
    engine = engines.engine(args.engine, threads=args.threads, precision=args.precision)
    size = None if args.size is None else _size(args.size)
    # Images come from their originals, so none is kept; synthetic ones are made as large as they are seen.
    made_at = _input(files, size) if args.data.partition(":")[0] == "synthetic" else None
    options: dict[str, Any] = {
        "seed": args.seed,
        "max_bad": args.max_bad,
        "size": made_at,
        "memory_mb": 0,
    }
    with load(args.data, **options) as data:
        split = getattr(data, args.split)
        found = deployed.hits(files, data, split, engine=engine, size=size or _OPEN)
        for name, path in files.items():
            _warn(path, found[name].engine)
        if args.json:
            print(json.dumps(to_data(args, found, data), indent=1))
        else:
            show(args, found, data)
    return 0


def _warn(path: Path, engine: engines.Engine) -> None:
    """Say what makes a file's accuracy here another than where it was made."""
    for text in (
        onnx_export.int8_warning(path, engine.isa),
        onnx_export.resolution_warning(path),
        onnx_export.precision_warning(path, engine.precision),
    ):
        if text is not None:
            print(f"python -m {PROG}: {text}", file=sys.stderr)


def _parser() -> _cli.Parser:
    parser = _cli.Parser(
        PROG,
        "Accuracy of ONNX classifiers on labelled images: each image is read from its file, prepared as the\n"
        "ONNX file records (ImageNet's way where it does not), and run by the engine. Files of any kind,\n"
        "fp32 or int8; several are compared on the same images.",
    )
    parser.add_argument("models", metavar="MODEL.onnx", nargs="+", help="classifiers")
    parser.add_argument(
        "--data",
        metavar="SET",
        required=True,
        help="imagefolder:DIR, cifar10:DIR, npz:FILE or synthetic[:...]",
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="images that count, of the set's splits"
    )
    parser.add_argument(
        "--seed", type=_cli.whole(0, 2**31 - 1), default=0, metavar="N", help="seed of the splits"
    )
    names = ", ".join(engines.names())
    parser.add_argument("--engine", metavar="E", default=engines.default(), help=names)
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="precision of files that are not quantised; int8 files run in int8",
    )
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="threads that compute")
    parser.add_argument(
        "--size",
        metavar="R",
        help="input of files that leave it open, pixels: a side or HEIGHTxWIDTH (default: 224)",
    )
    parser.add_argument(
        "--max-bad",
        type=_cli.number(0, 1),
        default=0.01,
        metavar="S",
        help="share of images that may be damaged",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    return parser


def named(paths: Sequence[str]) -> dict[str, Path]:
    """Return files by names that tell them apart: what their paths do not share.

    >>> list(named(["runs/a/network.onnx", "runs/b/network.onnx"]))
    ['a/network.onnx', 'b/network.onnx']
    """
    if len(set(paths)) < len(paths):
        again = next(path for path in paths if paths.count(path) > 1)
        raise LcnasError(f"models: {_cli.cut(again)} is given twice")
    parts = [Path(path).parts for path in paths]
    shared = 0
    while len(paths) > 1 and len({part[: shared + 1] for part in parts}) == 1:
        shared += 1
    if len(paths) == 1:
        shared = len(parts[0]) - 1
    return {str(Path(*part[shared:])): Path(path) for part, path in zip(parts, paths, strict=True)}


def _size(text: str) -> tuple[int, int]:
    return height_width(check_resolution(_cli.resolution(text), "--size"))


def _input(files: Mapping[str, Path], size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the pixels of the first file's input."""
    first = onnx_export.read(next(iter(files.values())))
    height, width = onnx_export.interface(first).size
    given = size or _OPEN
    return height or given[0], width or given[1]


# -- intervals -------------------------------------------------------------------------------------


def _z() -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + LEVEL) / 2))


def share(right: NDArray[np.bool_]) -> Interval:
    """Return an accuracy with its 95 % interval (Wilson's score, J. Am. Stat. Assoc. 22, 1927)."""
    n, p, z = len(right), float(right.mean()), _z()
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = (
        max(0.0, middle - half) if p > 0 else 0.0
    )  # 0 and 1 themselves, whatever rounding makes of them
    return Interval(p, low, min(1.0, middle + half) if p < 1 else 1.0)


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """Return by how much the first is more accurate on the same images, with its 95 % interval.

    Wald's interval of paired shares with half an image added to each cell of the table (Agresti and Min,
    Stat. Med. 24, 2005), so that files which agree on all images have no interval of width 0.
    """
    n = len(first) + 2.0
    only_first = float((first & ~second).sum()) + 0.5
    only_second = float((second & ~first).sum()) + 0.5
    d = (only_first - only_second) / n
    half = _z() * math.sqrt((only_first + only_second) / n - d * d) / math.sqrt(n)
    value = float(first.mean() - second.mean())
    return Interval(value, max(-1.0, d - half), min(1.0, d + half))


# -- what is printed -------------------------------------------------------------------------------


def show(args: argparse.Namespace, found: Mapping[str, Hits], data: Data) -> None:
    """Print a table of the accuracies, and how the others differ from the first file."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first = next(iter(found.values()))
    print(
        f"{data.spec}, {args.split}: {first.images:,} images, {data.classes} classes; "
        f"intervals of {LEVEL:.0%} over images"
    )
    table = Table("file", "top-1 %", "", "top-5 %", "run by", box=None, padding=(0, 1, 0, 0))
    for i in (1, 3):
        table.columns[i].justify = "right"
    for name, hits in found.items():
        top1 = share(hits.correct)
        table.add_row(
            Text(name, overflow="fold"),
            f"{top1.value:.2%}"[:-1],
            f"({100 * top1.low:.2f}-{100 * top1.high:.2f})",
            f"{hits.top5:.2%}"[:-1],
            f"{hits.engine.name} {hits.engine.precision}",
        )
    Console(soft_wrap=False, highlight=False).print(table)
    for name, text in _against(found).items():
        print(f"{name} against {next(iter(found))}: {text}")
    if data.skipped:
        print(f"{len(data.skipped)} damaged images are left out", file=sys.stderr)


def _against(found: Mapping[str, Hits]) -> dict[str, str]:
    names = list(found)
    out = {}
    for name in names[1:]:
        d = difference(found[name].correct, found[names[0]].correct)
        out[name] = f"{100 * d.value:+.2f} points ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
    return out


def to_data(args: argparse.Namespace, found: Mapping[str, Hits], data: Data) -> dict[str, Any]:
    """Return everything as plain data."""
    names = list(found)
    return {
        "data": data.spec,
        "split": args.split,
        "classes": data.classes,
        "skipped": data.skipped,
        "files": [
            {
                "file": name,
                "images": hits.images,
                "right": int(hits.correct.sum()),
                "top1": dataclasses.asdict(share(hits.correct)),
                "top5": hits.top5,
                "engine": dataclasses.asdict(hits.engine),
                "difference": None
                if name == names[0]
                else dataclasses.asdict(difference(hits.correct, found[names[0]].correct)),
            }
            for name, hits in found.items()
        ],
    }


if __name__ == "__main__":
    _cli.run(PROG, main)
