"""Command line: train a network, export it, and print its accuracy.

python -m lcnas.train --arch pplcnet_0.5x --data cifar10:DIR --recipe cifar10 --out runs/first
python -m lcnas.train --arch my_network.json --init weights.safetensors --freeze stem,stage1 ...
python -m lcnas.train --teacher teacher.onnx --distill js --distill-weight 0.9 ...
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcnas import blocks, commandline, cost, outputs
from lcnas.arch import Arch, height_width
from lcnas.errors import TrainingError, TrainingFailedError, shorten_path, spelt
from lcnas.latency.machine import pinned, usable_cores
from lcnas.training import interrupts, recipes
from lcnas.training.recipes import Recipe

if TYPE_CHECKING:
    from lcnas.training import TeacherFile
    from lcnas.training.data import Data
    from lcnas.training.run import Result

PROG = "lcnas.train"
_INTERVAL = 5.0  # seconds between two lines while images are read
_SETTINGS = "recipe_"  # prefix of the recipe's options among the parsed arguments


def main(argv: list[str], keep_memory: bool = False) -> int:
    """Run the command; returns the exit code.

    Args:
        argv: the arguments.
        keep_memory: whether the process is used for training only and may keep memory that it frees.
    """
    args = make_parser(argv).parse_args(argv)
    with interrupts.SignalListener() as listener:  # before JAX is imported
        try:
            return _run(args, keep_memory)
        except KeyboardInterrupt:
            if listener.received is None:
                raise
            print(
                f"{commandline.spelling(PROG)}: stopped; repeat the command to resume",
                file=sys.stderr,
            )
            return 128 + listener.received


def _run(args: argparse.Namespace, keep_memory: bool) -> int:
    blocks.load_files(args.blocks)
    if keep_memory:
        from lcnas.models import memory

        memory.keep_freed_memory()
    recipe = recipes.load(args.recipe, **_changes(args))
    arch = commandline.network(args.arch)
    arch = arch if recipe.resolution is None else arch.at(recipe.resolution)
    out = Path(args.out or f"runs/{arch.name or arch.id[:8]}-{recipe.name}-s{args.seed}")
    with _threads(args.threads):
        _compile_cache(args.cache)
        return _trained(args, arch, recipe, out)


def _trained(args: argparse.Namespace, arch: Arch, recipe: Recipe, out: Path) -> int:
    from lcnas import training
    from lcnas.training.functional import blocks_of

    # Arguments that need no images are checked before images are read.
    commandline.check_folder(str(out), "out")
    teacher = _teacher(args)
    freeze = [name.strip() for name in args.freeze.split(",") if name.strip()]
    blocks_of(arch, freeze)
    if args.coordinator:
        training.join(args.coordinator, args.hosts, args.host)
    elif args.hosts > 1 or args.host:
        raise TrainingError(
            "hosts: several hosts need --coordinator ADDRESS:PORT, that of the first"
        )
    devices = training.find_devices(args.devices)
    with _data(args, arch, recipe) as data:
        planned = plan(arch, recipe, data, out)
        outputs.message(planned)
        settings: dict[str, Any] = {
            "seed": args.seed,
            "init": args.init,
            "freeze": freeze,
            "teacher": teacher,
            "devices": devices,
        }
        if args.dry_run:
            training.check(arch, data, recipe, out, **settings)
            done = "all checks passed; nothing was trained or written"
            commandline.show_result(args, done, lambda: {"plan": planned.splitlines()})
            return 0
        limits = {"test": args.test, "keep": args.keep, "save_minutes": args.save_minutes}
        try:
            result = training.fit(arch, data, recipe, out, **settings, **limits)
        except training.Stopped as stop:
            print(f"{stop}; repeat the command to resume", file=sys.stderr)
            return 128 + stop.signal
        except TrainingFailedError as failure:
            print(f"{commandline.spelling(PROG)}: {failure}", file=sys.stderr)
            return commandline.FAILURE
    commandline.show_result(args, summary(result), lambda: {"run": str(out), **result.to_data()})
    return 0


def _data(args: argparse.Namespace, arch: Arch, recipe: Recipe) -> Data:
    from lcnas import training
    from lcnas.training.data import IMAGENET, MAX_BAD, MEMORY_MB

    augment = recipe.augment
    with interrupts.may_be_stopped():
        return training.load_data(
            args.data,
            size=_sides(arch, recipe),
            seed=args.data_seed,
            workers=args.workers,
            scale=augment.scale if augment.crop == "resized" else None,
            ratio=augment.ratio,
            normalization=IMAGENET if args.normalization == "imagenet" else None,
            unlabelled=args.unlabelled,
            memory_mb=MEMORY_MB if args.memory_mb is None else args.memory_mb,
            max_bad=MAX_BAD if args.max_bad is None else args.max_bad,
            progress=_ReadingProgress(),
        )


def _teacher(args: argparse.Namespace) -> TeacherFile | None:
    """Return the teacher's file with the options' preprocessing, or None without --teacher."""
    from lcnas.training import Normalization, TeacherFile

    options = {name: getattr(args, f"teacher_{name}") for name in ("mean", "std", "size")}
    first = next((name for name, value in options.items() if value is not None), None)
    if args.teacher is None:
        if first is not None:
            raise TrainingError(f"--teacher-{first} requires --teacher FILE")
        return None
    if (options["mean"] is None) != (options["std"] is None):
        raise TrainingError(f"--teacher-{first}: give both --teacher-mean and --teacher-std")
    normalization = None
    if options["mean"] is not None:
        mean, std = (_constants(options[name], f"--teacher-{name}") for name in ("mean", "std"))
        normalization = Normalization(mean, std)
    size = None if options["size"] is None else commandline.resolution(options["size"])
    if not commandline.is_file(args.teacher):
        raise TrainingError(f"teacher: there is no file {shorten_path(args.teacher)}")
    return TeacherFile(args.teacher, normalization, size)


def _constants(text: str, what: str) -> tuple[float, float, float]:
    """Return the constants in "R,G,B", for pixels from 0 to 1."""
    from lcnas import onnx_export

    constants = onnx_export.constants(text.split(","), what)
    if max(map(abs, constants)) > 1:
        right = ",".join(f"{v / 255:.4g}" for v in constants)
        raise TrainingError(
            f"{what}: {text} is not for pixels from 0 to 1 (if it is for 0 to 255, give {right})"
        )
    return constants


class _ReadingProgress:
    """Prints every few seconds how many images have been read."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _INTERVAL

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _INTERVAL
            if not outputs.is_quiet():
                print(f"reading images: {done:,}/{total:,}", file=sys.stderr, flush=True)


# -- options ---------------------------------------------------------------------------------------


def make_parser(argv: Sequence[str] = ()) -> commandline.Parser:
    """Return the parser of the command, whose defaults are those of the recipe in ``argv``."""
    parser = commandline.Parser(
        PROG,
        "Train a network. The run directory then holds the best and the last model (ONNX, safetensors),\n"
        "metrics (JSON Lines, TensorBoard), checkpoints and result.json. You can stop it at any time\n"
        "(Ctrl-C, a kill): the same command resumes, and ends with the same weights.",
    )
    add = parser.add_argument
    add(
        "--arch",
        default="pplcnet_0.5x",
        metavar="NET",
        help="network: a name of the zoo or a .json file",
    )
    add(
        "--data",
        default="synthetic",
        metavar="SET",
        help="data set: synthetic, cifar10:DIR, imagefolder:DIR or npz:FILE",
    )
    add(
        "--recipe",
        default="proxy",
        metavar="NAME",
        help=f"recipe: {', '.join(recipes.names())}, or a .json file",
    )
    add("--out", metavar="FOLDER", help="run directory (default: runs/ARCH-RECIPE-sSEED)")
    _add_seeds(parser)
    _add_weights(parser)
    _add_run(parser)
    _add_machine(parser)
    commandline.add_blocks_option(parser)
    add("--dry-run", action="store_true", help="check everything, show the plan, train nothing")
    _add_settings(parser, argv)
    return parser


def _add_seeds(parser: commandline.Parser) -> None:
    """Add the options of seeds and normalisation."""
    add = parser.add_argument_group("seeds and normalisation").add_argument
    seeds = commandline.integer(0, (1 << 31) - 1)
    add(
        "--seed",
        type=seeds,
        default=0,
        help="seed of the weights, the order of the images and all draws",
    )
    add("--data-seed", type=seeds, default=0, help="seed of the training and validation split")
    add(
        "--normalization",
        choices=("own", "imagenet"),
        default="own",
        help="mean and standard deviation of pixels: own (those of the training images) or imagenet (those "
        "of published weights)",
    )


def _add_weights(parser: commandline.Parser) -> None:
    """Add the options of initial weights and the teacher."""
    add = parser.add_argument_group("weights and teacher").add_argument
    add("--init", metavar="FILE", help="initial weights: .safetensors, .pdparams, .pdiparams")
    add("--unlabelled", metavar="FOLDER", help="images without labels, for distillation")
    add("--freeze", default="", metavar="A,B", help="stages or blocks with frozen weights")
    add("--teacher", metavar="FILE", help="teacher to distil from: .onnx, or weights of lcnas")
    for name, text in (("mean", "mean"), ("std", "standard deviation")):
        add(
            f"--teacher-{name}",
            metavar="R,G,B",
            help=f"{text} of the teacher's pixels, 0 to 1, if its file does not record it (default: that of "
            "the data)",
        )
    add(
        "--teacher-size",
        metavar="N",
        help="input size of the teacher, pixels per side or HEIGHTxWIDTH, if its file has a dynamic one",
    )


def _add_run(parser: commandline.Parser) -> None:
    """Add the options of tests and checkpoints."""
    add = parser.add_argument_group("test and checkpoints").add_argument
    add(
        "--test",
        choices=("best", "last", "none"),
        default="best",
        help="network that is tested, once, at the end: best (by validation accuracy), last or none",
    )
    add(
        "--keep",
        type=commandline.integer(1, 10**6),
        default=2,
        metavar="N",
        help="number of newest checkpoints to keep, beside the best",
    )
    minutes = commandline.number(0, 10**6)
    add(
        "--save-minutes",
        type=minutes,
        default=10.0,
        metavar="M",
        help="minutes between checkpoints, beside those at the end of each epoch",
    )


def _add_machine(parser: commandline.Parser) -> None:
    """Add the options of cores, memory and devices."""
    add = parser.add_argument_group("machine").add_argument
    cores = commandline.integer(1, len(usable_cores()))
    add("--threads", type=cores, metavar="N", help="number of cores (default: all)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: 1 per core)",
    )
    add(
        "--memory-mb",
        type=commandline.number(0, 10**9),
        metavar="M",
        help="maximum memory of decoded images, MiB; larger sets are read from their files in each epoch "
        "(default: 2048)",
    )
    add(
        "--max-bad",
        type=commandline.number(0, 1),
        metavar="SHARE",
        help="maximum share of damaged images, which are left out (default: 0.01)",
    )
    add(
        "--devices",
        type=int,
        metavar="N",
        help="number of devices that share each batch (default: all)",
    )
    add(
        "--cache",
        default="auto",
        metavar="FOLDER",
        help="folder of compiled programs, one sub-folder per processor; none: no cache; auto: the user's "
        "cache",
    )
    add("--coordinator", metavar="ADDRESS:PORT", help="address of the first of several hosts")
    add(
        "--hosts",
        type=commandline.integer(1, 10**6),
        default=1,
        metavar="N",
        help="number of hosts",
    )
    add(
        "--host",
        type=commandline.integer(0, 10**6),
        default=0,
        metavar="I",
        help="index of this host, from 0",
    )


def _add_settings(parser: commandline.Parser, argv: Sequence[str]) -> None:
    """Add an option for each field of a recipe; the help shows the values of the chosen recipe."""
    name = _option(argv, "--recipe", "proxy")
    known = name in recipes.names()
    values = recipes.values(recipes.load(name)) if known else {}
    group = parser.add_argument_group(
        "fields of the recipe", f"with their values in {name}" if known else ""
    )
    for setting in recipes.settings():
        shown = f"; {name}: {_text(values[setting.name])}" if known else ""
        text = f"{setting.about.help} ({setting.kind_in_words}{shown})"
        group.add_argument(
            f"--{setting.name.replace('_', '-')}",
            dest=_SETTINGS + setting.name,
            metavar="V",
            default=None,
            help=text.replace("%", "%%"),
        )


def _option(argv: Sequence[str], name: str, default: str) -> str:
    for i, word in enumerate(argv):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
    return default


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _changes(args: argparse.Namespace) -> dict[str, str]:
    return {
        key.removeprefix(_SETTINGS): value
        for key, value in vars(args).items()
        if key.startswith(_SETTINGS) and value is not None
    }


def _sides(arch: Arch, recipe: Recipe) -> tuple[int, int]:
    """Return (height, width) to load images at: the larger of training and testing."""
    tested = height_width(arch.resolution)
    trained = height_width(recipe.train_resolution or arch.resolution)
    return (max(tested[0], trained[0]), max(tested[1], trained[1]))


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Pin the process to a number of cores; JAX starts one thread per core that it finds."""
    if threads is None:
        yield
        return
    with pinned(threads):
        yield


def _compile_cache(folder: str) -> None:
    """Set JAX's cache of compiled programs, so that the next start compiles nothing."""
    import jax

    from lcnas.training.devices import programs_folder

    if folder == "none" or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    shared = Path(folder)
    if folder == "auto":
        shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lcnas" / "jax"
    # A program is compiled for one processor; several may share a folder.
    chosen = str(programs_folder(shared))
    jax.config.update("jax_compilation_cache_dir", chosen)  # type: ignore[no-untyped-call]


# -- what is printed -------------------------------------------------------------------------------


def plan(arch: Arch, recipe: Recipe, data: Data, out: Path) -> str:
    """Return the plan of a training as lines: network, data, recipe and folder."""
    height, width = height_width(arch.resolution)
    steps = data.train.steps(recipe.batch)
    params = cost.params(arch, data.classes, training=True)
    images = len(data.train), len(data.validation), len(data.test)
    items = {
        "network": f"{arch.name or arch.id[:8]}, {height}x{width} px, {params:,} params, "
        f"{cost.macs(arch, classes=data.classes) / 1e6:,.1f} M MACs",
        "data": f"{spelt(data.spec)}, {data.classes} classes; {images[0]:,} images to train, "
        f"{images[1]:,} to validate, {images[2]:,} to test",
        "recipe": f"{recipe.name}, {recipe.epochs} epochs of {steps:,} steps with {recipe.batch} "
        f"images, {recipe.optimizer} {recipe.learning_rate:g}",
        "out": str(out),
    }
    if data.skipped:
        name, why = next(iter(data.skipped.items()))
        items["skipped"] = f"{len(data.skipped)} damaged images, such as {name} ({why})"
    lines = [f"{name:<8} {text}" for name, text in items.items()]
    return "\n".join([*lines, *(f"{'note':<8} {note}" for note in data.notes)])


def summary(result: Result) -> str:
    """Return the result as lines: scores, speed and files."""
    lines = [f"validation (epoch {result.best_epoch}, the best): {result.validation}"]
    if result.test is not None:
        lines.append(f"test ({result.tested} network): {result.test}")
    lines.append(
        f"{result.images_s:,.0f} images/s, {result.seconds:,.0f} s of training, "
        f"{result.compile_seconds:,.1f} s of compiling"
    )
    lines.append(f"written: {result.out}/best.onnx, last.onnx, result.json")
    return "\n".join(lines)


main_alone = functools.partial(main, keep_memory=True)  # in a process that does nothing else

if __name__ == "__main__":
    commandline.run(PROG, main_alone)
