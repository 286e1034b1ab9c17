"""PP-HGNetV2-B0.

There is no paper. Source: PaddleClas, ``ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py`` and
``docs/en/models/PP-HGNetV2_en.md``.
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import Block, Classifier, HGBlock, HGStem
from lcnas.zoo._registry import Family, Published, Reference

STEM = (16, 16)  # (width, channels inside)
# (width, channels of a layer, blocks, stride, light layers, kernel, layers of a block) of each
# stage. All blocks of a stage but the first have a shortcut.
STAGES = (
    (64, 16, 1, 1, False, 3, 3),
    (256, 32, 1, 2, False, 3, 3),
    (512, 64, 2, 2, True, 5, 3),
    (1024, 128, 1, 2, True, 5, 3),
)
LAST_WIDTH = 2048


def hgnet_v2_b0() -> Arch:
    """Return PP-HGNetV2-B0."""
    stages: dict[str, list[Block]] = {"stem": [HGStem(*STEM)]}
    for i, (width, middle, blocks, stride, light, kernel, depth) in enumerate(STAGES, start=1):
        stages[f"stage{i}"] = [
            HGBlock(width, middle, depth, kernel, light, 1 if j else stride, shortcut=j > 0)
            for j in range(blocks)
        ]
    stages["head"] = [Classifier(LAST_WIDTH, "relu", dropout=0.0, affine=True)]
    return Arch.of(stages)


FAMILIES = (
    Family(
        "hgnet_v2_b0",
        hgnet_v2_b0,
        published={
            1.0: Published(
                top1=77.77,
                source="PaddleClas, PP-HGNetV2_en.md (accuracy only)",
                data="ImageNet-1k and images mined from ImageNet-22k",
                distilled=True,
                recipe="PaddleClas's SSLD, two stages",
                reference=Reference(
                    "PaddleClas 2.6.0, PPHGNetV2_B0",
                    params=5_996_550,
                    macs=321_326_464,
                    note="no counts are printed; these are counted from its layers (timm's "
                    "hgnetv2_b0 has the same)",
                ),
            )
        },
    ),
)
