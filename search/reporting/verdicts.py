"""Was anything better found? Each latency band's winner against the baselines beside it, in a sentence."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from search.comparison import Comparison, compare, compare_accuracies
from search.outcome import FINALIST, FinalNetwork, FinalRun, Outcome
from search.reporting import words


@dataclass(frozen=True)
class Duel:
    """A finalist against a baseline."""

    finalist: FinalNetwork
    baseline: FinalNetwork
    comparison: Comparison
    split: str  # "test" or "validation": the images


@dataclass(frozen=True)
class Band:
    """What came out in one latency band."""

    number: int
    winner: FinalNetwork  # named by validation
    duels: tuple[Duel, ...]

    @property
    def better(self) -> bool:
        """Whether the winner is better than each baseline beside it."""
        return bool(self.duels) and all(duel.comparison.better for duel in self.duels)


def bands(outcome: Outcome, folder: Path | None = None) -> tuple[Band, ...]:
    """Return the verdict of each latency band that has a finalist, fastest first.

    Args:
        outcome: of the search.
        folder: of the search, in which the hits lie; None: accuracies of seeds alone are compared.
    """
    finalists = [final for final in outcome.finals if final.role == FINALIST]
    result = []
    for number in sorted({final.band for final in finalists}):
        winner = _winner([final for final in finalists if final.band == number])
        beside = [final for final in outcome.finals if winner.name in final.beside]
        duels = [duel(winner, baseline, folder) for baseline in beside]
        result.append(Band(number, winner, tuple(d for d in duels if d is not None)))
    return tuple(result)


def _winner(finalists: Sequence[FinalNetwork]) -> FinalNetwork:
    """Return the one that was named, or the best by validation where none was."""
    named = [final for final in finalists if final.winner]
    return named[0] if named else max(finalists, key=_validation)


def _validation(final: FinalNetwork) -> float:
    return statistics.fmean(run.validation for run in final.runs) if final.runs else -1.0


def duel(finalist: FinalNetwork, baseline: FinalNetwork, folder: Path | None = None) -> Duel | None:
    """Return the comparison over the seeds that both have; None where there are none."""
    ours = {run.seed: run for run in finalist.runs}
    theirs = {run.seed: run for run in baseline.runs}
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return None
    if not words.tested([run for pair in pairs for run in pair]):
        comparison = compare_accuracies(
            [a.validation for a, _ in pairs], [b.validation for _, b in pairs]
        )
        return Duel(finalist, baseline, comparison, "validation")
    hits = [(_hits(a, folder), _hits(b, folder)) for a, b in pairs]
    first = [a for a, _ in hits if a is not None]
    second = [b for _, b in hits if b is not None]
    shapes = {array.shape for array in (*first, *second)}
    if len(first) == len(second) == len(pairs) and len(shapes) == 1:
        return Duel(finalist, baseline, compare(np.stack(first), np.stack(second)), "test")
    tests = [(a.test or 0.0, b.test or 0.0) for a, b in pairs]
    comparison = compare_accuracies([a for a, _ in tests], [b for _, b in tests])
    return Duel(finalist, baseline, comparison, "test")


def _hits(run: FinalRun, folder: Path | None) -> NDArray[np.bool_] | None:
    """Return which test images were right; None where there is no file, or not one of these results."""
    path = PurePosixPath(run.hits)
    if folder is None or not run.hits or path.is_absolute() or ".." in path.parts:
        return None
    try:
        hits = np.load(folder / path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if (
        not isinstance(hits, np.ndarray)
        or hits.dtype != np.bool_
        or hits.ndim != 1
        or not hits.size
    ):
        return None
    fits = run.test is not None and abs(float(hits.mean()) - run.test) < 1e-4
    return hits if fits else None


# -- in words --------------------------------------------------------------------------------------


def sentence(band: Band) -> str:
    """Return one sentence about a latency band."""
    winner = band.winner
    if not winner.runs:
        return f"{winner.name} was not trained, so nothing is said of it."
    if not band.duels:
        return f"{winner.name}{_at(winner)} has no baseline beside it, so nothing better was found."
    better = [duel for duel in band.duels if duel.comparison.better]
    others = [duel for duel in band.duels if not duel.comparison.better]
    if not better:
        return f"Nothing better was found ({'; '.join(map(_undecided, others))})."
    text = f"{winner.name} is {', and '.join(_better(duel) for duel in better)}"
    if others:
        text += f", but not better than all ({'; '.join(map(_undecided, others))})"
    return f"{text}."


def _better(duel: Duel) -> str:
    c = duel.comparison
    range_ = f"({words.points(c.low)} to {words.points(c.high)})"
    versus = f"{words.points(c.difference)} points {range_} better than {duel.baseline.name}"
    return f"{versus}{_latencies(duel)}"


def _undecided(duel: Duel) -> str:
    c = duel.comparison
    names = f"{duel.finalist.name} against {duel.baseline.name}"
    range_ = f"{words.points(c.low)} to {words.points(c.high)}" if c.covers else "no interval"
    tail = ": worse" if c.worse else ""
    return f"{names}: {_signed(c.difference)} points ({range_}{tail}){_latencies(duel)}"


def _signed(share: float) -> str:
    text = words.points(share)
    return text if text.startswith("-") or text == "0.0" else f"+{text}"


def _latencies(duel: Duel) -> str:
    """Return " at 1.31 ms against 1.33 ms"; both measured or both predicted, else each with its own word."""
    ours, theirs = duel.finalist, duel.baseline
    if ours.latency_ms is None or theirs.latency_ms is None:
        return ""
    kinds = [_kind(ours), _kind(theirs)]
    if kinds[0] == kinds[1]:
        tail = f" ({kinds[0]})" if kinds[0] else ""
        return f" at {words.ms(ours.latency_ms)} ms against {words.ms(theirs.latency_ms)} ms{tail}"
    first = f"{words.ms(ours.latency_ms)} ms ({kinds[0] or 'measured'})"
    return f" at {first} against {words.ms(theirs.latency_ms)} ms ({kinds[1] or 'measured'})"


def _kind(final: FinalNetwork) -> str:
    return "predicted" if final.measured is None else ""


def _at(final: FinalNetwork) -> str:
    if final.latency_ms is None:
        return ""
    return f" at {words.ms(final.latency_ms)} ms" + (f" ({_kind(final)})" if _kind(final) else "")


def headline(bands: Sequence[Band], outcome: Outcome) -> str:
    """Return what came of the search in one sentence."""
    demonstration = "; a demonstration on synthetic images, that says nothing of real ones"
    end = f"{demonstration if outcome.synthetic else ''}."
    if not bands:
        return f"No finalist was trained, so nothing better was found{end}"
    number = sum(band.better for band in bands)
    if not number:
        partly = any(d.comparison.better for band in bands for d in band.duels)
        what = "Nothing better than all baselines beside it" if partly else "Nothing better"
        return f"{what} was found in {words.plural(len(bands), 'latency band')}{end}"
    return (
        f"Better than the baselines beside it in {number} of "
        f"{words.plural(len(bands), 'latency band')}{end}"
    )


def caveats(bands: Sequence[Band]) -> list[str]:
    """Return what a reader has to know of the intervals."""
    duels = [duel for band in bands for duel in band.duels]
    if not duels:
        return []
    covers = {duel.comparison.covers for duel in duels}
    texts = {
        "seeds and images": "Intervals are of 95 %, over seeds and test images.",
        "images": "There is one seed: intervals are of 95 % over the test images alone; another seed may "
        "change the result.",
        "seeds": "Which images were right is not on record: intervals are of 95 % over the seeds alone, on "
        "these very images.",
        "": "One seed, or seeds without any spread, and no record of which images were right: there is no "
        "interval, so nothing is called better.",
    }
    notes = [text for key, text in texts.items() if key in covers]
    if any(duel.split == "validation" for duel in duels):
        notes.append(
            "The test images were not read: what is compared are the validation images, by which "
            "winners were chosen, so it flatters them."
        )
    if len(duels) > 1:
        notes.append(
            f"There are {len(duels)} comparisons, each at 95 %; nothing is corrected for their number."
        )
    return notes
