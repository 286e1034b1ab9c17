"""Blocks of a depthwise and one or two pointwise convolutions: MobileNetV1, PP-LCNet V1, V2 and V4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lcnas import layers
from lcnas.blocks._base import (
    Activation,
    Between,
    Block,
    Kernel,
    Kernels,
    OneOf,
    Ratio,
    Stride,
    Width,
    channels_of,
    register,
)
from lcnas.blocks._parts import chain, depthwise, pointwise, reparam, with_shortcut


@register("depthwise_separable")
@dataclass(frozen=True, repr=False)
class DepthwiseSeparable(Block):
    """Depthwise convolution, [squeeze-and-excite], pointwise convolution; batch norm and act after both.

    With the defaults and ReLU it is MobileNetV1's block (arXiv 1704.04861), with h-swish and SE
    PP-LCNet's (arXiv 2109.15099, section 3): SE's hidden width is a quarter of the input's channels.
    """

    width: Width  # output channels
    kernel: Kernel = 3  # of the depthwise convolution
    stride: Stride = 1
    act: Activation = "hard_swish"
    se: bool = False  # squeeze-and-excite between the two convolutions
    shortcut: bool = False  # add the input; needs stride 1 and equal channels
    branches: Kernels = ()  # of the depthwise convolution in training, see block "conv"

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        conv = depthwise(channels, self.kernel, self.stride, self.act)
        body = chain(
            reparam(conv, self.branches, channels),
            layers.SqueezeExcite(max(1, channels // 4)) if self.se else None,
            pointwise(self.width, self.act),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body


@register("split_pointwise")
@dataclass(frozen=True, repr=False)
class SplitPointwise(Block):
    """PP-LCNetV2's block: the pointwise convolution is split into a narrow and a wide one.

    Depthwise (re-parameterised), [SE with a sigmoid gate], 1x1 to ``ratio`` of the width, 1x1 to the
    width, each with batch norm and ReLU. Source: PaddleClas, ``pp_lcnet_v2.py`` (RepDepthwiseSeparable).
    """

    width: Width  # output channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Activation = "relu"
    ratio: Annotated[float, Between(0.0, 1.0)] = 0.5  # of the width; 0: one pointwise convolution
    se: bool = False
    gate: Annotated[str, OneOf(("sigmoid", "hard_sigmoid"))] = "sigmoid"
    shortcut: bool = False
    branches: Kernels = ()  # of the depthwise convolution in training

    def check(self) -> None:
        if not self.se:
            self._forget("gate")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        conv = depthwise(channels, self.kernel, self.stride, self.act)
        body = chain(
            reparam(conv, self.branches, channels),
            layers.SqueezeExcite(max(1, channels // 4), gate=self.gate) if self.se else None,
            pointwise(max(1, int(self.width * self.ratio)), self.act) if self.ratio else None,
            pointwise(self.width, self.act),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body


@register("expand_compress")
@dataclass(frozen=True, repr=False)
class ExpandCompress(Block):
    """Depthwise, [SE], 1x1 to ``expansion`` times the channels, act, 1x1 to the width, [shortcut].

    PP-LCNetV4's block (PP-OCRv6, arXiv 2606.13108): there with expansion 2 and GELU, the depthwise
    convolution re-parameterised. The only activation is between the two pointwise convolutions.
    """

    width: Width  # output channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Activation = "gelu"
    expansion: Ratio = 2.0  # of the input's channels
    se: bool = False
    shortcut: bool = False
    branches: Kernels = ()  # of the depthwise convolution in training

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        conv = depthwise(channels, self.kernel, self.stride)
        body = chain(
            reparam(conv, self.branches, channels),
            layers.SqueezeExcite(max(1, channels // 4)) if self.se else None,
            pointwise(max(1, round(channels * self.expansion)), self.act),
            pointwise(self.width),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body
