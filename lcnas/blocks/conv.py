"""Convolutions, pooling and normalisation as blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lcnas import layers
from lcnas.blocks._base import (
    Activation,
    Between,
    Block,
    Count,
    Kernel,
    Kernels,
    OneOf,
    Sides,
    Stride,
    Width,
    channels_of,
    pair,
    register,
)
from lcnas.blocks._parts import chain, reparam
from lcnas.errors import BlockError


def _padding(sides: tuple[int, ...], kernel: layers.Pair) -> layers.Padding:
    if not sides:
        return layers.same_padding(kernel)
    top, bottom, left, right = sides
    return (top, bottom, left, right)


@register("conv")
@dataclass(frozen=True, repr=False)
class ConvNormAct(Block):
    """Convolution, batch norm (or bias) and activation; re-parameterised if it has ``branches``.

    Branches exist only in training (RepVGG, arXiv 2101.03697): 3 is a 3x3 convolution with batch norm, 0
    batch norm alone, which is left out where the shape changes.
    """

    width: Width  # output channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Activation = "relu"
    groups: Count = 1  # 0: one group per channel (depthwise)
    norm: bool = True  # batch norm; without it the convolution has a bias
    padding: Sides = ()  # (top, bottom, left, right); (): k // 2 on each side
    affine: bool = False  # learnable scale and shift after the activation
    branches: Kernels = ()  # kernels of the parallel branches in training

    def check(self) -> None:
        if self.branches and not self.norm:
            raise BlockError("conv.branches: they need norm = true")
        if self.padding == layers.same_padding(pair(self.kernel)):
            self._forget("padding")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        kernel = pair(self.kernel)
        conv = layers.Conv(
            self.width,
            kernel,
            pair(self.stride),
            _padding(self.padding, kernel),
            groups=self.groups or channels,
            bias=not self.norm,
            norm=self.norm,
            act=self.act,
            affine=self.affine,
        )
        return reparam(conv, self.branches, channels)


@register("conv_stem")
@dataclass(frozen=True, repr=False)
class ConvStem(Block):
    """A stem of ``convs`` equal convolutions, each with the same stride, batch norm and activation."""

    width: Width  # output channels of each
    convs: Width = 1  # number of convolutions
    kernel: Kernel = 3
    stride: Stride = 2  # of each
    act: Activation = "relu"

    def check(self) -> None:
        if self.convs > 16:
            raise BlockError(f"conv_stem.convs: {self.convs} is outside 1 to 16")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels_of(self, in_shape)
        kernel = pair(self.kernel)
        conv = layers.Conv(
            self.width, kernel, pair(self.stride), layers.same_padding(kernel), act=self.act
        )
        return chain(*(conv,) * self.convs)


@register("pool")
@dataclass(frozen=True, repr=False)
class Pool(Block):
    """Max or average pooling."""

    kernel: Kernel
    stride: Stride = 2
    mode: Annotated[str, OneOf(("max", "avg"))] = "max"
    padding: Sides = ()  # (top, bottom, left, right); (): k // 2 before and (k - 1) // 2 after
    ceil: bool = False  # round the number of windows up

    def check(self) -> None:
        if self.padding == layers.same_padding(pair(self.kernel)):
            self._forget("padding")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels_of(self, in_shape)
        kernel = pair(self.kernel)
        return layers.Pool(
            self.mode, kernel, pair(self.stride), _padding(self.padding, kernel), self.ceil
        )


@register("local_response_norm")
@dataclass(frozen=True, repr=False)
class LocalResponseNorm(Block):
    """Local response normalisation over channels (Krizhevsky et al. 2012)."""

    size: Width = 5
    alpha: Annotated[float, Between(0.0, 1024.0)] = 1e-4
    beta: Annotated[float, Between(0.0, 1024.0)] = 0.75
    bias: Annotated[float, Between(0.0, 1024.0)] = 1.0

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels_of(self, in_shape)
        return layers.LocalResponseNorm(self.size, self.alpha, self.beta, self.bias)
