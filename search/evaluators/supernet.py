"""Accuracy with the weights of a supernet: trained once; then each network costs one pass over the images.

For each network, batch-norm statistics are computed over training images, and then its accuracy on the
validation images (:class:`lcnas.training.supernet.Scorer`). Programs are compiled once per width bucket, not
per network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcnas import renamed
from lcnas.errors import LcnasError, shorten
from lcnas.training.compilation import compile_clock, keep_programs
from search.evaluation import Candidate, Evaluation
from search.packed import PackedImages, unpack

if TYPE_CHECKING:
    from lcnas.training.augment import Augment
    from lcnas.training.supernet import Score, TrainedSupernet


@dataclass(frozen=True)
class SupernetSpec:
    """A trained supernet, and how its networks are evaluated; arrays may be read-only."""

    supernet: Mapping[str, Any]  # Supernet.to_data()
    weights: Mapping[str, Any] = field(repr=False)  # name -> float32 array
    augment: Augment  # of the recipe: how much of an image is visible
    calibration: int = 512  # training images for batch-norm statistics
    batch: int = 256  # images at once
    together: int | None = (
        None  # networks at once; None: 1 on a CPU, where more are no faster, else 8
    )
    cache: str | None = None  # folder of compiled programs; None: none are kept

    @classmethod
    def of(
        cls, trained: TrainedSupernet | str | Path, augment: Augment, **options: Any
    ) -> SupernetSpec:
        """Return the spec of a trained supernet, or of its folder.

        Raises:
            TrainingError: the folder holds none.
        """
        if isinstance(trained, str | Path):
            from lcnas.training.supernet import TrainedSupernet

            trained = TrainedSupernet.load(trained)
        return cls(trained.supernet.to_data(), dict(trained.weights), augment, **options)


def create(spec: SupernetSpec, images: PackedImages) -> SupernetEvaluator:
    """Return the evaluator, for use in this process.

    Raises:
        ModelError: the spec holds no supernet.
        TrainingError: its weights do not fit it.
    """
    return SupernetEvaluator(spec, images)


class SupernetEvaluator:
    """Evaluates networks with the weights of a supernet."""

    def __init__(self, spec: SupernetSpec, images: PackedImages) -> None:
        import jax

        from lcnas.models.supernet import Supernet
        from lcnas.training.supernet import Scorer

        keep_programs(spec.cache)
        compile_clock()  # starts it
        data = unpack(images)
        self.supernet = Supernet.from_data(spec.supernet)
        self.scorer = Scorer(
            self.supernet,
            spec.weights,
            data.train,
            data.validation,
            data.normalization,
            augment=spec.augment,
            calibration=spec.calibration,
            batch=spec.batch,
            together=spec.together or (1 if jax.default_backend() == "cpu" else 8),
        )

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Return an evaluation for each candidate."""
        if self.scorer.together == 1 or len(candidates) == 1:
            return [self._evaluate(candidate) for candidate in candidates]
        began, compiled = time.monotonic(), compile_clock().seconds
        scores = self._scores(candidates)
        if isinstance(scores, str):  # one of them failed: try each by itself
            return [self._evaluate(candidate) for candidate in candidates]
        n = len(candidates)
        seconds, compiling = time.monotonic() - began, compile_clock().seconds - compiled
        return [_evaluation(score, seconds / n, compiling / n) for score in scores]

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        began, compiled = time.monotonic(), compile_clock().seconds
        scores = self._scores([candidate])
        seconds = time.monotonic() - began
        if isinstance(scores, str):
            return Evaluation(None, scores, seconds)
        return _evaluation(scores[0], seconds, compile_clock().seconds - compiled)

    def _scores(self, candidates: Sequence[Candidate]) -> list[Score] | str:
        """Return the scores, or why there are none."""
        import jax

        try:
            return self.scorer.scores([candidate.arch for candidate in candidates])
        except LcnasError as error:
            return str(error)
        except MemoryError:
            return "out of memory"
        except jax.errors.JaxRuntimeError as error:
            return f"JAX: {shorten(str(error).partition(chr(10))[0], 200)}"


def _evaluation(score: Score, seconds: float, compiling: float) -> Evaluation:
    details = {
        "loss": score.loss,
        "bucket": score.bucket,
        "compile_seconds": round(compiling, 3),
    }
    return Evaluation(score.accuracy, seconds=seconds, details=details)


__getattr__ = renamed.in_module(
    __name__, {"Spec": "SupernetSpec", "Evaluator": "SupernetEvaluator"}
)
