"""Our operations against XLA's convolution and a simple batch norm, values and gradients."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lcnas import layers
from lcnas.models import layouts, ops
from lcnas.models.depthwise import depthwise

LAYOUTS = sorted(layouts.LAYOUTS)
EPS = 1e-5


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def conv(x, kernel, stride, padding, groups):
    """XLA's convolution of (batch, height, width, channels)."""
    pads = ((padding[0], padding[1]), (padding[2], padding[3]))
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision="highest",
    )


def close(ours, theirs, tolerance):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    scale = max(1e-30, float(np.abs(theirs).max()))
    assert float(np.abs(ours - theirs).max()) <= tolerance * scale


def with_gradients(f, *args):
    """Values, and the gradients of a sum weighted at random."""

    @jax.jit
    def both(args):
        value, back = jax.vjp(f, *args)
        return value, back(jnp.asarray(weight(value), value.dtype))

    return both(args)


def weight(value):
    """Numbers of the value's shape that no symmetry makes equal."""
    return np.random.default_rng(99).normal(size=value.shape)


CONVOLUTIONS = [
    # kernel, stride, padding, groups, channels in, channels out
    ((3, 3), (1, 1), (1, 1, 1, 1), "depthwise"),
    ((3, 3), (2, 2), (1, 1, 1, 1), "depthwise"),
    ((5, 5), (1, 1), (2, 2, 2, 2), "depthwise"),
    ((5, 5), (2, 2), (2, 2, 2, 2), "depthwise"),
    ((7, 7), (1, 1), (3, 3, 3, 3), "depthwise"),
    ((7, 7), (2, 2), (3, 3, 3, 3), "depthwise"),
    ((3, 3), (2, 1), (1, 1, 1, 1), "depthwise"),
    ((3, 3), (1, 2), (1, 1, 1, 1), "depthwise"),
    ((3, 3), (1, 1), (0, 0, 0, 0), "depthwise"),
    ((3, 3), (2, 2), (0, 1, 0, 1), "depthwise"),
    ((5, 3), (2, 1), (2, 1, 0, 2), "depthwise"),
    ((3, 3), (3, 3), (1, 1, 1, 1), "depthwise"),
    ((1, 3), (2, 2), (0, 0, 1, 1), "depthwise"),
    ((2, 2), (1, 1), (1, 0, 1, 0), "depthwise"),
    ((1, 1), (1, 1), (0, 0, 0, 0), "pointwise"),
    ((1, 1), (2, 2), (0, 0, 0, 0), "pointwise"),
    ((3, 3), (2, 2), (1, 1, 1, 1), "stem"),
    ((5, 5), (1, 1), (2, 2, 2, 2), "stem"),
    ((3, 3), (1, 1), (1, 1, 1, 1), "full"),
    ((3, 3), (2, 2), (1, 1, 1, 1), "grouped"),
    ((1, 1), (1, 1), (0, 0, 0, 0), "grouped"),
    ((3, 3), (1, 1), (1, 1, 1, 1), "multiplied"),
]
CHANNELS = {  # in, out, groups
    "depthwise": (6, 6, 6),
    "pointwise": (6, 10, 1),
    "stem": (3, 8, 1),
    "full": (6, 4, 1),
    "grouped": (6, 4, 2),
    "multiplied": (4, 8, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: f"{c[3]}-{c[0]}-{c[1]}-{c[2]}")
def test_convolutions_are_xlas(case, layout):
    kernel, stride, padding, kind = case
    side = (9, 8)
    into, out, groups = CHANNELS[kind]
    axes = layouts.LAYOUTS[layout]
    x, w = draw((3, *side, into)), draw((*kernel, into // groups, out), 1)

    def ours(x, w):
        return axes.leave(ops.convolution(axes.enter(x), w, stride, padding, groups, axes))

    value, gradients = with_gradients(ours, x, w)
    right, right_gradients = with_gradients(lambda x, w: conv(x, w, stride, padding, groups), x, w)
    close(value, right, 1e-5)
    for mine, its in zip(gradients, right_gradients, strict=True):
        close(mine, its, 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "kernel", "stride"), list(itertools.product((4, 7), (3, 5), (1, 2))), ids=str
)
def test_the_depthwise_gradient_is_right_to_the_last_digits(size, kernel, stride, layout):
    axes, pad = layouts.LAYOUTS[layout], kernel // 2
    x = draw((2, size, size + 1, 3), dtype=np.float64)
    w = draw((kernel, kernel, 1, 3), 1, np.float64)
    strides, padding = (stride, stride), (pad, pad, pad, pad)

    def ours(x, w):
        return axes.leave(depthwise(axes.enter(x), w, strides, padding, axes))

    value, (dx, dw) = with_gradients(ours, x, w)
    right = by_hand(np.asarray(x), np.asarray(w), stride, pad, weight)
    for mine, its in zip((value, dx, dw), right, strict=True):
        close(mine, its, 1e-13)


def by_hand(x, w, stride, pad, weight_of):
    """A depthwise convolution and its gradients, window by window."""
    xp = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    k, dxp, dw = w.shape[0], np.zeros_like(xp), np.zeros_like(w)
    rows, columns = ((n - k) // stride + 1 for n in xp.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, x.shape[3]))
    windows = {
        (r, c): np.s_[:, r * stride : r * stride + k, c * stride : c * stride + k]
        for r in range(rows)
        for c in range(columns)
    }
    for (r, c), window in windows.items():
        y[:, r, c] = (xp[window] * w[:, :, 0]).sum((1, 2))
    dy = weight_of(y)
    for (r, c), window in windows.items():
        norm_inputs = dy[:, r, c][:, None, None]
        dxp[window] += norm_inputs * w[:, :, 0]
        dw[:, :, 0] += (norm_inputs * xp[window]).sum(0)
    return y, dxp[:, pad : xp.shape[1] - pad, pad : xp.shape[2] - pad], dw


# -- batch norm and activation ---------------------------------------------------------------------


def reference_norm_act(x: Any, scale: Any, shift: Any, name: str) -> Any:
    """Batch norm over (batch, height, width) by its definition, then the activation."""
    mean = x.mean((0, 1, 2), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    normal = (x - mean) / jnp.sqrt(var + EPS)
    u = normal * scale[None, None, None] + shift[None, None, None]
    return _reference_act(u, name), mean.ravel(), var.ravel()


def _reference_act(u, name):
    six = jnp.clip(u + 3, 0, 6) / 6
    return {
        "identity": lambda: u,
        "relu": lambda: jax.nn.relu(u),
        "relu6": lambda: jax.nn.relu6(u),
        "hard_swish": lambda: u * six,
        "hard_sigmoid": lambda: six,
        "sigmoid": lambda: 1 / (1 + jnp.exp(-u)),
        "silu": lambda: u / (1 + jnp.exp(-u)),
        "gelu": lambda: u * (1 + jax.scipy.special.erf(u / 2**0.5)) / 2,
    }[name]()


def norm_inputs(dtype: Any = np.float32, shape: Any = (4, 5, 6, 3)) -> tuple[Any, Any, Any]:
    x = draw(shape, 3, dtype) * 2 + draw(shape[-1:], 4, dtype)[None, None, None] * 3
    return x, draw(shape[-1:], 5, dtype) + 1, draw(shape[-1:], 6, dtype)


def ours_norm_act(name, layout, axis_name=None):
    axes = layouts.LAYOUTS[layout]

    def run(x, scale, shift):
        y, mean, var = ops.norm_act(axes.enter(x), scale, shift, name, axes, EPS, axis_name)
        return axes.leave(y), mean, var

    return run


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_norm_and_activation_are_those_of_the_reference(name, layout):
    args = norm_inputs()
    run = ours_norm_act(name, layout)
    for mine, its in zip(run(*args), reference_norm_act(*args, name), strict=True):
        close(mine, its, 1e-5)
    _, gradients = with_gradients(lambda *a: run(*a)[0], *args)
    _, rights = with_gradients(lambda x, s, b: reference_norm_act(x, s, b, name)[0], *args)
    for mine, its in zip(gradients, rights, strict=True):
        close(mine, its, 2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [0.0, 30.0, -100.0])
def test_a_mean_far_from_zero_costs_no_digits(offset, layout):
    x, scale, shift = norm_inputs()
    x = x + offset
    y, mean, var = ours_norm_act("identity", layout)(x, scale, shift)
    wide = np.asarray(x, np.float64)
    close(mean, wide.mean((0, 1, 2)).astype(np.float32), 1e-6)
    close(var, wide.var((0, 1, 2)).astype(np.float32), 1e-5)
    right = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + EPS)
    close(y, (right * np.asarray(scale) + np.asarray(shift)).astype(np.float32), 2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_channel_of_one_value_stays_finite(layout):
    x = jnp.full((2, 3, 3, 4), 0.7)
    scale, shift = jnp.ones(4), jnp.zeros(4)
    value, gradients = with_gradients(
        lambda *a: ours_norm_act("hard_swish", layout)(*a)[0], x, scale, shift
    )
    assert all(bool(jnp.isfinite(g).all()) for g in (value, *gradients))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_running_statistics_take_part_in_evaluation(layout):
    axes = layouts.LAYOUTS[layout]
    x, scale, shift = norm_inputs()
    mean, var = draw((3,), 7), jnp.abs(draw((3,), 8)) + 0.1
    y = ops.affine_act(axes.enter(x), scale, shift, mean, var, "hard_swish", axes, EPS)
    at = lambda v: v[None, None, None]  # noqa: E731
    right = _reference_act(
        (x - at(mean)) / jnp.sqrt(at(var) + EPS) * at(scale) + at(shift), "hard_swish"
    )
    close(axes.leave(y), right, 1e-5)


# -- under JAX's transformations -------------------------------------------------------------------


def block(layout):
    """Depthwise, norm, activation, pointwise, norm, activation: a network in small."""
    axes = layouts.LAYOUTS[layout]

    def run(weights, x, mask=None):
        z = axes.enter(x)
        for kernel, scale, shift, groups in weights:
            k = kernel.shape[0]
            pad = (k // 2,) * 4
            z = ops.convolution(
                z, kernel, (1, 1), pad, z.shape[axes.channel] if groups else 1, axes
            )
            z, _, _ = ops.norm_act(z, scale, shift, "hard_swish", axes, EPS, None)
            if mask is not None and not groups:
                z = z * axes.per_channel(mask)
        return axes.leave(z)

    return run


def weights(channels=4, width=6):
    return [
        (draw((3, 3, 1, channels)), draw((channels,), 1) + 1, draw((channels,), 2), True),
        (draw((1, 1, channels, width), 3), draw((width,), 4) + 1, draw((width,), 5), False),
    ]


def loss(run, flat, x, mask=None):
    parts = [(*three, groups) for three, groups in zip(flat, (True, False), strict=True)]
    return (run(parts, x, mask) ** 2).sum()


def flat_weights(**options):
    return [w[:3] for w in weights(**options)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vmap_is_a_loop(layout):
    run, xs = block(layout), draw((3, 2, 5, 5, 4), 9)
    value = jax.value_and_grad(lambda w, x: loss(run, w, x))
    together = jax.jit(jax.vmap(value, in_axes=(None, 0)))(flat_weights(), xs)
    one = jax.jit(value)
    for i, x in enumerate(xs):
        alone = one(flat_weights(), x)
        jax.tree.map(lambda t, a, i=i: close(t[i], a, 1e-5), together, alone)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpointed_gradients_are_the_same(layout):
    run, x = block(layout), draw((2, 5, 5, 4), 9)
    gradients = jax.jit(jax.grad(lambda w: loss(run, w, x)))(flat_weights())
    again = jax.jit(jax.grad(jax.checkpoint(lambda w: loss(run, w, x))))(flat_weights())
    jax.tree.map(lambda a, b: close(a, b, 1e-6), again, gradients)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masked_channels_are_as_if_they_were_not_there(layout):
    """A mask behind every activation: the rest computes what the narrow network computes."""
    run, x = block(layout), draw((2, 5, 5, 4), 9)
    wide = flat_weights()
    narrow = [wide[0], (wide[1][0][..., :4], wide[1][1][:4], wide[1][2][:4])]
    mask = jnp.array([1.0, 1, 1, 1, 0, 0])
    masked, gradients = jax.jit(jax.value_and_grad(lambda w: loss(run, w, x, mask)))(wide)
    alone, right = jax.jit(jax.value_and_grad(lambda w: loss(run, w, x)))(narrow)
    close(masked, alone, 1e-5)
    close(gradients[1][0][..., :4], right[1][0], 1e-5)
    close(gradients[0][0], right[0][0], 1e-5)
    assert not np.asarray(gradients[1][0][..., 4:]).any()
    assert not np.asarray(gradients[1][2][4:]).any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["identity", "hard_swish"])
def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch(name, layout):
    x, scale, shift = norm_inputs(shape=(8, 5, 6, 3))
    parts = x.reshape(4, 2, 5, 6, 3)
    weights = draw(x.shape, 12)

    def whole(x, scale, shift):
        y, mean, var = reference_norm_act(x, scale, shift, name)
        return (y * weights).sum(), (mean, var)

    def part(x, w, scale, shift):
        y, mean, var = ours_norm_act(name, layout, "devices")(x, scale, shift)
        return (y * w).sum(), (mean, var)

    parted = jax.jit(
        jax.vmap(
            jax.value_and_grad(part, argnums=(0, 2, 3), has_aux=True),
            in_axes=(0, 0, None, None),
            axis_name="devices",
        )
    )
    (sums, (means, variances)), (dx, d_scale, d_shift) = parted(
        parts, weights.reshape(parts.shape), scale, shift
    )
    (total, (mean, var)), right = jax.jit(
        jax.value_and_grad(whole, argnums=(0, 1, 2), has_aux=True)
    )(x, scale, shift)
    close(sums.sum(), total, 1e-5)
    for of_device in means:
        close(of_device, mean, 1e-5)
    for of_device in variances:
        close(of_device, var, 1e-5)
    close(dx.reshape(x.shape), right[0], 2e-5)
    close(d_scale.sum(0), right[1], 2e-5)
    close(d_shift.sum(0), right[2], 2e-5)


# -- the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_activations_and_their_slopes(name):
    x = jnp.linspace(-5, 8, 131) + 0.013  # no point lies on a corner
    close(ops.act(x, name), _reference_act(x, name), 1e-6)
    slope = jax.vmap(jax.grad(lambda v: ops.act(v, name)))(x)
    close(slope, jax.vmap(jax.grad(lambda v: _reference_act(v, name)))(x), 1e-5)


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_activations_keep_bfloat16(name):
    x = jnp.linspace(-5, 5, 9, dtype=jnp.bfloat16)
    assert ops.act(x, name).dtype == jnp.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_comes_out_as_it_went_in(layout):
    axes = layouts.LAYOUTS[layout]
    x, scale, shift = norm_inputs()
    z = axes.enter(x.astype(jnp.bfloat16))
    y, mean, _ = ops.norm_act(z, scale, shift, "hard_swish", axes, EPS, None)
    assert y.dtype == jnp.bfloat16
    assert mean.dtype == jnp.float32
    right, _, _ = reference_norm_act(
        x.astype(jnp.bfloat16).astype(jnp.float32), scale, shift, "hard_swish"
    )
    close(axes.leave(y).astype(jnp.float32), right, 1e-2)


def test_an_unknown_shape_of_pooling_counts_only_the_inside():
    layer = layers.Pool("avg", (3, 3), (2, 2), (1, 1, 1, 1), ceil=True)
    x = jnp.ones((1, 6, 7, 2))
    for layout in map(layouts.LAYOUTS.get, LAYOUTS):
        assert layout is not None
        y = layout.leave(ops.pool(layout.enter(x), layer, layout))
        assert y.shape[1:] == layer.out_shape((6, 7, 2))
        close(y, jnp.ones_like(y), 1e-6)
