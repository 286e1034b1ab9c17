"""The part of a supernet that a network uses: a few integers, computed on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lcnas import layers
from lcnas.arch import Arch, walk
from lcnas.blocks import Block, Classifier, ConvNormAct, DepthwiseSeparable
from lcnas.errors import ModelError, not_among
from lcnas.models.supernet._plan import BlockChoices, EndChoices, SupernetPlan


class Active(NamedTuple):
    """A network within a supernet: int32 arrays of NumPy or JAX; stacked, several networks.

    Values of absent blocks have no effect; they are those of the smallest network.
    """

    widths: Any  # (1 + stages,): of the stem and of each stage
    depths: Any  # (stages,): blocks
    kernels: Any  # (places,): side of each block's depthwise kernel
    hidden: Any  # (places,): hidden channels of squeeze-and-excite, 0: none
    acts: Any  # (places + 2,): number in SupernetPlan.acts of the stem, each block and the head
    last: Any  # (): width of the head's 1x1 convolution, 0: none


def stacked(active: Sequence[Active]) -> Active:
    """Return several networks as one, with a leading axis."""
    return Active(*(np.stack(parts) for parts in zip(*active, strict=True)))


def active(plan: SupernetPlan, arch: Arch) -> Active:
    """Return a network's choices in the supernet of a plan.

    Raises:
        ModelError: the network does not fit; names the block and the allowed values.
    """
    names = [plan.stem.name, *(stage.name for stage in plan.stages), plan.head.name]
    if [stage.name for stage in arch.stages] != names:
        raise ModelError(f"supernet: stages {[s.name for s in arch.stages]} are not {names}")
    hidden = iter([_hidden(placed.layer) for placed in walk(arch)][1:-1])
    stem, *stages, head = arch.stages
    widths = [_end(plan.stem, stem.blocks, ConvNormAct)]
    depths, kernels, squeezed, acts = [], [], [], [plan.acts.index(stem.blocks[0].act)]  # type: ignore[attr-defined]
    for stage, arch_stage in zip(plan.stages, stages, strict=True):
        _check(f"{stage.name}: depth", len(arch_stage.blocks), stage.depths)
        for j, place in enumerate(stage.places):
            block = (
                arch_stage.blocks[j]
                if j < len(arch_stage.blocks)
                else _least(place, arch_stage.blocks[0])
            )
            checked = _checked(f"{stage.name} block {j + 1}", place, block)
            kernels.append(checked.kernel)
            squeezed.append(next(hidden) if j < len(arch_stage.blocks) else 0)
            acts.append(plan.acts.index(checked.act))
        depths.append(len(arch_stage.blocks))
        widths.append(_width(stage.name, stage.widths, arch_stage.blocks))
    last = _end(plan.head, head.blocks, Classifier)
    acts.append(plan.acts.index(head.blocks[0].act if last else plan.head.acts[0]))  # type: ignore[attr-defined]
    return _arrays(widths, depths, kernels, squeezed, acts, last)


def smallest(plan: SupernetPlan) -> Active:
    """Return the smallest choice everywhere; it need not be a network of the space."""
    widths = [plan.stem.widths[0], *(stage.widths[0] for stage in plan.stages)]
    kernels = [place.kernels[0] for place in plan.places]
    return _arrays(
        widths,
        [stage.depths[0] for stage in plan.stages],
        kernels,
        _hidden_of(plan, widths, 0),
        _acts_of(plan, 0),
        plan.head.widths[0],
    )


def largest(plan: SupernetPlan) -> Active:
    """Return the largest choice everywhere; it need not be a network of the space."""
    widths = list(plan.widest)
    return _arrays(
        widths,
        [stage.depths[-1] for stage in plan.stages],
        [place.kernels[-1] for place in plan.places],
        _hidden_of(plan, widths, -1),
        _acts_of(plan, -1),
        plan.head.widths[-1],
    )


def _arrays(*values: Any) -> Active:
    return Active(*(np.array(v, np.int32) for v in values))


def _acts_of(plan: SupernetPlan, which: int) -> list[int]:
    chosen = [plan.stem.acts, *(place.acts for place in plan.places), plan.head.acts]
    return [plan.acts.index(acts[which]) for acts in chosen]


def _hidden_of(plan: SupernetPlan, widths: Sequence[int], which: int) -> list[int]:
    """Return the hidden channels of each block at these widths."""
    hidden = []
    for i, stage in enumerate(plan.stages):
        for j, place in enumerate(stage.places):
            block = DepthwiseSeparable(widths[i + 1], se=place.se[which])
            hidden.append(_hidden(block.lower((8, 8, widths[i + 1] if j else widths[i]))))
    return hidden


def _hidden(layer: layers.Layer) -> int:
    hidden = [inner.hidden for inner in layer.children() if isinstance(inner, layers.SqueezeExcite)]
    return hidden[0] if hidden else 0


def _check(where: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ModelError(f"supernet: {not_among(where, value, allowed)}")


def _width(name: str, widths: Sequence[int], blocks: Sequence[Block]) -> int:
    (width,) = {block.width for block in blocks}  # type: ignore[attr-defined]
    _check(f"{name}: width", width, widths)
    return int(width)


def _least(place: BlockChoices, like: Block) -> Block:
    width: int = like.width  # type: ignore[attr-defined]
    return DepthwiseSeparable(width, place.kernels[0], place.stride, place.acts[0], place.se[0])


def _checked(where: str, place: BlockChoices, block: Block) -> DepthwiseSeparable:
    if not isinstance(block, DepthwiseSeparable) or block.shortcut or block.branches:
        raise ModelError(f"supernet: {where}: {block} is not a simple depthwise-separable block")
    _check(f"{where}: stride", block.stride, (place.stride,))
    _check(f"{where}: kernel", block.kernel, place.kernels)
    _check(f"{where}: se", block.se, place.se)
    _check(f"{where}: act", block.act, place.acts)
    return block


def _end(end: EndChoices, blocks: Sequence[Block], kind: type[ConvNormAct | Classifier]) -> int:
    """Return the width of a stem or head."""
    (block,) = blocks
    if not isinstance(block, kind):
        raise ModelError(f"supernet: {end.name}: {block} is not a {kind.type}")
    _check(f"{end.name}: width", block.width, end.widths)
    if block.width:
        _check(f"{end.name}: act", block.act, end.acts)
    return block.width
