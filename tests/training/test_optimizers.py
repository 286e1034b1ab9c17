"""Optimisers against their update rules written out in NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcnas.training import optimizers
from lcnas.training.recipes import Recipe

NAMES = ("stem/kernel", "stem/scale", "stem/shift", "head/3/kernel", "head/3/bias")
DECAYED = ("stem/kernel", "head/3/kernel")


def run(recipe, gradients, start):
    """Return the weights after a step for each of the gradients, at learning rate 0.1."""
    optimizer = optimizers.build(recipe, start)
    weights = {name: jnp.asarray(w) for name, w in start.items()}
    state = optimizers.init(optimizer, weights)
    step = jax.jit(lambda g, s, w: optimizers.apply(optimizer, g, s, w, jnp.float32(0.1)))
    for g in gradients:
        weights, state = step({n: jnp.asarray(v) for n, v in g.items()}, state, weights)
    return weights


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)

    def draw():
        return {name: rng.normal(size=(4,)).astype(np.float32) for name in NAMES}

    return draw(), [draw() for _ in range(5)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_adds_the_decay_to_the_gradient_of_kernels_alone(problem, nesterov):
    start, gradients = problem
    recipe = Recipe(momentum=0.9, nesterov=nesterov, weight_decay=0.03)
    weights = run(recipe, gradients, start)
    for name in NAMES:
        w, v = np.float64(start[name]), 0.0
        for g in gradients:
            slope = g[name] + (0.03 * w if name in DECAYED else 0)
            v = 0.9 * v + slope
            w = w - 0.1 * (slope + 0.9 * v if nesterov else v)
        np.testing.assert_allclose(weights[name], w, rtol=1e-5, atol=1e-6)


def test_adamw_keeps_the_decay_apart(problem):
    start, gradients = problem
    settings: dict[str, Any] = {"beta1": 0.6, "beta2": 0.99, "epsilon": 1e-6, "weight_decay": 0.05}
    weights = run(Recipe(optimizer="adamw", **settings), gradients, start)
    for name in NAMES:
        w, m, v = np.float64(start[name]), 0.0, 0.0
        for t, g in enumerate(gradients, start=1):
            m = 0.6 * m + 0.4 * g[name]
            v = 0.99 * v + 0.01 * np.float64(g[name]) ** 2
            direction = (m / (1 - 0.6**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
            w = w - 0.1 * (direction + (0.05 * w if name in DECAYED else 0))
        np.testing.assert_allclose(weights[name], w, rtol=1e-4, atol=1e-5)


def test_clipping_limits_the_norm_of_the_whole_gradient(problem):
    start, gradients = problem
    recipe = Recipe(momentum=0.0, weight_decay=0.0, clip=0.5)
    weights = run(recipe, gradients[:1], start)
    norm = np.sqrt(sum((g**2).sum() for g in gradients[0].values()))
    assert norm > 0.5
    for name in NAMES:
        expected = start[name] - 0.1 * gradients[0][name] * 0.5 / norm
        np.testing.assert_allclose(weights[name], expected, rtol=1e-5, atol=1e-7)
    loose = run(Recipe(momentum=0.0, weight_decay=0.0, clip=100.0), gradients[:1], start)
    free = run(Recipe(momentum=0.0, weight_decay=0.0), gradients[:1], start)
    for name in NAMES:
        np.testing.assert_array_equal(loose[name], free[name])
