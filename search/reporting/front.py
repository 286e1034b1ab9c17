"""front.json: the networks of the front, and those that were trained, for programs to read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcnas import spaces
from lcnas.arch import Arch
from lcnas.errors import LcnasError
from lcnas.spaces import Space
from search.outcome import FinalNetwork, Outcome
from search.reporting import words
from search.reporting.content import Material
from search.trials import Trial

NAME = "front.json"
VERSION = 1
_FORMAT = "lcnas-search-front"


def to_json(material: Material, archs: Mapping[str, Arch]) -> str:
    """Return the text of front.json.

    Args:
        material: what the report is made from.
        archs: networks by their ids, as :func:`networks` returns them; one that is not there becomes null.
    """
    o = material.outcome
    front = [material.by_number[number] for number in o.front if number in material.by_number]
    data = {
        "format": _FORMAT,
        "version": VERSION,
        "space": o.space,
        "table": o.table,
        "measured_on": material.measured_on or (o.table if o.on_this_machine else None),
        "demonstration": o.synthetic,
        "warning": o.warning or None,
        "max_latency_ms": o.max_latency_ms,
        "accuracy": material.unit,
        "front": [_trial(trial, archs.get(trial.arch)) for trial in front],
        "finals": [_final(final) for final in o.finals],
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _trial(trial: Trial, arch: Arch | None) -> dict[str, Any]:
    return {
        "number": trial.number,
        "id": trial.arch,
        "latency_ms": trial.latency_ms,
        "accuracy": trial.accuracy,
        "codes": list(trial.codes),
        "arch": None if arch is None else json.loads(arch.to_json()),
    }


def _final(final: FinalNetwork) -> dict[str, Any]:
    values = words.accuracies(final)
    data = dataclasses.asdict(final)
    return data | {
        "arch": json.loads(final.arch.to_json()),
        "id": final.arch.id,
        "latency_ms": final.latency_ms,
        "split": "test" if words.tested(final.runs) else "validation",
        "accuracy": sum(values) / len(values) if values else None,
    }


def networks(material: Material, folder: Path, space: Space | None = None) -> dict[str, Arch]:
    """Return the networks of the front by their ids.

    They come from the finals, from the front.json that is there already, and from the trials' codes.

    Args:
        material: what the report is made from.
        folder: of the search.
        space: of the search; None: the one that the outcome names, as far as it gives the same ids.
    """
    known = {final.arch.id: final.arch for final in material.outcome.finals} | _written(
        folder / NAME
    )
    wanted = [material.by_number[n] for n in material.outcome.front if n in material.by_number]
    for trial in wanted:
        if trial.arch not in known:
            space = _space(material.outcome) if space is None else space
            arch = None if space is None else _decoded(space, trial)
            if arch is not None:
                known[trial.arch] = arch
    return known


def _written(path: Path) -> dict[str, Arch]:
    """Return the networks of a front.json; none where there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        archs = [Arch.from_data(item["arch"]) for item in data["front"] if item["arch"] is not None]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {arch.id: arch for arch in archs}


def _space(outcome: Outcome) -> Space | None:
    resolution = outcome.settings.get("resolution")
    size = tuple(resolution) if isinstance(resolution, list) else resolution
    try:
        return spaces.load(str(outcome.settings.get("space") or outcome.space), size)
    except LcnasError:
        return None


def _decoded(space: Space, trial: Trial) -> Arch | None:
    """Return a trial's network; None where its codes are of another space."""
    import numpy as np

    try:
        (arch,) = space.decode(np.array([trial.codes]))
    except (LcnasError, IndexError, OverflowError):
        return None
    return arch if arch.id == trial.arch else None
