"""How good a network is on images that it was not fitted to."""

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
BATCH = 256  # images at once
_TOP = 5
_AHEAD = 4  # batches that may be under way before one is waited for


@dataclass(frozen=True)
class Scores:
    """How a network did on a split."""

    accuracy: float  # share of 1
    top5: float  # share of 1 whose label is among the five likeliest classes
    loss: float  # mean cross entropy, nats
    images: int  # that have a label

    def to_data(self) -> dict[str, float | None]:
        """Return plain data for JSON, which knows no number that is not finite."""
        values = dataclasses.asdict(self)
        return {name: v if math.isfinite(v) else None for name, v in values.items()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Scores:
        """Return the scores of such data."""
        values: dict[str, Any] = {n: math.nan if v is None else v for n, v in data.items()}
        return cls(**values)

    def __str__(self) -> str:
        return f"{self.accuracy:.2%} (top 5 {self.top5:.2%}, loss {self.loss:.4f}, {self.images} images)"


class _Counts(NamedTuple):
    correct: Array  # ()
    among: Array  # images whose label is among the likeliest, ()
    loss: Array  # summed, ()
    images: Array  # ()


def build(net: Functional, view: Callable[..., Array], devices: Devices) -> Callable[..., _Counts]:
    """Return the compiled counts of a batch: ``(params, stats, images, labels, aspects) -> counts``.

    Args:
        net: the network.
        view: ``(images, aspects) -> images``: what the network sees, normalised.
        devices: that share each batch.
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
    # A class before the label's is one that is likelier, or as likely and listed earlier.
    before = (logits > own) | (
        (logits == own) & (jnp.arange(logits.shape[-1])[None] < labels[:, None])
    )
    rank = jnp.sum(before, axis=-1, dtype=jnp.int32)
    # Nothing is larger than a logit that is no number; without this it would be the likeliest.
    right = has_label & jnp.all(jnp.isfinite(logits), axis=-1)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)  # zeros for -1
    count = functools.partial(jnp.sum, dtype=jnp.int32)
    counts = _Counts(
        count((rank < 1) & right),
        count((rank < _TOP) & right),
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
    """Return how a network does on a split.

    Args:
        model: the network; it is taken in evaluation mode, and left as it was.
        split: the validation or the test images.
        normalization: of the set that the network was trained on.
        augment: decides how much of an image is seen; None: the middle, as of 256 pixels 224. A training
            tests as its recipe says: give ``recipe.augment`` for the same accuracy.
        batch: images at once.

    Raises:
        DataError: the training images, which a score is not taken on.
    """
    if not isinstance(split, Validation | Test):
        raise DataError(f"split: {type(split).__name__} is neither Validation nor Test")
    devices = Devices(None)
    net = Functional.of(model)
    view = views.testing(augment or Augment(), model.arch, normalization)
    counted = build(net, view, devices)
    params, stats = net.split(model.weights())
    shared = devices.share((params, stats))
    return over(counted, shared, split, devices, batch)


def over(
    counted: Callable[..., _Counts],
    weights: tuple[Any, Any],
    split: Validation | Test,
    devices: Devices,
    batch: int = BATCH,
) -> Scores:
    """Return how weights (params, stats) do on a split, by a compiled :func:`build`."""
    equal = math.ceil(batch / devices.count) * devices.count
    arrays = (devices.split(*views.arrays(b)) for b in split.batches(equal))
    return scores(counted(*weights, *a) for a in arrays)


def scores(counts: Iterable[_Counts]) -> Scores:
    """Return the scores of all batches' counts."""
    rows = np.array([[float(v) for v in jax.device_get(c)] for c in throttled(counts)], np.float64)
    correct, among, loss, images = rows.sum(axis=0) if len(rows) else np.zeros(4)
    n = max(images, 1)
    return Scores(float(correct / n), float(among / n), float(loss / n), int(images))


def throttled(items: Iterable[Any]) -> Iterator[Any]:
    """Yield items a few behind: work on them goes on meanwhile, but never far ahead."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > _AHEAD:
            yield waiting.pop(0)
    yield from waiting
