"""Accuracy with the weights of a supernet: trained once, then each network costs a look at the images.

Batch-norm statistics are taken for each network over training images, then it answers the validation
images (:class:`lcnas.training.supernet.Scorer`). Nothing is compiled for a network: programs are compiled
once for each width bucket.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcnas.errors import LcnasError, shorten
from search.evaluators.base import Candidate, Evaluation
from search.evaluators.train import compile_clock, keep_programs
from search.packed import PackedImages, unpack

if TYPE_CHECKING:
    from lcnas.training.augment import Augment
    from lcnas.training.supernet import Score, TrainedSupernet


@dataclass(frozen=True)
class Spec:
    """A trained supernet, and how its networks are asked; arrays may be read-only."""

    supernet: Mapping[str, Any]  # Supernet.to_data()
    weights: Mapping[str, Any] = field(repr=False)  # name -> float32 array
    augment: Augment  # of the recipe: how much of an image is seen
    calibration: int = 512  # training images that batch-norm statistics are taken over
    batch: int = 256  # images at once
    together: int | None = None  # networks at once; None: 1 on a CPU, where more do not pay, else 8
    cache: str | None = None  # folder of compiled programs; None: nothing is kept

    @classmethod
    def of(cls, trained: TrainedSupernet | str | Path, augment: Augment, **how: Any) -> Spec:
        """Return the spec of a trained supernet, or of the folder that holds it.

        Raises:
            TrainingError: the folder holds none.
        """
        if isinstance(trained, str | Path):
            from lcnas.training.supernet import TrainedSupernet

            trained = TrainedSupernet.load(trained)
        return cls(trained.supernet.to_data(), dict(trained.weights), augment, **how)


def create(spec: Spec, images: PackedImages) -> Evaluator:
    """Return the evaluator, to be used in this process.

    Raises:
        ModelError: the spec holds no supernet.
        TrainingError: its weights do not fit it.
    """
    return Evaluator(spec, images)


class Evaluator:
    """Asks a supernet."""

    def __init__(self, spec: Spec, images: PackedImages) -> None:
        import jax

        from lcnas.models.supernet import Supernet
        from lcnas.training.supernet import Scorer

        keep_programs(spec.cache)
        compile_clock()  # begins to count
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
            return [self._one(candidate) for candidate in candidates]
        began, compiled = time.monotonic(), compile_clock().seconds
        found = self._scores(candidates)
        if isinstance(found, str):  # one of them: each is tried by itself
            return [self._one(candidate) for candidate in candidates]
        n = len(candidates)
        seconds, compiling = time.monotonic() - began, compile_clock().seconds - compiled
        return [_evaluation(score, seconds / n, compiling / n) for score in found]

    def _one(self, candidate: Candidate) -> Evaluation:
        began, compiled = time.monotonic(), compile_clock().seconds
        found = self._scores([candidate])
        seconds = time.monotonic() - began
        if isinstance(found, str):
            return Evaluation(None, found, seconds)
        return _evaluation(found[0], seconds, compile_clock().seconds - compiled)

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
