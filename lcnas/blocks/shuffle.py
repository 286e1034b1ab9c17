"""The units of ShuffleNet V1 and V2, with channel shuffle."""

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
    pair,
    register,
)
from lcnas.blocks._parts import chain, depthwise, pointwise, with_shortcut
from lcnas.errors import BlockError, ShapeError


@register("shufflenet_v1_unit")
@dataclass(frozen=True, repr=False)
class ShuffleV1Unit(Block):
    """ShuffleNet V1 (arXiv 1707.01083, figure 2): grouped 1x1, shuffle, depthwise, grouped 1x1.

    At stride 1 the input is added, at stride 2 its 3x3 average is concatenated; ReLU after both. The
    bottleneck is a quarter of the width. ``first_groups`` is 1 in the first unit of the paper's stage 2.
    """

    width: Width  # output channels
    groups: Width = 3
    first_groups: Width = 3  # of the first 1x1 convolution
    kernel: Kernel = 3
    stride: Stride = 1

    def check(self) -> None:
        if self.width < 4:
            raise BlockError(f"{self.type}.width: {self.width} has no quarter; at least 4")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        strided = pair(self.stride) != (1, 1)
        body_width = self.width - channels if strided else self.width
        if body_width < 1:
            raise ShapeError(
                f"{self.type}: width {self.width} leaves nothing beside {channels} channels"
            )
        hidden = self.width // 4
        body = layers.Chain(
            (
                pointwise(hidden, "relu", self.first_groups),
                layers.ChannelShuffle(self.groups),
                depthwise(hidden, self.kernel, self.stride),
                pointwise(body_width, groups=self.groups),
            )
        )
        if not strided:
            return with_shortcut(self, body, in_shape, "relu")
        pool = layers.Pool("avg", (3, 3), pair(self.stride), (1, 1, 1, 1))
        return layers.Chain((layers.Concat((pool, body)), layers.Act("relu")))


@register("shufflenet_v2_unit")
@dataclass(frozen=True, repr=False)
class ShuffleV2Unit(Block):
    """ShuffleNet V2 (arXiv 1807.11164, figure 3): half of the channels pass, half are computed; shuffle.

    At stride 2, or where the width changes, both halves are computed from the whole input.
    """

    width: Width  # output channels, even
    kernel: Kernel = 3
    stride: Stride = 1
    act: Activation = "relu"

    def check(self) -> None:
        if self.width % 2:
            raise BlockError(f"{self.type}.width: {self.width} is not even")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        half = self.width // 2
        main = chain(
            pointwise(half, self.act),
            depthwise(half, self.kernel, self.stride),
            pointwise(half, self.act),
        )
        if pair(self.stride) == (1, 1) and channels == self.width:
            joined: layers.Layer = layers.Split((half, half), (layers.Identity(), main))
        else:
            side = chain(depthwise(channels, self.kernel, self.stride), pointwise(half, self.act))
            joined = layers.Concat((side, main))
        return layers.Chain((joined, layers.ChannelShuffle(2)))
