"""Whole searches: what they found, beside PP-LCNet and the best published network as fast.

    python -m results.searches imagenette --data imagefolder:DIR
    python -m results.searches cifar10 --data cifar10:DIR
    python -m results.searches imagenette-permuted --data imagefolder:DIR
    python -m results.searches default

Two of them, default and default-supernet, are what ``make search`` does on synthetic images: minutes, for their
times. Runs ``python -m search.run`` with the options of SEARCHES; the folder is runs/NAME, so a repeated command
goes on. Writes of each search, under results/searches/: NAME.json (settings, versions, machine, times of the steps,
every trial, all that was trained, what was compared with what, how many of the finalists were within the budget when
they were measured as whole networks, the resolution of accuracies and of latencies), NAME.md (the report) and
NAME.png. The accuracy of every exported file is taken again by results/independent_accuracy.py, which knows nothing of
lcnas. Run nothing else meanwhile: it measures latencies.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import _report

SEARCHES = {
    "imagenette": "--space lcnet_next --resolution 128 --max-latency-ms 0.6 --trials 32 --images 7500 --epochs 2"
    " --train-size 64 --finalists 2 --bands 1 --final-images 7500 --final-epochs 10 --final-seeds 3",
    # Networks of 32 pixels train slowly for their latency: one band below PP-LCNet 0.5x, fewer images.
    "cifar10": "--space pplcnet_tail_32 --resolution 32 --max-latency-ms 0.3 --trials 24 --images 9000 --epochs 2"
    " --train-size 32 --finalists 1 --bands 1 --final-images 10000 --final-epochs 8 --final-seeds 3",
    # The control is shorter: of what cannot be learnt there is nothing more to be had by longer trainings.
    "imagenette-permuted": "--space pplcnet_tail --resolution 64 --max-latency-ms 0.4 --permute-labels --trials 16"
    " --images 3000 --epochs 1 --train-size 64 --finalists 2 --bands 2 --final-images 3000 --final-epochs 4"
    " --final-seeds 3",
    "default": "",
    "default-supernet": "--evaluator supernet",
}


def command(name: str, data: str | None, folder: Path) -> list[str]:
    """Return the command of a search."""
    where = [] if data is None else ["--data", data]
    return ["-m", "search.run", *SEARCHES[name].split(), *where, "--out", str(folder)]


def hidden(text: str, place: str) -> str:
    """Return a text without the place of the images."""
    return text.replace(place, "DIR") if place else text


def within(outcome: Any) -> dict[str, Any]:
    """Return how many of the candidates for finalists kept to the budget when they were measured.

    Those whose interval reached beyond it made room for the next; the notes list them.
    """
    kept = [f for f in outcome.finals if f.role == "finalist" and f.measured is not None]
    beyond = [note for note in outcome.notes if "beyond the budget" in note]
    return {
        "put_up": max(outcome.candidates_measured, len(kept)),
        "within": sum(f.measured.high <= outcome.max_latency_ms for f in kept),
        "beyond": beyond,
    }


def duels(outcome: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the winner of each latency band against each baseline beside it, on test images."""
    from search.reporting import verdicts

    return [
        {
            "band": band.number + 1,
            "winner": duel.finalist.name,
            "baseline": duel.baseline.name,
            "winner_ms": duel.finalist.latency_ms,
            "baseline_ms": duel.baseline.latency_ms,
            **{
                k: round(100 * getattr(duel.comparison, k), 2)
                for k in ("difference", "low", "high")
            },
            "better": duel.comparison.better,
        }
        for band in verdicts.bands(outcome, folder)
        for duel in band.duels
    ]


def resolutions(outcome: Any) -> dict[str, Any]:
    """Return the pixels of what accuracies are of, and of what latencies are of, for each network trained."""
    return {
        final.name: {
            "accuracy": sorted({_pixels(run.resolution) for run in final.runs}),
            "latency": _pixels(final.arch.resolution),
        }
        for final in outcome.finals
    }


def _pixels(size: Any) -> str:
    from search.outcome import pixels

    return pixels(size)


def independently(outcome: Any, folder: Path, data: str | None) -> list[dict[str, Any]]:
    """Return the accuracy of every exported file as printed, and as a program without lcnas counts it."""
    kind, _, place = (data or "synthetic").partition(":")
    if kind == "synthetic":
        return []  # images that lcnas alone can make
    root = Path(place)
    tests = sorted(root.glob("test*.parquet")) if kind == "cifar10" else [root]
    files = {str(folder / run.onnx): run.test for final in outcome.finals for run in final.runs}
    script = Path(__file__).with_name("independent_accuracy.py")
    where = [word for path in tests for word in ("--data", str(path))]
    if outcome.settings.get("permute_labels"):
        where += ["--permuted", str(outcome.settings["seed"])]
    done = subprocess.run(
        [sys.executable, str(script), *where, *files], text=True, capture_output=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        {
            "file": str(Path(line["file"]).relative_to(folder)),
            "images": line["images"],
            "printed": round(100 * files[line["file"]], 3),
            "independent": round(100 * line["accuracy"], 3),
        }
        for line in lines
    ]


def summary(folder: Path, argv: list[str], place: str, data: str | None) -> dict[str, Any]:
    """Return what is kept of a finished search, without the places of this machine."""
    from search.run_dir import RunDir
    from search.report import load

    outcome = load(folder)
    shown = json.loads(hidden(outcome.to_json(), place))
    trials = sorted(RunDir(folder).trials(), key=lambda t: t.number)
    return {
        **_report.conditions([int(shown["settings"]["seed"])]),
        "command": hidden(" ".join(["python", *argv]), place).replace(
            str(folder), f"runs/{folder.name}"
        ),
        "resolutions": resolutions(outcome),
        "independently": independently(outcome, folder, data),
        "finalists": within(outcome),
        "duels": duels(outcome, folder),
        "outcome": shown,
        "trials": [[t.number, t.arch, round(t.latency_ms, 4), t.accuracy] for t in trials],
    }


def report(folder: Path, place: str) -> str:
    """Return a search's report as it stands beside its results: its figure, and no links to what is not there."""
    text = hidden((folder / "report.md").read_text(), place)
    text = text.replace("](front.png)", f"]({folder.name}.png)")
    return re.sub(r"\[([^]]+)\]\((finals|networks)/[^)]+\)", r"\1", text)


def main() -> None:
    """Search, and keep what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SEARCHES)
    parser.add_argument("--data", help="what to learn from; synthetic images by default")
    args = parser.parse_args()
    folder = Path("runs") / args.name
    argv = command(args.name, args.data, folder)
    if subprocess.run([sys.executable, *argv], check=False).returncode:
        raise SystemExit("the search has not ended; its message is above")
    place = (args.data or "").partition(":")[2]
    out = _report.RESULTS / "searches"
    out.mkdir(exist_ok=True)
    _report.write(f"searches/{args.name}", summary(folder, argv, place, args.data))
    (out / f"{args.name}.md").write_text(report(folder, place))
    (out / f"{args.name}.png").write_bytes((folder / "front.png").read_bytes())


if __name__ == "__main__":
    main()
