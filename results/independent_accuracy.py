"""The top-1 accuracy of exported ONNX files on original images, by a program that knows nothing of lcnas.

    python results/independent_accuracy.py --data DIR FILE.onnx ...
    python results/independent_accuracy.py --data DIR/test-00000-of-00001.parquet FILE.onnx ...

It uses onnxruntime, NumPy, Pillow and pyarrow alone, and reads the original images and the metadata of the ONNX
files, nothing else; docs/how-to/export.md says what the metadata mean. So it checks whether a printed accuracy is that of
the file that is delivered, on the images that people have. Images are a folder a class (DIR itself, or its test/ or
val/), where class names in the metadata give the numbers of the classes, or parquet files with the columns
img.bytes and label. Prints a JSON line a file: file, images, correct, accuracy. --permuted SEED is for the control of
`search.run --permute-labels`, whose labels are in another order by the rule in docs/reference/data.md.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

TESTS = (
    "test",
    "testing",
    "val",
    "valid",
    "validation",
)  # names of a test split, the likeliest first
CHUNK = 64  # images decoded at once
OPEN_BATCH = 32  # images at once, of files that take any number
Box = tuple[float, float, float, float]  # left, top, right, bottom
TURNS = {  # what brings an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(Exception):
    """Something given cannot be used; the message is one line."""


# -- images ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """An encoded image and its class."""

    source: Path | bytes
    label: str | int  # name of the class, or its number


def items(places: Sequence[Path]) -> list[Item]:
    """Return the test images of a folder, or of parquet files."""
    result: list[Item] = []
    for place in places:
        if place.is_dir():
            tables = sorted(place.glob("test*.parquet"))
            result += [i for table in tables for i in of_table(table)] or of_folder(place)
        elif place.is_file():
            result += of_table(place)
        else:
            raise Unusable(f"{place}: there is no such file or folder")
    if not result:
        raise Unusable(f"{', '.join(map(str, places))}: there is no image")
    return result


def permuted(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the images with the labels of a control: the same ones, in another order."""
    words = np.random.PCG64(np.random.SeedSequence((seed, 3, 1))).random_raw(len(items))
    order = np.argsort(np.atleast_1d(words), kind="stable")
    return [replace(item, label=items[i].label) for item, i in zip(items, order, strict=True)]


def of_table(path: Path) -> list[Item]:
    """Return the images of a parquet file, in its order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["img", "label"])
    except (pa.ArrowException, OSError) as error:
        raise Unusable(
            f"{path}: is no parquet file with img and label: {first_line(error)}"
        ) from None
    rows = zip(table.column("img").to_pylist(), table.column("label").to_pylist(), strict=True)
    return [Item(img["bytes"], int(label)) for img, label in rows]


def of_folder(root: Path) -> list[Item]:
    """Return the images of the test split of a folder, sorted by class and name."""
    base = split(root)
    result = []
    for folder in visible_folders(base):
        files = [p for p in folder.rglob("*") if p.is_file() and not hidden(p, base)]
        result += [Item(path, folder.name) for path in sorted(files)]
    return result


def split(root: Path) -> Path:
    """Return the folder of the test split: the first of the usual names with folders in it, or the root."""
    named = {folder.name.lower(): folder for folder in visible_folders(root)}
    tests = [named[name] for name in TESTS if name in named and visible_folders(named[name])]
    if not tests and "train" in named:
        raise Unusable(f"{root}: has train, but none of {', '.join(TESTS)} with a folder a class")
    return tests[0] if tests else root


def visible_folders(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def hidden(path: Path, base: Path) -> bool:
    """Return whether the name of a file, or of a folder on the way to it, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(base).parts)


def decoded(source: Path | bytes) -> Image.Image | None:
    """Return an image upright, in RGB, 8 bits; None if it cannot be read."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file) as image:
            image.load()
            turn = TURNS.get(image.getexif().get(0x0112, 1))
            rgb = in_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)
    except Exception:  # noqa: BLE001 - decoders raise whatever they meet
        return None


def in_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, 8 bits: of deeper grey the upper 8 bits of 16, of the rest Pillow's conversion."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise Unusable("more than 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Unusable("floats without a scale")
    if image.mode == "P":  # straight to RGB, Pillow warns of transparency
        image = image.convert("RGBA")
    return image.convert("RGB")


# -- networks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """An ONNX file, ready to run, and what it says of the images that it takes."""

    file: str
    session: Any
    channels_last: bool
    batch: int | None  # images at once; None: any number
    height: int  # pixels
    width: int
    mean: tuple[float, ...]  # of red, green and blue, in units of [0, 1]
    std: tuple[float, ...]
    crop: (
        float | None
    )  # share of the limiting side that the middle cut keeps; None: all is resized, squashed
    classes: int
    names: tuple[str, ...] | None  # of the classes, in the order of the outputs

    def prepared(self, image: Image.Image) -> np.ndarray[Any, Any]:
        """Return an RGB image as the network takes it, (height, width, 3) float32."""
        box = (
            None if self.crop is None else middle(image.size, (self.width, self.height), self.crop)
        )
        size = (self.width, self.height)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), np.float32)
        # (value / 255 - mean) / std, as one multiplication and one subtraction in float32.
        factor = np.array([1 / (255 * s) for s in self.std], np.float32)
        shift = np.array([m / s for m, s in zip(self.mean, self.std, strict=True)], np.float32)
        return pixels * factor - shift

    def predictions(self, images: Sequence[Image.Image]) -> list[int]:
        """Return the number of the likeliest class of each image; the first among equals."""
        labels: list[int] = []
        step = self.batch or OPEN_BATCH
        for first in range(0, len(images), step):
            inputs = np.stack([self.prepared(image) for image in images[first : first + step]])
            n = len(inputs)
            if self.batch is not None and n < step:  # the last rows only fill the batch
                inputs = np.concatenate(
                    [inputs, np.zeros((step - n, *inputs.shape[1:]), np.float32)]
                )
            if not self.channels_last:
                inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
            outputs = self.session.run(None, {self.session.get_inputs()[0].name: inputs})[0]
            labels += [int(k) for k in outputs.reshape(len(outputs), -1)[:n].argmax(axis=1)]
        return labels

    def number(self, label: str | int) -> int:
        """Return the number of a class."""
        if isinstance(label, int):
            if not 0 <= label < self.classes:
                raise Unusable(
                    f"{self.file}: has {self.classes} classes, an image the label {label}"
                )
            return label
        if self.names is None:
            raise Unusable(f"{self.file}: has no class names in its metadata (lcnas.class_names)")
        if label not in self.names:
            raise Unusable(
                f"{self.file}: does not know the class {label!r}, a folder of the images"
            )
        return self.names.index(label)


def middle(size: tuple[int, int], wanted: tuple[int, int], crop: float) -> Box:
    """Return the middle (left, top, right, bottom) of an image, of the wanted proportions.

    Args:
        size: (width, height) of the image.
        wanted: (width, height) that the network takes.
        crop: share that is kept of the side that limits it.
    """
    zoom = crop * min(
        size[1] / wanted[1], size[0] / wanted[0]
    )  # image pixels a pixel of the network
    wide, high = min(size[0], zoom * wanted[0]), min(size[1], zoom * wanted[1])
    left, top = (size[0] - wide) / 2, (size[1] - high) / 2
    return (left, top, (size[0] + wide) / 2, (size[1] + high) / 2)


def opened(file: str, provider: str, threads: int) -> Network:
    """Return the network of an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(file, options, providers=[provider])
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        raise Unusable(f"{file}: onnxruntime refuses it: {first_line(error)}") from None
    if session.get_providers()[0] != provider:
        raise Unusable(f"{file}: {session.get_providers()[0]} took it, not {provider}")
    return described(file, session)


def described(file: str, session: Any) -> Network:
    """Return a network with what its graph and its metadata say."""
    shape = session.get_inputs()[0].shape
    last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
    sides: list[Any] = (shape[1:3] if last else shape[2:4]) if len(shape) == 4 else [None]
    if not all(isinstance(side, int) for side in sides):
        raise Unusable(f"{file}: its input is {shape}; a size in pixels is needed")
    about = session.get_modelmeta().custom_metadata_map
    try:
        normal = json.loads(about["lcnas.normalization"])
        resize = json.loads(about["lcnas.resize"])
        classes = int(about["lcnas.classes"])
        names = json.loads(about.get("lcnas.class_names", "null"))
        return Network(
            file=file,
            session=session,
            channels_last=last,
            batch=shape[0] if isinstance(shape[0], int) else None,
            height=sides[0],
            width=sides[1],
            mean=tuple(map(float, normal["mean"])),
            std=tuple(map(float, normal["std"])),
            crop=None if resize.get("squash") else float(resize["crop"]),
            classes=classes,
            names=None if names is None else tuple(names),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Unusable(
            f"{file}: its metadata do not say how images are prepared ({reason})"
        ) from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


# -- accuracy --------------------------------------------------------------------------------------


@dataclass
class Count:
    """How often a network was right."""

    images: int = 0
    correct: int = 0


def count(networks: Sequence[Network], items: Sequence[Item]) -> tuple[list[Count], int]:
    """Return the count of each network, and how many files could not be read and are in none."""
    counts = [Count() for _ in networks]
    unreadable = 0
    for images, labels, missing in chunks(items):
        unreadable += missing
        for network, counts_of in zip(networks, counts, strict=True):
            wanted = [network.number(label) for label in labels]
            guesses = network.predictions(images)
            counts_of.images += len(images)
            counts_of.correct += sum(a == b for a, b in zip(guesses, wanted, strict=True))
    return counts, unreadable


def chunks(items: Sequence[Item]) -> Iterator[tuple[list[Image.Image], list[str | int], int]]:
    """Yield some images at once: decoded, their labels, and how many could not be read."""
    for first in range(0, len(items), CHUNK):
        some = [(decoded(item.source), item.label) for item in items[first : first + CHUNK]]
        images = [image for image, _ in some if image is not None]
        labels = [label for image, label in some if image is not None]
        yield images, labels, len(some) - len(images)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE.onnx")
    words = "a folder or a parquet file; may be repeated"
    parser.add_argument(
        "--data", action="append", required=True, type=Path, metavar="PLACE", help=words
    )
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--permuted",
        type=int,
        metavar="SEED",
        help="permute the labels, as the control of this seed does",
    )
    args = parser.parse_args(argv)
    try:
        networks = [opened(file, args.provider, args.threads) for file in args.files]
        test_items = items(args.data)
        if args.permuted is not None:
            test_items = permuted(test_items, args.permuted)
        counts, unreadable = count(networks, test_items)
    except Unusable as problem:
        print(problem, file=sys.stderr)
        return 2
    if unreadable:
        print(f"{unreadable} files that are no readable images are left out", file=sys.stderr)
    for network, counted in zip(networks, counts, strict=True):
        share = counted.correct / counted.images if counted.images else None
        line = {"file": network.file, "images": counted.images, "correct": counted.correct}
        print(json.dumps({**line, "accuracy": share}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
