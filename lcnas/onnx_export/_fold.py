"""Batch norms folded into convolutions, and parallel branches merged: pure functions of weights."""

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
    NamedBlocks,
    NetworkOrBlocks,
    Weights,
    checked_weights,
    conv_shapes,
    layer_shapes,
    named_blocks,
)

Floats = NDArray[np.float64]
Folded = tuple[Floats, Floats | None]  # kernel (height, width, in / groups, out), bias (out,)

_AFFINE = ("gain", "offset")


def _under(weights: Weights, path: str) -> dict[str, Array]:
    """Return the weights below a path; names are relative to it."""
    start = f"{path}/"
    return {name[len(start) :]: array for name, array in weights.items() if name.startswith(start)}


def fold_norm(norm: Mapping[str, ArrayLike]) -> tuple[Floats, Floats]:
    """Return batch norm as (factor, summand) for each channel, both (channels,).

    Args:
        norm: ``scale``, ``shift``, ``mean`` and ``var``, each (channels,); other keys are ignored.
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
        weights: its weights by the last part of their names: ``kernel``, ``bias``, ``scale``, ...
    """
    kernel: Floats = np.asarray(weights["kernel"], np.float64)
    bias = np.asarray(weights["bias"], np.float64) if conv.bias else None
    if not conv.norm:
        return kernel, bias
    factor, summand = fold_norm(weights)
    return kernel * factor, summand if bias is None else bias * factor + summand


def _norm_kernel(merged: layers.Conv, channels: int, factor: Floats) -> Floats:
    """Return batch norm as a 1x1 kernel that maps each channel to itself."""
    group_size = channels // merged.groups
    kernel = np.zeros((1, 1, group_size, channels))
    outputs = np.arange(channels)
    kernel[0, 0, outputs % group_size, outputs] = factor
    return kernel


def merge(layer: layers.Reparam, channels: int, branches: Sequence[Weights]) -> Folded:
    """Return the single kernel and bias that compute the sum of the branches.

    A branch's kernel is added to the merged kernel where both read the same pixel: its offset is the
    difference of their paddings.

    Args:
        layer: the re-parameterised convolution.
        channels: channels of its input.
        branches: weights of each branch, by the last part of their names.

    Raises:
        ExportError: a branch reads pixels that the merged convolution does not read, or has another stride.
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
    """Return the part of the merged kernel that a branch's kernel adds to; None if it does not fit."""
    if isinstance(branch, layers.BatchNorm):  # a 1x1 convolution of stride 1
        branch = layers.Conv(merged.width, groups=merged.groups)
    same_steps = (branch.stride, branch.groups) == (merged.stride, merged.groups)
    if not same_steps or branch.act != "identity" or branch.affine:
        return None
    top, left = (merged.padding[side] - branch.padding[side] for side in (0, 2))
    height, width = branch.kernel
    window = total[max(top, 0) : top + height, max(left, 0) : left + width]
    return window if min(top, left) >= 0 and window.shape == kernel.shape else None


def _fold_layer(layer: Layer, shape: Shape, weights: dict[str, Array]) -> dict[str, Array]:
    """Return the weights of the layer outside training, by the last part of their names."""
    match layer:
        case layers.Conv():
            kernel, bias = fold_conv(layer, weights)
        case layers.Reparam():
            branches = [_under(weights, f"branch{i}") for i in range(len(layer.branches))]
            kernel, bias = merge(layer, shape[2], branches)
        case layers.BatchNorm():
            factor, summand = fold_norm(weights)
            return {"scale": factor.astype(np.float32), "shift": summand.astype(np.float32)}
        case _:
            return weights
    folded = {"kernel": kernel.astype(np.float32)}
    if bias is not None:
        folded["bias"] = bias.astype(np.float32)
    return folded | {name: weights[name] for name in _AFFINE if name in weights}


def fold_blocks(named: NamedBlocks, weights: Weights) -> dict[str, Array]:
    """Return the weights of named blocks outside training; the given weights are not checked."""
    folded: dict[str, Array] = {}
    for path, layer, shape in named.leaves():
        layer_weights = {name: weights[f"{path}/{name}"] for name in layer_shapes(layer, shape)}
        for name, array in _fold_layer(layer, shape, layer_weights).items():
            folded[f"{path}/{name}"] = array
    return folded


def fold(
    source: NetworkOrBlocks,
    weights: Weights,
    classes: int = CLASSES,
    resolution: Resolution | None = None,
) -> dict[str, Array]:
    """Return the weights of a network outside training: the initializers of its ONNX graph.

    Every convolution has a ``kernel`` and, if it had a bias or batch norm, a ``bias``; branches are merged.
    A separate batch norm has ``scale`` and ``shift``. Other layers keep their weights. Results are computed
    in float64 and rounded once.

    Raises:
        ExportError: the weights do not fit; see :func:`lcnas.onnx_export.names`.
    """
    named = named_blocks(source, classes, resolution)
    return fold_blocks(named, checked_weights(named, weights))
