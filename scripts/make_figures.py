"""Writes the figures of docs/explanation from committed results and tables; with --check only compares.

Exit code: 1 where --check finds a figure out of date.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lcnas import latency, spaces
from lcnas.latency.table import LatencyTable, MeasuredNetwork

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "explanation" / "figures"
TABLE = ROOT / "latency_tables" / "amd-epyc-avx512bf16-openvino1.24.1-fp32-t1-b1.json"
SPACE = "pplcnet_tail"
GREEN, RED, BLUE, GREY = "#0a7d4b", "#c2410c", "#1d4ed8", "#5b6b7f"


def _axes(title: str, x: str, y: str, size: tuple[float, float] = (6.4, 3.6)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e5e7eb")
    axes.set_axisbelow(True)
    return figure, axes


def _networks(table: LatencyTable) -> list[MeasuredNetwork]:
    return [n for n in table.networks if n.space == SPACE and n.predicted_ms is not None]


def measurement() -> Figure:
    """Widths of intervals, and differences of two measurements, against latency."""
    table = LatencyTable.load(TABLE)
    figure, axes = _axes("noise of a measurement", "latency, ms", "relative to the latency, %")
    networks = [n for n in table.networks if n.space == SPACE]
    widths = [100 * (n.high - n.low) / n.ms for n in networks]
    axes.scatter([n.ms for n in networks], widths, 9, GREY, label="width of the 90 % interval")
    twice = [n for n in networks if n.again_ms]
    again = [100 * abs(float(n.again_ms or 0) / n.ms - 1) for n in twice]
    axes.scatter([n.ms for n in twice], again, 14, GREEN, marker="x", label="measured again")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def prediction() -> Figure:
    """Held-out networks: the sum of the blocks alone, and the table's prediction."""
    table = LatencyTable.load(TABLE)
    figure, axes = _axes("held-out networks", "measured, ms", "predicted, ms", (5.2, 4.2))
    held = [n for n in _networks(table) if n.role == "held_out"]
    measured = [n.ms for n in held]
    alone = [sum(table.entries[p].ms for p in n.placed) for n in held]
    axes.scatter(measured, alone, 12, RED, marker="s", label="sum of the blocks alone")
    axes.scatter(measured, [n.predicted_ms for n in held], 14, GREEN, label="the table")
    ends = [min(measured), max(measured)]
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.legend(frameon=False)
    return figure


def budgets() -> Figure:
    """The exact number of networks of a space below each latency."""
    table, space = LatencyTable.load(TABLE), spaces.load(SPACE)
    full = latency.Budget(space, table, max_ms=1e6)
    low, high = (full.cost(a) / 1000 for a in (full.fastest(), full.slowest()))
    limits = np.geomspace(low * 1.01, high, 24)
    counts = [latency.Budget(space, table, max_ms=float(ms)).count() for ms in limits]
    title = f"{SPACE}: networks within a budget, counted exactly"
    figure, axes = _axes(title, "maximum latency, ms", "networks")
    axes.plot(limits, counts, color=BLUE, marker="o", markersize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    return figure


_STEPS = (
    ("space", "latency table\nof this CPU"),
    ("networks within\nthe budget", "counted exactly"),
    ("searcher", "proposes by seed\nand earlier results"),
    ("evaluator", "estimates accuracy:\na trial each"),
    ("front", "by latency\nand accuracy"),
    ("finalists", "measured whole,\nwith baselines"),
    ("final evaluation", "trained alike,\nfiles tested once"),
)


def search() -> Figure:
    """The flow of a search."""
    figure = Figure(figsize=(10.5, 2.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    box: dict[str, Any] = {"boxstyle": "round,pad=0.5", "facecolor": "#f1f5f9", "edgecolor": GREY}
    for i, (name, text) in enumerate(_STEPS):
        axes.text(i, 0.6, name, ha="center", va="center", fontsize=9, weight="bold", bbox=box)
        axes.text(i, 0.12, text, ha="center", va="center", fontsize=8, color=GREY)
        if i:
            arrow = {"arrowstyle": "->", "color": GREY}
            axes.annotate("", (i - 0.4, 0.6), (i - 0.6, 0.6), arrowprops=arrow)
    back = {"arrowstyle": "->", "color": GREEN, "connectionstyle": "arc3,rad=0.35"}
    axes.annotate("", (2, 0.78), (3, 0.78), arrowprops=back)
    axes.text(2.5, 1.06, "results", ha="center", fontsize=8, color=GREEN)
    axes.set_xlim(-0.6, len(_STEPS) - 0.4)
    axes.set_ylim(-0.1, 1.2)
    return figure


def statistics() -> Figure:
    """The comparisons of the committed searches, each with its interval."""
    rows = []
    for path in sorted((ROOT / "results" / "searches").glob("*.json")):
        duels = json.loads(path.read_text(encoding="utf-8"))["duels"]
        rows += [(f"{path.stem}: {d['winner']} against {d['baseline']}", d) for d in duels]
    title = "winners against baselines of the committed searches"
    figure, axes = _axes(
        title, "difference of test accuracy, points", "", (8, 0.5 * len(rows) + 1.2)
    )
    for i, (_, duel) in enumerate(rows):
        color = GREEN if duel["low"] > 0 else GREY
        axes.plot([duel["low"], duel["high"]], [i, i], color=color)
        axes.plot(duel["difference"], i, "o", color=color)
    axes.set_yticks(range(len(rows)), [text for text, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=RED, linewidth=1)
    return figure


def supernet() -> Figure:
    """Kendall's tau of evaluators with long trainings, over three experiments."""
    data = json.loads((ROOT / "results" / "evaluators.json").read_text(encoding="utf-8"))
    names = {
        "train 2": "training, 2 epochs",
        "macs": "MACs",
        "naswot": "NASWOT",
        "swap": "SWAP",
        "supernet 0": "supernet, distilled",
        "supernet 1": "supernet, labels",
        "synflow": "synflow",
        "gradient_norm": "gradient norm",
    }
    title = "ranking of networks of one latency band"
    figure, axes = _axes(title, "Kendall's tau with the accuracy of long trainings", "", (7, 3.4))
    for i, name in enumerate(names):
        low, high = data["tau"][name]["tau_90"]
        color = GREEN if low > 0 else GREY
        axes.plot([low, high], [i, i], color=color)
        axes.plot(data["tau"][name]["tau"], i, "o", color=color)
    axes.set_yticks(range(len(names)), list(names.values()), fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=RED, linewidth=1)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "measurement": measurement,
    "prediction": prediction,
    "budgets": budgets,
    "search": search,
    "statistics": statistics,
    "supernet": supernet,
}


def render(name: str) -> str:
    """Return a figure as SVG; the same data give the same text."""
    with mpl.rc_context(
        {"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        buffer = io.StringIO()
        FIGURES[name]().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def main(argv: list[str]) -> int:
    """Write all figures, or compare them; return the exit code."""
    FOLDER.mkdir(exist_ok=True)
    for name in FIGURES:
        path, text = FOLDER / f"{name}.svg", render(name)
        if "--check" in argv:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                return 1
        else:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
