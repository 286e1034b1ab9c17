"""The block vocabulary of all networks; each block is a frozen dataclass that lowers to layers.

To add a block, write one file: see ``docs/reference/blocks.md``.
"""

from lcnas import renamed
from lcnas.blocks._base import (
    FIELD_TYPES,
    Activation,
    Between,
    Block,
    Count,
    Kernel,
    Kernels,
    OneOf,
    OptionalKernel,
    Ratio,
    Share,
    Sides,
    Stride,
    Whole,
    WholeNumbers,
    Width,
    Widths,
    channels_of,
    create,
    field_names,
    find,
    from_data,
    make_divisible,
    pair,
    register,
    settings,
    to_data,
    types,
)
from lcnas.blocks._files import load_files
from lcnas.blocks._parts import chain, depthwise, pointwise, reparam, with_shortcut
from lcnas.blocks.classic import BasicBlock, HGBlock, HGStem, Inception
from lcnas.blocks.conv import ConvNormAct, ConvStem, LocalResponseNorm, Pool
from lcnas.blocks.ghost import GhostBottleneck, GhostModule
from lcnas.blocks.head import Classifier, DenseHead
from lcnas.blocks.inverted import (
    InvertedResidual,
    MBConv,
    MixConv,
    UniversalInvertedBottleneck,
)
from lcnas.blocks.separable import DepthwiseSeparable, ExpandCompress, SplitPointwise
from lcnas.blocks.shuffle import ShuffleV1Unit, ShuffleV2Unit

__all__ = [
    "FIELD_TYPES",
    "Activation",
    "BasicBlock",
    "Between",
    "Block",
    "Classifier",
    "ConvNormAct",
    "ConvStem",
    "Count",
    "DenseHead",
    "DepthwiseSeparable",
    "ExpandCompress",
    "GhostBottleneck",
    "GhostModule",
    "HGBlock",
    "HGStem",
    "Inception",
    "InvertedResidual",
    "Kernel",
    "Kernels",
    "LocalResponseNorm",
    "MBConv",
    "MixConv",
    "OneOf",
    "OptionalKernel",
    "Pool",
    "Ratio",
    "Share",
    "ShuffleV1Unit",
    "ShuffleV2Unit",
    "Sides",
    "SplitPointwise",
    "Stride",
    "UniversalInvertedBottleneck",
    "Whole",
    "WholeNumbers",
    "Width",
    "Widths",
    "chain",
    "channels_of",
    "create",
    "depthwise",
    "field_names",
    "find",
    "from_data",
    "load_files",
    "make_divisible",
    "pair",
    "pointwise",
    "register",
    "reparam",
    "settings",
    "to_data",
    "types",
    "with_shortcut",
]

__getattr__ = renamed.in_module(__name__, {"Row": "WholeNumbers"})
