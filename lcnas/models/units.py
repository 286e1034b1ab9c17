"""One Flax module (NNX) per primitive layer; :mod:`lcnas.models.network` chains them by the walk.

Activations have the network's layout (:mod:`lcnas.models.ops`); weights are HWIO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lcnas import layers, onnx_export
from lcnas.errors import ModelError
from lcnas.layers import Layer, Shape
from lcnas.models import ops
from lcnas.models.layouts import Layout

EPSILON = onnx_export.EPSILON
MOMENTUM = 0.9  # of the running statistics, as in the paper's code (Paddle's default)


@dataclass(frozen=True)
class NetworkOptions:
    """Options that all layers of a network share."""

    layout: Layout
    dtype: Any  # compute type
    axis_name: str | None  # mapped axis of batch norm's statistics


# -- initialisation, as in the paper's code --------------------------------------------------------


def _he_normal(rngs: nnx.Rngs, shape: Shape) -> jax.Array:
    """He et al. (arXiv 1502.01852), normal with variance 2 / fan in: PaddleClas's KaimingNormal."""
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):
        return deviation * jax.random.normal(key, shape, jnp.float32)
    return jnp.asarray(deviation * _numpy(key).standard_normal(shape, np.float32), jnp.float32)


def _xavier_uniform(rngs: nnx.Rngs, shape: Shape) -> jax.Array:
    """Glorot and Bengio (2010), uniform: Paddle's default for a linear layer."""
    limit = math.sqrt(6 / sum(shape))
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):
        return jax.random.uniform(key, shape, jnp.float32, -limit, limit)
    return jnp.asarray(_numpy(key).uniform(-limit, limit, shape), jnp.float32)


def _numpy(key: jax.Array) -> np.random.Generator:
    """Return a NumPy generator for a key; JAX would compile a program for each kernel shape."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _add_norm(module: Any, channels: int) -> None:
    """Add the variables of a batch norm to a module."""
    module.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
    module.shift = nnx.Param(jnp.zeros((channels,), jnp.float32))
    module.mean = nnx.BatchStat(jnp.zeros((channels,), jnp.float32))
    module.var = nnx.BatchStat(jnp.ones((channels,), jnp.float32))


# -- one module a primitive layer ------------------------------------------------------------------


class Unit(nnx.Module):
    """Base of the modules; ``layer`` is its primitive layer."""

    def __init__(self, layer: Layer, options: NetworkOptions) -> None:
        self.layer = layer
        self.options = options

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:  # noqa: ARG002
        """Return the layer's output; ``rngs`` is for dropout."""
        return self.compute(x)

    def compute(self, x: jax.Array) -> jax.Array:
        """Return the output of a layer that needs no random numbers."""
        raise NotImplementedError


class _Normed(Unit):
    """A module with a batch norm (``scale``, ``shift``, ``mean``, ``var``)."""

    scale: nnx.Param[jax.Array]
    shift: nnx.Param[jax.Array]
    mean: nnx.BatchStat[jax.Array]
    var: nnx.BatchStat[jax.Array]
    use_running_average: bool

    def normed(self, x: jax.Array, act: str) -> jax.Array:
        """Return act(batch norm(x)); training uses the batch's statistics and updates the running ones."""
        o = self.options
        if self.use_running_average:
            values = (self.scale[...], self.shift[...], self.mean[...], self.var[...])
            return ops.affine_act(x, *values, act, o.layout, EPSILON)
        y, mean, var = ops.norm_act(
            x, self.scale[...], self.shift[...], act, o.layout, EPSILON, o.axis_name
        )
        self.follow(mean, var)
        return y

    def follow(self, mean: jax.Array, var: jax.Array) -> None:
        """Update the running statistics with a batch's."""
        self.mean[...] = MOMENTUM * self.mean[...] + (1 - MOMENTUM) * mean
        self.var[...] = MOMENTUM * self.var[...] + (1 - MOMENTUM) * var


class BatchNorm(_Normed):
    """Batch norm alone."""

    def __init__(self, layer: Layer, shape: Shape, options: NetworkOptions) -> None:
        super().__init__(layer, options)
        self.use_running_average = False
        _add_norm(self, shape[-1])

    def compute(self, x: jax.Array) -> jax.Array:
        return self.normed(x, "identity")


class Conv(_Normed):
    """Convolution, [bias or batch norm], activation, [learnable affine]."""

    layer: layers.Conv

    def __init__(
        self,
        layer: layers.Conv,
        shape: Shape,
        options: NetworkOptions,
        rngs: nnx.Rngs,
        act: bool = True,
    ) -> None:
        super().__init__(layer, options)
        kernel = (*layer.kernel, shape[2] // layer.groups, layer.width)
        self.act = layer.act if act else "identity"
        self.affine = layer.affine and act
        self.kernel = nnx.Param(_he_normal(rngs, kernel))
        if layer.bias:
            self.bias = nnx.Param(jnp.zeros((layer.width,), jnp.float32))
        if layer.norm:
            self.use_running_average = False
            _add_norm(self, layer.width)
        if self.affine:
            _add_affine(self)

    def compute(self, x: jax.Array) -> jax.Array:
        c, layout = self.layer, self.options.layout
        kernel = self.kernel[...].astype(x.dtype)
        z = ops.convolution(x, kernel, c.stride, c.padding, c.groups, layout)
        if c.bias:
            z = z + layout.per_channel(self.bias[...].astype(x.dtype), z.ndim)
        y = self.normed(z, self.act) if c.norm else ops.act(z, self.act)
        return _affine(self, y) if self.affine else y


def _add_affine(module: Any) -> None:
    module.gain = nnx.Param(jnp.ones((), jnp.float32))
    module.offset = nnx.Param(jnp.zeros((), jnp.float32))


def _affine(module: Any, y: jax.Array) -> jax.Array:
    gain, offset = module.gain[...].astype(y.dtype), module.offset[...].astype(y.dtype)
    return y * _as_rank(gain, y.ndim) + _as_rank(offset, y.ndim)


def _as_rank(value: jax.Array, ndim: int) -> jax.Array:
    return value.reshape((1,) * ndim)


class Reparam(Unit):
    """The sum of a re-parameterised convolution's branches, and its activation and affine."""

    layer: layers.Reparam

    def __init__(
        self, layer: layers.Reparam, shape: Shape, options: NetworkOptions, rngs: nnx.Rngs
    ) -> None:
        super().__init__(layer, options)
        for i, branch in enumerate(layer.branches):
            module: Unit
            if isinstance(branch, layers.Conv):
                module = Conv(branch, shape, options, rngs, act=False)
            else:
                module = BatchNorm(branch, shape, options)
            setattr(self, f"branch{i}", module)
        if layer.merged.affine:
            _add_affine(self)

    def compute(self, x: jax.Array) -> jax.Array:
        merged = self.layer.merged
        total = self._branch(0, x)
        for i in range(1, len(self.layer.branches)):
            total = total + self._branch(i, x)
        y = ops.act(total, merged.act)
        return _affine(self, y) if merged.affine else y

    def _branch(self, i: int, x: jax.Array) -> jax.Array:
        branch: Unit = getattr(self, f"branch{i}")
        return branch(x)


class Dense(nnx.Module):
    """A kernel and a bias; squeeze-and-excite has two of them."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(_he_normal(rngs, shape))
        self.bias = nnx.Param(jnp.zeros((shape[-1],), jnp.float32))


class SqueezeExcite(Unit):
    """Squeeze-and-excitation."""

    layer: layers.SqueezeExcite

    def __init__(
        self, layer: layers.SqueezeExcite, shape: Shape, options: NetworkOptions, rngs: nnx.Rngs
    ) -> None:
        super().__init__(layer, options)
        channels = shape[2]
        self.reduce = Dense((1, 1, channels, layer.hidden), rngs)
        self.expand = Dense((1, 1, layer.hidden, channels), rngs)

    def compute(self, x: jax.Array) -> jax.Array:
        layout = self.options.layout
        v = ops.spatial_mean(x, layout)
        v = ops.act(self._dense(self.reduce, v), self.layer.act)
        v = ops.act(self._dense(self.expand, v), self.layer.gate)
        return x * v

    def _dense(self, dense: Dense, x: jax.Array) -> jax.Array:
        layout = self.options.layout
        y = ops.pointwise(x, dense.kernel[...].astype(x.dtype), layout)
        return y + layout.per_channel(dense.bias[...].astype(x.dtype), y.ndim)


class Linear(Unit):
    """A fully connected layer over (batch, features)."""

    layer: layers.Linear

    def __init__(
        self, layer: layers.Linear, shape: Shape, options: NetworkOptions, rngs: nnx.Rngs
    ) -> None:
        super().__init__(layer, options)
        width = layer.out_shape(shape)[0]
        self.kernel = nnx.Param(_xavier_uniform(rngs, (shape[0], width)))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def compute(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        return ops.act(x @ kernel + bias[None, :], self.layer.act)


class Dropout(Unit):
    """Zeroes values in training; keys are from the call's ``rngs.dropout()``."""

    layer: layers.Dropout

    def __init__(self, layer: layers.Dropout, options: NetworkOptions) -> None:
        super().__init__(layer, options)
        self.deterministic = False

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        rate = self.layer.rate
        if self.deterministic or rate == 0:
            return x
        if rngs is None:
            raise ModelError(
                "a network with dropout needs rngs=nnx.Rngs(dropout=key) in training; "
                "model.eval() switches to evaluation"
            )
        keep = jax.random.bernoulli(rngs.dropout(), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


class Weightless(Unit):
    """A layer without weights."""

    def compute(self, x: jax.Array) -> jax.Array:
        layer, layout = self.layer, self.options.layout
        match layer:
            case layers.Act():
                return ops.act(x, layer.act)
            case layers.Pool():
                return ops.pool(x, layer, layout)
            case layers.GlobalPool():
                return ops.spatial_mean(x, layout)
            case layers.Flatten():
                return ops.flatten(x, layout)
            case layers.LocalResponseNorm():
                return ops.local_response_norm(x, layer, layout)
            case layers.ChannelShuffle():
                return ops.channel_shuffle(x, layer.groups, layout)
            case layers.Identity():
                return x
        raise ModelError(f"no module for the layer {layer.kind!r}")


class Joined(Unit):
    """Chain, add, concat and split: layers of other layers, its ``parts``."""

    def __init__(
        self, layer: Layer, shapes: list[Shape], options: NetworkOptions, rngs: nnx.Rngs
    ) -> None:
        super().__init__(layer, options)
        layers_and_shapes = zip(layer.children(), shapes, strict=True)
        self.parts = nnx.List(
            [unit(inner, part, options, rngs) for inner, part in layers_and_shapes]
        )

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        layer, axis = self.layer, self.options.layout.channel
        match layer:
            case layers.Chain():
                for part in self.parts:
                    x = part(x, rngs)
                return x
            case layers.Split():
                ends = np.cumsum(layer.sizes)[:-1].tolist()
                pieces = jnp.split(x, ends, axis=axis)
                outputs = [part(p, rngs) for part, p in zip(self.parts, pieces, strict=True)]
                return jnp.concatenate(outputs, axis=axis)
            case layers.Concat():
                return jnp.concatenate([part(x, rngs) for part in self.parts], axis=axis)
            case layers.Add():
                first, *rest = (part(x, rngs) for part in self.parts)
                return ops.act(sum(rest, first), layer.act)
        raise ModelError(f"no module for the layer {layer.kind!r}")


def _inner_shapes(layer: Layer, shape: Shape) -> list[Shape]:
    """Return the input shape of each child of a chain, an add, a concat or a split."""
    if isinstance(layer, layers.Split):
        return list(layer.parts(shape))
    if not isinstance(layer, layers.Chain):
        return [shape for _ in layer.children()]
    shapes = []
    for inner in layer.layers:
        shapes.append(shape)
        shape = inner.out_shape(shape)
    return shapes


def unit(layer: Layer, shape: Shape, options: NetworkOptions, rngs: nnx.Rngs) -> Unit:
    """Return the module of a primitive layer for an input of ``shape`` (height, width, channels)."""
    match layer:
        case layers.Conv():
            return Conv(layer, shape, options, rngs)
        case layers.Reparam():
            return Reparam(layer, shape, options, rngs)
        case layers.BatchNorm():
            return BatchNorm(layer, shape, options)
        case layers.SqueezeExcite():
            return SqueezeExcite(layer, shape, options, rngs)
        case layers.Linear():
            return Linear(layer, shape, options, rngs)
        case layers.Dropout():
            return Dropout(layer, options)
        case layers.Chain() | layers.Add() | layers.Concat() | layers.Split():
            return Joined(layer, _inner_shapes(layer, shape), options, rngs)
    return Weightless(layer, options)
