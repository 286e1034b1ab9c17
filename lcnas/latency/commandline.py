"""The options by which commands choose an engine."""

from __future__ import annotations

import argparse

from lcnas.latency import engines
from lcnas.latency.engines import Engine


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add --engine, --threads, --precision and --batch."""
    parser.add_argument(
        "--engine",
        metavar="E",
        default=engines.default(),
        help=f"inference engine: {', '.join(engines.names())}",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", default=1, help="number of threads per network"
    )
    parser.add_argument(
        "--precision",
        metavar="P",
        default="fp32",
        help=f"numerical precision: {', '.join(engines.PRECISIONS)}",
    )
    parser.add_argument("--batch", type=int, metavar="N", default=1, help="images per run")


def engine_of(args: argparse.Namespace) -> Engine:
    """Return the engine of parsed arguments."""
    return engines.engine(
        args.engine, threads=args.threads, precision=args.precision, batch=args.batch
    )
