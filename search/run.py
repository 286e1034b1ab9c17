"""Command line: search a space for networks within a latency budget; train, measure and export the best.

python -m search.run --space pplcnet_tail
python -m search.run --space pplcnet_tail --max-latency-ms 2 --data imagefolder:DIR --preset hour
python -m search.run --resume runs/NAME
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcnas import blocks, commandline, outputs, renamed
from lcnas.errors import LcnasError, TrainingFailedError, WriteError, shorten
from search.console import Console
from search.errors import SearchError, SearchFailedError
from search.outcome import Outcome
from search.registry import EVALUATORS, SEARCHERS
from search.run_dir import RunDir, new_path
from search.settings import DEFAULT_EVALUATOR, PRESETS, SCORES, ExecutionOptions, Settings

PROG = "search.run"
_SETTINGS = "setting_"  # prefix of the settings' options among the parsed arguments
_MOST = 10**7


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = make_parser().parse_args(argv)
    options: dict[str, Any] = {
        key.removeprefix(_SETTINGS): value
        for key, value in vars(args).items()
        if key.startswith(_SETTINGS) and value is not None
    }
    if args.blocks:
        options["blocks"] = tuple(str(Path(name).resolve()) for name in args.blocks)
    options |= _absolute_paths(options)
    run_dir, asked = _run_dir_and_settings(args, options)
    blocks.load_files(list(asked.blocks))
    _warn_of_ray_address(args.address)
    if args.address is None and os.environ.get("JAX_PLATFORMS"):
        from lcnas.training import devices

        devices.check_platforms()  # workers would fail, network by network
    execution = ExecutionOptions(args.address, args.storage_path, args.until)
    if args.dry_run:
        plan = _dry_run(run_dir, asked, execution)
        commandline.show_result(args, plan, lambda: {"plan": plan.splitlines()})
        return 0
    return _search(args, run_dir, asked, execution)


def _dry_run(run_dir: RunDir, asked: Settings, execution: ExecutionOptions) -> str:
    from search import preflight

    if run_dir.begun:  # its resolution is decided
        asked = dataclasses.replace(asked, resolution=run_dir.settings().resolution)
    return preflight.dry_run(asked, execution.address)


def _search(
    args: argparse.Namespace, run_dir: RunDir, asked: Settings, execution: ExecutionOptions
) -> int:
    from search import preflight
    from search.pipeline import SearchPipeline

    preflight.check_start(run_dir, asked, execution)
    outputs.message(f"run: {run_dir.shown}")
    try:
        with run_dir.held():
            try:
                outcome = SearchPipeline(run_dir, asked, execution).run()
            finally:
                run_dir.forget()
    except KeyboardInterrupt:
        print(f"stopped; finished work is kept, and {_resume_hint(run_dir)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise  # the reader has seen enough
    except (SearchFailedError, TrainingFailedError, WriteError, OSError) as failure:
        print(f"{commandline.spelling(PROG)}: {failure}", file=sys.stderr)
        print(_resume_hint(run_dir), file=sys.stderr)
        return commandline.FAILURE
    commandline.show_result(
        args, lambda: _print_result(outcome, run_dir), lambda: _to_data(outcome, run_dir)
    )
    return 0


def _print_result(outcome: Outcome | None, run_dir: RunDir) -> None:
    """Print the table of the finalists, if the search has come so far."""
    if outcome is None:
        return
    from search import reporting

    Console().result(reporting.table(outcome, run_dir.shown))
    outputs.message(f"written: {run_dir.shown}/{', '.join(reporting.NAMES)}")


def _to_data(outcome: Outcome | None, run_dir: RunDir) -> dict[str, Any]:
    """Return the run directory and, once the search is finished, all of ``outcome.json``."""
    data = {} if outcome is None else json.loads(outcome.to_json())
    return {"run": str(run_dir.shown), **data}


def _resume_hint(run_dir: RunDir) -> str:
    """Return how to resume, as text."""
    if run_dir.begun:
        return f"{commandline.spelling(PROG)} --resume {run_dir.shown} resumes from there"
    return "the same command resumes from there"  # with the entries that are measured already


def _warn_of_ray_address(address: str | None) -> None:
    """Warn that the environment names a cluster which the search does not use."""
    named = os.environ.get("RAY_ADDRESS")
    if named and address is None:
        print(
            f"RAY_ADDRESS: {shorten(named)} is not used, the search runs on this machine; "
            "--address auto would use it",
            file=sys.stderr,
        )


def _absolute_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that name files or folders, with absolute paths, to resume from any folder."""
    from lcnas.training.data import anywhere

    absolute = {"data": anywhere(options["data"])} if "data" in options else {}
    for name in ("space", "table", "init"):
        path = Path(options.get(name) or "")
        if path.suffix and path.is_file():
            absolute[name] = str(path.resolve())
    for name in ("searcher", "evaluator"):
        file, _, attribute = str(options.get(name) or "").rpartition(":")
        if file.endswith(".py"):
            absolute[name] = f"{Path(file).resolve()}:{attribute}"
    return absolute


def _run_dir_and_settings(
    args: argparse.Namespace, options: dict[str, Any]
) -> tuple[RunDir, Settings]:
    """Return the run directory and the settings as asked for; refuses options that do not fit together."""
    if args.resume is not None:
        if args.out is not None:
            raise SearchError("--resume cannot be combined with --out")
        run_dir = RunDir(Path(args.resume))
        asked = run_dir.asked()
        changed = Settings(**{**asked.to_data(), **options})
        differences = changed.differences(asked, frozenset(options))
        if differences:
            raise SearchError(
                f"resume: {run_dir.shown} holds a search with other settings: {'; '.join(differences)}"
            )
        return run_dir, asked
    asked = Settings(**options)
    if args.out is not None:
        commandline.check_folder(args.out, "out")
    run_dir = RunDir(Path(args.out) if args.out is not None else new_path(asked.space))
    run_dir.check(asked)
    return run_dir, asked


# -- options ---------------------------------------------------------------------------------------


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Search a space for networks that are accurate within a latency budget on this machine's CPU. The\n"
        "best are measured as whole networks, trained from scratch together with PP-LCNet and the best\n"
        "published network of the same latency, and exported to ONNX, with a report. All files go into one\n"
        "run directory. Stop a search at any time (Ctrl-C, a kill): the same command with --out, or\n"
        "--resume, resumes it.",
    )
    _add_space(parser)
    _add_learning(parser)
    _add_search(parser)
    _add_folder(parser)
    for old, new in (("--pictures", "--images"), ("--final-pictures", "--final-images")):
        renamed.option(parser, old, new)
    return parser


class _SettingOptions:
    """Adds options that set a field of the settings."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def __call__(self, name: str, text: str, **more: Any) -> None:
        dest = _SETTINGS + name.removeprefix("--").replace("-", "_")
        if "action" not in more:
            more.setdefault("metavar", "N")
        self._group.add_argument(name, dest=dest, default=None, help=text, **more)


def _add_space(parser: argparse.ArgumentParser) -> None:
    from lcnas.latency import engines

    add = _SettingOptions(parser, "space and latency")
    count = commandline.integer(1, _MOST)
    add("--space", "name of a space, or .toml file (default: pplcnet_tail)", metavar="NAME")
    add(
        "--resolution",
        "resolution of measuring, training, testing and export, pixels: a side or HEIGHTxWIDTH "
        "(default: the space's own, or the images')",
        metavar="R",
        type=_resolution,
    )
    ms = commandline.number(1e-6, 1e6)
    add(
        "--max-latency-ms",
        "maximum measured latency, ms (default: that of PP-LCNet 1.0x)",
        metavar="MS",
        type=ms,
    )
    add(
        "--min-latency-ms",
        "minimum latency, ms (default: that of PP-LCNet 0.25x)",
        metavar="MS",
        type=ms,
    )
    add(
        "--engine",
        f"inference engine: {', '.join(engines.names())} (default: {engines.default()})",
        metavar="E",
    )
    add("--threads", "threads of a network when it is measured (default: 1)", type=count)
    add(
        "--precision",
        f"precision of latencies and delivered files: {', '.join(engines.PRECISIONS)} (default: fp32)",
        metavar="P",
    )
    add("--batch", "images per call (default: 1)", type=count)
    add(
        "--table",
        "latency table, name or file (default: this machine's; missing entries are measured first)",
        metavar="T",
    )
    add(
        "--remeasure",
        "measure finalists on this machine even with another machine's table (--no-remeasure: never)",
        action=argparse.BooleanOptionalAction,
    )


def _by_preset(name: str) -> str:
    """Return the default of an option for each preset, as text."""
    defaults = []
    for preset, values in PRESETS.items():
        value = values.get(name)
        if isinstance(value, Mapping):
            value = " / ".join(f"{kind} {n:,}" for kind, n in value.items())
        defaults.append(f"{preset} {'all' if value is None else value}")
    return f"(default: {'; '.join(defaults)})"


def _add_learning(parser: argparse.ArgumentParser) -> None:
    add = _SettingOptions(parser, "data and training")
    count = commandline.integer(1, _MOST)
    caps = "; ".join(f"{name} {values['evaluator_pixels']}" for name, values in PRESETS.items())
    add(
        "--data",
        "data set: synthetic, cifar10:DIR, imagefolder:DIR or npz:FILE (default: synthetic, a demonstration)",
        metavar="SET",
    )
    add(
        "--max-bad",
        "maximum share of damaged images, which are left out (default: 0.01)",
        metavar="SHARE",
        type=commandline.number(0, 1),
    )
    add(
        "--train-size",
        f"training size of the evaluator, pixels (default: that of the search, at most: {caps})",
        metavar="R",
        type=_resolution,
    )
    add(
        "--evaluator",
        f"evaluator of networks: {', '.join(EVALUATORS.names)}, or FILE.py:NAME "
        f"(default: {DEFAULT_EVALUATOR})",
        metavar="E",
    )
    add(
        "--score", f"score of the evaluator proxy: {', '.join(SCORES)} (default: swap)", metavar="S"
    )
    add(
        "--images",
        f"maximum training images of the search {_by_preset('images')}",
        type=count,
    )
    add("--epochs", f"epochs of the evaluator's trainings {_by_preset('epochs')}", type=count)
    add(
        "--init", "initial weights of the supernet, of a PP-LCNet (default: random)", metavar="FILE"
    )
    add(
        "--final-epochs",
        f"epochs of finalists and baselines {_by_preset('final_epochs')}",
        type=count,
    )
    add(
        "--final-seeds",
        f"trainings of each finalist and baseline, with seeds 0, 1, ... {_by_preset('final_seeds')}",
        type=count,
    )
    add(
        "--final-images",
        f"maximum training images of finalists and baselines {_by_preset('final_images')}",
        type=count,
    )
    add(
        "--baselines",
        "train PP-LCNet and the best published network as baselines (default: yes)",
        action=argparse.BooleanOptionalAction,
    )
    add(
        "--permute-labels",
        "control experiment with permuted labels: nothing better can be found",
        action="store_const",
        const=True,
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = _SettingOptions(parser, "search")
    count = commandline.integer(1, _MOST)
    add(
        "--searcher",
        f"search algorithm: {', '.join(SEARCHERS.names)}, or FILE.py:NAME (default: nsga2)",
        metavar="S",
    )
    add("--trials", f"number of networks to evaluate {_by_preset('trials')}", type=count)
    add(
        "--time-budget",
        "time limit of proposals, s (default: no limit)",
        metavar="S",
        type=commandline.number(1, 1e9),
    )
    add(
        "--networks-per-trial",
        "networks per call of a worker (default: 1; evaluator supernet: 8)",
        type=count,
    )
    add(
        "--predictor",
        "screen proposals by a predictor of accuracy (default: yes, but not for proxy or random search)",
        action=argparse.BooleanOptionalAction,
    )
    add(
        "--lag",
        "latest results that a proposal does not depend on (default: twice the networks in flight)",
        type=count,
    )
    add(
        "--finalists",
        f"number of finalists {_by_preset('finalists')}",
        type=count,
    )
    add("--bands", f"number of latency bands, each with a winner {_by_preset('bands')}", type=count)
    add("--workers", "number of worker processes of one thread (default: one per core)", type=count)
    add("--seed", "seed of all draws (default: 0)", type=commandline.integer(0, 2**31 - 1))
    add(
        "--preset",
        f"preset of all settings: {', '.join(PRESETS)}; minutes or an hour on two cores, or a night "
        "(default: quick)",
        metavar="P",
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--out",
        metavar="FOLDER",
        help="run directory; the same command resumes in it (default: a new one in runs/)",
    )
    group.add_argument(
        "--resume", metavar="FOLDER", help="run directory to resume, with its own settings"
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="address of a Ray cluster, or auto (default: this machine)",
    )
    group.add_argument(
        "--storage-path",
        metavar="PLACE",
        help="place of Ray Tune's own files: a folder or URI that all nodes of a cluster reach",
    )
    group.add_argument(
        "--until",
        choices=("search",),
        help="last step to execute; --resume continues with the finalists",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, the number of networks and an estimate of the time; do nothing",
    )
    commandline.add_blocks_option(parser)


def _resolution(text: str) -> Any:
    try:
        return commandline.resolution(text)
    except LcnasError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None


if __name__ == "__main__":
    commandline.run(PROG, main)
