"""Layers that several blocks use: convolutions with the usual settings, branches, shortcuts."""

from __future__ import annotations

from lcnas.blocks._base import Block, channels_of, pair
from lcnas.errors import ShapeError
from lcnas.layers import (
    Add,
    BatchNorm,
    Chain,
    Conv,
    Identity,
    Layer,
    Pair,
    Reparam,
    Shape,
    format_shape,
    same_padding,
)


def pointwise(width: int, act: str = "identity", groups: int = 1, affine: bool = False) -> Conv:
    """Return a 1x1 convolution with batch norm."""
    return Conv(width, groups=groups, act=act, affine=affine)


def depthwise(
    channels: int,
    kernel: int | Pair,
    stride: int | Pair = 1,
    act: str = "identity",
    affine: bool = False,
) -> Conv:
    """Return a depthwise convolution with batch norm and padding ``k // 2``."""
    size = pair(kernel)
    return Conv(
        channels, size, pair(stride), same_padding(size), groups=channels, act=act, affine=affine
    )


def reparam(conv: Conv, branches: tuple[int, ...], in_channels: int) -> Layer:
    """Return ``conv``, with parallel branches in training if ``branches`` names any.

    A branch k > 0 is a k x k convolution with batch norm. 0 is batch norm alone; it exists only where
    stride is 1 and the channels stay (as in RepVGG, arXiv 2101.03697), and is left out elsewhere.
    """
    if not branches:
        return conv
    parallel: list[Conv | BatchNorm] = []
    for kernel in branches:
        if kernel == 0:
            if conv.stride == (1, 1) and conv.width == in_channels:
                parallel.append(BatchNorm())
        else:
            parallel.append(_branch(conv, kernel))
    if not any((kernel, kernel) == conv.kernel for kernel in branches):
        height, width = conv.kernel
        raise ShapeError(
            f"branches {list(branches)} leave out the {height}x{width} that they merge to"
        )
    return Reparam(conv, tuple(parallel))


def _branch(conv: Conv, kernel: int) -> Conv:
    # The window centres are the same, so the padding is the merged one less half the difference.
    insets = [(side - kernel) // 2 for side in conv.kernel]
    if any(side < kernel or (side - kernel) % 2 for side in conv.kernel):
        raise ShapeError(
            f"a {kernel}x{kernel} branch cannot be merged into a "
            f"{conv.kernel[0]}x{conv.kernel[1]} convolution"
        )
    top, bottom, left, right = conv.padding
    padding = (top - insets[0], bottom - insets[0], left - insets[1], right - insets[1])
    if min(padding) < 0:
        raise ShapeError(f"a {kernel}x{kernel} branch needs more padding than {conv.padding}")
    return Conv(conv.width, (kernel, kernel), conv.stride, padding, conv.groups)


def chain(*layers: Layer | None) -> Layer:
    """Return the layers in sequence, without the Nones."""
    kept = tuple(layer for layer in layers if layer is not None)
    return kept[0] if len(kept) == 1 else Chain(kept)


def with_shortcut(block: Block, body: Layer, in_shape: Shape, act: str = "identity") -> Layer:
    """Return ``body + input``; a shortcut needs stride 1 and as many channels out as in."""
    channels_of(block, in_shape)
    out = body.out_shape(in_shape)
    if out != in_shape:
        raise ShapeError(
            f"{block.type}: a shortcut needs equal shapes, got {format_shape(in_shape)} in "
            f"and {format_shape(out)} out"
        )
    return Add((Identity(), body), act)
