"""Heads: from the last feature map to the classes."""

from __future__ import annotations

from dataclasses import dataclass

from lcnas import layers
from lcnas.blocks._base import (
    Activation,
    Block,
    Count,
    Share,
    Widths,
    channels_of,
    register,
)
from lcnas.blocks._parts import chain


@register("classifier")
@dataclass(frozen=True, repr=False)
class Classifier(Block):
    """Global pooling, an optional 1x1 convolution, dropout, and a linear layer to the classes.

    This is PP-LCNet's head (arXiv 2109.15099, section 3.4); its convolution has 1,280 channels and no bias
    or norm. MobileNetV3's has a bias, MobileNetV4's batch norm. The dropout belongs to the
    convolution: without the convolution there is no dropout, as in PaddleClas (``pp_lcnet.py``).
    """

    width: Count = 1280  # channels of the 1x1 convolution; 0: none
    act: Activation = "hard_swish"
    bias: bool = False
    norm: bool = False
    dropout: Share = 0.2
    affine: bool = False  # learnable affine after the activation (PP-HGNetV2)
    pool_after: bool = False  # pool after the 1x1 convolution, not before it

    def check(self) -> None:
        if not self.width:
            self._forget("act", "bias", "norm", "dropout", "affine", "pool_after")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels_of(self, in_shape)
        conv = None
        if self.width:
            conv = layers.Conv(
                self.width, bias=self.bias, norm=self.norm, act=self.act, affine=self.affine
            )
        return chain(
            conv if self.pool_after else None,
            layers.GlobalPool(),
            None if self.pool_after else conv,
            layers.Flatten(),
            layers.Dropout(self.dropout) if self.width and self.dropout else None,
            layers.Linear(None),
        )


@register("dense_head")
@dataclass(frozen=True, repr=False)
class DenseHead(Block):
    """[Global pooling], flatten, linear layers with activation and dropout, linear layer to the classes.

    VGG's head (arXiv 1409.1556) with two layers of 4,096; GoogLeNet's and ResNet's with none.
    """

    widths: Widths = ()  # of the linear layers before the last
    act: Activation = "relu"
    dropout: Share = 0.0  # after each of them, or before the last layer if there are none
    pool: bool = True  # mean over height and width first

    def check(self) -> None:
        if not self.widths:
            self._forget("act")

    def lower(self, in_shape: layers.Shape) -> layers.Layer:
        channels_of(self, in_shape)
        drop = layers.Dropout(self.dropout) if self.dropout else None
        hidden: list[layers.Layer | None] = []
        for width in self.widths:
            hidden += [layers.Linear(width, self.act), drop]
        return chain(
            layers.GlobalPool() if self.pool else None,
            layers.Flatten(),
            *(hidden or [drop]),
            layers.Linear(None),
        )
