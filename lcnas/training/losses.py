"""Losses of a batch, from labels (smoothed, mixed, or missing) and from a teacher's logits.

All functions take logits (n, classes) and return one value per image, (n,), float32. Training minimises
their mean over the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array

# Lower limit of log probabilities: they stay finite even if a teacher's probabilities underflow float32.
_FLOOR = -80.0


def smoothed(targets: Array, smoothing: float) -> Array:
    """Return targets with a share of each label spread evenly over all classes (arXiv 1512.00567).

    A target that sums to less than 1 (a mixture with an unlabelled image) keeps its sum.

    Args:
        targets: (n, classes), probabilities; all zeros for an image without a label.
        smoothing: the share, 0 to 1.
    """
    if smoothing == 0:
        return targets
    mass = jnp.sum(targets, axis=-1, keepdims=True)
    uniform = jnp.broadcast_to(mass / targets.shape[-1], targets.shape)
    return (1 - smoothing) * targets + smoothing * uniform


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Return the cross entropy with the targets; 0 for an image without a label."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def kl(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Return KL(teacher || student), times the square of the temperature (arXiv 1503.02531, section 2.1).

    The factor keeps the scale of the gradient independent of the temperature.
    """
    p, log_p = _distribution(teacher, temperature)
    _, log_q = _distribution(student, temperature)
    return temperature**2 * _kl(p, log_p, log_q)


def js(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Return the Jensen-Shannon divergence, the mean KL of each to their mixture, times temperature squared.

    At most ln 2 (at temperature 1), which bounds the loss of an image that the student classifies wrongly.
    """
    p, log_p = _distribution(teacher, temperature)
    q, log_q = _distribution(student, temperature)
    log_m = jnp.logaddexp(log_p, log_q) - math.log(2)
    return temperature**2 * 0.5 * (_kl(p, log_p, log_m) + _kl(q, log_q, log_m))


def symmetric_kl(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Return the mean of KL(teacher || student) and KL(student || teacher), times temperature squared.

    SSLD's paper calls this its JS divergence; see PaddleClas's code (``ppcls/loss/dmlloss.py``).
    """
    p, log_p = _distribution(teacher, temperature)
    q, log_q = _distribution(student, temperature)
    return temperature**2 * 0.5 * (_kl(p, log_p, log_q) + _kl(q, log_q, log_p))


def _distribution(logits: Array, temperature: float) -> tuple[Array, Array]:
    log_p = jnp.maximum(jax.nn.log_softmax(logits / temperature, axis=-1), _FLOOR)
    return jnp.exp(log_p), log_p


def _kl(p: Array, log_p: Array, log_q: Array) -> Array:
    return jnp.sum(p * (log_p - log_q), axis=-1)


DIVERGENCES: dict[str, Callable[[Array, Array, float], Array]] = {
    "kl": kl,
    "js": js,
    "symmetric_kl": symmetric_kl,
}


def distilled(
    logits: Array,
    targets: Array,
    teacher: Array | None,
    *,
    smoothing: float = 0.0,
    divergence: str = "kl",
    weight: float = 0.5,
    temperature: float = 1.0,
) -> Array:
    """Return the loss of each image: the weighted sum of the label's term and the teacher's.

    An image without a label (a target of zeros) has the teacher's term only.

    Args:
        logits: logits of the student, (n, classes).
        targets: (n, classes).
        teacher: logits of the teacher, (n, classes); None: no teacher, the label has the whole weight.
        smoothing: label smoothing, 0 to 1.
        divergence: a name of :data:`DIVERGENCES`.
        weight: weight of the teacher's term, 0 to 1; the label's term has the rest.
        temperature: temperature of the teacher's term.
    """
    hard = cross_entropy(logits, smoothed(targets, smoothing))
    if teacher is None:
        return hard
    soft = DIVERGENCES[divergence](logits, teacher, temperature)
    return (1 - weight) * hard + weight * soft
