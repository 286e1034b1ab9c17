"""MobileNetV1 at any width scale.

Source: Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications" (arXiv 1704.04861), table 1 for the blocks, table 6 for the figures. Its text says
ReLU, and so does PaddleClas; TensorFlow's and timm's networks of that name have ReLU6
(``act="relu6"``).
"""

from __future__ import annotations

from collections.abc import Iterable

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, DepthwiseSeparable, make_divisible
from lcnas.zoo._registry import Family, Published, Reference

SCALES = (0.25, 0.5, 0.75, 1.0)
STEM_WIDTH = 32
# (width at scale 1, blocks, stride of the first block) of each stage.
STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))


def mobilenet_v1(scale: float = 1.0, *, act: str = "relu", resolution: int = 224) -> Arch:
    """Return MobileNetV1.

    Args:
        scale: width multiplier; channels are rounded to multiples of 8.
        act: activation after every convolution.
        resolution: deployment resolution, pixels.
    """
    stem = ConvNormAct(make_divisible(STEM_WIDTH * scale), 3, 2, act)
    stages: dict[str, Iterable[Block]] = {"stem": [stem]}
    for i, (base, depth, stride) in enumerate(STAGES, start=1):
        width = make_divisible(base * scale)
        stages[f"stage{i}"] = [
            DepthwiseSeparable(width, stride=stride if j == 0 else 1, act=act) for j in range(depth)
        ]
    stages["head"] = [DenseHead()]
    return Arch.of(stages, resolution)


# Top-1, params and MACs of the paper's table 6; then params and MACs that timm's function for
# mobilenetv1_100 gives when called with that multiplier. At 1.0 PaddleClas 2.6.0's MobileNetV1 has
# the same two numbers.
_TABLE = {
    0.25: (50.6, "0.5M", "41M", 470_072, 41_030_272),
    0.5: (63.7, "1.3M", "149M", 1_331_592, 149_497_088),
    0.75: (68.4, "2.6M", "325M", 2_585_560, 325_400_448),
    1.0: (70.6, "4.2M", "569M", 4_231_976, 568_740_352),
}

FAMILIES = (
    Family(
        "mobilenet_v1",
        mobilenet_v1,
        scales=SCALES,
        published={
            scale: Published(
                top1=top1,
                params=params,
                macs=macs,
                source="arXiv 1704.04861, table 6",
                reference=Reference(
                    f"timm 1.0.31, mobilenetv1_100 at multiplier {scale}",
                    exact_params,
                    exact_macs,
                    "counted by running it; the paper's figures are met as well",
                ),
            )
            for scale, (top1, params, macs, exact_params, exact_macs) in _TABLE.items()
        },
    ),
)
