"""A trial: one network that was proposed and evaluated, or that failed, as a line of ``trials.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lcnas.errors import shorten
from search.errors import SearchError


@dataclass(frozen=True)
class Trial:
    """What became of one proposal."""

    number: int  # of the proposal, from 0
    codes: tuple[int, ...]  # canonical codes in the space of the search
    arch: str  # the network's id
    latency_ms: float  # by the table of the search
    accuracy: float | None  # on validation images (or a score, larger is better); None: it failed
    reason: str = ""  # why it failed
    seconds: float = 0.0  # of evaluating it, compilation included
    details: Mapping[str, Any] = field(default_factory=dict)  # the evaluator's own, JSON data

    @property
    def failed(self) -> bool:
        """Whether it has no accuracy."""
        return self.accuracy is None

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON data, for a line of JSON."""
        data: dict[str, Any] = {
            "number": self.number,
            "arch": self.arch,
            "codes": list(self.codes),
            "latency_ms": self.latency_ms,
            "accuracy": self.accuracy,
            "seconds": round(self.seconds, 3),
        }
        if self.reason:
            data["reason"] = self.reason
        return data | ({"details": dict(self.details)} if self.details else {})

    @classmethod
    def from_data(cls, data: Any, source: str = "trial") -> Trial:
        """Return the trial of such data.

        Raises:
            SearchError: it is no trial; names the place.
        """
        try:
            accuracy = None if data["accuracy"] is None else float(data["accuracy"])
            trial = cls(
                number=int(data["number"]),
                codes=tuple(int(c) for c in data["codes"]),
                arch=str(data["arch"]),
                latency_ms=float(data["latency_ms"]),
                accuracy=accuracy,
                reason=str(data.get("reason", "")),
                seconds=float(data.get("seconds", 0.0)),
                details=dict(data.get("details", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SearchError(f"{source}: no trial: {shorten(str(error))}") from None
        if trial.number < 0 or not math.isfinite(trial.latency_ms) or not _is_score(trial.accuracy):
            raise SearchError(f"{source}: no trial: {shorten(data)}")
        return trial


def _is_score(accuracy: float | None) -> bool:
    return accuracy is None or math.isfinite(accuracy)
