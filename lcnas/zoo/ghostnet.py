"""GhostNet at any width scale.

Source: Han et al. 2020, "GhostNet: More Features from Cheap Operations" (arXiv 1911.11907), table 1
for the blocks, table 7 for the results. Kernels of the strided convolutions and channel rounding
are as in timm's ``ghostnet.py``, which carries the authors' weights.
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import Block, Classifier, ConvNormAct, GhostBottleneck, make_divisible
from lcnas.zoo._registry import Family, Published, Reference

STEM_WIDTH = 16
LAST_WIDTH = 960  # of the 1x1 convolution before the pooling
HEAD_WIDTH = 1280  # of the one after it, which does not scale
# (kernel, expanded width, width, squeeze-and-excite, stride) of each block, by the size of its
# output. The kernel is that of the strided depthwise convolution and of the shortcut's. In blocks
# without either the authors' 5 has no effect and is written as 3, so that equal networks are equal
# archs.
STAGES = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2), (3, 72, 24, False, 1)),
    ((5, 72, 40, True, 2), (3, 120, 40, True, 1)),
    (
        (3, 240, 80, False, 2),
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    (
        (5, 672, 160, True, 2),
        (3, 960, 160, False, 1),
        (3, 960, 160, True, 1),
        (3, 960, 160, False, 1),
        (3, 960, 160, True, 1),
    ),
)


def ghostnet(scale: float = 1.0) -> Arch:
    """Return GhostNet.

    Args:
        scale: width multiplier; channels are rounded to multiples of 4.
    """

    def scaled(width: int) -> int:
        return make_divisible(width * scale, 4)

    stages: dict[str, list[Block]] = {"stem": [ConvNormAct(scaled(STEM_WIDTH), 3, 2)]}
    for i, settings in enumerate(STAGES, start=1):
        stages[f"stage{i}"] = [
            GhostBottleneck(scaled(width), scaled(expanded), kernel, stride, se)
            for kernel, expanded, width, se, stride in settings
        ]
    stages["head"] = [
        ConvNormAct(scaled(LAST_WIDTH), 1),
        Classifier(HEAD_WIDTH, "relu", bias=True),
    ]
    return Arch.of(stages)


# top-1, params and MACs of table 7.
_TABLE = {
    0.5: (66.2, "2.6M", "42M"),
    1.0: (73.9, "5.2M", "141M"),
    1.3: (75.7, "7.3M", "226M"),
}
# Counted from the layers of timm 1.0.31.
_REFERENCES = {
    0.5: Reference("timm 1.0.31, ghostnet_050", 2_587_292, 42_328_152),
    1.0: Reference("timm 1.0.31, ghostnet_100", 5_182_508, 141_150_512),
    1.3: Reference(
        "timm 1.0.31, ghostnet_130",
        params=7_358_820,
        macs=227_003_256,
        note="the definition that meets the paper at 0.5x and 1.0x gives 7.4M and 227M at 1.3x",
    ),
}

FAMILIES = (
    Family(
        "ghostnet",
        ghostnet,
        scales=tuple(_TABLE),
        published={
            scale: Published(
                top1=top1,
                params=params,
                macs=macs,
                source="arXiv 1911.11907, table 7",
                reference=_REFERENCES[scale],
            )
            for scale, (top1, params, macs) in _TABLE.items()
        },
    ),
)
