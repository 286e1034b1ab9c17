"""Losses against sums written out in NumPy, and where they are known in closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcnas.training import losses

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(6, 5)).astype(np.float32) * 3
TEACHER = RNG.normal(size=(6, 5)).astype(np.float32) * 3


def softmax(logits, temperature=1.0):
    e = np.exp(np.float64(logits) / temperature)
    return e / e.sum(axis=-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(axis=-1)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_divergences_are_what_they_are_called(t):
    p, q = softmax(TEACHER, t), softmax(STUDENT, t)
    m = (p + q) / 2
    expected = {
        "kl": kl(p, q),
        "js": (kl(p, m) + kl(q, m)) / 2,
        "symmetric_kl": (kl(p, q) + kl(q, p)) / 2,
    }
    assert expected.keys() == losses.DIVERGENCES.keys()
    for name, value in expected.items():
        result = losses.DIVERGENCES[name](jnp.asarray(STUDENT), jnp.asarray(TEACHER), t)
        np.testing.assert_allclose(result, t * t * value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_a_divergence_is_zero_between_equals_and_blind_to_a_constant(name):
    f = losses.DIVERGENCES[name]
    x = jnp.asarray(STUDENT)
    np.testing.assert_allclose(f(x, x + 7, 1.0), 0, atol=1e-6)
    y = jnp.asarray(TEACHER)
    np.testing.assert_allclose(f(x + 3, y, 1.0), f(x, y, 1.0), rtol=1e-4)


def test_js_is_at_most_ln_2_and_all_stay_finite_where_both_are_sure_of_different_classes():
    sure = jnp.array([[500.0, 0.0], [-500.0, 0.0]])
    other = -sure
    np.testing.assert_allclose(losses.js(sure, other), np.log(2), rtol=1e-6)
    for f in losses.DIVERGENCES.values():
        value, slope = jax.value_and_grad(lambda s, f=f: jnp.sum(f(s, other, 1.0)))(sure)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_the_gradient_of_kl_keeps_its_size_when_the_temperature_rises():
    """At a high temperature it tends to (student - teacher) / classes, for centred logits (1503.02531)."""
    s = STUDENT - STUDENT.mean(axis=-1, keepdims=True)
    t = TEACHER - TEACHER.mean(axis=-1, keepdims=True)
    slope = jax.grad(lambda x: jnp.sum(losses.kl(x, jnp.asarray(t), 1000.0)))(jnp.asarray(s))
    np.testing.assert_allclose(slope, (s - t) / 5, rtol=0.02, atol=2e-3)


def test_cross_entropy_of_labels_mixtures_and_nothing():
    targets = np.zeros((3, 5), np.float32)
    targets[0, 2] = 1
    targets[1, [0, 3]] = 0.3, 0.7
    logp = np.log(softmax(STUDENT[:3]))
    expected = [-logp[0, 2], -0.3 * logp[1, 0] - 0.7 * logp[1, 3], 0]
    result = losses.cross_entropy(jnp.asarray(STUDENT[:3]), jnp.asarray(targets))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_smoothing_keeps_the_sum_of_a_row():
    targets = jnp.array([[1.0, 0, 0, 0], [0.25, 0.25, 0, 0], [0, 0, 0, 0]])
    smoothed = losses.smoothed(targets, 0.1)
    np.testing.assert_allclose(smoothed[0], [0.925, 0.025, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_allclose(smoothed.sum(axis=-1), [1, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(smoothed[2], 0)
    assert losses.smoothed(targets, 0.0) is targets


def test_labels_and_teacher_share_the_loss_and_a_missing_label_leaves_the_teachers_part():
    targets = jax.nn.one_hot(jnp.array([1, -1, 0, 4, -1, 2]), 5)
    s, t = jnp.asarray(STUDENT), jnp.asarray(TEACHER)
    settings: dict[str, Any] = {
        "smoothing": 0.1,
        "divergence": "js",
        "weight": 0.7,
        "temperature": 2.0,
    }
    result = losses.distilled(s, targets, t, **settings)
    hard = losses.cross_entropy(s, losses.smoothed(targets, 0.1))
    np.testing.assert_allclose(result, 0.3 * hard + 0.7 * losses.js(s, t, 2.0), rtol=1e-6)
    np.testing.assert_allclose(
        result[jnp.array([1, 4])], 0.7 * losses.js(s, t, 2.0)[jnp.array([1, 4])], rtol=1e-6
    )
    alone = losses.distilled(s, targets, None, **settings)
    np.testing.assert_allclose(alone, hard, rtol=1e-6)
    assert alone[1] == 0
