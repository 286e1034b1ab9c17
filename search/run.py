"""Command line: search a space for networks within a latency budget; train, measure and export the best.

python -m search.run --space pplcnet_tail
python -m search.run --space pplcnet_tail --max-latency-ms 2 --data imagefolder:DIR --preset hour
python -m search.run --resume runs/NAME
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcnas import _cli
from lcnas.errors import LcnasError, TrainingFailedError, WriteError, shorten
from search.errors import SearchError, SearchFailedError
from search.folder import Folder, new_name
from search.settings import DEFAULT_EVALUATOR, EVALUATORS, PRESETS, SCORES, SEARCHERS, Settings

PROG = "search.run"
_SETTINGS = "setting_"  # what the settings' options begin with among the parsed arguments
_MOST = 10**7


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    given: dict[str, Any] = {
        key.removeprefix(_SETTINGS): value
        for key, value in vars(args).items()
        if key.startswith(_SETTINGS) and value is not None
    }
    if args.blocks:
        given["blocks"] = tuple(str(Path(name).resolve()) for name in args.blocks)
    given |= _places(given)
    folder, asked = _what(args, given)
    _cli.load_blocks(list(asked.blocks))
    from search import steps

    _tell_of_ray(args.address)
    if args.address is None and os.environ.get("JAX_PLATFORMS"):
        from lcnas.training import devices

        devices.check_platforms()  # workers would fail, network by network
    if args.dry_run:
        if folder.begun:  # whose resolution was decided
            asked = dataclasses.replace(asked, resolution=folder.settings().resolution)
        print(steps.dry_run(asked, args.address))
        return 0
    where = steps.Where(args.address, args.storage_path, args.until)
    steps.check_start(folder, asked, where)
    print(f"run: {folder.shown}", flush=True)
    try:
        with folder.held():
            try:
                steps.search(folder, asked, where)
            finally:
                folder.forget()
    except KeyboardInterrupt:
        kept = f"all that finished is kept, and {_again(folder)}"
        print(f"stopped; {kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise  # the reader has seen enough
    except (SearchFailedError, TrainingFailedError, WriteError, OSError) as failure:
        print(f"python -m {PROG}: {failure}", file=sys.stderr)
        print(_again(folder), file=sys.stderr)
        return _cli.FAILURE
    return 0


def _again(folder: Folder) -> str:
    """Return how to go on, in words."""
    if folder.begun:
        return f"python -m {PROG} --resume {folder.shown} goes on from there"
    return "the same command goes on from there"  # with the rows that are measured already


def _tell_of_ray(address: str | None) -> None:
    """Say that the environment names a cluster which the search does not use."""
    named = os.environ.get("RAY_ADDRESS")
    if named and address is None:
        print(
            f"RAY_ADDRESS: {shorten(named)} is not used, the search runs on this machine; "
            "--address auto would use it",
            file=sys.stderr,
        )


def _places(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what names files or folders, with their whole paths, so that a search resumes from anywhere."""
    from lcnas.training.data import anywhere

    made = {"data": anywhere(given["data"])} if "data" in given else {}
    for name in ("space", "table", "init"):
        path = Path(given.get(name) or "")
        if path.suffix and path.is_file():
            made[name] = str(path.resolve())
    return made


def _what(args: argparse.Namespace, given: dict[str, Any]) -> tuple[Folder, Settings]:
    """Return the folder, and what is asked for; refuses what does not fit together."""
    if args.resume is not None:
        if args.out is not None:
            raise SearchError("resume: goes on in its own folder; leave --out away")
        folder = Folder(Path(args.resume))
        asked = folder.asked()
        found = Settings(**{**asked.to_data(), **given}).differences(asked, frozenset(given))
        if found:
            raise SearchError(
                f"resume: {folder.shown} holds a search with other settings: {'; '.join(found)}"
            )
        return folder, asked
    asked = Settings(**given)
    out = Path(args.out) if args.out is not None else new_name(asked.space)
    if args.out is not None:
        _cli.check_folder(args.out, "out")
    folder = Folder(out)
    folder.check(asked)
    return folder, asked


# -- options ---------------------------------------------------------------------------------------


def _parser() -> _cli.Parser:
    parser = _cli.Parser(
        PROG,
        "Search a space for networks that are accurate within a latency budget on this machine's CPU. The\n"
        "best are measured as whole networks, trained from scratch beside PP-LCNet and the best published\n"
        "network of the same latency, and exported to ONNX, with a report. All of it goes into one folder;\n"
        "stop it at any moment (Ctrl-C, a kill): the same command with --out, or --resume, goes on.",
    )
    _add_space(parser)
    _add_learning(parser)
    _add_search(parser)
    _add_folder(parser)
    return parser


class _Options:
    """Adds options that set a field of the settings."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def __call__(self, name: str, words: str, **more: Any) -> None:
        dest = _SETTINGS + name.removeprefix("--").replace("-", "_")
        if "action" not in more:
            more.setdefault("metavar", "N")
        self._group.add_argument(name, dest=dest, default=None, help=words, **more)


def _add_space(parser: argparse.ArgumentParser) -> None:
    from lcnas.latency import engines

    add = _Options(parser, "space and latency")
    whole = _cli.whole(1, _MOST)
    add("--space", "name, or .toml file (default: pplcnet_tail)", metavar="NAME")
    add(
        "--resolution",
        "resolution that networks are timed, trained, tested and exported at, pixels: a side or HEIGHTxWIDTH "
        "(default: the space's own, or the images')",
        metavar="R",
        type=_resolution,
    )
    ms = _cli.number(1e-6, 1e6)
    add(
        "--max-latency-ms",
        "that a network may take, measured (default: PP-LCNet 1.0x's)",
        metavar="MS",
        type=ms,
    )
    add(
        "--min-latency-ms",
        "below which nothing is searched (default: PP-LCNet 0.25x's)",
        metavar="MS",
        type=ms,
    )
    add(
        "--engine",
        f"{', '.join(engines.names())} (default: {engines.default()})",
        metavar="E",
    )
    add("--threads", "that compute a network (default: 1)", type=whole)
    add(
        "--precision",
        f"{', '.join(engines.PRECISIONS)}: of latencies and of the delivered files (default: fp32)",
        metavar="P",
    )
    add("--batch", "pictures at once (default: 1)", type=whole)
    add(
        "--table",
        "latency table, by name or file (default: this machine's; what it lacks is measured first)",
        metavar="T",
    )
    add(
        "--remeasure",
        "measure finalists on this machine though the table is another's (--no-remeasure: never)",
        action=argparse.BooleanOptionalAction,
    )


def _by_preset(name: str) -> str:
    """Return what an option is where it is not given, by preset."""
    words = []
    for preset, values in PRESETS.items():
        value = values.get(name)
        if isinstance(value, Mapping):
            value = " / ".join(f"{kind} {n:,}" for kind, n in value.items())
        words.append(f"{preset} {'all' if value is None else value}")
    return f"(default: {'; '.join(words)})"


def _add_learning(parser: argparse.ArgumentParser) -> None:
    add = _Options(parser, "data and training")
    whole = _cli.whole(1, _MOST)
    caps = "; ".join(f"{name} {values['evaluator_pixels']}" for name, values in PRESETS.items())
    add(
        "--data",
        "synthetic, cifar10:DIR, imagefolder:DIR or npz:FILE (default: synthetic, a demonstration)",
        metavar="SET",
    )
    add(
        "--max-bad",
        "of the images that may be damaged; they are left out (default: 0.01)",
        metavar="SHARE",
        type=_cli.number(0, 1),
    )
    add(
        "--train-size",
        f"resolution that the evaluator looks at, pixels (default: that of the search, at most: {caps})",
        metavar="R",
        type=_resolution,
    )
    add(
        "--evaluator",
        f"{', '.join(EVALUATORS)}: how networks are compared in the search (default: {DEFAULT_EVALUATOR})",
        metavar="E",
    )
    add("--score", f"of the evaluator proxy: {', '.join(SCORES)}", metavar="S")
    add(
        "--pictures",
        f"training pictures in the search, at most {_by_preset('pictures')}",
        type=whole,
    )
    add("--epochs", f"of the evaluator's trainings {_by_preset('epochs')}", type=whole)
    add("--init", "weights of a PP-LCNet that the supernet starts from", metavar="FILE")
    add("--final-epochs", f"of finalists and baselines {_by_preset('final_epochs')}", type=whole)
    add(
        "--final-seeds",
        f"trainings of each, with seeds 0, 1, ... {_by_preset('final_seeds')}",
        type=whole,
    )
    add(
        "--final-pictures",
        f"training pictures of finalists and baselines, at most {_by_preset('final_pictures')}",
        type=whole,
    )
    add(
        "--baselines",
        "train PP-LCNet and the best published network beside finalists (default: yes)",
        action=argparse.BooleanOptionalAction,
    )
    add(
        "--permute-labels",
        "a control: labels dealt out at random, so that nothing better can be found",
        action="store_const",
        const=True,
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = _Options(parser, "search")
    whole = _cli.whole(1, _MOST)
    add("--searcher", f"{', '.join(SEARCHERS)} (default: nsga2)", metavar="S")
    add("--trials", f"networks to evaluate {_by_preset('trials')}", type=whole)
    add(
        "--time-budget",
        "seconds after which no more networks are proposed (default: no limit)",
        metavar="S",
        type=_cli.number(1, 1e9),
    )
    add(
        "--networks-per-trial",
        "networks that a worker is given at once (default: 1; of the evaluator supernet 8)",
        type=whole,
    )
    add(
        "--predictor",
        "whether a predictor of accuracy screens proposals (default: not for proxy or random search)",
        action=argparse.BooleanOptionalAction,
    )
    add(
        "--lag",
        "proposal i rests on the results of the first i - LAG (default: twice what is in work at once)",
        type=whole,
    )
    add(
        "--finalists",
        f"networks that are measured and trained {_by_preset('finalists')}",
        type=whole,
    )
    add(
        "--bands", f"latency bands, each with a winner of its own {_by_preset('bands')}", type=whole
    )
    add("--workers", "processes of one thread (default: one a core)", type=whole)
    add("--seed", "of all draws (default: 0)", type=_cli.whole(0, 2**31 - 1))
    add(
        "--preset",
        f"{', '.join(PRESETS)}: minutes or an hour on two cores, or a night (default: quick)",
        metavar="P",
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--out",
        metavar="FOLDER",
        help="of the run; the same command goes on in it (default: a new one in runs/)",
    )
    group.add_argument("--resume", metavar="FOLDER", help="go on with the settings of this run")
    group.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster, or auto (default: this machine)"
    )
    group.add_argument(
        "--storage-path",
        metavar="PLACE",
        help="where Ray Tune keeps its own files: a folder or URI that all nodes of a cluster reach",
    )
    group.add_argument(
        "--until",
        choices=("search",),
        help="end after the search itself; --resume goes on with the finalists",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, how many networks, and about how long; do nothing",
    )
    _cli.add_blocks_option(parser)


def _resolution(text: str) -> Any:
    try:
        return _cli.resolution(text)
    except LcnasError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None


if __name__ == "__main__":
    _cli.run(PROG, main)
