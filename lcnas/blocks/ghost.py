"""GhostNet's module and bottleneck (arXiv 1911.11907)."""

from __future__ import annotations

from dataclasses import dataclass

from lcnas import layers
from lcnas.blocks._base import (
    Activation,
    Block,
    Kernel,
    Stride,
    Width,
    channels_of,
    make_divisible,
    pair,
    register,
)
from lcnas.blocks._parts import chain, depthwise, pointwise
from lcnas.errors import BlockError


def _ghost(width: int, act: str) -> layers.Layer:
    """Return a 1x1 convolution to half of the width, concatenated with a 3x3 depthwise one of it."""
    half = width // 2
    cheap = depthwise(half, 3, act=act)
    return layers.Chain((pointwise(half, act), layers.Concat((layers.Identity(), cheap))))


def _check_even(block: Block, name: str, value: int) -> None:
    if value % 2:
        raise BlockError(f"{block.type}.{name}: {value} is not even")


@register("ghost_module")
@dataclass(frozen=True, repr=False)
class GhostModule(Block):
    """The ghost module (figure 1b), ratio 2: half of the maps are computed cheaply from the other half."""

    width: Width  # output channels, even
    act: Activation = "relu"

    def check(self) -> None:
        _check_even(self, "width", self.width)

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels_of(self, in_shape)
        return _ghost(self.width, self.act)


@register("ghost_bottleneck")
@dataclass(frozen=True, repr=False)
class GhostBottleneck(Block):
    """The ghost bottleneck (figure 3): ghost module, [strided depthwise], [SE], ghost module, shortcut.

    Where stride or channels change, the shortcut is a depthwise and a pointwise convolution.
    """

    width: Width  # output channels, even
    expanded: Width  # channels between the two modules, even
    kernel: Kernel = 3  # of the strided depthwise convolution and of the shortcut's
    stride: Stride = 1
    se: bool = False  # a quarter of the expanded channels, rounded to a multiple of 4

    def check(self) -> None:
        _check_even(self, "width", self.width)
        _check_even(self, "expanded", self.expanded)

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        strided = pair(self.stride) != (1, 1)
        hidden = make_divisible(self.expanded / 4, 4)
        body = chain(
            _ghost(self.expanded, "relu"),
            depthwise(self.expanded, self.kernel, self.stride) if strided else None,
            layers.SqueezeExcite(hidden) if self.se else None,
            _ghost(self.width, "identity"),
        )
        side: layers.Layer = layers.Identity()
        if strided or channels != self.width:
            side = chain(depthwise(channels, self.kernel, self.stride), pointwise(self.width))
        return layers.Add((side, body))
