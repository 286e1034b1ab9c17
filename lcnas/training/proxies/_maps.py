"""The primitive layers in NumPy, each with its backward pass.

Maps are (channels, height, width, n), flat features (features, n). A function returns its output and a
:data:`Back`, a function from the gradient by the output to the gradient by the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import layers, onnx_export
from lcnas.layers import Padding, Pair

Array = NDArray[Any]  # float32 or float64
Back = Callable[[Array], Array]
Step = tuple[Array, Back]

EPSILON = onnx_export.EPSILON  # of every batch norm, added to the variance


# -- windows ---------------------------------------------------------------------------------------


class Windows:
    """The views of a map through the taps of a kernel, and the backward pass.

    Args:
        shape: shape of the map, (channels, height, width, n).
        kernel: (height, width).
        stride: (vertical, horizontal).
        padding: (top, bottom, left, right).
        out: (height, width) of the result.
    """

    def __init__(
        self, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Padding, out: Pair
    ) -> None:
        self.shape, self.stride, self.out = shape, stride, out
        self.taps = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
        self.before = (padding[0], padding[2])
        reach = [(o - 1) * s + k for o, s, k in zip(out, stride, kernel, strict=True)]
        sides = [
            max(r, b + side) for r, b, side in zip(reach, self.before, shape[1:3], strict=True)
        ]
        self.padded = (shape[0], *sides, shape[3])

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """Return the padded map (including what windows cover beyond it, if sizes are rounded up)."""
        if self.padded == self.shape:
            return x
        padded = np.full(self.padded, value, x.dtype)
        self._middle(padded)[...] = x
        return padded

    def _middle(self, padded: Array) -> Array:
        (top, left), (_, height, width, _) = self.before, self.shape
        return padded[:, top : top + height, left : left + width]

    def seen(self, padded: Array, tap: Pair) -> Array:
        """Return a tap's view of a padded map, (channels, out height, out width, n)."""
        (i, j), (sh, sw), (oh, ow) = tap, self.stride, self.out
        return padded[..., i : i + (oh - 1) * sh + 1 : sh, j : j + (ow - 1) * sw + 1 : sw, :]

    def gather(self, parts: Callable[[int], Array], dtype: Any) -> Array:
        """Return the gradient by the map, from the gradients by each tap's view."""
        total = np.zeros(self.padded, dtype)
        for number, tap in enumerate(self.taps):
            self.seen(total, tap)[...] += parts(number)
        return self._middle(total)


# -- convolutions and products ---------------------------------------------------------------------


def convolution(x: Array, kernel: Array, conv: layers.Conv, keep: Callable[[Array], None]) -> Step:
    """Return a convolution without bias; its backward pass calls ``keep`` with the kernel's gradient.

    It is one matrix product per group, of the kernel and the stacked views of its taps. The views are
    gathered again in the backward pass, since they take the map's memory times the number of taps.
    """
    groups, (kh, kw, share, width) = conv.groups, kernel.shape
    out = conv.out_shape((*x.shape[1:3], x.shape[0]))[:2]
    windows = Windows(x.shape, (kh, kw), conv.stride, conv.padding, (out[0], out[1]))
    matrix = kernel.reshape(kh * kw * share, groups, width // groups).transpose(1, 2, 0)
    y = (matrix @ _columns(x, windows, groups)).reshape(width, *out, x.shape[3])

    def back(dy: Array) -> Array:
        rows = dy.reshape(groups, width // groups, -1)
        by_kernel = rows @ _columns(x, windows, groups).swapaxes(1, 2)
        keep(by_kernel.transpose(2, 0, 1).reshape(kernel.shape))
        by_columns = matrix.swapaxes(1, 2) @ rows  # (groups, taps * share, out * n)
        parts = by_columns.reshape(groups, kh * kw, share, *out, x.shape[3])
        if len(windows.taps) == 1 and windows.padded[1:3] == windows.out:
            return parts.reshape(x.shape)
        seen = (x.shape[0], *out, x.shape[3])
        return windows.gather(lambda tap: parts[:, tap].reshape(seen), x.dtype)

    return y, back


def _columns(x: Array, windows: Windows, groups: int) -> Array:
    """Return the stacked views of the taps, (groups, taps * group channels, out height * out width * n)."""
    share, taps, out = x.shape[0] // groups, len(windows.taps), windows.out
    if taps == 1 and windows.padded[1:3] == out:
        return x.reshape(groups, share, -1)
    padded = windows.pad(x)
    padded = padded.reshape(groups, share, *padded.shape[1:])
    columns = np.empty((groups, taps, share, *out, x.shape[3]), x.dtype)
    for number, tap in enumerate(windows.taps):
        columns[:, number] = windows.seen(padded, tap)
    return columns.reshape(groups, taps * share, -1)


def linear(x: Array, kernel: Array, keep: Callable[[Array], None]) -> Step:
    """Return a fully connected layer without bias; ``kernel`` is (in, out)."""

    def back(dy: Array) -> Array:
        keep(x @ dy.T)
        dx: Array = kernel @ dy
        return dx

    return kernel.T @ x, back


# -- batch norm and activations --------------------------------------------------------------------


def per_channel(v: Array, ndim: int) -> Array:
    """Return (channels,) values in a shape that broadcasts over a map."""
    return v.reshape(-1, *[1] * (ndim - 1))


def batch_norm(x: Array, scale: Array, shift: Array) -> Step:
    """Return batch norm by the statistics of the batch, as in training."""
    others = tuple(range(1, x.ndim))
    normal = x - x.mean(axis=others, keepdims=True)
    rstd = 1 / np.sqrt(np.square(normal).mean(axis=others, keepdims=True) + EPSILON)
    normal *= rstd
    factor = per_channel(scale, x.ndim)

    def back(dy: Array) -> Array:
        mean = dy.mean(axis=others, keepdims=True)
        along = (dy * normal).mean(axis=others, keepdims=True)
        dx: Array = (dy - mean - normal * along) * (rstd * factor)
        return dx

    return normal * factor + per_channel(shift, x.ndim), back


def _cumulative(x: Array) -> Array:
    """Return the cumulative probability of a standard normal distribution."""
    from scipy import special

    y: Array = special.ndtr(x)
    return y


def _gelu_slope(x: Array) -> Array:
    slope: Array = _cumulative(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return slope


def _sigmoid(x: Array) -> Array:
    from scipy import special

    y: Array = special.expit(x)
    return y


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x * (1 / 6) + 0.5, 0, 1)


# value, derivative (at corners as in lcnas.models)
_ACTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: x > 0),
    "relu6": (lambda x: np.clip(x, 0, 6), lambda x: (x > 0) & (x < 6)),
    "hard_swish": (
        lambda x: x * _hard_sigmoid(x),
        lambda x: np.where(x >= 3, 1, np.where(x > -3, x * (1 / 3) + 0.5, 0)).astype(x.dtype),
    ),
    "hard_sigmoid": (_hard_sigmoid, lambda x: ((x > -3) & (x < 3)) * x.dtype.type(1 / 6)),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "silu": (
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
    ),
    "gelu": (lambda x: x * _cumulative(x), _gelu_slope),
}


def activation(x: Array, name: str) -> Step:
    """Return an activation of :data:`lcnas.layers.ACTIVATIONS`."""
    if name == "identity":
        return x, passed
    value, slope = _ACTS[name]
    return value(x).astype(x.dtype, copy=False), lambda dy: dy * slope(x)


def passed(dy: Array) -> Array:
    """Return the gradient unchanged."""
    return dy


# -- pooling and the rest --------------------------------------------------------------------------


def spatial_mean(x: Array) -> Step:
    """Return the mean over height and width, which keep size 1."""
    area = x.shape[1] * x.shape[2]
    return x.mean(axis=(1, 2), keepdims=True), lambda dy: np.broadcast_to(dy / area, x.shape)


def flatten(x: Array) -> Step:
    """Return (features, n), features in the order channels, height, width."""
    return x.reshape(-1, x.shape[-1]), lambda dy: dy.reshape(x.shape)


def pool(x: Array, layer: layers.Pool) -> Step:
    """Return max or average pooling; averages exclude the padding."""
    out = layer.out_shape((*x.shape[1:3], x.shape[0]))[:2]
    windows = Windows(x.shape, layer.kernel, layer.stride, layer.padding, (out[0], out[1]))
    return (_max if layer.mode == "max" else _average)(x, windows)


def _max(x: Array, windows: Windows) -> Step:
    padded = windows.pad(x, -np.inf)
    best = windows.seen(padded, windows.taps[0]).copy()
    which = np.zeros(best.shape, np.int16)  # index of the first tap with the maximum
    for number, tap in enumerate(windows.taps[1:], 1):
        seen = windows.seen(padded, tap)
        which[seen > best] = number
        np.maximum(best, seen, out=best)
    return best, lambda dy: windows.gather(lambda tap: dy * (which == tap), x.dtype)


def _average(x: Array, windows: Windows) -> Step:
    def total(padded: Array) -> Array:
        summed: Array = sum(windows.seen(padded, tap) for tap in windows.taps)  # type: ignore[assignment]
        return summed

    count = total(windows.pad(np.ones(x.shape, x.dtype)))
    return total(windows.pad(x)) / count, lambda dy: windows.gather(lambda _: dy / count, x.dtype)


def local_response_norm(x: Array, layer: layers.LocalResponseNorm) -> Step:
    """Return local response normalisation over channels."""
    before, after = layer.size // 2, (layer.size - 1) // 2
    share = layer.alpha / layer.size

    def window(v: Array, before: int, after: int) -> Array:
        padded = np.pad(v, ((before, after), (0, 0), (0, 0), (0, 0)))
        summed: Array = sum(padded[i : i + len(v)] for i in range(layer.size))  # type: ignore[assignment]
        return summed

    base = layer.bias + share * window(x * x, before, after)
    y = x * base**-layer.beta

    def back(dy: Array) -> Array:
        by_base = window(dy * x * base ** (-layer.beta - 1), after, before)
        dx: Array = dy * base**-layer.beta - 2 * share * layer.beta * x * by_base
        return dx

    return y, back


def channel_shuffle(x: Array, groups: int) -> Step:
    """Return the channels (groups, n), transposed to (n, groups)."""

    def turned(v: Array, first: int) -> Array:
        transposed = v.reshape(first, v.shape[0] // first, *v.shape[1:]).swapaxes(0, 1)
        return transposed.reshape(v.shape)

    return turned(x, groups), lambda dy: turned(dy, x.shape[0] // groups)
