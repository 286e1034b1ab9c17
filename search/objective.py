"""What Ray Tune runs: a worker that keeps its evaluator and is given one trial after another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from lcnas.arch import Arch
from search import worker
from search.evaluators.base import Candidate, Evaluation, Evaluator

Create = Callable[[Any, Any], Evaluator]


class Objective(tune.Trainable):
    """Evaluates the networks of a trial by an evaluator that it makes once.

    Give it ``spec``, ``images`` and ``create`` by ``tune.with_parameters``, which puts them into the object
    store once. A worker is reused for the next trial (``reuse_actors``), so nothing is loaded twice.
    """

    def setup(
        self,
        config: dict[str, Any],
        create: Create | None = None,
        spec: Any = None,
        images: Any = None,
        setup: worker.Setup | None = None,
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
        made = evaluated(self.evaluator, self.networks)
        return {"evaluations": [plain(e) for e in made], "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        del checkpoint_dir  # a trial is one step; what lasts is in trials.jsonl

    def load_checkpoint(self, checkpoint: Any) -> None:
        del checkpoint


def evaluated(evaluator: Evaluator, networks: Sequence[Candidate]) -> list[Evaluation]:
    """Return an evaluation for each network; one that fails is tried again, with other draws, by itself."""
    made = list(evaluator.evaluate(networks))
    for i, (network, found) in enumerate(zip(networks, made, strict=True)):
        if found.accuracy is not None:
            continue
        (again,) = evaluator.evaluate([dataclasses.replace(network, attempt=1)])
        told = {**again.details, "first_failure": found.reason}
        seconds = found.seconds + again.seconds
        made[i] = dataclasses.replace(again, seconds=seconds, details=told)
    return made


def networks(config: Mapping[str, Any]) -> list[Candidate]:
    """Return the candidates of a trial's config, as :class:`search.searchers.Searcher` makes it."""
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


def plain(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain data."""
    return {
        "accuracy": evaluation.accuracy,
        "reason": evaluation.reason,
        "seconds": evaluation.seconds,
        "details": dict(evaluation.details),
    }
