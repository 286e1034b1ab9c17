"""What a report says: an outcome, its trials and its verdicts as parts of a page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from search.outcome import FinalNetwork, MeasuredLatency, Outcome
from search.reporting import verdicts, words
from search.reporting.page import Bullets, Code, Figure, Heading, Link, Page, Part, Rows, Text
from search.reporting.verdicts import Band
from search.trials import Trial

FIGURE = "front.png"
_REASONS = 10  # of failed trials that are listed


@dataclass(frozen=True)
class Material:
    """All that a report is made from."""

    outcome: Outcome
    trials: tuple[Trial, ...]
    bands: tuple[Band, ...]
    measured_on: str = ""  # whose measured latencies are, where they came from elsewhere
    command: str = ""  # that would repeat the search
    again: str = "python -m search.report FOLDER"  # that makes the report again

    @property
    def by_number(self) -> dict[int, Trial]:
        """The trials by their numbers."""
        return {trial.number: trial for trial in self.trials}

    @property
    def is_score(self) -> bool:
        """Whether the evaluator gives scores, no accuracies."""
        if str(self.outcome.settings.get("evaluator") or self.outcome.evaluator).startswith(
            "proxy"
        ):
            return True
        found = [trial.accuracy for trial in self.trials if trial.accuracy is not None]
        return not all(0 <= value <= 1 for value in found)

    def shown(self, accuracy: float) -> str:
        """Return what an evaluator found, as it is shown."""
        return f"{accuracy:.4g}" if self.is_score else words.percent(accuracy)

    @property
    def unit(self) -> str:
        """What the evaluator found, with its unit."""
        return "score" if self.is_score else "validation accuracy, %"


def page(made: Material) -> Page:
    """Return the parts of the report."""
    parts: list[Part] = [Heading(title(made.outcome), 1), *_result(made)]
    for section in (_finals, _search, _latency, _times, _front, _failures, _notes, _settings):
        parts += section(made)
    return [*parts, *_repeat(made)]


def title(outcome: Outcome) -> str:
    """Return the report's title."""
    tail = " (demonstration)" if outcome.synthetic else ""
    return f"Search in {outcome.space}{tail}"


def _result(made: Material) -> Iterator[Part]:
    outcome = made.outcome
    if outcome.warning:
        yield Text(f"Warning: {outcome.warning}.", strong=True)
    if outcome.synthetic:
        yield Text(
            "This is a demonstration: its images are synthetic. It shows that all parts work, and "
            "tells nothing of accuracy on real images."
        )
    yield Text(verdicts.headline(made.bands, outcome), strong=True)
    if made.bands:
        yield Bullets(tuple(f"Band {b.number + 1}: {verdicts.sentence(b)}" for b in made.bands))
    yield Figure(FIGURE, f"{title(outcome)}: accuracy over latency")
    yield from (Text(note) for note in verdicts.caveats(made.bands))


# -- finalists and baselines -----------------------------------------------------------------------


def in_order(finals: Sequence[FinalNetwork]) -> list[FinalNetwork]:
    """Return each finalist with the baselines that it was compared with behind it, band by band.

    A baseline stands once, behind the last finalist that it is beside.
    """
    finalists = sorted(
        (f for f in finals if f.role == "finalist"), key=lambda f: (f.band, not f.winner, f.name)
    )
    places = {final.name: place for place, final in enumerate(finalists)}
    baselines = [f for f in finals if f.role != "finalist"]

    def place(final: FinalNetwork) -> int:
        return max((places[name] for name in final.beside if name in places), default=len(places))

    made = []
    for i in range(len(finalists) + 1):
        made += finalists[i : i + 1]
        made += sorted((f for f in baselines if place(f) == i), key=lambda f: f.name)
    return made


def _finals(made: Material) -> Iterator[Part]:
    outcome = made.outcome
    yield Heading("Finalists and baselines")
    if not outcome.finals:
        yield Text("None was trained.")
        return
    finals = in_order(outcome.finals)
    read = "test" if any(words.tested(f.runs) for f in finals) else "validation"
    yield Text(
        f"Trained from scratch, all alike{words.at_pixels(outcome)}. Accuracy is that on {read} images"
        f"{_by(outcome)}, mean and standard deviation over seeds; intervals of latencies are of 90 %. The "
        "winner of each band was named by validation, before the test images were read."
    )
    fp32 = any(run.test_fp32 is not None for final in finals for run in final.runs)
    head = (
        "network", "role", f"{read} accuracy, %", *(["of its fp32 file, %"] if fp32 else []), "seeds",
        "predicted ms", "measured ms", "params", "MACs", "ImageNet top-1, % (published)", "compared with",
        "ONNX",
    )  # fmt: skip
    rows = tuple(
        (
            final.name,
            f"winner of band {final.band + 1}" if final.winner else _ROLES[final.role],
            words.accuracy(final),
            *([words.accuracy_fp32(final)] if fp32 else []),
            str(len(final.runs)),
            _with(final.predicted_ms, words.between(final.predicted_low, final.predicted_high)),
            _with(
                None if final.measured is None else final.measured.ms,
                words.interval(final.measured),
            ),
            words.large(final.params),
            words.large(final.macs),
            "" if final.published_top1 is None else f"{final.published_top1:g}",
            ", ".join(final.beside),
            _file(final),
        )
        for final in finals
    )
    strong = frozenset(i for i, final in enumerate(finals) if final.winner)
    yield Rows(head, rows, right=frozenset(range(2, 10 if fp32 else 9)), strong=strong)
    yield from _comparisons(made)


def _by(outcome: Outcome) -> str:
    """Return what an accuracy is of; "" where networks were tested, and not files."""
    if not outcome.tested_by or outcome.warning:
        return ""
    return f" of the exported file, run by {outcome.tested_by} on images prepared as lcnas.classify does"


_ROLES = {"finalist": "finalist", "pplcnet": "PP-LCNet", "shelf": "published network"}


def _with(ms: float | None, interval: str) -> str:
    if ms is None:
        return ""
    return words.ms(ms) + (f" ({interval})" if interval else "")


def _file(final: FinalNetwork) -> str | Link:
    run = words.best_run(final)
    if run is None or not run.onnx:
        return ""
    name = run.onnx.rpartition("/")[2]
    return Link(name if final.name in name else run.onnx, run.onnx)


def _comparisons(made: Material) -> Iterator[Part]:
    duels = [duel for band in made.bands for duel in band.duels]
    if not duels:
        return
    yield Heading("Winners against baselines", 3)
    head = ("winner", "baseline", "points", "95 % interval", "seeds", "images", "verdict")
    rows = []
    for duel in duels:
        c = duel.comparison
        range_ = f"{words.points(c.low)} to {words.points(c.high)}" if c.covers else "none"
        verdict = "better" if c.better else "worse" if c.worse else "not decided"
        images = f"{c.images:,}" if c.images else f"({duel.split})"
        figures = (words.points(c.difference), range_, str(c.seeds), images)
        rows.append((duel.finalist.name, duel.baseline.name, *figures, verdict))
    better = frozenset(i for i, duel in enumerate(duels) if duel.comparison.better)
    yield Rows(head, tuple(rows), right=frozenset(range(2, 6)), strong=better)
    yield Text(
        "Points are differences of accuracy, paired over the same seeds and images; better means that the "
        "interval lies above 0 (search/comparison.py has the method)."
    )


# -- the search ------------------------------------------------------------------------------------


def _search(made: Material) -> Iterator[Part]:
    o = made.outcome
    yield Heading("The search")
    where = "measured as whole networks" if o.on_this_machine else "not measured"
    where += " on the table's machine" + (
        " (latencies measured elsewhere below)" if made.measured_on else ""
    )
    budget = f"{words.ms(o.min_latency_ms)} to {words.ms(o.max_latency_ms)} ms; the search kept to "
    good = o.trials - o.failed
    facts = [
        ("space", o.space),
        ("resolution", f"{words.resolution(o) or '?'} px, of latencies and exported files"),
        ("budget", f"{budget}{words.ms(o.searched_max_ms)} ms, lower by the table's error"),
        ("networks in the budget", f"{o.networks:,}"),
        ("latency table", o.table),
        ("finalists", where),
        ("evaluator", o.evaluator),
        ("searcher", o.searcher),
        ("trials", f"{o.trials:,}, of which {good:,} were evaluated and {o.failed:,} failed"),
        ("front", words.plural(len(o.front), "network")),
    ]
    yield Rows(("", ""), (*facts, *_evaluation(made)))


def _evaluation(made: Material) -> list[tuple[str, str]]:
    """Return what is known of the evaluator: its speed, and its accuracy over chance."""
    known = dict(made.outcome.evaluation)
    rows = []
    speed, chance = known.pop("images_s", None), known.pop("chance", None)
    if isinstance(speed, int | float):
        rows.append(("evaluator's speed", f"{speed:,.0f} images/s"))
    found = [trial.accuracy for trial in made.trials if trial.accuracy is not None]
    if isinstance(chance, int | float) and found and not made.is_score:
        middle = words.percent(statistics.median(found))
        best = words.percent(max(found))
        over = f"{words.points(max(found) - chance)} points over chance ({words.percent(chance)} %)"
        rows.append(
            ("validation accuracy in the search", f"best {best} %, {over}; median {middle} %")
        )
        known = {key: value for key, value in known.items() if key not in ("best", "over_chance")}
    rows += [(_words(key), value) for key, value in words.flat(known).items()]
    return rows


def _words(key: str) -> str:
    """Return "networks/s" for "networks_s", "warm up" for "warm_up"."""
    return (f"{key[:-2]}/s" if key.endswith("_s") else key).replace("_", " ")


def _latency(made: Material) -> Iterator[Part]:
    yield Heading("Predicted and measured latency")
    measured = [(f, f.measured) for f in made.outcome.finals if f.measured is not None]
    if not measured:
        yield Text("No network was measured as a whole; latencies are the table's predictions.")
        return
    elsewhere = f"Measured elsewhere: {made.measured_on}." if made.measured_on else ""
    items = [elsewhere] if elsewhere else []
    finalists = [timed for final, timed in measured if final.role == "finalist"]
    if finalists:
        put_up = 0 if made.measured_on else made.outcome.candidates_measured
        items.append(within_budget(finalists, made.outcome.max_latency_ms, put_up))
    off = [t.ms / f.predicted_ms - 1 for f, t in measured if f.predicted_ms]
    if off:
        mean = statistics.fmean(abs(x) for x in off)
        whose = f" (by the table of {made.outcome.table})" if made.measured_on else ""
        items.append(
            f"Measured against predicted{whose}, {words.plural(len(off), 'network')}: {mean:.1%} off on "
            f"average, from {min(off):+.1%} to {max(off):+.1%}."
        )
    yield Bullets(tuple(items))


def within_budget(finalists: Sequence[MeasuredLatency], max_ms: float, put_up: int = 0) -> str:
    """Return how many of the measured finalists keep to the budget; or of all that were put up."""
    surely = sum(timed.high <= max_ms for timed in finalists)
    if put_up > len(finalists):
        return (
            f"{surely} of {put_up} networks put up as finalists ({surely / put_up:.0%}) within the budget of "
            f"{words.ms(max_ms)} ms with the whole 90 % interval when re-measured; the notes say what "
            "became of the others."
        )
    within = sum(timed.ms <= max_ms for timed in finalists)
    return (
        f"{within} of {words.plural(len(finalists), 'measured finalist')} "
        f"({within / len(finalists):.0%}) within the budget of {words.ms(max_ms)} ms when re-measured; "
        f"{surely} with the whole 90 % interval."
    )


def _times(made: Material) -> Iterator[Part]:
    o = made.outcome
    if not o.times:
        return
    yield Heading("Times")
    rows = [(name, words.duration(seconds)) for name, seconds in o.times.items()]
    total = ("total", words.duration(sum(o.times.values())))
    yield Rows(
        ("step", "time"), (*rows, total), right=frozenset({1}), strong=frozenset({len(rows)})
    )
    yield Text(
        f"Compilation took {words.duration(o.compile_seconds)}, summed over all workers and steps; it is "
        "part of the times above."
    )


def _front(made: Material) -> Iterator[Part]:
    yield Heading("The front of the search")
    trials = [made.by_number[n] for n in made.outcome.front if n in made.by_number]
    if not trials:
        yield Text("It is empty.")
        return
    names = {f.number: f.name for f in made.outcome.finals if f.number is not None}
    yield Text(
        "The trials that no other one dominates, by the table's latency. The networks themselves are in "
        "front.json."
    )
    rows = tuple(
        (
            str(t.number),
            words.ms(t.latency_ms),
            made.shown(t.accuracy),
            t.arch,
            names.get(t.number, ""),
        )
        for t in trials
        if t.accuracy is not None
    )
    head = ("trial", "predicted ms", made.unit, "network", "finalist")
    yield Rows(head, rows, right=frozenset({0, 1, 2}))


def _failures(made: Material) -> Iterator[Part]:
    reasons = Counter(t.reason or "no reason given" for t in made.trials if t.failed)
    if not reasons:
        return
    yield Heading("Failed trials")
    rows = [(f"{count:,}", reason) for reason, count in reasons.most_common(_REASONS)]
    if len(reasons) > _REASONS:
        rest = sum(reasons.values()) - sum(reasons[r] for _, r in rows)
        rows.append((f"{rest:,}", f"{len(reasons) - _REASONS} other reasons"))
    yield Rows(("trials", "reason"), tuple(rows), right=frozenset({0}))


def _notes(made: Material) -> Iterator[Part]:
    if made.outcome.notes:
        yield Heading("Notes")
        yield Bullets(tuple(made.outcome.notes))


def _settings(made: Material) -> Iterator[Part]:
    for heading, data in (
        ("Settings", made.outcome.settings),
        ("Versions and machine", made.outcome.surroundings),
    ):
        rows = tuple(words.flat(data).items())
        if rows:
            yield Heading(heading)
            yield Rows(("", ""), rows)


def _repeat(made: Material) -> Iterator[Part]:
    yield Heading("Again")
    lines = [made.command, "# this report, from the search's folder"] if made.command else []
    yield Code("\n".join([*lines, made.again]))
