"""Flax networks against NumPy's reference and the exported graphs."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lcnas import blocks, cost, layers, models, onnx_export, spaces, zoo
from lcnas.arch import Arch, place, walk
from lcnas.errors import ArchError, ModelError
from lcnas.models import layouts, network, units
from tests.onnx_export import engines
from tests.onnx_export.cases import BLOCKS, SHAPE
from tests.onnx_export.reference import Reference

LAYOUTS = sorted(layouts.LAYOUTS)
TOLERANCE = 1e-4  # of the largest value


def options(layout="CHWN", dtype=jnp.float32, axis_name=None):
    return units.NetworkOptions(layouts.LAYOUTS[layout], dtype, axis_name)


def images(shape, batch=2, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def close(ours, theirs, tolerance=TOLERANCE):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = float(np.abs(theirs).max())
    assert 1e-3 < scale < 1e6
    assert float(np.abs(ours - theirs).max()) <= tolerance * scale


def fill(module, weights, prefix="0"):
    """Set a module's variables by name; returns the names that it has."""
    state = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    names = set()
    for path, variable in state:
        name = f"{prefix}/{models.weight_name(path)}"
        variable[...] = jnp.asarray(weights[name])
        names.add(name)
    nnx.update(module, nnx.from_flat_state(state))
    return names


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_a_block_computes_what_numpy_computes(block, layout):
    placed = place(block, SHAPE, 7)
    weights = onnx_export.init(placed, np.random.default_rng(3))
    module = units.unit(placed.layer, placed.in_shape, options(layout), nnx.Rngs(0))
    assert fill(module, weights) == set(weights)
    module.eval()
    x = images(SHAPE)
    right = np.stack([Reference(weights).run(placed.layer, p.astype(np.float64), "0") for p in x])
    y = run(module, layouts.LAYOUTS[layout].enter(jnp.asarray(x)))
    close(y if y.ndim == 2 else layouts.LAYOUTS[layout].leave(y), right)


TINY = Arch.of(
    {
        "stem": [blocks.ConvNormAct(8, stride=2, act="hard_swish")],
        "stage1": [blocks.DepthwiseSeparable(12, se=True), blocks.DepthwiseSeparable(12, stride=2)],
        "head": [blocks.Classifier(20)],
    },
    16,
)


def alive(arch, classes=10, **settings):
    """A network in evaluation mode, with weights that keep signals alive."""
    model = models.build(arch, classes, **settings)
    model.set_weights(onnx_export.init(arch, np.random.default_rng(2), classes))
    model.eval()
    return model


def run(model, x):
    """What the model gives, compiled as one: one by one its operations would take many times as long."""
    graph, state = nnx.split(model)
    return jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, jnp.asarray(x))


def trained(model):
    return sum(v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name", spaces.available())
def test_a_network_of_each_space(name):
    """The Flax network and its ONNX file agree; its numbers are those that `cost` counts."""
    space = spaces.load(name)
    arch = space.sample(np.random.default_rng(5)).at(32)
    model, x = alive(arch), images((32, 32, 3), 1)
    right = run(model, x)
    graph = onnx_export.export(arch, weights=model.weights(), classes=10)
    for engine in filter(engines.available, engines.ENGINES):
        close(engines.run(graph, x.transpose(0, 3, 1, 2), engine), right)
    assert trained(model) == cost.params(arch, classes=10, training=True)
    assert list(model.weights()) == list(onnx_export.names(arch, 10))


def test_layouts_compute_the_same_in_training():
    x = jnp.asarray(images((16, 16, 3), 4))
    values, stats = {}, {}
    for layout in LAYOUTS:
        model = models.build(TINY, 10, nnx.Rngs(1), layout=layout)
        assert model.layout == layout
        values[layout] = model(x, nnx.Rngs(dropout=3))
        stats[layout] = model.weights()["stage1_block_2/1/var"]
    close(values["CHWN"], values["NHWC"])
    close(stats["CHWN"], stats["NHWC"])


def test_the_default_layout_of_a_cpu():
    assert models.build(TINY, 10).layout == "CHWN"


# -- training mode ---------------------------------------------------------------------------------


def test_running_statistics_follow_the_batch():
    arch = Arch.of({"stem": [blocks.ConvNormAct(4, kernel=1)], "head": [blocks.DenseHead()]}, 8)
    model = models.build(arch, 3)
    x = images((8, 8, 3), 5)
    before = model.weights()
    model(jnp.asarray(x))
    z = x @ before["stem/kernel"][0, 0]
    after = model.weights()
    close(after["stem/mean"], 0.1 * z.mean((0, 1, 2)))
    close(after["stem/var"], 0.9 + 0.1 * z.var((0, 1, 2)))
    model.eval()
    model(jnp.asarray(x))
    assert (model.weights()["stem/mean"] == after["stem/mean"]).all()


def test_dropout_needs_a_key_and_uses_it():
    model = models.build(TINY, 10)
    x = jnp.asarray(images((16, 16, 3)))
    with pytest.raises(ModelError, match=r"rngs=nnx\.Rngs\(dropout=key\)"):
        model(x)
    first, again, other = (model(x, nnx.Rngs(dropout=k)) for k in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    model.eval()
    assert (model(x) == model(x)).all()


def test_dropout_keeps_the_mean():
    drop = units.Dropout(layers.Dropout(0.2), options())
    y = drop(jnp.ones((200, 500)), nnx.Rngs(dropout=0))
    assert set(np.unique(np.asarray(y))) == {0.0, np.float32(1.25)}
    assert abs(float(y.mean()) - 1) < 0.01


def test_it_compiles_and_differentiates_with_its_state_split_once():
    model = models.build(TINY, 10)
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]

    @jax.jit
    def step(params, stats, x, key):
        def loss(params):
            net = nnx.merge(graph, params, stats, copy=True)
            logits = net(x, nnx.Rngs(dropout=key))
            return (logits**2).mean(), nnx.state(net, nnx.BatchStat)

        (value, stats_), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, stats_, grads

    x = jnp.asarray(images((16, 16, 3)))
    value, new, grads = step(params, stats, x, jax.random.key(0))
    assert float(value) > 0
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, new)
    assert all(jax.tree.leaves(moved))
    step(params, new, x, jax.random.key(1))
    assert step._cache_size() == 1  # type: ignore[attr-defined]


FAMILIES = {re.sub(r"_([\d.]+x|[ms])$", "", name): name for name in zoo.names()}


@pytest.mark.parametrize("name", FAMILIES.values())
def test_networks_of_all_families_have_gradients_in_a_compiled_step(name):
    """Traced, not compiled: an operation without a gradient is refused then."""
    arch = zoo.load(name)
    arch = arch.at(min(arch.resolution, 64))
    model = nnx.eval_shape(lambda: models.build(arch, 10))
    graph, params, stats = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]

    def loss(params, stats, x, key):
        net = nnx.merge(graph, params, stats, copy=True)
        return (net(x, nnx.Rngs(dropout=key)) ** 2).mean()

    x = jax.ShapeDtypeStruct((2, arch.resolution, arch.resolution, 3), jnp.float32)
    grads = jax.eval_shape(jax.jit(jax.grad(loss)), params, stats, x, jax.random.key(0))
    assert len(jax.tree.leaves(grads)) == len(jax.tree.leaves(params)) > 0


def test_bfloat16_is_near_float32():
    wide, narrow = alive(TINY), alive(TINY, dtype=jnp.bfloat16)
    x = images((16, 16, 3))
    right, near = run(wide, x), run(narrow, x)
    assert near.dtype == jnp.float32
    assert all(v.dtype == np.float32 for v in narrow.weights().values())
    close(near, right, 0.05)
    assert (near != right).any()


# -- initialisation --------------------------------------------------------------------------------


def test_weights_begin_as_in_the_papers_code():
    weights = models.build(zoo.load("pplcnet_1.0x", 32), 100).weights()
    assert abs(weights["stage5_block_2/2/kernel"].std() / (2 / 512) ** 0.5 - 1) < 0.02
    assert (
        abs(weights["stage4_block_3/0/kernel"].std() / (2 / 25) ** 0.5 - 1) < 0.05
    )  # fan in: 5 x 5
    linear = weights["head/4/kernel"]
    assert abs(np.abs(linear).max() / (6 / 1380) ** 0.5 - 1) < 0.01
    for name, value in weights.items():
        end = name.rpartition("/")[2]
        if end in ("scale", "var"):
            assert (value == 1).all()
        elif end != "kernel":
            assert (value == 0).all()


def test_shapes_can_be_had_without_weights():
    abstract = nnx.eval_shape(lambda: models.build(TINY, 10))
    shapes = {
        models.weight_name(path): tuple(v.shape)
        for path, v in nnx.to_flat_state(nnx.state(abstract))
    }
    assert shapes == onnx_export.names(TINY, 10)


def test_other_seeds_give_other_weights():
    a, b, c = (models.build(TINY, 10, nnx.Rngs(s)).weights() for s in (0, 0, 1))
    assert all((a[n] == b[n]).all() for n in a)
    assert (a["stem/kernel"] != c["stem/kernel"]).any()


# -- weights by name -------------------------------------------------------------------------------


def test_weights_come_back():
    weights = alive(TINY).weights()
    other = models.build(TINY, 10)
    other.set_weights(weights)
    assert all((v == weights[n]).all() for n, v in other.weights().items())


def _without(weights, name):
    return {n: v for n, v in weights.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: _without(w, "stem/kernel"), r"missing 'stem/kernel'"),
        (
            lambda w: {**_without(w, "stem/kernel"), "stem/kernal": w["stem/kernel"]},
            r"no 'stem/kernal'; did you mean 'stem/kernel'",
        ),
        (lambda w: {**w, "stem/scale": w["stem/scale"][:3]}, r"\(3,\), not \(8,\)"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    model = models.build(TINY, 10)
    before = model.weights()
    with pytest.raises(ModelError, match=message):
        model.set_weights(change(before))
    assert all((v == before[n]).all() for n, v in model.weights().items())


def test_decay_is_for_kernels():
    names = onnx_export.names(zoo.load("pplcnet_0.5x"))
    decayed = {n for n in names if models.decays(n)}
    assert decayed == {n for n, shape in names.items() if len(shape) > 1}


# -- features --------------------------------------------------------------------------------------


def test_features_are_the_last_maps_of_each_stride():
    model = models.build(zoo.load("pplcnet_0.5x", 64), 10)
    model.eval()
    graph, state = nnx.split(model)
    features: list[models.Feature] = []

    def shapes(state, x):
        features.extend(nnx.merge(graph, state).features(x))

    jax.eval_shape(shapes, state, jnp.zeros((2, 64, 64, 3)))
    assert [(f.name, f.stride, f.channels, f.value.shape) for f in features] == [
        ("stage2_block_2", 4, 32, (2, 16, 16, 32)),
        ("stage3_block_2", 8, 64, (2, 8, 8, 64)),
        ("stage4_block_6", 16, 128, (2, 4, 4, 128)),
        ("stage5_block_2", 32, 256, (2, 2, 2, 256)),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_what_the_network_sees(layout):
    model = alive(TINY, layout=layout)
    weights = model.weights()
    x = images((16, 16, 3), 1)
    value = x[0].astype(np.float64)
    maps = {}
    for name, placed in zip(onnx_export.block_names(TINY), walk(TINY), strict=True):
        if name != "head":
            maps[name] = value = Reference(weights).run(placed.layer, value, name)
    (feature,) = model.features(jnp.asarray(x))
    assert (feature.name, feature.stride, feature.channels) == ("stage1_block_2", 4, 12)
    close(feature.value[0], maps["stage1_block_2"])


@pytest.mark.parametrize("name", ["pplcnet_1.0x", "mobilenet_v4_conv_small_1.0x", "resnet18"])
def test_every_network_has_the_four_strides(name):
    taps = network._taps(zoo.load(name), 1000)
    assert [stride for _, stride in taps] == [4, 8, 16, 32]


# -- bad input -------------------------------------------------------------------------------------


def test_bad_settings():
    arch = TINY
    with pytest.raises(ModelError, match="'NCHW' is not among CHWN, NHWC; did you mean"):
        models.build(arch, 10, layout="NCHW")
    with pytest.raises(ModelError, match="not a floating-point type"):
        models.build(arch, 10, dtype=jnp.int8)
    with pytest.raises(ModelError, match="not a floating-point type"):
        models.build(arch, 10, dtype="bfloat17")
    named: Any = "pplcnet_0.25x"
    with pytest.raises(ModelError, match=r"'pplcnet_0.25x' is not an Arch; lcnas.zoo.load"):
        models.build(named, 10)
    seed: Any = 0
    with pytest.raises(ModelError, match=r"rngs: 0 is not an nnx.Rngs"):
        models.build(arch, 10, seed)
    with pytest.raises(ArchError, match="classes"):
        models.build(arch, 0)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (32, 32, 3)])
def test_images_of_another_shape(shape):
    model = models.build(TINY, 10)
    with pytest.raises(ModelError, match="images are"):
        model(jnp.zeros(shape))
