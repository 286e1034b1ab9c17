"""The forward pass of a masked network.

A masked channel is 0 after every batch norm and its activation: scale and shift are masked, and all
activations map 0 to 0. So masked weights, which may be any finite numbers, change neither values nor
gradients, and no map is read again for its mask. An absent block is not computed
(``lax.cond``), unless several networks run at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcnas import layers
from lcnas.blocks import Classifier, ConvNormAct, pair
from lcnas.layers import same_padding
from lcnas.models import ops
from lcnas.models.depthwise import depthwise
from lcnas.models.layouts import Layout
from lcnas.models.supernet._active import Active
from lcnas.models.supernet._plan import BlockChoices, Roles, SupernetPlan
from lcnas.models.supernet._switch import norm_switch
from lcnas.models.units import EPSILON

Array = jax.Array
Weights = Mapping[str, Array]
Moments = dict[str, Array]

_SE = layers.SqueezeExcite(1)


@dataclass(frozen=True)
class BucketNetwork:
    """The largest network of a bucket: what its forward pass needs."""

    plan: SupernetPlan
    widths: tuple[int, ...]  # of the stem and of each stage
    roles: tuple[Roles, ...]  # of each block, stem and head included
    layout: Layout
    dropout: float  # rate in front of the last layer


class _ActiveChoices(NamedTuple):
    """The active choices of a block, each ()."""

    kernel: Array
    hidden: Array
    act: Array


class Drop(NamedTuple):
    """Dropout of one pass."""

    key: Array
    active: Array  # (), 1.0 or 0.0


def forward(
    network: BucketNetwork,
    weights: Weights,
    stats: Weights | None,
    active: Active,
    images: Array,
    dropout: Drop | None = None,
) -> tuple[Array, Moments]:
    """Return logits (n, classes), and the mean and variance of each batch norm's channels by name.

    Args:
        network: the bucket's largest network.
        weights: its weights.
        stats: running statistics; None: the batch's.
        active: the network to run.
        images: (n, height, width, 3), float32, normalised.
        dropout: key and whether it is on; None: off.
    """
    masks = [_mask(width, active.widths[i]) for i, width in enumerate(network.widths)]
    x, moments = _stem(network, weights, stats, active, masks[0], network.layout.enter(images))
    place = 0
    for e, stage in enumerate(network.plan.stages):
        for j, what in enumerate(stage.places):
            roles = network.roles[1 + place]
            p, s = _of(roles, weights), None if stats is None else _of(roles, stats)
            block = _Block(network, what, masks[e + 1] if j else masks[e], masks[e + 1])
            chosen = _ActiveChoices(
                active.kernels[place], active.hidden[place], active.acts[place + 1]
            )
            compute = functools.partial(block.compute, p, s, chosen)
            if j < stage.depths[0]:
                x, block_moments = compute(x)
            else:
                x, block_moments = lax.cond(j < active.depths[e], compute, block.absent(s), x)
            moments |= _named(roles, block_moments)
            place += 1
    logits, block_moments = _head(network, weights, stats, active, x, dropout)
    return logits, moments | block_moments


def _mask(count: int, width: Array) -> Array:
    """Return ones for the first ``width`` of ``count`` channels, zeros for the rest."""
    return (jnp.arange(count, dtype=jnp.int32) < width).astype(jnp.float32)


def _of(roles: Roles, weights: Weights) -> dict[str, Array]:
    """Return a block's weights by role, such as "depthwise/kernel"."""
    return {
        f"{role}{name.removeprefix(start)}": weight
        for role, start in roles.items()
        for name, weight in weights.items()
        if name.startswith(f"{start}/")
    }


def _named(roles: Roles, moments: Moments) -> Moments:
    named = {}
    for key, value in moments.items():
        role, _, rest = key.partition("/")
        named[f"{roles[role]}/{rest}"] = value
    return named


# -- parts -----------------------------------------------------------------------------------------


def _normed(
    network: BucketNetwork,
    p: Weights,
    s: Weights | None,
    role: str,
    x: Array,
    mask: Array,
    acts: Sequence[str],
    act: Array,
) -> tuple[Array, Moments]:
    """Return act(batch norm(x)) of the active channels, 0 of the others, and the moments."""
    scale, shift = p[f"{role}/scale"] * mask, p[f"{role}/shift"] * mask
    numbers = tuple(network.plan.acts.index(name) for name in acts)
    if s is None:
        y, mean, var = norm_switch(x, scale, shift, act, acts, numbers, network.layout, EPSILON)
        return y, {f"{role}/mean": mean, f"{role}/var": var}
    mean, var = s[f"{role}/mean"], s[f"{role}/var"]
    normed = ops.affine_act(x, scale, shift, mean, var, "identity", network.layout, EPSILON)
    return _switched(network, normed, acts, act), {}


def _switched(network: BucketNetwork, x: Array, acts: Sequence[str], act: Array) -> Array:
    y = ops.act(x, acts[-1])
    for name in acts[:-1]:
        y = jnp.where(act == network.plan.acts.index(name), ops.act(x, name), y)
    return y


def _stem(
    network: BucketNetwork,
    weights: Weights,
    stats: Weights | None,
    active: Active,
    mask: Array,
    x: Array,
) -> tuple[Array, Moments]:
    block = network.plan.stem.block
    assert isinstance(block, ConvNormAct)
    layer = block.lower((1 << 12, 1 << 12, 3))
    assert isinstance(layer, layers.Conv)
    p, s = _of(network.roles[0], weights), None if stats is None else _of(network.roles[0], stats)
    z = ops.convolution(x, p["conv/kernel"], layer.stride, layer.padding, 1, network.layout)
    y, moments = _normed(network, p, s, "conv", z, mask, network.plan.stem.acts, active.acts[0])
    return y, _named(network.roles[0], moments)


@dataclass(frozen=True)
class _Block:
    """A depthwise-separable block."""

    network: BucketNetwork
    place: BlockChoices
    mask_in: Array  # of the input's channels
    mask_out: Array  # of the output's channels

    def compute(
        self, p: Weights, s: Weights | None, chosen: _ActiveChoices, x: Array
    ) -> tuple[Array, Moments]:
        """Return the block's output, and its moments."""
        network, place = self.network, self.place
        side, stride = place.kernels[-1], pair(place.stride)
        kernel = p["depthwise/kernel"] * _window(place.kernels, chosen.kernel)
        z = depthwise(x, kernel, stride, same_padding((side, side)), network.layout)
        acts = (place.acts, chosen.act)
        y, moments = _normed(network, p, s, "depthwise", z, self.mask_in, *acts)
        if place.se[-1]:
            y = self.excited(y, p, chosen.hidden)
        z = ops.pointwise(y, p["pointwise/kernel"], network.layout)
        y, pointwise_moments = _normed(network, p, s, "pointwise", z, self.mask_out, *acts)
        return y, moments | pointwise_moments

    def absent(self, s: Weights | None) -> Callable[[Array], tuple[Array, Moments]]:
        """Return the function of an absent block: the identity."""

        def passed(x: Array) -> tuple[Array, Moments]:
            none = jnp.zeros((x.shape[self.network.layout.channel],), jnp.float32)
            norms = ("depthwise", "pointwise") if s is None else ()
            return x, {f"{role}/{n}": none for role in norms for n in ("mean", "var")}

        return passed

    def excited(self, x: Array, p: Weights, hidden: Array) -> Array:
        """Return squeeze-and-excitation with ``hidden`` channels; x itself for 0."""
        layout = self.network.layout
        v = ops.act(_dense(p, "se/reduce", ops.spatial_mean(x, layout), layout), _SE.act)
        v = v * layout.per_channel(_mask(v.shape[layout.channel], hidden))
        gate = ops.act(_dense(p, "se/expand", v, layout), _SE.gate)
        if not self.place.se[0]:
            gate = jnp.where(hidden > 0, gate, jnp.ones_like(gate))
        return x * gate


def _dense(p: Weights, name: str, x: Array, layout: Layout) -> Array:
    y = ops.pointwise(x, p[f"{name}/kernel"], layout)
    return y + layout.per_channel(p[f"{name}/bias"])


def _window(kernels: Sequence[int], side: Array) -> Array:
    """Return (k, k, 1, 1): ones in the central ``side`` x ``side`` of the largest kernel."""
    if len(kernels) == 1:
        return jnp.ones((1, 1, 1, 1), jnp.float32)
    k = kernels[-1]
    off = jnp.asarray(np.abs(np.arange(k) - k // 2).astype(np.int32))
    inside = (2 * off < side).astype(jnp.float32)
    return inside[:, None, None, None] * inside[None, :, None, None]


def _head(
    network: BucketNetwork,
    weights: Weights,
    stats: Weights | None,
    active: Active,
    x: Array,
    dropout: Drop | None,
) -> tuple[Array, Moments]:
    head, layout = network.plan.head, network.layout
    block = head.block
    assert isinstance(block, Classifier)
    p, s = _of(network.roles[-1], weights), None if stats is None else _of(network.roles[-1], stats)
    pooled = ops.spatial_mean(x, layout)
    if not block.width:
        return _linear(p, "linear", ops.flatten(pooled, layout)), {}
    y = ops.pointwise(x if block.pool_after else pooled, p["conv/kernel"], layout)
    mask = _mask(block.width, active.last)
    moments: Moments = {}
    if block.bias:
        y = y + layout.per_channel(p["conv/bias"])
    if block.norm:
        y, moments = _normed(network, p, s, "conv", y, mask, head.acts, active.acts[-1])
    else:
        y = _switched(network, y, head.acts, active.acts[-1]) * layout.per_channel(mask)
    y = ops.spatial_mean(y, layout) if block.pool_after else y
    features = _dropped(ops.flatten(y, layout), network.dropout, dropout)
    logits = _linear(p, "linear", features)
    if head.widths[0] == 0:
        direct = _linear(p, "direct", ops.flatten(pooled, layout))
        logits = jnp.where(active.last > 0, logits, direct)
    return logits, _named(network.roles[-1], moments)


def _linear(p: Weights, role: str, x: Array) -> Array:
    return x @ p[f"{role}/kernel"] + p[f"{role}/bias"][None, :]


def _dropped(x: Array, rate: float, dropout: Drop | None) -> Array:
    if dropout is None or not rate:
        return x
    keep = jax.random.bernoulli(dropout.key, 1 - rate, x.shape)
    kept = jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
    return jnp.where(dropout.active > 0, kept, x)
