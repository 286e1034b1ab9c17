"""Finalists and baselines, trained from scratch, exported, and validated as the files that they leave as.

A network is trained at its deployment resolution, which is also what its latency means, and leaves as
``network.onnx`` in the precision that is asked for. The fp32 file has to agree with the network on the
validation images; the accuracy that counts is the delivered file's, run by the engine that it was timed by.

A run that was begun by an older version trained its networks at another size than it exported them for; it
goes on as it began (``train_size``), and tests ``last.onnx``, the network at that size.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution, height_width
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.training import recipes
from lcnas.training.recipes import Recipe
from search.errors import SearchFailedError
from search.evaluators.train import check_size, keep_programs, right, views
from search.packed import PackedImages, unpack

if TYPE_CHECKING:
    import onnx

    from lcnas.onnx_export import Classifier
    from lcnas.training.data import Data
    from lcnas.training.run import Result

NETWORK = "network.onnx"  # what is deployed
FP32 = "network-fp32.onnx"  # what it was quantised from, where it is int8
DEPLOYED = "deployed.json"  # what is known of the file: it is written after it
_LAST = "last"  # the network of the last epoch, in the names of the training's own files
_RESULT = "result.json"  # tells that a training is finished, so it is written after all else
# What is needed of a finished training, in another place too.
_KEPT = (
    NETWORK,
    FP32,
    DEPLOYED,
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
    validation: float  # share of 1, of the delivered file
    images: int  # of the validation split
    size: Resolution  # pixels that it was trained and validated at
    is_deployed: bool  # whether these are the pixels that the file takes
    fp32: float  # as validation, of the fp32 file
    engine: str  # label of what validated the file; "": the training itself
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
    images: PackedImages | Data,
    recipe: Recipe,
    out: str | Path,
    seed: int,
    *,
    train_size: Resolution | None = None,
    engine: Engine | None = None,
    batch: int | None = 1,
    cache: str | None = None,
    bring: bool = False,
) -> Trained:
    """Train a network from scratch on one device and export that of the last epoch; no test image is read.

    Called again with the same arguments it goes on after a kill, and reads back what is finished.

    Args:
        arch: the network, at its deployment resolution.
        images: what it learns from; a whole set too, where that is streamed from its files.
        recipe: how; its own sizes do not count.
        out: folder of this training.
        seed: of its draws.
        train_size: pixels to train and validate at, other than the deployment resolution in older runs alone;
            None: the deployment resolution.
        engine: that the file is for; its precision is the file's. None: this machine's default, fp32.
        batch: images at once that the delivered file takes, as it was timed; None: any number.
        cache: folder of compiled programs, which seeds share; None: nothing is kept.
        bring: give back the contents of the files too, for :func:`settle` in another place.

    Raises:
        TrainingError: things that do not fit together, or a folder of another training.
        TrainingFailedError: a loss that is no number, no memory, no space, a head that needs its own size.
        ApartError: the file does not compute what the network does; files are kept.
        Stopped: by SIGTERM, after the state was stored.
    """
    from lcnas import training

    out = Path(out)
    data = unpack(images) if isinstance(images, PackedImages) else images
    size = arch.resolution if train_size is None else train_size
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
    if height_width(size) != height_width(arch.resolution):
        if not (out / NETWORK).is_file():
            _export(arch, data, result, batch, out / NETWORK)
        _clear(out)
        return _trained(result, None, _contents(out) if bring else {})
    if not ((out / DEPLOYED).is_file() and (out / NETWORK).is_file()):
        _deploy(arch, data, result, batch, engine or engines.engine())
    _clear(out)
    about = json.loads((out / DEPLOYED).read_text(encoding="utf-8"))
    return _trained(result, about, _contents(out) if bring else {})


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
    """Return which test images the network of a run of an older version gets right, in their order, (n,).

    It is ``last.onnx`` in the folder, at the training size, and sees what an evaluation of the training would
    show it. Images that cannot be read are left out.

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


_CALIBRATION = 256  # training images that the ranges of int8 follow from
_POINTS, _IMAGES = 0.005, 2  # by which a file's validation accuracy may differ from its network's


class ApartError(SearchFailedError):
    """An exported file does not compute what its network does."""


def _export(
    arch: Arch, data: Data, result: Result, batch: int | None, path: Path | None
) -> onnx.ModelProto:
    """Return the network for its deployment resolution, with what was measured of it in the metadata."""
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
        training_resolution=result.arch.resolution,
    )
    last = result.epochs[-1]
    model.metadata_props.add(
        key="lcnas.validation", value=json.dumps(_measured(result, last, data))
    )
    if path is not None:
        onnx_export.save(model, path)
    return model


def _deploy(arch: Arch, data: Data, result: Result, batch: int | None, engine: Engine) -> None:
    """Write the delivered file, once its fp32 form agrees with the network, and what is known of it."""
    from lcnas import onnx_export
    from lcnas.training import deployed

    out, (by, _) = result.out, deployed.local_engine(engine)
    int8 = by.precision == "int8"
    path = out / (FP32 if int8 else NETWORK)
    model = _export(arch, data, result, batch, path)
    fp32 = deployed.with_precision(by, "fp32")
    network, file = _compared(path, fp32, data, result)
    n = len(data.validation)
    if abs(network - file) > max(_POINTS, _IMAGES / n) + 1e-9:
        raise ApartError(
            f"{path.name} is right in {file:.2%} of {n:,} validation images, its network in {network:.2%}; "
            "they should be the same. The files are kept"
        )
    if int8:
        _write(out / NETWORK, onnx_export.quantise(model, _calibration(model, data)))
    validation = file if by == fp32 else _accuracy(out / NETWORK, by, data, result)
    _describe(out / NETWORK, validation, by.precision)
    about = {
        "network": network,
        "fp32": file,
        "validation": validation,
        "images": n,
        "engine": by.label,
        "precision": by.precision,
        "resolution": arch.resolution,
    }
    _write(out / DEPLOYED, (json.dumps(about, indent=1) + "\n").encode())


def _describe(path: Path, accuracy: float, precision: str) -> None:
    """Put into a file's metadata what it was validated with, in the precision that it is meant for."""
    from lcnas import onnx_export

    model = onnx_export.read(path)
    about = {prop.key: prop.value for prop in model.metadata_props}
    measured = json.loads(about["lcnas.validation"]) | {
        "accuracy": accuracy,
        "precision": precision,
    }
    about |= {"lcnas.validation": json.dumps(measured), "lcnas.precision": precision}
    del model.metadata_props[:]
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    _write(path, onnx_export.to_bytes(model))


def _opened(path: Path, engine: Engine) -> Classifier:
    from lcnas import onnx_export
    from lcnas.training import deployed

    return onnx_export.Classifier.of(path, None, deployed.begin(engine, []))


def _compared(path: Path, engine: Engine, data: Data, result: Result) -> tuple[float, float]:
    """Return the validation accuracies of the network and of its file, over the same arrays."""
    from lcnas.training import exporting

    network, _ = exporting.read(result.out / f"{_LAST}.safetensors")
    file = _opened(path, engine)
    counts = np.zeros(3)
    for x, labels in views(file, result.recipe.augment, data.normalization, data.validation):
        counts += (
            (np.asarray(network(x)).argmax(axis=1) == labels).sum(),
            (file.logits(x).argmax(axis=1) == labels).sum(),
            (labels >= 0).sum(),
        )
    return float(counts[0] / counts[2]), float(counts[1] / counts[2])


def _accuracy(path: Path, engine: Engine, data: Data, result: Result) -> float:
    """Return the validation accuracy of a file."""
    view = (result.recipe.augment, data.normalization)
    return float(right(_opened(path, engine), *view, data.validation).mean())


def _calibration(model: onnx.ModelProto, data: Data) -> list[NDArray[np.float32]]:
    """Return some training images as the network sees them at deployment."""
    from lcnas import onnx_export

    prepare = onnx_export.interface(model).preprocessing()
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(data.train.rows)[:_CALIBRATION])
    few = replace(data.train, rows=rows)
    return [
        prepare(batch.images[batch.mask], batch.aspect[batch.mask]) for batch in few.in_order(32)
    ]


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


def _trained(
    result: Result, about: Mapping[str, Any] | None, files: Mapping[str, bytes]
) -> Trained:
    """Return what came out; ``about``: what is known of the file, where it is of the trained size."""
    found = [e for e in result.epochs if "validation_accuracy" in e]
    return Trained(
        seed=result.seed,
        validation=float((about or {}).get("validation", found[-1]["validation_accuracy"])),
        images=int(found[-1]["validation_images"]),
        size=result.arch.resolution,
        is_deployed=about is not None,
        fp32=float((about or {}).get("fp32", found[-1]["validation_accuracy"])),
        engine=str((about or {}).get("engine", "")),
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

# Presets by the kind of data: shifts leave small images whole, crops suit photographs.
_PRESETS = {"synthetic": "proxy", "cifar10": "cifar10", "imagefolder": "imagenette"}
_SMALL = 64  # pixels up to which images in arrays count as small
# Beside the preset's own; with less than 16 images the processor's vectors are not full.
_BATCHES = (64, 32, 16)
_STEPS = 400  # that a training is to have, if need be by smaller batches
_SHORT = 2000  # steps below which dropout and an average of the weights hold a network back
_WARMUP = 0.1  # share of the epochs, at most


def search_recipe(images: PackedImages, epochs: int) -> Recipe:
    """Return how the evaluator ``train`` trains a network for a short while.

    The kind of data decides on a preset, from which augmentation, optimiser and weight decay are. How far a
    short training comes depends on its number of steps, so the batch is the largest that leaves enough of
    them. The learning rate is the preset's even so, and falls to 0 along half a cosine, after a warm-up of at
    most a tenth: of the rates and optimisers tried, none came further in 4 epochs on 2 widths of PP-LCNet,
    3 seeds each (``results/short-recipes-synthetic.json``).

    Args:
        images: to train on; their number, kind and size count.
        epochs: passes over them.
    """
    return _recipe(images, epochs, "search")


def final_recipe(images: PackedImages, epochs: int) -> Recipe:
    """Return how finalists and baselines are trained: where it is long, as the preset says.

    Args:
        images: to train on; their number, kind and size count.
        epochs: passes over them.
    """
    return _recipe(images, epochs, "final")


def _recipe(images: PackedImages, epochs: int, what: str) -> Recipe:
    kind = images.spec.partition(":")[0]
    small = max(images.train_images.shape[1:3]) <= _SMALL
    preset = recipes.load(_PRESETS.get(kind, "cifar10" if small else "imagenette"))
    n = len(images.train_labels)
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
