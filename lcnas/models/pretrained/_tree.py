"""The layers of an arch with weights, each with its path in the names of weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lcnas import layers
from lcnas.arch import Arch, walk
from lcnas.blocks import Block
from lcnas.layers import Layer
from lcnas.models.pretrained._program import SUM
from lcnas.onnx_export import block_names

WEIGHTED = (layers.Conv, layers.Reparam, layers.SqueezeExcite, layers.Linear)


@dataclass(frozen=True)
class Leaf:
    """A layer with its path; the body of a sum of the input and a chain is that chain."""

    path: str  # such as "stage4_block_2/0"
    layer: Layer
    body: tuple[Leaf, ...] = ()


@dataclass(frozen=True)
class BlockLeaves:
    """A block and its leaves, in order of execution."""

    stage: str
    block: Block
    leaves: tuple[Leaf, ...]


def block_leaves(arch: Arch, classes: int, branches: bool = False) -> tuple[BlockLeaves, ...]:
    """Return the blocks of a network with their leaves, without identities and dropout.

    Args:
        arch: the network.
        classes: outputs of its last layer.
        branches: only the leaves with weights, but of all branches, in order of execution.
    """
    stages = [stage.name for stage in arch.stages for _ in stage.blocks]
    placed = zip(stages, block_names(arch), walk(arch, classes=classes), strict=True)
    leaves_of = _of_branches if branches else leaves
    return tuple(
        BlockLeaves(stage, block.block, tuple(leaves_of(block.layer, name)))
        for stage, name, block in placed
    )


def _of_branches(layer: Layer, path: str) -> Iterator[Leaf]:
    """Yield the leaves with weights, at any depth."""
    if isinstance(layer, WEIGHTED):
        yield Leaf(path, layer)
        return
    for i, inner in enumerate(layer.children()):
        yield from _of_branches(inner, f"{path}/{i}")


def leaves(layer: Layer, path: str) -> Iterator[Leaf]:
    """Yield the leaves of a layer, with chains unrolled."""
    match layer:
        case layers.Chain():
            for i, inner in enumerate(layer.layers):
                yield from leaves(inner, f"{path}/{i}")
        case layers.Identity() | layers.Dropout():
            return
        case layers.Add(branches=(layers.Identity(), body)):
            yield Leaf(path, layers.Add(SUM.branches, layer.act), tuple(leaves(body, f"{path}/1")))
        case _:
            yield Leaf(path, layer)


def weighted(nested: tuple[Leaf, ...]) -> Iterator[Leaf]:
    """Yield the leaves with weights, also those inside sums."""
    for leaf in nested:
        if leaf.body:
            yield from weighted(leaf.body)
        elif isinstance(leaf.layer, WEIGHTED):
            yield leaf
