"""Forward and backward pass of a network at initialisation in NumPy, layer by layer along the walk.

Each network is scored once, and XLA takes ten times as long to compile its gradient as NumPy takes to compute
it. Tests compare outputs and gradients with those of :mod:`lcnas.models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lcnas import layers, onnx_export
from lcnas.arch import Arch, walk
from lcnas.errors import TrainingError
from lcnas.layers import Layer, Shape
from lcnas.training.proxies import _maps
from lcnas.training.proxies._maps import Array, Back, Step

Weights = Mapping[str, Array]
Patterns = list[NDArray[np.bool_]]  # one per activation layer, (units, n)

# Activations with patterns. All are positive exactly where their input is.
SIGNED = ("relu", "relu6", "hard_swish", "silu", "gelu")


def drawn(arch: Arch, classes: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return initial weights by the names of :func:`lcnas.onnx_export.names`, distributed as in lcnas.models.

    Kernels of convolutions are normal with variance 2 / fan-in (He et al., arXiv 1502.01852), those of linear
    layers uniform (Glorot and Bengio 2010); norms and affines are identities, biases 0.
    """
    shapes = onnx_export.names(arch, classes)
    return {name: _weight(name.rpartition("/")[2], shape, rng) for name, shape in shapes.items()}


def _weight(kind: str, shape: Shape, rng: np.random.Generator) -> NDArray[np.float32]:
    if kind != "kernel":
        return np.full(shape, kind in ("scale", "gain", "var"), np.float32)
    if len(shape) == 2:
        limit = math.sqrt(6 / sum(shape))
        return rng.uniform(-limit, limit, shape).astype(np.float32)
    normal: NDArray[np.float32] = rng.standard_normal(shape, np.float32)
    return np.float32(math.sqrt(2 / math.prod(shape[:-1]))) * normal


@dataclass
class Pass:
    """Forward and backward pass of a batch through a network.

    Dropout is off, so that scores are deterministic. With ``linear``, every layer is linear: norms,
    activations and squeeze-and-excite are identities, and biases 0.
    """

    weights: Weights
    linear: bool = False
    patterns: Patterns = field(default_factory=list)
    gradients: dict[str, Array] = field(
        default_factory=dict
    )  # of kernels, set by the backward pass

    def run(self, arch: Arch, classes: int, images: Array) -> tuple[Array, Back]:
        """Return the logits (n, classes), and the backward pass of their gradient.

        Args:
            arch: the network, at the images' size.
            classes: outputs of the last layer.
            images: (n, height, width, 3).
        """
        x = np.ascontiguousarray(images.transpose(3, 1, 2, 0))
        backs = []
        for name, placed in zip(
            onnx_export.block_names(arch), walk(arch, None, classes), strict=True
        ):
            x, back = self.layer(placed.layer, x, name)
            backs.append(back)
        if x.ndim != 2:
            raise TrainingError(f"scores: {arch!r} gives a map, not one value per class")
        return x.T, lambda by_logits: _through(backs, np.ascontiguousarray(by_logits.T))

    # -- layers --

    def layer(self, layer: Layer, x: Array, path: str) -> Step:
        """Return a layer's output, and its backward pass."""
        match layer:
            case layers.Chain():
                return self._chain(layer, x, path)
            case layers.Add() | layers.Concat() | layers.Split():
                return self._joined(layer, x, path)
            case layers.Conv():
                return self._activated(layer, *self._conv(layer, x, path), path)
            case layers.Reparam():
                return self._reparam(layer, x, path)
            case layers.BatchNorm():
                return self._norm(x, path)
            case layers.SqueezeExcite():
                return (x, _maps.passed) if self.linear else self._squeeze(layer, x, path)
            case layers.Linear():
                y, back = _maps.linear(x, self.weights[f"{path}/kernel"], self._keep(path))
                return self._then(back, *self._act(self._biased(y, path), layer.act))
        return self._without_weights(layer, x)

    def _without_weights(self, layer: Layer, x: Array) -> Step:
        """Return the output of a layer without weights."""
        match layer:
            case layers.Act():
                return self._act(x, layer.act)
            case layers.Pool():
                return _maps.pool(x, layer)
            case layers.GlobalPool():
                return _maps.spatial_mean(x)
            case layers.Flatten():
                return _maps.flatten(x)
            case layers.ChannelShuffle():
                return _maps.channel_shuffle(x, layer.groups)
            case layers.LocalResponseNorm() if not self.linear:
                return _maps.local_response_norm(x, layer)
            case layers.Identity() | layers.Dropout() | layers.LocalResponseNorm():
                return x, _maps.passed
        raise TrainingError(f"scores: the layer {layer.kind!r} is not known")

    def _keep(self, path: str) -> partial[None]:
        return partial(self.gradients.__setitem__, f"{path}/kernel")

    @staticmethod
    def _then(back: Back, y: Array, back_after: Back) -> Step:
        """Return the composition of two steps."""
        return y, lambda dy: back(back_after(dy))

    def _biased(self, y: Array, path: str) -> Array:
        bias = None if self.linear else self.weights.get(f"{path}/bias")
        return y if bias is None else y + _maps.per_channel(bias, y.ndim)

    def _act(self, x: Array, name: str) -> Step:
        if self.linear:
            return x, _maps.passed
        y, back = _maps.activation(x, name)
        if name in SIGNED:
            self.patterns.append((y > 0).reshape(-1, y.shape[-1]))
        return y, back

    def _norm(self, x: Array, path: str) -> Step:
        if self.linear:
            return x, _maps.passed
        return _maps.batch_norm(x, self.weights[f"{path}/scale"], self.weights[f"{path}/shift"])

    def _conv(self, conv: layers.Conv, x: Array, path: str) -> Step:
        """Return a convolution with its bias or norm, without the activation."""
        y, back = _maps.convolution(x, self.weights[f"{path}/kernel"], conv, self._keep(path))
        y = self._biased(y, path)
        return self._then(back, *self._norm(y, path)) if conv.norm else (y, back)

    def _activated(self, conv: layers.Conv, y: Array, back: Back, path: str) -> Step:
        """Return a convolution with its activation and affine."""
        y, back = self._then(back, *self._act(y, conv.act))
        if not conv.affine or self.linear:
            return y, back
        gain = self.weights[f"{path}/gain"]
        return y * gain + self.weights[f"{path}/offset"], lambda dy: back(dy * gain)

    def _reparam(self, layer: layers.Reparam, x: Array, path: str) -> Step:
        def branch(number: int) -> Step:
            inner, name = layer.branches[number], f"{path}/branch{number}"
            return (
                self._conv(inner, x, name)
                if isinstance(inner, layers.Conv)
                else self._norm(x, name)
            )

        y, back = _summed([branch(number) for number in range(len(layer.branches))])
        return self._activated(layer.merged, y, back, path)

    def _squeeze(self, layer: layers.SqueezeExcite, x: Array, path: str) -> Step:
        v, back = _maps.spatial_mean(x)
        for part, act in (("reduce", layer.act), ("expand", layer.gate)):
            v, back = self._then(back, *self._dense(v, f"{path}/{part}"))
            v, back = self._then(back, *self._gate_or_act(v, act, part))
        gate, before = v, back

        def total(z: Array) -> Array:
            summed: Array = np.sum(z, axis=(1, 2), keepdims=True)
            return summed

        return x * gate, lambda dy: dy * gate + before(total(dy * x))

    def _dense(self, v: Array, path: str) -> Step:
        conv = layers.Conv(self.weights[f"{path}/kernel"].shape[-1], norm=False)
        y, back = _maps.convolution(v, self.weights[f"{path}/kernel"], conv, self._keep(path))
        return self._biased(y, path), back

    def _gate_or_act(self, v: Array, act: str, part: str) -> Step:
        return self._act(v, act) if part == "reduce" else _maps.activation(v, act)

    def _chain(self, chain: layers.Chain, x: Array, path: str) -> Step:
        backs = []
        for number, inner in enumerate(chain.layers):
            x, back = self.layer(inner, x, f"{path}/{number}")
            backs.append(back)
        return x, partial(_through, backs)

    def _joined(
        self, layer: layers.Add | layers.Concat | layers.Split, x: Array, path: str
    ) -> Step:
        branches = layer.branches
        inputs = [x] * len(branches)
        if isinstance(layer, layers.Split):
            inputs = np.split(x, np.cumsum(layer.sizes)[:-1])
        steps = [
            self.layer(inner, part, f"{path}/{number}")
            for number, (inner, part) in enumerate(zip(branches, inputs, strict=True))
        ]
        if isinstance(layer, layers.Add):
            y, back = _summed(steps)
            return self._then(back, *self._act(y, layer.act))
        cuts = np.cumsum([len(y) for y, _ in steps])[:-1]

        def back_each(dy: Array) -> list[Array]:
            pieces = zip(steps, np.split(dy, cuts), strict=True)
            return [back(np.ascontiguousarray(piece)) for (_, back), piece in pieces]

        joined = np.concatenate([y for y, _ in steps])
        if isinstance(layer, layers.Split):
            return joined, lambda dy: np.concatenate(back_each(dy))
        return joined, lambda dy: _total(back_each(dy))


def _through(backs: list[Back], dy: Array) -> Array:
    """Return the gradient by the input of a sequence of steps."""
    for back in reversed(backs):
        dy = back(dy)
    return dy


def _summed(steps: list[Step]) -> Step:
    """Return the sum of branches over one input."""
    return _total([y for y, _ in steps]), lambda dy: _total([back(dy) for _, back in steps])


def _total(parts: list[Array]) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
