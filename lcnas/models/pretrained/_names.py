"""The names of a network's weights in timm and PaddleClas: lcnas's name -> theirs.

Facts from timm 1.0 (``_efficientnet_blocks.py``, ``mobilenetv3.py``, ``efficientnet.py``) and
PaddleClas 2.6 (``pp_lcnet.py``, ``pp_lcnet_v2.py``, ``mobilenet_v3.py``); no code was copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lcnas import blocks, layers
from lcnas.arch import Arch
from lcnas.blocks import Block, Classifier, DenseHead
from lcnas.errors import PretrainedError
from lcnas.models.pretrained._program import OIHW, Weight
from lcnas.models.pretrained._tree import BlockLeaves, Leaf, block_leaves, weighted
from lcnas.onnx_export import EPSILON

WeightMap = dict[str, Weight]
NamePair = tuple[str, str]  # (convolution, its norm), or the two layers of squeeze-and-excite


@dataclass(frozen=True)
class Style:
    """The differences between two libraries."""

    mean: str  # last names of the running statistics
    var: str
    linear: tuple[int, int] | None  # axes of a linear layer's kernel
    gate: float = 1.0  # slope of the hard sigmoid, in sixths
    keeps: bool = True  # in evaluation dropout is the identity; otherwise it multiplies by 1 - rate


TORCH = Style("running_mean", "running_var", (1, 0))
PADDLE = Style("_mean", "_variance", None, keeps=False)
# PaddleClas's MobileNetV3 clips 0.2 x + 0.5, its other networks x / 6 + 0.5.
PADDLE_V3 = dataclasses.replace(PADDLE, gate=6 * 0.2)


# -- layers ----------------------------------------------------------------------------------------


def _norm(style: Style, name: str) -> WeightMap:
    return {
        "scale": Weight(f"{name}.weight"),
        "shift": Weight(f"{name}.bias"),
        "mean": Weight(f"{name}.{style.mean}"),
        "var": Weight(f"{name}.{style.var}"),
    }


def _conv(style: Style, conv: layers.Conv, names: NamePair) -> WeightMap:
    weight_map = {"kernel": Weight(f"{names[0]}.weight", OIHW)}
    if conv.bias:
        weight_map["bias"] = Weight(f"{names[0]}.bias")
    return weight_map | _norm(style, names[1]) if conv.norm else weight_map


def _squeeze_excite(style: Style, names: NamePair) -> WeightMap:
    reduce, expand = names
    return {
        "reduce/kernel": Weight(f"{reduce}.weight", OIHW),
        "reduce/bias": Weight(f"{reduce}.bias"),
        "expand/kernel": Weight(f"{expand}.weight", OIHW, style.gate),
        "expand/bias": Weight(f"{expand}.bias", None, style.gate),
    }


def linear_map(style: Style, name: str, dropout: float) -> WeightMap:
    """Return the names of a linear layer after a dropout of that rate."""
    factor = 1.0 if style.keeps else 1.0 - dropout
    return {
        "kernel": Weight(f"{name}.weight", style.linear, factor),
        "bias": Weight(f"{name}.bias"),
    }


def _branches(style: Style, layer: layers.Reparam, name: str) -> WeightMap:
    """Return the names of parallel convolutions: ``name.0.conv``, ``name.0.bn``, ``name.1.conv``, ..."""
    weight_map: WeightMap = {}
    for i, branch in enumerate(layer.branches):
        if not isinstance(branch, layers.Conv):
            raise PretrainedError("a branch of batch norm alone has no name in this scheme")
        inner = _conv(style, branch, (f"{name}.{i}.conv", f"{name}.{i}.bn"))
        weight_map |= {f"branch{i}/{last}": weight for last, weight in inner.items()}
    return weight_map


def _layer(style: Style, leaf: Leaf, convs: Iterator[NamePair], squeeze: NamePair) -> WeightMap:
    match leaf.layer, None if isinstance(leaf.layer, layers.SqueezeExcite) else next(convs, None):
        case layers.Conv() as conv, (_, _) as names:
            weight_map = _conv(style, conv, names)
        case layers.Reparam() as reparam, (name, _):
            weight_map = _branches(style, reparam, name)
        case layers.SqueezeExcite(), _:
            weight_map = _squeeze_excite(style, squeeze)
        case _:
            raise PretrainedError(f"{leaf.path}, a {leaf.layer.kind}, has no name in this scheme")
    return {f"{leaf.path}/{last}": weight for last, weight in weight_map.items()}


def block_map(
    style: Style, part: BlockLeaves, prefix: str, convs: Sequence[NamePair], squeeze: NamePair
) -> WeightMap:
    """Return the names of a block with convolutions named ``convs``, in order of execution."""
    remaining = iter([(f"{prefix}{conv}", f"{prefix}{norm}") for conv, norm in convs])
    inner = (f"{prefix}{squeeze[0]}", f"{prefix}{squeeze[1]}")
    weight_map: WeightMap = {}
    for leaf in weighted(part.leaves):
        weight_map |= _layer(style, leaf, remaining, inner)
    if next(remaining, None) is not None:
        raise PretrainedError(f"{part.stage}: {part.block} has fewer convolutions than the scheme")
    return weight_map


def _head(style: Style, part: BlockLeaves, convs: Sequence[NamePair], linear: str) -> WeightMap:
    """Return the names of a head: [1x1 convolution,] linear layer."""
    *before, last = weighted(part.leaves)
    dropout = part.block.dropout if isinstance(part.block, Classifier | DenseHead) else 0.0
    inner = dataclasses.replace(part, leaves=tuple(before))
    weight_map = block_map(style, inner, "", convs[: len(before)], ("", ""))
    if not isinstance(last.layer, layers.Linear):
        raise PretrainedError("the last layer is not linear")
    ours = linear_map(style, linear, dropout)
    return weight_map | {f"{last.path}/{name}": weight for name, weight in ours.items()}


def _parts(arch: Arch, classes: int) -> tuple[BlockLeaves, ...]:
    blocks_with_leaves = block_leaves(arch, classes)
    if len(blocks_with_leaves) < 3:
        raise PretrainedError(f"a network of {len(blocks_with_leaves)} blocks has no such names")
    return blocks_with_leaves


def expect(part: BlockLeaves, *allowed: type[Block]) -> None:
    """Raise PretrainedError unless the block has one of the allowed types."""
    if not isinstance(part.block, allowed):
        names = " or ".join(sorted(kind.type for kind in allowed))
        raise PretrainedError(
            f"{part.stage} has the block {part.block.type}, where {names} is expected"
        )


# -- timm ------------------------------------------------------------------------------------------

_TIMM_SQUEEZE = ("se.conv_reduce", "se.conv_expand")
_SEPARABLE = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
_INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
# PP-LCNet's stages in timm: the six blocks of the fourth are two stages of two and four.
_LCNET: dict[tuple[int, ...], tuple[int, ...]] = {(1, 2, 2, 6, 2): (1, 2, 2, 2, 4, 2)}


def timm(arch: Arch, classes: int) -> WeightMap:
    """Return timm's names of PP-LCNet, MobileNetV2, MobileNetV3 and MobileNetV4-conv.

    Raises:
        PretrainedError: the arch has blocks that timm's networks do not have at that place.
    """
    stem, *body, head = _parts(arch, classes)
    expect(stem, blocks.ConvNormAct)
    expect(head, Classifier, DenseHead)
    weight_map = block_map(TORCH, stem, "", [("conv_stem", "bn1")], _TIMM_SQUEEZE)
    convs = [("conv_head", "norm_head")]
    if isinstance(
        head.block, DenseHead
    ):  # timm's EfficientNet class: the last convolution is the head's
        last = body.pop()
        expect(last, blocks.ConvNormAct)
        weight_map |= block_map(TORCH, last, "", [("conv_head", "bn2")], _TIMM_SQUEEZE)
    for part, place in zip(body, _timm_places(body), strict=True):
        weight_map |= block_map(TORCH, part, f"blocks.{place}.", _timm_convs(part), _TIMM_SQUEEZE)
    return weight_map | _head(TORCH, head, convs, "classifier")


def _timm_places(body: Sequence[BlockLeaves]) -> list[str]:
    """Return "stage.block" of each block."""
    stages = [part.stage for part in body]
    sizes = tuple(stages.count(name) for name in dict.fromkeys(stages))
    if all(isinstance(part.block, blocks.DepthwiseSeparable) for part in body):
        sizes = _LCNET.get(sizes, sizes)
    return [f"{i}.{j}" for i, size in enumerate(sizes) for j in range(size)]


def _timm_convs(part: BlockLeaves) -> Sequence[NamePair]:
    match part.block:
        case blocks.ConvNormAct():
            return [("conv", "bn1")]
        case blocks.DepthwiseSeparable():
            return _SEPARABLE
        case blocks.InvertedResidual():
            convs = [leaf for leaf in weighted(part.leaves) if isinstance(leaf.layer, layers.Conv)]
            return _INVERTED if len(convs) == len(_INVERTED) else _SEPARABLE
        case blocks.UniversalInvertedBottleneck(kernel=inner, start_kernel=outer):
            names = ["dw_start"] * bool(outer) + ["pw_exp"] + ["dw_mid"] * bool(inner) + ["pw_proj"]
            return [(f"{name}.conv", f"{name}.bn") for name in names]
    raise PretrainedError(
        f"{part.stage} has the block {part.block.type}, which timm's networks lack"
    )


# -- PaddleClas ------------------------------------------------------------------------------------


def _conv_bn(*names: str) -> list[NamePair]:
    return [(f"{name}.conv", f"{name}.bn") for name in names]


def paddle_lcnet(arch: Arch, classes: int) -> WeightMap:
    """Return PaddleClas's names of PP-LCNet: ``conv1``, ``blocks2`` to ``blocks6``, ``last_conv``, ``fc``.

    Raises:
        PretrainedError: the arch is not a PP-LCNet.
    """
    stem, *body, head = _parts(arch, classes)
    expect(stem, blocks.ConvNormAct)
    expect(head, Classifier)
    weight_map = block_map(PADDLE, stem, "", _conv_bn("conv1"), ("", ""))
    stages = [part.stage for part in body]
    for i, part in enumerate(body):
        expect(part, blocks.DepthwiseSeparable)
        first = stages.index(part.stage)
        number = 2 + len(set(stages[:first]))
        names = _conv_bn("dw_conv", "pw_conv")
        weight_map |= block_map(
            PADDLE, part, f"blocks{number}.{i - first}.", names, ("se.conv1", "se.conv2")
        )
    return weight_map | _head(PADDLE, head, [("last_conv", "")], "fc")


def paddle_lcnet_v2(arch: Arch, classes: int) -> WeightMap:
    """Return PaddleClas's names of PP-LCNetV2, with its branches of training.

    Raises:
        PretrainedError: the arch is not a PP-LCNetV2.
    """
    stem, *body, head = _parts(arch, classes)
    expect(stem, blocks.ConvNormAct)
    expect(head, Classifier)
    weight_map = block_map(PADDLE, stem, "", _conv_bn("stem.0"), ("", ""))
    stages = [stem.stage, *(part.stage for part in body)]
    for i, part in enumerate(body, start=1):
        expect(part, blocks.DepthwiseSeparable, blocks.SplitPointwise)
        prefix = f"{part.stage}.{i - stages.index(part.stage)}."
        branched = any(isinstance(leaf.layer, layers.Reparam) for leaf in weighted(part.leaves))
        depthwise = [("dw_conv_list", "")] if branched else _conv_bn("dw_conv")
        split = isinstance(part.block, blocks.SplitPointwise)
        pointwise = _conv_bn("pw_conv_1", "pw_conv_2") if split else _conv_bn("pw_conv")
        names = [*depthwise, *pointwise]
        weight_map |= block_map(PADDLE, part, prefix, names, ("se.conv1", "se.conv2"))
    return weight_map | _head(PADDLE, head, [("last_conv", "")], "fc")


def paddle_mobilenet_v3(arch: Arch, classes: int) -> WeightMap:
    """Return PaddleClas's names of MobileNetV3: ``conv``, ``blocks``, ``last_second_conv``, ``fc`` ...

    Raises:
        PretrainedError: the arch is not a MobileNetV3.
    """
    stem, *body, last, head = _parts(arch, classes)
    expect(stem, blocks.ConvNormAct)
    expect(last, blocks.ConvNormAct)
    expect(head, Classifier)
    weight_map = block_map(PADDLE_V3, stem, "", _conv_bn("conv"), ("", ""))
    names = _conv_bn("expand_conv", "bottleneck_conv", "linear_conv")
    for i, part in enumerate(body):
        expect(part, blocks.InvertedResidual)
        weight_map |= block_map(
            PADDLE_V3, part, f"blocks.{i}.", names, ("mid_se.conv1", "mid_se.conv2")
        )
    weight_map |= block_map(PADDLE_V3, last, "", _conv_bn("last_second_conv"), ("", ""))
    return weight_map | _head(PADDLE_V3, head, [("last_conv", "")], "fc")


# -- schemes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """A naming scheme, and how its files are recognised."""

    name: str
    markers: tuple[str, ...]  # names that each of its files contains
    names: Callable[[Arch, int], WeightMap]
    classifier: tuple[str, int]  # a tensor, and its axis of the classes
    epsilon: float = EPSILON  # of batch norm

    def needless(self, name: str, names: Mapping[str, object]) -> bool:
        """Return whether a tensor is redundant."""
        if name.endswith(".num_batches_tracked"):
            return True
        # PP-LCNetV2 keeps the merged convolution beside its branches.
        parent, _, last = name.rpartition(".dw_conv.")
        return last in ("weight", "bias") and f"{parent}.dw_conv_list.0.conv.weight" in names


SCHEMES = (
    Scheme("timm", ("conv_stem.weight",), timm, ("classifier.weight", 0)),
    Scheme(
        "PaddleClas's PP-LCNet",
        ("conv1.conv.weight", "blocks2.0.dw_conv.conv.weight"),
        paddle_lcnet,
        ("fc.weight", 1),
    ),
    Scheme(
        "PaddleClas's PP-LCNetV2",
        ("stem.0.conv.weight", "stage1.0.pw_conv.conv.weight"),
        paddle_lcnet_v2,
        ("fc.weight", 1),
    ),
    Scheme(
        "PaddleClas's MobileNetV3",
        ("conv.conv.weight", "last_second_conv.conv.weight"),
        paddle_mobilenet_v3,
        ("fc.weight", 1),
    ),
)
