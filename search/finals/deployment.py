"""Export of a trained network as the file that is deployed, validated as that file.

A network leaves as ``network.onnx`` in the requested precision. Its fp32 file has to agree with the network
on the validation images; the reported validation accuracy is that of the deployed file, run by the engine of
its measured latency.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas import files
from lcnas.arch import Arch
from lcnas.latency.engines import Engine
from lcnas.training.onnx_validation import correct, views
from search.errors import SearchFailedError
from search.run_dir import DEPLOYED, LAST_WEIGHTS, NETWORK, NETWORK_FP32

if TYPE_CHECKING:
    import onnx

    from lcnas.onnx_export import Classifier
    from lcnas.training.data import Data
    from lcnas.training.run import Result

_CALIBRATION = 256  # training images that the ranges of int8 follow from
_POINTS, _IMAGES = (
    0.005,
    2,
)  # tolerated difference of a file's validation accuracy from its network's


class ApartError(SearchFailedError):
    """An exported file does not compute what its network computes."""


def export(
    arch: Arch, data: Data, result: Result, batch: int | None, path: Path | None
) -> onnx.ModelProto:
    """Return the network at its resolution as an ONNX model, with its validation in the metadata.

    Args:
        arch: the network.
        data: the set it was trained on.
        result: the result of its training.
        batch: batch size of the model; None: any.
        path: file to write; None: none.
    """
    from lcnas import onnx_export
    from lcnas.models import pretrained

    weights = pretrained.read(result.out / LAST_WEIGHTS).weights
    model = onnx_export.export(
        arch,
        weights=weights,
        classes=data.classes,
        batch=batch,
        class_names=data.class_names,
        normalization=data.normalization,
        crop=result.recipe.augment.evaluate_crop,
        training_resolution=result.arch.resolution,
    )
    validation = _validation(result, result.epochs[-1], data)
    model.metadata_props.add(key="lcnas.validation", value=json.dumps(validation))
    if path is not None:
        onnx_export.save(model, path)
    return model


def _validation(result: Result, epoch: Mapping[str, Any], data: Data) -> dict[str, Any]:
    return {
        "accuracy": epoch["validation_accuracy"],
        "pictures": epoch["validation_images"],
        "resolution": result.arch.resolution,
        "data": data.spec.partition(":")[0],
        "epochs": result.recipe.epochs,
        "seed": result.seed,
    }


def deploy(arch: Arch, data: Data, result: Result, batch: int | None, engine: Engine) -> None:
    """Write the deployed file, once its fp32 file agrees with the network, and then ``deployed.json``.

    Raises:
        ApartError: the fp32 file does not agree with the network; files are kept.
    """
    from lcnas import onnx_export
    from lcnas.training import deployed

    out, (local, _) = result.out, deployed.local_engine(engine)
    is_int8 = local.precision == "int8"
    path = out / (NETWORK_FP32 if is_int8 else NETWORK)
    model = export(arch, data, result, batch, path)
    fp32_engine = deployed.with_precision(local, "fp32")
    network, fp32 = _compare(path, fp32_engine, data, result)
    n = len(data.validation)
    if abs(network - fp32) > max(_POINTS, _IMAGES / n) + 1e-9:
        raise ApartError(
            f"{path.name} classifies {fp32:.2%} of {n:,} validation images correctly, its network "
            f"{network:.2%}; they should be equal. The files are kept"
        )
    if is_int8:
        files.write(out / NETWORK, onnx_export.quantise(model, _calibration(model, data)))
    same = local == fp32_engine
    validation = fp32 if same else _accuracy(out / NETWORK, local, data, result)
    _describe(out / NETWORK, validation, local.precision)
    report = {
        "network": network,
        "fp32": fp32,
        "validation": validation,
        "images": n,
        "engine": local.label,
        "precision": local.precision,
        "resolution": arch.resolution,
    }
    files.write(out / DEPLOYED, (json.dumps(report, indent=1) + "\n").encode())


def _describe(path: Path, accuracy: float, precision: str) -> None:
    """Record a file's precision and its validation accuracy in that precision in its metadata."""
    from lcnas import onnx_export

    model = onnx_export.read(path)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    validation = json.loads(metadata["lcnas.validation"])
    validation |= {"accuracy": accuracy, "precision": precision}
    metadata |= {"lcnas.validation": json.dumps(validation), "lcnas.precision": precision}
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    files.write(path, onnx_export.to_bytes(model))


def _classifier(path: Path, engine: Engine) -> Classifier:
    from lcnas import onnx_export
    from lcnas.training import deployed

    return onnx_export.Classifier.of(path, None, deployed.begin(engine, []))


def _compare(path: Path, engine: Engine, data: Data, result: Result) -> tuple[float, float]:
    """Return the validation accuracies of the network and of its file, over the same arrays."""
    from lcnas.training import exporting

    network, _ = exporting.read(result.out / LAST_WEIGHTS)
    classifier = _classifier(path, engine)
    counts = np.zeros(3)
    for x, labels in views(classifier, result.recipe.augment, data.normalization, data.validation):
        counts += (
            (np.asarray(network(x)).argmax(axis=1) == labels).sum(),
            (classifier.logits(x).argmax(axis=1) == labels).sum(),
            (labels >= 0).sum(),
        )
    return float(counts[0] / counts[2]), float(counts[1] / counts[2])


def _accuracy(path: Path, engine: Engine, data: Data, result: Result) -> float:
    """Return the validation accuracy of a file."""
    view = (result.recipe.augment, data.normalization)
    return float(correct(_classifier(path, engine), *view, data.validation).mean())


def _calibration(model: onnx.ModelProto, data: Data) -> list[NDArray[np.float32]]:
    """Return some training images as the network sees them at deployment."""
    from lcnas import onnx_export

    preprocessing = onnx_export.interface(model).preprocessing()
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(data.train.rows)[:_CALIBRATION])
    sample = replace(data.train, rows=rows)
    return [
        preprocessing(batch.images[batch.mask], batch.aspect[batch.mask])
        for batch in sample.in_order(32)
    ]
