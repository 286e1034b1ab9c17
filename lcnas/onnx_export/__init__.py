"""ONNX graphs of networks, blocks and chains of blocks, and the names of their weights.

The input is called ``input``, (batch, channels, height, width) in float32, the output ``output``. Batch
norms are folded into convolutions and re-parameterised branches merged into one. Equal arguments give
equal bytes (:func:`to_bytes`), so that files can be compared by hash.

:func:`names` says which weights a network has, :func:`init` draws some, :func:`fold` gives what is left
of them outside training.

Example:
    >>> from lcnas import zoo
    >>> model = export(zoo.load("pplcnet_0.25x", resolution=64), classes=10)
    >>> [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    [1, 10]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

import lcnas
from lcnas import blocks as vocabulary
from lcnas.arch import INPUT_CHANNELS, Arch, PlacedBlock, Resolution
from lcnas.errors import ExportError, not_among, shorten
from lcnas.onnx_export._fold import fold, fold_conv, fold_norm, fold_plan, merge
from lcnas.onnx_export._graph import build, value_shape
from lcnas.onnx_export._weights import (
    CLASSES,
    EPSILON,
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
    "EPSILON",
    "OPSET",
    "OPSETS",
    "Source",
    "Weights",
    "block_names",
    "export",
    "fold",
    "fold_conv",
    "fold_norm",
    "graph",
    "init",
    "merge",
    "names",
    "save",
    "to_bytes",
]

OPSETS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}  # operator set -> version of the file format (IR)
OPSET = 17  # all that is needed; what every engine of the last years reads


def export(
    source: Source,
    path: str | Path | None = None,
    *,
    weights: Weights | None = None,
    classes: int = CLASSES,
    resolution: Resolution | None = None,
    batch: int | None = 1,
    opset: int = OPSET,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    normalization: Mapping[str, Sequence[float]] | None = None,
    check: bool = True,
) -> onnx.ModelProto:
    """Return the ONNX model of a network, and write it to ``path``.

    The metadata carry what a reader needs to use the model: ``lcnas.version``; of an arch ``lcnas.arch``
    (its JSON), ``lcnas.id``; of placed blocks ``lcnas.blocks``; ``lcnas.classes`` where the outputs are
    classes, ``lcnas.class_names`` and ``lcnas.normalization`` (JSON) where they were given.

    Args:
        source: a network, a placed block, or placed blocks of which each takes what the one before gives.
        path: file to write, beside first and then renamed; None: none.
        weights: name -> float32 array, as :func:`names` lists them; None: random ones, see :func:`init`.
        classes: outputs of an arch's last layer.
        resolution: pixels, of an arch, a side or (height, width); None: its own.
        batch: pictures at once; None: any number.
        opset: version of the operator set, one of OPSETS.
        seed: of the random weights.
        class_names: the name of each class, in order.
        normalization: ``mean`` and ``std`` of each channel: the input is (value / 255 - mean) / std.
        check: run ONNX's checker and its inference of shapes over the result.

    Raises:
        ExportError: arguments or weights that do not fit, a layer that ONNX cannot express, a path that
            cannot be written.
        ArchError: the blocks of the arch do not fit each other.
    """
    _check_settings(batch, opset)
    made = plan(source, classes, resolution)
    if weights is None:
        arrays = drawn(made, np.random.default_rng(seed))
    else:
        arrays = checked(made, weights)
    model = helper.make_model(
        build(made, fold_plan(made, arrays), batch, opset),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=OPSETS[opset],
        producer_name="lcnas",
        producer_version=lcnas.__version__,
    )
    about = {"lcnas.version": lcnas.__version__} | _about(source, made, resolution)
    about |= _about_classes(made, class_names) | _about_input(normalization)
    helper.set_model_props(model, about)
    if check:
        _check_model(model, made, batch)
    if path is not None:
        save(model, path)
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
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from None


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


def _about_input(normalization: Mapping[str, Sequence[float]] | None) -> dict[str, str]:
    if normalization is None:
        return {}
    if set(normalization) != {"mean", "std"}:
        raise ExportError(
            f"normalization: its keys are mean and std, got {shorten(list(normalization))}"
        )
    made = {key: _of_channels(normalization[key], key) for key in ("mean", "std")}
    if min(made["std"]) <= 0:
        raise ExportError(f"normalization: std: {shorten(made['std'])} is not positive")
    return {"lcnas.normalization": json.dumps(made)}


def _of_channels(values: Sequence[float], key: str) -> list[float]:
    try:
        made = [float(v) for v in values]
    except (TypeError, ValueError):
        made = []
    if len(made) != INPUT_CHANNELS or not np.isfinite(made).all():
        raise ExportError(
            f"normalization: {key}: {shorten(values)} is not one number for each of the "
            f"{INPUT_CHANNELS} channels"
        )
    return made
