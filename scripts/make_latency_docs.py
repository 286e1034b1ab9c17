"""Writes docs/results/latency.md from the result files under results/ and the tables under latency_tables/.

    python scripts/make_latency_docs.py [--check]

Every figure there comes from a committed file, which carries its command, seeds, versions and machine.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "results" / "latency.md"
ROLES = {"held_out": "bands", "uniform": "uniform"}
SETTINGS = [f"{e}-t{t}-{p}" for p in ("fp32", "int8") for e in ("openvino", "mlas") for t in (1, 2)]

COVERAGE = (0.85, 0.95)  # what a 90 % interval is asked to hold
MARGIN = 0.02  # of a latency: costs that differ by less are called equal
WIDE = 0.10  # an interval that is wider decides nothing
FULL = "PP-LCNet 0.5x"
# Each rule of the paper: (step, network with it, network without). Costs are ratios of the two latencies.
RULES = {
    "h-swish instead of ReLU": (
        ("added to the BaseNet", "BaseNet + h-swish", "BaseNet"),
        ("taken away from the whole", FULL, "without h-swish"),
    ),
    "5x5 kernels in the tail": (
        ("added", "BaseNet + h-swish + 5x5", "BaseNet + h-swish"),
        ("taken away from the whole", FULL, "without 5x5"),
    ),
    "SE in the last two blocks": (
        ("added", "BaseNet + h-swish + 5x5 + SE", "BaseNet + h-swish + 5x5"),
        ("taken away from the whole", FULL, "without SE"),
    ),
    "the 1280 convolution": (
        ("added", FULL, "BaseNet + h-swish + 5x5 + SE"),
        ("taken away (the same network again)", FULL, "without the 1280 conv"),
    ),
    "SE elsewhere, against the last two blocks": (
        ("in the first two blocks", "SE at 1100000000000", FULL),
        ("in the middle two", "SE at 0000001100000", FULL),
        ("in all 13", "SE at 1111111111111", FULL),
    ),
    "5x5 elsewhere, against the tail": (
        ("in the first seven blocks", "5x5 at 1111111000000", FULL),
        ("in all 13", "5x5 at 1111111111111", FULL),
    ),
}
# What later papers changed: (change, network with it, network without).
LATER = (
    ("ReLU for h-swish", "without h-swish", FULL),
    ("shortcuts where shapes allow", "shortcuts where shapes allow", FULL),
    ("widths in multiples of 16 instead of 8", "widths in multiples of 16", FULL),
    ("widths in multiples of 32 instead of 8", "widths in multiples of 32", FULL),
)
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
                for key in ("fit", "noise_floor", "networks", "sum"):
                    rows.append(error_row(f"{space}, {ROLES[role]}: {METHODS[key]}", errors[key]))
                    rows[-1].append(percent(errors["coverage_90"], 0) if key == "fit" else "")
        yield from table(
            ["", "n", "MAPE", "within 5 %", "within 10 %", "tau", "in the 90 % interval"], rows
        )
        yield ""
        yield from coverage(data["errors"])


def error_row(title: str, e: dict[str, Any]) -> list[str]:
    """Return the cells of one method's errors over one set of networks."""
    shares = [percent(e["within_5"], 0), percent(e["within_10"], 0)]
    return [title, str(e["n"]), percent(e["mape"]), *shares, f"{e['tau']:.3f}"]


def coverage(data: dict[str, Any]) -> Iterator[str]:
    """Yield how many networks the 90 % intervals held, in words, set by set and over all."""
    sets = [
        (f"{space}, {ROLES[role]}", errors["fit"]["n"], errors["coverage_90"])
        for space, roles in data.items()
        for role, errors in roles.items()
    ]
    if not sets:
        return
    n = sum(size for _, size, _ in sets)
    inside = round(sum(size * share for _, size, share in sets))
    low, high = COVERAGE
    short = ", fewer than they should" if inside / n < low else ""
    off = [
        f"{name} ({percent(share, 1)} of {size}, {'too few' if share < low else 'too many'})"
        for name, size, share in sets
        if not low <= share <= high
    ]
    sizes = ", ".join(
        f"{100 * math.sqrt(0.9 * 0.1 / size):.0f} points with {size} networks"
        for size in sorted({n, *(size for _, size, _ in sets)})
    )
    yield (
        f"The table's 90 % intervals hold {inside} of these {n} networks ({percent(inside / n)}{short}). One pair of bounds serves "
        "all of a table's spaces: residuals of all its networks to fit, pooled. "
        + (
            f"Outside {percent(low, 0)} to {percent(high, 0)}: {'; '.join(off)}. "
            if off
            else f"Every set lies within {percent(low, 0)} to {percent(high, 0)}. "
        )
        + f"By chance alone such a share has a standard deviation of {sizes}.\n"
    )


def baselines() -> Iterator[str]:
    """Yield the zoo side by side, and the paper's ablation."""
    for name, data in results("latency-[!s]*.json"):
        settings = [s for s in SETTINGS if s in data["settings"]]
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
            yield from widths({s: data["settings"][s] for s in settings})
            yield from schemes(settings, data.get("engines", {}))
        yield from rules(data["ablation"])
        for setting in (s for s in SETTINGS if s in data["ablation"]):
            costs = data["ablation"][setting]
            yield f"### The paper's latency claims, {setting}\n"
            yield "Ratio to PP-LCNet 0.5x, with its 90 % interval; the paper's from its own milliseconds.\n"
            rows = [
                [
                    n,
                    f"{e['ratio']:.3f} ({e['ratio_interval'][0]:.3f} to {e['ratio_interval'][1]:.3f})",
                ]
                + ["" if e["paper_ratio"] is None else f"{e['paper_ratio']:.3f}"]
                for n, e in costs.items()
            ]
            yield from table(["network", "here", "paper"], rows)
            yield ""


def schemes(settings: list[str], versions: dict[str, str]) -> Iterator[str]:
    """Say which int8 columns are of files that `quantise` doesn't make by default."""
    whole_int8 = [s for s in settings if s.endswith("int8") and "+int8" not in versions.get(s, "")]
    if whole_int8:
        yield (
            f"{', '.join(whole_int8)}: with everything quantised (scheme `all`), as the timing engine did when this was measured; now it "
            "quantises as the export does (`dense`), and latencies of int8 files are those in "
            "[training.md](training.md#int8).\n"
        )


def width(entries: dict[str, dict[str, Any]]) -> float:
    """Return the median width of the intervals of a column, relative to the latency."""
    own = [(e["interval"][1] - e["interval"][0]) / e["ms"] for e in entries.values()]
    return float(statistics.median(own))


def widths(data: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield how wide the intervals of each column are."""
    texts = [f"{setting} {percent(width(entries), 0)}" for setting, entries in data.items()]
    yield (
        f"Median width of a 90 % interval, relative to the latency: {', '.join(texts)}. Where it is tens of per cent, the "
        "figures tell little but the order of magnitude.\n"
    )


Cost = tuple[float, float, float]  # of a change, relative to the latency without it; 90 % interval


def cost(data: dict[str, Any], having: str, lacking: str) -> Cost:
    """Return what a change costs: the intervals of both latencies combined as independent ones."""
    a, b = data[having], data[lacking]

    def half(up: int, down: int) -> float:
        """Return the half-width, as a logarithm, of the ratio towards larger (1) or smaller (0) values."""
        return math.hypot(
            math.log(a["interval"][up] / a["ms"]), math.log(b["interval"][down] / b["ms"])
        )

    ratio = a["ms"] / b["ms"]
    return ratio - 1, ratio * math.exp(-half(0, 1)) - 1, ratio * math.exp(half(1, 0)) - 1


def verdict(paper: float, here: Cost) -> str:
    """Return whether a cost of the paper holds here, in words."""
    _, low, high = here
    if low > paper + MARGIN:
        return "dearer here"
    if high < paper - MARGIN:
        return "cheaper here"
    return "holds" if high - low <= WIDE else "undecided"


def price(here: Cost) -> str:
    """Return what a change of which the paper gives no figure costs, in words."""
    _, low, high = here
    if low > MARGIN:
        return "costs"
    if high < -MARGIN:
        return "saves"
    return "free" if low >= -MARGIN and high <= MARGIN else "undecided"


def rules(ablation: dict[str, Any]) -> Iterator[str]:
    """Yield the verdict on each rule of the paper, and the price of what later papers changed."""
    settings = [s for s in SETTINGS if s in ablation]
    if not settings:
        return
    yield "### The paper's rules, one by one\n"
    yield (
        "What each rule of PP-LCNet (arXiv 2109.15099, tables 4 to 7: 0.5x on a Xeon Gold 6148, 10 threads) costs "
        "there and here, as a share of the latency without it, with a 90 % interval. A cost *holds* if the paper's is "
        f"within {100 * MARGIN:.0f} points of the interval and the interval is at most {100 * WIDE:.0f} points wide "
        "(else it is *undecided*); it is *dearer* or *cheaper here* if the whole interval is more than "
        f"{100 * MARGIN:.0f} points above or below.\n"
    )
    rows, words = [], []
    undecided = dict.fromkeys(settings, 0)
    for rule, steps in RULES.items():
        verdicts: dict[str, list[str]] = {s: [] for s in settings}
        for step, having, lacking in steps:
            row = [f"{rule}: {step}"]
            first = ablation[settings[0]]
            paper = first[having]["paper_ms"] / first[lacking]["paper_ms"] - 1
            row.append(signed(paper))
            for setting in settings:
                here = cost(ablation[setting], having, lacking)
                verdicts[setting].append(verdict(paper, here))
                undecided[setting] += verdicts[setting][-1] == "undecided"
                row.append(f"{shown(here)}: {verdicts[setting][-1]}")
            rows.append(row)
        names = [step for step, _, _ in steps]
        costs = ", ".join(
            f"{row[1]} {name}" for row, name in zip(rows[-len(steps) :], names, strict=True)
        )
        summary = "; ".join(f"{s}: {summed(names, v)}" for s, v in verdicts.items())
        words.append(f"- **{rule}** (paper: {costs}). {summary}.")
    yield from table(["rule", "paper", *settings], rows)
    yield ""
    counts = ", ".join(f"{setting} {n}" for setting, n in undecided.items())
    yield f"Undecided, of {len(rows)}: {counts}.\n"
    yield from words
    yield ""
    yield (
        "What later papers changed, at 0.5x, against PP-LCNet's own way: it *costs* or *saves* if the whole interval is "
        f"more than {100 * MARGIN:.0f} points off, and is *free* if the whole interval is within.\n"
    )
    rows = []
    for change, having, lacking in LATER:
        changes = [cost(ablation[s], having, lacking) for s in settings]
        rows.append([change, *(f"{shown(c)}: {price(c)}" for c in changes)])
    yield from table(["change", *settings], rows)
    yield ""


def summed(steps: list[str], verdicts: list[str]) -> str:
    """Return the verdicts on a rule's steps as one, or one by one where they differ."""
    if len(set(verdicts)) == 1:
        return f"**{verdicts[0]}**"
    return ", ".join(f"{step} **{word}**" for step, word in zip(steps, verdicts, strict=True))


def signed(share: float) -> str:
    """Return "+3 %"."""
    return f"{100 * share:+.1f} %"


def shown(here: Cost) -> str:
    """Return a cost with its interval."""
    return f"{signed(here[0])} ({100 * here[1]:+.1f} to {100 * here[2]:+.1f})"


def pair_terms() -> Iterator[str]:
    """Yield the section on terms for pairs of neighbours."""
    titles = {
        "shrunk": "`shrunk`",
        "pairs": "`shrunk` and pairs",
        "pairs, all widths fitted anew": "`shrunk` and pairs, all prior widths fitted anew",
        "noise floor": METHODS["noise_floor"],
        "sum": "`sum`",
    }
    for name, data in results("pair-terms-*.json"):
        yield "## Terms for pairs of neighbours\n"
        yield origin(name, data) + f" Networks measured on {data['measured_on']}.\n"
        for stem, study in data["tables"].items():
            tried = dict(study["cross_validation"])
            none, best = tried.pop("none"), study["chosen"]
            better = "lowers it to" if tried[best] < none else "gives"
            yield (
                f"`latency_tables/{stem}.json`: {study['calibration']} networks to fit, {study['kinds_of_pairs']} kinds of "
                f"pairs. The cross-validated error on networks to fit is {percent(none, 2)} without pairs; of the "
                f'{len(tried)} prior widths tried, the best ("{best}") {better} {percent(tried[best], 2)}, the worst '
                f"{percent(max(tried.values()), 2)}.\n"
            )
            rows = []
            for space, roles in study["errors"].items():
                for role, entry in roles.items():
                    for key, title in titles.items():
                        e = entry[key]
                        rows.append(
                            [
                                f"{space}, {ROLES[role]}: {title}",
                                str(e["n"]),
                                percent(e["mape"], 2),
                                f"{e['tau']:.3f}",
                            ]
                        )
            yield from table(["", "n", "MAPE", "tau"], rows)
            yield ""
            for space, roles in study["errors"].items():
                for role, entry in roles.items():
                    yield f"- {space}, {ROLES[role]}: pairs {changed(entry['change'])}."
            yield ""


def changed(change: list[float]) -> str:
    """Return what pairs do to the error, in words."""
    middle, low, high = (100 * x for x in change)
    figures = f"{middle:+.2f} points (90 % interval {low:+.2f} to {high:+.2f})"
    if high < 0:
        return f"lower the held-out error: {figures}"
    if low > 0:
        return f"raise the held-out error: {figures}"
    return f"make no difference that shows: {figures}"


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
            + f" Ratio of lcnas.measure to onnxruntime's own timing, {data.get('peer', 'the model_run of its profiler (which itself costs time a node on mlas)')}.\n"
        )
        rows = [
            [k, f"{e['lcnas_ms']:.3f}", f"{e['onnxruntime_ms']:.3f}"]
            + [
                f"{e['ratio_median']:.3f} ± {e['ratio_std']:.3f}",
                f"{e['floor_median']:.3f} ± {e['floor_std']:.3f}",
            ]
            + ([f"{'yes' if e['agrees'] else 'no'}"] if "agrees" in e else [])
            for k, e in data["files"].items()
        ]
        head = ["file, engine", "lcnas ms", "onnxruntime ms", "ratio", "lcnas again / lcnas"]
        agreeing = len(rows[0]) > len(head)
        yield from table([*head, "agrees"] if agreeing else head, rows)
        yield ""
        if agreeing:
            yield (
                "It agrees if the median ratio is no further from 1 than two measurements by lcnas in one turn are "
                "from each other, on average.\n"
            )


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
        "One machine's figures. [Measuring latency](../explanation/measurement.md) and [Predicting latency](../explanation/prediction.md) explain what they mean.",
        "",
    ]
    for section in (
        profile_runs,
        context,
        pair_terms,
        committed_tables,
        duet,
        third_party,
        baselines,
    ):
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
