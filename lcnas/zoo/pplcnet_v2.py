"""PP-LCNetV2, small and base.

There is no paper. Source: PaddleClas, ``ppcls/arch/backbone/legendary_models/pp_lcnet_v2.py`` for
the blocks (the small one is in its later versions: scale 0.75, four blocks in the third stage), and
``docs/en/models/PP-LCNetV2_en.md``.
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import (
    Block,
    Classifier,
    ConvNormAct,
    DepthwiseSeparable,
    SplitPointwise,
    make_divisible,
)
from lcnas.zoo._registry import Family, Published, Reference

STEM_WIDTHS = (32, 64)  # of the convolution and of the block that PaddleClas has in the stem
# (kernel, width at scale 1, split pointwise and squeeze-and-excite, re-parameterised, shortcuts).
STAGES = (
    (3, 128, False, False, False),
    (3, 256, False, False, False),
    (5, 512, True, True, False),
    (5, 1024, False, True, True),
)
LAST_WIDTH = 1280  # does not scale


def branches(kernel: int, stride: int) -> tuple[int, ...]:
    """Return the kernels of the parallel branches: k, k - 2, ..., without 1 at stride 2."""
    return tuple(k for k in range(kernel, 0, -2) if k > 1 or stride == 1)


def pplcnet_v2(scale: float, depths: tuple[int, int, int, int]) -> Arch:
    """Return a PP-LCNetV2.

    Args:
        scale: width multiplier; channels are rounded to multiples of 8.
        depths: blocks of each stage; the first of a stage has stride 2.
    """

    def scaled(width: int) -> int:
        return make_divisible(width * scale)

    stages: dict[str, list[Block]] = {
        "stem": [
            ConvNormAct(scaled(STEM_WIDTHS[0]), 3, 2),
            DepthwiseSeparable(scaled(STEM_WIDTHS[1]), act="relu"),
        ]
    }
    for i, (settings, depth) in enumerate(zip(STAGES, depths, strict=True), start=1):
        kernel, width, split, rep, shortcut = settings
        stages[f"stage{i}"] = [
            _block(scaled(width), kernel, 1 if j else 2, split, rep, shortcut and j > 0)
            for j in range(depth)
        ]
    stages["head"] = [Classifier(LAST_WIDTH, "relu")]
    return Arch.of(stages)


def _block(width: int, kernel: int, stride: int, split: bool, rep: bool, shortcut: bool) -> Block:
    parallel = branches(kernel, stride) if rep else ()
    if split:
        return SplitPointwise(width, kernel, stride, se=True, branches=parallel)
    return DepthwiseSeparable(width, kernel, stride, "relu", shortcut=shortcut, branches=parallel)


def pplcnet_v2_small() -> Arch:
    """Return PP-LCNetV2 small."""
    return pplcnet_v2(0.75, (2, 2, 4, 2))


def pplcnet_v2_base() -> Arch:
    """Return PP-LCNetV2 base."""
    return pplcnet_v2(1.0, (2, 2, 6, 2))


# Counted from the layers of PaddleClas 2.6.0 and of timm 1.0.31 (lcnetv2_small, lcnetv2_base),
# which agree; paddle.flops from the first alone:
#        params, all branches   params, merged   MACs, merged   paddle.flops, merged
# small  4,128,552              4,092,840        280,320,896    287,568,848
# base   6,687,208              6,624,232        593,875,456    604,545,216
# Ours in training have the first count. PaddleClas merges to convolutions with a bias; ours keep their
# batch norm and so have one more value per channel, 2,496 and 4,352 in total.
_NOTE = (
    "params in training, {} with all branches; merged it has {}, where a bias stands for the batch "
    "norm of ours, which has a value more for each of {} channels"
)

FAMILIES = (
    Family(
        "pplcnet_v2_small",
        pplcnet_v2_small,
        published={
            1.0: Published(
                top1=73.97,
                source="PaddleX, list of models (accuracy only)",
                recipe="PaddleClas's",
                reference=Reference(
                    "PaddleClas 2.6.0, PPLCNetV2_small",
                    params=4_128_552,
                    training=True,
                    macs=280_320_896,
                    note=_NOTE.format("4,128,552", "4,092,840", "2,496"),
                ),
            )
        },
    ),
    Family(
        "pplcnet_v2_base",
        pplcnet_v2_base,
        published={
            1.0: Published(
                top1=77.04,
                params="6.6M",
                paddle_flops="604M",
                source="PaddleClas, PP-LCNetV2_en.md",
                recipe="PaddleClas's",
                reference=Reference(
                    "PaddleClas 2.6.0, PPLCNetV2_base",
                    params=6_687_208,
                    training=True,
                    macs=593_875_456,
                    note=_NOTE.format("6,687,208", "6,624,232", "4,352")
                    + "; merged, its paddle.flops are 604,545,216, which is printed as 604",
                ),
            )
        },
    ),
)
