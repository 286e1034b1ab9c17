"""Blocks of larger classic networks: ResNet's basic block, GoogLeNet's inception, PP-HGNetV2's blocks."""

from __future__ import annotations

from dataclasses import dataclass

from lcnas import layers
from lcnas.blocks._base import (
    Block,
    Kernel,
    Stride,
    Width,
    channels_of,
    pair,
    register,
)
from lcnas.blocks._parts import chain, depthwise, pointwise
from lcnas.errors import BlockError
from lcnas.layers import Chain, Concat, Conv, Identity, Layer, Shape, same_padding


def _conv(
    width: int, kernel: int, stride: int | layers.Pair = 1, act: str = "relu", affine: bool = False
) -> Conv:
    size = pair(kernel)
    return Conv(width, size, pair(stride), same_padding(size), act=act, affine=affine)


@register("basic_block")
@dataclass(frozen=True, repr=False)
class BasicBlock(Block):
    """ResNet's basic block (arXiv 1512.03385, figure 5): two 3x3 convolutions and a shortcut.

    Where stride or channels change, the shortcut is a strided 1x1 convolution (the paper's
    option B).
    """

    width: Width  # output channels
    stride: Stride = 1

    def lower(self, in_shape: Shape) -> Layer:
        channels = channels_of(self, in_shape)
        body = chain(
            _conv(self.width, 3, self.stride),
            _conv(self.width, 3, act="identity"),
        )
        side: Layer = Identity()
        if pair(self.stride) != (1, 1) or channels != self.width:
            side = Conv(self.width, stride=pair(self.stride))
        return layers.Add((side, body), "relu")


@register("inception")
@dataclass(frozen=True, repr=False)
class Inception(Block):
    """GoogLeNet's inception module (arXiv 1409.4842, figure 2b): biases, no batch norm."""

    ones: Width  # the paper's "#1x1"
    reduce3: Width  # "#3x3 reduce"
    threes: Width  # "#3x3"
    reduce5: Width  # "#5x5 reduce"
    fives: Width  # "#5x5"
    pooled: Width  # "pool proj"

    def lower(self, in_shape: Shape) -> Layer:
        channels_of(self, in_shape)

        def conv(width: int, kernel: int) -> Conv:
            size = pair(kernel)
            return Conv(width, size, padding=same_padding(size), bias=True, norm=False, act="relu")

        pool = layers.Pool("max", (3, 3), (1, 1), (1, 1, 1, 1))
        return Concat(
            (
                conv(self.ones, 1),
                Chain((conv(self.reduce3, 1), conv(self.threes, 3))),
                Chain((conv(self.reduce5, 1), conv(self.fives, 5))),
                Chain((pool, conv(self.pooled, 1))),
            )
        )


@register("hg_stem")
@dataclass(frozen=True, repr=False)
class HGStem(Block):
    """PP-HGNetV2's stem (PaddleClas, ``pp_hgnet_v2.py``).

    A 3x3 convolution of stride 2, a pooled path beside two 2x2 convolutions, another 3x3 of stride
    2, and a 1x1.
    """

    width: Width  # output channels
    middle: Width  # channels inside
    affine: bool = True  # learnable affine after each activation

    def check(self) -> None:
        if self.middle < 2:
            raise BlockError(f"{self.type}.middle: {self.middle} has no half; at least 2")

    def lower(self, in_shape: Shape) -> Layer:
        channels_of(self, in_shape)
        # Kernel 2 at stride 1, "same": the padding is at the end of each side.
        padding = (0, 1, 0, 1)
        narrow = Conv(self.middle // 2, (2, 2), padding=padding, act="relu", affine=self.affine)
        wide = Conv(self.middle, (2, 2), padding=padding, act="relu", affine=self.affine)
        return Chain(
            (
                _conv(self.middle, 3, 2, affine=self.affine),
                Concat(
                    (
                        layers.Pool("max", (2, 2), (1, 1), padding, ceil=True),
                        Chain((narrow, wide)),
                    )
                ),
                _conv(self.middle, 3, 2, affine=self.affine),
                _conv(self.width, 1, affine=self.affine),
            )
        )


@register("hg_block")
@dataclass(frozen=True, repr=False)
class HGBlock(Block):
    """PP-HGNetV2's block (PaddleClas, ``pp_hgnet_v2.py``).

    All maps of a short chain of layers are concatenated; two 1x1 convolutions follow. A light layer
    is a 1x1 convolution without activation and a depthwise one; others are simple convolutions.
    ``downsample`` adds a strided 3x3 depthwise convolution before them.
    """

    width: Width  # output channels
    middle: Width  # channels of each layer of the chain
    depth: Width = 6  # layers of the chain
    kernel: Kernel = 3
    light: bool = False
    downsample: Stride = 1
    shortcut: bool = False
    affine: bool = True

    def check(self) -> None:
        if self.depth > 32:
            raise BlockError(f"{self.type}.depth: {self.depth} is outside 1 to 32")

    def lower(self, in_shape: Shape) -> Layer:
        channels = channels_of(self, in_shape)
        down = None
        if pair(self.downsample) != (1, 1):
            down = depthwise(channels, 3, self.downsample)
        dense: Layer = self._layer()
        for _ in range(self.depth - 1):  # concat(x, f(x), f(f(x)), ...) from the inside out
            dense = Chain((self._layer(), Concat((Identity(), dense))))
        body = Chain(
            (
                Concat((Identity(), dense)),
                pointwise(max(1, self.width // 2), "relu", affine=self.affine),
                pointwise(self.width, "relu", affine=self.affine),
            )
        )
        return chain(down, layers.Add((Identity(), body)) if self.shortcut else body)

    def _layer(self) -> Layer:
        size = pair(self.kernel)
        if self.light:
            return Chain(
                (
                    pointwise(self.middle),
                    depthwise(self.middle, self.kernel, act="relu", affine=self.affine),
                )
            )
        return Conv(self.middle, size, padding=same_padding(size), act="relu", affine=self.affine)
