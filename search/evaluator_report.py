"""The report of a search on its evaluator: throughput, accuracy over chance, supernet, predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.context import SearchContext
from search.run_dir import PREDICTOR, SUPERNET
from search.settings import ResolvedSettings
from search.trials import Trial

REUSED = (
    "taken_from_an_earlier_search"  # key of a supernet's report: its seconds belong to that search
)


def build(context: SearchContext, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the report as JSON data, for ``outcome.json``."""
    settings, validation = context.settings, context.data.validation
    good = [t for t in trials if not t.failed]
    rates = [float(t.details["images_s"]) for t in good if "images_s" in t.details]
    chance = float(np.bincount(validation.labels).max() / max(len(validation), 1))
    report: dict[str, Any] = {
        "chance": chance,
        "seconds_per_network": float(np.median([t.seconds for t in good])) if good else None,
        "pictures": settings.images,
        "epochs": settings.epochs,
        "train_size": settings.train_size,
        "resolution": settings.resolution,
    }
    if settings.evaluator != "proxy" and good:
        best = max(t.accuracy or 0.0 for t in good)
        report |= {"best": best, "over_chance": best - chance}
    if rates:
        report["images_s"] = float(np.median(rates))
    for name in (SUPERNET, PREDICTOR):
        if saved := context.run_dir.load(name):
            report[name.partition(".")[0]] = saved
    return report


def summary(settings: ResolvedSettings, report: Mapping[str, Any]) -> str:
    """Return the report in a line; "" if there is nothing to say."""
    parts = []
    if settings.evaluator == "supernet":
        parts.append(f"{settings.epochs} epochs")
    if rate := report.get("images_s"):
        parts.append(f"{rate:,.0f} images/s a worker")
    if rate := report.get("supernet", {}).get("images_s"):
        parts.append(f"{rate:,.0f} images/s on all its cores")
    if "over_chance" in report:
        over, chance = report["over_chance"], report["chance"]
        parts.append(f"best {over:.1%} over chance ({chance:.1%})")
    return f"evaluator {settings.evaluator}: {', '.join(parts)}" if parts else ""


def supernet_compile_seconds(report: Mapping[str, Any]) -> float:
    """Return the seconds of compiling a supernet in this search, 0 if an earlier one was reused."""
    supernet = report.get("supernet", {})
    return 0.0 if supernet.get(REUSED) else float(supernet.get("compile_seconds", 0.0))
