"""Is anything lost when a search is killed, or when a machine of its cluster goes away?

    python -m results.kills
    python -m results.kills --runs 1 --trials 24

Runs one search to its end, then the same search again and again, each killed (SIGKILL to the driver) at a
random moment between its first and its last network, twice also before, and resumed by repeating the command:
every run must end with the same number of networks, none twice and none lost, and with the same front, since the
evaluator (a zero-cost score) is deterministic. Then the search on a Ray cluster of three local nodes, one of which is
killed when a third of the networks is done; three times. Last
a whole search with its report, killed at random moments after its last network, while finalists are measured, trained
or tested: it must end with the same trainings, and with the same accuracies, to the last image, where the latencies
that chose the networks are predicted, not measured (the last of these runs measures, and may so choose others).
What the table of this machine lacks is measured before.
Writes results/kills.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import _report
from search.outcome import Outcome
from search.pipeline import front_of
from search.run_dir import OUTCOME, SEARCHED, TRIALS, RunDir

PATIENCE = 900.0
EARLY = 2  # runs killed at a moment of their start


UP_TO_FRONT = ("--until", "search")
WHOLE = "--finalists 1 --bands 1 --final-seeds 2 --final-epochs 1 --final-images 600".split()


def command(out: Path, trials: int, *more: str) -> list[str]:
    """Return a small search with a deterministic evaluator."""
    words = "--evaluator proxy --score swap --train-size 32 --workers 2 --lag 12"
    return [
        sys.executable, "-m", "search.run", *words.split(), "--trials", str(trials), "--out", str(out), *more,
    ]  # fmt: skip


def begin(out: Path, trials: int, *more: str) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own."""
    log = out.with_suffix(".log").open("ab")
    return subprocess.Popen(
        command(out, trials, *more), stdout=log, stderr=log, start_new_session=True
    )


def finish(out: Path, trials: int, *more: str) -> None:
    """Run it to its end."""
    if begin(out, trials, *more).wait(PATIENCE):
        raise SystemExit(out.with_suffix(".log").read_text()[-2000:])


def state(out: Path) -> dict[str, Any]:
    """Return what lies in a finished folder: how many networks, how many twice, and the front."""
    lines = [json.loads(line) for line in (out / TRIALS).read_text().splitlines()]
    seen = Counter(line["number"] for line in lines)
    trials = sorted(RunDir(out).trials(), key=lambda t: t.number)
    front = set(front_of(trials))
    return {
        "networks": len(lines),
        "twice": sum(n > 1 for n in seen.values()),
        "lost": len(set(range(max(seen) + 1)) - set(seen)),
        "failed": [t.reason for t in trials if t.failed],
        "front": sorted(t.arch for t in trials if t.number in front),
        "all": [t.arch for t in trials],
    }


def killed(out: Path, trials: int, after: float, delay: float) -> dict[str, Any]:
    """Kill a search and repeat it to its end.

    Args:
        out: its folder.
        trials: networks.
        after: so many networks are finished when it is killed; below 0: none is begun.
        delay: seconds later.
    """
    process = begin(out, trials, *UP_TO_FRONT)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until and finished(out) < after:
        time.sleep(0.02)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):  # it was over
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done, over = finished(out), (out / SEARCHED).is_file()
    if not over:
        finish(out, trials, *UP_TO_FRONT)
    return {"networks_when_killed": done, "search_was_over": over, **state(out)}


def trained(out: Path) -> dict[str, Any]:
    """Return what was trained in a finished search: by network and seed, the test accuracy."""
    outcome = Outcome.from_json((out / OUTCOME).read_text("utf-8"), out.name)
    return {f"{final.name} {run.seed}": run.test for final in outcome.finals for run in final.runs}


def killed_late(out: Path, trials: int, delay: float, *more: str) -> dict[str, Any]:
    """Kill a whole search so many seconds after its last network, and repeat it to its end."""
    process = begin(out, trials, *WHOLE, *more)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until and not (out / SEARCHED).is_file():
        time.sleep(0.02)
    time.sleep(delay)
    over = process.poll() is not None
    if not over:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(out.glob("finals/*/*/result.json")))
    steps = [line for line in out.with_suffix(".log").read_text().splitlines() if line[:1] == "["]
    finish(out, trials, *WHOLE, *more)
    return {
        "killed_in": steps[-1],
        "trainings_when_killed": done,
        "search_was_over": over,
        **state(out),
        "trained": trained(out),
    }


def late(folder: Path, runs: int, trials: int, rng: random.Random) -> list[dict[str, Any]]:
    """Return what came of whole searches that were killed after their last network, beside one that was not."""
    fixed = "--no-remeasure"
    began = time.monotonic()
    finish(folder / "through", trials, *WHOLE, fixed)
    took = time.monotonic() - began
    wanted, whole = trained(folder / "through"), state(folder / "through")
    searched = (folder / "through" / SEARCHED).stat().st_mtime
    rest = (folder / "through" / OUTCOME).stat().st_mtime - searched
    print(f"a whole search: {took:.0f} s, {rest:.0f} s of them after the last network", flush=True)
    records = []
    for i in range(runs):
        more = (fixed,) if i < runs - 1 else ()
        record = killed_late(folder / f"late{i}", trials, rng.uniform(0.0, rest), *more)
        names = record["trained"]
        record["same_networks"] = record.pop("all") == whole["all"]
        record["same_front"] = record.pop("front") == whole["front"]
        record["measured"] = not more
        record["same_accuracies"] = names == wanted
        record["whole"] = len(names) >= 4 and None not in names.values()
        record["trained"] = len(names)
        print(record, flush=True)
        records.append(record)
    return records


def finished(out: Path) -> int:
    """Return how many networks a folder holds."""
    path = out / TRIALS
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def with_a_lost_node(out: Path, trials: int) -> dict[str, Any]:
    """Search on three local nodes and kill one of them."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    process, after = begin(out, trials, *UP_TO_FRONT, "--address", cluster.address), None
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        done = finished(out)
        if nodes and trials > done >= trials // 3:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            print(f"killed a node after {done} networks", flush=True)
            nodes, after = [], done
        time.sleep(0.2)
    code = process.wait(10)
    cluster.shutdown()
    return {"exit_code": code, "killed_after_networks": after, **state(out)}


def main() -> None:
    """Run all, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument(
        "--late", type=int, default=5, help="whole searches killed after the search"
    )
    parser.add_argument("--nodes", type=int, default=3, help="searches that lose a node")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="kills", help="name of the result")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="lcnas-kills-") as name:
        folder = Path(name)
        finish(folder / "table", 2, *UP_TO_FRONT)  # measures what the table lacks
        began = time.monotonic()
        finish(folder / "whole", args.trials, *UP_TO_FRONT)
        took = time.monotonic() - began
        whole = state(folder / "whole")
        print(f"uninterrupted: {took:.0f} s, {whole['networks']} networks", flush=True)
        runs = []
        for i in range(args.runs):
            early = i < EARLY
            after = -1 if early else rng.randrange(args.trials)
            delay = rng.uniform(1.0, 0.4 * took) if early else rng.uniform(0.0, 0.5)
            record = killed(folder / f"run{i}", args.trials, after, delay)
            record["same_networks"] = record.pop("all") == whole["all"]
            record["same_front"] = record.pop("front") == whole["front"]
            runs.append(record)
            print(record, flush=True)
        nodes = []
        for i in range(args.nodes):
            node = with_a_lost_node(folder / f"nodes{i}", args.trials)
            node["same_networks"] = node.pop("all") == whole["all"]
            node["same_front"] = node.pop("front") == whole["front"]
            nodes.append(node)
            print(node, flush=True)
        # Last: finalists that are measured teach the table.
        whole_runs = late(folder, args.late, args.trials, rng) if args.late else []
    front = len(whole.pop("front"))
    del whole["all"]
    _report.write(
        args.out,
        {
            **_report.conditions([args.seed]),
            "uninterrupted": {**whole, "front": front, "seconds": round(took, 1)},
            "killed": runs,
            "killed_late": whole_runs,
            "node_lost": nodes,
        },
    )
    good = [*runs, *whole_runs, *nodes]
    ok = all(
        r["networks"] == args.trials
        and not r["twice"]
        and not r["lost"]
        and not r["failed"]
        and r["same_front"]
        for r in good
    ) and all(r["whole"] and (r["same_accuracies"] or r["measured"]) for r in whole_runs)
    ok = ok and all(n["exit_code"] == 0 and n["killed_after_networks"] for n in nodes)
    print("nothing lost" if ok else "SOMETHING WAS LOST")
    raise SystemExit(not ok)


if __name__ == "__main__":
    main()
