"""Losses of a batch: labels (smoothed, mixed, or missing) and a teacher's opinion.

All functions take logits (n, classes) and return one number an image, (n,), float32. What is
minimised is their mean over the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array

# The logarithm of a probability stays finite, also where a teacher is sure beyond what float32 can say.
_FLOOR = -80.0


def smoothed(targets: Array, smoothing: float) -> Array:
    """Return targets with a share of each label spread evenly over all classes (arXiv 1512.00567).

    A row that sums to less than 1 (a mixture with an unlabelled image) keeps its sum.

    Args:
        targets: (n, classes), probabilities; a row of zeros is an image without a label.
        smoothing: the share, 0 to 1.
    """
    if smoothing == 0:
        return targets
    mass = jnp.sum(targets, axis=-1, keepdims=True)
    uniform = jnp.broadcast_to(mass / targets.shape[-1], targets.shape)
    return (1 - smoothing) * targets + smoothing * uniform


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Return the cross entropy to the targets; 0 for an image without a label."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def kl(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Return KL(teacher || student), times the square of the temperature (arXiv 1503.02531, section 2.1).

    The factor keeps the gradient's size when the temperature changes.
    """
    p, log_p = _distribution(teacher, temperature)
    _, log_q = _distribution(student, temperature)
    return temperature**2 * _kl(p, log_p, log_q)


def js(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Return the Jensen-Shannon divergence, the mean KL of each to their mixture, times temperature squared.

    At most ln 2 (at temperature 1), which bounds the pull of an image that the student gets quite wrong.
    """
    p, log_p = _distribution(teacher, temperature)
    q, log_q = _distribution(student, temperature)
    log_m = jnp.logaddexp(log_p, log_q) - math.log(2)
    return temperature**2 * 0.5 * (_kl(p, log_p, log_m) + _kl(q, log_q, log_m))


def symmetric_kl(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Return the mean of KL(teacher || student) and KL(student || teacher), times temperature squared.

    This is what SSLD's text calls its JS divergence: PaddleClas computes it so (``ppcls/loss/dmlloss.py``).
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
    """Return the loss of each image: the label's part and the teacher's.

    An image without a label (a row of zeros) has the teacher's part only.

    Args:
        logits: of the network that learns, (n, classes).
        targets: (n, classes).
        teacher: logits of the teacher, (n, classes); None: no teacher, the label counts whole.
        smoothing: of the labels.
        divergence: a name of DIVERGENCES.
        weight: share of the teacher; the label has the rest.
        temperature: for the teacher's part.
    """
    hard = cross_entropy(logits, smoothed(targets, smoothing))
    if teacher is None:
        return hard
    soft = DIVERGENCES[divergence](logits, teacher, temperature)
    return (1 - weight) * hard + weight * soft
