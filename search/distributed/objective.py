"""The trainable of Ray Tune: a worker that keeps its evaluator and evaluates one trial after another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from lcnas.arch import Arch
from search.distributed import worker
from search.evaluation import Candidate, Evaluation, Evaluator

Create = Callable[[Any, Any], Evaluator]


class Objective(tune.Trainable):
    """Evaluates the networks of a trial, with an evaluator that it creates once.

    ``tune.with_parameters`` passes ``spec``, ``images`` and ``create``, and puts them into the object store
    once. A worker is reused for the next trial (``reuse_actors``), so nothing is loaded twice.
    """

    def setup(
        self,
        config: dict[str, Any],
        create: Create | None = None,
        spec: Any = None,
        images: Any = None,
        setup: worker.WorkerSetup | None = None,
    ) -> None:
        assert create is not None
        assert setup is not None
        worker.prepare(setup)
        self.evaluator = create(spec, images)
        self.networks = networks(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.networks = networks(new_config)
        return True

    def step(self) -> dict[str, Any]:
        evaluations = evaluate(self.evaluator, self.networks)
        return {"evaluations": [to_data(e) for e in evaluations], "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        del checkpoint_dir  # a trial is one step, and its results are in trials.jsonl

    def load_checkpoint(self, checkpoint: Any) -> None:
        del checkpoint


def evaluate(evaluator: Evaluator, networks: Sequence[Candidate]) -> list[Evaluation]:
    """Return an evaluation for each network; one that fails is tried again, with other draws, by itself."""
    evaluations = list(evaluator.evaluate(networks))
    for i, (network, first) in enumerate(zip(networks, evaluations, strict=True)):
        if first.accuracy is not None:
            continue
        (second,) = evaluator.evaluate([dataclasses.replace(network, attempt=1)])
        details = {**second.details, "first_failure": first.reason}
        seconds = first.seconds + second.seconds
        evaluations[i] = dataclasses.replace(second, seconds=seconds, details=details)
    return evaluations


def networks(config: Mapping[str, Any]) -> list[Candidate]:
    """Return the candidates of a trial's config, as :class:`search.searchers.Searcher` builds it."""
    items: Sequence[Mapping[str, Any]] = config.get("networks") or [config]
    return [
        Candidate(
            number=int(item["number"]),
            codes=tuple(int(c) for c in item["codes"]),
            arch=Arch.from_data(json.loads(item["arch"]), f"trial {item['number']}"),
            stop_below=tuple(item.get("stop_below", ())),
        )
        for item in items
    ]


def to_data(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON data."""
    return {
        "accuracy": evaluation.accuracy,
        "reason": evaluation.reason,
        "seconds": evaluation.seconds,
        "details": dict(evaluation.details),
    }
