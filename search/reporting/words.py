"""Figures as a report writes them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from search.outcome import FinalNetwork, FinalRun, MeasuredLatency, Outcome, pixels


def ms(value: float) -> str:
    """Return a latency to three significant digits: "0.683", "1.31", "12.4"."""
    if not value > 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def between(low: float | None, high: float | None) -> str:
    """Return an interval of latencies; "" where there is none."""
    return "" if low is None or high is None else f"{ms(low)}-{ms(high)}"


def interval(timed: MeasuredLatency | None) -> str:
    """Return the interval of a measured latency; "" where there is none."""
    return "" if timed is None else between(timed.low, timed.high)


def percent(share: float) -> str:
    """Return 0.7132 as "71.3"."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """Return a difference of accuracies in points: 0.018 as "1.8"."""
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text


def large(number: float) -> str:
    """Return a count of params or MACs to three digits: "613k", "1.88M", "44.7M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return ms(max(number / size, 1.0)) + letter
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Return "0.4 s", "38 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def plural(number: int, word: str, more: str = "") -> str:
    """Return "1 seed", "3 seeds"."""
    return f"{number:,} {word if number == 1 else more or word + 's'}"


# -- accuracies of a network -----------------------------------------------------------------------


def tested(runs: Sequence[FinalRun]) -> bool:
    """Return whether all of them have read the test images."""
    return bool(runs) and all(run.test is not None for run in runs)


def accuracies(final: FinalNetwork) -> list[float]:
    """Return a network's accuracy of each seed, shares of 1: on test images, else on validation ones."""
    if tested(final.runs):
        return [run.test for run in final.runs if run.test is not None]
    return [run.validation for run in final.runs]


def accuracy(final: FinalNetwork) -> str:
    """Return "71.3 ± 0.4": mean and standard deviation over seeds, %; "" where nothing was trained."""
    values = accuracies(final)
    if not values:
        return ""
    mean = percent(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {percent(statistics.stdev(values))}"


def accuracy_fp32(final: FinalNetwork) -> str:
    """Return the same of the fp32 twins of files in another precision; "" where there are none."""
    values = [run.test_fp32 for run in final.runs if run.test_fp32 is not None]
    if not values:
        return ""
    mean = percent(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {percent(statistics.stdev(values))}"


def resolution(outcome: Outcome) -> str:
    """Return the pixels of latencies and files: "128"; "" where no network was trained."""
    return ", ".join(dict.fromkeys(pixels(final.arch.resolution) for final in outcome.finals))


def at_pixels(outcome: Outcome) -> str:
    """Return " at 128 px", where networks were trained and tested; "" where it is not known."""
    resolutions = {run.resolution for final in outcome.finals for run in final.runs}
    sizes = sorted({pixels(size) for size in resolutions if size is not None})
    return f" at {', '.join(sizes)} px" if sizes else ""


def best_run(final: FinalNetwork) -> FinalRun | None:
    """Return the training with the best accuracy on validation images; the test images choose nothing."""
    return max(final.runs, key=lambda run: run.validation, default=None)


def flat(data: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return nested data as dotted names and their values as texts; None is left out."""
    result: dict[str, str] = {}
    for key, value in data.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            result[name] = ", ".join(map(str, value))
        elif value is not None:
            result[name] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return result
