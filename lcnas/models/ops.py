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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcnas import layers
from lcnas.layers import Padding, Pair
from lcnas.models.depthwise import depthwise
from lcnas.models.layouts import (
    LAYOUTS,
    Array,
    Layout,
    channel_sum,
    out_size,
    widened,
)

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
    oh = out_size(x.shape[1] + top + bottom, kh, sh)
    ow = out_size(x.shape[2] + left + right, kw, sw)
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
    first = channel_sum(around, layout) / count
    second = channel_sum(around * around, layout) / count
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
    wide = widened(x)
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
    dy = widened(gradients[0])
    normal = (widened(x) - at(mean)) * at(rstd)
    g = dy * _SLOPES[name](normal * at(scale) + at(shift))
    own = jnp.stack([channel_sum(g, layout), channel_sum(g * normal, layout)])
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
    return act(widened(x) * at(factor) + at(offset), name).astype(x.dtype)


# -- the rest --------------------------------------------------------------------------------------


def spatial_mean(x: Array, layout: Layout) -> Array:
    """Return the mean over height and width; both axes are kept, with size 1."""
    count = x.shape[layout.height] * x.shape[layout.width]
    total = widened(x).sum(axis=layout.spatial, keepdims=True)
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
