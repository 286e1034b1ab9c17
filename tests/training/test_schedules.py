"""The learning rate at points computed by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcnas.training import schedules


def rates(steps, **settings):
    f = jax.jit(lambda s: schedules.warmup_cosine(s, **settings))
    return np.array([f(jnp.float32(s)) for s in steps])


def test_warm_up_then_half_a_cosine():
    result = rates(range(8), peak=0.4, final=0.0, warmup_steps=4, total_steps=8)
    falling = [0.2 * (1 + np.cos(np.pi * s / 4)) for s in range(4)]
    np.testing.assert_allclose(result, [0.1, 0.2, 0.3, 0.4, *falling], rtol=1e-6)
    np.testing.assert_allclose(falling, [0.4, 0.3414214, 0.2, 0.0585786], rtol=1e-6)


def test_without_warm_up_it_starts_at_the_peak_and_nears_the_end():
    result = rates([0, 500, 1000], peak=1.0, final=0.1, warmup_steps=0, total_steps=1000)
    np.testing.assert_allclose(result, [1.0, 0.55, 0.1], rtol=1e-5)


def test_warm_up_alone():
    result = rates(range(3), peak=3.0, final=0.0, warmup_steps=3, total_steps=3)
    np.testing.assert_allclose(result, [1, 2, 3], rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 1, 13])
def test_it_never_rises_after_the_warm_up(warmup_steps):
    result = rates(range(60), peak=1.0, final=0.01, warmup_steps=warmup_steps, total_steps=60)
    assert (np.diff(result[: max(warmup_steps, 1)]) > 0).all()
    assert (np.diff(result[max(warmup_steps - 1, 0) :]) <= 0).all()
    assert 0.01 < result[-1] < 0.02
