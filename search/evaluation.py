"""The interface of evaluators: networks in, accuracies out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lcnas.arch import Arch


@dataclass(frozen=True)
class Candidate:
    """A network to evaluate."""

    number: int  # of the proposal; its draws come from this and the seed of the search
    codes: tuple[int, ...]  # canonical codes in the space of the search
    arch: Arch
    stop_below: tuple[float, ...] = ()  # accuracy after each epoch below which it is stopped
    attempt: int = 0  # how often it has failed before; each attempt has its own draws


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one candidate."""

    accuracy: float | None  # on validation images, or a score, larger is better; None: it failed
    reason: str = ""  # why it failed, one line
    seconds: float = 0.0  # compilation included
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON data for trials.jsonl


class Evaluator(Protocol):
    """Lives in a worker process; the same candidate has the same evaluation in any process."""

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Return an evaluation for each candidate; a failure does not affect the others."""
