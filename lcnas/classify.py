"""Command line: classify images with an ONNX classifier of any origin.

python -m lcnas.classify model.onnx cat.jpg dog.png holiday/
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import _image_files, commandline, onnx_export, outputs, renamed
from lcnas._image_files import ImageFile
from lcnas.arch import check_resolution, height_width
from lcnas.errors import EngineError, ImageError, LcnasError, OnnxError, shorten_path
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.onnx_export import Classifier, Interface, Preprocessing
from lcnas.terminal import columns, printable

PROG = "lcnas.classify"
DEFAULT_SIZE = (224, 224)  # (height, width) in pixels of files that leave them open, without --size
_PROGRESS_FROM = 50  # number of images from which progress is shown


@dataclass(frozen=True)
class Prediction:
    """A class and its probability."""

    index: int
    name: str  # its index if names are unknown
    probability: float


@dataclass(frozen=True)
class Classification:
    """The predictions for an image, most probable first, or why it could not be read."""

    file: str
    predictions: tuple[Prediction, ...] = ()
    problem: str = ""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 2 if an image could not be read."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error("--top must be at least 1")
    classifier, engine = open_classifier(args)
    preprocess, notes = preprocessing(args, classifier)
    names = class_names(classifier, args.names)
    files = _image_files.find_files(args.images)
    warning = onnx_export.int8_warning(Path(args.model), engine.isa)
    if warning is not None:
        _log(f"{args.model}: {warning}")
    for note in () if outputs.is_quiet() else (*notes, *files.notes):
        _log(note)
    classifications = []
    for item in _with_progress(files.files):
        classifications.append(_classify_item(classifier, preprocess, names, item, args.top))
        if classifications[-1].problem:
            _log(classifications[-1].problem)
    commandline.show_result(
        args,
        lambda: print_table(classifications),
        lambda: to_data(args.model, engine, preprocess, classifications),
    )
    return commandline.BAD_ARGUMENT if any(a.problem for a in classifications) else 0


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Classify images with an ONNX classifier. Files of ours record preprocessing and class names; for\n"
        "other files pass them as options (default: preprocessing of ImageNet, and indices of classes).",
    )
    parser.add_argument("model", metavar="MODEL.onnx", help="ONNX classifier")
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="image files of any format that Pillow reads, or folders, with all images in them",
    )
    parser.add_argument(
        "--top", type=int, metavar="K", default=5, help="number of classes to show for each image"
    )
    names = ", ".join(engines.names())
    parser.add_argument(
        "--engine", metavar="E", default=engines.default(), help=f"inference engine: {names}"
    )
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="number of threads")
    parser.add_argument(
        "--names",
        metavar="FILE",
        help="text file of class names, one per line, in order (default: as the file records)",
    )
    recorded = "(default: as the file records)"
    parser.add_argument(
        "--size",
        metavar="R",
        help="height and width of the input if the file leaves them open, pixels, a side or HEIGHTxWIDTH "
        "(default: 224)",
    )
    for name, text in (("mean", "means"), ("std", "standard deviations")):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"channel {text} of pixels from 0 to 1 {recorded}",
        )
    parser.add_argument(
        "--crop",
        type=float,
        metavar="C",
        help=f"share of the limiting side that the centre crop keeps, above 0, up to 1 {recorded}",
    )
    parser.add_argument(
        "--squash",
        action="store_true",
        help="resize of the whole image, without a crop, regardless of its proportions",
    )
    return parser


def _log(text: str) -> None:
    # Names come from untrusted files and must not send control characters to the terminal.
    print(f"{commandline.spelling(PROG)}: {printable(text, sys.stderr)}", file=sys.stderr)


def _with_progress(files: Sequence[ImageFile]) -> Iterator[ImageFile]:
    """Yield the files; if they are many, with progress on a terminal."""
    from rich.progress import track

    console = outputs.console(stderr=True)
    quiet = outputs.is_quiet() or len(files) < _PROGRESS_FROM or not console.is_terminal
    yield from track(files, "images", console=console, transient=True, disable=quiet)


# -- classifier and preprocessing ------------------------------------------------------------------


def open_classifier(args: argparse.Namespace) -> tuple[Classifier, Engine]:
    """Return the classifier and the engine that runs it."""
    size = None if args.size is None else _parse_size(args.size)
    engines_used: list[Engine] = []

    def begin(data: bytes, file_interface: Interface) -> Any:
        precision = _precision(args.engine, file_interface)
        engine = engines.engine(
            args.engine, threads=args.threads, precision=precision, batch=file_interface.batch or 1
        )
        engines_used.append(engine)
        return engine.open(data).outputs

    classifier = Classifier.of(Path(args.model), size or DEFAULT_SIZE, begin)
    if size is not None and classifier.size != size:
        raise OnnxError(
            f"--size: {args.model} takes {_size_text(classifier.size)}, not {_size_text(size)}"
        )
    return classifier, engines_used[0]


def _precision(engine: str, file_interface: Interface) -> str:
    """Return the precision that a file was tested in; fp32 instead of bf16 if this machine lacks bf16."""
    if file_interface.precision != "bf16":
        return file_interface.precision
    try:
        engines.engine(engine, precision="bf16")
    except EngineError as error:
        _log(f"{file_interface.what} was tested in bf16, and is run in fp32: {error}")
        return "fp32"
    return "bf16"


def _parse_size(text: str) -> tuple[int, int]:
    return height_width(check_resolution(commandline.resolution(text), "--size"))


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def preprocessing(
    args: argparse.Namespace, classifier: Classifier
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return the preprocessing, and one line for each setting that neither file nor options give."""
    file_interface = classifier.interface
    recorded = file_interface.preprocessing(classifier.size)
    warning = onnx_export.resolution_warning(Path(args.model), classifier.size)
    notes = [] if warning is None else [warning]
    if None in file_interface.size and args.size is None:
        notes.append(f"{args.model} takes any size; using {_size_text(classifier.size)} (--size)")
    if not file_interface.has_normalization and None in (args.mean, args.std):
        notes.append(
            f"{args.model} does not record its preprocessing; using mean "
            f"{args.mean or recorded.mean}, std {args.std or recorded.std}, "
            f"crop {args.crop or recorded.crop} (--mean, --std, --crop, --squash)"
        )
    overrides: dict[str, Any] = {
        key: onnx_export.constants(getattr(args, key), f"--{key}")
        for key in ("mean", "std")
        if getattr(args, key) is not None
    }
    if args.crop is not None:
        overrides |= {"crop": args.crop, "squash": False}
    if args.squash:
        overrides["squash"] = True
    return dataclasses.replace(recorded, **overrides), tuple(notes)


def class_names(classifier: Classifier, file: str | None) -> tuple[str, ...]:
    """Return the name of each class: of the text file, else as recorded, else its index."""
    names = classifier.interface.class_names
    source = classifier.interface.what
    if file is not None:
        names, source = _read_names(file), file
    if names is None:
        return tuple(str(i) for i in range(classifier.classes))
    if len(names) != classifier.classes:
        raise LcnasError(f"{source}: {len(names)} names for {classifier.classes} classes")
    return names


def _read_names(file: str) -> tuple[str, ...]:
    """Return the lines of a text file, without empty lines at its end."""
    label = f"--names: {shorten_path(file)}"
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(_MAX_NAMES_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file has such a name"
        raise LcnasError(f"{label}: cannot be read: {reason}") from None
    if len(content) > _MAX_NAMES_BYTES:
        raise LcnasError(f"{label}: is more than {_MAX_NAMES_BYTES >> 20} MiB, no list of names")
    mark = next((mark for mark in _BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    try:
        text = content.decode(_BYTE_ORDER_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise LcnasError(f"{label}: is not a text in UTF-8, nor in UTF-16 with a byte order mark")
    return tuple(re.split(r"\r\n|\r|\n", text.rstrip()))


_MAX_NAMES_BYTES = 64 << 20  # of a file of names
# Byte order marks; one that starts with another comes before it. The codecs remove them.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


# -- classification --------------------------------------------------------------------------------


def _classify_item(
    classifier: Classifier,
    preprocess: Preprocessing,
    names: Sequence[str],
    item: ImageFile,
    top: int,
) -> Classification:
    if item.problem:
        return Classification(item.file, problem=item.problem)
    return classify_file(classifier, preprocess, names, item.file, top)


def classify_file(
    classifier: Classifier, preprocess: Preprocessing, names: Sequence[str], file: str, top: int
) -> Classification:
    """Return the predictions for an image file; Pillow's warnings are printed with the file's name."""
    problem = _image_files.problem_of(file)
    if problem:
        return Classification(file, problem=problem)
    with _image_files.pillow_warnings() as warnings:
        x = _read_input(preprocess, file)
    for line in warnings:
        _log(f"{shorten_path(file)}: {line}")
    if isinstance(x, str):
        return Classification(file, problem=x)
    logits = classifier.logits(x[None])[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return Classification(
        file, tuple(Prediction(int(i), names[i], float(probabilities[i])) for i in order)
    )


def _read_input(preprocess: Preprocessing, file: str) -> NDArray[np.float32] | str:
    """Return the image of a file as input of the network, or why it cannot be read."""
    try:
        return preprocess.of_image(onnx_export.read_image(file))
    except ImageError as error:
        return str(error)


def print_table(classifications: Sequence[Classification]) -> None:
    """Print a table of the predictions; if it does not fit the terminal, one line per prediction."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "probability")
    table.columns[2].justify = "right"
    for classification in classifications:
        for i, prediction in enumerate(classification.predictions):
            name = printable(classification.file) if i == 0 else ""
            table.add_row(
                Text(name), Text(printable(prediction.name)), f"{prediction.probability:.1%}"
            )
        table.add_section()
    if not table.row_count:
        return
    console = Console()
    table_width = Measurement.get(
        console, console.options.update(max_width=_UNLIMITED), table
    ).maximum
    if table_width > (columns() or _UNLIMITED):
        print("\n".join(_lines(classifications)))
    else:
        Console(width=table_width).print(table)


_UNLIMITED = 1 << 20  # columns


def _lines(classifications: Sequence[Classification]) -> Iterator[str]:
    """Yield the predictions for a narrow terminal: names are not shortened, the terminal wraps them."""
    for classification in classifications:
        if classification.predictions:
            yield printable(classification.file)
        for prediction in classification.predictions:
            yield f"{prediction.probability:>7.1%} {printable(prediction.name)}"


def to_data(
    model: str, engine: Engine, preprocess: Preprocessing, classifications: Sequence[Classification]
) -> dict[str, Any]:
    """Return all results as JSON data."""
    return {
        "model": model,
        "engine": dataclasses.asdict(engine),
        "preprocessing": dataclasses.asdict(preprocess),
        "pictures": [
            {"file": classification.file, "problem": classification.problem}
            if classification.problem
            else {
                "file": classification.file,
                "guesses": [
                    dataclasses.asdict(prediction) for prediction in classification.predictions
                ],
            }
            for classification in classifications
        ],
    }


__getattr__ = renamed.in_module(__name__, {"Answer": "Classification", "Guess": "Prediction"})

if __name__ == "__main__":
    commandline.run(PROG, main)
