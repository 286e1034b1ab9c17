"""The final training of one network: from scratch, exported, validated as the exported file.

A network is trained at its resolution, which is also that of its latency. A run that was begun by an older
version trained its networks at another size than it exported them for; it continues in the same way
(``train_size``), and tests ``last.onnx``, the network at that size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcnas import files
from lcnas.arch import Arch, Resolution, height_width
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.training.compilation import keep_programs
from lcnas.training.onnx_validation import check_size
from lcnas.training.recipes import Recipe
from search.errors import SearchFailedError
from search.finals import deployment
from search.packed import PackedImages, unpack
from search.run_dir import DEPLOYED, LAST_ONNX, LAST_WEIGHTS, NETWORK, NETWORK_FP32

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from lcnas.training.run import Result

_RESULT = "result.json"  # marks a training as finished, so it is written last
# Files of a finished training that are needed elsewhere too.
_KEPT = (
    NETWORK,
    NETWORK_FP32,
    DEPLOYED,
    LAST_ONNX,
    LAST_WEIGHTS,
    "arch.json",
    "recipe.json",
    "run.json",
    "metrics.jsonl",
    "sessions.jsonl",
    _RESULT,
)


@dataclass(frozen=True)
class TrainedNetwork:
    """The result of a final training."""

    seed: int
    validation: float  # accuracy of the deployed file, 0 to 1
    images: int  # of the validation split
    size: Resolution  # of training and validation, pixels
    is_deployed: bool  # whether this is the resolution of the file
    fp32: float  # validation accuracy of the fp32 file
    engine: str  # label of the engine that validated the file; "": the training itself
    onnx: str  # name of the deployed file in the folder
    curve: tuple[float, ...]  # validation accuracies, after every so many epochs
    seconds: float  # of training, without compilation and evaluation
    compile_seconds: float
    images_s: float
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # name -> content


def train(
    arch: Arch,
    images: PackedImages | Data,
    recipe: Recipe,
    out: str | Path,
    seed: int,
    *,
    train_size: Resolution | None = None,
    engine: Engine | None = None,
    batch: int | None = 1,
    cache: str | None = None,
    with_files: bool = False,
) -> TrainedNetwork:
    """Train a network from scratch on one device and export the last epoch; no test image is read.

    Called again with the same arguments, it resumes after a kill, and reads finished trainings.

    Args:
        arch: the network, at its deployment resolution.
        images: training and validation images; also a whole set, if that is streamed from its files.
        recipe: the recipe; its own resolutions do not count.
        out: folder of this training.
        seed: seed of its draws.
        train_size: pixels of training and validation, other than the resolution in older runs only; None: the
            resolution.
        engine: the engine of the file, which has its precision. None: this machine's default, fp32.
        batch: batch size of the deployed file, as measured; None: any.
        cache: folder of compiled programs, which seeds share; None: none are kept.
        with_files: return the contents of the files too, for :func:`write_files` in another place.

    Raises:
        TrainingError: arguments that do not fit together, or a folder of another training.
        TrainingFailedError: an infinite loss, no memory, no space, a head that needs its own resolution.
        ApartError: the file does not compute what the network computes; files are kept.
        Stopped: after SIGTERM, once the state is stored.
    """
    from lcnas import training

    out = Path(out)
    data = unpack(images) if isinstance(images, PackedImages) else images
    size = arch.resolution if train_size is None else train_size
    check_size(arch, size, data.classes)
    keep_programs(cache)
    result = training.fit(
        arch,
        data,
        recipe.override({"resolution": size, "train_resolution": None}),
        out,
        seed=seed,
        test="none",
        keep=1,
        devices=training.Devices(None),
        quiet=True,
    )
    report = None
    if height_width(size) != height_width(arch.resolution):
        if not (out / NETWORK).is_file():
            deployment.export(arch, data, result, batch, out / NETWORK)
    else:
        if not ((out / DEPLOYED).is_file() and (out / NETWORK).is_file()):
            deployment.deploy(arch, data, result, batch, engine or engines.engine())
        report = json.loads((out / DEPLOYED).read_text(encoding="utf-8"))
    _clear(out)
    return _trained(result, report, _contents(out) if with_files else {})


def write_files(out: str | Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a training that ran elsewhere, so that :func:`train` reads it here.

    Raises:
        SearchFailedError: they cannot be written.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in sorted(contents, key=lambda name: (name == _RESULT, name)):
            files.write(out / name, contents[name])
    except OSError as error:
        raise SearchFailedError(f"{out}: cannot be written: {error.strerror}") from None


def finished_files(out: str | Path) -> dict[str, bytes]:
    """Return the files of a finished training, for :func:`write_files`; none if it is not finished."""
    return _contents(Path(out)) if (Path(out) / _RESULT).is_file() else {}


def _clear(out: Path) -> None:
    """Delete checkpoints and the network of the best epoch, which a finished training does not need."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for suffix in ("onnx", "safetensors"):
        (out / f"best.{suffix}").unlink(missing_ok=True)


def _trained(
    result: Result, report: Mapping[str, Any] | None, contents: Mapping[str, bytes]
) -> TrainedNetwork:
    """Return the result; ``report``: that of the deployed file, if it has the training's resolution."""
    validated = [e for e in result.epochs if "validation_accuracy" in e]
    last = validated[-1]["validation_accuracy"]
    return TrainedNetwork(
        seed=result.seed,
        validation=float((report or {}).get("validation", last)),
        images=int(validated[-1]["validation_images"]),
        size=result.arch.resolution,
        is_deployed=report is not None,
        fp32=float((report or {}).get("fp32", last)),
        engine=str((report or {}).get("engine", "")),
        onnx=NETWORK,
        curve=tuple(float(e["validation_accuracy"]) for e in validated),
        seconds=result.seconds,
        compile_seconds=result.compile_seconds,
        images_s=result.images_s,
        files=contents,
    )


def _contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in _KEPT if (out / name).is_file()}
