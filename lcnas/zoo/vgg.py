"""VGG-16.

Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (arXiv 1409.1556), table 1, column D, and table 2 for the parameters.
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, Pool
from lcnas.zoo._registry import Family, Published, Reference

# (width, 3x3 convolutions) of each stage; each ends with 2x2 max pooling.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
HEAD_WIDTHS = (4096, 4096)
DROPOUT = 0.5  # the paper, section 3.1


def vgg16() -> Arch:
    """Return VGG-16: convolutions with bias and without batch norm."""
    stages: dict[str, list[Block]] = {}
    for i, (width, depth) in enumerate(STAGES, start=1):
        convs: list[Block] = [ConvNormAct(width, 3, norm=False) for _ in range(depth)]
        stages[f"stage{i}"] = [*convs, Pool(2, 2, padding=(0, 0, 0, 0))]
    stages["head"] = [DenseHead(HEAD_WIDTHS, dropout=DROPOUT, pool=False)]
    return Arch.of(stages)


FAMILIES = (
    Family(
        "vgg16",
        vgg16,
        published={
            1.0: Published(
                top1=71.59,
                params="138M",
                source="arXiv 1409.1556, table 2",
                # The paper's own accuracies (tables 3 to 5) are of dense evaluation at larger
                # sides.
                top1_source="torchvision, VGG16_Weights.IMAGENET1K_V1 (one crop of 224)",
                recipe="torchvision's",
                reference=Reference(
                    "torchvision 0.29, vgg16",
                    params=138_357_544,
                    macs=15_470_264_320,
                    note="the paper prints no MACs; torchvision's documentation prints 15.47 G, "
                    "the exact number is counted from its layers",
                ),
            )
        },
    ),
)
