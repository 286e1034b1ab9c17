"""EfficientNet-B0.

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"
(arXiv 1905.11946), table 1 for the blocks, table 2 for the figures.
"""

from __future__ import annotations

from collections.abc import Iterable

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, MBConv
from lcnas.zoo._registry import Family, Published, Reference

STEM_WIDTH = 32
LAST_WIDTH = 1280
# (kernel, expansion, width, blocks, stride of the first block) of each stage.
STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def efficientnet_b0() -> Arch:
    """Return EfficientNet-B0."""
    stages: dict[str, Iterable[Block]] = {"stem": [ConvNormAct(STEM_WIDTH, 3, 2, "silu")]}
    for i, (kernel, expansion, width, depth, stride) in enumerate(STAGES, start=1):
        first = MBConv(width, kernel, stride, expansion=expansion)
        rest = MBConv(width, kernel, expansion=expansion, shortcut=True)
        stages[f"stage{i}"] = [first, *[rest] * (depth - 1)]
    stages["last"] = [ConvNormAct(LAST_WIDTH, 1, 1, "silu")]
    stages["head"] = [DenseHead(dropout=0.2)]
    return Arch.of(stages)


FAMILIES = (
    Family(
        "efficientnet_b0",
        efficientnet_b0,
        published={
            1.0: Published(
                top1=77.1,
                params="5.3M",
                macs="0.39G",
                source="arXiv 1905.11946, table 2",
                recipe="the paper's, with AutoAugment",
                reference=Reference(
                    "timm 1.0.31, efficientnet_b0",
                    5_288_548,
                    385_814_752,
                    "counted by running it; torchvision documents the same: num_params "
                    "5288548, _ops 0.386; the paper's figures are met as well",
                ),
            )
        },
    ),
)
