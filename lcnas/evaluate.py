"""Command line: accuracy of ONNX classifiers on labelled images, side by side.

python -m lcnas.evaluate network.onnx --data imagefolder:DIR
python -m lcnas.evaluate fp32.onnx int8.onnx --data cifar10:DIR --engine openvino
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas import commandline, onnx_export
from lcnas.arch import check_resolution, height_width
from lcnas.errors import LcnasError, shorten_path
from lcnas.latency import engines

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from lcnas.training.deployed import Hits

PROG = "lcnas.evaluate"
LEVEL = 0.95  # of intervals
SPLITS = ("test", "validation", "train")
_DEFAULT_SIZE = (224, 224)  # (height, width) in pixels where a file leaves them open


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, with its confidence interval."""

    value: float
    low: float
    high: float


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = make_parser().parse_args(argv)
    from lcnas.training import deployed
    from lcnas.training.data import load

    files = short_names(args.models)
    engine = engines.engine(args.engine, threads=args.threads, precision=args.precision)
    size = None if args.size is None else _parse_size(args.size)
    # Images are read from their originals, so none is kept in memory; synthetic ones have the input's size.
    generated_size = (
        _input_size(files, size) if args.data.partition(":")[0] == "synthetic" else None
    )
    options: dict[str, Any] = {
        "seed": args.seed,
        "max_bad": args.max_bad,
        "size": generated_size,
        "memory_mb": 0,
    }
    with load(args.data, **options) as data:
        split = getattr(data, args.split)
        results = deployed.hits(files, data, split, engine=engine, size=size or _DEFAULT_SIZE)
        for name, path in files.items():
            _print_warnings(path, results[name].engine)
        commandline.show_result(
            args,
            lambda: print_table(args, results, data),
            lambda: to_data(args, results, data),
        )
    return 0


def _print_warnings(path: Path, engine: engines.Engine) -> None:
    """Print why a file's accuracy here may differ from the reported one."""
    for text in (
        onnx_export.int8_warning(path, engine.isa),
        onnx_export.resolution_warning(path),
        onnx_export.precision_warning(path, engine.precision),
    ):
        if text is not None:
            print(f"{commandline.spelling(PROG)}: {text}", file=sys.stderr)


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Evaluate ONNX classifiers on labelled images. Each image is read from its file, preprocessed as\n"
        "the ONNX file records (default: as for ImageNet), and run by the engine. Files may be of any\n"
        "origin, in fp32 or int8; several are compared on the same images.",
    )
    parser.add_argument("models", metavar="MODEL.onnx", nargs="+", help="ONNX classifiers")
    parser.add_argument(
        "--data",
        metavar="SET",
        required=True,
        help="data set: imagefolder:DIR, cifar10:DIR, npz:FILE or synthetic[:...]",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="split of the data set")
    parser.add_argument(
        "--seed",
        type=commandline.integer(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="seed of the splits",
    )
    names = ", ".join(engines.names())
    parser.add_argument(
        "--engine", metavar="E", default=engines.default(), help=f"inference engine: {names}"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="precision of files that are not quantised; int8 files run in int8",
    )
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="number of threads")
    parser.add_argument(
        "--size",
        metavar="R",
        help="height and width of the input if a file leaves them open, pixels, a side or HEIGHTxWIDTH "
        "(default: 224)",
    )
    parser.add_argument(
        "--max-bad",
        type=commandline.number(0, 1),
        default=0.01,
        metavar="S",
        help="maximum share of damaged images, 0 to 1",
    )
    return parser


def short_names(paths: Sequence[str]) -> dict[str, Path]:
    """Return unique name -> path: a name is the path without the folders that all paths share.

    >>> list(short_names(["runs/a/network.onnx", "runs/b/network.onnx"]))
    ['a/network.onnx', 'b/network.onnx']
    """
    if len(set(paths)) < len(paths):
        duplicate = next(path for path in paths if paths.count(path) > 1)
        raise LcnasError(f"models: {shorten_path(duplicate)} is given twice")
    path_parts = [Path(path).parts for path in paths]
    shared = 0
    while len(paths) > 1 and len({parts[: shared + 1] for parts in path_parts}) == 1:
        shared += 1
    if len(paths) == 1:
        shared = len(path_parts[0]) - 1
    return {
        str(Path(*parts[shared:])): Path(path)
        for parts, path in zip(path_parts, paths, strict=True)
    }


def _parse_size(text: str) -> tuple[int, int]:
    return height_width(check_resolution(commandline.resolution(text), "--size"))


def _input_size(files: Mapping[str, Path], size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (height, width) of the first file's input, pixels."""
    first = onnx_export.read(next(iter(files.values())))
    height, width = onnx_export.interface(first).size
    default = size or _DEFAULT_SIZE
    return height or default[0], width or default[1]


# -- intervals -------------------------------------------------------------------------------------


def _z() -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + LEVEL) / 2))


def accuracy_interval(hits: NDArray[np.bool_]) -> Interval:
    """Return an accuracy with its 95 % interval (Wilson's score, J. Am. Stat. Assoc. 22, 1927)."""
    n, p, z = len(hits), float(hits.mean()), _z()
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = max(0.0, centre - half) if p > 0 else 0.0  # exactly 0 and 1, without rounding errors
    return Interval(p, low, min(1.0, centre + half) if p < 1 else 1.0)


def difference_interval(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """Return the accuracy of the first minus that of the second on the same images, with its 95 % interval.

    Wald's interval for paired shares with half an image added to each cell of the table (Agresti and Min,
    Stat. Med. 24, 2005), so that the interval has a width even if two files agree on all images.
    """
    n = len(first) + 2.0
    only_first = float((first & ~second).sum()) + 0.5
    only_second = float((second & ~first).sum()) + 0.5
    d = (only_first - only_second) / n
    half = _z() * math.sqrt((only_first + only_second) / n - d * d) / math.sqrt(n)
    value = float(first.mean() - second.mean())
    return Interval(value, max(-1.0, d - half), min(1.0, d + half))


# -- output ----------------------------------------------------------------------------------------


def print_table(args: argparse.Namespace, results: Mapping[str, Hits], data: Data) -> None:
    """Print a table of the accuracies, and the difference of each other file to the first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first = next(iter(results.values()))
    print(
        f"{data.spec}, {args.split}: {first.images:,} images, {data.classes} classes; "
        f"intervals of {LEVEL:.0%} over images"
    )
    table = Table("file", "top-1 %", "", "top-5 %", "run by", box=None, padding=(0, 1, 0, 0))
    for i in (1, 3):
        table.columns[i].justify = "right"
    for name, hits in results.items():
        top1 = accuracy_interval(hits.correct)
        table.add_row(
            Text(name, overflow="fold"),
            f"{top1.value:.2%}"[:-1],
            f"({100 * top1.low:.2f}-{100 * top1.high:.2f})",
            f"{hits.top5:.2%}"[:-1],
            f"{hits.engine.name} {hits.engine.precision}",
        )
    Console(soft_wrap=False, highlight=False).print(table)
    for name, text in _differences(results).items():
        print(f"{name} against {next(iter(results))}: {text}")
    if data.skipped:
        print(f"{len(data.skipped)} damaged images are left out", file=sys.stderr)


def _differences(results: Mapping[str, Hits]) -> dict[str, str]:
    names = list(results)
    texts = {}
    for name in names[1:]:
        d = difference_interval(results[name].correct, results[names[0]].correct)
        texts[name] = f"{100 * d.value:+.2f} points ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
    return texts


def to_data(args: argparse.Namespace, results: Mapping[str, Hits], data: Data) -> dict[str, Any]:
    """Return all results as JSON data."""
    names = list(results)
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
                "top1": dataclasses.asdict(accuracy_interval(hits.correct)),
                "top5": hits.top5,
                "engine": dataclasses.asdict(hits.engine),
                "difference": None
                if name == names[0]
                else dataclasses.asdict(
                    difference_interval(hits.correct, results[names[0]].correct)
                ),
            }
            for name, hits in results.items()
        ],
    }


if __name__ == "__main__":
    commandline.run(PROG, main)
