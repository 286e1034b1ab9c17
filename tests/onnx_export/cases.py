"""Blocks that together cover every type of the vocabulary and every branch of their lowering."""

from __future__ import annotations

from lcnas import blocks
from lcnas.layers import ACTIVATIONS

SHAPE = (9, 10, 8)

BLOCKS = [
    blocks.ConvNormAct(5),
    blocks.ConvNormAct(8, kernel=(3, 5), stride=(1, 2), groups=2, norm=False, affine=True),
    blocks.ConvNormAct(8, kernel=2, groups=0, branches=(2,), padding=(1, 0, 0, 1), affine=True),
    blocks.ConvNormAct(8, kernel=5, padding=(3, 2, 2, 3), branches=(5, 3)),
    *(blocks.ConvNormAct(4, kernel=1, act=act) for act in ACTIVATIONS),
    blocks.ConvStem(3, convs=2),
    blocks.Pool(3, ceil=True),
    blocks.Pool((3, 2), stride=(1, 3), mode="avg", ceil=True),
    blocks.Pool(2, padding=(0, 1, 0, 1), stride=1, mode="avg"),
    blocks.LocalResponseNorm(alpha=0.5, size=3),
    blocks.DepthwiseSeparable(4, kernel=5, stride=(2, 1), se=True),
    blocks.DepthwiseSeparable(8, shortcut=True, branches=(3, 1, 0)),
    blocks.SplitPointwise(6, se=True, ratio=0.5, kernel=(1, 3)),
    blocks.ExpandCompress(8, se=True, shortcut=True, expansion=1.5),
    blocks.InvertedResidual(4, expansion=1.25, se=True, se_divisor=1),
    blocks.InvertedResidual(8, expanded=8, always_expand=True, shortcut=True),
    blocks.MBConv(4, expansion=1.5, stride=2),
    blocks.MBConv(8, expansion=1, se_ratio=0, shortcut=True),
    blocks.MixConv(8, (3, 5, 7), expansion=1.5, expand_groups=2, project_groups=2, se_ratio=0.5),
    blocks.UniversalInvertedBottleneck(
        8, start_kernel=3, start_branches=(3, 0), expansion=2, se=True, shortcut=True
    ),
    blocks.UniversalInvertedBottleneck(4, kernel=0, start_kernel=5, stride=2, expansion=1),
    blocks.ShuffleV1Unit(16, groups=4, first_groups=1, stride=2),
    blocks.ShuffleV1Unit(8, groups=2, first_groups=2),
    blocks.ShuffleV2Unit(8),
    blocks.ShuffleV2Unit(12, stride=2, kernel=5),
    blocks.GhostModule(6),
    blocks.GhostBottleneck(8, 12, se=True),
    blocks.GhostBottleneck(6, 8, stride=2, kernel=5),
    blocks.BasicBlock(8),
    blocks.BasicBlock(4, stride=2),
    blocks.Inception(1, 2, 3, 1, 2, 2),
    blocks.HGStem(4, 6),
    blocks.HGBlock(8, 2, depth=3, light=True, shortcut=True),
    blocks.HGBlock(4, 3, depth=2, downsample=2, affine=False),
    blocks.Classifier(7, bias=True, norm=True, affine=True),
    blocks.Classifier(5, norm=True, pool_after=True),
    blocks.Classifier(0),
    blocks.DenseHead((4, 3), dropout=0.5, pool=False),
]
