"""Accuracy and loss of a network on the validation or the test split."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcnas.errors import DataError
from lcnas.models import Network
from lcnas.training import losses, views
from lcnas.training.augment import Augment
from lcnas.training.data import Normalization, Test, Validation
from lcnas.training.devices import Devices
from lcnas.training.functional import Functional, Weights

Array = jax.Array
BATCH = 256  # images per batch
_TOP = 5
_AHEAD = 4  # batches in flight before the oldest is waited for


@dataclass(frozen=True)
class Scores:
    """Accuracy and loss of a network on a split."""

    accuracy: float  # top-1, 0 to 1
    top5: float  # share of images whose label is among the five likeliest classes, 0 to 1
    loss: float  # mean cross entropy, nats
    images: int  # number of labelled images

    def to_data(self) -> dict[str, float | None]:
        """Return JSON data for JSON; numbers that are not finite become None."""
        values = dataclasses.asdict(self)
        return {name: v if math.isfinite(v) else None for name, v in values.items()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Scores:
        """Return the scores from the data of :meth:`to_data`."""
        values: dict[str, Any] = {n: math.nan if v is None else v for n, v in data.items()}
        return cls(**values)

    def __str__(self) -> str:
        return f"{self.accuracy:.2%} (top 5 {self.top5:.2%}, loss {self.loss:.4f}, {self.images} images)"


class _Counts(NamedTuple):
    correct: Array  # ()
    in_top5: Array  # images whose label is among the five likeliest classes, ()
    loss: Array  # summed, ()
    images: Array  # ()


def build(net: Functional, view: Callable[..., Array], devices: Devices) -> Callable[..., _Counts]:
    """Return a compiled function of a batch: ``(params, stats, images, labels, aspects) -> counts``.

    Args:
        net: the network.
        view: ``(images, aspects) -> images``: crops, resizes and normalises images.
        devices: devices that share each batch.
    """
    return jax.jit(devices.mapped(functools.partial(_counted, net, view, devices), shared=2))


def _counted(
    net: Functional,
    view: Callable[..., Array],
    devices: Devices,
    params: Weights,
    stats: Weights,
    images: Array,
    labels: Array,
    aspect: Array,
) -> _Counts:
    logits = net.test(params, stats, view(images, aspect))
    has_label = labels >= 0
    own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=-1)
    # A class ranks before the label's if it is likelier, or as likely with a lower index.
    before = (logits > own) | (
        (logits == own) & (jnp.arange(logits.shape[-1])[None] < labels[:, None])
    )
    rank = jnp.sum(before, axis=-1, dtype=jnp.int32)
    # No logit is larger than NaN; without this check the label's class would rank first.
    countable = has_label & jnp.all(jnp.isfinite(logits), axis=-1)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)  # zeros for label -1
    count = functools.partial(jnp.sum, dtype=jnp.int32)
    counts = _Counts(
        count((rank < 1) & countable),
        count((rank < _TOP) & countable),
        jnp.sum(losses.cross_entropy(logits, targets)),
        count(has_label),
    )
    return devices.total(counts)


def evaluate(
    model: Network,
    split: Validation | Test,
    normalization: Normalization,
    *,
    augment: Augment | None = None,
    batch: int = BATCH,
) -> Scores:
    """Return accuracy and loss of a network on a split.

    Args:
        model: the network; evaluated in evaluation mode and left unchanged.
        split: the validation or the test split.
        normalization: constants of the data that the network was trained on.
        augment: its ``evaluate_crop`` decides how much of each image is seen; None: a centre crop of 0.875
            of the short side (224 of 256 pixels). Pass ``recipe.augment`` for the accuracy that a training
            reports.
        batch: images per batch.

    Raises:
        DataError: the split is neither validation nor test.
    """
    if not isinstance(split, Validation | Test):
        raise DataError(f"split: {type(split).__name__} is neither Validation nor Test")
    devices = Devices(None)
    net = Functional.of(model)
    view = views.testing(augment or Augment(), model.arch, normalization)
    count_batch = build(net, view, devices)
    params, stats = net.split(model.weights())
    shared = devices.share((params, stats))
    return evaluate_weights(count_batch, shared, split, devices, batch)


def evaluate_weights(
    count_batch: Callable[..., _Counts],
    weights: tuple[Any, Any],
    split: Validation | Test,
    devices: Devices,
    batch: int = BATCH,
) -> Scores:
    """Return the scores of weights (params, stats) on a split, by the compiled function of :func:`build`."""
    equal = math.ceil(batch / devices.count) * devices.count
    arrays = (devices.split(*views.arrays(b)) for b in split.batches(equal))
    return scores(count_batch(*weights, *a) for a in arrays)


def scores(counts: Iterable[_Counts]) -> Scores:
    """Return the scores from the counts of all batches."""
    table = np.array([[float(v) for v in jax.device_get(c)] for c in throttled(counts)], np.float64)
    correct, in_top5, loss, images = table.sum(axis=0) if len(table) else np.zeros(4)
    n = max(images, 1)
    return Scores(float(correct / n), float(in_top5 / n), float(loss / n), int(images))


def throttled(items: Iterable[Any]) -> Iterator[Any]:
    """Yield items a few behind the iterator, so that a bounded number is computed ahead."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > _AHEAD:
            yield waiting.pop(0)
    yield from waiting
