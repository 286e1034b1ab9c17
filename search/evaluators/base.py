"""What an evaluator is to a search: networks in, accuracies out."""

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
    stop_below: tuple[float, ...] = ()  # accuracy after each epoch below which it is given up
    attempt: int = 0  # how often it has failed before; its draws are others then


@dataclass(frozen=True)
class Evaluation:
    """What came out; for one candidate."""

    accuracy: float | None  # on validation images, or a score, larger is better; None: it failed
    reason: str = ""  # why it failed, one line
    seconds: float = 0.0  # compilation included
    details: Mapping[str, Any] = field(default_factory=dict)  # plain data for trials.jsonl


class Evaluator(Protocol):
    """Lives in a worker process; the same candidate gives the same evaluation in any process."""

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Return an evaluation for each candidate; one that fails does not keep the others from theirs."""
