"""GoogLeNet as in its paper: with local response normalisation and biases, without batch norm.

Source: Szegedy et al. 2014, "Going Deeper with Convolutions" (arXiv 1409.4842), table 1 and
figure 3. The constants of the normalisation and the rounding of the poolings are as in Caffe's
replication (``models/bvlc_googlenet``).
"""

from __future__ import annotations

from lcnas.arch import Arch
from lcnas.blocks import Block, ConvNormAct, DenseHead, Inception, LocalResponseNorm, Pool
from lcnas.zoo._registry import Family, Published, Reference

# The six columns of table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),  # 3a, 3b
    (
        (192, 96, 208, 16, 48, 64),  # 4a
        (160, 112, 224, 24, 64, 64),  # 4b
        (128, 128, 256, 24, 64, 64),  # 4c
        (112, 144, 288, 32, 64, 64),  # 4d
        (256, 160, 320, 32, 128, 128),  # 4e
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),  # 5a, 5b
)
DROPOUT = 0.4  # table 1


def googlenet() -> Arch:
    """Return GoogLeNet without its two auxiliary heads, which exist only in training."""
    halve = Pool(3, 2, padding=(0, 0, 0, 0), ceil=True)
    stages: dict[str, list[Block]] = {
        "stem": [
            ConvNormAct(64, 7, 2, norm=False),
            halve,
            LocalResponseNorm(),
            ConvNormAct(64, 1, norm=False),
            ConvNormAct(192, 3, norm=False),
            LocalResponseNorm(),
            halve,
        ]
    }
    for i, modules in enumerate(STAGES, start=1):
        stages[f"stage{i}"] = [Inception(*widths) for widths in modules]
        if i < len(STAGES):
            stages[f"stage{i}"].append(halve)
    stages["head"] = [DenseHead(dropout=DROPOUT)]
    return Arch.of(stages)


FAMILIES = (
    Family(
        "googlenet",
        googlenet,
        published={
            1.0: Published(
                top1=68.7,
                macs="1.5G",
                source="arXiv 1409.4842, section 1 (table 1 has figures row by row only)",
                top1_source="Caffe, models/bvlc_googlenet/readme.md (centre crop)",
                recipe="Caffe's",
                reference=Reference(
                    "Caffe, bvlc_googlenet without auxiliary heads",
                    params=6_998_552,
                    macs=1_582_671_872,
                    note="the rows of table 1 sum up to 1.50G because it has 34M for the 7x7 "
                    "convolution, whose 64 filters cost 118M; params as CaffeJS prints them for "
                    "Caffe's model, MACs derived from the layers of deploy.prototxt",
                ),
            )
        },
    ),
)
