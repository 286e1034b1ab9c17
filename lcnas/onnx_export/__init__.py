"""ONNX graphs of networks, blocks and chains of blocks, and what is done with ONNX files.

The input is called ``input``, (batch, channels, height, width) in float32, the output ``output``. Batch
norms are folded into convolutions and re-parameterised branches merged into one. Equal arguments give
equal bytes (:func:`to_bytes`), so that files can be compared by hash.

:func:`export` writes networks with their weights, :func:`quantise` makes int8 files, :func:`compare` reports
the accuracy of both, and :class:`Classifier` runs anybody's. :func:`names` says which weights a network has,
:func:`init` draws some, :func:`fold` gives what is left of them outside training.

Example:
    >>> from lcnas import zoo
    >>> model = export(zoo.load("pplcnet_0.25x", resolution=64), classes=10)
    >>> [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    [1, 10]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import helper

import lcnas
from lcnas import _renamed
from lcnas import blocks as vocabulary
from lcnas.arch import Arch, PlacedBlock, Resolution, check_resolution
from lcnas.errors import ExportError, ExportWriteError, ImageError, not_among, shorten
from lcnas.onnx_export._accuracy import Accuracy, accuracy, compare
from lcnas.onnx_export._agreement import TOLERANCE, Model, check_agreement, is_model
from lcnas.onnx_export._classifier import Classifier, Run, Start
from lcnas.onnx_export._file import (
    File,
    Interface,
    engine_bytes,
    interface,
    read,
    single_input,
    takes_any_size,
)
from lcnas.onnx_export._fold import fold, fold_conv, fold_norm, fold_plan, merge
from lcnas.onnx_export._graph import build, value_shape
from lcnas.onnx_export._images import (
    CROP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Constants,
    MeanStd,
    Preprocessing,
    check_crop,
    check_images,
    constants,
    read_image,
)
from lcnas.onnx_export._overflow import has_vnni, int8_warning
from lcnas.onnx_export._quantise import RANGES, SCHEMES, WEIGHTS, is_quantised, quantise
from lcnas.onnx_export._resolution import precision_warning, resolution_warning
from lcnas.onnx_export._weights import (
    CLASSES,
    EPSILON,
    Array,
    Plan,
    Source,
    Weights,
    block_names,
    checked,
    drawn,
    init,
    names,
    plan,
)

__all__ = [
    "CROP",
    "EPSILON",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "OPSET",
    "OPSETS",
    "RANGES",
    "SCHEMES",
    "TOLERANCE",
    "WEIGHTS",
    "Accuracy",
    "Classifier",
    "Constants",
    "File",
    "Interface",
    "MeanStd",
    "Model",
    "Preprocessing",
    "Run",
    "Source",
    "Start",
    "Weights",
    "accuracy",
    "block_names",
    "check_images",
    "compare",
    "constants",
    "engine_bytes",
    "export",
    "fold",
    "fold_conv",
    "fold_norm",
    "graph",
    "has_vnni",
    "init",
    "int8_warning",
    "interface",
    "is_quantised",
    "merge",
    "names",
    "quantise",
    "read",
    "read_image",
    "precision_warning",
    "resolution_warning",
    "save",
    "single_input",
    "takes_any_size",
    "to_bytes",
]

Normalization = MeanStd | Mapping[str, Sequence[float]]  # ``mean`` and ``std`` of each channel

OPSETS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}  # operator set -> version of the file format (IR)
OPSET = 17  # all that is needed; what every engine of the last years reads


def export(
    source: Source | Model,
    path: str | Path | None = None,
    *,
    weights: Weights | None = None,
    classes: int = CLASSES,
    resolution: Resolution | None = None,
    batch: int | None = 1,
    opset: int = OPSET,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    crop: float = CROP,
    squash: bool = False,
    training_resolution: Resolution | None = None,
    check: bool = True,
    inputs: Array | None = None,
    tolerance: float = TOLERANCE,
) -> onnx.ModelProto:
    """Return the ONNX model of a network, and write it to ``path``.

    The metadata carry what a reader needs to use the model: ``lcnas.version``; of an arch ``lcnas.arch``
    (its JSON), ``lcnas.id``; of placed blocks ``lcnas.blocks``; ``lcnas.classes`` where the outputs are
    classes, ``lcnas.class_names`` where they were given, ``lcnas.normalization`` and ``lcnas.resize`` (JSON)
    where ``normalization`` was given, ``lcnas.training_resolution`` where that was given.

    A model with weights of its own is run on ``inputs`` beside the finished file (in onnxruntime), before
    anything is written: export is refused where they differ.

    Args:
        source: a network, a placed block, placed blocks of which each takes what the one before gives, or a
            model that brings an arch, classes and weights and can be called; see :class:`Model`.
        path: file to write, beside first and then renamed; None: none.
        weights: name -> float32 array, as :func:`names` lists them; None: random ones, see :func:`init`.
        classes: outputs of an arch's last layer; a model brings its own.
        resolution: pixels, of an arch or a model, a side or (height, width); None: its own.
        batch: images at once; None: any number.
        opset: version of the operator set, one of OPSETS.
        seed: of the random weights.
        class_names: the name of each class, in order.
        normalization: ``mean`` and ``std`` of each channel: the input is (value / 255 - mean) / std.
        crop: share of the limiting side that the centre crop keeps when images are prepared; 1 for data
            sets that are used at their own size. Recorded beside the normalisation.
        squash: images are resized as a whole, with no crop, whatever their proportions. Recorded too.
        training_resolution: pixels that the network was trained and validated at. Recorded, so that a reader
            is warned where it is not what the file takes (:func:`resolution_warning`).
        check: run ONNX's checker and its inference of shapes over the result, and compare with a model.
        inputs: images on which the file must agree with a model, normalised, (n, height, width, 3) float32;
            None: two of seeded noise.
        tolerance: largest difference, as a share of the model's largest logit.

    Raises:
        ExportError: arguments or weights that do not fit, a layer that ONNX cannot express, a path that
            cannot be written, a file that differs from the model.
        ArchError: the blocks of the arch do not fit each other.
    """
    _check_settings(batch, opset)
    model = source if is_model(source) else None
    if model is not None:
        weights, classes = _unpacked(model, weights, classes)
    elif inputs is not None:
        raise ExportError("inputs: there is no model to compare with, only a network")
    network = cast("Source", source) if model is None else model.arch
    made = plan(network, classes, resolution)
    if weights is None:
        arrays = drawn(made, np.random.default_rng(seed))
    else:
        arrays = checked(made, weights)
    about = {"lcnas.version": lcnas.__version__} | _about(network, made, resolution)
    about |= _about_classes(made, class_names) | _about_input(normalization, crop, squash)
    about |= _about_training(training_resolution)
    file = _file_of(made, arrays, batch, opset, about)
    if check:
        _check_model(file, made, batch)
    if check and model is not None:
        size = made.in_shape[:2]
        check_agreement(to_bytes(file), model, inputs, (size[0], size[1]), batch, tolerance)
    if path is not None:
        save(file, path)
    return file


def _unpacked(model: Model, weights: Weights | None, classes: int) -> tuple[Weights, int]:
    """Return a model's weights and the number of its classes."""
    if weights is not None:
        raise ExportError("weights: the model brings its own")
    if classes not in (CLASSES, model.classes):
        raise ExportError(f"classes: {shorten(classes)}, but the model has {model.classes}")
    return model.weights(), model.classes


def _file_of(
    made: Plan, arrays: Mapping[str, Array], batch: int | None, opset: int, about: dict[str, str]
) -> onnx.ModelProto:
    model = helper.make_model(
        build(made, fold_plan(made, arrays), batch, opset),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=OPSETS[opset],
        producer_name="lcnas",
        producer_version=lcnas.__version__,
    )
    helper.set_model_props(model, about)
    return model


def graph(
    placed: PlacedBlock | Sequence[PlacedBlock],
    *,
    weights: Weights | None = None,
    batch: int | None = 1,
    opset: int = OPSET,
    seed: int = 0,
    check: bool = False,
) -> onnx.ModelProto:
    """Return the ONNX model of a placed block, or of a chain of them: :func:`export` without a check.

    Example:
        >>> from lcnas import blocks
        >>> from lcnas.arch import place
        >>> model = graph(place(blocks.DepthwiseSeparable(16, se=True), (14, 14, 8)))
        >>> [node.op_type for node in model.graph.node][:3]
        ['Conv', 'HardSwish', 'GlobalAveragePool']
    """
    return export(placed, weights=weights, batch=batch, opset=opset, seed=seed, check=check)


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return a model as the bytes of its file, the same for equal models."""
    made: bytes = model.SerializeToString(deterministic=True)
    return made


def save(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model to a file: beside it first, then renamed.

    Raises:
        ExportError: the file cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            beside.write_bytes(to_bytes(model))
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ExportWriteError(f"{path}: cannot be written: {error.strerror}") from None


# -- checks and metadata ---------------------------------------------------------------------------


def _check_settings(batch: int | None, opset: int) -> None:
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ExportError(f"batch: {shorten(batch)} is neither None nor a whole number from 1")
    if isinstance(opset, bool) or opset not in OPSETS:
        raise ExportError(not_among("opset", opset, OPSETS))


def _check_model(model: onnx.ModelProto, made: Plan, batch: int | None) -> None:
    """Check the model, and that ONNX infers the output shape that the walk has."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ExportError(f"ONNX's checker refuses the graph: {first}") from None
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    shape = [dim.dim_param or dim.dim_value for dim in dims]
    if shape != value_shape(made.out_shape, batch):
        raise ExportError(
            f"the graph gives {shape}, the network {value_shape(made.out_shape, batch)}"
        )


def _about(source: Source, made: Plan, resolution: Resolution | None) -> dict[str, str]:
    if isinstance(source, Arch):
        arch = source if resolution is None else source.at(resolution)
        return {"lcnas.arch": arch.to_json(), "lcnas.id": arch.id}
    placed = [
        {"block": vocabulary.to_data(p.block), "in_shape": list(p.in_shape)} for p in made.placed
    ]
    return {"lcnas.blocks": json.dumps(placed)}


def _about_classes(made: Plan, class_names: Sequence[str] | None) -> dict[str, str]:
    if not made.has_classes:
        if class_names is not None:
            raise ExportError("class_names: the outputs are not classes")
        return {}
    (classes,) = made.out_shape
    about = {"lcnas.classes": str(classes)}
    if class_names is not None:
        if isinstance(class_names, str) or not all(isinstance(n, str) for n in class_names):
            raise ExportError(f"class_names: {shorten(class_names)} is not a list of texts")
        if len(class_names) != classes:
            raise ExportError(f"class_names: {len(class_names)} names for {classes} classes")
        about["lcnas.class_names"] = json.dumps(list(class_names), ensure_ascii=False)
    return about


def _about_training(resolution: Resolution | None) -> dict[str, str]:
    if resolution is None:
        return {}
    side = check_resolution(resolution, "training_resolution")
    return {"lcnas.training_resolution": json.dumps(side)}


def _about_input(normalization: Normalization | None, crop: float, squash: bool) -> dict[str, str]:
    if normalization is None:
        if squash or crop != CROP:
            raise ExportError("crop, squash: are recorded beside a normalization; give that too")
        return {}
    try:
        made = {key: list(values) for key, values in _constants(normalization).items()}
        resize = {"squash": True} if squash else {"crop": check_crop(crop)}
    except ImageError as error:
        raise ExportError(str(error)) from None
    return {
        "lcnas.normalization": json.dumps(made),
        "lcnas.resize": json.dumps({**resize, "filter": "bilinear"}),
    }


def _constants(normalization: Normalization) -> dict[str, Sequence[float]]:
    given: dict[str, Iterable[float]]
    if isinstance(normalization, Mapping):
        given = dict(normalization)
    else:
        given = {"mean": normalization.mean, "std": normalization.std}
    if set(given) != {"mean", "std"}:
        raise ExportError(f"normalization: its keys are mean and std, got {shorten(list(given))}")
    return {key: constants(given[key], f"normalization: {key}") for key in ("mean", "std")}


__getattr__ = _renamed.in_module(
    __name__, {"check_pictures": "check_images", "read_picture": "read_image"}
)
