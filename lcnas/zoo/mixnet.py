"""MixNet-S and MixNet-M.

Source: Tan and Le 2019, "MixConv: Mixed Depthwise Convolutional Kernels" (arXiv 1907.09595), the
ImageNet table for the figures; the blocks, with SE and grouped 1x1 convolutions, as in timm's
``mixnet_s`` and ``mixnet_m``, which follow the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, MixConv
from lcnas.zoo._registry import Family, Published, Reference

LAST_WIDTH = 1536


@dataclass(frozen=True)
class MixConvConfig:
    """Settings of ``depth`` equal blocks, the first with ``stride``."""

    kernels: tuple[int, ...]  # of the mixed depthwise convolution, one per part
    expansion: int
    width: int
    depth: int = 1
    stride: int = 1
    groups: tuple[int, int] = (1, 1)  # parts of the first and of the last 1x1 convolution
    se: float = 0.0  # share of the input's channels
    act: str = "silu"


SMALL = (
    (MixConvConfig((3,), 1, 16, act="relu"),),
    (
        MixConvConfig((3,), 6, 24, stride=2, groups=(2, 2), act="relu"),
        MixConvConfig((3,), 3, 24, groups=(2, 2), act="relu"),
    ),
    (
        MixConvConfig((3, 5, 7), 6, 40, stride=2, se=0.5),
        MixConvConfig((3, 5), 6, 40, 3, groups=(2, 2), se=0.5),
    ),
    (
        MixConvConfig((3, 5, 7), 6, 80, stride=2, groups=(1, 2), se=0.25),
        MixConvConfig((3, 5), 6, 80, 2, groups=(1, 2), se=0.25),
    ),
    (
        MixConvConfig((3, 5, 7), 6, 120, groups=(2, 2), se=0.5),
        MixConvConfig((3, 5, 7, 9), 3, 120, 2, groups=(2, 2), se=0.5),
    ),
    (
        MixConvConfig((3, 5, 7, 9, 11), 6, 200, stride=2, se=0.5),
        MixConvConfig((3, 5, 7, 9), 6, 200, 2, groups=(1, 2), se=0.5),
    ),
)
MEDIUM = (
    (MixConvConfig((3,), 1, 24, act="relu"),),
    (
        MixConvConfig((3, 5, 7), 6, 32, stride=2, groups=(2, 2), act="relu"),
        MixConvConfig((3,), 3, 32, groups=(2, 2), act="relu"),
    ),
    (
        MixConvConfig((3, 5, 7, 9), 6, 40, stride=2, se=0.5),
        MixConvConfig((3, 5), 6, 40, 3, groups=(2, 2), se=0.5),
    ),
    (
        MixConvConfig((3, 5, 7), 6, 80, stride=2, se=0.25),
        MixConvConfig((3, 5, 7, 9), 6, 80, 3, groups=(2, 2), se=0.25),
    ),
    (
        MixConvConfig((3,), 6, 120, se=0.5),
        MixConvConfig((3, 5, 7, 9), 3, 120, 3, groups=(2, 2), se=0.5),
    ),
    (
        MixConvConfig((3, 5, 7, 9), 6, 200, stride=2, se=0.5),
        MixConvConfig((3, 5, 7, 9), 6, 200, 3, groups=(1, 2), se=0.5),
    ),
)


def mixnet_s() -> Arch:
    """Return MixNet-S."""
    return _build(16, SMALL)


def mixnet_m() -> Arch:
    """Return MixNet-M."""
    return _build(24, MEDIUM)


def _build(stem: int, stage_configs: tuple[tuple[MixConvConfig, ...], ...]) -> Arch:
    stages: dict[str, Iterable[Block]] = {"stem": [ConvNormAct(stem, 3, 2)]}
    channels = stem
    for i, configs in enumerate(stage_configs, start=1):
        blocks: list[Block] = []
        for config in configs:
            for j in range(config.depth):
                blocks.append(_block(config, channels, config.stride if j == 0 else 1))
                channels = config.width
        stages[f"stage{i}"] = blocks
    stages["last"] = [ConvNormAct(LAST_WIDTH, 1)]
    stages["head"] = [DenseHead(dropout=0.2)]
    return Arch.of(stages)


def _block(config: MixConvConfig, channels: int, stride: int) -> MixConv:
    return MixConv(
        config.width,
        config.kernels,
        stride,
        config.act,
        expansion=config.expansion,
        expand_groups=config.groups[0],
        project_groups=config.groups[1],
        se_ratio=config.se,
        shortcut=stride == 1 and channels == config.width,
    )


def _published(top1: float, params: str, macs: str, reference: Reference) -> dict[float, Published]:
    source = "arXiv 1907.09595, table of ImageNet results"
    return {1.0: Published(top1=top1, params=params, macs=macs, source=source, reference=reference)}


# The paper's FLOPs are 6 to 7 % above the MACs of convolutions and linear layers; timm's CPU
# benchmark, which counts batch norm too, prints 0.25 G and 0.36 G for the same networks (and 4.13 M
# and 5.01 M params).
_NOTE = "counted by running it, convolutions and linear layers; the paper's params are met"
_S = Reference("timm 1.0.31, mixnet_s", 4_134_606, 239_173_360, _NOTE)
_M = Reference("timm 1.0.31, mixnet_m", 5_014_382, 339_172_672, _NOTE)

FAMILIES = (
    Family("mixnet_s", mixnet_s, published=_published(75.8, "4.1M", "256M", _S)),
    Family("mixnet_m", mixnet_m, published=_published(77.0, "5.0M", "360M", _M)),
)
