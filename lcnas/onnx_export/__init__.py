"""ONNX graphs of networks, blocks and chains of blocks, and tools for ONNX files.

The input is named ``input``, (batch, channels, height, width) in float32, the output ``output``. Batch norms
are folded into convolutions, and re-parameterised branches are merged. Equal arguments give equal bytes
(:func:`to_bytes`), so you can compare files by hash.

:func:`export` writes networks with their weights, :func:`quantise` makes int8 files, :func:`compare` gives
the accuracy of several files, and :class:`Classifier` runs ONNX classifiers of any origin. :func:`names`
lists the weights of a network, :func:`init` draws random ones, and :func:`fold` returns the weights that
remain outside training.

Examples:
    >>> from lcnas import zoo
    >>> model = export(zoo.load("pplcnet_0.25x", resolution=64), classes=10)
    >>> [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    [1, 10]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import helper

import lcnas
from lcnas import blocks as vocabulary
from lcnas import files, renamed
from lcnas.arch import Arch, PlacedBlock, Resolution, check_resolution
from lcnas.errors import ExportError, ExportWriteError, ImageError, not_among, shorten
from lcnas.onnx_export._accuracy import Accuracy, accuracy, compare
from lcnas.onnx_export._agreement import TOLERANCE, Model, check_agreement, is_model
from lcnas.onnx_export._classifier import Classifier, ModelRunner, RunnerFactory
from lcnas.onnx_export._file import (
    File,
    Interface,
    engine_bytes,
    interface,
    read,
    single_input,
    takes_any_size,
)
from lcnas.onnx_export._fold import fold, fold_blocks, fold_conv, fold_norm, merge
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
    NamedBlocks,
    NetworkOrBlocks,
    Weights,
    block_names,
    checked_weights,
    init,
    named_blocks,
    names,
    random_weights,
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
    "ModelRunner",
    "NetworkOrBlocks",
    "RunnerFactory",
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
OPSET = 17  # has all operators in use; every engine of the last years reads it


def export(
    source: NetworkOrBlocks | Model,
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

    The metadata hold everything that a reader needs to use the model:

    - ``lcnas.version``; for an arch ``lcnas.arch`` (its JSON) and ``lcnas.id``; for placed blocks
      ``lcnas.blocks``;
    - ``lcnas.classes`` if the outputs are classes, and ``lcnas.class_names`` if ``class_names`` is given;
    - ``lcnas.normalization`` and ``lcnas.resize`` (JSON) if ``normalization`` is given;
    - ``lcnas.training_resolution`` if ``training_resolution`` is given.

    If you export a model, the finished file is compared with it in onnxruntime before anything is written:
    export fails if their outputs on ``inputs`` differ.

    Args:
        source: a network; a placed block; a chain of placed blocks, each of which takes the output of the
            previous one; or a callable model with arch, classes and weights, see :class:`Model`.
        path: file to write, atomically; None: no file.
        weights: name -> float32 array, as listed by :func:`names`; None: random weights, see :func:`init`.
        classes: outputs of an arch's last layer; a model has its own.
        resolution: resolution of an arch or a model, pixels, a side or (height, width); None: its own.
        batch: batch size; None: any.
        opset: version of the operator set, one of OPSETS.
        seed: seed of the random weights.
        class_names: name of each class, in order.
        normalization: ``mean`` and ``std`` of each channel: the input is (value / 255 - mean) / std.
        crop: share of the limiting side that the centre crop keeps in preprocessing; 1 for data sets that are
            used at their own size. Recorded beside the normalisation.
        squash: whether preprocessing resizes the whole image, without a crop, regardless of its proportions.
            Recorded too.
        training_resolution: resolution that the network was trained and validated at, pixels. Recorded, so
            that :func:`resolution_warning` can warn if the file takes another one.
        check: whether to run ONNX's checker and shape inference over the result, and compare with a model.
        inputs: images on which the file must agree with a model, normalised, (n, height, width, 3) float32;
            None: two images of seeded noise.
        tolerance: largest difference, as a share of the model's largest logit.

    Raises:
        ExportError: arguments or weights do not fit, ONNX cannot express a layer, the path cannot be written,
            or the file differs from the model.
        ArchError: the blocks of the arch do not fit together.

    Examples:
        >>> from lcnas import onnx_export, zoo
        >>> model = onnx_export.export(zoo.load("pplcnet_0.25x", 32), classes=10)
        >>> [i.name for i in model.graph.input], len(model.graph.node) > 50
        (['input'], True)
    """
    _check_settings(batch, opset)
    model = source if is_model(source) else None
    if model is not None:
        weights, classes = _weights_and_classes(model, weights, classes)
    elif inputs is not None:
        raise ExportError("inputs: there is no model to compare with, only a network")
    network = cast("NetworkOrBlocks", source) if model is None else model.arch
    named = named_blocks(network, classes, resolution)
    if weights is None:
        arrays = random_weights(named, np.random.default_rng(seed))
    else:
        arrays = checked_weights(named, weights)
    metadata = {"lcnas.version": lcnas.__version__} | _network_metadata(network, named, resolution)
    metadata |= _class_metadata(named, class_names) | _input_metadata(normalization, crop, squash)
    metadata |= _training_metadata(training_resolution)
    exported = _build_model(named, arrays, batch, opset, metadata)
    if check:
        _check_model(exported, named, batch)
    if check and model is not None:
        size = named.in_shape[:2]
        check_agreement(to_bytes(exported), model, inputs, (size[0], size[1]), batch, tolerance)
    if path is not None:
        save(exported, path)
    return exported


def _weights_and_classes(
    model: Model, weights: Weights | None, classes: int
) -> tuple[Weights, int]:
    """Return the weights of a model and the number of its classes."""
    if weights is not None:
        raise ExportError("weights: the model brings its own")
    if classes not in (CLASSES, model.classes):
        raise ExportError(f"classes: {shorten(classes)}, but the model has {model.classes}")
    return model.weights(), model.classes


def _build_model(
    named: NamedBlocks,
    arrays: Mapping[str, Array],
    batch: int | None,
    opset: int,
    metadata: dict[str, str],
) -> onnx.ModelProto:
    model = helper.make_model(
        build(named, fold_blocks(named, arrays), batch, opset),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=OPSETS[opset],
        producer_name="lcnas",
        producer_version=lcnas.__version__,
    )
    helper.set_model_props(model, metadata)
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

    Examples:
        >>> from lcnas import blocks
        >>> from lcnas.arch import place
        >>> model = graph(place(blocks.DepthwiseSeparable(16, se=True), (14, 14, 8)))
        >>> [node.op_type for node in model.graph.node][:3]
        ['Conv', 'HardSwish', 'GlobalAveragePool']
    """
    return export(placed, weights=weights, batch=batch, opset=opset, seed=seed, check=check)


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return a model as the bytes of its file; equal models give equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def save(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model to a file atomically: to a temporary file beside it, which is then renamed.

    Raises:
        ExportError: the file cannot be written.
    """
    try:
        files.write(Path(path), to_bytes(model))
    except OSError as error:
        raise ExportWriteError(f"{path}: cannot be written: {error.strerror}") from None


# -- checks and metadata ---------------------------------------------------------------------------


def _check_settings(batch: int | None, opset: int) -> None:
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ExportError(f"batch: {shorten(batch)} is neither None nor a whole number from 1")
    if isinstance(opset, bool) or opset not in OPSETS:
        raise ExportError(not_among("opset", opset, OPSETS))


def _check_model(model: onnx.ModelProto, named: NamedBlocks, batch: int | None) -> None:
    """Check the model, and that ONNX infers the same output shape as the walk."""
    unshaped = onnx.ModelProto()
    unshaped.CopyFrom(model)
    unshaped.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(unshaped, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"ONNX's checker refuses the graph: {reason}") from None
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    shape = [dim.dim_param or dim.dim_value for dim in dims]
    if shape != value_shape(named.out_shape, batch):
        raise ExportError(
            f"the graph gives {shape}, the network {value_shape(named.out_shape, batch)}"
        )


def _network_metadata(
    source: NetworkOrBlocks, named: NamedBlocks, resolution: Resolution | None
) -> dict[str, str]:
    if isinstance(source, Arch):
        arch = source if resolution is None else source.at(resolution)
        return {"lcnas.arch": arch.to_json(), "lcnas.id": arch.id}
    placed = [
        {"block": vocabulary.to_data(p.block), "in_shape": list(p.in_shape)} for p in named.placed
    ]
    return {"lcnas.blocks": json.dumps(placed)}


def _class_metadata(named: NamedBlocks, class_names: Sequence[str] | None) -> dict[str, str]:
    if not named.has_classes:
        if class_names is not None:
            raise ExportError("class_names: the outputs are not classes")
        return {}
    (classes,) = named.out_shape
    metadata = {"lcnas.classes": str(classes)}
    if class_names is not None:
        if isinstance(class_names, str) or not all(isinstance(n, str) for n in class_names):
            raise ExportError(f"class_names: {shorten(class_names)} is not a list of texts")
        if len(class_names) != classes:
            raise ExportError(f"class_names: {len(class_names)} names for {classes} classes")
        metadata["lcnas.class_names"] = json.dumps(list(class_names), ensure_ascii=False)
    return metadata


def _training_metadata(resolution: Resolution | None) -> dict[str, str]:
    if resolution is None:
        return {}
    side = check_resolution(resolution, "training_resolution")
    return {"lcnas.training_resolution": json.dumps(side)}


def _input_metadata(
    normalization: Normalization | None, crop: float, squash: bool
) -> dict[str, str]:
    if normalization is None:
        if squash or crop != CROP:
            raise ExportError("crop, squash: are recorded beside a normalization; give that too")
        return {}
    try:
        recorded = {
            key: list(channel_values) for key, channel_values in _constants(normalization).items()
        }
        resize = {"squash": True} if squash else {"crop": check_crop(crop)}
    except ImageError as error:
        raise ExportError(str(error)) from None
    return {
        "lcnas.normalization": json.dumps(recorded),
        "lcnas.resize": json.dumps({**resize, "filter": "bilinear"}),
    }


def _constants(normalization: Normalization) -> dict[str, Sequence[float]]:
    channel_values: dict[str, Iterable[float]]
    if isinstance(normalization, Mapping):
        channel_values = dict(normalization)
    else:
        channel_values = {"mean": normalization.mean, "std": normalization.std}
    if set(channel_values) != {"mean", "std"}:
        raise ExportError(
            f"normalization: its keys are mean and std, got {shorten(list(channel_values))}"
        )
    return {key: constants(channel_values[key], f"normalization: {key}") for key in ("mean", "std")}


__getattr__ = renamed.in_module(
    __name__,
    {
        "Run": "ModelRunner",
        "Source": "NetworkOrBlocks",
        "Start": "RunnerFactory",
        "check_pictures": "check_images",
        "read_picture": "read_image",
    },
)
