"""Batch norm with an activation that is chosen at run time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcnas.models import layouts, ops
from lcnas.models.layouts import Layout

Array = jax.Array
Names = tuple[str, ...]
Numbers = tuple[int, ...]


def norm_switch(
    x: Array,
    scale: Array,
    shift: Array,
    act: Array,
    names: Sequence[str],
    numbers: Sequence[int],
    layout: Layout,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Return :func:`lcnas.models.ops.norm_act` for one of several activations.

    Args:
        x: a map in ``layout``.
        scale: scale of the norm, (channels,).
        shift: shift of the norm, (channels,).
        act: number of the activation, (), int32.
        names: names of the activations.
        numbers: number of each name.
        layout: layout of x and of the result.
        epsilon: added to the variance.
    """
    if len(names) == 1:
        return ops.norm_act(x, scale, shift, names[0], layout, epsilon, None)
    return _norm_switch(x, scale, shift, act, tuple(names), tuple(numbers), layout, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _norm_switch(
    x: Array,
    scale: Array,
    shift: Array,
    act: Array,
    names: Names,
    numbers: Numbers,
    layout: Layout,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    (y, mean, var), _ = _forward(x, scale, shift, act, names, numbers, layout, epsilon)
    return y, mean, var


def _forward(
    x: Array,
    scale: Array,
    shift: Array,
    act: Array,
    names: Names,
    numbers: Numbers,
    layout: Layout,
    epsilon: float,
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    mean, var = ops._moments(x, layout)
    rstd = jax.lax.rsqrt(var + epsilon)
    at = layout.per_channel
    u = (x - at(mean)) * at(rstd * scale) + at(shift)
    y = _chosen([ops.act(u, name) for name in names], numbers, act)
    return (y, mean, var), (x, scale, shift, act, mean, rstd)


def _chosen(values: list[Array], numbers: Numbers, act: Array) -> Array:
    selected = values[-1]
    for value, number in zip(values[:-1], numbers[:-1], strict=True):
        selected = jnp.where(act == number, value, selected)
    return selected


def _backward(
    names: Names, numbers: Numbers, layout: Layout, _: float, saved: Any, gradients: Any
) -> tuple[Array, Array, Array, Any]:
    x, scale, shift, act, mean, rstd = saved
    at = layout.per_channel
    normal = (x - at(mean)) * at(rstd)
    u = normal * at(scale) + at(shift)
    slope = _chosen([ops._SLOPES[name](u) for name in names], numbers, act)
    g = gradients[0] * slope
    d_shift, d_scale = layouts.channel_sum(g, layout), layouts.channel_sum(g * normal, layout)
    count = x.size // x.shape[layout.channel]
    dx = at(rstd * scale) * (g - at(d_shift / count) - normal * at(d_scale / count))
    return dx, d_scale, d_shift, np.zeros(act.shape, jax.dtypes.float0)


_norm_switch.defvjp(_forward, _backward)
