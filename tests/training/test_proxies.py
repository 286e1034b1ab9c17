"""Zero-cost scores: hand-made oracles, and gradients against JAX's."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lcnas import blocks, cost, models, onnx_export, zoo
from lcnas.arch import Arch, place
from lcnas.errors import TrainingError
from lcnas.models import layouts, units
from lcnas.training import losses, proxies
from lcnas.training.functional import Functional
from lcnas.training.proxies import _formulas, _network
from tests.onnx_export.cases import BLOCKS, SHAPE
from tests.training import tiny

CLASSES = 5


def sample_images(n=8, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, side, side, 3), np.float32), rng.integers(CLASSES, size=n)


def small(act="hard_swish", se=True):
    return Arch.of(
        {
            "stem": [blocks.ConvNormAct(8, stride=2, act=act)],
            "body": [
                blocks.DepthwiseSeparable(8, act=act, se=se, branches=(3, 0)),
                blocks.UniversalInvertedBottleneck(8, shortcut=True, stride=1),
            ],
            "head": [blocks.Classifier(16, act=act, dropout=0.0)],
        },
        8,
    )


# -- passes ----------------------------------------------------------------------------------------


def block_pass(block, x, weights):
    """Return a block's output, way back and kernel gradients, of images (n, height, width, channels)."""
    network_pass = _network.Pass(weights)
    y, back = network_pass.layer(place(block, SHAPE, 7).layer, x.transpose(3, 1, 2, 0), "0")
    return y, back, network_pass.gradients


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_gradients_of_each_block_are_its_slopes(block):
    rng = np.random.default_rng(3)
    drawn = onnx_export.init(place(block, SHAPE, 7), rng)
    weights = {name: w.astype(np.float64) for name, w in drawn.items()}
    x = rng.normal(size=(2, *SHAPE))
    y, back, gradients = block_pass(block, x, weights)
    dy = rng.normal(size=y.shape)
    by_x = back(dy).transpose(3, 1, 2, 0)
    assert set(gradients) == {name for name in weights if name.endswith("/kernel")}
    ways = {name: rng.normal(size=w.shape) * 0.1 for name, w in weights.items()}
    ways = {name: way * name.endswith("/kernel") for name, way in ways.items()}
    x_way = rng.normal(size=x.shape)

    def value(t):
        moved = {name: w + t * ways[name] for name, w in weights.items()}
        return float((block_pass(block, x + t * x_way, moved)[0] * dy).sum())

    step = 1e-6
    slope = (value(step) - value(-step)) / (2 * step)
    known = float((by_x * x_way).sum()) + sum(
        float((g * ways[name]).sum()) for name, g in gradients.items()
    )
    assert known == pytest.approx(slope, rel=2e-4, abs=2e-4)


@pytest.mark.parametrize(
    "block",
    [
        blocks.DepthwiseSeparable(6, kernel=5, stride=2, se=True, branches=(5, 3, 1)),
        blocks.ShuffleV1Unit(16, groups=2, first_groups=1, stride=2),
        blocks.HGStem(8, 4),
        blocks.Pool(mode="avg", kernel=3, stride=2, ceil=True),
    ],
    ids=repr,
)
def test_a_block_computes_what_jax_computes_in_training(block):
    placed = place(block, SHAPE, 7)
    weights = onnx_export.init(placed, np.random.default_rng(3))
    x = np.random.default_rng(1).standard_normal((3, *SHAPE), np.float32)
    options = units.NetworkOptions(layouts.LAYOUTS["NHWC"], jnp.float32, None)
    unit = units.unit(placed.layer, SHAPE, options, nnx.Rngs(0))
    state = nnx.to_flat_state(nnx.state(unit, (nnx.Param, nnx.BatchStat)))
    for path, variable in state:
        variable[...] = jnp.asarray(weights[f"0/{models.weight_name(path)}"])
    nnx.update(unit, nnx.from_flat_state(state))
    graph, held = nnx.split(unit)
    with tiny.quick_compiling():
        jax_output = jax.jit(lambda held, x: nnx.merge(graph, held)(x))(held, x)
    ours, _, _ = block_pass(block, x, weights)
    np.testing.assert_allclose(ours.transpose(3, 1, 2, 0), jax_output, rtol=1e-4, atol=1e-4)


def jax_gradients(arch, weights):
    """Return ``(images, labels) -> logits, gradient of the mean cross entropy by each kernel``, by JAX."""
    model = models.build(arch, CLASSES)
    model.set_weights(weights)
    function = Functional.of(model)
    params, stats = function.split({name: jnp.asarray(w) for name, w in weights.items()})

    def loss(params, images, labels):
        logits, _ = function.train(params, stats, images, jax.random.key(0))
        return losses.cross_entropy(logits, jax.nn.one_hot(labels, CLASSES)).mean(), logits

    compiled = jax.jit(jax.grad(loss, has_aux=True))

    def gradients(images, labels):
        with tiny.quick_compiling():
            by_weight, logits = compiled(params, jnp.asarray(images), jnp.asarray(labels))
        return logits, {n: np.asarray(g) for n, g in by_weight.items() if n.endswith("/kernel")}

    return gradients


def test_a_network_gives_what_jax_gives_and_scores_rest_on_it():
    arch, (images, labels) = small(), sample_images()
    weights = _network.drawn(arch, CLASSES, np.random.default_rng(4))
    gradients, batches = jax_gradients(arch, weights), []
    for part in (slice(0, 4), slice(4, 8)):
        logits, jax_batch = gradients(images[part], labels[part])
        network_pass = _network.Pass(weights)
        ours, back = network_pass.run(arch, CLASSES, images[part])
        back(_formulas.cross_entropy_gradient(ours, labels[part]))
        np.testing.assert_allclose(ours, logits, rtol=1e-3, atol=1e-4)
        assert set(network_pass.gradients) == set(jax_batch)
        for name, g in jax_batch.items():
            scale = float(np.abs(g).max())
            np.testing.assert_allclose(
                network_pass.gradients[name], g, rtol=0, atol=2e-3 * scale + 1e-7
            )
        batches.append(jax_batch)
    scores = proxies.scores(arch, images, labels, classes=CLASSES, seed=4)
    norms = [sum(float(np.sqrt((g**2).sum())) for g in batch.values()) for batch in batches]
    assert scores["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-3)
    assert scores["zico"] == pytest.approx(_formulas.zico(batches), rel=2e-2)


def test_initial_weights_have_the_names_and_the_spread_of_models():
    arch = zoo.load("pplcnet_0.25x", 32)
    ours = _network.drawn(arch, 10, np.random.default_rng(0))
    jax_weights = models.build(arch, 10).weights()
    assert list(ours) == list(jax_weights)
    for name, w in jax_weights.items():
        assert ours[name].shape == w.shape
        assert ours[name].dtype == np.float32
        if w.size < 500:
            continue
        assert ours[name].std() == pytest.approx(w.std(), rel=0.2), name
    for kind in ("scale", "shift", "bias", "mean", "var"):
        for name in ours:
            if name.endswith(kind):
                np.testing.assert_array_equal(ours[name], jax_weights[name])


# -- synflow ---------------------------------------------------------------------------------------


def test_synflow_of_a_linear_network_by_hand():
    # Two layers over one value of three channels: R = sum |B|' |A|' 1, and each layer's saliency sums to R.
    arch = Arch.of({"only": [blocks.ConvNormAct(4, kernel=1)], "head": [blocks.DenseHead()]}, 1)
    weights = _network.drawn(arch, CLASSES, np.random.default_rng(7))
    a = np.abs(weights["only/kernel"][0, 0].astype(np.float64))
    (name,) = [n for n in weights if n.startswith("head") and n.endswith("kernel")]
    b = np.abs(weights[name].astype(np.float64))
    total = float((np.ones(3) @ a @ b).sum())
    scores = proxies.scores(arch, *sample_images(4, 1), classes=CLASSES, seed=7, names=["synflow"])
    assert scores["synflow"] == pytest.approx(math.log(2 * total), rel=1e-9)


def test_synflow_of_a_chain_counts_each_layer_alike():
    # Euler's theorem: R is homogeneous of degree 1 in the weights of each layer of a chain.
    arch = zoo.load("pplcnet_0.25x", 32)
    weights = _network.drawn(arch, CLASSES, np.random.default_rng(0))
    positive = {name: np.abs(w.astype(np.float64)) for name, w in weights.items()}
    network_pass = _network.Pass(positive, linear=True)
    logits, back = network_pass.run(arch, CLASSES, np.ones((1, 32, 32, 3)))
    back(np.ones_like(logits))
    for name, g in network_pass.gradients.items():
        assert float((g * positive[name]).sum()) == pytest.approx(float(logits.sum()), rel=1e-9)
    assert len(network_pass.gradients) == 1 + 2 * 13 + 1 + 1  # no squeeze-and-excite among them


def test_synflow_sees_no_image_and_no_activation():
    images, labels = sample_images()
    others, other_labels = sample_images(seed=1)
    scores = proxies.scores(small(), images, labels, classes=CLASSES, names=["synflow"])
    same = proxies.scores(small(), others, other_labels, classes=CLASSES, names=["synflow"])
    assert scores == same
    relu = proxies.scores(small("relu"), images, labels, classes=CLASSES, names=["synflow"])
    assert scores["synflow"] == relu["synflow"]
    deeper = proxies.scores(
        zoo.load("pplcnet_1.0x", 32), images, labels, classes=CLASSES, names=["synflow"]
    )
    assert deeper["synflow"] > scores["synflow"]


# -- patterns --------------------------------------------------------------------------------------


def some_patterns(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((units, n)) > 0.5 for units in (40, 3, 17)]


def test_naswot_is_the_log_determinant_of_agreements():
    patterns = some_patterns()
    codes = np.concatenate(patterns).T
    kernel = np.array([[(a == b).sum() for b in codes] for a in codes])
    np.testing.assert_array_equal(_formulas.hamming_kernel(patterns), kernel)
    assert _formulas.naswot(patterns) == pytest.approx(math.log(np.linalg.det(kernel)), rel=1e-9)


def test_naswot_of_two_images_alike_is_minus_infinity():
    images, labels = sample_images(4)
    images[1] = images[0]
    scores = proxies.scores(small(), images, labels, classes=CLASSES, names=["naswot"])
    assert scores["naswot"] == -math.inf


@pytest.mark.parametrize("n", [5, 8, 64, 70])
def test_swap_counts_distinct_rows(n):
    rng = np.random.default_rng(n)
    rows = rng.random((12, n)) > 0.5
    patterns = [rows[rng.integers(12, size=count)] for count in (30, 2, 9)]
    distinct = {tuple(row) for pattern in patterns for row in pattern.tolist()}
    assert 1 < len(distinct) <= 12
    assert _formulas.swap(patterns) == len(distinct)


@pytest.mark.parametrize("act", _network.SIGNED)
def test_patterns_are_the_signs_of_what_goes_into_activations(act):
    arch = Arch.of(
        {
            "stem": [blocks.ConvNormAct(4, kernel=1, norm=False, act=act)],
            "head": [blocks.DenseHead()],
        },
        3,
    )
    images, _ = sample_images(4, 3)
    network_pass = _network.Pass(_network.drawn(arch, CLASSES, np.random.default_rng(0)))
    network_pass.run(arch, CLASSES, images)
    before = images @ network_pass.weights["stem/kernel"][0, 0]  # (n, height, width, 4)
    (pattern,) = network_pass.patterns
    np.testing.assert_array_equal(pattern, before.transpose(3, 1, 2, 0).reshape(-1, 4) > 0)


def test_gates_and_identities_have_no_patterns():
    network_pass = _network.Pass(_network.drawn(small(), CLASSES, np.random.default_rng(0)))
    images, _ = sample_images(4)
    network_pass.run(small(), CLASSES, images)
    without_se = _network.Pass(_network.drawn(small(se=False), CLASSES, np.random.default_rng(0)))
    without_se.run(small(se=False), CLASSES, images)
    (hidden,) = [p for p in network_pass.patterns if len(p) == 2]  # 8 channels reduced to 2
    assert hidden.shape == (2, 4)
    assert len(network_pass.patterns) == len(without_se.patterns) + 1


# -- gradients -------------------------------------------------------------------------------------


def test_zico_by_loops():
    rng = np.random.default_rng(0)
    batches = [{"a": rng.normal(size=(2, 3)), "b": rng.normal(size=4)} for _ in range(3)]
    for batch in batches:
        batch["a"][1, 2] = 0.5  # never moves, so it has no say
        batch["c"] = np.full(3, 2.0)  # nor has this layer
    total = 0.0
    for name, shape in (("a", (2, 3)), ("b", (4,))):
        layer = 0.0
        for index in itertools.product(*map(range, shape)):
            values = [float(batch[name][index]) for batch in batches]
            mean = sum(values) / 3
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 3)
            if deviation:
                layer += sum(map(abs, values)) / 3 / deviation
        total += math.log(layer)
    assert _formulas.zico(batches) == pytest.approx(total, rel=1e-12)


def test_gradient_norm_adds_layers_and_averages_batches():
    batches = [
        {"a": np.array([3.0, 4.0]), "b": np.array([[2.0]])},
        {"a": np.zeros(2), "b": np.ones((1, 1))},
    ]
    assert _formulas.gradient_norm(batches) == (5 + 2 + 0 + 1) / 2


# -- scores ----------------------------------------------------------------------------------------


def test_the_trivial_scores_are_always_there():
    arch, (images, labels) = zoo.load("pplcnet_0.25x"), sample_images(4, 32)
    scores = proxies.scores(arch, images, labels, classes=CLASSES, names=["swap"])
    assert list(scores) == ["swap", "params", "macs"]
    assert scores["params"] == cost.params(arch, CLASSES)
    assert scores["macs"] == cost.macs(arch, 224, CLASSES)  # deployed at 224, seen at 32 pixels


def test_scores_depend_on_the_seed_alone():
    images, labels = sample_images()
    scores, again, other = (
        proxies.scores(small(), images, labels, classes=CLASSES, seed=s) for s in (1, 1, 2)
    )
    assert scores == again
    assert list(scores) == list(proxies.NAMES)
    for name in set(proxies.NAMES) - set(proxies.TRIVIAL):
        assert scores[name] != other[name], name
    assert all(map(math.isfinite, scores.values()))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"names": ["zic"]}, "did you mean 'zico'"),
        ({"batches": 3}, "2 equal parts of 8 images"),
        ({"batches": 1}, "at least 2"),
        ({"labels": np.full(8, CLASSES)}, "labels from 0 to 4"),
        ({"labels": np.full(8, -1)}, "labels from 0 to 4"),
        ({"labels": np.zeros(7, int)}, "8 images need as many labels"),
        ({"images": np.zeros((8, 8, 8, 3), np.uint8)}, "of floats"),
    ],
)
def test_what_does_not_fit_is_refused(changes, complaint):
    images, labels = sample_images()
    arguments = {"images": images, "labels": labels, "classes": CLASSES, **changes}
    with pytest.raises(TrainingError, match=complaint):
        proxies.scores(small(), arguments.pop("images"), arguments.pop("labels"), **arguments)


def test_a_network_without_a_head_is_refused():
    arch = Arch.of({"stem": [blocks.ConvNormAct(4)]}, 8)
    with pytest.raises(TrainingError, match="gives a map"):
        proxies.scores(arch, *sample_images(), classes=CLASSES)
