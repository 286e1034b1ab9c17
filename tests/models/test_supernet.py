"""Masked networks against the same networks cut out and built alone; masked weights against random ones."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcnas import models, onnx_export, spaces, zoo
from lcnas.arch import Arch, Stage
from lcnas.errors import ModelError
from lcnas.models.supernet import Drop, Supernet, maskable, narrowed, stacked
from lcnas.training.functional import Functional
from tests.training.tiny import quick_compiling

SIDE, CLASSES, BATCH = 12, 3, 6

# All that may vary: widths, depth, kernel, SE and activation, with and without the last convolution.
TINY = """
version = 1
resolution = [32]

[network.act]
choices = ["relu", "hard_swish"]

[stem]
block = "conv"
width = { choices = [4, 8] }
kernel = 3
stride = 2
act = { gene = "act" }

[[stages]]
block = "depthwise_separable"
depth = 1
stride = 1
width = { choices = [4, 12] }
kernel = { choices = [3, 5], per = "block" }
se = { choices = [false, true], per = "block" }
act = { gene = "act" }

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [6, 8, 16] }
kernel = { choices = [3, 5], per = "block" }
se = { choices = [false, true], per = "block" }
act = { gene = "act" }

[head]
block = "classifier"
width = { choices = [0, 10, 20] }
act = { gene = "act" }
"""


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with quick_compiling():
        yield


@functools.cache
def tiny():
    return spaces.loads(TINY, "tiny")


@functools.cache
def supernet():
    return Supernet.of(tiny(), CLASSES, resolution=SIDE, buckets=2)


def images(seed=0, n=BATCH):
    values = np.random.default_rng(seed).normal(size=(n, SIDE, SIDE, 3))
    return jnp.asarray(values, jnp.float32)


def networks(n=3, seed=0):
    """Networks of the space, the smallest and the largest among them."""
    space, rng = tiny(), np.random.default_rng(seed)
    last = np.array([[len(gene.choices) - 1 for gene in space.genes]])
    return [
        *space.decode(np.concatenate([0 * last, last])),
        *space.decode(space.sample_codes(n, rng)),
    ]


def noisy(weights, seed=1):
    """Weights nothing of which is 0 or 1, as training starts norms and biases."""
    rng = np.random.default_rng(seed)
    return {n: w + 0.2 * rng.normal(size=w.shape).astype(np.float32) for n, w in weights.items()}


def statistics(shapes, seed=2):
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in shapes.items()
        if name.endswith(("/mean", "/var"))
    }


@functools.cache
def compiled():
    """Values and gradients in training and values in evaluation, compiled once for all tests."""
    net = supernet()

    def loss(weights, active, images):
        logits, moments = net.apply(weights, None, active, images)
        return jnp.sum(logits * jnp.cos(jnp.arange(CLASSES, dtype=jnp.float32))[None]), moments

    def tested(weights, stats, active, images):
        return net.apply(weights, stats, active, images)[0]

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), jax.jit(tested)


@functools.cache
def weights():
    return noisy(supernet().init(0))


def close(ours, theirs, tolerance=1e-4):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-30)


def alone(arch, stats):
    """A network built by itself with the weights cut out for it: its function, weights, statistics."""
    model = models.build(arch, CLASSES)
    model.set_weights(supernet().cut(weights(), stats, arch))
    own = Functional.of(model)
    return own, *jax.tree.map(jnp.asarray, own.split(model.weights()))


# -- a network cut out -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(5))
def test_cut_gives_the_same_outputs(number):
    net, arch = supernet(), networks()[number]
    stats = statistics(net.buckets[-1].shapes)
    own, *parts = alone(arch, stats)
    _, tested = compiled()
    close(
        tested(weights(), stats, net.active(arch), images()),
        jax.jit(own.test)(*parts, images()),
    )


def test_training_mode_gives_the_batch_statistics_of_the_network_alone():
    net, (_, train) = supernet(), (None, compiled()[0])
    arch = next(a for a in networks(30) if a.blocks[-1].width == 0 and len(a.blocks) == 5)
    (_, moments), _ = train(weights(), net.active(arch), images())
    own, params, stats = alone(arch, moments)
    _, after = jax.jit(own.train)(params, stats, images(), jax.random.key(0))
    assert len(stats) > 5
    for name, before in stats.items():  # what they move toward is what they are
        close(after[name], before, 1e-4)


def test_kernels_of_three_are_the_middle_of_five():
    net = supernet()
    arch = next(a for a in networks() if a.blocks[1].kernel == 3)
    cut = net.cut(weights(), statistics(net.buckets[-1].shapes), arch)
    mine = cut[next(n for n in cut if n.startswith("stage1/0/kernel"))]
    np.testing.assert_array_equal(mine, weights()["stage1/0/kernel"][1:4, 1:4, :, : mine.shape[3]])


def test_the_hidden_width_of_se_follows_the_active_width():
    net = supernet()
    for arch in networks(20):
        active = net.active(arch)
        blocks = arch.blocks[1:-1]
        incoming = [arch.blocks[0].width, *(b.width for b in blocks)]
        expected = [max(1, c // 4) if b.se else 0 for b, c in zip(blocks, incoming, strict=False)]
        assert active.hidden[: len(blocks)].tolist() == expected


# -- what is masked does not matter ----------------------------------------------------------------


def used(net, arch):
    """Ones where a network's own weights lie, zeros elsewhere."""
    marks = {name: np.zeros(shape, np.float32) for name, shape in net.params.items()}
    # Weights that hold their own index show where a cut-out value comes from.
    at = 0
    numbered = {}
    for name, shape in net.buckets[-1].shapes.items():
        size = int(np.prod(shape))
        numbered[name] = np.arange(at, at + size, dtype=np.float32).reshape(shape)
        at += size
    weights_of_arch = net.cut({n: numbered[n] for n in net.params}, numbered, arch)
    values = np.concatenate([w.ravel() for w in weights_of_arch.values()])
    for name, mark in marks.items():
        mark[np.isin(numbered[name], values)] = 1
    return marks


@pytest.mark.parametrize("number", range(5))
def test_random_numbers_in_the_masked_weights_change_nothing(number):
    net, arch = supernet(), networks()[number]
    marks, rng = used(net, arch), np.random.default_rng(5)
    other = {
        name: np.where(marks[name] > 0, w, 30 * rng.normal(size=w.shape)).astype(np.float32)
        for name, w in weights().items()
    }
    train, tested = compiled()
    active = net.active(arch)
    (value, _), gradient = train(weights(), active, images())
    (again, _), changed = train(other, active, images())
    assert float(value) == float(again)
    for name, mark in marks.items():
        np.testing.assert_array_equal(gradient[name] * mark, changed[name] * mark, err_msg=name)
        assert not np.any(np.asarray(changed[name]) * (1 - mark)), name
    assert sum(np.any(np.asarray(g)) for g in gradient.values()) > 5
    stats = statistics(net.buckets[-1].shapes)
    values = [tested(w, stats, active, images()) for w in (weights(), other)]
    np.testing.assert_array_equal(*values)


def test_the_gradient_is_that_of_the_network_alone():
    net = supernet()
    arch = next(
        a for a in networks(40) if a.blocks[-1].width == 0 and any(b.se for b in a.blocks[1:-1])
    )
    train, _ = compiled()
    (_, moments), gradient = train(weights(), net.active(arch), images())
    own, params, stats = alone(arch, moments)

    @jax.jit
    @jax.grad
    def loss(params):
        logits, _ = own.train(params, stats, images(), jax.random.key(0))
        return jnp.sum(logits * jnp.cos(jnp.arange(CLASSES, dtype=jnp.float32))[None])

    mine = net.cut(gradient, moments, arch)
    for name, value in loss(params).items():
        close(mine[name], value, 2e-3)


# -- buckets and maps ------------------------------------------------------------------------------


def test_a_network_computes_the_same_in_any_bucket_that_holds_it():
    net = supernet()
    assert len(net.buckets) == 2
    assert net.bucket_of(net.largest()) is net.buckets[-1]
    assert net.bucket_of(net.smallest()) is net.buckets[0]
    arch = next(a for a in networks(40) if net.buckets[0].holds(net.active(a)))
    stats = statistics(net.buckets[-1].shapes)

    @jax.jit
    def small(weights, stats, active):
        return net.apply(weights, stats, active, images(), bucket=net.buckets[0])[0]

    bucket = net.buckets[0]
    whole = compiled()[1](weights(), stats, net.active(arch), images())
    close(small(weights(), stats, net.active(arch)), whole, 1e-5)
    sliced = small(bucket.of(weights()), bucket.of(stats), net.active(arch))
    close(sliced, whole, 1e-5)


def test_several_networks_at_once_give_what_each_gives():
    net, archs = supernet(), networks(1)
    active = [net.active(arch) for arch in archs]
    stats = statistics(net.buckets[-1].shapes)
    tested = compiled()[1]
    together = jax.jit(jax.vmap(tested, (None, None, 0, None)))
    logits = together(weights(), stats, stacked(active), images())
    for one, a in zip(logits, active, strict=True):
        close(one, tested(weights(), stats, a, images()), 1e-5)


def test_one_program_serves_all_networks():
    train, tested = compiled()
    net, stats = supernet(), statistics(supernet().buckets[-1].shapes)
    for arch in networks(10, seed=3):
        tested(weights(), stats, net.active(arch), images())
    train(weights(), net.largest(), images())
    assert tested._cache_size() == 1
    assert train._cache_size() == 1


def test_dropout_is_that_of_the_head_and_can_be_off():
    net = supernet()
    active, stats = net.largest(), statistics(net.buckets[-1].shapes)

    @jax.jit
    def run(seed, on):
        drop = Drop(jax.random.key(seed), on)
        return net.apply(weights(), stats, active, images(), dropout=drop)[0]

    reference = compiled()[1](weights(), stats, active, images())
    close(run(0, np.float32(0)), reference, 1e-5)
    first, second = (np.asarray(run(seed, np.float32(1))) for seed in (0, 1))
    assert not np.allclose(first, reference)
    assert not np.allclose(first, second)


# -- which spaces ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pplcnet", "pplcnet_tail", "pplcnet_tail_32", "pplcnet_free"])
def test_spaces_that_can_be_masked(name):
    assert maskable(spaces.load(name)) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("resolution = [32]", "resolution = [32, 64]"), "resolution is a choice of 32, 64"),
        (('block = "conv"', 'block = "conv_stem"'), "stem: a block of type conv_stem"),
        (("kernel = { choices = [3, 5]", "kernel = { choices = [2, 3]"), "not an odd number: 2, 3"),
        (("stride = 2\nact", "stride = 2\naffine = true\nact"), "only a simple convolution"),
        (('block = "classifier"', 'block = "classifier"\naffine = true'), "a learnable affine"),
        (
            ('choices = ["relu", "hard_swish"]', 'choices = ["relu", "sigmoid"]'),
            "activation sigmoid",
        ),
        (
            ("width = { choices = [4, 12] }", 'width = { choices = [4, 12], per = "block" }\n'),
            None,  # one block: per block is per stage
        ),
        (("{ choices = [6, 8, 16] }", '{ choices = [6, 8, 16], per = "block" }'), "stage2_width"),
    ],
)
def test_what_cannot_be_masked_is_named(change, complaint):
    assert change[0] in TINY
    problem = maskable(spaces.loads(TINY.replace(*change), "odd"))
    if complaint is None:
        assert problem is None
        return
    assert complaint in str(problem)
    with pytest.raises(ModelError, match="odd cannot be a supernet"):
        Supernet.of(spaces.loads(TINY.replace(*change), "odd"), 2, resolution=8)


def test_block_types_are_named():
    assert "conv_stem" in str(maskable(spaces.load("lcnet_next")))
    text = TINY.replace(
        'block = "depthwise_separable"\ndepth = 1',
        'block = { choices = ["depthwise_separable", "plain"] }\ndepth = 1',
    )
    text += '\n[blocks.plain]\ntype = "conv"\nkernel = 3\nact = "relu"\n'
    problem = str(maskable(spaces.loads(text, "kinds")))
    assert problem.startswith("stage1_block is a choice of block types")


def test_networks_of_elsewhere_are_refused():
    net = supernet()
    arch = networks()[1]
    wide = Arch(
        (arch.stages[0], Stage("stage1", (zoo.load("pplcnet_1.0x").blocks[1],)), *arch.stages[2:])
    )
    with pytest.raises(ModelError, match="stage1: width: 32 is not among 4, 12; the nearest is 12"):
        net.active(wide)
    with pytest.raises(ModelError, match="stages"):
        net.active(zoo.load("pplcnet_0.5x"))


def test_data_round_trip():
    data = json.loads(json.dumps(supernet().to_data()))
    assert Supernet.from_data(data) == supernet()
    with pytest.raises(ModelError, match="no supernet"):
        Supernet.from_data({"classes": 3})


@pytest.mark.parametrize("name", ["pplcnet", "pplcnet_tail", "pplcnet_free"])
def test_a_space_is_cut_to_the_widths_of_a_network(name):
    arch, space = zoo.load("pplcnet_0.5x"), spaces.load(name)
    small, note = narrowed(space, arch)
    widths = tuple(int(vars(stage.blocks[0])["width"]) for stage in arch.stages[:-1])
    assert Supernet.of(small, 10, resolution=32, buckets=1).plan.widest == widths
    assert arch in small
    assert zoo.load("pplcnet_0.75x") not in small
    assert ("scale" if name == "pplcnet" else "stage5_width: 384, 512, 768, 1024, 1280") in note
    assert narrowed(small, arch) == (small, "")


def test_a_space_without_narrow_networks_is_refused():
    space = spaces.load("pplcnet_tail").restrict(stage5_width=[1280])
    with pytest.raises(ModelError, match="no choice of stage5_width is as narrow as pplcnet_1"):
        narrowed(space, zoo.load("pplcnet_1.0x"))


# -- published weights -----------------------------------------------------------------------------


def test_published_weights_are_taken_where_they_fit():
    arch = zoo.load("pplcnet_0.25x", 32)
    space = spaces.load("pplcnet_tail", 32).restrict(
        stem_width=[8], stage1_width=[8, 16], stage2_width=[16], stage3_width=[32], stage4_width=[64, 88],
        stage5_width=[128], head_width=[0, 640, 1280],
    )  # fmt: skip
    net = Supernet.of(space, 10, resolution=32, buckets=1)
    published = onnx_export.init(arch, np.random.default_rng(0), classes=10)
    started, note = net.started(3, published, arch)
    drawn = net.init(3)
    assert arch in space
    stats = statistics(net.buckets[-1].shapes)
    for name, value in net.cut(started, stats, arch).items():
        if not name.endswith(("/mean", "/var")):
            np.testing.assert_array_equal(value, published[name], err_msg=name)
    counted = sum(w.size for n, w in published.items() if not n.endswith(("/mean", "/var")))
    assert f"begin with those of pplcnet_0.25x: {counted:,} of" in note
    np.testing.assert_array_equal(started["head/direct/kernel"], drawn["head/direct/kernel"])
    other = onnx_export.init(arch, np.random.default_rng(0), classes=7)
    started, _ = net.started(3, other, arch)
    np.testing.assert_array_equal(started["head/4/kernel"], drawn["head/4/kernel"])
    np.testing.assert_array_equal(started["stem/kernel"], other["stem/kernel"])
