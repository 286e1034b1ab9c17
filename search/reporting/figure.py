"""The figure of a search: what its trials were worth, and what became of the best."""

from __future__ import annotations

import io
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.outcome import FINALIST, PPLCNET, PUBLISHED, FinalNetwork, Outcome, pixels
from search.reporting import words
from search.reporting.content import Material, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 150
_DOTS, _FRONT, _OURS, _PPLCNET, _PUBLISHED = "#b6bec8", "#5b6b7f", "#0a7d4b", "#c2410c", "#1d4ed8"
_STYLES = {
    FINALIST: ("finalists", "*", 170, _OURS),
    PPLCNET: ("PP-LCNet", "o", 55, _PPLCNET),
    PUBLISHED: ("published networks", "s", 48, _PUBLISHED),
}
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_DISTANCES = (7, 16, 28, 42)  # points from a mark to its label
# First digits of ticks where an axis is wide, ever finer; where it is narrow, ticks are evenly spaced.
_TICKS: tuple[tuple[float, ...], ...] = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
)
_STEPS = (5, 2, 1)  # first digits of even spacings
Box = tuple[float, float, float, float]  # left, bottom, right, top, pixels


def draw(material: Material) -> bytes:
    """Return the figure as a PNG file: the search on the left, the trained networks on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained = [f for f in material.outcome.finals if f.runs and f.latency_ms]
    panels = 2 if trained else 1
    figure = Figure(figsize=(6.6 * panels if trained else 8, 5.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    warning = (
        "\nwarning: accuracies and latencies are of different inputs"
        if material.outcome.warning
        else ""
    )
    figure.suptitle(title(material.outcome) + warning, fontsize=13)
    labels = [_search(axes[0], material)]
    if trained:
        labels.append(_trained(axes[1], trained, words.at_pixels(material.outcome)))
    for ax in axes:
        _latency_axis(ax, material.outcome)
        ax.margins(y=0.12)
        ax.legend(loc="lower right", fontsize=8, framealpha=0.9)
    figure.draw_without_rendering()  # so that places on the page are known
    figure.set_layout_engine("none")  # and stay
    for ax, marks in zip(axes, labels, strict=True):
        _name(ax, marks)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


@dataclass(frozen=True)
class _Mark:
    """A point that has a name, or only stands in the way of names."""

    x: float
    y: float
    text: str = ""
    color: str = "#000000"
    reach: float = 4.0  # points around it that are taken


def _search(ax: Axes, material: Material) -> list[_Mark]:
    """Draw the trials and the front; returns the marks."""
    scale = 1 if material.is_score else 100
    done = [(t.latency_ms, scale * t.accuracy) for t in material.trials if t.accuracy is not None]
    ax.set_title(f"searched: as the evaluator saw them{_evaluators(material)}", fontsize=10)
    ax.set_ylabel(material.unit)
    if not done:
        ax.text(0.5, 0.5, "no trial was evaluated", transform=ax.transAxes, ha="center")
        return []
    x, y = zip(*done, strict=True)
    ax.scatter(x, y, s=16, color=_DOTS, label=words.plural(len(done), "trial"), zorder=1)
    front = sorted(
        (t.latency_ms, scale * t.accuracy)
        for t in (material.by_number[n] for n in material.outcome.front if n in material.by_number)
        if t.accuracy is not None
    )
    if front:
        x, y = zip(*front, strict=True)
        ax.plot(x, y, drawstyle="steps-post", color=_FRONT, lw=1.2, zorder=2)
        ax.scatter(x, y, s=20, color=_FRONT, label="front", zorder=2)
    chosen = _chosen(material, scale)
    if chosen:
        x, y = zip(*((m.x, m.y) for m in chosen), strict=True)
        ax.scatter(x, y, s=150, marker="*", color=_OURS, edgecolor="white", lw=0.6, zorder=4)
    return [*chosen, *(_Mark(x, y, reach=2) for x, y in done)]


def _chosen(material: Material, scale: float) -> list[_Mark]:
    return [
        _Mark(trial.latency_ms, scale * trial.accuracy, final.name, _OURS, 5)
        for final in material.outcome.finals
        if final.role == FINALIST and final.number in material.by_number
        for trial in [material.by_number[final.number]]
        if trial.accuracy is not None
    ]


def _evaluators(material: Material) -> str:
    """Return the pixels that the evaluator looked at, where it looked at any: ", at 64 px"."""
    size = material.outcome.settings.get("train_size")
    if not size or material.is_score:
        return ""
    return f", at {pixels(tuple(size) if isinstance(size, list) else size)} px"


def _trained(ax: Axes, finals: Sequence[FinalNetwork], where: str) -> list[_Mark]:
    """Draw finalists and baselines as they were trained; returns the marks."""
    test = any(words.tested(final.runs) for final in finals)
    kind = "measured" if _any_measured(finals) else "predicted"
    ax.set_title(f"trained from scratch{where}: {kind} latency", fontsize=10)
    ax.set_ylabel(f"{'test' if test else 'validation'} accuracy, %")
    marks = []
    for role, (name, marker, size, color) in _STYLES.items():
        members = [final for final in finals if final.role == role]
        for measured in (True, False):
            group = [f for f in members if (f.measured is not None) == measured]
            tail = "" if measured or not _any_measured(finals) else " (latency predicted)"
            drawn = [_mark(ax, final, color) for final in group]
            if drawn:
                face, edge = (color, "white") if measured else ("white", color)
                x, y = zip(*((m.x, m.y) for m in drawn), strict=True)
                look: dict[str, Any] = {"facecolor": face, "edgecolor": edge, "marker": marker}
                ax.scatter(x, y, s=size, **look, label=name + tail, zorder=4)
            marks += drawn
    return marks


def _any_measured(finals: Iterable[FinalNetwork]) -> bool:
    return any(final.measured is not None for final in finals)


def _mark(ax: Axes, final: FinalNetwork, color: str) -> _Mark:
    """Draw a network's intervals, and return its mark."""
    values = [100 * value for value in words.accuracies(final)]
    x, y = final.latency_ms or 0.0, statistics.fmean(values)
    if len(values) > 1:
        ax.errorbar(x, y, yerr=statistics.stdev(values), color=color, lw=1, capsize=2, zorder=3)
    timed, low, high = final.measured, final.predicted_low, final.predicted_high
    low, high = (low, high) if timed is None else (timed.low, timed.high)
    if low is not None and high is not None:
        ax.plot([low, high], [y, y], color=color, lw=1, zorder=3)
    return _Mark(x, y, final.name, color, 6)


def _latency_axis(ax: Axes, outcome: Outcome) -> None:
    """Make the axis of latencies logarithmic, with the budget and ticks that read well."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_xlabel("latency, ms")
    ax.set_xscale("log")
    ax.grid(visible=True, color="#e5e8ec", lw=0.6)
    ax.set_axisbelow(True)
    if outcome.max_latency_ms > 0:
        ax.axvline(outcome.max_latency_ms, color="#888888", lw=1, ls="--", zorder=0, label="budget")
    low, high = ax.get_xlim()
    if high / low < 1.3:  # one point alone, say
        low, high = low / 1.2, high * 1.2
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(ticks(low, high)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def ticks(low: float, high: float) -> list[float]:
    """Return 3 to 9 round numbers of a logarithmic axis, 4 or more where there are."""
    wide = [_within(digits, low, high) for digits in _TICKS]
    even = [_even(d * 10.0**power, low, high) for power in range(9, -10, -1) for d in _STEPS]
    return next(
        values for least in (4, 3) for values in (*wide, *even) if least <= len(values) <= 9
    )


def _within(digits: Sequence[float], low: float, high: float) -> list[float]:
    values = (float(f"{d * 10.0**power:.6g}") for power in range(-9, 10) for d in digits)
    return [value for value in values if low <= value <= high]


def _even(step: float, low: float, high: float) -> list[float]:
    """Return the multiples of a step from low to high; none where there are far too many."""
    first, last = math.ceil(low / step), math.floor(high / step)
    if last - first > 99:
        return []
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


# -- names that do not lie on one another ----------------------------------------------------------


def _name(ax: Axes, marks: Sequence[_Mark]) -> None:
    """Write the marks' names where they cover least."""
    figure: Any = ax.figure
    pixels = figure.dpi / 72  # of a point
    inside = ax.get_window_extent()
    taken: list[Box] = [_around(ax, mark, pixels) for mark in marks]
    legend = ax.get_legend()
    if legend is not None:
        box = legend.get_window_extent()
        taken.append((box.x0, box.y0, box.x1, box.y1))
    frame = (inside.x0, inside.y0, inside.x1, inside.y1)
    for mark in sorted((m for m in marks if m.text), key=lambda m: -m.y):
        size = _size(ax, mark.text)
        at = ax.transData.transform((mark.x, mark.y))
        places = [
            (place((at[0], at[1]), size, direction, distance * pixels), direction, distance)
            for distance, direction in itertools.product(_DISTANCES, _DIRECTIONS)
        ]
        box_, direction, distance = min(places, key=lambda p: (_cost(p[0], taken, frame), p[2]))
        taken.append(box_)
        _write(ax, mark, direction, distance)


def _around(ax: Axes, mark: _Mark, pixels: float) -> Box:
    x, y = ax.transData.transform((mark.x, mark.y))
    reach = mark.reach * pixels
    return (x - reach, y - reach, x + reach, y + reach)


def _size(ax: Axes, text: str) -> tuple[float, float]:
    """Return width and height of a name, pixels."""
    trial = ax.text(0, 0, text, fontsize=8)
    box = trial.get_window_extent()
    trial.remove()
    return box.width, box.height


def place(
    at: tuple[float, float], size: tuple[float, float], direction: tuple[int, int], distance: float
) -> Box:
    """Return the box of a label of that size, in that direction from a point."""
    x, y = at[0] + direction[0] * distance, at[1] + direction[1] * distance
    left = x - size[0] * (1 - direction[0]) / 2
    bottom = y - size[1] * (1 - direction[1]) / 2
    return (left, bottom, left + size[0], bottom + size[1])


def _cost(box: Box, taken: Iterable[Box], frame: Box) -> float:
    """Return the area that lies on something else, and far more for what leaves the frame."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    outside = area - overlap(box, frame)
    return round(sum(overlap(box, other) for other in taken) + 10 * outside, 3)


def overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _write(ax: Axes, mark: _Mark, direction: tuple[int, int], distance: float) -> None:
    sides, ends = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}
    line = {"arrowstyle": "-", "color": mark.color, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    ax.annotate(
        mark.text,
        (mark.x, mark.y),
        (direction[0] * distance, direction[1] * distance),
        textcoords="offset points",
        fontsize=8,
        color=mark.color,
        ha=sides[direction[0]],
        va=ends[direction[1]],
        arrowprops=line if distance > _DISTANCES[0] else None,
        zorder=5,
    )
