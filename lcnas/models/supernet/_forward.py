"""What a masked network computes.

A masked channel is 0 behind every batch norm and its activation: scale and shift are masked, and all
activations here leave 0 at 0. So what the masked weights hold, any finite numbers, changes neither values nor
gradients, and no map is read once more for its mask. A block that a network lacks is not computed
(``lax.cond``), but where several networks run at once.
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
from lcnas.models.network import EPSILON
from lcnas.models.ops import Layout
from lcnas.models.supernet._active import Active
from lcnas.models.supernet._plan import Place, Plan, Roles
from lcnas.models.supernet._switch import norm_switch

Array = jax.Array
Weights = Mapping[str, Array]
Moments = dict[str, Array]

_SE = layers.SqueezeExcite(1)


@dataclass(frozen=True)
class Net:
    """The largest network of a bucket, as its forward pass needs it."""

    plan: Plan
    widths: tuple[int, ...]  # of the stem and of each stage
    roles: tuple[Roles, ...]  # of each block, stem and head included
    layout: Layout
    dropout: float  # rate in front of the last layer


class _Chosen(NamedTuple):
    """What is chosen at a place, each ()."""

    kernel: Array
    hidden: Array
    act: Array


class Drop(NamedTuple):
    """Dropout of one pass."""

    key: Array
    active: Array  # (), 1.0 or 0.0


def forward(
    net: Net,
    weights: Weights,
    stats: Weights | None,
    active: Active,
    images: Array,
    dropout: Drop | None = None,
) -> tuple[Array, Moments]:
    """Return logits (n, classes), and the mean and variance of each batch norm's channels by name.

    Args:
        net: the largest network.
        weights: of it.
        stats: running statistics; None: the batch's own.
        active: the network that runs.
        images: (n, height, width, 3), float32, normalised.
        dropout: key, and whether there is any; None: there is none.
    """
    masks = [_mask(width, active.widths[i]) for i, width in enumerate(net.widths)]
    x, found = _stem(net, weights, stats, active, masks[0], net.layout.enter(images))
    place = 0
    for e, stage in enumerate(net.plan.stages):
        for j, what in enumerate(stage.places):
            roles = net.roles[1 + place]
            p, s = _of(roles, weights), None if stats is None else _of(roles, stats)
            block = _Block(net, what, masks[e + 1] if j else masks[e], masks[e + 1])
            chosen = _Chosen(active.kernels[place], active.hidden[place], active.acts[place + 1])
            compute = functools.partial(block.compute, p, s, chosen)
            if j < stage.depths[0]:
                x, made = compute(x)
            else:
                x, made = lax.cond(j < active.depths[e], compute, block.absent(s), x)
            found |= _named(roles, made)
            place += 1
    logits, made = _head(net, weights, stats, active, x, dropout)
    return logits, found | made


def _mask(count: int, width: Array) -> Array:
    """Return ones for the first ``width`` of ``count`` channels, zeros for the rest."""
    return (jnp.arange(count, dtype=jnp.int32) < width).astype(jnp.float32)


def _of(roles: Roles, weights: Weights) -> dict[str, Array]:
    """Return a block's weights by role: "depthwise/kernel"."""
    return {
        f"{role}{name.removeprefix(start)}": weight
        for role, start in roles.items()
        for name, weight in weights.items()
        if name.startswith(f"{start}/")
    }


def _named(roles: Roles, moments: Moments) -> Moments:
    made = {}
    for key, value in moments.items():
        role, _, rest = key.partition("/")
        made[f"{roles[role]}/{rest}"] = value
    return made


# -- parts -----------------------------------------------------------------------------------------


def _normed(
    net: Net,
    p: Weights,
    s: Weights | None,
    role: str,
    x: Array,
    mask: Array,
    acts: Sequence[str],
    act: Array,
) -> tuple[Array, Moments]:
    """Return act(batch norm(x)) of the channels that are there, 0 for the others, and the moments."""
    scale, shift = p[f"{role}/scale"] * mask, p[f"{role}/shift"] * mask
    numbers = tuple(net.plan.acts.index(name) for name in acts)
    if s is None:
        y, mean, var = norm_switch(x, scale, shift, act, acts, numbers, net.layout, EPSILON)
        return y, {f"{role}/mean": mean, f"{role}/var": var}
    mean, var = s[f"{role}/mean"], s[f"{role}/var"]
    made = ops.affine_act(x, scale, shift, mean, var, "identity", net.layout, EPSILON)
    return _switched(net, made, acts, act), {}


def _switched(net: Net, x: Array, acts: Sequence[str], act: Array) -> Array:
    y = ops.act(x, acts[-1])
    for name in acts[:-1]:
        y = jnp.where(act == net.plan.acts.index(name), ops.act(x, name), y)
    return y


def _stem(
    net: Net, weights: Weights, stats: Weights | None, active: Active, mask: Array, x: Array
) -> tuple[Array, Moments]:
    block = net.plan.stem.block
    assert isinstance(block, ConvNormAct)
    layer = block.lower((1 << 12, 1 << 12, 3))
    assert isinstance(layer, layers.Conv)
    p, s = _of(net.roles[0], weights), None if stats is None else _of(net.roles[0], stats)
    z = ops.convolution(x, p["conv/kernel"], layer.stride, layer.padding, 1, net.layout)
    y, made = _normed(net, p, s, "conv", z, mask, net.plan.stem.acts, active.acts[0])
    return y, _named(net.roles[0], made)


@dataclass(frozen=True)
class _Block:
    """A depthwise-separable block."""

    net: Net
    place: Place
    coming: Array  # mask of the channels that come in
    going: Array  # mask of those that go out

    def compute(
        self, p: Weights, s: Weights | None, chosen: _Chosen, x: Array
    ) -> tuple[Array, Moments]:
        """Return what the block makes of a map, and its moments."""
        net, place = self.net, self.place
        side, stride = place.kernels[-1], pair(place.stride)
        kernel = p["depthwise/kernel"] * _window(place.kernels, chosen.kernel)
        z = ops.depthwise(x, kernel, stride, same_padding((side, side)), net.layout)
        acts = (place.acts, chosen.act)
        y, made = _normed(net, p, s, "depthwise", z, self.coming, *acts)
        if place.se[-1]:
            y = self.excited(y, p, chosen.hidden)
        z = ops.pointwise(y, p["pointwise/kernel"], net.layout)
        y, more = _normed(net, p, s, "pointwise", z, self.going, *acts)
        return y, made | more

    def absent(self, s: Weights | None) -> Callable[[Array], tuple[Array, Moments]]:
        """Return what a network without the block does: it passes the map on."""

        def passed(x: Array) -> tuple[Array, Moments]:
            none = jnp.zeros((x.shape[self.net.layout.channel],), jnp.float32)
            norms = ("depthwise", "pointwise") if s is None else ()
            return x, {f"{role}/{n}": none for role in norms for n in ("mean", "var")}

        return passed

    def excited(self, x: Array, p: Weights, hidden: Array) -> Array:
        """Return squeeze-and-excitation with so many hidden channels; x itself for none."""
        layout = self.net.layout
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
    """Return (k, k, 1, 1): ones in the middle ``side`` x ``side`` of the largest kernel."""
    if len(kernels) == 1:
        return jnp.ones((1, 1, 1, 1), jnp.float32)
    k = kernels[-1]
    off = jnp.asarray(np.abs(np.arange(k) - k // 2).astype(np.int32))
    inside = (2 * off < side).astype(jnp.float32)
    return inside[:, None, None, None] * inside[None, :, None, None]


def _head(
    net: Net,
    weights: Weights,
    stats: Weights | None,
    active: Active,
    x: Array,
    dropout: Drop | None,
) -> tuple[Array, Moments]:
    head, layout = net.plan.head, net.layout
    block = head.block
    assert isinstance(block, Classifier)
    p, s = _of(net.roles[-1], weights), None if stats is None else _of(net.roles[-1], stats)
    pooled = ops.spatial_mean(x, layout)
    if not block.width:
        return _linear(p, "linear", ops.flatten(pooled, layout)), {}
    y = ops.pointwise(x if block.pool_after else pooled, p["conv/kernel"], layout)
    mask = _mask(block.width, active.last)
    made: Moments = {}
    if block.bias:
        y = y + layout.per_channel(p["conv/bias"])
    if block.norm:
        y, made = _normed(net, p, s, "conv", y, mask, head.acts, active.acts[-1])
    else:
        y = _switched(net, y, head.acts, active.acts[-1]) * layout.per_channel(mask)
    y = ops.spatial_mean(y, layout) if block.pool_after else y
    features = _dropped(ops.flatten(y, layout), net.dropout, dropout)
    logits = _linear(p, "linear", features)
    if head.widths[0] == 0:
        direct = _linear(p, "direct", ops.flatten(pooled, layout))
        logits = jnp.where(active.last > 0, logits, direct)
    return logits, _named(net.roles[-1], made)


def _linear(p: Weights, role: str, x: Array) -> Array:
    return x @ p[f"{role}/kernel"] + p[f"{role}/bias"][None, :]


def _dropped(x: Array, rate: float, dropout: Drop | None) -> Array:
    if dropout is None or not rate:
        return x
    keep = jax.random.bernoulli(dropout.key, 1 - rate, x.shape)
    kept = jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
    return jnp.where(dropout.active > 0, kept, x)
