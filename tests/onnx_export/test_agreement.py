"""Engines compute the same from the graphs as the NumPy reference from the weights of training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lcnas import blocks, layers, onnx_export, zoo
from lcnas.arch import PlacedBlock, place, walk

from . import engines, reference
from .cases import BLOCKS, SHAPE

TOLERANCE = 1e-4  # of the largest value


@pytest.fixture(params=engines.ENGINES)
def engine(request):
    if not engines.available(request.param):
        pytest.skip(f"this onnxruntime has no {engines.ENGINES[request.param][0]}")
    return request.param


def inputs(shape, batch=1, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, shape[2], *shape[:2]))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    assert 1e-3 < scale < 1e6
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * scale)


def compare(placed, engine, opset=onnx_export.OPSET, batch=1, images=1):
    """Run blocks in an engine and in NumPy with the same random weights."""
    placed = [placed] if isinstance(placed, PlacedBlock) else placed
    weights = onnx_export.init(placed, np.random.default_rng(3))
    model = onnx_export.graph(placed, weights=weights, batch=batch, opset=opset, check=True)
    x = inputs(placed[0].in_shape, images)
    names = [str(i) for i in range(len(placed))]
    assert_close(engines.run(model, x, engine), reference.run(placed, names, weights, x))


def test_every_block_of_the_vocabulary_is_run():
    ours = {name for name in blocks.types() if blocks.find(name).__module__.startswith("lcnas.")}
    assert {block.type for block in BLOCKS} == ours


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_a_block(block, engine):
    compare(place(block, SHAPE, 7), engine)


@pytest.mark.parametrize("opset", onnx_export.OPSETS)
def test_every_opset(opset, engine):
    """One chain of all layers that depend on the opset or whose operators have changed."""
    chain = [
        blocks.ConvNormAct(8, act="gelu", kernel=1),
        blocks.Pool(3, mode="avg", ceil=True),
        blocks.ShuffleV2Unit(8),
        blocks.ExpandCompress(8, se=True),
        blocks.InvertedResidual(8, act="relu6", se=True),
        blocks.LocalResponseNorm(),
        blocks.Classifier(16),
    ]
    compare(placed_chain(chain), engine, opset)


def placed_chain(chain, shape=SHAPE, classes=5):
    placed: list[PlacedBlock] = []
    for block in chain:
        placed.append(place(block, placed[-1].out_shape if placed else shape, classes))
    return placed


@pytest.mark.parametrize("length", [1, 2, 20])
def test_chains_of_placed_blocks(length, engine):
    shape = (6, 7, 8)
    keeping = [b for b in BLOCKS if place(b, shape).out_shape == shape]
    chain = list(itertools.islice(itertools.cycle(keeping), length))
    compare(placed_chain(chain, shape), engine)


@pytest.mark.parametrize(
    "block",
    [
        blocks.DepthwiseSeparable(8, se=True),
        blocks.ShuffleV1Unit(8, groups=2, first_groups=2),
        blocks.MixConv(8, (3, 5)),
        blocks.Pool(3, mode="avg", ceil=True),
        blocks.LocalResponseNorm(),
        blocks.Classifier(7),
        blocks.DenseHead((4, 3), pool=False),
    ],
    ids=repr,
)
def test_any_batch(block, engine):
    for images in (1, 3):
        compare(place(block, SHAPE, 7), engine, batch=None, images=images)


def test_a_fixed_batch(engine):
    compare(place(blocks.ShuffleV2Unit(8), SHAPE), engine, batch=2, images=2)


FAMILIES = [family.names()[0] for family in zoo.families()]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network(name, engine):
    resolution = (64, 48) if name != "vgg16" else 32
    arch = zoo.load(name, resolution=resolution)
    weights = onnx_export.init(arch, np.random.default_rng(0), 10)
    model = onnx_export.export(arch, weights=weights, classes=10)
    placed = walk(arch, classes=10)
    x = inputs(placed[0].in_shape)
    expected = reference.run(placed, onnx_export.block_names(arch), weights, x)
    assert_close(engines.run(model, x, engine), expected)


def test_the_output_depends_on_the_image_through_all_of_a_network():
    arch = zoo.load("pplcnet_0.5x", resolution=64)
    model = onnx_export.export(arch)
    y = [engines.run(model, inputs((64, 64, 3), seed=seed)) for seed in range(2)]
    assert np.isfinite(y).all()
    assert np.abs(y[0] - y[1]).max() > 0.1 * np.abs(y[0]).max()


# -- pooling ---------------------------------------------------------------------------------------


def placed_layer(layer, shape):
    return PlacedBlock(
        blocks.GhostModule(2), shape, layer.out_shape(shape), layer, depends_on_classes=False
    )


POOLS = [
    layers.Pool(mode, kernel, stride, padding, ceil)
    for mode, kernel, stride, padding, ceil in itertools.product(
        ("max", "avg"),
        ((2, 2), (3, 2)),
        ((1, 1), (2, 3)),
        ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0)),
        (False, True),
    )
]


@pytest.mark.parametrize("size", [(4, 5), (5, 7), (6, 6)], ids=str)
def test_pools_round_and_pad_as_the_layer_says(size):
    for pool in POOLS:
        compare(placed_layer(pool, (*size, 2)), "mlas")


def test_a_window_that_starts_in_the_padding_behind_is_dropped(engine):
    for mode in ("max", "avg"):
        pool = layers.Pool(mode, (2, 2), (2, 2), (1, 1, 1, 1), ceil=True)
        assert pool.out_shape((4, 4, 2)) == (3, 3, 2)
        assert pool.out_shape((5, 5, 2)) == (3, 3, 2)  # 4 windows, of which the last is padding
        compare(placed_layer(pool, (4, 4, 2)), engine)
        compare(placed_layer(pool, (5, 5, 2)), engine)


# -- trees of layers that no block of the vocabulary has --------------------------------------------

IDENTITY = layers.Identity()
TREES = [
    IDENTITY,
    layers.Dropout(0.5),
    layers.Chain(()),
    layers.BatchNorm(),
    layers.Chain((layers.BatchNorm(), layers.Act("silu"), layers.Dropout(0.1))),
    layers.SqueezeExcite(3, act="gelu", gate="sigmoid"),
    layers.Concat((IDENTITY,)),
    layers.Concat((IDENTITY, IDENTITY)),
    layers.Add((IDENTITY, IDENTITY), "relu"),
    layers.Add((IDENTITY,), "hard_sigmoid"),
    layers.Add((layers.Conv(8), IDENTITY, layers.Conv(8, bias=True))),
    layers.Split((8,), (layers.Conv(3),)),
    layers.Split((3, 5), (IDENTITY, IDENTITY)),
    layers.Split((3, 5), (layers.Conv(2), layers.Split((1, 4), (IDENTITY, layers.Conv(2))))),
    layers.Chain((layers.Split((6, 2), (IDENTITY, layers.Conv(1))), layers.ChannelShuffle(7))),
    layers.Concat((layers.Concat((IDENTITY, layers.Conv(2))), layers.Conv(1))),
    layers.Chain((layers.Flatten(), layers.Linear(6, "gelu"), layers.Flatten(), layers.Linear(2))),
    layers.Chain((layers.Flatten(),)),
    layers.Chain((layers.GlobalPool(), layers.LocalResponseNorm(3, 0.5, 0.6, 2.0))),
]


@pytest.mark.parametrize("tree", TREES, ids=lambda t: str(TREES.index(t)))
def test_a_tree_of_layers(tree, engine):
    compare(placed_layer(tree, (4, 3, 8)), engine)


def test_nested_joins_are_one_node():
    block = place(blocks.HGBlock(8, 2, depth=5), (4, 4, 8))
    kinds = [node.op_type for node in onnx_export.graph(block).graph.node]
    assert kinds.count("Concat") == 1
