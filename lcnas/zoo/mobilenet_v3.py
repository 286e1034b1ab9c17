"""MobileNetV3-small and MobileNetV3-large at any width scale.

Source: Howard et al. 2019, "Searching for MobileNetV3" (arXiv 1905.02244), tables 1 and 2 for the
blocks, table 3 for the figures of 0.75 and 1.0.

There are two schemes of scaling. timm's, which fits TensorFlow's weights too, derives a block's
expanded width from its scaled input, rounds SE's hidden width to multiples of 8, leaves the stem at
16 below 0.75 and ends in 1,024 (small) or 1,280 channels. PaddleClas's scales the expanded widths
themselves and the stem, does not round SE's quarter, always starts a block with a 1x1
convolution and ends in 1,280 channels without bias.

The paper has figures of 0.75 and 1.0 only; those of 0.35, 0.5 and 1.25 are PaddleClas's, so at
these scales the networks are PaddleClas's too. ``paddle`` overrides the choice: ``paddle=False`` at
0.5 gives timm's mobilenetv3_small_050. (SE's gate in PaddleClas is 0.2 x + 0.5, clipped; here it is
the paper's x / 6 + 0.5.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lcnas.arch import Arch
from lcnas.blocks import Block, Classifier, ConvNormAct, InvertedResidual, make_divisible
from lcnas.zoo._registry import Family, Published, Reference

SCALES = (0.35, 0.5, 0.75, 1.0, 1.25)
PADDLE_SCALES = (0.35, 0.5, 1.25)  # scales with PaddleClas's accuracy
STEM_WIDTH = 16
PADDLE_LAST = 1280


@dataclass(frozen=True)
class InvertedResidualConfig:
    """Settings of a block in the paper's table; widths at scale 1."""

    kernel: int
    expanded: int
    width: int
    se: bool
    act: str
    stride: int


@dataclass(frozen=True)
class MobileNetV3Config:
    """Settings of a network: small or large."""

    stages: tuple[tuple[InvertedResidualConfig, ...], ...]
    squeeze: int  # width of the 1x1 convolution before the pooling, scales
    last: int  # width of the one after it, does not scale


RE, HS = "relu", "hard_swish"

SMALL = MobileNetV3Config(
    (
        (InvertedResidualConfig(3, 16, 16, True, RE, 2),),
        (
            InvertedResidualConfig(3, 72, 24, False, RE, 2),
            InvertedResidualConfig(3, 88, 24, False, RE, 1),
        ),
        (
            InvertedResidualConfig(5, 96, 40, True, HS, 2),
            InvertedResidualConfig(5, 240, 40, True, HS, 1),
            InvertedResidualConfig(5, 240, 40, True, HS, 1),
        ),
        (
            InvertedResidualConfig(5, 120, 48, True, HS, 1),
            InvertedResidualConfig(5, 144, 48, True, HS, 1),
        ),
        (
            InvertedResidualConfig(5, 288, 96, True, HS, 2),
            InvertedResidualConfig(5, 576, 96, True, HS, 1),
            InvertedResidualConfig(5, 576, 96, True, HS, 1),
        ),
    ),
    squeeze=576,
    last=1024,
)
LARGE = MobileNetV3Config(
    (
        (InvertedResidualConfig(3, 16, 16, False, RE, 1),),
        (
            InvertedResidualConfig(3, 64, 24, False, RE, 2),
            InvertedResidualConfig(3, 72, 24, False, RE, 1),
        ),
        (
            InvertedResidualConfig(5, 72, 40, True, RE, 2),
            InvertedResidualConfig(5, 120, 40, True, RE, 1),
            InvertedResidualConfig(5, 120, 40, True, RE, 1),
        ),
        (
            InvertedResidualConfig(3, 240, 80, False, HS, 2),
            InvertedResidualConfig(3, 200, 80, False, HS, 1),
            InvertedResidualConfig(3, 184, 80, False, HS, 1),
            InvertedResidualConfig(3, 184, 80, False, HS, 1),
        ),
        (
            InvertedResidualConfig(3, 480, 112, True, HS, 1),
            InvertedResidualConfig(3, 672, 112, True, HS, 1),
        ),
        (
            InvertedResidualConfig(5, 672, 160, True, HS, 2),
            InvertedResidualConfig(5, 960, 160, True, HS, 1),
            InvertedResidualConfig(5, 960, 160, True, HS, 1),
        ),
    ),
    squeeze=960,
    last=1280,
)


def mobilenet_v3_small(
    scale: float = 1.0, *, paddle: bool | None = None, resolution: int = 224
) -> Arch:
    """Return MobileNetV3-small.

    Args:
        scale: width multiplier; channels are rounded to multiples of 8.
        paddle: use PaddleClas's scheme (see above); None: at PADDLE_SCALES only.
        resolution: deployment resolution, pixels.
    """
    return _build(SMALL, scale, paddle, resolution)


def mobilenet_v3_large(
    scale: float = 1.0, *, paddle: bool | None = None, resolution: int = 224
) -> Arch:
    """Return MobileNetV3-large; the arguments are those of :func:`mobilenet_v3_small`."""
    return _build(LARGE, scale, paddle, resolution)


def _build(config: MobileNetV3Config, scale: float, paddle: bool | None, resolution: int) -> Arch:
    paddle = scale in PADDLE_SCALES if paddle is None else paddle
    channels = make_divisible(STEM_WIDTH * scale) if paddle or scale >= 0.75 else STEM_WIDTH
    stages: dict[str, Iterable[Block]] = {"stem": [ConvNormAct(channels, 3, 2, HS)]}
    base = STEM_WIDTH  # ``channels`` at scale 1
    for i, configs in enumerate(config.stages, start=1):
        blocks: list[Block] = []
        for block_config in configs:
            ratio = block_config.expanded / base
            expanded = block_config.expanded * scale if paddle else channels * ratio
            block = _block(block_config, channels, make_divisible(expanded), scale, paddle)
            blocks.append(block)
            channels, base = block.width, block_config.width
        stages[f"stage{i}"] = blocks
    stages["last"] = [ConvNormAct(make_divisible(config.squeeze * scale), 1, 1, HS)]
    stages["head"] = [Classifier(PADDLE_LAST if paddle else config.last, HS, bias=not paddle)]
    return Arch.of(stages, resolution)


def _block(
    config: InvertedResidualConfig, channels: int, expanded: int, scale: float, paddle: bool
) -> InvertedResidual:
    width = make_divisible(config.width * scale)
    return InvertedResidual(
        width,
        config.kernel,
        config.stride,
        config.act,
        expanded=expanded,
        always_expand=paddle and expanded == channels,
        se=config.se,
        se_divisor=1 if paddle else 8,
        shortcut=config.stride == 1 and channels == width,
    )


def _paper(top1: float, params: str, macs: str, reference: Reference) -> Published:
    source = "arXiv 1905.02244, table 3"
    return Published(top1=top1, params=params, macs=macs, source=source, reference=reference)


def _timm(name: str, params: int, macs: int, note: str) -> Reference:
    return Reference(f"timm 1.0.31, {name}", params, macs, f"counted by running it; {note}")


def _paddle(
    top1: float, params: str, flops: str, name: str, exact_params: int, exact_macs: int
) -> Published:
    return Published(
        top1=top1,
        params=params,
        paddle_flops=flops,
        source="PaddleClas, docs/en/algorithm_introduction/ImageNet_models_en.md",
        recipe="PaddleClas's",
        reference=Reference(
            f"PaddleClas 2.6.0, {name}",
            exact_params,
            exact_macs,
            "counted by running it; the printed params include batch norm's running statistics",
        ),
    )


_SMALL = {
    0.35: _paddle(53.03, "1.67M", "14.56M", "MobileNetV3_small_x0_35", 1_665_954, 13_161_528),
    0.5: _paddle(59.21, "1.91M", "22.60M", "MobileNetV3_small_x0_5", 1_902_536, 20_759_280),
    0.75: _paper(
        65.4,
        "2.0M",
        "44M",
        _timm("mobilenetv3_small_075", 2_041_872, 43_399_344, "the paper's params are met"),
    ),
    1.0: _paper(
        67.4,
        "2.5M",
        "56M",
        _timm(
            "mobilenetv3_small_100",
            2_542_856,
            56_510_400,
            "torchvision documents the same for mobilenet_v3_small: num_params 2542856, _ops "
            "0.057; the paper's params are met",
        ),
    ),
    1.25: _paddle(70.67, "3.64M", "100.07M", "MobileNetV3_small_x1_25", 3_627_370, 95_364_424),
}
_LARGE = {
    0.35: _paddle(64.32, "2.11M", "40.90M", "MobileNetV3_large_x0_35", 2_104_328, 37_188_872),
    0.5: _paddle(69.24, "2.69M", "71.83M", "MobileNetV3_large_x0_5", 2_673_422, 66_704_432),
    0.75: _paper(
        73.3,
        "4.0M",
        "155M",
        _timm("mobilenetv3_large_075", 3_993_528, 154_560_624, "the paper's figures are met"),
    ),
    1.0: _paper(
        75.2,
        "5.4M",
        "219M",
        _timm(
            "mobilenetv3_large_100",
            5_483_032,
            216_589_760,
            "torchvision documents the same for mobilenet_v3_large: num_params 5483032, _ops "
            "0.217; the authors' own code gives 217 M MACs (TensorFlow Slim's README)",
        ),
    ),
    1.25: _paddle(76.41, "7.47M", "362.70M", "MobileNetV3_large_x1_25", 7_443_308, 349_965_896),
}

FAMILIES = (
    Family("mobilenet_v3_small", mobilenet_v3_small, scales=SCALES, published=_SMALL),
    Family("mobilenet_v3_large", mobilenet_v3_large, scales=SCALES, published=_LARGE),
)
