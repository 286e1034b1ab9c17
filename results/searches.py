"""Searches on real pictures: what they found, beside PP-LCNet and the best published network as fast.

    python -m results.searches imagenette-tail --data imagefolder:DIR
    python -m results.searches cifar10-tail --data cifar10:DIR

Runs ``python -m search.run`` with the options of SEARCHES; the folder is runs/NAME, so a repeated command goes on.
Writes of each search, under results/searches/: NAME.json (settings, versions, machine, times of the steps, every trial,
all that was trained, what was compared with what, how many of the finalists were within the budget when they were
measured as whole networks), NAME.md (the report) and NAME.png. Run nothing else meanwhile: it measures latencies.
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

_IMAGENETTE = "--preset hour --max-latency-ms 2.4"
SEARCHES = {
    "imagenette-tail": f"--space pplcnet_tail {_IMAGENETTE}",
    # These train about a third as fast as those of pplcnet_tail.
    "imagenette-next": "--space lcnet_next --preset hour --max-latency-ms 1.6 --trials 32 --epochs 2"
    " --final-epochs 10 --final-seeds 4",
    # Networks of 32 pixels train slowly for their latency: one band below PP-LCNet 0.5x, fewer pictures.
    "cifar10-tail": "--space pplcnet_tail_32 --preset hour --max-latency-ms 0.3 --bands 1 --finalists 1 --trials 28"
    " --epochs 3 --final-epochs 8 --final-seeds 4 --final-pictures 10000",
    # The control is shorter: of what cannot be learnt there is nothing more to be had by longer trainings.
    "imagenette-tail-permuted": f"--space pplcnet_tail {_IMAGENETTE} --permute-labels --trials 16 --epochs 2"
    " --final-epochs 4 --final-seeds 3 --final-pictures 4000",
}


def command(name: str, data: str, folder: Path) -> list[str]:
    """Return the command of a search."""
    words = [*SEARCHES[name].split(), "--data", data, "--out", str(folder)]
    return ["-m", "search.run", *words]


def within(outcome: Any) -> dict[str, Any]:
    """Return how many of the networks that were put up as finalists kept to the budget when they were measured.

    The notes tell of those whose interval reached beyond it, which made room for the next.
    """
    kept = [f for f in outcome.finals if f.role == "finalist" and f.measured is not None]
    beyond = [note for note in outcome.notes if "beyond the budget" in note]
    return {
        "put_up": len(kept) + len(beyond),
        "within": sum(f.measured.high <= outcome.max_latency_ms for f in kept),
        "beyond": beyond,
    }


def duels(outcome: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the winner of each latency band against each baseline beside it, on test pictures."""
    from search.reporting import verdicts

    return [
        {
            "band": band.number + 1,
            "winner": duel.finalist.name,
            "baseline": duel.baseline.name,
            "winner_ms": duel.finalist.latency_ms,
            "baseline_ms": duel.baseline.latency_ms,
            **{k: round(100 * getattr(duel.comparison, k), 2) for k in ("difference", "low", "high")},
            "better": duel.comparison.better,
        }
        for band in verdicts.bands(outcome, folder)
        for duel in band.duels
    ]


def summary(folder: Path, argv: list[str], place: str) -> dict[str, Any]:
    """Return what is kept of a finished search, without the places of this machine."""
    from search.folder import Folder
    from search.report import load

    outcome = load(folder)
    shown = json.loads(outcome.to_json().replace(place, "DIR"))
    trials = sorted(Folder(folder).trials(), key=lambda t: t.number)
    return {
        **_report.conditions([int(shown["settings"]["seed"])]),
        "command": " ".join(["python", *argv]).replace(place, "DIR").replace(str(folder), f"runs/{folder.name}"),
        "finalists": within(outcome),
        "duels": duels(outcome, folder),
        "outcome": shown,
        "trials": [[t.number, t.arch, round(t.latency_ms, 4), t.accuracy] for t in trials],
    }


def report(folder: Path, place: str) -> str:
    """Return a search's report as it stands beside its results: its picture, and no links to what is not there."""
    text = (folder / "report.md").read_text().replace(place, "DIR")
    text = text.replace("](front.png)", f"]({folder.name}.png)")
    return re.sub(r"\[([^]]+)\]\((finals|networks)/[^)]+\)", r"\1", text)


def main() -> None:
    """Search, and keep what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SEARCHES)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    folder = Path("runs") / args.name
    argv = command(args.name, args.data, folder)
    if subprocess.run([sys.executable, *argv], check=False).returncode:
        raise SystemExit("the search has not ended; its message is above")
    place = args.data.partition(":")[2]
    out = _report.RESULTS / "searches"
    out.mkdir(exist_ok=True)
    _report.write(f"searches/{args.name}", summary(folder, argv, place))
    (out / f"{args.name}.md").write_text(report(folder, place))
    (out / f"{args.name}.png").write_bytes((folder / "front.png").read_bytes())


if __name__ == "__main__":
    main()
