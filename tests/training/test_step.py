"""The compiled step: what it computes, written out by hand, and that it is compiled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lcnas import models
from lcnas.errors import TrainingError
from lcnas.training import checkpoints, losses, step, views
from lcnas.training import job as job_module
from lcnas.training.devices import Devices
from lcnas.training.functional import Functional, blocks_of, is_in, with_dropout
from lcnas.training.step import Length
from tests.training import tiny

ONE = Devices(None)
SEED = np.int32(0)  # of the draws
LENGTH = Length(epoch_steps=3, total_steps=6, warmup_steps=3)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiling():
        yield


@pytest.fixture(scope="module")
def dataset():
    return tiny.data()


@pytest.fixture(scope="module")
def usual(dataset, _quick):
    """Return (net, program, first state in NumPy arrays) of the usual recipe."""
    net, program, state = build_program(dataset, tiny.recipe(ema=0.3, log_steps=2))
    return net, program, host(state)


def build_program(dataset, recipe, arch=None, freeze=(), separate_augment=False, seed=0):
    """Return (net, program, first state)."""
    arch = arch or tiny.arch()
    blocks = blocks_of(arch, freeze)
    model = models.build(arch, dataset.classes, nnx.Rngs(seed))
    net = Functional.of(model, blocks)
    program = step.build(
        net,
        recipe,
        LENGTH,
        augment=views.training(recipe, arch, dataset),
        devices=ONE,
        frozen=frozenset(n for n in net.params.names if is_in(n, blocks)),
        separate_augment=separate_augment,
    )
    return net, program, ONE.share(program.start(*net.split(model.weights())))


def host(state):
    return jax.tree.map(np.array, state)


def test_it_is_compiled_once_and_the_state_is_donated(usual):
    _, program, start = usual
    first = state = ONE.share(start)
    for batch in tiny.batches(4):
        state, _ = program.step(state, SEED, *ONE.split(*batch))
    assert all(x.is_deleted() for x in jax.tree.leaves(first))
    tree = checkpoints.to_tree(state)
    restored = ONE.share(checkpoints.from_tree(tree, state))
    program.step(restored, SEED, *ONE.split(*tiny.batches(1)[0]))
    assert program.step._cache_size() == 1
    assert int(state.step) == 4


def test_plain_descent_is_minus_the_gradient_and_micro_batches_add_up_to_it(dataset):
    """Without batch norm, which sees each micro-batch on its own."""
    base = {"label_smoothing": 0.0, "ema": 0.0, "weight_decay": 0.0, "momentum": 0.0}
    recipe = tiny.with_augment(tiny.recipe(**base), flip=0.0)
    arch = tiny.arch(norm=False)
    net, program, state = build_program(dataset, recipe, arch)
    batch = ONE.split(*tiny.batches(1)[0])
    view = views.testing(recipe.augment, arch, dataset.normalization)

    def loss(params):
        images, labels, aspect = batch
        logp = jax.nn.log_softmax(net.test(params, {}, view(images, aspect)))
        return -jnp.mean(jnp.take_along_axis(logp, labels[:, None], axis=-1))

    value, slopes = jax.jit(jax.value_and_grad(loss))(state.params)
    before, rate = host(state), recipe.learning_rate / LENGTH.warmup_steps
    _, parts, again = build_program(dataset, dataclasses.replace(recipe, accumulate=4), arch)
    norm = np.sqrt(sum(float((np.asarray(s) ** 2).sum()) for s in slopes.values()))
    for after, report in (program.step(state, SEED, *batch), parts.step(again, SEED, *batch)):
        for name, slope in slopes.items():
            expected = before.params[name] - rate * np.asarray(slope)
            np.testing.assert_allclose(after.params[name], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(report.window.loss, value, rtol=1e-5)
        np.testing.assert_allclose(report.norm, norm, rtol=1e-4)
        np.testing.assert_allclose(report.learning_rate, rate, rtol=1e-6)
        assert int(report.window.labelled) == 16


def test_frozen_blocks_keep_every_bit_and_nothing_is_stored_for_them(dataset):
    net, program, state = build_program(dataset, tiny.recipe(), freeze=["stem"])
    before = host(state)
    for batch in tiny.batches(2):
        state, _ = program.step(state, SEED, *ONE.split(*batch))
    for group in ("params", "stats"):
        old, new = getattr(before, group), getattr(state, group)
        for name in old:
            kept = np.array_equal(old[name], new[name])
            assert kept == name.startswith("stem/"), name
    trained = [name for name in net.params.names if not name.startswith("stem/")]
    assert len(jax.tree.leaves(state.optimizer)) == len(trained)


def test_the_average_follows_parameters_and_statistics(usual):
    _, program, start = usual
    state = ONE.share(start)
    average = {**start.params, **start.stats}
    for i, batch in enumerate(tiny.batches(4)):
        state, _ = program.step(state, SEED, *ONE.split(*batch))
        decay = min(0.3, (1 + i) / (10 + i))
        new = {**host(state).params, **host(state).stats}
        average = {n: decay * average[n] + (1 - decay) * new[n] for n in average}
    params, stats = program.tested(state)
    for name, value in {**params, **stats}.items():
        np.testing.assert_allclose(value, average[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert (params.keys(), stats.keys()) == (state.params.keys(), state.stats.keys())


def test_without_an_average_the_weights_themselves_are_tested(dataset):
    _, program, state = build_program(dataset, tiny.recipe(ema=0.0))
    assert state.average == {}
    assert program.tested(state)[0] is state.params


def test_reports_are_summed_over_windows_and_epochs(usual):
    _, program, start = usual
    state = ONE.share(start)
    each, reports = [], []
    for images, labels, aspect in tiny.batches(5):
        labels = labels.copy()
        labels[:3] = -1
        state, report = program.step(state, SEED, *ONE.split(images, labels, aspect))
        report = host(report)
        reports.append(report)
        inside = report.window.steps == 2
        each.append(float(report.window.loss) - (float(reports[-2].window.loss) if inside else 0))
    assert [int(r.window.steps) for r in reports] == [1, 2, 1, 2, 1]
    assert [int(r.epoch.steps) for r in reports] == [1, 2, 3, 1, 2]
    assert [int(r.epoch.labelled) for r in reports] == [13, 26, 39, 13, 26]
    np.testing.assert_allclose(reports[2].epoch.loss, sum(each[:3]), rtol=1e-5)
    np.testing.assert_allclose(reports[4].epoch.loss, sum(each[3:]), rtol=1e-5)
    assert all(0 <= int(r.window.correct) <= int(r.window.labelled) for r in reports)


def test_draws_depend_on_seed_and_step_alone(dataset):
    _, program, first = build_program(dataset, tiny.recipe(ema=0.0), tiny.arch(dropout=0.5))
    start = host(first)
    batch = ONE.split(*tiny.batches(1)[0])

    def after(number):
        state = ONE.share(start._replace(step=np.int32(number)))
        return float(program.step(state, SEED, *batch)[1].norm)

    assert after(4) == after(4)
    assert after(4) != after(5)  # same learning rate, other draws
    keys = [
        step._key(seed, n, s)
        for seed in jnp.arange(2)
        for n in jnp.arange(2)
        for s in ("augment", "dropout")
    ]
    drawn = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(drawn) == len(keys)


def test_the_seed_is_an_argument_and_not_part_of_the_program(dataset):
    """JAX keeps a compiled program under its text: two seeds of one training find the same one."""
    batch = ONE.split(*tiny.batches(1)[0])

    def texts(seed):
        recipe = tiny.with_augment(tiny.recipe(), mixup=0.4, crop="shift", pad=2)
        arch = tiny.arch(dropout=0.5)
        job = job_module.prepared(arch, dataset, recipe, seed, None, (), Fixed(), ONE)
        state, program = job.start(), cast("Any", job.program)
        images, targets = jax.eval_shape(program.prepare, state.step, job.seed, *batch)
        yield program.prepare.lower(state.step, job.seed, *batch).as_text()
        yield program.step.lower(state, job.seed, images, targets).as_text()
        yield job.count_batch.lower(*job.program.tested(state), *batch).as_text()

    assert list(texts(0)) == list(texts((1 << 31) - 1))


class Fixed:
    """A teacher of three classes."""

    classes = 3

    def logits(self, images):
        return np.zeros((len(images), 3), np.float32)


def test_the_draws_are_those_of_the_seed(dataset):
    _, program, first = build_program(dataset, tiny.recipe(ema=0.0), tiny.arch(dropout=0.5))
    start, batch = host(first), ONE.split(*tiny.batches(1)[0])
    norms = [
        float(program.step(ONE.share(start), np.int32(seed), *batch)[1].norm) for seed in (0, 1, 0)
    ]
    assert norms[0] == norms[2] != norms[1]
    drawn = step._key(jnp.int32(7), jnp.int32(3), "augment")
    by_hand = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 3), 0)
    np.testing.assert_array_equal(jax.random.key_data(drawn), jax.random.key_data(by_hand))


def test_a_teacher_has_its_say(dataset):
    recipe = tiny.recipe(distill="js", distill_weight=0.7, temperature=2.0)
    net, program, state = build_program(dataset, recipe, separate_augment=True)
    batch = ONE.split(*tiny.batches(1)[0])
    images, targets = program.prepare(np.int32(0), SEED, *batch)
    teacher = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32))
    settings: dict[str, Any] = {
        "smoothing": 0.1,
        "divergence": "js",
        "weight": 0.7,
        "temperature": 2.0,
    }

    @jax.jit
    def loss(params, stats):
        logits, moved = net.train(params, stats, images, jax.random.key(0))
        return losses.distilled(logits, targets, teacher, **settings).mean(), moved

    expected, moved = loss(state.params, state.stats)
    state, report = program.step(state, SEED, images, targets, *ONE.split(np.asarray(teacher)))
    for name, value in moved.items():
        np.testing.assert_allclose(state.stats[name], value, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(report.window.loss, expected, rtol=1e-4)


def test_bf16_computes_near_float32_and_keeps_float32_weights(dataset, usual):
    _, program, start = usual
    batch = ONE.split(*tiny.batches(1)[0])
    _, exact = program.step(ONE.share(start), SEED, *batch)
    net = Functional.of(models.build(tiny.arch(), dataset.classes, dtype=jnp.bfloat16))
    recipe = tiny.recipe(ema=0.3, precision="bfloat16")
    view = views.training(recipe, tiny.arch(), dataset)
    rough_program = step.build(net, recipe, LENGTH, augment=view, devices=ONE)
    state, rough = rough_program.step(ONE.share(start), SEED, *batch)
    assert {x.dtype.name for x in jax.tree.leaves((state.params, state.stats))} == {"float32"}
    assert float(exact.window.loss) != float(rough.window.loss)
    np.testing.assert_allclose(rough.window.loss, exact.window.loss, rtol=0.02)
    np.testing.assert_allclose(rough.norm, exact.norm, rtol=0.1)


def test_dropout_of_the_recipe_replaces_the_networks():
    model = models.build(tiny.arch(dropout=0.5), 3)

    def rates() -> list[float]:
        modules: Iterator[tuple[Any, Any]] = nnx.iter_modules(model)
        return [m.layer.rate for _, m in modules if hasattr(m, "deterministic")]

    assert rates() == [0.5]
    with_dropout(model, None)
    assert rates() == [0.5]
    with_dropout(model, 0.0)
    assert rates() == [0.0]


def test_stages_and_blocks_to_freeze_by_name():
    from lcnas import zoo

    arch = zoo.load("pplcnet_0.25x", 32)
    names = blocks_of(arch, ["stage3", "stem", "stage4_block_2"])
    assert names == ("stem", "stage3_block_1", "stage3_block_2", "stage4_block_2")
    with pytest.raises(TrainingError, match=r"'stage9' is not among .*did you mean"):
        blocks_of(arch, ["stage9"])
    with pytest.raises(TrainingError, match="nothing to train"):
        blocks_of(arch, [stage.name for stage in arch.stages])


def test_lengths():
    recipe = dataclasses.replace(tiny.recipe(), epochs=10, warmup_epochs=0.5)
    assert Length.of(recipe, 7) == Length(7, 70, 4)
    assert Length.of(dataclasses.replace(recipe, warmup_epochs=0), 7).warmup_steps == 0
