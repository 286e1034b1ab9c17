"""Command line: name what is in images, with an ONNX classifier, ours or anybody's.

python -m lcnas.classify model.onnx cat.jpg dog.png holiday/
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import _cli, _image_files, onnx_export
from lcnas._image_files import Found
from lcnas._terminal import columns, plain
from lcnas.arch import check_resolution, height_width
from lcnas.errors import EngineError, ImageError, LcnasError, OnnxError
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.onnx_export import Classifier, Interface, Preprocessing

PROG = "lcnas.classify"
DEFAULT_SIZE = (224, 224)  # pixels, of files that leave their size open and where none is given
_MANY = 50  # images from which progress is shown


@dataclass(frozen=True)
class Guess:
    """A class and how likely it is."""

    index: int
    name: str  # its index, where names are not known
    probability: float


@dataclass(frozen=True)
class Answer:
    """What an image was taken for, likeliest first, or why it could not be read."""

    file: str
    guesses: tuple[Guess, ...] = ()
    problem: str = ""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 2 where an image could not be read."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error("--top is at least 1")
    classifier, engine = opened(args)
    prepare, notes = preprocessing(args, classifier)
    names = class_names(classifier, args.names)
    found = _image_files.gathered(args.images)
    overflows = onnx_export.int8_warning(Path(args.model), engine.isa)
    if overflows is not None:
        _tell(f"{args.model}: {overflows}")
    for note in (*notes, *found.notes):
        _tell(note)
    answers = []
    for item in _watched(found.files):
        answers.append(_answered(classifier, prepare, names, item, args.top))
        if answers[-1].problem:
            _tell(answers[-1].problem)
    if args.json:
        print(json.dumps(to_data(args.model, engine, prepare, answers), indent=1))
    else:
        show(answers)
    return _cli.BAD_ARGUMENT if any(a.problem for a in answers) else 0


def _parser() -> _cli.Parser:
    parser = _cli.Parser(
        PROG,
        "Name what is in images, with an ONNX classifier. Files of ours record how their images are\n"
        "prepared and what their classes are called; for files of others say it, or ImageNet's way is taken.",
    )
    parser.add_argument("model", metavar="MODEL.onnx", help="the classifier")
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="image files, of any format that Pillow reads, and folders: all images in them",
    )
    parser.add_argument(
        "--top", type=int, metavar="K", default=5, help="classes shown of each image"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    names = ", ".join(engines.names())
    parser.add_argument("--engine", metavar="E", default=engines.default(), help=names)
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="threads that compute")
    parser.add_argument(
        "--names", metavar="FILE", help="names of the classes, one a line, in order"
    )
    own = "(default: as the file records)"
    parser.add_argument(
        "--size",
        metavar="R",
        help=f"pixels, a side or HEIGHTxWIDTH, where the file leaves it open {own}",
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"of pixels from 0 to 1 {own}",
        )
    parser.add_argument(
        "--crop",
        type=float,
        metavar="C",
        help=f"share that the centre crop keeps, above 0, up to 1 {own}",
    )
    parser.add_argument(
        "--squash", action="store_true", help="resize the whole image, whatever its proportions"
    )
    return parser


def _tell(text: str) -> None:
    # Names come from files of others: a terminal must not obey them.
    print(f"python -m {PROG}: {plain(text, sys.stderr)}", file=sys.stderr)


def _watched(files: Sequence[Found]) -> Iterator[Found]:
    """Yield the files, with progress on a terminal where they are many."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    quiet = len(files) < _MANY or not console.is_terminal
    yield from track(files, "images", console=console, transient=True, disable=quiet)


# -- the classifier and how its images are prepared ----------------------------------------------


def opened(args: argparse.Namespace) -> tuple[Classifier, Engine]:
    """Return the classifier, and the engine that runs it."""
    size = None if args.size is None else _size(args.size)
    used: list[Engine] = []

    def begin(data: bytes, told: Interface) -> Any:
        precision = _precision(args.engine, told)
        engine = engines.engine(
            args.engine, threads=args.threads, precision=precision, batch=told.batch or 1
        )
        used.append(engine)
        return engine.open(data).outputs

    classifier = Classifier.of(Path(args.model), size or DEFAULT_SIZE, begin)
    if size is not None and classifier.size != size:
        raise OnnxError(
            f"--size: {args.model} takes {_pixels(classifier.size)}, not {_pixels(size)}"
        )
    return classifier, used[0]


def _precision(engine: str, told: Interface) -> str:
    """Return the precision that a file was made and tested for, fp32 where this machine has no bf16."""
    if told.precision != "bf16":
        return told.precision
    try:
        engines.engine(engine, precision="bf16")
    except EngineError as error:
        _tell(f"{told.what} was tested in bf16, and is run in fp32: {error}")
        return "fp32"
    return "bf16"


def _size(text: str) -> tuple[int, int]:
    return height_width(check_resolution(_cli.resolution(text), "--size"))


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def preprocessing(
    args: argparse.Namespace, classifier: Classifier
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return how images are prepared, and a line about each thing that nobody said."""
    told = classifier.interface
    made = told.preprocessing(classifier.size)
    warning = onnx_export.resolution_warning(Path(args.model), classifier.size)
    notes = [] if warning is None else [warning]
    if None in told.size and args.size is None:
        notes.append(f"{args.model} takes any size; {_pixels(classifier.size)} is taken (--size)")
    if not told.has_normalization and None in (args.mean, args.std):
        notes.append(
            f"{args.model} does not say how its images are prepared; taken: mean "
            f"{args.mean or made.mean}, std {args.std or made.std}, crop {args.crop or made.crop} "
            "(--mean, --std, --crop, --squash)"
        )
    given: dict[str, Any] = {
        key: onnx_export.constants(getattr(args, key), f"--{key}")
        for key in ("mean", "std")
        if getattr(args, key) is not None
    }
    if args.crop is not None:
        given |= {"crop": args.crop, "squash": False}
    if args.squash:
        given["squash"] = True
    return dataclasses.replace(made, **given), tuple(notes)


def class_names(classifier: Classifier, file: str | None) -> tuple[str, ...]:
    """Return the name of each class: of the file, else as recorded, else its index."""
    names = classifier.interface.class_names
    where = classifier.interface.what
    if file is not None:
        names, where = _names_in(file), file
    if names is None:
        return tuple(str(i) for i in range(classifier.classes))
    if len(names) != classifier.classes:
        raise LcnasError(f"{where}: {len(names)} names for {classifier.classes} classes")
    return names


def _names_in(file: str) -> tuple[str, ...]:
    """Return the lines of a text file, without empty ones at its end."""
    what = f"--names: {_cli.cut(file)}"
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file has such a name"
        raise LcnasError(f"{what}: cannot be read: {reason}") from None
    if len(content) > _LONGEST:
        raise LcnasError(f"{what}: is more than {_LONGEST >> 20} MiB, no list of names")
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    try:
        text = content.decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise LcnasError(f"{what}: is not a text in UTF-8, nor in UTF-16 with a byte order mark")
    return tuple(re.split(r"\r\n|\r|\n", text.rstrip()))


_LONGEST = 64 << 20  # bytes of a file of names
# Byte order marks, the longer before those that they begin with; the codecs take them away.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


# -- images and answers ----------------------------------------------------------------------------


def _answered(
    classifier: Classifier, prepare: Preprocessing, names: Sequence[str], item: Found, top: int
) -> Answer:
    if item.problem:
        return Answer(item.file, problem=item.problem)
    return answer(classifier, prepare, names, item.file, top)


def answer(
    classifier: Classifier, prepare: Preprocessing, names: Sequence[str], file: str, top: int
) -> Answer:
    """Return what the image of a file is taken for; what Pillow warns of is told, with the file's name."""
    problem = _image_files.problem_of(file)
    if problem:
        return Answer(file, problem=problem)
    with _image_files.heard() as said:
        x = _read(prepare, file)
    for line in said:
        _tell(f"{_cli.cut(file)}: {line}")
    if isinstance(x, str):
        return Answer(file, problem=x)
    logits = classifier.logits(x[None])[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    return Answer(file, tuple(Guess(int(i), names[i], float(shares[i])) for i in order))


def _read(prepare: Preprocessing, file: str) -> NDArray[np.float32] | str:
    """Return the image of a file as the network takes it, or why it cannot be read."""
    try:
        return prepare.of_image(onnx_export.read_image(file))
    except ImageError as error:
        return str(error)


def show(answers: Sequence[Answer]) -> None:
    """Print a table of what the images were taken for; where it does not fit, a line an answer."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "probability")
    table.columns[2].justify = "right"
    for found in answers:
        for i, guess in enumerate(found.guesses):
            name = plain(found.file) if i == 0 else ""
            table.add_row(Text(name), Text(plain(guess.name)), f"{guess.probability:.1%}")
        table.add_section()
    if not table.row_count:
        return
    console = Console()
    wide = Measurement.get(console, console.options.update(max_width=_ANY), table).maximum
    if wide > (columns() or _ANY):
        print("\n".join(_lines(answers)))
    else:
        Console(width=wide).print(table)


_ANY = 1 << 20  # columns, where nothing limits them


def _lines(answers: Sequence[Answer]) -> Iterator[str]:
    """Yield the answers for few columns: nothing is cut, a terminal folds what is too long."""
    for found in answers:
        if found.guesses:
            yield plain(found.file)
        for guess in found.guesses:
            yield f"{guess.probability:>7.1%} {plain(guess.name)}"


def to_data(
    model: str, engine: Engine, prepare: Preprocessing, answers: Sequence[Answer]
) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "model": model,
        "engine": dataclasses.asdict(engine),
        "preprocessing": dataclasses.asdict(prepare),
        "pictures": [
            {"file": a.file, "problem": a.problem}
            if a.problem
            else {"file": a.file, "guesses": [dataclasses.asdict(g) for g in a.guesses]}
            for a in answers
        ],
    }


if __name__ == "__main__":
    _cli.run(PROG, main)
