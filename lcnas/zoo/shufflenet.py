"""ShuffleNet V1 with three groups, and ShuffleNet V2.

Sources: Zhang et al. 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices" (arXiv 1707.01083), table 1 for the blocks; Ma et al. 2018, "ShuffleNet V2:
Practical Guidelines for Efficient CNN Architecture Design" (arXiv 1807.11164), table 5. What the
papers do not give is as in the authors' code (ShuffleNet-Series, ``network.py``).
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import (
    Block,
    Classifier,
    ConvNormAct,
    DenseHead,
    Pool,
    ShuffleV1Unit,
    ShuffleV2Unit,
    make_divisible,
)
from lcnas.zoo._registry import Family, Published, Reference

DEPTHS = (4, 8, 4)  # units of each stage, of both versions; the first has stride 2

GROUPS = 3
V1_WIDTH = 240  # of the first stage at scale 1; each stage has twice the width of the one before
# Width of the stem, which does not follow the scale. From 0.5 up: the authors' code. 0.25: no
# source gives it; with 12 the MACs are the paper's 13M, with 6 they would be 11M, with 24 18M.
V1_STEMS = {0.25: 12, 0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}

V2_STEM = 24
# scale: (width of each stage, width of the last 1x1 convolution). 0.33 is no scale of the paper,
# but of PaddleClas (shufflenet_v2.py), which PP-LCNet's paper compares with.
V2_WIDTHS = {
    0.33: ((32, 64, 128), 512),
    0.5: ((48, 96, 192), 1024),
    1.0: ((116, 232, 464), 1024),
    1.5: ((176, 352, 704), 1024),
    2.0: ((244, 488, 976), 2048),
}


def shufflenet_v1(scale: float = 1.0) -> Arch:
    """Return ShuffleNet V1 with three groups.

    Args:
        scale: width multiplier. At unpublished scales the stem scales as well, and
            widths are rounded to multiples that three groups divide.
    """
    stem = V1_STEMS.get(scale) or make_divisible(24 * scale, GROUPS)
    stages: dict[str, list[Block]] = {"stem": [ConvNormAct(stem, 3, 2), Pool(3)]}
    width = make_divisible(V1_WIDTH * scale, 4 * GROUPS)  # a quarter of it has groups
    for i, depth in enumerate(DEPTHS):
        # The stem's map is too narrow for groups: the very first 1x1 convolution has none.
        stages[f"stage{i + 1}"] = [
            ShuffleV1Unit(
                width << i,
                groups=GROUPS,
                first_groups=1 if i == j == 0 else GROUPS,
                stride=1 if j else 2,
            )
            for j in range(depth)
        ]
    stages["head"] = [DenseHead()]
    return Arch.of(stages)


def _v2_widths(scale: float) -> tuple[tuple[int, ...], int]:
    """Return the published widths; at other scales multiples of 4, as all published ones are."""
    if scale in V2_WIDTHS:
        return V2_WIDTHS[scale]
    width = make_divisible(116 * scale, 4)
    return (width, 2 * width, 4 * width), 512 if scale < 0.5 else 1024 if scale < 2 else 2048


def shufflenet_v2(scale: float = 1.0) -> Arch:
    """Return ShuffleNet V2.

    Args:
        scale: width multiplier; selects a column of the paper's table, which has no formula.
            At other scales widths are multiples of 4.
    """
    widths, last = _v2_widths(scale)
    stages: dict[str, list[Block]] = {"stem": [ConvNormAct(V2_STEM, 3, 2), Pool(3)]}
    for i, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
        stages[f"stage{i}"] = [ShuffleV2Unit(width, stride=1 if j else 2) for j in range(depth)]
    stages["head"] = [Classifier(last, "relu", norm=True, dropout=0.0, pool_after=True)]
    return Arch.of(stages)


# top-1 (100 less the printed error), params, MACs. MACs and errors: the paper, table 1 (1x with
# three groups), table 2 (0.25x, 0.5x), table 5 (1.5x, 2x). It prints no params: they are of the
# authors' code.
_V1_TABLE = {
    0.25: (45.0, "", "13M"),
    0.5: (56.8, "0.7M", "38M"),
    1.0: (67.4, "1.9M", "137M"),
    1.5: (71.5, "3.4M", "292M"),
    2.0: (73.7, "5.4M", "524M"),
}
# pytorchcv 0.0.74 prints these params in its table; MACs are counted from its layers. It has other
# stems than the authors at 0.25x, 1.5x and 2x. The authors' linear layer has no bias.
_V1_NOTE = "its linear layer has no bias: {}; derived from its network.py, with the bias"
_V1_REFERENCES = {
    0.5: Reference("pytorchcv 0.0.74, shufflenet_g3_wd2", 718_324, 37_589_856),
    1.0: Reference("pytorchcv 0.0.74, shufflenet_g3_w1", 1_865_728, 137_460_672),
    1.5: Reference(
        "ShuffleNet-Series (the authors' code), ShuffleNetV1 1.5x, group 3",
        3_442_168,
        292_443_552,
        _V1_NOTE.format("3,441,168"),
    ),
    2.0: Reference(
        "ShuffleNet-Series (the authors' code), ShuffleNetV1 2.0x, group 3",
        5_450_776,
        524_045_184,
        _V1_NOTE.format("5,449,776, printed as 5.4M"),
    ),
}

# top-1, params, MACs: the paper, table 5 (weights, FLOPs) and table 8 (errors).
_V2_TABLE = {
    0.5: (60.3, "1.4M", "41M"),
    1.0: (69.4, "2.3M", "146M"),
    1.5: (72.6, "3.5M", "299M"),
    2.0: (74.9, "7.4M", "591M"),
}
_V2_NOTE = (
    "no known implementation of the paper's table 5 has its MACs; params are those of the paper. "
    "torchvision's documentation prints {} GMACs, the exact number is counted from its layers"
)
# Counted with hooks on the convolutions and linear layers of torchvision 0.29.1.
_V2_REFERENCES = {
    0.5: Reference(
        "torchvision 0.29, shufflenet_v2_x0_5", 1_366_792, 40_476_448, _V2_NOTE.format("0.04")
    ),
    1.0: Reference(
        "torchvision 0.29, shufflenet_v2_x1_0", 2_278_604, 144_907_992, _V2_NOTE.format("0.145")
    ),
    1.5: Reference(
        "torchvision 0.29, shufflenet_v2_x1_5", 3_503_624, 295_759_392, _V2_NOTE.format("0.296")
    ),
    2.0: Reference(
        "torchvision 0.29, shufflenet_v2_x2_0", 7_393_996, 583_253_464, _V2_NOTE.format("0.583")
    ),
}
_V2_033 = Published(
    top1=53.73,
    params="0.6M",
    paddle_flops="24M",
    source="arXiv 2109.15099 (PP-LCNet), its comparison of light networks",
    recipe="PaddleClas's",
    reference=Reference(
        "PaddlePaddle 3.3, paddle.vision.models.shufflenet_v2_x0_33",
        params=647_272,
        note="its paddle.flops gives 24,041,920, as lcnas.cost.paddle_flops does",
    ),
)

FAMILIES = (
    Family(
        "shufflenet_v1",
        shufflenet_v1,
        scales=tuple(V1_STEMS),
        published={
            scale: Published(
                top1=top1,
                params=params,
                macs=macs,
                source="arXiv 1707.01083, tables 1, 2 and 5; params: ShuffleNet-Series, README",
                reference=_V1_REFERENCES.get(scale),
            )
            for scale, (top1, params, macs) in _V1_TABLE.items()
        },
    ),
    Family(
        "shufflenet_v2",
        shufflenet_v2,
        scales=tuple(V2_WIDTHS),
        published={
            0.33: _V2_033,
            **{
                scale: Published(
                    top1=top1,
                    params=params,
                    macs=macs,
                    source="arXiv 1807.11164, tables 5 and 8",
                    reference=_V2_REFERENCES[scale],
                )
                for scale, (top1, params, macs) in _V2_TABLE.items()
            },
        },
    ),
)
