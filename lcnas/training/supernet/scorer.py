"""Scores of networks with the weights of a supernet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lcnas import renamed
from lcnas.arch import Arch
from lcnas.models.supernet import Active, Bucket, Supernet, stacked
from lcnas.training import losses, views
from lcnas.training.augment import Augment
from lcnas.training.data import Normalization, Train, Validation, require
from lcnas.training.supernet.identity import check_weights
from lcnas.training.supernet.program import Array, Weights

CALIBRATION = 512  # training images for the batch-norm statistics
BATCH = 256  # images per batch in calibration and evaluation


@dataclass(frozen=True)
class Score:
    """Accuracy and loss of a network with the supernet's weights."""

    accuracy: float  # on validation images, 0 to 1
    loss: float  # mean cross entropy, nats
    bucket: int  # number of the bucket that it ran in


class Scorer:
    """Evaluates networks with the weights of a supernet.

    Batch-norm statistics are computed for each network, over a fixed sample of training images; then the
    network is evaluated on the validation images. Both functions are compiled once per bucket.
    """

    def __init__(
        self,
        supernet: Supernet,
        weights: Mapping[str, Any],
        train: Train,
        validation: Validation,
        normalization: Normalization,
        *,
        augment: Augment | None = None,
        calibration: int = CALIBRATION,
        batch: int = BATCH,
        together: int = 1,
    ) -> None:
        """Put images and weights on the device.

        Args:
            supernet: the supernet.
            weights: its weights.
            train: training split, for the batch-norm statistics.
            validation: validation split, to evaluate on.
            normalization: constants of the data that the weights were trained on.
            augment: its ``evaluate_crop`` decides how much of each image is seen; None: a centre crop of
                0.875 of the short side (224 of 256 pixels).
            calibration: maximum number of training images for the statistics.
            batch: images per batch.
            together: networks per call (``jax.vmap``); 1 is fastest on a CPU, where blocks that a network
                lacks are not computed then.
        """
        train, validation = require(train, Train), require(validation, Validation)
        self.supernet = supernet
        self.together = together
        self._view = views.testing(augment or Augment(), supernet.arch, normalization)
        self.set_weights(weights)
        images, _, aspects = _batches(_sample(train, calibration), min(batch, len(train)))
        self._calibration = (images, aspects)
        images, labels, aspects = _batches(validation, min(batch, len(validation)))
        self._validation = (images, labels, aspects)
        self.programs = tuple(self._programs(bucket) for bucket in supernet.buckets)

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Replace the weights by others of the same supernet; nothing is compiled again."""
        checked = check_weights(self.supernet, weights)
        self._weights = tuple(
            {name: jnp.asarray(w) for name, w in bucket.of(checked).items()}
            for bucket in self.supernet.buckets
        )

    def hold(self, weights: Mapping[str, Any]) -> None:
        """Deprecated name of :meth:`set_weights`."""
        renamed.warn("Scorer.hold", "Scorer.set_weights")
        self.set_weights(weights)

    def _programs(self, bucket: Bucket) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return a bucket's compiled functions: statistics and evaluation."""
        statistics = functools.partial(_statistics, self.supernet, bucket, self._view)
        evaluation = functools.partial(_evaluated, self.supernet, bucket, self._view)
        if self.together > 1:
            statistics = jax.vmap(statistics, (None, 0, None, None))
            evaluation = jax.vmap(evaluation, (None, 0, 0, None, None, None))
        return jax.jit(statistics), jax.jit(evaluation)

    def scores(self, archs: Sequence[Arch]) -> list[Score]:
        """Return the score of each network.

        Raises:
            ModelError: a network is not in the supernet.
        """
        active = [self.supernet.active(arch) for arch in archs]
        buckets = [self.supernet.bucket_of(a).number for a in active]
        scores: dict[int, Score] = {}
        for number in sorted(set(buckets)):
            members = [i for i, b in enumerate(buckets) if b == number]
            for at in range(0, len(members), self.together):
                chunk = members[at : at + self.together]
                results = self._scored(number, [active[i] for i in chunk])
                scores.update(zip(chunk, results, strict=True))
        return [scores[i] for i in range(len(archs))]

    def _scored(self, number: int, active: Sequence[Active]) -> list[Score]:
        weights, batched = self._weights[number], self._batched(active)
        _, evaluate = self.programs[number]
        stats = self._stats(number, batched)
        counts = jax.device_get(evaluate(weights, stats, batched, *self._validation))
        correct, loss = (np.atleast_1d(c) for c in counts)
        n = max(int((np.asarray(self._validation[1]) >= 0).sum()), 1)
        return [Score(int(correct[i]) / n, float(loss[i]) / n, number) for i in range(len(active))]

    def _batched(self, active: Sequence[Active]) -> Active:
        if self.together == 1:
            return active[0]
        return stacked([*active, *[active[-1]] * (self.together - len(active))])

    def _stats(self, number: int, batched: Active) -> Any:
        return self.programs[number][0](self._weights[number], batched, *self._calibration)

    def cut(self, arch: Arch) -> dict[str, NDArray[np.float32]]:
        """Return a network's own weights by ``onnx_export.names``, including its batch-norm statistics."""
        active = self.supernet.active(arch)
        number = self.supernet.bucket_of(active).number
        stats = jax.device_get(self._stats(number, self._batched([active])))
        if self.together > 1:
            stats = {name: s[0] for name, s in stats.items()}
        return self.supernet.cut(jax.device_get(self._weights[number]), stats, arch)


def _sample(train: Train, limit: int) -> Train:
    """Return a fixed sample of the training images."""
    if len(train) <= limit:
        return train
    chosen = np.random.default_rng(0).choice(len(train), limit, replace=False)
    return Train(train.source, train.rows[np.sort(chosen)])


def _batches(split: Train | Validation, batch: int) -> tuple[Array, Array, Array]:
    """Return images (batches, batch, height, width, 3), labels and aspects (batches, batch)."""
    split_batches = split.in_order(batch) if isinstance(split, Train) else split.batches(batch)
    parts = zip(*(views.arrays(b) for b in split_batches), strict=True)
    images, labels, aspects = (jnp.asarray(np.stack(part)) for part in parts)
    return images, labels, aspects


def _statistics(
    supernet: Supernet,
    bucket: Bucket,
    view: Callable[..., Array],
    weights: Weights,
    active: Active,
    images: Array,
    aspects: Array,
) -> Weights:
    """Return means and variances over all images, with each batch normalised by its own statistics."""

    def batch_moments(batch: tuple[Array, Array]) -> Weights:
        _, moments = supernet.apply(weights, None, active, view(*batch), bucket=bucket)
        return moments

    moments = jax.lax.map(batch_moments, (images, aspects))
    statistics = {}
    for name, values in moments.items():
        statistics[name] = jnp.mean(values, axis=0)
        if name.endswith("/var"):
            means = moments[f"{name.removesuffix('var')}mean"]
            statistics[name] = statistics[name] + jnp.var(means, axis=0)
    return statistics


def _evaluated(
    supernet: Supernet,
    bucket: Bucket,
    view: Callable[..., Array],
    weights: Weights,
    stats: Weights,
    active: Active,
    images: Array,
    labels: Array,
    aspects: Array,
) -> tuple[Array, Array]:
    """Return the number of images that are classified correctly, and the summed loss."""

    def batch_counts(batch: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        images, labels, aspects = batch
        logits, _ = supernet.apply(weights, stats, active, view(images, aspects), bucket=bucket)
        targets = jax.nn.one_hot(labels, supernet.classes, dtype=logits.dtype)  # zeros for label -1
        correct = (jnp.argmax(logits, axis=-1) == labels) & jnp.all(jnp.isfinite(logits), axis=-1)
        return jnp.sum(correct, dtype=jnp.int32), jnp.sum(losses.cross_entropy(logits, targets))

    correct, loss = jax.lax.map(batch_counts, (images, labels, aspects))
    return jnp.sum(correct), jnp.sum(loss)
