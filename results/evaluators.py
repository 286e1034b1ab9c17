r"""Which evaluator ranks networks of one latency as long trainings rank them, and what does it cost?

    python -m results.evaluators --data imagefolder:DIR
    python -m results.evaluators --data cifar10:DIR --space pplcnet_tail_32 --size 32 --low 0.25 --high 0.28 \
        --networks 12 --images 6000 --epochs 10 --lengths 2 --supernet-epochs 10
    python -m results.evaluators --pool

Draws networks uniformly within a narrow latency band from a space that is cut, where a supernet can hold it, to
the widths of the largest PP-LCNet scale in it, trains each from scratch (the truth: accuracy of
the last network on the test images), and asks every evaluator of a search about them: short trainings of several
lengths, supernets, the zero-cost scores, params and MACs. Reports Kendall's tau to the truth with a 90 % interval
(bootstrap over networks) and the seconds per network on one core; a supernet's training is reported separately.
"supernet 0" is one whose networks learn from what the largest says alone, as searches have it, "supernet 1" from
labels alone; a space that masks cannot run has none.
Every answer is appended to results/evaluators-NAME.jsonl at once and not asked again; two processes share the work.
The networks stand there first, so that a table that has learnt since does not draw others.

How well an evaluator ranks per second is measured by the worth of the network that it would rank first among as many
as it has time for (:func:`worth`). ``--pool`` sums up all experiments in results/evaluators.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report

CORES = 2
NETWORKS = "networks"
FREE = ("params", "macs", "blocks")  # cost nothing
HOURS = (1 / 12, 1.0, 8.0)  # of one core, of a search of minutes, of an hour, of a night
MOST = 100_000  # networks that a search asks about


def name_of(args: argparse.Namespace) -> str:
    """Return the name of the experiment's files."""
    return f"evaluators-{args.data.partition(':')[0]}-{args.space}-{args.size}"


def log_of(args: argparse.Namespace) -> Path:
    """Return the file of answers."""
    return Path(__file__).with_name(f"{name_of(args)}.jsonl")


def answers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return all answers so far; one that both workers gave counts once."""
    lines = _report.lines(log_of(args))
    answered = {(a["what"], a["network"]): a for a in lines if a["what"] != NETWORKS}
    return list(answered.values())


def known_networks(args: argparse.Namespace) -> list[Any]:
    """Return the networks that the file of answers is about."""
    from lcnas.arch import Arch

    answers = [a["answer"] for a in _report.lines(log_of(args)) if a["what"] == NETWORKS]
    return [Arch.from_data(item, NETWORKS) for item in (answers[0] if answers else [])]


def field(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return (budget of the band, codes of the networks); draws the networks where the file has none."""
    from lcnas import latency, spaces
    from lcnas.latency import engines
    from lcnas.models.supernet import maskable
    from search import problem, tables

    space = spaces.load(args.space)
    resolved = tables.resolve(space, engines.engine(), args.classes)
    if maskable(space) is None:
        space, _ = problem.narrowed(space, resolved.table, args.classes, args.high)
    budget = latency.Budget(space, resolved.table, args.high, args.low, args.classes)
    archs = known_networks(args)
    if archs:
        return budget, space.encode(archs)
    codes = np.unique(
        budget.sample_codes(2 * args.networks, np.random.default_rng(args.seed)), axis=0
    )
    codes = np.random.default_rng(args.seed).permutation(codes)[: args.networks]
    drawn = [json.loads(arch.to_json()) for arch in space.decode(codes)]
    _report.append(log_of(args), {"what": NETWORKS, "answer": drawn})
    return budget, codes


def questions(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Yield (evaluator, network): all there is to do, the cheapest first."""
    yield from (("proxies", i) for i in range(args.networks))
    yield from ((f"train {n}", i) for n in args.lengths for i in range(args.networks))
    yield from ((f"truth {s}", i) for s in range(args.seeds) for i in range(args.networks))


def work(args: argparse.Namespace) -> None:
    """Answer what is not answered yet: core 0 the cheap questions first, core 1 the expensive ones."""
    os.sched_setaffinity(0, {args.core})
    from lcnas.models import memory

    memory.keep_freed_memory()
    from lcnas import training
    from lcnas.models.supernet import maskable
    from search import packed

    data = training.load_data(args.data, size=args.size)
    shown = packed.pack(data, args.size, most=args.images)
    budget, codes = field(args)

    def known() -> set[Any]:
        return {(a["what"], a["network"]) for a in answers(args)}

    for share in args.labels[args.core :: CORES] if maskable(budget.space) is None else ():
        if (f"supernet {share:g}", args.networks - 1) not in known():
            _note(args, *ask_supernet(args, share, shown, budget, codes))
    for what, i in list(questions(args))[:: 1 if args.core == 0 else -1]:
        if (what, i) in known():
            continue
        arch = budget.space.decode(codes[i : i + 1])[0]
        began = time.monotonic()
        answer = ask(args, what, arch, shown, data)
        entry = {"what": what, "network": i, "arch": arch.id, "answer": answer}
        _note(args, {**entry, "seconds": round(time.monotonic() - began, 2)})


def ask(args: argparse.Namespace, what: str, arch: Any, shown: Any, data: Any) -> dict[str, float]:
    """Return what an evaluator says of a network."""
    from search import recipes
    from search.finals import network_training, testing
    from search.evaluators import proxy, train
    from search.evaluation import Candidate

    kind, _, number = what.partition(" ")
    if kind == "proxies":
        spec = proxy.ProxySpec("swap", shown.classes, args.size)
        (evaluation,) = proxy.create(spec, shown).evaluate([Candidate(0, (), arch)])
        return dict(evaluation.details["scores"])
    if kind == "train":
        spec2 = train.TrainSpec(args.size, recipes.search_recipe(shown, int(number)))
        (evaluation,) = train.create(spec2, shown).evaluate([Candidate(0, (), arch)])
        return {what: float(evaluation.accuracy or 0.0)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        recipe = recipes.final_recipe(shown, args.epochs)
        run = network_training.train(arch, shown, recipe, out, int(number), train_size=args.size)
        hits = testing.last_onnx_hits(out, data)
    return {"test": float(hits.mean()), "validation": run.validation}


def ask_supernet(
    args: argparse.Namespace, labels: float, shown: Any, budget: Any, codes: Any
) -> list[dict[str, Any]]:
    """Train a supernet for networks of the band, and return what it says of all networks."""
    from search.evaluators import supernet_training
    from search.recipes import search_recipe
    from search.evaluators import supernet
    from search.evaluation import Candidate

    pool = budget.sample_codes(4096, np.random.default_rng(77))
    folder = Path("runs") / name_of(args)
    job = supernet_training.SupernetTraining(
        budget.space, shown.classes, args.size, search_recipe(shown, args.supernet_epochs), pool,
        args.seed, str(folder / "supernets"), str(folder / "cache"), labels=labels,
    )  # fmt: skip
    began = time.monotonic()
    spec, about = supernet_training.train(job, shown)
    trained = time.monotonic() - began
    evaluator = supernet.create(spec, shown)
    name = f"supernet {labels:g}"
    answers = []
    for i, arch in enumerate(budget.space.decode(codes)):
        began = time.monotonic()
        (evaluation,) = evaluator.evaluate([Candidate(i, tuple(codes[i].tolist()), arch)])
        took = round(time.monotonic() - began, 2)
        answer = {name: float(evaluation.accuracy or 0.0)}
        answers.append(
            {"what": name, "network": i, "arch": arch.id, "answer": answer, "seconds": took}
        )
    answers[0] |= {"training_seconds": round(trained, 1), "about": about}
    return answers


def _note(args: argparse.Namespace, *entries: Any) -> None:
    flat = [e for entry in entries for e in (entry if isinstance(entry, list) else [entry])]
    for entry in flat:
        _report.append(log_of(args), entry)
        print(entry["what"], entry["network"], entry["answer"], entry["seconds"], flush=True)


def read(path: Path) -> tuple[dict[str, dict[int, float]], dict[int, float]]:
    """Return what was said of the networks, by evaluator and network, and the truth, by network."""
    from lcnas.arch import Arch

    values: dict[str, dict[int, float]] = {}
    truth: dict[int, list[float]] = {}
    lines = _report.lines(path)
    for entry in {(a["what"], a.get("network")): a for a in lines}.values():
        if entry["what"] == NETWORKS:
            archs = [Arch.from_data(item, NETWORKS) for item in entry["answer"]]
            values["blocks"] = {i: len(arch.blocks) for i, arch in enumerate(archs)}
        elif entry["what"].startswith("truth"):
            truth.setdefault(entry["network"], []).append(entry["answer"]["test"])
        else:
            for name, value in entry["answer"].items():
                values.setdefault(name, {})[entry["network"]] = value
    return values, {i: float(np.mean(v)) for i, v in truth.items()}


def summary(args: argparse.Namespace) -> dict[str, Any]:
    """Return tau to the truth and seconds per network of everything that was asked."""
    from scipy import stats

    values, means = read(log_of(args))
    seconds: dict[str, list[float]] = {}
    for entry in answers(args):
        kind = "truth" if entry["what"].startswith("truth") else entry["what"]
        seconds.setdefault(kind, []).append(entry["seconds"])
    rng = np.random.default_rng(0)
    answers_of: dict[str, Any] = {}
    for name, scores in values.items():
        both = sorted(set(scores) & set(means))
        a, b = np.array([scores[i] for i in both]), np.array([means[i] for i in both])
        draws = (
            [rng.integers(len(both), size=len(both)) for _ in range(1000)] if len(both) > 2 else []
        )
        drawn = [stats.kendalltau(a[d], b[d]).statistic for d in draws]
        answers_of[name] = {
            "n": len(both),
            "tau": round(float(stats.kendalltau(a, b).statistic), 3) if draws else None,
            "tau_90": np.nanquantile(drawn, [0.05, 0.95]).round(3).tolist() if draws else None,
            "blocks": _depth(scores, values["blocks"]),
        }
    supernets = [e for e in answers(args) if "about" in e]
    typical = {k: round(float(np.median(v)), 2) for k, v in seconds.items()}
    return {
        "tau": answers_of,
        "seconds_per_network": typical,
        "per_second": per_second(
            answers_of, typical, {e["what"]: e["training_seconds"] for e in supernets}
        ),
        "supernets": [{"what": e["what"], **e["about"], "seconds": e["training_seconds"]} for e in supernets],
        "truth": {"mean": float(np.mean(list(means.values()))), "std": float(np.std(list(means.values()), ddof=1)), "blocks": _depth(means, values["blocks"])}
        if len(means) > 1 else None,
    }  # fmt: skip


def _depth(scores: dict[int, float], blocks: dict[int, float]) -> float | None:
    """Return Kendall's tau of what is said of networks to their numbers of blocks; None where that is no number."""
    from scipy import stats

    both = sorted(set(scores) & set(blocks))
    tau = float(stats.kendalltau([scores[i] for i in both], [blocks[i] for i in both]).statistic)
    return None if np.isnan(tau) else round(tau, 3)


def worth(tau: float, networks: float) -> float:
    """Return how good the network is that an evaluator ranks first among so many, in deviations of the truth.

    If what it says and the truth are normal with a correlation r, then tau = 2 / pi * arcsin(r) (Greiner 1909),
    and the truth of the first of n is r times the mean of the largest of n standard normals on average.

    Args:
        tau: Kendall's, of the evaluator to the truth.
        networks: that it has time for; less than 1: it has no answer, which is worth 0.
    """
    from scipy import integrate, stats

    n = int(min(networks, MOST))
    if n < 1:
        return 0.0
    largest, _ = integrate.quad(
        lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1), -10, 10, limit=500, points=[0, 4]
    )  # fmt: skip
    return float(np.sin(np.pi * tau / 2) * largest)


def per_second(
    taus: dict[str, Any], seconds: dict[str, float], begun: dict[str, float]
) -> dict[str, Any]:
    """Return what each evaluator is worth after the searches' times, with tau and its interval's ends.

    Args:
        taus: of each evaluator.
        seconds: per network.
        begun: seconds before the first network, of supernets.
    """
    by_time: dict[str, Any] = {}
    for name, tau in taus.items():
        kind = name if name in seconds else "proxies"
        if name == "blocks" or tau["tau"] is None:
            continue
        for hours in HOURS:
            n = MOST if name in FREE else (3600 * hours - begun.get(name, 0.0)) / seconds[kind]
            ends = [round(worth(t, n), 3) for t in (tau["tau"], *tau["tau_90"])]
            by_time.setdefault(name, {})[f"{hours:g} h"] = {"networks": max(0, int(n)), "worth": ends}
    return by_time


def pool() -> None:
    """Write results/evaluators.json: the mean of the experiments' taus, its interval, and what that is worth."""
    from scipy import stats

    rng = np.random.default_rng(0)
    parts: dict[str, list[Any]] = {}
    seconds: dict[str, list[float]] = {}
    begun: dict[str, list[float]] = {}
    depths: dict[str, list[float]] = {}
    for path in sorted(Path(__file__).parent.glob("evaluators-*.jsonl")):
        if not path.with_suffix(".json").is_file():
            raise SystemExit(f"{path.name}: is not finished; repeat its command first")
        said, means = read(path)
        for name, answers in said.items():
            both = sorted(set(answers) & set(means))
            parts.setdefault(name, []).append(
                (np.array([answers[i] for i in both]), np.array([means[i] for i in both]))
            )
        pooled = json.loads(path.with_suffix(".json").read_text())
        for kind, value in pooled["seconds_per_network"].items():
            seconds.setdefault(kind, []).append(value)
        for one in pooled["supernets"]:
            begun.setdefault(one["what"], []).append(one["seconds"])
        for name, one in pooled["tau"].items():
            if one["blocks"] is not None:
                depths.setdefault(name, []).append(one["blocks"])
    taus = {}
    for name, pairs in parts.items():
        draws = []
        for _ in range(1000):
            chosen = [rng.integers(len(a), size=len(a)) for a, _ in pairs]
            draws.append(
                np.nanmean(
                    [
                        stats.kendalltau(a[d], b[d]).statistic
                        for (a, b), d in zip(pairs, chosen, strict=True)
                    ]
                )
            )
        whole = float(np.mean([stats.kendalltau(a, b).statistic for a, b in pairs]))
        taus[name] = {
            "experiments": len(pairs),
            "n": sum(len(a) for a, _ in pairs),
            "tau": round(whole, 3),
            "tau_90": np.nanquantile(draws, [0.05, 0.95]).round(3).tolist(),
            "blocks": round(float(np.mean(depths[name])), 3) if depths.get(name) else None,
        }
    typical = {kind: round(float(np.mean(v)), 2) for kind, v in seconds.items()}
    worth = per_second(taus, typical, {kind: float(np.mean(v)) for kind, v in begun.items()})
    figures = {"tau": taus, "seconds_per_network": typical, "per_second": worth}
    _report.write("evaluators", {**_report.conditions([0]), **figures})


def main() -> None:
    """Ask what is missing, in two processes; sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="cifar10:DIR or imagefolder:DIR")
    parser.add_argument("--pool", action="store_true", help="only sum up all experiments")
    parser.add_argument("--space", default="pplcnet_tail")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--low", type=float, default=1.15)
    parser.add_argument("--high", type=float, default=1.30)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--networks", type=int, default=14)
    parser.add_argument("--images", type=int, help="to learn from at most, the truth's too")
    parser.add_argument("--epochs", type=int, default=24, help="of the truth")
    parser.add_argument("--seeds", type=int, default=1, help="of the truth")
    parser.add_argument("--lengths", type=int, nargs="*", default=[2, 4, 8], help="of trainings")
    parser.add_argument("--supernet-epochs", type=int, default=24)
    parser.add_argument("--labels", type=float, nargs="*", default=[0.0, 1.0], help="of supernets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pool:
        pool()
        return
    if args.data is None:
        parser.error("--data is needed")
    if args.core is not None:
        work(args)
        return
    field(args)  # what the table lacks is measured before anything else runs
    _report.on_each_core(CORES)
    conditions = _report.of_data([args.seed], args.data)
    record = {
        **conditions,
        "epochs": args.epochs,
        "band_ms": [args.low, args.high],
        **summary(args),
    }
    _report.write(name_of(args), record)
    print(json.dumps(record["tau"], indent=1), json.dumps(record["seconds_per_network"]))


if __name__ == "__main__":
    main()
