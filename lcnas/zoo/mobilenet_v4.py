"""MobileNetV4-Conv-S at any width scale.

Source: Qin et al. 2024, "MobileNetV4: Universal Models for the Mobile Ecosystem" (arXiv
2404.10518), the table of MNv4-Conv-S for the blocks and the ImageNet table for the figures; the
scales after timm's ``mobilenetv4_conv_small`` and ``mobilenetv4_conv_small_050``.
"""

from __future__ import annotations

from collections.abc import Iterable

from lcnas.arch import Arch
from lcnas.blocks import (
    Block,
    Classifier,
    ConvNormAct,
    UniversalInvertedBottleneck,
    make_divisible,
)
from lcnas.zoo._registry import Family, Published, Reference

SCALES = (0.5, 1.0)
STEM_WIDTH = 32
LAST_WIDTH = 960
# (kernel, width at scale 1, stride) of the convolutions of the first two stages.
CONVS = (((3, 32, 2), (1, 32, 1)), ((3, 96, 2), (1, 64, 1)))
# (outer kernel, inner kernel, expansion, width at scale 1, stride) of each later block; 0: no
# convolution.
BLOCKS = (
    (
        (5, 5, 3, 96, 2),
        (0, 3, 2, 96, 1),
        (0, 3, 2, 96, 1),
        (0, 3, 2, 96, 1),
        (0, 3, 2, 96, 1),
        (3, 0, 4, 96, 1),
    ),
    (
        (3, 3, 6, 128, 2),
        (5, 5, 4, 128, 1),
        (0, 5, 4, 128, 1),
        (0, 5, 3, 128, 1),
        (0, 3, 4, 128, 1),
        (0, 3, 4, 128, 1),
    ),
)


def mobilenet_v4_conv_small(scale: float = 1.0, *, resolution: int = 224) -> Arch:
    """Return MobileNetV4-Conv-S.

    Args:
        scale: width multiplier; channels are rounded to multiples of 8. The stem does not shrink
            (as in timm), and the last 1,280 channels do not scale.
        resolution: deployment resolution, pixels.
    """
    stem = ConvNormAct(make_divisible(STEM_WIDTH * max(1.0, scale)), 3, 2)
    stages: dict[str, Iterable[Block]] = {"stem": [stem]}
    for i, convs in enumerate(CONVS, start=1):
        stages[f"stage{i}"] = [
            ConvNormAct(make_divisible(width * scale), kernel, stride)
            for kernel, width, stride in convs
        ]
    for i, settings in enumerate(BLOCKS, start=len(CONVS) + 1):
        stages[f"stage{i}"] = [
            UniversalInvertedBottleneck(
                make_divisible(width * scale),
                inner,
                outer,
                stride,
                expansion=expansion,
                shortcut=stride == 1,  # widths change only where the stride is 2
            )
            for outer, inner, expansion, width, stride in settings
        ]
    stages["last"] = [ConvNormAct(make_divisible(LAST_WIDTH * scale), 1)]
    stages["head"] = [Classifier(1280, "relu", norm=True)]
    return Arch.of(stages, resolution)


_PUBLISHED = {
    0.5: Published(
        top1=64.8,
        params="2.2M",
        source="R. Wightman's announcement of timm/mobilenetv4_conv_small_050.e3000_r224_in1k "
        "(huggingface.co/posts/rwightman/793053396198664)",
        recipe="timm's, 3,000 epochs",
        reference=Reference(
            "timm 1.0.31, mobilenetv4_conv_small_050",
            2_238_952,
            64_741_408,
            "counted by running it; the printed params are met",
        ),
    ),
    1.0: Published(
        top1=73.8,
        params="3.8M",
        macs="0.2G",
        source="arXiv 2404.10518, table of ImageNet results",
        reference=Reference(
            "timm 1.0.31, mobilenetv4_conv_small",
            3_774_024,
            186_005_568,
            "counted by running it (its CPU benchmark prints 3.77 M and, with batch norm, 0.19 G); "
            "the paper's figures are met as well",
        ),
    ),
}

FAMILIES = (
    Family("mobilenet_v4_conv_small", mobilenet_v4_conv_small, scales=SCALES, published=_PUBLISHED),
)
