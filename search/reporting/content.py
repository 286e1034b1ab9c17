"""What a report says: an outcome, its trials and its verdicts as parts of a page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from search.outcome import FINALIST, PPLCNET, PUBLISHED, FinalNetwork, MeasuredLatency, Outcome
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
    measured_on: str = ""  # machine of the measured latencies, where they came from elsewhere
    command: str = ""  # repeats the search
    again: str = "python -m search.report FOLDER"  # writes the report again

    @property
    def by_number(self) -> dict[int, Trial]:
        """The trials by their numbers."""
        return {trial.number: trial for trial in self.trials}

    @property
    def is_score(self) -> bool:
        """Whether the evaluator gives scores instead of accuracies."""
        if str(self.outcome.settings.get("evaluator") or self.outcome.evaluator).startswith(
            "proxy"
        ):
            return True
        values = [trial.accuracy for trial in self.trials if trial.accuracy is not None]
        return not all(0 <= value <= 1 for value in values)

    def shown(self, accuracy: float) -> str:
        """Return an evaluator's value as text."""
        return f"{accuracy:.4g}" if self.is_score else words.percent(accuracy)

    @property
    def unit(self) -> str:
        """The quantity that the evaluator gives, with its unit."""
        return "score" if self.is_score else "validation accuracy, %"


def page(material: Material) -> Page:
    """Return the parts of the report."""
    parts: list[Part] = [Heading(title(material.outcome), 1), *_result(material)]
    for section in (_finals, _search, _latency, _times, _front, _failures, _notes, _settings):
        parts += section(material)
    return [*parts, *_repeat(material)]


def title(outcome: Outcome) -> str:
    """Return the report's title."""
    tail = " (demonstration)" if outcome.synthetic else ""
    return f"Search in {outcome.space}{tail}"


def _result(material: Material) -> Iterator[Part]:
    outcome = material.outcome
    if outcome.warning:
        yield Text(f"Warning: {outcome.warning}.", strong=True)
    if outcome.synthetic:
        yield Text(
            "This is a demonstration: its images are synthetic. It shows that all parts work, and "
            "says nothing about accuracy on real images."
        )
    yield Text(verdicts.headline(material.bands, outcome), strong=True)
    if material.bands:
        yield Bullets(tuple(f"Band {b.number + 1}: {verdicts.sentence(b)}" for b in material.bands))
    yield Figure(FIGURE, f"{title(outcome)}: accuracy over latency")
    yield from (Text(note) for note in verdicts.caveats(material.bands))


# -- finalists and baselines -----------------------------------------------------------------------


def in_order(finals: Sequence[FinalNetwork]) -> list[FinalNetwork]:
    """Return each finalist with the baselines that it was compared with behind it, band by band.

    A baseline stands once, behind the last finalist that it is beside.
    """
    finalists = sorted(
        (f for f in finals if f.role == FINALIST), key=lambda f: (f.band, not f.winner, f.name)
    )
    places = {final.name: place for place, final in enumerate(finalists)}
    baselines = [f for f in finals if f.role != FINALIST]

    def place(final: FinalNetwork) -> int:
        return max((places[name] for name in final.beside if name in places), default=len(places))

    ordered = []
    for i in range(len(finalists) + 1):
        ordered += finalists[i : i + 1]
        ordered += sorted((f for f in baselines if place(f) == i), key=lambda f: f.name)
    return ordered


def _finals(material: Material) -> Iterator[Part]:
    outcome = material.outcome
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
    yield from _comparisons(material)


def _by(outcome: Outcome) -> str:
    """Return what an accuracy is of; "" where networks were tested, and not files."""
    if not outcome.tested_by or outcome.warning:
        return ""
    return f" of the exported file, run by {outcome.tested_by} on images prepared as lcnas.classify does"


_ROLES = {FINALIST: "finalist", PPLCNET: "PP-LCNet", PUBLISHED: "published network"}


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


def _comparisons(material: Material) -> Iterator[Part]:
    duels = [duel for band in material.bands for duel in band.duels]
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


def _search(material: Material) -> Iterator[Part]:
    o = material.outcome
    yield Heading("The search")
    where = "measured as whole networks" if o.on_this_machine else "not measured"
    where += " on the table's machine" + (
        " (latencies measured elsewhere below)" if material.measured_on else ""
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
    yield Rows(("", ""), (*facts, *_evaluation(material)))


def _evaluation(material: Material) -> list[tuple[str, str]]:
    """Return what is known of the evaluator: its speed, and its accuracy over chance."""
    known = dict(material.outcome.evaluation)
    rows = []
    speed, chance = known.pop("images_s", None), known.pop("chance", None)
    if isinstance(speed, int | float):
        rows.append(("evaluator's speed", f"{speed:,.0f} images/s"))
    values = [trial.accuracy for trial in material.trials if trial.accuracy is not None]
    if isinstance(chance, int | float) and values and not material.is_score:
        middle = words.percent(statistics.median(values))
        best = words.percent(max(values))
        over = (
            f"{words.points(max(values) - chance)} points over chance ({words.percent(chance)} %)"
        )
        rows.append(
            ("validation accuracy in the search", f"best {best} %, {over}; median {middle} %")
        )
        known = {key: value for key, value in known.items() if key not in ("best", "over_chance")}
    rows += [(_words(key), value) for key, value in words.flat(known).items()]
    return rows


def _words(key: str) -> str:
    """Return "networks/s" for "networks_s", "warm up" for "warm_up"."""
    return (f"{key[:-2]}/s" if key.endswith("_s") else key).replace("_", " ")


def _latency(material: Material) -> Iterator[Part]:
    yield Heading("Predicted and measured latency")
    measured = [(f, f.measured) for f in material.outcome.finals if f.measured is not None]
    if not measured:
        yield Text("No network was measured as a whole; latencies are the table's predictions.")
        return
    elsewhere = f"Measured elsewhere: {material.measured_on}." if material.measured_on else ""
    items = [elsewhere] if elsewhere else []
    finalists = [timed for final, timed in measured if final.role == FINALIST]
    if finalists:
        candidates = 0 if material.measured_on else material.outcome.candidates_measured
        items.append(within_budget(finalists, material.outcome.max_latency_ms, candidates))
    off = [t.ms / f.predicted_ms - 1 for f, t in measured if f.predicted_ms]
    if off:
        mean = statistics.fmean(abs(x) for x in off)
        table = f" (by the table of {material.outcome.table})" if material.measured_on else ""
        items.append(
            f"Measured against predicted{table}, {words.plural(len(off), 'network')}: {mean:.1%} off on "
            f"average, from {min(off):+.1%} to {max(off):+.1%}."
        )
    yield Bullets(tuple(items))


def within_budget(finalists: Sequence[MeasuredLatency], max_ms: float, candidates: int = 0) -> str:
    """Return how many of the measured finalists keep to the budget; or of all candidates."""
    surely = sum(timed.high <= max_ms for timed in finalists)
    if candidates > len(finalists):
        return (
            f"{surely} of {candidates} candidates ({surely / candidates:.0%}) within the budget of "
            f"{words.ms(max_ms)} ms with the whole 90 % interval when re-measured; the notes say what "
            "became of the others."
        )
    within = sum(timed.ms <= max_ms for timed in finalists)
    return (
        f"{within} of {words.plural(len(finalists), 'measured finalist')} "
        f"({within / len(finalists):.0%}) within the budget of {words.ms(max_ms)} ms when re-measured; "
        f"{surely} with the whole 90 % interval."
    )


def _times(material: Material) -> Iterator[Part]:
    o = material.outcome
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


def _front(material: Material) -> Iterator[Part]:
    yield Heading("The front of the search")
    trials = [material.by_number[n] for n in material.outcome.front if n in material.by_number]
    if not trials:
        yield Text("It is empty.")
        return
    names = {f.number: f.name for f in material.outcome.finals if f.number is not None}
    yield Text(
        "The trials that no other one dominates, by the table's latency. The networks themselves are in "
        "front.json."
    )
    rows = tuple(
        (
            str(t.number),
            words.ms(t.latency_ms),
            material.shown(t.accuracy),
            t.arch,
            names.get(t.number, ""),
        )
        for t in trials
        if t.accuracy is not None
    )
    head = ("trial", "predicted ms", material.unit, "network", "finalist")
    yield Rows(head, rows, right=frozenset({0, 1, 2}))


def _failures(material: Material) -> Iterator[Part]:
    reasons = Counter(t.reason or "no reason given" for t in material.trials if t.failed)
    if not reasons:
        return
    yield Heading("Failed trials")
    rows = [(f"{count:,}", reason) for reason, count in reasons.most_common(_REASONS)]
    if len(reasons) > _REASONS:
        rest = sum(reasons.values()) - sum(reasons[r] for _, r in rows)
        rows.append((f"{rest:,}", f"{len(reasons) - _REASONS} other reasons"))
    yield Rows(("trials", "reason"), tuple(rows), right=frozenset({0}))


def _notes(material: Material) -> Iterator[Part]:
    if material.outcome.notes:
        yield Heading("Notes")
        yield Bullets(tuple(material.outcome.notes))


def _settings(material: Material) -> Iterator[Part]:
    for heading, data in (
        ("Settings", material.outcome.settings),
        ("Versions and machine", material.outcome.surroundings),
    ):
        rows = tuple(words.flat(data).items())
        if rows:
            yield Heading(heading)
            yield Rows(("", ""), rows)


def _repeat(material: Material) -> Iterator[Part]:
    yield Heading("Again")
    lines = (
        [material.command, "# this report, from the search's folder"] if material.command else []
    )
    yield Code("\n".join([*lines, material.again]))
