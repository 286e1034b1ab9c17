"""MobileNetV2 at any width scale.

Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv
1801.04381), table 2 for the blocks, table 4 for the figures of 1.0 and 1.4. Channels are rounded to
multiples of 8 as in TensorFlow Slim, whose README (``research/slim/nets/mobilenet``) gives the
accuracies of 0.35 to 0.75, and as in torchvision and timm.

The accuracy of 0.25 is PaddleClas's, whose network does not round to multiples of 8 and keeps the
first 1x1 convolution where it widens nothing, so at 0.25 this is PaddleClas's network. ``paddle``
overrides the choice.
"""

from __future__ import annotations

from collections.abc import Iterable

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, InvertedResidual, make_divisible
from lcnas.zoo._registry import Family, Published, Reference

SCALES = (0.25, 0.35, 0.5, 0.75, 1.0, 1.4)
PADDLE_SCALES = (0.25,)  # scales with PaddleClas's accuracy
STEM_WIDTH = 32
LAST_WIDTH = 1280
# (expansion, width at scale 1, blocks, stride of the first block) of each stage.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    scale: float = 1.0, *, paddle: bool | None = None, act: str = "relu6", resolution: int = 224
) -> Arch:
    """Return MobileNetV2.

    Args:
        scale: width multiplier; the last 1x1 convolution scales only above 1.0.
        paddle: use PaddleClas's scheme (see above); None: at PADDLE_SCALES only.
        act: activation after all convolutions except the projections.
        resolution: deployment resolution, pixels.
    """
    paddle = scale in PADDLE_SCALES if paddle is None else paddle
    channels = _width(STEM_WIDTH, scale, paddle)
    stages: dict[str, Iterable[Block]] = {"stem": [ConvNormAct(channels, 3, 2, act)]}
    for i, (expansion, base, depth, first_stride) in enumerate(STAGES, start=1):
        width = _width(base, scale, paddle)
        blocks: list[Block] = []
        for j in range(depth):
            stride = first_stride if j == 0 else 1
            block = InvertedResidual(
                width,
                stride=stride,
                act=act,
                expansion=expansion,
                always_expand=paddle and expansion == 1,
                shortcut=stride == 1 and channels == width,
            )
            blocks.append(block)
            channels = width
        stages[f"stage{i}"] = blocks
    stages["last"] = [ConvNormAct(_width(LAST_WIDTH, max(1.0, scale), paddle), 1, 1, act)]
    stages["head"] = [DenseHead(dropout=0.2)]
    return Arch.of(stages, resolution)


def _width(base: int, scale: float, paddle: bool) -> int:
    return max(1, int(base * scale)) if paddle else make_divisible(base * scale)


_SLIM = "TensorFlow Slim, research/slim/nets/mobilenet/README.md"
_NO_NORM = "the printed params leave out batch norm"


def _published(
    scale: float, top1: float, params: str, macs: str, reference: Reference
) -> Published:
    paper = scale in (1.0, 1.4)
    return Published(
        top1=top1,
        params=params,
        macs=macs,
        source="arXiv 1801.04381, table 4" if paper else _SLIM,
        recipe="the paper's" if paper else "TensorFlow Slim's",
        reference=reference,
    )


def _timm(name: str, params: int, macs: int, note: str) -> Reference:
    return Reference(f"timm 1.0.31, {name}", params, macs, f"counted by running it; {note}")


_TABLE = {
    0.35: (60.3, "1.66M", "59M", _timm("mobilenetv2_035", 1_677_128, 59_285_808, _NO_NORM)),
    0.5: (65.4, "1.95M", "97M", _timm("mobilenetv2_050", 1_968_680, 97_131_840, _NO_NORM)),
    0.75: (69.8, "2.61M", "209M", _timm("mobilenetv2_075", 2_636_424, 209_069_792, _NO_NORM)),
    1.0: (
        72.0,
        "3.4M",
        "300M",
        _timm(
            "mobilenetv2_100",
            3_504_872,
            300_774_272,
            "torchvision documents the same for mobilenet_v2: num_params 3504872, _ops 0.301",
        ),
    ),
    1.4: (
        74.7,
        "6.9M",
        "585M",
        _timm(
            "mobilenetv2_140",
            6_108_776,
            582_195_824,
            "TensorFlow Slim prints 6.06 M without batch norm and 582 M for this network",
        ),
    ),
}
_PADDLE = Published(
    top1=53.21,
    params="1.53M",
    paddle_flops="34.18M",
    source="PaddleClas, docs/en/algorithm_introduction/ImageNet_models_en.md",
    recipe="PaddleClas's",
    reference=Reference(
        "PaddleClas 2.6.0, MobileNetV2_x0_25",
        1_517_392,
        30_480_864,
        "counted by running it; the printed params include batch norm's running statistics",
    ),
)

FAMILIES = (
    Family(
        "mobilenet_v2",
        mobilenet_v2,
        scales=SCALES,
        published={
            0.25: _PADDLE,
            **{scale: _published(scale, *row) for scale, row in _TABLE.items()},
        },
    ),
)
