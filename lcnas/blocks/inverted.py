"""Inverted residuals: MobileNetV2, V3 and V4, EfficientNet, MixNet, FBNet."""

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
    OptionalKernel,
    Ratio,
    Stride,
    Width,
    Widths,
    channels_of,
    make_divisible,
    pair,
    register,
)
from lcnas.blocks._parts import chain, depthwise, pointwise, reparam, with_shortcut
from lcnas.errors import BlockError, ShapeError

Gate = Annotated[str, OneOf(("hard_sigmoid", "sigmoid"))]


@register("inverted_residual")
@dataclass(frozen=True, repr=False)
class InvertedResidual(Block):
    """1x1 to the expanded width, depthwise, [SE], 1x1 to the width without activation, [shortcut].

    MobileNetV2 (arXiv 1801.04381) with ReLU6, MobileNetV3 (arXiv 1905.02244) with SE and h-swish,
    FBNet. SE's hidden width is a quarter of the expanded width, rounded to a multiple of
    ``se_divisor``.
    """

    width: Width  # output channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Activation = "relu6"
    expansion: Ratio = 6.0  # of the input's channels; at 1 there is no first 1x1 convolution
    expanded: Count = 0  # expanded width, where the paper lists it; 0: from the expansion
    divisor: Width = 1  # the expanded width is rounded to a multiple of it
    always_expand: bool = False  # keep the first 1x1 convolution where it widens nothing
    se: bool = False
    se_divisor: Width = 8  # 1: a quarter, rounded half up
    gate: Gate = "hard_sigmoid"
    shortcut: bool = False

    def check(self) -> None:
        if not self.se:
            self._forget("se_divisor", "gate")
        if self.expanded:
            self._forget("expansion", "divisor")
        elif self.expansion >= 1.5:  # widens every input, since rounding takes at most 10 %
            self._forget("always_expand")

    def hidden(self, channels: int) -> int:
        """Return the expanded width for ``channels`` input channels."""
        return self.expanded or make_divisible(channels * self.expansion, self.divisor)

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        hidden = self.hidden(channels)
        body = chain(
            pointwise(hidden, self.act) if self.always_expand or hidden != channels else None,
            depthwise(hidden, self.kernel, self.stride, self.act),
            layers.SqueezeExcite(make_divisible(hidden / 4, self.se_divisor), gate=self.gate)
            if self.se
            else None,
            pointwise(self.width),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body


@register("mbconv")
@dataclass(frozen=True, repr=False)
class MBConv(Block):
    """EfficientNet's block (arXiv 1905.11946): SiLU, and an SE width that is a share of the *input*."""

    width: Width  # output channels
    kernel: Kernel = 3
    stride: Stride = 1
    act: Activation = "silu"
    expansion: Ratio = 6.0  # of the input's channels; at 1 there is no first 1x1 convolution
    se_ratio: Annotated[float, Between(0.0, 1.0)] = 0.25  # of the input's channels; 0: no SE
    shortcut: bool = False

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        hidden = max(1, round(channels * self.expansion))
        squeeze = max(1, int(channels * self.se_ratio))
        body = chain(
            pointwise(hidden, self.act) if self.expansion != 1 else None,
            depthwise(hidden, self.kernel, self.stride, self.act),
            layers.SqueezeExcite(squeeze, act=self.act, gate="sigmoid") if self.se_ratio else None,
            pointwise(self.width),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body


@register("mixconv")
@dataclass(frozen=True, repr=False)
class MixConv(Block):
    """MixNet's block (arXiv 1907.09595): an inverted residual with a depthwise mix of kernels.

    The expanded channels are split into one part per kernel; ``expand_groups`` and ``project_groups``
    split the pointwise convolutions in the same way (the paper's grouped 1x1). SE's hidden width is a share
    of the input.
    """

    width: Width  # output channels
    kernels: Widths = (3, 5)  # one per part
    stride: Stride = 1
    act: Activation = "silu"
    expansion: Ratio = 6.0  # of the input's channels; at 1 there is no first 1x1 convolution
    expand_groups: Width = 1
    project_groups: Width = 1
    se_ratio: Annotated[float, Between(0.0, 1.0)] = 0.0  # of the input's channels; 0: no SE
    shortcut: bool = False

    def check(self) -> None:
        if not self.kernels:
            raise BlockError("mixconv.kernels: [] needs at least one kernel")
        if self.expansion == 1:
            self._forget("expand_groups")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        hidden = max(1, round(channels * self.expansion))
        squeeze = max(1, int(channels * self.se_ratio))
        sizes = even_parts(hidden, len(self.kernels))
        mixed = tuple(
            depthwise(n, k, self.stride, self.act) for n, k in zip(sizes, self.kernels, strict=True)
        )
        body = chain(
            _grouped(channels, hidden, self.expand_groups, self.act)
            if self.expansion != 1
            else None,
            layers.Split(sizes, mixed) if len(mixed) > 1 else mixed[0],
            layers.SqueezeExcite(squeeze, act=self.act, gate="sigmoid") if self.se_ratio else None,
            _grouped(hidden, self.width, self.project_groups, "identity"),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body


def even_parts(channels: int, parts: int) -> tuple[int, ...]:
    """Split ``channels`` into equal parts; the first takes the remainder (as in MixNet's code)."""
    if parts > channels:
        raise ShapeError(f"{channels} channels cannot be cut into {parts} parts")
    share = channels // parts
    return (channels - share * (parts - 1), *(share,) * (parts - 1))


def _grouped(channels: int, width: int, parts: int, act: str) -> layers.Layer:
    """Return a pointwise convolution, split into ``parts`` independent ones."""
    if parts == 1:
        return pointwise(width, act)
    outs = even_parts(width, parts)
    return layers.Split(even_parts(channels, parts), tuple(pointwise(n, act) for n in outs))


@register("universal_inverted_bottleneck")
@dataclass(frozen=True, repr=False)
class UniversalInvertedBottleneck(Block):
    """MobileNetV4's block (arXiv 2404.10518, figure 4): two optional depthwise convolutions.

    [depthwise ``start_kernel``, no activation], 1x1 to the expanded width, [depthwise ``kernel``],
    [SE], 1x1 to the width without activation, [shortcut]. With both depthwise convolutions it is
    the paper's ExtraDW, with only the inner one an inverted bottleneck, with only the outer one
    ConvNext-like, with neither an FFN. The inner convolution has the stride if it exists.
    """

    width: Width  # output channels
    kernel: OptionalKernel = 3  # of the inner depthwise convolution; 0: none
    start_kernel: OptionalKernel = 0  # of the outer depthwise convolution; 0: none
    stride: Stride = 1
    act: Activation = "relu"
    expansion: Ratio = 4.0  # of the input's channels
    divisor: Width = 8  # the expanded width is rounded to a multiple of it
    se: bool = False  # after the inner depthwise convolution; a quarter of the expanded width
    shortcut: bool = False
    branches: Kernels = ()  # of the inner depthwise convolution in training
    start_branches: Kernels = ()  # of the outer one in training

    def check(self) -> None:
        if self.branches and not self.kernel:
            raise BlockError(
                f"{self.type}.branches: there is no inner depthwise convolution to branch"
            )
        if self.start_branches and not self.start_kernel:
            raise BlockError(
                f"{self.type}.start_branches: there is no outer depthwise convolution to branch"
            )
        if pair(self.stride) != (1, 1) and not self.kernel and not self.start_kernel:
            raise BlockError(f"{self.type}.stride: {self.stride} needs a depthwise convolution")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels = channels_of(self, in_shape)
        hidden = make_divisible(channels * self.expansion, self.divisor)
        start, inner = None, None
        if self.start_kernel:
            conv = depthwise(channels, self.start_kernel, 1 if self.kernel else self.stride)
            start = reparam(conv, self.start_branches, channels)
        if self.kernel:
            conv = depthwise(hidden, self.kernel, self.stride, self.act)
            inner = reparam(conv, self.branches, hidden)
        body = chain(
            start,
            pointwise(hidden, self.act),
            inner,
            layers.SqueezeExcite(make_divisible(hidden / 4)) if self.se else None,
            pointwise(self.width),
        )
        return with_shortcut(self, body, in_shape) if self.shortcut else body
