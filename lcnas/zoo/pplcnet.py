"""PP-LCNet at any width scale, and a variant with strides for 32x32 images.

Source: Cui et al. 2021, "PP-LCNet: A Lightweight CPU Convolutional Neural Network" (arXiv 2109.15099),
table 1 for the blocks, table 3 for the accuracies; channel rounding after PaddleClas, ``pp_lcnet.py``.
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import Classifier, ConvNormAct, DepthwiseSeparable, make_divisible
from lcnas.zoo._registry import Family, Published

SCALES = (0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5)
STEM_WIDTH = 16
# (width at scale 1, blocks, stride of the first block) of each stage.
STAGES = ((32, 1, 1), (64, 2, 2), (128, 2, 2), (256, 6, 2), (512, 2, 2))
STRIDES = (2, *(stride for _, _, stride in STAGES))  # of the stem and of each stage
# One digit per block, first to last (paper, tables 4 and 5).
KERNELS = "3333335555555"
SE = "0000000000011"


def pplcnet(
    scale: float = 1.0,
    *,
    kernels: str = KERNELS,
    se: str = SE,
    act: str = "hard_swish",
    last: int = 1280,
    strides: tuple[int | tuple[int, int], ...] = STRIDES,
    resolution: int = 224,
    name: str = "",
) -> Arch:
    """Return PP-LCNet, or a variant as in the paper's ablations.

    Args:
        scale: width multiplier; channels are rounded to multiples of 8.
        kernels: kernel of each of the 13 blocks, one digit per block.
        se: "1" for a block with squeeze-and-excite, one digit per block.
        act: activation after every convolution.
        last: width of the last 1x1 convolution, which does not scale; 0: neither convolution nor dropout.
        strides: of the stem and of each stage's first block.
        resolution: deployment resolution, pixels.
        name: a label.
    """
    stem = ConvNormAct(make_divisible(STEM_WIDTH * scale), 3, strides[0], act)
    stages: dict[str, list[ConvNormAct | DepthwiseSeparable | Classifier]] = {"stem": [stem]}
    position = 0
    for i, (width, depth, _) in enumerate(STAGES, start=1):
        stages[f"stage{i}"] = []
        for j in range(depth):
            block = DepthwiseSeparable(
                make_divisible(width * scale),
                kernel=int(kernels[position]),
                stride=strides[i] if j == 0 else 1,
                act=act,
                se=se[position] == "1",
            )
            stages[f"stage{i}"].append(block)
            position += 1
    stages["head"] = [Classifier(last, act)]
    return Arch.of(stages, resolution, name)


def pplcnet_32(scale: float = 1.0) -> Arch:
    """Return PP-LCNet for 32x32 images: the strides of stem and stages are 1, 1, 1, 2, 2, 2."""
    return pplcnet(scale, strides=(1, 1, 1, 2, 2, 2), resolution=32)


# top-1, params and FLOPs of table 3; FLOPs by paddle.flops, see lcnas.cost.
_TABLE = {
    0.25: (51.86, "1.5M", "18M"),
    0.35: (58.09, "1.6M", "29M"),
    0.5: (63.14, "1.9M", "47M"),
    0.75: (68.18, "2.4M", "99M"),
    1.0: (71.32, "3.0M", "161M"),
    1.5: (73.71, "4.5M", "342M"),
    2.0: (75.18, "6.5M", "590M"),
    2.5: (76.60, "9.0M", "906M"),
}

FAMILIES = (
    Family(
        "pplcnet",
        pplcnet,
        scales=SCALES,
        published={
            scale: Published(
                top1=top1, params=params, paddle_flops=flops, source="arXiv 2109.15099, table 3"
            )
            for scale, (top1, params, flops) in _TABLE.items()
        },
    ),
    Family("pplcnet_32", pplcnet_32, scales=SCALES),
)
