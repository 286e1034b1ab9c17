"""Layouts of activations: the order of a map's axes, and windows of padded maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

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


def pad(x: Array, padding: Padding, layout: Layout) -> Array:
    if not any(padding):
        return x
    pads = [(0, 0, 0)] * 4
    pads[layout.height], pads[layout.width] = (*padding[:2], 0), (*padding[2:], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def out_size(size: int, kernel: int, stride: int) -> int:
    """Return the number of window positions along a padded side."""
    return (size - kernel) // stride + 1


def taps_of(xp: Array, kernel: Pair, stride: Pair, layout: Layout) -> list[Array]:
    """Return the part of a padded map that each tap of the kernel meets, row by row of the kernel."""
    h = out_size(xp.shape[layout.height], kernel[0], stride[0])
    w = out_size(xp.shape[layout.width], kernel[1], stride[1])
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            index: list[Any] = [slice(None)] * 4
            index[layout.height] = slice(i, i + (h - 1) * stride[0] + 1, stride[0])
            index[layout.width] = slice(j, j + (w - 1) * stride[1] + 1, stride[1])
            taps.append(xp[tuple(index)])
    return taps


def widened(x: Array) -> Array:
    """Return x in the type of sums: float32, or float64 if x is float64."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def channel_sum(x: Array, layout: Layout) -> Array:
    """Return the sum of each channel, at least in float32, in an order that vectorises."""
    x = widened(x)
    if layout.name == "NHWC":
        return x.reshape(-1, x.shape[3]).sum(axis=0)
    return x.sum(axis=(1, 2)).sum(axis=1)
