"""Writes docs/results/training.md from the result files under results/.

    python scripts/make_training_docs.py [--check]

Every figure there comes from a committed file, which carries its command, seeds, versions and machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "results" / "training.md"
COLUMNS = ("torch", "lcnas", "xla", "torch-kept")


def result(name: str) -> dict[str, Any] | None:
    """Return a result file's contents, None where there is none."""
    path = ROOT / "results" / f"{name}.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _source(name: str, data: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items() if k in ("jax", "torch"))
    machine = data["machine"]
    return (
        f"From `results/{name}.json` (`{data['command']}`; {machine['cpu']}, {machine['cores']} cores; "
        f"{versions}).\n"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def speed() -> Iterator[str]:
    """Images a second of a whole training step."""
    data = result("train-step")
    if data is None:
        return
    yield "## A training step beside PyTorch\n"
    yield _source("train-step", data)
    yield (
        "Images/s, the median over rounds in which the columns took turns, and the median of the rounds' ratios to "
        "PyTorch (channels_last). `xla` is lcnas with XLA's own convolution and a standard batch norm, `torch-kept` PyTorch in "
        "a process that keeps its memory in large pages, as lcnas's commands do. Seconds: building, compiling and the first "
        "step.\n"
    )
    rows = []
    for row in data["rows"]:
        rates = {c: sorted(v)[len(v) // 2] for c, v in row["images_per_s"].items()}
        ratios = row["ratio_to_torch"]
        seconds = row["build_and_first_step_s"]
        way = f"{row['processes']} x {row['threads_each']} threads"
        rows.append(
            [
                f"{row['scale']:g}x, {row['side']} px, batch {row['batch']}, {way}",
                f"{rates['torch']:,.0f}",
            ]
            + [f"{rates[c]:,.0f} ({ratios[c]:.2f})" if c in rates else "" for c in COLUMNS[1:]]
            + [f"{seconds['lcnas']:.0f} / {seconds['torch']:.0f}"]
        )
    head = ["PP-LCNet", "PyTorch", "lcnas", "xla", "torch-kept", "s, lcnas / PyTorch"]
    yield table(head, rows)
    ours = [row["ratio_to_torch"]["lcnas"] for row in data["rows"]]
    kept = [
        row["ratio_to_torch"]["lcnas"] / row["ratio_to_torch"]["torch-kept"] for row in data["rows"]
    ]
    reached = sum(r >= 1 for r in ours)
    yield (
        f"lcnas reaches PyTorch's speed or more in {reached} of {len(ours)} settings; its ratios lie between "
        f"{min(ours):.2f} and {max(ours):.2f}. Part of that is memory kept in large pages, which PyTorch does not do by "
        f"itself: given the same (`torch-kept`), it is the faster one in {sum(k < 1 for k in kept)} of {len(kept)} settings, and "
        f"lcnas's ratios to it lie between {min(kept):.2f} and {max(kept):.2f}.\n"
    )


def step_parts() -> Iterator[str]:
    """Where a step's time goes."""
    data = result("step-parts")
    if data is None:
        return
    yield "## Where a step's time goes\n"
    yield _source("step-parts", data)
    yield (
        "Milliseconds of a step by operation, by JAX's profiler; operations run side by side, so with two threads their "
        "sum is more than the step takes. What two threads do not shorten is what keeps a step from being twice as fast.\n"
    )
    for name, setting in data["settings"].items():
        one, two = setting["1"], setting["2"]
        rows = [["step", f"{one['ms']:.1f}", f"{two['ms']:.1f}"]]
        rows += [
            [kind, f"{ms:.1f}", f"{two['parts'].get(kind, 0):.1f}"]
            for kind, ms in sorted(one["parts"].items(), key=lambda item: -item[1])
        ]
        yield table([name, "1 thread", "2 threads"], rows)


def _accuracy(entry: dict[str, Any]) -> str:
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.2f}"
    return f"{100 * entry['mean']:.2f}{spread} (n={entry['n']})"


def real_runs() -> Iterator[str]:
    """Test accuracies of the same training by lcnas and by PyTorch."""
    data = result("real-runs")
    if data is None:
        return
    yield "## The same training by lcnas and by PyTorch\n"
    yield _source("real-runs", data)
    yield (
        "Test accuracy in %, mean and standard deviation over seeds, of the last network; both start from the same weights "
        "and see the same images. The two shortest experiments differ by up to two standard errors of their means, one to "
        "each side. Minutes are lcnas's, compiling and validation included (median; the machine was shared).\n"
    )
    rows = [
        [
            name,
            _accuracy(e["lcnas"]),
            _accuracy(e["torch"]),
            f"{100 * e['lcnas_minus_torch']:+.2f}",
            f"{e['lcnas_minutes']:.0f}",
        ]
        for name, e in data["test_accuracy"].items()
        if "lcnas_minus_torch" in e
    ]
    yield table(
        ["set, pixels, network, recipe", "lcnas", "PyTorch", "difference", "minutes, one core"],
        rows,
    )


def distillation() -> Iterator[str]:
    """What a teacher gave to a small student."""
    data = result("distillation")
    if data is None:
        return
    yield "## Distilling from an ONNX teacher\n"
    yield _source("distillation", data)
    accuracy = data["test_accuracy"]
    gains = ", ".join(f"{100 * g:+.2f}" for g in accuracy["gain"]["of_each_seed"])
    yield (
        f"CIFAR-10, {data['epochs']} epochs, teacher PP-LCNet {data['teacher_scale']:g}x as an ONNX file ({_accuracy(accuracy['teacher'])} %), student "
        f"PP-LCNet 0.25x, KL at temperature {data['temperature']:g} with weight {data['weight']:g}. Test accuracy in %: alone "
        f"{_accuracy(accuracy['alone'])}, distilled {_accuracy(accuracy['distilled'])}; gain of each seed {gains}, on average "
        f"{100 * accuracy['gain']['mean']:+.2f} points.\n"
    )


def agreement() -> Iterator[str]:
    """How far Flax and the exported files are apart."""
    data = result("models-agree")
    if data is None:
        return
    yield "## Flax and ONNX\n"
    yield _source("models-agree", data)
    worst = ", ".join(f"{v:.1e} on {engine}" for engine, v in data["summary"]["worst"].items())
    counts = "all equal" if data["summary"]["counts_all_equal"] else "NOT all equal"
    yield (
        f"{data['summary']['n']} networks (the zoo, and networks drawn from each space): the largest difference between Flax in "
        f"evaluation mode and the exported file, over the largest logit, is {worst}. Numbers that are trained, and those left "
        f"after merging, beside what `lcnas.cost` counts: {counts}.\n"
    )


def int8() -> Iterator[str]:
    """What int8 costs in accuracy and gives in latency."""
    data = result("int8-accuracy")
    if data is None:
        return
    yield "## int8\n"
    yield _source("int8-accuracy", data["accuracy"])
    yield (
        "Scheme, ranges of feature maps and bits of the weights as in `onnx_export.quantise`, whose default is "
        "`dense, extremes, 7bit`; signed activations and unsigned weights are the 8-bit file with other types for the same "
        "numbers. Capped to AVX2, oneDNN adds two products in 16 bits, as processors without VNNI do.\n"
    )
    for row in data["accuracy"]["found"]:
        places = row["accuracy"]
        yield f"Test accuracy of `{row['network']}` in %, {row['images']:,} images:\n"
        cells = [[w, *(f"{100 * places[p][w]:.2f}" for p in places)] for w in row["bytes"]]
        yield table(["file", *places], cells)
    log_odds = data["text-line"]["found"]
    yield (
        f"Log-odds of the text-line network (a trained PP-LCNet 0.25x), calibrated on {log_odds['calibrated_on']} images: how many "
        "of the four texts keep their answers, and by how much their log-odds are off at most:\n"
    )
    off = log_odds["off"]
    first = next(iter(off.values()))
    cells = [
        [w, *(f"{off[p][w]['answers_kept']}, {100 * off[p][w]['relative']:.1f} %" for p in off)]
        for w in sorted(first, key=lambda w: (w != "fp32", "all" in w, w))
    ]
    yield table(["file", *off], cells)
    yield "Latency in ms, one thread, batch 1:\n"
    rows = [
        [network, w, *(f"{at[p][w][0]:.2f}" for p in at)]
        for network, at in data["latency"]["found"].items()
        for w in sorted(at["mlas"], key=lambda w: (w != "fp32", "all" in w, w))
    ]
    yield table(["network", "file", *off], rows)


def gradients() -> Iterator[str]:
    """How exact gradients are, in float32."""
    data = result("gradients-agree")
    if data is None:
        return
    yield "## Gradients\n"
    yield _source("gradients-agree", data)
    yield (
        "Errors of a step's gradients in float32 against PyTorch in float64, relative, over the arrays of weights: the median "
        "and the largest. Same weights, same batch.\n"
    )
    rows = [
        [f"{row['network']}, {row['side']} px, step {row['step']}"]
        + [f"{row[s][k]:.1e}" for s in ("lcnas", "torch") for k in ("median", "largest")]
        for row in data["rows"]
    ]
    yield table(["network", "lcnas", "largest", "PyTorch", "largest"], rows)


def render() -> str:
    """Return the page."""
    parts = ["# Training: what was measured\n", "Made by `scripts/make_training_docs.py`.\n"]
    for section in (speed, step_parts, real_runs, gradients, distillation, agreement, int8):
        parts += list(section())
    return "\n".join(parts)


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    if "--check" in sys.argv[1:]:
        return 0 if PATH.read_text(encoding="utf-8") == render() else 1
    PATH.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
