"""Reference in NumPy, in float64, with the weights of training: norms and branches are not merged.

It follows the docstrings of the primitive layers and of `onnx_export.names`, and shares no code with the
exporter. Images are (height, width, channels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import special

from lcnas.arch import PlacedBlock

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": special.expit,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * (1 + special.erf(x / np.sqrt(2))) / 2,
}


def convolve(x, kernel, stride, padding, groups):
    """Return a convolution of (height, width, channels) with a (kh, kw, in / groups, out) kernel."""
    top, bottom, left, right = padding
    x = np.pad(x, ((top, bottom), (left, right), (0, 0)))
    kh, kw, group_size, width = kernel.shape
    windows = sliding_window_view(x, (kh, kw), axis=(0, 1))[:: stride[0], :: stride[1]]
    oh, ow = windows.shape[:2]  # windows: (oh, ow, channels, kh, kw)
    flat_windows = windows.reshape(oh * ow, groups, group_size * kh * kw).swapaxes(0, 1)
    flat_kernel = kernel.transpose(2, 0, 1, 3).reshape(
        group_size * kh * kw, groups, width // groups
    )
    out = flat_windows @ flat_kernel.swapaxes(0, 1)  # (groups, oh * ow, out / groups)
    return out.swapaxes(0, 1).reshape(oh, ow, width)


class Reference:
    """Runs primitive layers with a mapping of weights."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}

    def run(self, layer, x, path):
        return getattr(self, type(layer).__name__.lower())(layer, x, path)

    def get(self, path, *names):
        return [self.weights[f"{path}/{name}"] for name in names]

    def batchnorm(self, _, x, path):
        scale, shift, mean, var = self.get(path, "scale", "shift", "mean", "var")
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    def before_act(self, layer, x, path):
        (kernel,) = self.get(path, "kernel")
        y = convolve(x, kernel, layer.stride, layer.padding, layer.groups)
        if layer.bias:
            y = y + self.get(path, "bias")[0]
        return self.batchnorm(None, y, path) if layer.norm else y

    def after_conv(self, layer, y, path):
        y = ACTIVATIONS[layer.act](y)
        if not layer.affine:
            return y
        gain, offset = self.get(path, "gain", "offset")
        return y * gain + offset

    def conv(self, layer, x, path):
        return self.after_conv(layer, self.before_act(layer, x, path), path)

    def reparam(self, layer, x, path):
        total: Any = 0
        for i, branch in enumerate(layer.branches):
            is_conv = type(branch).__name__ == "Conv"
            run = self.before_act if is_conv else self.batchnorm
            total = total + run(branch, x, f"{path}/branch{i}")
        return self.after_conv(layer.merged, total, path)

    def squeezeexcite(self, layer, x, path):
        v = x.mean(axis=(0, 1))
        for part, act in (("reduce", layer.act), ("expand", layer.gate)):
            kernel, bias = self.get(f"{path}/{part}", "kernel", "bias")
            v = ACTIVATIONS[act](v @ kernel[0, 0] + bias)
        return x * v

    def linear(self, layer, x, path):
        kernel, bias = self.get(path, "kernel", "bias")
        return ACTIVATIONS[layer.act](x @ kernel + bias)

    def pool(self, layer, x, _):
        top, bottom, left, right = layer.padding
        (kh, kw), (sh, sw) = layer.kernel, layer.stride
        rows = self.starts(x.shape[0], kh, sh, top, bottom, layer.ceil)
        columns = self.starts(x.shape[1], kw, sw, left, right, layer.ceil)
        reduce: Any = np.max if layer.mode == "max" else np.mean
        cut = [
            [x[max(r, 0) : max(r + kh, 0), max(c, 0) : max(c + kw, 0)] for c in columns]
            for r in rows
        ]
        return np.array([[reduce(window, axis=(0, 1)) for window in row] for row in cut])

    @staticmethod
    def starts(size, kernel, stride, before, after, ceil):
        """Return the start of each window, relative to the image."""
        last = size + after - kernel  # the last start at which a window fits
        starts = list(range(-before, last + 1, stride))
        following = starts[-1] + stride
        if ceil and last > starts[-1] and following < size:
            starts.append(following)
        return starts

    def localresponsenorm(self, layer, x, _):
        half = layer.size // 2
        padded = np.pad(x**2, ((0, 0), (0, 0), (half, half)))
        energy = sliding_window_view(padded, layer.size, axis=2).sum(axis=-1)
        return x / (layer.bias + layer.alpha / layer.size * energy) ** layer.beta

    def channelshuffle(self, layer, x, _):
        n = x.shape[2] // layer.groups
        order = [g * n + i for i in range(n) for g in range(layer.groups)]
        return x[:, :, order]

    def act(self, layer, x, _):
        return ACTIVATIONS[layer.act](x)

    def globalpool(self, _, x, __):
        return x.mean(axis=(0, 1), keepdims=True)

    def flatten(self, _, x, __):
        return x if x.ndim == 1 else np.concatenate([x[..., c].ravel() for c in range(x.shape[2])])

    def identity(self, _, x, __):
        return x

    def dropout(self, _, x, __):
        return x

    def chain(self, layer, x, path):
        for i, inner in enumerate(layer.layers):
            x = self.run(inner, x, f"{path}/{i}")
        return x

    def branches(self, layer, inputs, path):
        work = enumerate(zip(layer.branches, inputs, strict=True))
        return [self.run(branch, x, f"{path}/{i}") for i, (branch, x) in work]

    def add(self, layer, x, path):
        outputs = self.branches(layer, [x] * len(layer.branches), path)
        return ACTIVATIONS[layer.act](sum(outputs))

    def concat(self, layer, x, path):
        outputs = self.branches(layer, [x] * len(layer.branches), path)
        return np.concatenate(outputs, axis=2)

    def split(self, layer, x, path):
        parts = np.split(x, np.cumsum(layer.sizes)[:-1], axis=2)
        return np.concatenate(self.branches(layer, parts, path), axis=2)


def run(
    placed: Sequence[PlacedBlock], names: Sequence[str], weights: Mapping[str, Any], images: Any
) -> Any:
    """Return the outputs for images (batch, channels, height, width), in the layout of ONNX."""
    reference, outputs = Reference(weights), []
    for image in images:
        x = np.asarray(image, np.float64).transpose(1, 2, 0)
        for name, block in zip(names, placed, strict=True):
            x = reference.run(block.layer, x, name)
        outputs.append(x.transpose(2, 0, 1) if x.ndim == 3 else x)
    return np.stack(outputs)
