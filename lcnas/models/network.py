"""Networks in Flax: one module (NNX) per primitive layer, chained by the walk.

A network takes images (batch, height, width, 3) and returns logits (batch, classes). In between,
activations have the network's layout (:mod:`lcnas.models.ops`); weights are HWIO.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from lcnas import layers, onnx_export
from lcnas.arch import Arch, height_width, walk
from lcnas.errors import ModelError, listing, nearest, not_among, shorten
from lcnas.layers import Layer
from lcnas.models import layouts, units

TAPS = (4, 8, 16, 32)  # strides of the maps that `features` returns


@dataclass(frozen=True)
class Feature:
    """A feature map, for heads of detection and segmentation."""

    name: str  # of its block, such as "stage4_block_6"
    stride: int  # pixels of the image per pixel of the map
    channels: int
    value: jax.Array  # (batch, height, width, channels)


# -- the network -----------------------------------------------------------------------------------


class Network(nnx.Module):
    """A trainable network; see :func:`build`.

    Attributes:
        arch: its arch.
        classes: outputs of the last layer.
        blocks: module of each block, by its name (``stem``, ``stage4_block_2``, ...).
    """

    def __init__(
        self, arch: Arch, classes: int, options: units.NetworkOptions, rngs: nnx.Rngs
    ) -> None:
        self.arch = arch
        self.classes = classes
        self.options = options
        names, placed = onnx_export.block_names(arch), walk(arch, None, classes)
        named_blocks = zip(names, placed, strict=True)
        self.blocks = nnx.Dict(
            {name: units.unit(p.layer, p.in_shape, options, rngs) for name, p in named_blocks}
        )
        self.order = names  # of the blocks
        self.taps = _taps(arch, classes)  # block -> stride

    @property
    def layout(self) -> str:
        """Layout of the activations: "CHWN" or "NHWC"."""
        return self.options.layout.name

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the logits (batch, classes), float32.

        Args:
            x: images (batch, height, width, 3), float32, normalised.
            rngs: with a stream ``dropout``; needed in training if the network has dropout.
        """
        x = self._enter(x)
        for name in self.order:
            x = self.blocks[name](x, rngs)
        return self._leave(x)

    def features(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[Feature, ...]:
        """Return the last feature map at each of the strides 4, 8, 16 and 32 of the network."""
        x = self._enter(x)
        maps = []
        taps = dict(self.taps)
        for name in self.order:
            x = self.blocks[name](x, rngs)
            if name in taps:
                value = self._leave(x)
                maps.append(Feature(name, taps[name], value.shape[-1], value))
                if len(maps) == len(taps):
                    break
        return tuple(maps)

    def _enter(self, x: jax.Array) -> jax.Array:
        if x.ndim != 4 or x.shape[-1] != 3:
            raise ModelError(f"images are (batch, height, width, 3), got {tuple(x.shape)}")
        return self.options.layout.enter(x.astype(self.options.dtype))

    def _leave(self, x: jax.Array) -> jax.Array:
        outputs = x if x.ndim == 2 else self.options.layout.leave(x)
        return outputs.astype(jnp.float32)

    # -- weights --

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return all weights by name, in order of execution; the names of :func:`lcnas.onnx_export.names`."""
        arrays = {name: np.asarray(v[...], np.float32) for name, v in self._variables().items()}
        return {name: arrays[name] for name in onnx_export.names(self.arch, self.classes)}

    def set_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Set all weights by name; see :meth:`weights`.

        Raises:
            ModelError: one is missing, unexpected, or of another shape.
        """
        variables = self._variables()
        _check_names(list(variables), weights)
        for name, variable in variables.items():
            array = np.asarray(weights[name], np.float32)
            if array.shape != variable.shape:
                raise ModelError(
                    f"weights: {name!r} has the shape {array.shape}, not {tuple(variable.shape)}"
                )
        for name, variable in variables.items():
            variable[...] = jnp.asarray(weights[name], jnp.float32)

    def _variables(self) -> dict[str, Any]:
        state = nnx.state(self, (nnx.Param, nnx.BatchStat))
        return {weight_name(path): variable for path, variable in nnx.to_flat_state(state)}


def _check_names(names: list[str], weights: Mapping[str, Any]) -> None:
    unexpected = [name for name in weights if name not in set(names)]
    missing = [name for name in names if name not in weights]
    if unexpected:
        hint = nearest(unexpected[0], missing)
        raise ModelError(f"weights: the network has no {listing(map(repr, unexpected))}{hint}")
    if missing:
        raise ModelError(f"weights: missing {listing(map(repr, missing))}")


def _taps(arch: Arch, classes: int) -> tuple[tuple[str, int], ...]:
    """Return (block, stride) of the last map at each stride in :data:`TAPS`."""
    names, height = onnx_export.block_names(arch), height_width(arch.resolution)[0]
    names_of_strides: dict[int, str] = {}
    for name, placed in zip(names, walk(arch, None, classes), strict=True):
        shape = placed.out_shape
        if len(shape) != 3 or _pools(placed.layer):
            break
        names_of_strides[2 ** round(math.log2(height / shape[0]))] = name
    return tuple(
        (names_of_strides[stride], stride) for stride in TAPS if stride in names_of_strides
    )


def _pools(layer: Layer) -> bool:
    """Return whether a block is a head: pools the whole map (outside SE) or flattens it."""
    if isinstance(layer, layers.GlobalPool | layers.Flatten):
        return True
    return isinstance(layer, layers.Chain) and any(_pools(inner) for inner in layer.layers)


# -- names -----------------------------------------------------------------------------------------

_HOLDERS = ("blocks", "parts")  # attributes that hold modules by name or number


def weight_name(path: Iterable[Any]) -> str:
    """Return the name of a variable of a :class:`Network` from its path in the module.

    Examples:
        >>> weight_name(("blocks", "stage1", "parts", 0, "kernel"))
        'stage1/0/kernel'
    """
    return "/".join(str(part) for part in path if part not in _HOLDERS)


def decays(name: str) -> bool:
    """Return whether weight decay applies to a weight: only to kernels, not norms, biases or affines."""
    return name.endswith("/kernel")


def build(
    arch: Arch,
    classes: int = 1000,
    rngs: nnx.Rngs | None = None,
    *,
    dtype: Any = None,
    layout: str | None = None,
    axis_name: str | None = None,
) -> Network:
    """Return a network with initial weights, in training mode.

    Args:
        arch: the network.
        classes: outputs of the last layer.
        rngs: for the initial weights; None: ``nnx.Rngs(0)``.
        dtype: type of the computation; None: float32. Weights, statistics and logits are float32 always.
        layout: layout of the activations, "CHWN" or "NHWC"; None: the fastest on this backend.
        axis_name: name of a mapped axis (``jax.shard_map``, ``jax.vmap``) that batch norm's statistics
            include; None: the batch of the call only.

    Raises:
        ArchError: the blocks do not fit together, or an invalid number of classes.
        ModelError: an unknown layout or type, or an arch or rngs of the wrong type.

    Examples:
        >>> from lcnas import models, zoo
        >>> model = models.build(zoo.load("pplcnet_0.25x", 32), classes=10)
        >>> model.eval()
        >>> model(jnp.zeros((2, 32, 32, 3))).shape
        (2, 10)
    """
    if not isinstance(arch, Arch):
        raise ModelError(
            f"arch: {shorten(arch)} is not an Arch; lcnas.zoo.load() gives one by name"
        )
    if rngs is not None and not isinstance(rngs, nnx.Rngs):
        raise ModelError(f"rngs: {shorten(rngs)} is not an nnx.Rngs; nnx.Rngs(0) is one")
    try:
        compute_type = jnp.dtype(jnp.float32 if dtype is None else dtype)
    except TypeError:
        raise ModelError(f"dtype: {shorten(dtype)} is not a floating-point type") from None
    if not jnp.issubdtype(compute_type, jnp.floating):
        raise ModelError(f"dtype: {shorten(dtype)} is not a floating-point type")
    name = layout or layouts.default_layout()
    if name not in layouts.LAYOUTS:
        raise ModelError(not_among("layout", name, tuple(layouts.LAYOUTS)))
    options = units.NetworkOptions(layouts.LAYOUTS[name], compute_type, axis_name)
    return Network(arch, classes, options, nnx.Rngs(0) if rngs is None else rngs)
