"""Depthwise convolution as sums of shifted maps, with gradients of the same form: XLA's are slow on a CPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from lcnas.layers import Padding, Pair
from lcnas.models.layouts import LAYOUTS, Array, Layout, channel_sum, pad, taps_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(x: Array, kernel: Array, stride: Pair, padding: Padding, layout: Layout) -> Array:
    """Return a depthwise convolution, as a sum of shifted maps; ``kernel`` is (k, k, 1, channels)."""
    return _shifted_sum(pad(x, padding, layout), kernel, stride, layout)


@jax.named_scope("depthwise")
def _shifted_sum(xp: Array, kernel: Array, stride: Pair, layout: Layout) -> Array:
    kh, kw = kernel.shape[:2]
    weights = kernel.reshape(kh * kw, -1)
    taps = taps_of(xp, (kh, kw), stride, layout)
    total = taps[0] * layout.per_channel(weights[0])
    for tap, w in zip(taps[1:], weights[1:], strict=True):
        total = total + tap * layout.per_channel(w)
    return total


def _depthwise_forward(
    x: Array, kernel: Array, stride: Pair, padding: Padding, layout: Layout
) -> tuple[Array, tuple[Array, Array]]:
    padded = pad(x, padding, layout)
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
    taps = taps_of(padded, (shape[0], shape[1]), stride, layout)
    sums = jnp.stack([channel_sum(tap * dy, layout) for tap in taps])
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
        return jnp.stack([channel_sum(s, LAYOUTS["CHWN"]) for s in sums])

    gradient: Array = lax.map(of_kernel_row, jnp.arange(kh))
    return gradient.reshape(shape).astype(padded.dtype)
