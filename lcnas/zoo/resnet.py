"""ResNet-18.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1.
Where the size changes, the shortcut is a 1x1 convolution (the paper's option B), as in the known
implementations; the paper's own ResNet-18 of table 2 has shortcuts without parameters (option A).
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import BasicBlock, Block, ConvNormAct, DenseHead, Pool
from lcnas.zoo._registry import Family, Published, Reference

STEM_WIDTH = 64
# (width, blocks, stride of the first) of each stage.
STAGES = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))


def resnet18() -> Arch:
    """Return ResNet-18."""
    stages: dict[str, list[Block]] = {"stem": [ConvNormAct(STEM_WIDTH, 7, 2), Pool(3)]}
    for i, (width, depth, stride) in enumerate(STAGES, start=1):
        stages[f"stage{i}"] = [BasicBlock(width, 1 if j else stride) for j in range(depth)]
    stages["head"] = [DenseHead()]
    return Arch.of(stages)


FAMILIES = (
    Family(
        "resnet18",
        resnet18,
        published={
            1.0: Published(
                top1=69.76,
                macs="1.8G",
                source="arXiv 1512.03385, table 1",
                # The paper's 27.88 % error (table 2) is of ten crops.
                top1_source="torchvision, ResNet18_Weights.IMAGENET1K_V1 (one crop of 224)",
                recipe="torchvision's",
                reference=Reference(
                    "torchvision 0.29, resnet18",
                    params=11_689_512,
                    macs=1_814_073_344,
                    note="the paper prints no params; torchvision's documentation prints 1.814 "
                    "GMACs, the exact number is counted from its layers",
                ),
            )
        },
    ),
)
