"""Writes docs/results/search.md from the result files under results/.

    python scripts/make_search_docs.py [--check]

Every figure there comes from a committed file, which carries its command, seeds, versions and machine.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PATH = ROOT / "docs" / "results" / "search.md"


def result(name: str) -> dict[str, Any] | None:
    """Return a result file's contents, None where there is none."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _source(name: str, data: dict[str, Any]) -> str:
    machine = data["machine"]
    return f"From `results/{name}.json` (`{data['command']}`; {machine['cpu']}, {machine['cores']} cores).\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


# -- searches --------------------------------------------------------------------------------------


def demonstrations() -> Iterator[str]:
    """How long the search takes that ``make search`` runs."""
    runs = {name: result(f"searches/{name}") for name in _found() if name.startswith("default")}
    if not runs:
        return
    yield "## The default search\n"
    yield (
        "What `make search` does, on synthetic images: a demonstration. Rows that the latency table lacks for their "
        "classes are measured in the step of the table. Compiling is part of the times.\n"
    )
    fresh = result("fresh-clone")
    if fresh is not None:
        yield _source("fresh-clone", fresh)
        first, second, steps = fresh["first"], fresh["second"], fresh["steps"]
        yield (
            f"In a fresh clone: {first['setup_seconds']:.0f} s of set-up, into a new environment; stopped by Ctrl-C after "
            f"{first['stopped_after_seconds']:.0f} s, in the search; given again, it set up in {second['setup_seconds']:.0f} s and went on to "
            f"the end (exit code {second['exit_code']}). The search's steps took {fresh['total']:.0f} s, "
            f"{fresh['total'] - steps['space, table and budget']:.0f} of them without that of the table. `default` below is this run.\n"
        )
    for name, data in runs.items():
        assert data is not None
        outcome = data["outcome"]
        facts = {
            "evaluator": outcome["evaluator"],
            "epochs": outcome["settings"]["epochs"],
            **outcome["evaluation"],
        }
        about = facts.pop("supernet", None) or {}
        facts |= {
            f"supernet's {key}": about[key]
            for key in ("images_s", "accuracy", "seconds")
            if key in about
        }
        yield f"### {name}\n"
        yield _source(f"searches/{name}", data)
        times = {**outcome["times"], "total": sum(outcome["times"].values())}
        compiling = {"compiling, summed over workers": outcome["compile_seconds"]}
        yield table(
            ["step", "s"],
            [[step, f"{seconds:.0f}"] for step, seconds in (times | compiling).items()],
        )
        yield table(["evaluator", ""], [[key, f"{value:.4g}" if isinstance(value, float) else str(value)]
                                        for key, value in facts.items() if not isinstance(value, dict)])  # fmt: skip


def _found() -> list[str]:
    return sorted(path.stem for path in (RESULTS / "searches").glob("*.json"))


def searches() -> Iterator[str]:
    """What searches found on real images."""
    names = [name for name in _found() if not name.startswith("default")]
    if not names:
        return
    yield "## Searches on real images\n"
    yield (
        "Finalists, PP-LCNet at the scale that takes at most as long, and the published network of highest ImageNet "
        "accuracy that does, all trained from scratch alike. Milliseconds are those of whole networks, measured interleaved on "
        "this machine; accuracies are those of the exported files on the test images, which were read once, run by the same engine. Both are of "
        "one resolution. The whole reports stand beside the results. "
        "Trainings are short: networks that learn slowly stand lower than they would after long ones. "
        "Compare within a search only.\n"
    )
    for name in names:
        yield from _search(name)


def _search(name: str) -> Iterator[str]:
    data = result(f"searches/{name}")
    assert data is not None
    outcome = data["outcome"]
    yield f"### {name}\n"
    yield _source(f"searches/{name}", data)
    if outcome["settings"]["permute_labels"]:
        yield "A control: the labels were permuted, so that nothing can be better than anything else.\n"
    put, kept = data["finalists"]["put_up"], data["finalists"]["within"]
    minutes = sum(outcome["times"].values()) / 60
    yield (
        f"{outcome['trials']} networks of {outcome['networks']:,} within {outcome['min_latency_ms']:.2f} to "
        f"{outcome['max_latency_ms']:.2f} ms at {_pixels(data)} pixels, evaluator `{outcome['evaluator']}`, {minutes:.0f} minutes in all "
        f"(report: `results/searches/{name}.md`). Of {put} candidates for finalists {kept} kept to the budget with "
        f"their whole 90 % interval when they were measured.{_checked(data)}\n"
    )
    yield table(
        ["network", "band", "ms", "test accuracy, %", "params", "MACs"],
        [_final(final) for final in outcome["finals"]],
    )
    rows = [
        [
            f"{d['winner']} against {d['baseline']}",
            f"{d['difference']:+.2f}",
            f"{d['low']:.2f} to {d['high']:.2f}",
            "better" if d["better"] else "worse" if d["high"] < 0 else "not decided",
        ]
        for d in data["duels"]
    ]
    yield table(["winner of a band against", "points", "95 % interval", "verdict"], rows)


def _pixels(data: dict[str, Any]) -> str:
    """Return the resolution of latencies, which is that of accuracies too: a test holds that."""
    return ", ".join(sorted({of["latency"] for of in data["resolutions"].values()}))


def _checked(data: dict[str, Any]) -> str:
    """Return by how much printed accuracies are off from those that a program without lcnas counts."""
    if not data["independently"]:
        return ""
    off = max(abs(one["printed"] - one["independent"]) for one in data["independently"])
    n = len(data["independently"])
    return (
        f" The accuracies of all {n} exported files, counted by `results/independent_accuracy.py`, which knows nothing of lcnas, "
        f"are within {off:.2f} points of the printed ones."
    )


def _final(final: dict[str, Any]) -> list[str]:
    tests = [100 * run["test"] for run in final["runs"]]
    spread = f" ± {statistics.stdev(tests):.2f}" if len(tests) > 1 else ""
    ms = final["measured"]["ms"] if final["measured"] else final["predicted_ms"]
    return [
        final["name"] + (" (winner)" if final["winner"] else ""),
        str(final["band"] + 1),
        f"{ms:.3f}",
        f"{statistics.mean(tests):.2f}{spread} (n={len(tests)})",
        f"{final['params']:,}",
        f"{final['macs']:,}",
    ]


# -- evaluators ------------------------------------------------------------------------------------


def evaluators() -> Iterator[str]:
    """How well each evaluator ranks networks of one latency."""
    names = sorted(path.stem for path in RESULTS.glob("evaluators-*.json"))
    if not names:
        return
    yield "## Evaluators\n"
    yield (
        "Kendall's tau between what an evaluator says of networks of one latency band and the test accuracy of long trainings "
        "from scratch, both at the pixels in the file's name, with a 90 % interval (bootstrap over networks); the latency band that networks were "
        "drawn from is at the space's own resolution, 224 pixels for `pplcnet_tail` and `lcnet_next`, and is compared with no accuracy. Seconds a network on one core, compiling "
        "included: compiling on Imagenette is that of the code then, and takes half to four fifths of it since (`docs/decisions.md`); those of "
        "`lcnet_next` are too many, tests ran beside it now and then. One tau of so few networks, each trained once, is rough: the twelve on "
        "CIFAR-10 were asked about twice, and the truth has tau 0.55 to itself (`docs/decisions.md`). All zero-cost scores together take the seconds of `proxies`. The networks of `supernet 0`, which searches use, "
        "learn from what the largest says alone, those of `supernet 1` from labels alone, of `supernet 0.5` from both.\n"
    )
    yield (
        "How well an evaluator ranks per second is measured by its worth: by how many standard deviations of the truth the network "
        "that it ranks first among as many as it has time for is better than the average one, if both are normal (below, for "
        "5 minutes, an hour and 8 hours of one core; a supernet's training is in its time, and 0 means that there is no "
        "time for it). It says little where the interval of tau holds 0. The last column is tau between what is said and the "
        "number of blocks: on Imagenette supernets like deep networks (on CIFAR-10 that is undecided), and trainings from scratch of these "
        "lengths like them in none.\n"
    )
    for name in names:
        data = result(name)
        assert data is not None
        yield f"### {name.removeprefix('evaluators-')}\n"
        yield _source(name, data)
        low, high = data["band_ms"]
        truth, seconds = data["truth"], data["seconds_per_network"]
        yield (
            f"Networks between {low:g} and {high:g} ms. The truth: {data['epochs']} epochs, {100 * truth['mean']:.1f} % on "
            f"average, standard deviation over networks {100 * truth['std']:.2f} points, "
            f"{seconds['truth']:,.0f} s a network; its tau to the number of blocks is {data['truth']['blocks']:.2f}."
            f"{_supernets(data['supernets'])}\n"
        )
        yield _ranked(data)
    data = result("evaluators")
    if data is None:
        return
    yield "### All together\n"
    yield _source("evaluators", data)
    yield (
        "The mean of the experiments' taus (interval: bootstrap over the networks of each); an evaluator that not all asked is "
        "over those that did. Supernets are in the experiments whose space masks can run.\n"
    )
    yield _ranked(data)


def _ranked(data: dict[str, Any]) -> str:
    """Return the table of an experiment, or of all."""
    seconds, rows = data["seconds_per_network"], []
    for what, tau in sorted(data["tau"].items(), key=lambda item: -(item[1]["tau"] or -1)):
        worth = data["per_second"].get(what, {})
        rows.append(
            [
                what,
                f"{tau['tau']:.2f}",
                "{:.2f} to {:.2f}".format(*tau["tau_90"]),
                "0"
                if what in ("params", "macs", "blocks")
                else f"{seconds.get(what, seconds['proxies']):,.1f}",
                " / ".join(f"{one['worth'][0]:.2f}" for one in worth.values()),
                str(tau["n"]),
                "" if tau["blocks"] is None else f"{tau['blocks']:.2f}",
            ]
        )
    head = ["evaluator", "tau", "90 % interval", "s a network", "worth", "networks", "to blocks"]
    return table(head, rows)


def _supernets(runs: list[dict[str, Any]]) -> str:
    return "".join(
        f" {one['what'].capitalize()} was trained first, {one['epochs']} epochs in {one['seconds']:,.0f} s "
        f"({one['images_s']:,.0f} images/s, each seen by {one['networks_a_step']} networks)."
        for one in runs
    )


def supernet() -> Iterator[str]:
    """What a supernet compiles, and what it saves."""
    data = result("supernet")
    if data is None:
        return
    yield "## A supernet compiles once\n"
    yield _source("supernet", data)
    training, asking, alone = data["training"], data["asking"], data["alone"]
    compiled = training["compiled"]["gradient of each bucket"]
    yield (
        f"A training over {training['buckets']} width buckets compiled {', '.join(map(str, compiled))} gradient(s) in them, and "
        f"{asking['networks']} different networks that were then asked about "
        f"{', '.join(map(str, asking['compiled']['statistics of each bucket']))} programs for statistics and "
        f"{', '.join(map(str, asking['compiled']['answers of each bucket']))} for answers. A network took "
        f"{asking['seconds_per_network']:.2f} s in the median ({asking['networks_per_second']:.2f} networks/s over all, on one core); built and compiled "
        f"alone, with the same weights and images, {alone['seconds_per_network']:.1f} s, {data['ratio']:.0f} times as much.\n"
    )


# -- searchers, Ray, kills -------------------------------------------------------------------------


def searchers() -> Iterator[str]:
    """Hypervolume over evaluations."""
    results = {
        "searchers-recorded": "the accuracies are what a supernet said of each network of a small space "
        "(`results/recorded.json`), and 1 is the front of all of them",
        "searchers": "the accuracies are synthetic, a formula of the codes, and 1 is the front of all results",
    }
    if not any(result(name) for name in results):
        return
    yield "## Searchers against random\n"
    yield (
        "Hypervolume (accuracy over log latency) after so many evaluations, mean and standard deviation over seeds; all searchers have "
        "the same budget, seeds and evaluations.\n"
    )
    for name, what in results.items():
        data = result(name)
        if data is not None:
            yield _source(name, data)
            yield f"{data['networks']:,} networks within the budget; {what}.\n"
            yield _volumes(data)


def _volumes(data: dict[str, Any]) -> str:
    counts = ("50", "100", "200", "300")
    rows = []
    for name, volumes in data["results"].items():
        values = [volumes["hypervolume"][c] for c in counts]
        against = volumes.get("against_random")
        versus = (
            f"{against['mean']:+.4f}, better in {against['better_in']} of {against['n']}"
            if against
            else ""
        )
        rows.append([name, *(f"{v['mean']:.4f} ± {v['std']:.4f}" for v in values), versus])
    return table(["searcher", *counts, "at the end against random"], rows)


def overhead() -> Iterator[str]:
    """What Ray costs a trial."""
    data = result("ray-overhead")
    if data is None:
        return
    yield "## What Ray Tune and a searcher cost\n"
    yield _source("ray-overhead", data)
    yield "Milliseconds a trial with a trainable that does nothing, two workers.\n"
    rows = [
        [f"{name}, {r['trials']:,} trials", f"{r['ms']:.0f}", f"{r['ms_first_tenth']:.0f}", f"{r['ms_last_tenth']:.0f}", f"{r['ms_in_searcher']:.1f}"]
        for name, entry in data["results"].items()
        for r in entry
    ]  # fmt: skip
    yield table(["searcher", "ms", "first tenth", "last tenth", "in the searcher"], rows)


def kills() -> Iterator[str]:
    """What is lost by kills."""
    data = result("kills")
    if data is None:
        return
    yield "## Killed and resumed\n"
    yield _source("kills", data)
    whole, runs, nodes = data["uninterrupted"], data["killed"], data["node_lost"]
    yield (
        f"A search of {whole['networks']} networks, its driver killed (SIGKILL) at {len(runs)} random moments, after "
        f"{', '.join(str(r['networks_when_killed']) for r in runs)} networks, and the command repeated: {_kept(runs)}.{_late(data)} On a Ray "
        f"cluster of three nodes of which one was killed, {len(nodes)} times: {_kept(nodes)}.\n"
    )


def _late(data: dict[str, Any]) -> str:
    # One that was over before it could be killed says nothing.
    runs = [run for run in data.get("killed_late", []) if not run["search_was_over"]]
    if not runs:
        return ""
    fixed = [run for run in runs if not run["measured"]]
    return (
        f" Whole searches, killed {len(runs)} times after their last network, when "
        f"{', '.join(str(r['trainings_when_killed']) for r in runs)} trainings of finalists and baselines were finished: "
        f"{sum(r['whole'] for r in runs)} of {len(runs)} ended with all of them and a report, and "
        f"{sum(r['same_accuracies'] for r in fixed)} of the {len(fixed)} whose networks were not chosen by measuring with the "
        f"test accuracies of an uninterrupted one."
    )


def _kept(runs: list[dict[str, Any]]) -> str:
    same = sum(r["same_networks"] and r["same_front"] for r in runs)
    return (
        f"networks lost {sum(r['lost'] for r in runs)}, there twice {sum(r['twice'] for r in runs)}, failed "
        f"{sum(len(r['failed']) for r in runs)}; exactly the networks and the front of an uninterrupted search in {same} of {len(runs)}"
    )


def render() -> str:
    """Return the page."""
    parts = ["# Searching: what was measured\n", "Made by `scripts/make_search_docs.py`.\n"]
    for section in (searches, demonstrations, evaluators, supernet, searchers, overhead, kills):
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
