"""FBNet-C.

Source: Wu et al. 2019, "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural
Architecture Search" (arXiv 1812.03443), the figure of the searched networks for the blocks and the
ImageNet table for the figures; the last convolution's width, which they do not give, is that of timm's
``fbnetc_100``.
"""

from __future__ import annotations

from collections.abc import Iterable

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, InvertedResidual
from lcnas.zoo._registry import Family, Published, Reference

STEM_WIDTH = 16
LAST_WIDTH = 1984
# (width, stride of the first block, (kernel, expansion) of each block) of each stage, without the
# blocks that the search skipped.
STAGES = (
    (16, 1, ((3, 1),)),
    (24, 2, ((3, 6), (3, 1), (3, 1))),
    (32, 2, ((5, 6), (5, 3), (5, 6), (3, 6))),
    (64, 2, ((5, 6), (5, 3), (5, 6), (5, 6))),
    (112, 1, ((5, 6), (5, 6), (5, 6), (5, 3))),
    (184, 2, ((5, 6), (5, 6), (5, 6), (5, 6))),
    (352, 1, ((3, 6),)),
)


def fbnet_c() -> Arch:
    """Return FBNet-C; its blocks have the first 1x1 convolution at expansion 1 as well."""
    stages: dict[str, Iterable[Block]] = {"stem": [ConvNormAct(STEM_WIDTH, 3, 2)]}
    channels = STEM_WIDTH
    for i, (width, first_stride, settings) in enumerate(STAGES, start=1):
        blocks: list[Block] = []
        for j, (kernel, expansion) in enumerate(settings):
            stride = first_stride if j == 0 else 1
            block = InvertedResidual(
                width,
                kernel,
                stride,
                "relu",
                expansion=expansion,
                always_expand=expansion == 1,
                shortcut=stride == 1 and channels == width,
            )
            blocks.append(block)
            channels = width
        stages[f"stage{i}"] = blocks
    stages["last"] = [ConvNormAct(LAST_WIDTH, 1)]
    stages["head"] = [DenseHead(dropout=0.2)]
    return Arch.of(stages)


FAMILIES = (
    Family(
        "fbnet_c",
        fbnet_c,
        published={
            1.0: Published(
                top1=74.9,
                params="5.5M",
                macs="375M",
                source="arXiv 1812.03443, table of ImageNet results",
                reference=Reference(
                    "timm 1.0.31, fbnetc_100",
                    5_572_200,
                    384_960_160,
                    "counted by running it (its CPU benchmark prints 5.57 M); timm says that the "
                    "paper is not quite clear on the width of the last convolution",
                ),
            )
        },
    ),
)
