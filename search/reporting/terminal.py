"""The last thing that a search prints: finalists beside their baselines, and whether anything is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.outcome import FinalNetwork, Outcome
from search.reporting import verdicts, words
from search.reporting.content import in_order, title

_LONGEST = 20  # characters of a name in one line

if TYPE_CHECKING:
    from rich.console import RenderableType


def table(outcome: Outcome, folder: Path | None = None) -> RenderableType:
    """Return what a terminal shows of an outcome.

    Args:
        outcome: of the search.
        folder: of the search, for the hits that intervals rest on, and before the paths of files; None: paths
            are relative, and intervals rest on the accuracies of seeds alone.
    """
    from rich.console import Group
    from rich.text import Text

    bands = verdicts.bands(outcome, folder)
    lines = [f"  band {band.number + 1}: {verdicts.sentence(band)}" for band in bands]
    lines += [verdicts.headline(bands, outcome)]
    parts: list[RenderableType] = []
    if outcome.warning:
        parts.append(Text(f"warning: {outcome.warning}\n", "bold"))
    if outcome.finals:
        parts += [_rows(outcome), Text(_files(outcome, folder)), Text("")]
    return Group(*parts, Text("\n".join([*lines, *_small_print(outcome, bands)])))


def _small_print(outcome: Outcome, bands: tuple[verdicts.Band, ...]) -> list[str]:
    notes = [*verdicts.caveats(bands), *outcome.notes]
    return [f"  note: {note}" for note in notes]


def _rows(outcome: Outcome) -> RenderableType:
    """Return the table, narrow enough for 80 columns: intervals stand below their figures."""
    from rich.table import Table
    from rich.text import Text

    read = "test" if any(words.tested(final.runs) for final in outcome.finals) else "validation"
    table = Table(title=title(outcome), title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("network", overflow="fold")
    heads = (f"{read}\naccuracy %", "predicted\nms", "measured\nms", "params", "MACs")
    for head in (*heads, "ImageNet\ntop-1 %"):
        table.add_column(head, justify="right", no_wrap=True)
    for final in in_order(outcome.finals):
        style = "bold" if final.winner else ""
        table.add_row(*(Text(cell, style) for cell in _cells(final)))
    return table


def _cells(final: FinalNetwork) -> tuple[str, ...]:
    mark = "* " if final.winner else "  "
    measured = final.measured
    return (
        mark + _folded(final.name),
        _with_fp32(final),
        _stacked(final.predicted_ms, words.between(final.predicted_low, final.predicted_high)),
        _stacked(None if measured is None else measured.ms, words.interval(measured)),
        words.large(final.params),
        words.large(final.macs),
        "" if final.published_top1 is None else f"{final.published_top1:g}",
    )


def _with_fp32(final: FinalNetwork) -> str:
    """Return the accuracy, and below it that of the fp32 twin of a file in another precision."""
    twin = words.accuracy_fp32(final)
    return words.accuracy(final) + (f"\nfp32 {twin}" if twin else "")


def _folded(name: str) -> str:
    """Return a name in two lines where it is long, parted at an underscore."""
    cut = name.rfind("_", 0, _LONGEST) + 1
    return name if len(name) <= _LONGEST or not cut else f"{name[:cut]}\n    {name[cut:]}"


def _stacked(ms: float | None, interval: str) -> str:
    if ms is None:
        return ""
    return f"{words.ms(ms)}\n{interval}" if interval else words.ms(ms)


def _engines(outcome: Outcome) -> list[str]:
    """Return what ran the files for their accuracies, and what measured them."""
    size = words.resolution(outcome)
    if outcome.measured_by == outcome.tested_by:
        return [
            f"  accuracy and latency of the exported files at {size} px, run by {outcome.tested_by}"
        ]
    measured = f"; latencies measured by {outcome.measured_by}" if outcome.measured_by else ""
    return [f"  accuracy of the exported files at {size} px, run by {outcome.tested_by}{measured}"]


def _files(outcome: Outcome, folder: Path | None) -> str:
    """Return the path of each network's ONNX file, a line each, under a line that explains the table."""
    lines = [
        "* winner of its band, named by validation; ± over seeds; intervals of latencies of 90 %"
    ]
    if outcome.tested_by and not outcome.warning:
        lines += _engines(outcome)
    for final in in_order(outcome.finals):
        run = words.best_run(final)
        if run is not None and run.onnx:
            path = run.onnx if folder is None else str(folder / run.onnx)
            lines.append(f"  {final.name}: {path}")
    return "\n".join(lines)
