"""The names of a network's weights in torchvision: lcnas's name -> theirs.

Facts from torchvision 0.28 (``mobilenetv2.py``, ``mobilenetv3.py``, ``efficientnet.py``,
``shufflenetv2.py``, ``resnet.py``, ``vgg.py``); no code was copied. Its modules are numbered, those
without weights as well, so most names are positions in a sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lcnas import blocks, layers
from lcnas.arch import Arch
from lcnas.blocks import Block, Classifier, DenseHead
from lcnas.errors import PretrainedError
from lcnas.models.pretrained._names import TORCH, Scheme, WeightMap, block_map, expect, linear_map
from lcnas.models.pretrained._program import Weight
from lcnas.models.pretrained._tree import BlockLeaves, block_leaves, weighted

_NO_SQUEEZE = ("", "")
_CONV_BN = [("0", "1")]  # convolution and norm, in an inner sequence


def _parts(
    arch: Arch, classes: int, first: type[Block], last: type[Block]
) -> tuple[BlockLeaves, ...]:
    """Return the blocks with weights; the first and the last must have these types."""
    blocks_with_weights = tuple(
        part for part in block_leaves(arch, classes, branches=True) if part.leaves
    )
    if len(blocks_with_weights) < 3:
        raise PretrainedError(f"a network of {len(blocks_with_weights)} blocks has no such names")
    expect(blocks_with_weights[0], first)
    expect(blocks_with_weights[-1], last)
    return blocks_with_weights


def _last(part: BlockLeaves, name: str) -> WeightMap:
    """Return the names of the last linear layer of a head."""
    leaf = part.leaves[-1]
    return {f"{leaf.path}/{key}": weight for key, weight in linear_map(TORCH, name, 0.0).items()}


# -- MobileNetV2, MobileNetV3, EfficientNet: all convolutions are in "features" ----------------------


def mobilenet_v2(arch: Arch, classes: int) -> WeightMap:
    """Return torchvision's names of MobileNetV2.

    Raises:
        PretrainedError: the arch has other blocks.
    """
    stem, *body, last, head = _parts(arch, classes, blocks.ConvNormAct, DenseHead)
    expect(last, blocks.ConvNormAct)
    weight_map = block_map(TORCH, stem, "features.0.", _CONV_BN, _NO_SQUEEZE)
    for i, part in enumerate(body, start=1):
        expect(part, blocks.InvertedResidual)
        *before, _ = part.leaves
        n = len(before)  # convolutions with an activation; the last has neither it nor a sequence
        convs = [(f"{j}.0", f"{j}.1") for j in range(n)] + [(str(n), str(n + 1))]
        weight_map |= block_map(TORCH, part, f"features.{i}.conv.", convs, _NO_SQUEEZE)
    weight_map |= block_map(TORCH, last, f"features.{len(body) + 1}.", _CONV_BN, _NO_SQUEEZE)
    return weight_map | _last(head, "classifier.1")


def mobilenet_v3(arch: Arch, classes: int) -> WeightMap:
    """Return torchvision's names of MobileNetV3; the first linear layer of its head is our 1x1 convolution.

    Raises:
        PretrainedError: the arch has other blocks.
    """
    stem, *body, last, head = _parts(arch, classes, blocks.ConvNormAct, Classifier)
    expect(last, blocks.ConvNormAct)
    weight_map = block_map(TORCH, stem, "features.0.", _CONV_BN, _NO_SQUEEZE)
    for i, part in enumerate(body, start=1):
        expect(part, blocks.InvertedResidual)
        weight_map |= _in_a_row(part, f"features.{i}.block.")
    weight_map |= block_map(TORCH, last, f"features.{len(body) + 1}.", _CONV_BN, _NO_SQUEEZE)
    conv, *_ = head.leaves
    if len(head.leaves) != 2 or not isinstance(conv.layer, layers.Conv) or conv.layer.norm:
        raise PretrainedError(f"{head.stage}: {head.block} is not two linear layers")
    for key, weight in linear_map(TORCH, "classifier.0", 0.0).items():
        weight_map[f"{conv.path}/{key}"] = dataclasses.replace(weight, flat=key == "kernel")
    return weight_map | _last(head, "classifier.3")


def efficientnet(arch: Arch, classes: int) -> WeightMap:
    """Return torchvision's names of EfficientNet.

    Raises:
        PretrainedError: the arch has other blocks.
    """
    stem, *body, last, head = _parts(arch, classes, blocks.ConvNormAct, DenseHead)
    expect(last, blocks.ConvNormAct)
    weight_map = block_map(TORCH, stem, "features.0.", _CONV_BN, _NO_SQUEEZE)
    for part, (stage, j) in zip(body, _places(body), strict=True):
        expect(part, blocks.MBConv)
        weight_map |= _in_a_row(part, f"features.{stage}.{j}.block.")
    stages = len({part.stage for part in body})
    weight_map |= block_map(TORCH, last, f"features.{stages + 1}.", _CONV_BN, _NO_SQUEEZE)
    return weight_map | _last(head, "classifier.1")


def _in_a_row(part: BlockLeaves, prefix: str) -> WeightMap:
    """Return the names of a block that numbers convolutions and squeeze-and-excite together."""
    convs, squeeze = [], _NO_SQUEEZE
    for i, leaf in enumerate(part.leaves):
        if isinstance(leaf.layer, layers.SqueezeExcite):
            squeeze = (f"{i}.fc1", f"{i}.fc2")
        else:
            convs.append((f"{i}.0", f"{i}.1"))
    return block_map(TORCH, part, prefix, convs, squeeze)


def _places(body: Sequence[BlockLeaves]) -> list[tuple[int, int]]:
    """Return (stage, block) of each block, stages from 1 and blocks from 0."""
    stages = [part.stage for part in body]
    order = list(dict.fromkeys(stages))
    return [(order.index(s) + 1, i - stages.index(s)) for i, s in enumerate(stages)]


# -- ShuffleNetV2, ResNet: stages by name ----------------------------------------------------------

_SIDE = [("branch1.0", "branch1.1"), ("branch1.2", "branch1.3")]
_MAIN = [("branch2.0", "branch2.1"), ("branch2.3", "branch2.4"), ("branch2.5", "branch2.6")]


def shufflenet_v2(arch: Arch, classes: int) -> WeightMap:
    """Return torchvision's names of ShuffleNetV2.

    Raises:
        PretrainedError: the arch has other blocks.
    """
    stem, *body, head = _parts(arch, classes, blocks.ConvNormAct, Classifier)
    weight_map = block_map(TORCH, stem, "conv1.", _CONV_BN, _NO_SQUEEZE)
    for part, (stage, j) in zip(body, _places(body), strict=True):
        expect(part, blocks.ShuffleV2Unit)
        convs = _MAIN if len(part.leaves) == len(_MAIN) else _SIDE + _MAIN
        weight_map |= block_map(TORCH, part, f"stage{stage + 1}.{j}.", convs, _NO_SQUEEZE)
    before = dataclasses.replace(head, leaves=head.leaves[:-1])
    weight_map |= block_map(TORCH, before, "conv5.", _CONV_BN, _NO_SQUEEZE)
    return weight_map | _last(head, "fc")


def resnet(arch: Arch, classes: int) -> WeightMap:
    """Return torchvision's names of ResNet-18 and -34; timm's are the same.

    Raises:
        PretrainedError: the arch has other blocks.
    """
    stem, *body, head = _parts(arch, classes, blocks.ConvNormAct, DenseHead)
    weight_map = block_map(TORCH, stem, "", [("conv1", "bn1")], _NO_SQUEEZE)
    for part, (stage, j) in zip(body, _places(body), strict=True):
        expect(part, blocks.BasicBlock)
        side = [("downsample.0", "downsample.1")] * (len(part.leaves) - 2)
        convs = [*side, ("conv1", "bn1"), ("conv2", "bn2")]
        weight_map |= block_map(TORCH, part, f"layer{stage}.{j}.", convs, _NO_SQUEEZE)
    return weight_map | _last(head, "fc")


# -- VGG -------------------------------------------------------------------------------------------


def vgg(arch: Arch, classes: int) -> WeightMap:
    """Return torchvision's names of VGG, with batch norm or without.

    Its convolutions have a bias even before a batch norm, where ours have none: there it is subtracted
    from the running mean, which is equivalent.

    Raises:
        PretrainedError: the arch has other blocks.
    """
    *_, head = _parts(arch, classes, blocks.ConvNormAct, DenseHead)
    weight_map: WeightMap = {}
    place = 0  # position in "features", where activations and poolings have one too
    for part in block_leaves(arch, classes, branches=True)[:-1]:
        expect(part, blocks.ConvNormAct, blocks.Pool)
        if not part.leaves:
            place += 1
            continue
        inner = block_map(TORCH, part, "features.", [(str(place), str(place + 1))], _NO_SQUEEZE)
        weight_map |= {name: _without_bias(name, weight, place) for name, weight in inner.items()}
        place += 3 if isinstance(part.block, blocks.ConvNormAct) and part.block.norm else 2
    for i, leaf in enumerate(weighted(head.leaves)):  # linear, activation and dropout each
        inner = linear_map(TORCH, f"classifier.{3 * i}", 0.0)
        weight_map |= {f"{leaf.path}/{key}": weight for key, weight in inner.items()}
    return weight_map


def _without_bias(name: str, weight: Weight, at: int) -> Weight:
    return (
        dataclasses.replace(weight, less=f"features.{at}.bias")
        if name.endswith("/mean")
        else weight
    )


TORCHVISION = (
    Scheme(
        "torchvision's MobileNetV2",
        ("features.0.0.weight", "features.1.conv.0.0.weight"),
        mobilenet_v2,
        ("classifier.1.weight", 0),
    ),
    Scheme(
        "torchvision's MobileNetV3",
        ("features.0.0.weight", "features.1.block.0.0.weight"),
        mobilenet_v3,
        ("classifier.3.weight", 0),
        epsilon=1e-3,
    ),
    Scheme(
        "torchvision's EfficientNet",
        ("features.0.0.weight", "features.1.0.block.0.0.weight"),
        efficientnet,
        ("classifier.1.weight", 0),
    ),
    Scheme(
        "torchvision's ShuffleNetV2",
        ("conv1.0.weight", "stage2.0.branch1.0.weight"),
        shufflenet_v2,
        ("fc.weight", 0),
    ),
    Scheme(
        "torchvision's ResNet",
        ("conv1.weight", "layer1.0.conv1.weight"),
        resnet,
        ("fc.weight", 0),
    ),
    Scheme(
        "torchvision's VGG",
        ("features.0.weight", "classifier.0.weight", "classifier.3.weight"),
        vgg,
        ("classifier.6.weight", 0),
    ),
)
