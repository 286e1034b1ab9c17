"""Zero-cost scores of networks at initialisation, without training."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import renamed
from lcnas.arch import Resolution, check_resolution, height_width
from lcnas.errors import LcnasError, not_among, shorten
from lcnas.training import proxies
from search.distributed.tuning import Workload
from search.errors import SearchError
from search.evaluation import Candidate, Evaluation
from search.evaluators.context import EvaluatorContext
from search.packed import PackedImages

_DRAWS = 11  # separates the draw of the images from that of the weights


@dataclass(frozen=True)
class ProxySpec:
    """How networks are scored. Equal specs and images give equal scores in every process."""

    score: str  # a name of lcnas.training.proxies.NAMES
    classes: int
    train_size: Resolution  # pixels of the images
    # Seed of the images and of the initial weights, which do not depend on the candidate.
    seed: int = 0
    images: int = 64  # number of images
    batches: int = proxies.BATCHES  # equal parts of them
    names: tuple[str, ...] = proxies.NAMES  # further scores to record; fewer take less time

    def __post_init__(self) -> None:
        for name in (self.score, *self.names):
            if name not in proxies.NAMES:
                raise SearchError(not_among("score", name, proxies.NAMES))
        object.__setattr__(self, "train_size", check_resolution(self.train_size, "train_size"))
        if self.batches < 2 or self.images < 2 * self.batches:
            raise SearchError(
                f"proxy: images: {shorten(self.images)} is less than two for each of "
                f"{shorten(self.batches)} batches, of which there are at least 2"
            )


@dataclass(frozen=True, eq=False)
class Proxy:
    """An evaluator that scores networks at initialisation; see :mod:`lcnas.training.proxies`."""

    spec: ProxySpec
    images: NDArray[np.float32]  # (n, height, width, 3), normalised
    labels: NDArray[np.int32]  # (n,)

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Return an evaluation for each candidate: the score as its accuracy, all scores as details."""
        return [self._evaluate(candidate) for candidate in candidates]

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        start, spec = time.monotonic(), self.spec
        try:
            scores = proxies.scores(
                candidate.arch,
                self.images,
                self.labels,
                classes=spec.classes,
                seed=spec.seed,
                names=(spec.score, *spec.names),
                batches=spec.batches,
            )
        except MemoryError:
            return Evaluation(None, "no memory left", time.monotonic() - start)
        except LcnasError as error:
            return Evaluation(None, str(error), time.monotonic() - start)
        return _evaluation(spec.score, scores, time.monotonic() - start)


def _evaluation(score: str, scores: dict[str, float], seconds: float) -> Evaluation:
    """Return the evaluation of some scores; the details have only the finite ones."""
    details: dict[str, Any] = {n: v for n, v in scores.items() if math.isfinite(v)}
    if score in details:
        return Evaluation(details[score], "", seconds, {"scores": details})
    return Evaluation(None, f"{score} is {scores[score]}", seconds, {"scores": details})


def prepare(context: EvaluatorContext) -> Workload:
    """Return the evaluator's workload for a search."""
    score = str(context.settings.score)
    context.console.detail(f"proxy: {score} at initialisation, at {context.train_size} px")
    spec = ProxySpec(
        score=score,
        classes=context.images.classes,
        train_size=context.train_size,
        seed=context.settings.seed,
        names=(score,),
    )
    return context.workload(create, spec)


def create(spec: ProxySpec, images: PackedImages) -> Proxy:
    """Return the evaluator of a spec.

    Args:
        spec: how it scores.
        images: images to draw some training images from.

    Raises:
        SearchError: there are too few labelled images, or labels beyond the classes.
    """
    labels = np.asarray(images.train_labels)
    known = np.flatnonzero(labels >= 0)
    n = min(spec.images, len(known)) // spec.batches * spec.batches
    if n < 2 * spec.batches:
        raise SearchError(
            f"proxy: {len(known)} labelled training images are too few for {spec.batches} batches; "
            f"at least {2 * spec.batches}"
        )
    if labels.max() >= spec.classes:
        raise SearchError(
            f"proxy: a label is {labels.max()}, but there are {spec.classes} classes from 0"
        )
    rows = np.random.default_rng([spec.seed, _DRAWS]).permutation(known)[:n]
    return Proxy(spec, _inputs(images, rows, spec.train_size), labels[rows])


def _inputs(images: PackedImages, rows: NDArray[np.intp], size: Resolution) -> NDArray[np.float32]:
    """Return images as an evaluation sees them, normalised."""
    chosen, normalization = images.train_images[rows], images.normalization
    if chosen.shape[1:3] != height_width(size):
        from lcnas.training.augment import Augment

        inputs = Augment().evaluate(
            chosen, size=size, normalization=normalization, aspect=images.train_aspect[rows]
        )
        return np.asarray(inputs, np.float32)
    mean, std = (np.array(v, np.float32) for v in (normalization.mean, normalization.std))
    normalized: NDArray[np.float32] = (chosen.astype(np.float32) / np.float32(255) - mean) / std
    return normalized


__getattr__ = renamed.in_module(__name__, {"Spec": "ProxySpec"})
