"""The plan of a supernet: the choices of a space at each place, and whether masks can run its networks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lcnas import layers, onnx_export
from lcnas.arch import Arch, Resolution, walk
from lcnas.blocks import Block, Classifier, ConvNormAct, DepthwiseSeparable, from_data, to_data
from lcnas.errors import ModelError, listing, shorten
from lcnas.spaces import Space
from lcnas.spaces.layout import ElementTable

B = TypeVar("B", bound=Block)

# Activations that map 0 to 0: a masked channel stays masked after them.
ZERO_AT_ZERO = ("identity", "relu", "relu6", "hard_swish", "silu", "gelu")
_MAY_VARY = {
    "stem": ("width", "act"),
    "stage": ("width", "kernel", "se", "act"),
    "head": ("width", "act"),
}


@dataclass(frozen=True)
class BlockChoices:
    """The choices of one block of a stage."""

    stride: int | layers.Pair
    kernels: tuple[int, ...]  # ascending
    se: tuple[bool, ...]  # without, with squeeze-and-excite
    acts: tuple[str, ...]

    def block(self, width: int) -> DepthwiseSeparable:
        """Return the largest block."""
        return DepthwiseSeparable(
            width, self.kernels[-1], self.stride, self.acts[-1], se=self.se[-1]
        )


@dataclass(frozen=True)
class StageChoices:
    """The choices of a stage of depthwise-separable blocks."""

    name: str
    widths: tuple[int, ...]  # output channels of all its blocks, ascending
    depths: tuple[int, ...]  # blocks, ascending; depth d is the first d places
    places: tuple[BlockChoices, ...]


@dataclass(frozen=True)
class EndChoices:
    """The choices of the stem or the head."""

    name: str
    widths: tuple[int, ...]  # ascending; of the head's 1x1 convolution, 0: none
    acts: tuple[str, ...]
    block: ConvNormAct | Classifier  # the largest


@dataclass(frozen=True)
class SupernetPlan:
    """The choices of a space at each place, if masks can run its networks."""

    stem: EndChoices
    stages: tuple[StageChoices, ...]
    head: EndChoices

    @property
    def widest(self) -> tuple[int, ...]:
        """The largest width of the stem and of each stage."""
        return (self.stem.widths[-1], *(stage.widths[-1] for stage in self.stages))

    @property
    def acts(self) -> tuple[str, ...]:
        """All activations of the space; an activation's number is its index here."""
        parts = [self.stem.acts, self.head.acts]
        parts += [place.acts for stage in self.stages for place in stage.places]
        return tuple(dict.fromkeys(act for acts in parts for act in acts))

    @property
    def places(self) -> tuple[BlockChoices, ...]:
        """The choices of all blocks, stage by stage."""
        return tuple(place for stage in self.stages for place in stage.places)

    @property
    def optional_conv(self) -> bool:
        """Whether some networks have the head's convolution and some do not."""
        return self.head.widths[0] == 0 < self.head.widths[-1]

    def arch(self, widths: Sequence[int], resolution: Resolution) -> Arch:
        """Return the network of these widths (stem, stages) with the largest choices in all else."""
        stages: dict[str, list[Block]] = {}
        stages[self.stem.name] = [dataclasses.replace(self.stem.block, width=widths[0])]
        for stage, width in zip(self.stages, widths[1:], strict=True):
            stages[stage.name] = [place.block(width) for place in stage.places]
        stages[self.head.name] = [self.head.block]
        return Arch.of(stages, resolution)

    # -- serialisation --

    def to_data(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        data = dataclasses.asdict(self)
        for name in ("stem", "head"):
            data[name]["block"] = to_data(getattr(self, name).block)
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> SupernetPlan:
        """Return the plan of a dict from :meth:`to_data`.

        Raises:
            ModelError: it is not one.
        """
        try:
            stages = [
                StageChoices(
                    s["name"], tuple(s["widths"]), tuple(s["depths"]), _places(s["places"])
                )
                for s in data["stages"]
            ]
            return cls(_end(data["stem"]), tuple(stages), _end(data["head"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"supernet: no plan: {shorten(str(error))}") from None


def _places(data: Iterable[Mapping[str, Any]]) -> tuple[BlockChoices, ...]:
    places = []
    for item in data:
        stride = item["stride"]
        side = tuple(stride) if isinstance(stride, list) else stride
        places.append(
            BlockChoices(side, tuple(item["kernels"]), tuple(item["se"]), tuple(item["acts"]))
        )
    return tuple(places)


def _end(data: Mapping[str, Any]) -> EndChoices:
    return EndChoices(
        data["name"], tuple(data["widths"]), tuple(data["acts"]), _block(data["block"])
    )


def _block(data: Any) -> ConvNormAct | Classifier:
    block = from_data(data)
    if not isinstance(block, ConvNormAct | Classifier):
        raise TypeError(f"{block} is neither stem nor head")
    return block


# -- from a space ----------------------------------------------------------------------------------


class _Unmaskable(Exception):  # noqa: N818 - an answer, not an error
    """A choice of a space that masks cannot run."""


def maskable(space: Space) -> str | None:
    """Return None if masks can run all networks of a space in its largest one, otherwise the reason.

    Widths, depths, kernels, squeeze-and-excite, activations and the width of the last 1x1 convolution may
    vary, in networks of a convolution, stages of depthwise-separable blocks and a classifier, at one
    resolution.

    Examples:
        >>> from lcnas import spaces
        >>> maskable(spaces.load("pplcnet_tail"))
        >>> maskable(spaces.load("lcnet_next"))
        'stem: a block of type conv_stem, not conv'
    """
    try:
        _planned(space)
    except _Unmaskable as problem:
        return str(problem)
    return None


def plan_of(space: Space) -> SupernetPlan:
    """Return the plan of a space's supernet.

    Raises:
        ModelError: masks cannot run its networks; says why.
    """
    try:
        return _planned(space)
    except _Unmaskable as problem:
        raise ModelError(f"{space.name} cannot be a supernet: {problem}") from None


def _planned(space: Space) -> SupernetPlan:
    if len(space.resolutions) > 1:
        raise _Unmaskable(f"resolution is a choice of {listing(space.resolutions)}")
    stem, *stages, head = space.layout().tables
    return SupernetPlan(_stem(stem), tuple(map(_stage, stages)), _head(head))


def _stem(table: ElementTable) -> EndChoices:
    blocks = _typed(table, 0, ConvNormAct)
    _constant(table.name, blocks, _MAY_VARY["stem"])
    first = blocks[0]
    if not first.norm or first.affine or first.branches or first.groups != 1:
        raise _Unmaskable(f"{table.name}: {first}, only a simple convolution with batch norm")
    if table.depths != (1,):
        raise _Unmaskable(f"{table.name}: more than one block")
    return _end_choices(table.name, blocks)


def _head(table: ElementTable) -> EndChoices:
    blocks = _typed(table, 0, Classifier)
    _constant(table.name, [b for b in blocks if b.width], _MAY_VARY["head"])
    if any(block.affine for block in blocks):
        raise _Unmaskable(f"{table.name}: a learnable affine")
    return _end_choices(table.name, blocks)


def _end_choices(name: str, blocks: Sequence[ConvNormAct | Classifier]) -> EndChoices:
    largest = max(blocks, key=lambda block: block.width)
    acts = _acts(name, [b for b in blocks if b.width])
    widest = dataclasses.replace(largest, act=acts[-1]) if largest.width else largest
    return EndChoices(name, _sorted(b.width for b in blocks), acts or ("identity",), widest)


def _stage(table: ElementTable) -> StageChoices:
    slots = [_typed(table, j, DepthwiseSeparable) for j in range(table.slots)]
    for chain in _chains(table) if table.slots > 1 else ():
        if len({block.width for block in chain}) > 1:  # type: ignore[attr-defined]
            raise _Unmaskable(f"{table.name}_width is a choice for each block")
    places = tuple(_block_choices(table.name, j, blocks) for j, blocks in enumerate(slots))
    widths = _sorted(block.width for blocks in slots for block in blocks)
    return StageChoices(table.name, widths, _sorted(table.depths), places)


def _block_choices(name: str, j: int, blocks: Sequence[DepthwiseSeparable]) -> BlockChoices:
    where = f"{name} block {j + 1}"
    _constant(where, blocks, _MAY_VARY["stage"])
    first = blocks[0]
    if first.shortcut:
        raise _Unmaskable(f"{where}: a shortcut")
    if first.branches:
        raise _Unmaskable(f"{where}: re-parameterised branches")
    if j and first.stride not in (1, (1, 1)):
        raise _Unmaskable(f"{where}: a stride of {first.stride} where a block may be absent")
    kernels = {block.kernel for block in blocks}
    if any(not isinstance(k, int) or k % 2 == 0 for k in kernels):
        raise _Unmaskable(f"{where}: a kernel that is not an odd number: {listing(kernels)}")
    se = tuple(sorted({block.se for block in blocks}))
    return BlockChoices(first.stride, _sorted(kernels), se, _acts(where, blocks))  # type: ignore[arg-type]


def _sorted(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _acts(where: str, blocks: Sequence[Any]) -> tuple[str, ...]:
    acts = tuple(dict.fromkeys(block.act for block in blocks))
    for act in acts:
        if act not in ZERO_AT_ZERO:
            raise _Unmaskable(f"{where}: the activation {act}, which is not 0 at 0")
    return acts


def _chains(table: ElementTable) -> Iterable[list[Block]]:
    """Yield the blocks of each stage-wide combination of choices."""
    for g, totals in table.totals.items():
        total = min(totals)[0] if totals else (1, 1)
        for s in range(len(table.signatures)):
            yield [table.block(g, s, j, 0, total) for j in range(table.slots)]
            for j in range(table.slots):
                yield [table.block(g, s, j, c, total) for c in range(len(table.slot_values[j]))]


def _typed(table: ElementTable, j: int, kind: type[B]) -> list[B]:
    """Return the distinct blocks that a slot can have, all of one kind."""
    blocks: dict[Block, None] = {}
    for g, totals in table.totals.items():
        signatures, combos = range(len(table.signatures)), range(len(table.slot_values[j]))
        for total, s, c in itertools.product({t for t, _ in totals}, signatures, combos):
            blocks.setdefault(table.block(g, s, j, c, total))
    of_kind = [block for block in blocks if isinstance(block, kind)]
    kinds = sorted({block.type for block in blocks})
    if len(kinds) > 1:
        raise _Unmaskable(f"{table.name}_block is a choice of block types: {listing(kinds)}")
    if len(of_kind) < len(blocks):
        raise _Unmaskable(f"{table.name}: a block of type {kinds[0]}, not {kind.type}")
    return of_kind


def _constant(where: str, blocks: Sequence[Block], free: Sequence[str]) -> None:
    """Refuse blocks that differ in anything but the free fields."""
    for field in dataclasses.fields(blocks[0]) if blocks else ():
        values = {getattr(block, field.name) for block in blocks}
        if field.name not in free and len(values) > 1:
            raise _Unmaskable(f"{where}: {field.name} is a choice of {listing(values)}")


# -- roles of weights ------------------------------------------------------------------------------

Roles = dict[str, str]  # role -> prefix of the names of its weights


def roles(arch: Arch, classes: int) -> tuple[Roles, ...]:
    """Return the name prefixes of each block's weights, by role.

    The roles are ``conv`` of the stem; ``depthwise``, ``se`` and ``pointwise`` of a block; ``conv`` and
    ``linear`` of the head.
    """
    names = onnx_export.block_names(arch)
    return tuple(
        _roles(placed.layer, name)
        for name, placed in zip(names, walk(arch, None, classes), strict=True)
    )


def _roles(layer: layers.Layer, name: str) -> Roles:
    if not isinstance(layer, layers.Chain):
        return {"conv": name}
    roles_of_layers: Roles = {}
    convs = 0
    for i, inner in enumerate(layer.layers):
        path = f"{name}/{i}"
        match inner:
            case layers.SqueezeExcite():
                roles_of_layers["se"] = path
            case layers.Linear():
                roles_of_layers["linear"] = path
            case layers.Conv():
                roles_of_layers[("depthwise", "pointwise")[convs]] = path
                convs += 1
    if "linear" in roles_of_layers and convs:
        roles_of_layers["conv"] = roles_of_layers.pop("depthwise")
    return roles_of_layers
