"""Networks as data, and :func:`walk`, the only function that chains their blocks.

Costs, latency tables, ONNX graphs and Flax networks all use the walk; nothing else knows how blocks
follow one another.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcnas import blocks as vocabulary
from lcnas.blocks import Block
from lcnas.errors import ArchError, BlockError, ShapeError, not_among, shorten
from lcnas.layers import Layer, Shape, format_shape, is_open, with_classes

VERSION = 1  # of the JSON form
INPUT_CHANNELS = 3
MAX_RESOLUTION = 1 << 14
MAX_BLOCKS = 4096
_ID_LENGTH = 20  # hexadecimal digits, 80 bits

Resolution = int | tuple[int, int]  # a side, or (height, width)


def check_resolution(value: object, what: str = "resolution") -> Resolution:
    """Return a resolution in canonical form: a number for a square, otherwise (height, width)."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in sides):
        raise ArchError(f"{what}: {shorten(value)} is neither a whole number nor (height, width)")
    if not all(1 <= s <= MAX_RESOLUTION for s in sides):
        raise ArchError(f"{what}: {shorten(value)} is outside 1 to {MAX_RESOLUTION}")
    height, width = sides
    return height if height == width else (height, width)


def check_classes(classes: object) -> int:
    """Return a number of classes; raise :class:`~lcnas.errors.ArchError` for anything else."""
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ArchError(f"classes: {shorten(classes)} is not a whole number of at least 1")
    return classes


def height_width(resolution: Resolution) -> tuple[int, int]:
    """Return (height, width) of a resolution in either form."""
    return resolution if isinstance(resolution, tuple) else (resolution, resolution)


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks under one name, such as "stem", "stage3" or "head"."""

    name: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Arch:
    """A network: its blocks in order, and the resolution that it is deployed at.

    Equality, hash and :attr:`id` depend on the blocks and the resolution only. The
    name and the grouping into stages are labels, for messages and for choosing layers to freeze.

    Examples:
        >>> from lcnas import blocks
        >>> arch = Arch.of(
        ...     {"stem": [blocks.ConvNormAct(8, stride=2)], "head": [blocks.DenseHead()]}
        ... )
        >>> arch
        Arch(663ebac5, 224px, 2 blocks)
        >>> Arch.from_json(arch.to_json()) == arch
        True
    """

    stages: tuple[Stage, ...]
    resolution: Resolution = 224  # pixels: a side, or (height, width)
    name: str = field(default="")  # a label, such as "pplcnet_0.5x"

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", check_resolution(self.resolution))
        for stage in self.stages:
            wrong = [b for b in stage.blocks if not isinstance(b, Block)]
            if wrong:
                raise ArchError(f"stage {shorten(stage.name)}: {shorten(wrong[0])} is not a block")
        names = [stage.name for stage in self.stages]
        for text in (self.name, *names):  # a line break would break tables and messages
            if not isinstance(text, str) or not text.isprintable():
                raise ArchError(f"the name {shorten(text)} has characters that cannot be printed")
        for i, name in enumerate(names):
            if not name or name in names[:i]:
                raise ArchError(
                    f"stage names are not empty and each used once, got {shorten(names)}"
                )
        if not 0 < len(self.blocks) <= MAX_BLOCKS:
            raise ArchError(f"a network has 1 to {MAX_BLOCKS} blocks, got {len(self.blocks)}")

    @classmethod
    def of(
        cls, stages: Mapping[str, Iterable[Block]], resolution: Resolution = 224, name: str = ""
    ) -> Arch:
        """Return the network of a mapping from stage names to blocks, in order."""
        if not isinstance(stages, Mapping):
            raise ArchError(
                f"stages: {shorten(stages)} is not a mapping of names to lists of blocks"
            )
        for key, blocks in stages.items():
            if not isinstance(blocks, Iterable):
                raise ArchError(
                    f"stages: {shorten(key)}: {shorten(blocks)} is not a list of blocks"
                )
        stage_tuple = tuple(Stage(key, tuple(blocks)) for key, blocks in stages.items())
        return cls(stage_tuple, resolution, name)

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, first to last."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    @functools.cached_property
    def id(self) -> str:
        """Content id: equal for equal networks, in every process and Python version."""
        content = [self._resolution_data(), [vocabulary.to_data(b) for b in self.blocks]]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]

    def at(self, resolution: Resolution) -> Arch:
        """Return the same blocks at another deployment resolution."""
        return Arch(self.stages, resolution, self.name)

    def named(self, name: str) -> Arch:
        """Return the same network under another name."""
        return Arch(self.stages, self.resolution, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Arch):
            return NotImplemented
        return self.resolution == other.resolution and self.blocks == other.blocks

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.resolution, self.blocks))

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of texts differ between processes, so cached values are not pickled.
        return {"stages": self.stages, "resolution": self.resolution, "name": self.name}

    def __repr__(self) -> str:
        label = f"{self.name} " if self.name else ""
        size = (
            self.resolution if isinstance(self.resolution, int) else format_shape(self.resolution)
        )
        return f"Arch({label}{self.id[:8]}, {size}px, {len(self.blocks)} blocks)"

    # -- JSON ------------------------------------------------------------------------------------

    def _resolution_data(self) -> int | list[int]:
        return list(self.resolution) if isinstance(self.resolution, tuple) else self.resolution

    def to_json(self) -> str:
        """Return the network as JSON text, one block per line."""
        lines = [
            "{",
            f'  "format": "lcnas-arch", "version": {VERSION},',
            f'  "name": {json.dumps(self.name)}, "resolution": {json.dumps(self._resolution_data())},',
            '  "stages": [',
        ]
        for i, stage in enumerate(self.stages):
            block_lines = [
                f"      {json.dumps(vocabulary.to_data(block))}" for block in stage.blocks
            ]
            end = "," if i + 1 < len(self.stages) else ""
            lines.append(f'    {{"name": {json.dumps(stage.name)}, "blocks": [')
            lines.append(",\n".join(block_lines))
            lines.append(f"    ]}}{end}")
        return "\n".join([*lines, "  ]", "}", ""])

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "arch JSON") -> Arch:
        """Return the network of JSON text from :meth:`to_json`.

        Args:
            text: the JSON.
            source: name for errors, such as the file's name.

        Raises:
            ArchError: not JSON, another version, unknown or missing keys, unknown blocks.
        """
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError, TypeError) as error:
            raise ArchError(f"{source}: not JSON: {shorten(str(error))}") from None
        return cls.from_data(data, source)

    @classmethod
    def from_data(cls, data: object, source: str = "arch") -> Arch:
        """Return the network of parsed JSON; see :meth:`from_json`."""
        keys = ("format", "version", "name", "resolution", "stages")
        table = _table(data, keys, source, optional=("name",))
        if table["format"] != "lcnas-arch":
            raise ArchError(f"{source}: format: {shorten(table['format'])} is not 'lcnas-arch'")
        if table["version"] != VERSION or isinstance(table["version"], bool):
            raise ArchError(
                f"{source}: version: {shorten(table['version'])} is not {VERSION}, the one this lcnas reads"
            )
        name = table.get("name", "")
        if not isinstance(name, str):
            raise ArchError(f"{source}: name: {shorten(name)} is not a text")
        resolution = check_resolution(table["resolution"], f"{source}: resolution")
        if not isinstance(table["stages"], list):
            raise ArchError(f"{source}: stages: {shorten(table['stages'])} is not a list")
        stages = [_stage(item, f"{source}: stages[{i}]") for i, item in enumerate(table["stages"])]
        try:
            return cls(tuple(stages), resolution, name)
        except ArchError as error:
            raise ArchError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Arch:
        """Return the network of a JSON file."""
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ArchError(f"{path}: cannot be read: {error.strerror}") from None
        return cls.from_json(text, str(path))


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _table(
    data: object, keys: tuple[str, ...], what: str, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ArchError(f"{what}: {shorten(data)} is not an object with the keys {', '.join(keys)}")
    for key in data:
        if key not in keys:
            raise ArchError(not_among(f"{what}: unknown key", key, keys))
    for key in keys:
        if key not in data and key not in optional:
            raise ArchError(f"{what}: key {key!r} is missing; its keys are {', '.join(keys)}")
    return data


def _stage(data: object, what: str) -> Stage:
    table = _table(data, ("name", "blocks"), what)
    if not isinstance(table["name"], str):
        raise ArchError(f"{what}.name: {shorten(table['name'])} is not a text")
    if not isinstance(table["blocks"], list):
        raise ArchError(f"{what}.blocks: {shorten(table['blocks'])} is not a list")
    blocks = []
    for i, item in enumerate(table["blocks"]):
        try:
            blocks.append(vocabulary.from_data(item))
        except BlockError as error:
            raise ArchError(f"{what}.blocks[{i}]: {error}") from None
    return Stage(table["name"], tuple(blocks))


# -- the walk --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlacedBlock:
    """A block with its input and output shape. Equal placed blocks cost the same."""

    block: Block
    in_shape: Shape  # (height, width, channels)
    out_shape: Shape  # (height, width, channels), or (classes,) of a head
    layer: Layer = field(compare=False, repr=False)  # its primitive layers
    depends_on_classes: bool = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.block} {format_shape(self.in_shape)} -> {format_shape(self.out_shape)}"


@functools.lru_cache(maxsize=1 << 16)
def place(block: Block, in_shape: Shape, classes: int = 1000) -> PlacedBlock:
    """Return a block with an input shape.

    Raises:
        ShapeError: the block cannot take that input.
    """
    layer = block.lower(in_shape)
    depends = is_open(layer)
    layer = with_classes(layer, classes)
    return PlacedBlock(block, in_shape, layer.out_shape(in_shape), layer, depends)


def walk(
    arch: Arch, resolution: Resolution | None = None, classes: int = 1000
) -> tuple[PlacedBlock, ...]:
    """Return the blocks of a network, each with its input and output shape.

    Args:
        arch: the network.
        resolution: pixels, a side or (height, width); None: the arch's own.
        classes: outputs of the last layer.

    Raises:
        ArchError: a block cannot take the output of the block before; names the block and the shape.

    Examples:
        >>> from lcnas import zoo
        >>> from lcnas.arch import walk
        >>> for placed in walk(zoo.load("pplcnet_0.25x", 64), classes=10)[-2:]:
        ...     print(placed.in_shape, placed.out_shape)
        (2, 2, 128) (2, 2, 128)
        (2, 2, 128) (10,)
    """
    if not isinstance(arch, Arch):
        raise ArchError(f"{shorten(arch)} is not an Arch; lcnas.zoo.load() gives one by name")
    check_classes(classes)
    size = arch.resolution if resolution is None else check_resolution(resolution)
    shape: Shape = (*height_width(size), INPUT_CHANNELS)
    placed: list[PlacedBlock] = []
    for stage in arch.stages:
        for i, block in enumerate(stage.blocks):
            try:
                placed.append(place(block, shape, classes))
            except ShapeError as error:
                where = label(stage, i)
                what = arch.name or arch.id[:8]
                raise ArchError(
                    f"{what}: {where}, {block}, cannot take {format_shape(shape)}: {error}"
                ) from None
            shape = placed[-1].out_shape
    return tuple(placed)


def label(stage: Stage, index: int) -> str:
    """Return the name of a stage's block in messages: "stage4 block 2", or "stem" if it is the only one."""
    return stage.name if len(stage.blocks) == 1 else f"{stage.name} block {index + 1}"


def labels(arch: Arch) -> tuple[str, ...]:
    """Return the name of each block in messages, in the order of :func:`walk`."""
    return tuple(label(stage, i) for stage in arch.stages for i in range(len(stage.blocks)))
