"""Operations on activations in two layouts, with custom gradients where XLA's are slow on a CPU.

On a CPU the layout is (channels, height, width, batch), "CHWN": the shifts of a depthwise convolution
are along leading axes, inner loops run over the batch, pointwise convolutions and their gradients are
single matrix products, and sums of a batch norm are sums of rows. Elsewhere it is "NHWC".

Every function takes the layout; weights are HWIO, statistics (channels,).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcnas import layers
from lcnas.layers import Padding, Pair

Array = jax.Array


@dataclass(frozen=True)
class Layout:
    """The order of a map's axes."""

    name: str
    channel: int
    height: int
    width: int
    batch: int

    @property
    def spatial(self) -> tuple[int, int]:
        return (self.height, self.width)

    def enter(self, x: Array) -> Array:
        """Return images (batch, height, width, channels) in this layout."""
        return x if self.name == "NHWC" else x.transpose(3, 1, 2, 0)

    def leave(self, x: Array) -> Array:
        """Return a map of this layout as (batch, height, width, channels)."""
        return x if self.name == "NHWC" else x.transpose(3, 1, 2, 0)

    def per_channel(self, v: Array, ndim: int = 4) -> Array:
        """Return (channels,) values in a shape that broadcasts to a map."""
        shape = [1] * ndim
        shape[self.channel] = v.shape[0]
        return v.reshape(shape)

    def others(self) -> tuple[int, ...]:
        """Return the axes that are not channels."""
        return tuple(axis for axis in range(4) if axis != self.channel)


LAYOUTS = {
    "CHWN": Layout("CHWN", channel=0, height=1, width=2, batch=3),
    "NHWC": Layout("NHWC", channel=3, height=1, width=2, batch=0),
}


def default_layout() -> str:
    """Return the layout that is fastest on JAX's default backend."""
    return "CHWN" if jax.default_backend() == "cpu" else "NHWC"


# -- activations -----------------------------------------------------------------------------------


def _hard_sigmoid(x: Array) -> Array:
    return jnp.clip(x * (1 / 6) + 0.5, 0.0, 1.0)


_ACTS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: jnp.maximum(x, 0.0),
    "relu6": lambda x: jnp.clip(x, 0.0, 6.0),
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def _slope_of(name: str) -> Callable[[Array], Array]:
    return lambda x: jax.jvp(_ACTS[name], (x,), (jnp.ones_like(x),))[1]


# Derivatives; at corners those of PyTorch.
_SLOPES: dict[str, Callable[[Array], Array]] = {
    "identity": jnp.ones_like,
    "relu": lambda x: (x > 0).astype(x.dtype),
    "relu6": lambda x: ((x > 0) & (x < 6)).astype(x.dtype),
    "hard_swish": lambda x: jnp.where(
        x >= 3, jnp.ones_like(x), jnp.where(x > -3, x * (1 / 3) + 0.5, jnp.zeros_like(x))
    ),
    "hard_sigmoid": lambda x: jnp.where((x > -3) & (x < 3), 1 / 6, 0.0).astype(x.dtype),
    "sigmoid": _slope_of("sigmoid"),
    "silu": _slope_of("silu"),
    "gelu": _slope_of("gelu"),
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def act(x: Array, name: str) -> Array:
    """Return an activation of :data:`lcnas.layers.ACTIVATIONS`, elementwise."""
    return _ACTS[name](x)


@act.defjvp
def _act_jvp(name: str, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    return act(x, name), t * _SLOPES[name](x)


# -- convolutions ----------------------------------------------------------------------------------


def convolution(
    x: Array, kernel: Array, stride: Pair, padding: Padding, groups: int, layout: Layout
) -> Array:
    """Return a convolution without bias, by the fastest algorithm that fits.

    Args:
        x: a map in ``layout``.
        kernel: (kernel height, kernel width, channels in / groups, channels out).
        stride: (vertical, horizontal).
        padding: (top, bottom, left, right), in pixels.
        groups: groups of channels; as many as input channels: depthwise.
        layout: layout of x and of the result.
    """
    channels, width = x.shape[layout.channel], kernel.shape[3]
    if groups == channels == width and kernel.shape[:2] != (1, 1):
        return depthwise(x, kernel, stride, padding, layout)
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == (0, 0, 0, 0):
        return pointwise(_every(x, stride, layout), kernel, layout)
    if layout.name == "CHWN" and groups == 1 and channels <= 4:
        return _stem(x, kernel, stride, padding)
    return _xla(x, kernel, stride, padding, groups, layout)


def _every(x: Array, stride: Pair, layout: Layout) -> Array:
    """Return every stride-th row and column."""
    if stride == (1, 1):
        return x
    index: list[Any] = [slice(None)] * 4
    index[layout.height] = slice(None, None, stride[0])
    index[layout.width] = slice(None, None, stride[1])
    return x[tuple(index)]


def _xla(
    x: Array, kernel: Array, stride: Pair, padding: Padding, groups: int, layout: Layout
) -> Array:
    """Return XLA's own convolution."""
    top, bottom, left, right = padding
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        ((top, bottom), (left, right)),
        dimension_numbers=(layout.name, "HWIO", layout.name),
        feature_group_count=groups,
    )


def pointwise(x: Array, kernel: Array, layout: Layout) -> Array:
    """Return a 1x1 convolution as a matrix product; ``kernel`` is (1, 1, in, out)."""
    w = kernel[0, 0]
    if layout.name == "NHWC":
        return lax.dot_general(x, w, (((3,), (0,)), ((), ())))
    product = _product(w, x.reshape(x.shape[0], -1))
    return product.reshape(w.shape[1], *x.shape[1:])


@jax.custom_vjp
@jax.named_scope("pointwise")
def _product(w: Array, x: Array) -> Array:
    """Return the transposed ``w`` (in, out) times ``x`` (in, n).

    The barrier keeps XLA from folding the transposition into the product, which is then slower.
    """
    turned: Array = lax.optimization_barrier(w.T)  # type: ignore[no-untyped-call]
    return turned @ x


@jax.named_scope("pointwise_gradient")
def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    w, x = saved
    return lax.dot_general(x, dy, (((1,), (1,)), ((), ()))), w @ dy


_product.defvjp(lambda w, x: (_product(w, x), (w, x)), _product_backward)


@jax.named_scope("stem")
def _stem(x: Array, kernel: Array, stride: Pair, padding: Padding) -> Array:
    """Return a CHWN convolution of few input channels: its windows, gathered, times the kernel.

    The image is first sorted by phases (row and column modulo the stride), so that the input of a tap of the
    kernel is a contiguous block.
    """
    kh, kw, channels, width = kernel.shape
    (sh, sw), (top, bottom, left, right) = stride, padding
    oh = _out(x.shape[1] + top + bottom, kh, sh)
    ow = _out(x.shape[2] + left + right, kw, sw)
    rows, columns = oh + (kh - 1) // sh, ow + (kw - 1) // sw  # of each phase
    ends = (rows * sh - x.shape[1] - top, columns * sw - x.shape[2] - left)
    pads = ((0, 0, 0), (top, ends[0], 0), (left, ends[1], 0), (0, 0, 0))
    padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
    phases = padded.reshape(channels, rows, sh, columns, sw, -1).transpose(2, 4, 0, 1, 3, 5)
    windows = [
        phases[i % sh, j % sw, :, i // sh : i // sh + oh, j // sw : j // sw + ow]
        for i in range(kh)
        for j in range(kw)
    ]
    seen = jnp.concatenate(windows)  # (kh * kw * channels, out height, out width, batch)
    w = kernel.reshape(1, 1, kh * kw * channels, width)
    return pointwise(seen, w, LAYOUTS["CHWN"])


def _padded(x: Array, padding: Padding, layout: Layout) -> Array:
    if not any(padding):
        return x
    pads = [(0, 0, 0)] * 4
    pads[layout.height], pads[layout.width] = (*padding[:2], 0), (*padding[2:], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _out(size: int, kernel: int, stride: int) -> int:
    """Return the number of window positions along a padded side."""
    return (size - kernel) // stride + 1


def _taps(xp: Array, kernel: Pair, stride: Pair, layout: Layout) -> list[Array]:
    """Return the part of a padded map that each tap of the kernel meets, row by row of the kernel."""
    h = _out(xp.shape[layout.height], kernel[0], stride[0])
    w = _out(xp.shape[layout.width], kernel[1], stride[1])
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            index: list[Any] = [slice(None)] * 4
            index[layout.height] = slice(i, i + (h - 1) * stride[0] + 1, stride[0])
            index[layout.width] = slice(j, j + (w - 1) * stride[1] + 1, stride[1])
            taps.append(xp[tuple(index)])
    return taps


# -- depthwise convolution -------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(x: Array, kernel: Array, stride: Pair, padding: Padding, layout: Layout) -> Array:
    """Return a depthwise convolution, as a sum of shifted maps; ``kernel`` is (k, k, 1, channels)."""
    return _shifted_sum(_padded(x, padding, layout), kernel, stride, layout)


@jax.named_scope("depthwise")
def _shifted_sum(xp: Array, kernel: Array, stride: Pair, layout: Layout) -> Array:
    kh, kw = kernel.shape[:2]
    weights = kernel.reshape(kh * kw, -1)
    taps = _taps(xp, (kh, kw), stride, layout)
    total = taps[0] * layout.per_channel(weights[0])
    for tap, w in zip(taps[1:], weights[1:], strict=True):
        total = total + tap * layout.per_channel(w)
    return total


def _depthwise_forward(
    x: Array, kernel: Array, stride: Pair, padding: Padding, layout: Layout
) -> tuple[Array, tuple[Array, Array]]:
    padded = _padded(x, padding, layout)
    return _shifted_sum(padded, kernel, stride, layout), (padded, kernel)


def _depthwise_backward(
    stride: Pair, padding: Padding, layout: Layout, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    padded, kernel = saved
    size = list(padded.shape)
    size[layout.height] -= padding[0] + padding[1]
    size[layout.width] -= padding[2] + padding[3]
    dx = _input_gradient(dy, kernel, tuple(size), stride, padding, layout)
    return dx, _kernel_gradient(padded, dy, kernel.shape, stride, layout)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@jax.named_scope("depthwise_input_gradient")
def _input_gradient(
    dy: Array, kernel: Array, size: tuple[int, ...], stride: Pair, padding: Padding, layout: Layout
) -> Array:
    """Return the gradient of a depthwise convolution's input.

    Input rows of one phase (their number modulo the stride) meet the same taps of the kernel: each phase is
    a sum of shifted maps, and the phases are interleaved at the end.
    """
    rows = _phases(size[layout.height], kernel.shape[0], stride[0], padding[0])
    columns = _phases(size[layout.width], kernel.shape[1], stride[1], padding[2])
    phases = [[_phase(dy, kernel, r, c, layout) for c in columns] for r in rows]
    joined = [_interleaved(line, layout.width) for line in phases]
    whole = _interleaved(joined, layout.height)
    return lax.slice(whole, (0,) * 4, size)


@dataclass(frozen=True)
class _Phase:
    """The rows (or columns) first, first + stride, ... of an input, and the taps that they meet."""

    count: int  # number of rows
    taps: range  # of the kernel
    start: int  # output row of row 0 of the phase at the first tap; one less for each further tap


def _phases(size: int, kernel: int, stride: int, before: int) -> list[_Phase]:
    count = -(-size // stride)
    phases = []
    for first in range(min(stride, size)):
        tap = (first + before) % stride
        phases.append(_Phase(count, range(tap, kernel, stride), (first + before - tap) // stride))
    return phases


def _phase(dy: Array, kernel: Array, rows: _Phase, columns: _Phase, layout: Layout) -> Array:
    """Return the gradient of the inputs of one phase."""
    ends: dict[int, tuple[_Phase, int]] = {
        layout.height: (rows, len(rows.taps)),
        layout.width: (columns, len(columns.taps)),
    }
    pads, shape = [(0, 0, 0)] * 4, list(dy.shape)
    for axis, (phase, taps) in ends.items():
        # Output rows start - (taps - 1) ... start + count - 1; those outside are zeros.
        before = taps - 1 - phase.start
        pads[axis] = (before, phase.start + phase.count - dy.shape[axis], 0)
        shape[axis] = phase.count
    if not rows.taps or not columns.taps:
        return jnp.zeros(shape, dy.dtype)
    padded = lax.pad(dy, jnp.zeros((), dy.dtype), pads)
    (i, down), (j, right) = ((t.start, t.step) for t in (rows.taps, columns.taps))
    seen = kernel[i::down, j::right][::-1, ::-1]
    return _shifted_sum(padded, seen, (1, 1), layout)


def _interleaved(parts: list[Array], axis: int) -> Array:
    """Return the parts' rows in turn: first of each, second of each, ..."""
    if len(parts) == 1:
        return parts[0]
    stacked = jnp.stack(parts, axis=axis + 1)
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return stacked.reshape(shape)


@jax.named_scope("depthwise_kernel_gradient")
def _kernel_gradient(
    padded: Array, dy: Array, shape: tuple[int, ...], stride: Pair, layout: Layout
) -> Array:
    """Return the gradient of a depthwise convolution's kernel."""
    if layout.name == "CHWN":
        return _kernel_gradient_by_rows(padded, dy, shape, stride)
    taps = _taps(padded, (shape[0], shape[1]), stride, layout)
    sums = jnp.stack([_channel_sum(tap * dy, layout) for tap in taps])
    return sums.reshape(shape).astype(padded.dtype)


_TERMS = 10  # products per loop; with more, XLA compiles longer and the step is not faster


def _kernel_gradient_by_rows(
    padded: Array, dy: Array, shape: tuple[int, ...], stride: Pair
) -> Array:
    """Return the kernel's gradient for CHWN: loops over the kernel's rows and a few rows of the map.

    XLA reduces over leading axes slowly, but adds (channels, 1, width, batch) slices fast. These are loops
    and not unrolled sums, because a longer program takes longer to compile.
    """
    kh, kw = shape[:2]
    rows = dy.shape[1]
    most = max(1, _TERMS // kw)
    together = max(n for n in range(1, min(most, rows) + 1) if rows % n == 0)
    width = (dy.shape[2] - 1) * stride[1] + 1

    def of_kernel_row(i: Array) -> Array:
        def more(step: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            at = [step * together + r for r in range(together)]
            seen = [lax.dynamic_slice_in_dim(padded, r * stride[0] + i, 1, axis=1) for r in at]
            gradients = [lax.dynamic_slice_in_dim(dy, r, 1, axis=1) for r in at]
            return tuple(
                functools.reduce(
                    jnp.add,
                    (
                        s[:, :, j : j + width : stride[1]] * g
                        for s, g in zip(seen, gradients, strict=True)
                    ),
                    total,
                )
                for j, total in enumerate(sums)
            )

        none = jnp.zeros((dy.shape[0], 1, *dy.shape[2:]), dy.dtype)
        sums = lax.fori_loop(0, rows // together, more, (none,) * kw)
        return jnp.stack([_channel_sum(s, LAYOUTS["CHWN"]) for s in sums])

    gradient: Array = lax.map(of_kernel_row, jnp.arange(kh))
    return gradient.reshape(shape).astype(padded.dtype)


def _wide(x: Array) -> Array:
    """Return x in the type of sums: float32, or float64 if x is float64."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _channel_sum(x: Array, layout: Layout) -> Array:
    """Return the sum of each channel, at least in float32, in an order that vectorises."""
    x = _wide(x)
    if layout.name == "NHWC":
        return x.reshape(-1, x.shape[3]).sum(axis=0)
    return x.sum(axis=(1, 2)).sum(axis=1)


# -- batch norm and activation ---------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def norm_act(
    x: Array,
    scale: Array,
    shift: Array,
    name: str,
    layout: Layout,
    epsilon: float,
    axis_name: str | None,
) -> tuple[Array, Array, Array]:
    """Return act(batch norm(x)), and the batch's mean and (biased) variance, (channels,) float32.

    The gradient saves the mean and 1/std and recomputes the activation; mean and variance are for
    running statistics and have no gradient.

    Args:
        x: a map in ``layout``.
        scale: scale of the norm, (channels,).
        shift: shift of the norm, (channels,).
        name: name of the activation.
        layout: layout of x and of the result.
        epsilon: added to the variance.
        axis_name: mapped axis that the statistics include; None: none.
    """
    y, mean, var, _ = _norm_act(x, scale, shift, name, layout, epsilon, axis_name)
    return y, mean, var


def _total(sums: Array, axis_name: str | None) -> Array:
    if axis_name is None:
        return sums
    total: Array = lax.psum(sums, axis_name)  # type: ignore[no-untyped-call]
    return total


def _mean_over(values: Array, axis_name: str) -> Array:
    return _total(values, axis_name) / lax.axis_size(axis_name)


def _count(x: Array, layout: Layout, axis_name: str | None) -> float:
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    return float(math.prod(x.shape) // x.shape[layout.channel] * devices)


def _moments(x: Array, layout: Layout) -> tuple[Array, Array]:
    """Return mean and variance of each channel, in one pass over the map.

    The sums are relative to one of the channel's values: around zero, a mean that is large relative to
    the deviation would lose the variance's digits.
    """
    at = layout.per_channel
    pivot = lax.stop_gradient(x[:, 0, 0, 0] if layout.name == "CHWN" else x[0, 0, 0, :])
    around = x - at(pivot)
    count = math.prod(x.shape) // x.shape[layout.channel]
    first = _channel_sum(around, layout) / count
    second = _channel_sum(around * around, layout) / count
    return pivot + first, jnp.maximum(second - first * first, 0.0)


@jax.named_scope("norm_act")
def _norm_act(
    x: Array,
    scale: Array,
    shift: Array,
    name: str,
    layout: Layout,
    epsilon: float,
    axis_name: str | None,
) -> tuple[Array, Array, Array, Array]:
    wide = _wide(x)
    mean, var = _moments(wide, layout)
    if axis_name is not None:
        own, mean = mean, _mean_over(mean, axis_name)
        var = _mean_over(var + (own - mean) ** 2, axis_name)
    rstd = lax.rsqrt(var + epsilon)
    at = layout.per_channel
    y = act((wide - at(mean)) * at(rstd * scale) + at(shift), name)
    return y.astype(x.dtype), mean, var, rstd


def _norm_act_forward(
    x: Array, scale: Array, shift: Array, *static: Any
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    y, mean, var, rstd = _norm_act(x, scale, shift, *static)
    return (y, mean, var), (x, scale, shift, mean, rstd)


@jax.named_scope("norm_act_gradient")
def _norm_act_backward(
    name: str,
    layout: Layout,
    _: float,
    axis_name: str | None,
    saved: tuple[Array, ...],
    gradients: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    x, scale, shift, mean, rstd = saved
    at = layout.per_channel
    dy = _wide(gradients[0])
    normal = (_wide(x) - at(mean)) * at(rstd)
    g = dy * _SLOPES[name](normal * at(scale) + at(shift))
    own = jnp.stack([_channel_sum(g, layout), _channel_sum(g * normal, layout)])
    d_shift, d_scale = own
    s1, s2 = _total(own, axis_name) / _count(x, layout, axis_name)
    dx = at(rstd * scale) * (g - at(s1) - normal * at(s2))
    return dx.astype(x.dtype), d_scale, d_shift


norm_act.defvjp(_norm_act_forward, _norm_act_backward)


def affine_act(
    x: Array,
    scale: Array,
    shift: Array,
    mean: Array,
    var: Array,
    name: str,
    layout: Layout,
    epsilon: float,
) -> Array:
    """Return act(batch norm(x)) with running statistics, as in evaluation."""
    factor = scale * lax.rsqrt(var + epsilon)
    offset = shift - mean * factor
    at = layout.per_channel
    return act(_wide(x) * at(factor) + at(offset), name).astype(x.dtype)


# -- the rest --------------------------------------------------------------------------------------


def spatial_mean(x: Array, layout: Layout) -> Array:
    """Return the mean over height and width; both axes are kept, with size 1."""
    count = x.shape[layout.height] * x.shape[layout.width]
    total = _wide(x).sum(axis=layout.spatial, keepdims=True)
    return (total / count).astype(x.dtype)


def flatten(x: Array, layout: Layout) -> Array:
    """Return (batch, features), with features in the order channels, height, width."""
    if x.ndim == 2:
        return x
    order = (3, 0, 1, 2) if layout.name == "CHWN" else (0, 3, 1, 2)
    return x.transpose(order).reshape(x.shape[layout.batch], -1)


def pool(x: Array, layer: layers.Pool, layout: Layout) -> Array:
    """Return max or average pooling; an average excludes the padding."""
    sides = (x.shape[layout.height], x.shape[layout.width], 1)
    out = layer.out_shape(sides)[:2]
    befores = (layer.padding[0], layer.padding[2])
    window, strides, pads = [1] * 4, [1] * 4, [(0, 0)] * 4
    for i, axis in enumerate(layout.spatial):
        window[axis], strides[axis] = layer.kernel[i], layer.stride[i]
        reach = (out[i] - 1) * layer.stride[i] + layer.kernel[i]
        pads[axis] = (befores[i], max(0, reach - sides[i] - befores[i]))
        x = lax.slice_in_dim(x, 0, min(sides[i], reach - befores[i]), axis=axis)
    if layer.mode == "max":
        return _windows(x, -np.inf, lax.max, window, strides, pads)
    inside = jnp.ones([n if a in layout.spatial else 1 for a, n in enumerate(x.shape)], x.dtype)
    count = _windows(inside, 0, lax.add, window, strides, pads)
    return _windows(x, 0, lax.add, window, strides, pads) / count


def _windows(x: Array, start: float, *how: Any) -> Array:
    # A constant of NumPy: one of JAX's is traced, and then no gradient of the sum or maximum is known.
    reduced: Array = lax.reduce_window(x, np.array(start, x.dtype), *how)
    return reduced


def local_response_norm(x: Array, layer: layers.LocalResponseNorm, layout: Layout) -> Array:
    """Return local response normalisation over channels."""
    window, pads = [1] * 4, [(0, 0)] * 4
    window[layout.channel] = layer.size
    pads[layout.channel] = (layer.size // 2, (layer.size - 1) // 2)
    energy = _windows(x * x, 0, lax.add, window, (1,) * 4, pads)
    return x / (layer.bias + (layer.alpha / layer.size) * energy) ** layer.beta


def channel_shuffle(x: Array, groups: int, layout: Layout) -> Array:
    """Return the channels as (groups, n), transposed to (n, groups)."""
    axis = layout.channel
    shape = list(x.shape)
    split = [*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]]
    return jnp.swapaxes(x.reshape(split), axis, axis + 1).reshape(shape)
