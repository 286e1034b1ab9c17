"""Finalists and baselines, trained from scratch and exported; and how they do on the test pictures.

A network is trained and validated at the training size, and leaves as ``network.onnx`` for its deployment
resolution, which is what its latency means. Where the two differ, its accuracy is that of the same weights at
the training size; the file's metadata say so. ``last.onnx`` is the same network at the training size.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution
from lcnas.training import recipes
from lcnas.training.recipes import Recipe
from search.errors import SearchFailedError
from search.evaluators.train import check_size, keep_programs, right
from search.pictures import Pictures, unpack

if TYPE_CHECKING:
    from lcnas.training.data import Data
    from lcnas.training.run import Result

NETWORK = "network.onnx"  # what is deployed
_LAST = "last"  # the network of the last epoch, in the names of the training's own files
_RESULT = "result.json"  # tells that a training is finished, so it is written after all else
# What is needed of a finished training, in another place too.
_KEPT = (
    NETWORK,
    f"{_LAST}.onnx",
    f"{_LAST}.safetensors",
    "arch.json",
    "recipe.json",
    "run.json",
    "metrics.jsonl",
    "sessions.jsonl",
    _RESULT,
)


@dataclass(frozen=True)
class Trained:
    """What came out of a training."""

    seed: int
    validation: float  # share of 1, of the network that is exported, at the training size
    pictures: int  # of the validation split
    size: Resolution  # pixels that it was trained and validated at
    onnx: str  # name of the deployed network in the folder
    curve: tuple[float, ...]  # validation accuracies, after every so many epochs
    seconds: float  # of training, without compiling and evaluating
    compile_seconds: float
    images_s: float
    files: Mapping[str, bytes] = field(
        default_factory=dict, repr=False
    )  # name -> content, if asked


def train(
    arch: Arch,
    pictures: Pictures | Data,
    recipe: Recipe,
    out: str | Path,
    seed: int,
    *,
    train_size: Resolution | None = None,
    batch: int | None = 1,
    cache: str | None = None,
    bring: bool = False,
) -> Trained:
    """Train a network from scratch on one device and export that of the last epoch; no test picture is read.

    Called again with the same arguments it goes on after a kill, and reads back what is finished.

    Args:
        arch: the network, at its deployment resolution.
        pictures: what it learns from; a whole set too, where that is streamed from its files.
        recipe: how; its own sizes do not count.
        out: folder of this training.
        seed: of its draws.
        train_size: pixels to train and validate at; None: the pictures' own size.
        batch: pictures at once that the deployed network takes; None: any number.
        cache: folder of compiled programs, which seeds share; None: nothing is kept.
        bring: give back the contents of the files too, for :func:`settle` in another place.

    Raises:
        TrainingError: things that do not fit together, or a folder of another training.
        TrainingFailedError: a loss that is no number, no memory, no space, a head that needs its own size.
        Stopped: by SIGTERM, after the state was stored.
    """
    from lcnas import training

    out = Path(out)
    data = unpack(pictures) if isinstance(pictures, Pictures) else pictures
    size = data.size if train_size is None else train_size
    check_size(arch, size, data.classes)
    keep_programs(cache)
    told = recipe.override({"resolution": size, "train_resolution": None})
    result = training.fit(
        arch,
        data,
        told,
        out,
        seed=seed,
        test="none",
        keep=1,
        devices=training.Devices(None),
        quiet=True,
    )
    if not (out / NETWORK).is_file():
        _deploy(arch, data, result, batch)
    _clear(out)
    return _trained(result, _contents(out) if bring else {})


def settle(out: str | Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a training that ran elsewhere, so that :func:`train` reads it back here.

    Raises:
        SearchFailedError: they cannot be written.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, key=lambda name: (name == _RESULT, name)):
            _write(out / name, files[name])
    except OSError as error:
        raise SearchFailedError(f"{out}: cannot be written: {error.strerror}") from None


def finished(out: str | Path) -> dict[str, bytes]:
    """Return the files of a finished training, for :func:`settle`; none if it is not finished."""
    return _contents(Path(out)) if (Path(out) / _RESULT).is_file() else {}


def test_hits(out: str | Path, data: Data) -> NDArray[np.bool_]:
    """Return which test pictures the network of a finished training gets right, in their order, (n,).

    It is ``last.onnx`` in the folder, at the training size, and sees what an evaluation of the training would
    show it. Pictures that cannot be read are left out.

    Raises:
        OnnxError: there is no such file.
    """
    from lcnas import onnx_export
    from lcnas.training.augment import Augment
    from lcnas.training.data import Normalization, Test, require

    classifier = onnx_export.Classifier.of(Path(out) / f"{_LAST}.onnx")
    told = classifier.interface.preprocessing()
    constants = Normalization(told.mean, told.std)
    augment = Augment(evaluate_crop=told.crop)
    return right(classifier, augment, constants, require(data.test, Test))


def save_hits(path: str | Path, hits: NDArray[np.bool_]) -> None:
    """Write hits as a NumPy file, beside its place and then renamed.

    Raises:
        SearchFailedError: it cannot be written.
    """
    import io

    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(hits, bool), allow_pickle=False)
    try:
        _write(Path(path), file.getvalue())
    except OSError as error:
        raise SearchFailedError(f"{path}: cannot be written: {error.strerror}") from None


# -- what is written -------------------------------------------------------------------------------


def _deploy(arch: Arch, data: Data, result: Result, batch: int | None) -> None:
    """Write the network for its deployment resolution, with what was measured of it in the metadata.

    The training compared ``last.onnx`` with its network; these are the same layers and the same weights.
    """
    from lcnas import onnx_export
    from lcnas.models import pretrained

    found = pretrained.read(result.out / f"{_LAST}.safetensors")
    model = onnx_export.export(
        arch,
        weights=found.weights,
        classes=data.classes,
        batch=batch,
        class_names=data.class_names,
        normalization=data.normalization,
        crop=result.recipe.augment.evaluate_crop,
    )
    last = result.epochs[-1]
    model.metadata_props.add(
        key="lcnas.validation", value=json.dumps(_measured(result, last, data))
    )
    onnx_export.save(model, result.out / NETWORK)


def _clear(out: Path) -> None:
    """Delete what a finished training needs no more: its states, and the network of its best epoch."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for suffix in ("onnx", "safetensors"):
        (out / f"best.{suffix}").unlink(missing_ok=True)


def _measured(result: Result, last: Mapping[str, Any], data: Data) -> dict[str, Any]:
    return {
        "accuracy": last["validation_accuracy"],
        "pictures": last["validation_images"],
        "resolution": result.arch.resolution,
        "data": data.spec.partition(":")[0],
        "epochs": result.recipe.epochs,
        "seed": result.seed,
    }


def _trained(result: Result, files: Mapping[str, bytes]) -> Trained:
    found = [e for e in result.epochs if "validation_accuracy" in e]
    return Trained(
        seed=result.seed,
        validation=float(found[-1]["validation_accuracy"]),
        pictures=int(found[-1]["validation_images"]),
        size=result.arch.resolution,
        onnx=NETWORK,
        curve=tuple(float(e["validation_accuracy"]) for e in found),
        seconds=result.seconds,
        compile_seconds=result.compile_seconds,
        images_s=result.images_s,
        files=files,
    )


def _contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in _KEPT if (out / name).is_file()}


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


# -- recipes ---------------------------------------------------------------------------------------

# Presets by the kind of data: shifts leave small pictures whole, crops suit photographs.
_PRESETS = {"synthetic": "proxy", "cifar10": "cifar10", "imagefolder": "imagenette"}
_SMALL = 64  # pixels up to which pictures in arrays count as small
# Beside the preset's own; with less than 16 pictures the processor's vectors are not full.
_BATCHES = (64, 32, 16)
_STEPS = 400  # that a training is to have, if need be by smaller batches
_SHORT = 2000  # steps below which dropout and an average of the weights hold a network back
_WARMUP = 0.1  # share of the epochs, at most


def search_recipe(pictures: Pictures, epochs: int) -> Recipe:
    """Return how the evaluator ``train`` trains a network for a short while.

    The kind of data decides on a preset, from which augmentation, optimiser and weight decay are. How far a
    short training comes depends on its number of steps, so the batch is the largest that leaves enough of
    them. The learning rate is the preset's even so, and falls to 0 along half a cosine, after a warm-up of at
    most a tenth: of the rates and optimisers tried, none came further in 4 epochs on 2 widths of PP-LCNet,
    3 seeds each (``results/short-recipes-synthetic.json``).

    Args:
        pictures: to train on; their number, kind and size count.
        epochs: passes over them.
    """
    return _recipe(pictures, epochs, "search")


def final_recipe(pictures: Pictures, epochs: int) -> Recipe:
    """Return how finalists and baselines are trained: where it is long, as the preset says.

    Args:
        pictures: to train on; their number, kind and size count.
        epochs: passes over them.
    """
    return _recipe(pictures, epochs, "final")


def _recipe(pictures: Pictures, epochs: int, what: str) -> Recipe:
    kind = pictures.spec.partition(":")[0]
    small = max(pictures.train_images.shape[1:3]) <= _SMALL
    preset = recipes.load(_PRESETS.get(kind, "cifar10" if small else "imagenette"))
    n = len(pictures.train_labels)
    batches = [b for b in (preset.batch, *_BATCHES) if b <= preset.batch]
    enough = [b for b in batches if epochs * (n // b) >= _STEPS]
    batch = min(max(enough, default=min(batches)), n)
    changes: dict[str, Any] = {
        "name": f"{what}-{preset.name}",
        "epochs": epochs,
        "batch": batch,
        "warmup_epochs": min(preset.warmup_epochs, _WARMUP * epochs),
        "evaluate_epochs": max(1, epochs // 10),
    }
    if epochs * (n // batch) < _SHORT:
        changes |= {"dropout": 0.0, "ema": 0.0}
    return preset.override(changes)
