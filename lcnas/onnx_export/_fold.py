"""Batch norms folded into convolutions, parallel branches merged into one: pure functions of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas import layers
from lcnas.arch import Resolution
from lcnas.errors import ExportError
from lcnas.layers import Layer, Shape
from lcnas.onnx_export._weights import (
    CLASSES,
    EPSILON,
    Array,
    Plan,
    Source,
    Weights,
    checked,
    conv_shapes,
    layer_shapes,
    plan,
)

Floats = NDArray[np.float64]
Folded = tuple[Floats, Floats | None]  # kernel (height, width, in / groups, out), bias (out,)

_AFFINE = ("gain", "offset")


def _under(weights: Weights, path: str) -> dict[str, Array]:
    """Return the weights below a path, by the rest of their names."""
    start = f"{path}/"
    return {name[len(start) :]: w for name, w in weights.items() if name.startswith(start)}


def fold_norm(norm: Mapping[str, ArrayLike]) -> tuple[Floats, Floats]:
    """Return batch norm as (factor, summand) of each channel, both (channels,).

    Args:
        norm: ``scale``, ``shift``, ``mean`` and ``var``, each (channels,); others are ignored.
    """
    scale, shift, mean, var = (
        np.asarray(norm[key], np.float64) for key in ("scale", "shift", "mean", "var")
    )
    factor = scale / np.sqrt(var + EPSILON)
    return factor, shift - mean * factor


def fold_conv(conv: layers.Conv, weights: Weights) -> Folded:
    """Return a convolution's kernel and bias with its batch norm folded in.

    Args:
        conv: the layer.
        weights: its weights by their last names: ``kernel``, ``bias``, ``scale``, ...
    """
    kernel: Floats = np.asarray(weights["kernel"], np.float64)
    bias = np.asarray(weights["bias"], np.float64) if conv.bias else None
    if not conv.norm:
        return kernel, bias
    factor, summand = fold_norm(weights)
    return kernel * factor, summand if bias is None else bias * factor + summand


def _norm_kernel(merged: layers.Conv, channels: int, factor: Floats) -> Floats:
    """Return batch norm as a 1x1 kernel: each channel from itself."""
    share = channels // merged.groups
    kernel = np.zeros((1, 1, share, channels))
    outs = np.arange(channels)
    kernel[0, 0, outs % share, outs] = factor
    return kernel


def merge(layer: layers.Reparam, channels: int, branches: Sequence[Weights]) -> Folded:
    """Return the one kernel and bias that compute the sum of the branches.

    A branch's kernel lies in the merged one where both read the same pixel: offset by the difference of
    their paddings.

    Args:
        layer: the re-parameterised convolution.
        channels: of its input.
        branches: the weights of each branch, by their last names.

    Raises:
        ExportError: a branch reads pixels that the merged convolution does not, or steps otherwise.
    """
    merged = layer.merged
    total = np.zeros(conv_shapes(merged, channels)["kernel"])
    bias = np.zeros(merged.width)
    for i, (branch, weights) in enumerate(zip(layer.branches, branches, strict=True)):
        if isinstance(branch, layers.Conv):
            kernel, summand = fold_conv(branch, weights)
        else:
            factor, summand = fold_norm(weights)
            kernel = _norm_kernel(merged, channels, factor)
        window = _window(total, kernel, merged, branch)
        if window is None:
            raise ExportError(f"branch {i} ({branch.kind}) of {merged} cannot be merged into it")
        window += kernel
        bias += 0 if summand is None else summand
    return total, bias


def _window(
    total: Floats, kernel: Floats, merged: layers.Conv, branch: layers.Conv | layers.BatchNorm
) -> Floats | None:
    """Return the part of the merged kernel that a branch's kernel adds to, or None where there is none."""
    if isinstance(branch, layers.BatchNorm):  # a 1x1 convolution of stride 1
        branch = layers.Conv(merged.width, groups=merged.groups)
    steps = (branch.stride, branch.groups) == (merged.stride, merged.groups)
    if not steps or branch.act != "identity" or branch.affine:
        return None
    top, left = (merged.padding[side] - branch.padding[side] for side in (0, 2))
    height, width = branch.kernel
    window = total[max(top, 0) : top + height, max(left, 0) : left + width]
    return window if min(top, left) >= 0 and window.shape == kernel.shape else None


def _fold_layer(layer: Layer, shape: Shape, own: dict[str, Array]) -> dict[str, Array]:
    """Return the weights that the layer has outside training, by their last names."""
    match layer:
        case layers.Conv():
            kernel, bias = fold_conv(layer, own)
        case layers.Reparam():
            branches = [_under(own, f"branch{i}") for i in range(len(layer.branches))]
            kernel, bias = merge(layer, shape[2], branches)
        case layers.BatchNorm():
            factor, summand = fold_norm(own)
            return {"scale": factor.astype(np.float32), "shift": summand.astype(np.float32)}
        case _:
            return own
    made = {"kernel": kernel.astype(np.float32)}
    if bias is not None:
        made["bias"] = bias.astype(np.float32)
    return made | {name: own[name] for name in _AFFINE if name in own}


def fold_plan(made: Plan, weights: Weights) -> dict[str, Array]:
    """Return the weights outside training of a plan; those given are not checked."""
    folded: dict[str, Array] = {}
    for path, layer, shape in made.leaves():
        own = {name: weights[f"{path}/{name}"] for name in layer_shapes(layer, shape)}
        for name, array in _fold_layer(layer, shape, own).items():
            folded[f"{path}/{name}"] = array
    return folded


def fold(
    source: Source,
    weights: Weights,
    classes: int = CLASSES,
    resolution: Resolution | None = None,
) -> dict[str, Array]:
    """Return the weights of the network as it is outside training: the initializers of its ONNX graph.

    Every convolution then has a ``kernel`` and, where it had a bias or batch norm, a ``bias``, also where
    it trained as branches; batch norm alone has ``scale`` and ``shift``; all else is as it was. Computed
    in float64 and rounded once.

    Raises:
        ExportError: the weights do not fit, see :func:`lcnas.onnx_export.names`.
    """
    made = plan(source, classes, resolution)
    return fold_plan(made, checked(made, weights))
