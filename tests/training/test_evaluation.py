"""Scores against counting by hand."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lcnas import blocks, models
from lcnas.arch import Arch
from lcnas.errors import DataError
from lcnas.training import evaluate, evaluation
from lcnas.training.augment import Augment
from lcnas.training.devices import Devices
from lcnas.training.functional import Functional
from tests.training import tiny

CLASSES = 7


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiling():
        yield


def counts_of(logits, labels):
    """Return the counts of given logits, by a network that passes its (1, 1, 3) images on."""

    class Table:
        def test(self, params, stats, x):
            return jnp.asarray(logits)

    table: Any = Table()
    f = evaluation.build(table, lambda images, aspect: images, Devices(None))
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return f({}, {}, images, np.asarray(labels, np.int32), np.ones(len(labels), np.float32))


def test_accuracy_top_5_and_loss():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 40)
    labels[[3, 17]] = -1
    scores = evaluation.scores([counts_of(logits, labels), counts_of(logits[:5], labels[:5])])
    labelled = [i for i in [*range(40), *range(5)] if labels[i] >= 0]
    order = np.argsort(-logits, axis=-1)
    assert scores.images == len(labelled) == 42
    assert scores.accuracy == pytest.approx(np.mean([order[i, 0] == labels[i] for i in labelled]))
    assert scores.top5 == pytest.approx(np.mean([labels[i] in order[i, :5] for i in labelled]))
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert scores.loss == pytest.approx(-np.mean([logp[i, labels[i]] for i in labelled]), rel=1e-5)


def test_of_equal_logits_only_one_class_is_the_likeliest():
    """As argmax has it: a network that says nothing gets the share of the first class, not all."""
    scores = evaluation.scores([counts_of(np.zeros((3, CLASSES), np.float32), [0, 1, 6])])
    assert scores.accuracy == pytest.approx(1 / 3)
    assert scores.top5 == pytest.approx(2 / 3)


def test_logits_that_are_no_numbers_are_no_right_answers():
    logits = np.zeros((3, CLASSES), np.float32)
    logits[0] = np.nan
    logits[1, 3] = np.inf
    logits[2, 4] = 1
    scores = evaluation.scores([counts_of(logits, [0, 3, 4])])
    assert scores.accuracy == pytest.approx(1 / 3)
    assert np.isnan(scores.loss)
    data = scores.to_data()
    assert json.loads(json.dumps(data, allow_nan=False))["loss"] is None
    assert np.isnan(evaluation.Scores.from_data(data).loss)
    assert evaluation.Scores.from_data(data).accuracy == scores.accuracy


def test_a_network_on_a_split_padding_left_out_and_the_network_left_as_it_was():
    data = tiny.data()
    model = models.build(tiny.arch(dropout=0.5), data.classes, nnx.Rngs(3))
    scores = evaluate(
        model, data.validation, data.normalization, augment=Augment(evaluate_crop=1.0), batch=5
    )
    stem: Any = model.blocks["stem"]
    assert not stem.use_running_average
    (batch,) = data.validation.batches(len(data.validation))
    constants = data.normalization
    mean, std = np.float32(constants.mean), np.float32(constants.std)
    x = jnp.asarray((batch.images / np.float32(255) - mean) / std)
    net = Functional.of(model)
    logits = np.asarray(jax.jit(net.test)(*net.split(model.weights()), x))
    assert scores.images == len(data.validation)
    assert scores.accuracy == pytest.approx(np.mean(logits.argmax(axis=-1) == batch.labels))


def test_training_images_are_not_scored():
    data = tiny.data()
    train: Any = data.train
    with pytest.raises(DataError, match="split: Train is neither Validation nor Test"):
        evaluate(models.build(tiny.arch(), data.classes), train, data.normalization)


def test_no_images_are_no_division_by_zero():
    assert evaluation.scores([]) == evaluation.Scores(0.0, 0.0, 0.0, 0)


def test_work_is_waited_for_only_some_batches_behind():
    begun = []

    def work():
        for i in range(10):
            begun.append(i)
            yield i

    for done in evaluation.throttled(work()):
        assert len(begun) <= done + 5
    assert begun == list(range(10))


def test_a_frozen_network_is_the_same_function_in_both_modes():
    arch = Arch.of({"stem": [blocks.ConvNormAct(4)], "head": [blocks.DenseHead()]}, 8)
    model = models.build(arch, 3)
    net = Functional.of(model, ["stem"])
    params, stats = net.split(model.weights())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32))
    logits, after = jax.jit(net.train)(params, stats, x, jax.random.key(0))
    tested = jax.jit(net.test)(params, stats, x)
    np.testing.assert_allclose(logits, tested, rtol=1e-5, atol=1e-6)
    for name, value in stats.items():
        np.testing.assert_array_equal(after[name], value)
