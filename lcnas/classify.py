"""Command line: name what is in pictures, with an ONNX classifier, ours or anybody's.

python -m lcnas.classify model.onnx cat.jpg dog.png
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcnas import _cli, onnx_export
from lcnas.arch import check_resolution, height_width
from lcnas.errors import LcnasError, OnnxError, PictureError
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.onnx_export import Classifier, Interface, Preprocessing

PROG = "lcnas.classify"
DEFAULT_SIZE = (224, 224)  # pixels, of files that leave their size open and where none is given
_MANY = 50  # pictures from which progress is shown


@dataclass(frozen=True)
class Guess:
    """A class and how likely it is."""

    index: int
    name: str  # its index, where names are not known
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a picture was taken for, likeliest first, or why it could not be read."""

    file: str
    guesses: tuple[Guess, ...] = ()
    problem: str = ""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 2 where a picture could not be read."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error("--top is at least 1")
    classifier, engine = opened(args)
    prepare, notes = preprocessing(args, classifier)
    names = class_names(classifier, args.names)
    overflows = onnx_export.int8_warning(Path(args.model), engine.isa)
    if overflows is not None:
        _tell(f"{args.model}: {overflows}")
    for note in notes:
        _tell(note)
    answers = []
    for file in _watched(args.images):
        answers.append(answer(classifier, prepare, names, file, args.top))
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
        "Name what is in pictures, with an ONNX classifier. Files of ours record how their pictures are\n"
        "prepared and what their classes are called; for files of others say it, or ImageNet's way is taken.",
    )
    parser.add_argument("model", metavar="MODEL.onnx", help="the classifier")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="pictures, of any format of Pillow's"
    )
    parser.add_argument(
        "--top", type=int, metavar="K", default=5, help="classes shown of each picture"
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
        "--squash", action="store_true", help="resize the whole picture, whatever its proportions"
    )
    return parser


def _tell(text: str) -> None:
    print(f"python -m {PROG}: {_plain(text)}", file=sys.stderr)


def _plain(text: str) -> str:
    """Return a text without what a terminal would obey: names come from files of others."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _watched(files: Sequence[str]) -> Iterator[str]:
    """Yield the files, with progress on a terminal where they are many."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    quiet = len(files) < _MANY or not console.is_terminal
    yield from track(files, "pictures", console=console, transient=True, disable=quiet)


# -- the classifier and how its pictures are prepared ----------------------------------------------


def opened(args: argparse.Namespace) -> tuple[Classifier, Engine]:
    """Return the classifier, and the engine that runs it."""
    size = None if args.size is None else _size(args.size)
    used: list[Engine] = []

    def begin(data: bytes, told: Interface) -> Any:
        precision = "int8" if told.is_int8 else "fp32"
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


def _size(text: str) -> tuple[int, int]:
    return height_width(check_resolution(_cli.resolution(text), "--size"))


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def preprocessing(
    args: argparse.Namespace, classifier: Classifier
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return how pictures are prepared, and a line about each thing that nobody said."""
    told = classifier.interface
    made = told.preprocessing(classifier.size)
    notes = []
    if None in told.size and args.size is None:
        notes.append(f"{args.model} takes any size; {_pixels(classifier.size)} is taken (--size)")
    if not told.has_normalization and None in (args.mean, args.std):
        notes.append(
            f"{args.model} does not say how its pictures are prepared; taken: mean "
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
        where = file
        try:
            names = tuple(Path(file).read_text(encoding="utf-8").splitlines())
        except OSError as error:
            raise LcnasError(f"--names: {file}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise LcnasError(f"--names: {file}: is not a text in UTF-8") from None
    if names is None:
        return tuple(str(i) for i in range(classifier.classes))
    if len(names) != classifier.classes:
        raise LcnasError(f"{where}: {len(names)} names for {classifier.classes} classes")
    return names


# -- pictures and answers --------------------------------------------------------------------------


def answer(
    classifier: Classifier, prepare: Preprocessing, names: Sequence[str], file: str, top: int
) -> Answer:
    """Return what the picture of a file is taken for."""
    try:
        x = prepare.of_image(onnx_export.read_picture(file))
    except PictureError as error:
        return Answer(file, problem=str(error))
    logits = classifier.logits(x[None])[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    return Answer(file, tuple(Guess(int(i), names[i], float(shares[i])) for i in order))


def show(answers: Sequence[Answer]) -> None:
    """Print a table of what the pictures were taken for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("picture", "class", "probability")
    table.columns[2].justify = "right"
    for found in answers:
        for i, guess in enumerate(found.guesses):
            name = _plain(found.file) if i == 0 else ""
            table.add_row(Text(name), Text(_plain(guess.name)), f"{guess.probability:.1%}")
        table.add_section()
    if table.row_count:
        Console().print(table)


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
