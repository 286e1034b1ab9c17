"""Names of weights, random weights, folding and merging."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lcnas import blocks, cost, layers, onnx_export, zoo
from lcnas.arch import Arch, place, walk
from lcnas.errors import ExportError

from . import reference
from .cases import BLOCKS, SHAPE


def rng(seed=0):
    return np.random.default_rng(seed)


def test_names_of_a_network():
    arch = zoo.load("pplcnet_0.25x", resolution=64)
    shapes = onnx_export.names(arch, classes=10)
    assert list(shapes)[:6] == [
        "stem/kernel",
        "stem/scale",
        "stem/shift",
        "stem/mean",
        "stem/var",
        "stage1/0/kernel",
    ]
    assert shapes["stage1/0/kernel"] == (3, 3, 1, 8)
    assert shapes["stage5_block_2/1/reduce/kernel"] == (1, 1, 128, 32)
    assert shapes["stage5_block_2/1/expand/bias"] == (128,)
    assert shapes["stage5_block_2/2/kernel"] == (1, 1, 128, 128)
    assert list(shapes)[-2:] == ["head/4/kernel", "head/4/bias"]
    assert shapes["head/4/kernel"] == (1280, 10)


def test_names_of_branches_and_affines():
    block = blocks.ConvNormAct(4, kernel=3, branches=(3, 0), affine=True)
    norm = ["scale", "shift", "mean", "var"]
    assert onnx_export.names(place(block, (5, 5, 4))) == {
        "0/branch0/kernel": (3, 3, 4, 4),
        **{f"0/branch0/{n}": (4,) for n in norm},
        **{f"0/branch1/{n}": (4,) for n in norm},
        "0/gain": (),
        "0/offset": (),
    }


def test_the_resolution_matters_where_pixels_are_flattened():
    arch = zoo.load("vgg16")
    assert onnx_export.names(arch, resolution=64)["head/1/kernel"] == (4 * 512, 4096)


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_names_are_all_trained_weights_and_the_statistics(block):
    placed = place(block, SHAPE, 7)
    shapes = onnx_export.names(placed)
    trained = [s for name, s in shapes.items() if name.split("/")[-1] not in ("mean", "var")]
    weights = onnx_export.init(placed, rng())
    assert list(weights) == list(shapes)
    assert {name: w.shape for name, w in weights.items()} == shapes
    assert all(w.dtype == np.float32 and isinstance(w, np.ndarray) for w in weights.values())
    counted = [cost._params(leaf, x, True) for leaf, x, _ in layers.visit(placed.layer, SHAPE)]
    assert sum(int(np.prod(s)) for s in trained) == sum(counted)
    folded = onnx_export.fold(placed, weights)
    assert all(w.dtype == np.float32 for w in folded.values())
    assert not [name for name in folded if name.endswith(("/mean", "/var"))]


@pytest.mark.parametrize("name", ["pplcnet_v2_base", "hgnet_v2_b0", "googlenet", "mixnet_s"])
def test_the_count_of_a_network_is_that_of_its_costs(name):
    arch = zoo.load(name)
    shapes = onnx_export.names(arch)
    trained = [s for n, s in shapes.items() if not n.endswith(("/mean", "/var"))]
    assert sum(int(np.prod(s)) for s in trained) == cost.params(arch, training=True)


def test_blocks_that_would_share_a_name_are_named_by_index():
    conv = blocks.ConvNormAct(4)
    arch = Arch.of({"a": [conv, conv], "a block 2": [conv], "b/ö": [conv]}, 8)
    assert onnx_export.block_names(arch) == ("0", "1", "2", "3")
    other = Arch.of({"a": [conv, conv], "b/ö": [conv]}, 8)
    assert onnx_export.block_names(other) == ("a_block_1", "a_block_2", "b_ö")


def test_random_weights_follow_the_seed():
    placed = place(blocks.DepthwiseSeparable(8, se=True), SHAPE)
    a, b, c = (onnx_export.init(placed, rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not any(np.array_equal(a[n], c[n]) for n in a)


@pytest.mark.parametrize(
    "block",
    [
        blocks.DepthwiseSeparable(32),
        blocks.DepthwiseSeparable(32, se=True, kernel=5),
        blocks.MBConv(32, shortcut=True),
        blocks.ExpandCompress(32, shortcut=True, branches=(3, 1, 0)),
        blocks.ConvNormAct(32, norm=False),
    ],
    ids=repr,
)
def test_signals_stay_finite_and_alive_through_25_blocks(block):
    placed = [place(block, (8, 8, 32))] * 25
    weights = onnx_export.init(placed, rng())
    names = [str(i) for i in range(25)]
    x = rng(1).normal(size=(2, 32, 8, 8))
    y = reference.run(placed, names, weights, x)
    assert 0.01 < y.std() < 1e6
    assert np.abs(y[0] - y[1]).max() > 1e-3 * np.abs(y).max()


# -- folding and merging ---------------------------------------------------------------------------

REPARAMS = [
    blocks.ConvNormAct(4, kernel=5, branches=(5, 3, 1, 0)),
    blocks.ConvNormAct(6, kernel=3, stride=2, branches=(3, 1), groups=2),
    blocks.ConvNormAct(4, kernel=4, branches=(4, 2)),
    blocks.ConvNormAct(4, kernel=5, padding=(3, 2, 2, 4), branches=(5, 3, 1)),
    blocks.ConvNormAct(4, kernel=7, groups=0, branches=(7, 5, 3, 3, 0)),
    blocks.ConvNormAct(4, kernel=3, groups=2, branches=(3, 0)),
    blocks.ConvNormAct(4, kernel=3, padding=(0, 2, 2, 0), branches=(3, 0)),
    blocks.ConvNormAct(4, kernel=2, branches=(2, 0)),
]


@pytest.mark.parametrize("block", REPARAMS, ids=repr)
def test_the_merged_convolution_is_the_sum_of_the_branches(block):
    """In float64, so to rounding."""
    x = rng(1).normal(size=(7, 8, 4))
    layer: Any = place(block, x.shape).layer
    weights = onnx_export.init(place(block, x.shape), rng())
    branches = [
        {n.split("/")[-1]: w for n, w in weights.items() if n.startswith(f"0/branch{i}/")}
        for i in range(len(layer.branches))
    ]
    kernel, bias = onnx_export.merge(layer, 4, branches)
    merged = layer.merged
    y = reference.convolve(x, kernel, merged.stride, merged.padding, merged.groups) + bias
    expected = reference.Reference(weights).run(layer, x, "0")
    np.testing.assert_allclose(np.maximum(y, 0), expected, rtol=1e-12, atol=1e-12)


def test_branches_of_a_convolution_that_is_not_square():
    merged = layers.Conv(4, (5, 3), (1, 2), (2, 2, 1, 1), groups=2)
    tall = layers.Conv(4, (5, 1), (1, 2), (2, 2, 0, 0), groups=2)
    layer = layers.Reparam(merged, (merged, tall, layers.Conv(4, (3, 3), (1, 2), (1,) * 4, 2)))
    x = rng(1).normal(size=(7, 8, 4))
    weights = [
        {"kernel": rng(i).normal(size=(*b.kernel, 2, 4)), **norm_of(4, i)}
        for i, b in enumerate(layer.branches)
        if isinstance(b, layers.Conv)
    ]
    kernel, bias = onnx_export.merge(layer, 4, weights)
    named = {
        f"c/branch{i}/{n}": w
        for i, branch_weights in enumerate(weights)
        for n, w in branch_weights.items()
    }
    assert bias is not None
    y = reference.convolve(x, kernel, merged.stride, merged.padding, 2) + bias
    np.testing.assert_allclose(y, reference.Reference(named).run(layer, x, "c"), atol=1e-12)


def norm_of(channels, seed):
    draw = rng(100 + seed)
    names = ("scale", "shift", "mean", "var")
    return {name: draw.uniform(0.5, 1.5, channels) for name in names}


def test_a_folded_norm_is_the_norm():
    x = rng(1).normal(size=(5, 5, 3))
    conv = layers.Conv(4, (3, 3), bias=True)
    placed = place(blocks.Classifier(4, bias=True, norm=True, act="identity"), x.shape)
    weights = onnx_export.init(placed, rng())
    conv_weights = {n.split("/")[-1]: w for n, w in weights.items() if n.startswith("0/1/")}
    conv_weights["kernel"] = rng(2).normal(size=(3, 3, 3, 4)).astype(np.float32)
    kernel, bias = onnx_export.fold_conv(conv, conv_weights)
    assert bias is not None
    y = reference.convolve(x, kernel, (1, 1), (0, 0, 0, 0), 1) + bias
    named = {f"c/{name}": w for name, w in conv_weights.items()}
    np.testing.assert_allclose(y, reference.Reference(named).conv(conv, x, "c"), atol=1e-12)


def test_folding_leaves_one_kernel_and_one_bias_of_each_convolution():
    placed = place(blocks.DepthwiseSeparable(8, se=True, branches=(3, 1, 0)), SHAPE)
    weights = onnx_export.init(placed, rng())
    before = {name: w.copy() for name, w in weights.items()}
    folded = onnx_export.fold(placed, weights)
    assert {name: w.shape for name, w in folded.items()} == {
        "0/0/kernel": (3, 3, 1, 8),
        "0/0/bias": (8,),
        "0/1/reduce/kernel": (1, 1, 8, 2),
        "0/1/reduce/bias": (2,),
        "0/1/expand/kernel": (1, 1, 2, 8),
        "0/1/expand/bias": (8,),
        "0/2/kernel": (1, 1, 8, 8),
        "0/2/bias": (8,),
    }
    assert all(np.array_equal(before[name], weights[name]) for name in before)


def test_a_branch_that_cannot_be_merged_is_refused():
    merged = layers.Conv(4, (3, 3), padding=(1, 1, 1, 1))
    for branch in (
        layers.Conv(4, (3, 3), padding=(0, 2, 1, 1)),
        layers.Conv(4, (5, 5), padding=(2, 2, 2, 2)),
        layers.Conv(4, (1, 1), padding=(3, 0, 0, 0)),
        layers.Conv(4, (3, 3), padding=(1, 1, 1, 1), groups=2),
        layers.Conv(4, (3, 3), (2, 2), padding=(1, 1, 1, 1)),
        layers.Conv(4, (3, 3), padding=(1, 1, 1, 1), act="relu"),
        layers.Conv(4, (3, 3), padding=(1, 1, 1, 1), affine=True),
    ):
        weights: dict[str, Any] = {
            "kernel": np.ones((*branch.kernel, 4 // branch.groups, 4), np.float32)
        }
        weights |= dict.fromkeys(("scale", "shift", "mean", "var"), np.ones(4, np.float32))
        with pytest.raises(ExportError, match=r"branch 0 .* cannot be merged"):
            onnx_export.merge(layers.Reparam(merged, (branch,)), 4, [weights])


# -- check of weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def block_and_weights():
    placed = place(blocks.DepthwiseSeparable(8), (4, 4, 2))
    return placed, onnx_export.init(placed, rng())


def error_of(block_and_weights, weights):
    placed, _ = block_and_weights
    with pytest.raises(ExportError) as error:
        onnx_export.graph(placed, weights=weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_and_unexpected_weights_are_named(block_and_weights):
    _, weights = block_and_weights
    less = {name: w for name, w in weights.items() if name != "0/1/kernel"}
    assert error_of(block_and_weights, less) == "weights: missing '0/1/kernel'"
    message = error_of(block_and_weights, {**less, "0/1/kernle": weights["0/1/kernel"]})
    assert "no '0/1/kernle'; did you mean '0/1/kernel'?" in message
    message = error_of(block_and_weights, {})
    assert message.startswith("weights: missing '0/0/kernel', '0/0/scale'")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0/1/kernel", np.ones((8, 2), np.float32), r"has the shape (8, 2), not (1, 1, 2, 8)"),
        ("0/1/scale", np.ones(8), "is float64, not float32"),
        ("0/1/scale", np.full(8, np.nan, np.float32), "not finite"),
        ("0/1/var", np.full(8, -1, np.float32), "negative"),
        ("0/1/mean", [[1.0], [2.0, 3.0]], "is not an array of numbers"),
    ],
)
def test_weights_that_do_not_fit_are_named(block_and_weights, name, value, message):
    _, weights = block_and_weights
    error = error_of(block_and_weights, {**weights, name: value})
    assert repr(name) in error
    assert message in error


def test_weights_are_used_in_any_order(block_and_weights):
    placed, weights = block_and_weights
    model = onnx_export.graph(placed, weights=weights)
    in_reverse = dict(reversed(list(weights.items())))
    assert model == onnx_export.graph(placed, weights=in_reverse)
    assert model != onnx_export.graph(placed, seed=5)
    arch = zoo.load("pplcnet_0.25x", resolution=32)
    assert len(walk(arch)) == len(onnx_export.block_names(arch))
