"""Writes docs/latency-results.md from the result files under results/ and the tables under latency_tables/.

    python scripts/make_latency_docs.py [--check]

Every figure there comes from a committed file, which carries its command, seeds, versions and machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "latency-results.md"
ROLES = {"held_out": "bands", "uniform": "uniform"}
METHODS = {
    "fit": "the table (`shrunk`, in whole microseconds)",
    "noise_floor": "noise floor: the same networks measured again",
    "shrunk": "`shrunk`",
    "networks": "`networks`",
    "kinds": "`kinds`",
    "macs": "`macs`",
    "affine_sum": "`affine_sum`",
    "sum": "`sum`",
}


def results(pattern: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file name, contents) of result files."""
    for path in sorted((ROOT / "results").glob(pattern)):
        yield path.name, json.loads(path.read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table; all columns but the first to the right."""
    line = "| " + " | ".join(head) + " |"
    rule = "| --- |" + " ---: |" * (len(head) - 1)
    return [line, rule, *("| " + " | ".join(row) + " |" for row in rows)]


def origin(name: str, data: dict[str, Any]) -> str:
    """Return where figures come from, in one line."""
    machine = data["machine"]
    return (
        f"From `results/{name}` (`{data['command']}`; {machine['cpu']}, {machine['cores']} cores)."
    )


def profile_runs() -> Iterator[str]:
    """Yield the section on three tables built from nothing."""
    for name, data in results("profile-runs-*.json"):
        yield "## How wrong a table is\n"
        yield origin(name, data) + " Three tables of `pplcnet_tail`, each built from nothing.\n"
        head = ["run", "seconds", "networks to fit", "held-out", "MAPE", "noise floor", "sum", "tau", "tau of the floor", "in the 90 % interval"]  # fmt: skip
        rows = []
        for run in data["runs"]:
            e = run["errors"]["held_out"]
            rows.append(
                [
                    str(run["seed"]),
                    f"{run['seconds']:.0f}",
                    str(run["calibration"]),
                    str(e["fit"]["n"]),
                ]
                + [percent(e[k]["mape"]) for k in ("fit", "noise_floor", "sum")]
                + [
                    f"{e['fit']['tau']:.3f}",
                    f"{e['noise_floor']['tau']:.3f}",
                    percent(e["coverage_90"], 0),
                ]
            )
        p = data["pooled"]
        rows.append(
            ["pooled", "", "", str(p["n"]), percent(p["mape"]), percent(p["mape_floor"]), ""]
            + [spread(p["tau"]), spread(p["tau_floor"]), percent(p["coverage_90"], 0)]
        )
        yield from table(head, rows)
        yield "\nAll methods, mean over the runs (standard deviation), in latency bands and uniform over the space:\n"
        yield from table(
            ["method", "bands: MAPE", "within 10 %", "tau", "uniform: MAPE"],
            method_rows(data["runs"]),
        )
        yield "\nThe table's error by latency band (parts of log latency), first run:\n"
        bands = data["runs"][0]["errors"]["held_out"]["bands"]
        rows = [
            [f"{b['from_ms']:.2f} to {b['to_ms']:.2f} ms", str(b["n"]), percent(b["mape"])]
            for b in bands
        ]
        yield from table(["band", "n", "MAPE"], rows)
        yield ""


def method_rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """Return a row a method with means and deviations over runs."""
    out = []
    for key, title in METHODS.items():
        held = [run["errors"]["held_out"][key] for run in runs]
        uniform = [run["errors"]["uniform"][key]["mape"] for run in runs]
        out.append(
            [
                title,
                over([e["mape"] for e in held]),
                percent(mean([e["within_10"] for e in held]), 0),
            ]
            + [f"{mean([e['tau'] for e in held]):.3f}", over(uniform)]
        )
    return out


def context() -> Iterator[str]:
    """Yield the section on blocks measured in context."""
    for name, data in results("context-blocks-*.json"):
        yield "## Blocks measured in context\n"
        yield origin(name, data) + f" {data['held_out']} held-out networks.\n"
        rows = [[k, percent(e["mape"]), f"{e['tau']:.3f}"] for k, e in data["errors"].items()]
        yield from table(["method", "MAPE", "tau"], rows)
        yield ""


def committed_tables() -> Iterator[str]:
    """Yield the section on the tables that come with the package."""
    yield "## The tables that are here\n"
    for path in sorted((ROOT / "latency_tables").glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        yield f"`latency_tables/{path.name}`: {len(data['rows'])} rows, {len(data['networks'])} whole networks.\n"
        rows = []
        for space, roles in data["errors"].items():
            for role, errors in roles.items():
                for key in ("fit", "noise_floor", "sum"):
                    e = errors[key]
                    title = f"{space}, {ROLES[role]}: {METHODS[key]}"
                    rows.append([title, str(e["n"]), percent(e["mape"]), f"{e['tau']:.3f}"])
        yield from table(["", "n", "MAPE", "tau"], rows)
        yield ""


def baselines() -> Iterator[str]:
    """Yield the zoo side by side, and the paper's ablation."""
    for name, data in results("latency-[!s]*.json"):
        settings = list(data["settings"])
        yield "## The zoo side by side\n"
        yield (
            origin(name, data)
            + " Latency in ms; networks of one column were measured interleaved.\n"
        )
        if settings:
            first = data["settings"][settings[0]]
            rows = [
                [f"`{n}`", *(cell(data["settings"][s].get(n)) for s in settings)] for n in first
            ]
            yield from table(["network", *settings], rows)
            yield ""
        for setting, found in data["ablation"].items():
            yield f"### The paper's latency claims, {setting}\n"
            yield "Ratio to PP-LCNet 0.5x, with its 90 % interval; the paper's from its own milliseconds.\n"
            rows = [
                [
                    n,
                    f"{e['ratio']:.3f} ({e['ratio_interval'][0]:.3f} to {e['ratio_interval'][1]:.3f})",
                ]
                + ["" if e["paper_ratio"] is None else f"{e['paper_ratio']:.3f}"]
                for n, e in found.items()
            ]
            yield from table(["network", "here", "paper"], rows)
            yield ""


def duet() -> Iterator[str]:
    """Yield the section on measuring candidate and reference at once."""
    for name, data in results("duet-*.json"):
        yield "## A duet does not help\n"
        yield (
            origin(name, data)
            + " Candidate and reference at once, one a core, against one after the other.\n"
        )
        rows = [
            ["one after the other", over(data["floor_solo"]), ""],
            ["at once", over(data["floor_duet"]), percent(data["bias_mean_abs"])],
        ]
        yield from table(["", "noise floor (standard deviation)", "shift of ratios, mean"], rows)
        yield ""


def third_party() -> Iterator[str]:
    """Yield the section on files of others."""
    for name, data in results("third-party-onnx-*.json"):
        yield "## ONNX files of others\n"
        yield (
            origin(name, data)
            + " Ratio of lcnas.measure to onnxruntime's own timing, its profiler's model_run (which itself costs time a node on mlas).\n"
        )
        rows = [
            [k, f"{e['lcnas_ms']:.3f}", f"{e['onnxruntime_ms']:.3f}"]
            + [
                f"{e['ratio_median']:.3f} ± {e['ratio_std']:.3f}",
                f"{e['floor_median']:.3f} ± {e['floor_std']:.3f}",
            ]
            for k, e in data["files"].items()
        ]
        yield from table(
            ["file, engine", "lcnas ms", "onnxruntime ms", "ratio", "lcnas again / lcnas"], rows
        )
        yield ""


def cell(entry: dict[str, Any] | None) -> str:
    """Return a latency with its interval."""
    if entry is None:
        return ""
    low, high = entry["interval"]
    return f"{entry['ms']:.2f} ({low:.2f}–{high:.2f})"


def percent(share: float, digits: int = 1) -> str:
    """Return "2.5 %"."""
    return f"{100 * share:.{digits}f} %"


def mean(values: list[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def over(values: list[float]) -> str:
    """Return the mean and the standard deviation of shares."""
    middle = mean(values)
    deviation = (sum((v - middle) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5
    return f"{percent(middle)} ({100 * deviation:.1f})"


def spread(triple: list[float]) -> str:
    """Return a value with its interval."""
    return f"{triple[0]:.3f} ({triple[1]:.3f} to {triple[2]:.3f})"


def render() -> str:
    """Return the whole page."""
    lines = [
        "# Latency: what was measured",
        "",
        "<!-- Made by scripts/make_latency_docs.py from results/ and latency_tables/; do not edit. -->",
        "",
        "One machine's figures. [latency.md](latency.md) says what they mean and how they were made.",
        "",
    ]
    for section in (profile_runs, context, committed_tables, duet, third_party, baselines):
        lines += section()
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    if "--check" in sys.argv[1:]:
        return 0 if PATH.is_file() and PATH.read_text(encoding="utf-8") == render() else 1
    PATH.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
