"""The average of weights against its definition."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from lcnas.training import ema


def test_the_recursion():
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(40, 3)).astype(np.float32)
    average = {"a": jnp.zeros(3)}
    expected = np.zeros(3)
    for step, value in enumerate(seen):
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        rate = ema.decay_at(jnp.float32(step), 0.7)
        average = ema.update(average, {"a": jnp.asarray(value)}, rate)
    np.testing.assert_allclose(average["a"], expected, rtol=1e-5)


def test_the_decay_grows_to_its_limit():
    decays = [float(ema.decay_at(jnp.float32(s), 0.999)) for s in (0, 10, 8990, 10**6)]
    np.testing.assert_allclose(decays, [0.1, 0.55, 8991 / 9000, 0.999], rtol=1e-6)


def test_constant_weights_stay():
    still = {"a": jnp.full((2,), 3.0)}
    np.testing.assert_array_equal(ema.update(still, still, jnp.float32(0.9))["a"], 3)
    odd = {"a": jnp.asarray(np.random.default_rng(0).normal(size=100).astype(np.float32))}
    np.testing.assert_array_equal(ema.update(odd, odd, jnp.float32(0.9997))["a"], odd["a"])
