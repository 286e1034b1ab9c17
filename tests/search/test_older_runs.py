"""Runs of an earlier version, committed as it left them, resume and report; proposals are the same ones."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcnas import budgets, spaces
from search import predictor, report, run, searchers
from search.trials import Trial

RUNS = Path(__file__).parents[1] / "data" / "older_runs"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def copy(tmp_path):
    return lambda name: Path(shutil.copytree(RUNS / name, tmp_path / name))


def test_a_finished_run_is_reported(copy, capsys):
    folder = copy("finished")
    before = (folder / "outcome.json").read_bytes()
    assert report.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "finalist-1" in out
    assert "pplcnet_1.5x" in out
    assert (folder / "outcome.json").read_bytes() == before
    text = (folder / "report.md").read_text()
    outcome = json.loads(before)
    tests = [r["test"] for f in outcome["finals"] if f["role"] == "finalist" for r in f["runs"]]
    assert f"{100 * np.mean(tests):.1f} ± {100 * np.std(tests, ddof=1):.1f}" in text
    assert "published network" in text or "PP-LCNet" in text
    assert "--images 400" in text  # its settings under today's names
    front = json.loads((folder / "front.json").read_text())
    assert [n["number"] for n in front["front"]] == outcome["front"]


def test_a_finished_run_can_be_resumed_and_shows_its_result(copy, capsys):
    folder = copy("finished")
    assert run.main(["--resume", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["finals"] == json.loads((folder / "outcome.json").read_text())["finals"]
    assert "run: " in err


def test_a_run_that_was_begun_goes_on_with_the_same_networks(copy):
    folder = copy("begun")
    begun = (folder / "trials.jsonl").read_bytes()
    command = [sys.executable, "-m", "search.run", "--resume", str(folder), "--until", "search"]
    env = {**os.environ, "RAY_ADDRESS": ""}
    done = subprocess.run(command, cwd=RUNS.parents[2], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    trials = lines(folder / "trials.jsonl")
    assert (folder / "trials.jsonl").read_bytes().startswith(begun)
    expected = lines(RUNS / "begun-all-trials.jsonl")
    assert len(trials) == len(expected) == 12
    by_number = {t["number"]: t for t in trials}
    for t in expected:
        assert by_number[t["number"]]["codes"] == t["codes"]
        assert by_number[t["number"]]["latency_ms"] == t["latency_ms"]
        assert by_number[t["number"]]["accuracy"] == pytest.approx(t["accuracy"], rel=1e-3)


# Of 60 proposals each (tpe: 30), as the version before the redesign of `search` made them.
DIGESTS = {
    "nsga2": "34a2e75f9f0e8f25",
    "evolution": "49ed9772581954f9",
    "tpe": "090bcd954e560d48",
    "random": "1b8c1ddee91d3aec",
    "local": "450fb1870c24828c",
    "screened": "a24a6e3ef414ff3c",
}


def accuracy(codes, cost):
    return float(1 - np.exp(-cost / 50e6) + 0.01 * np.sin(float(codes.sum())))


def digest(name, trials):
    """A digest of the networks that a searcher proposes with a lag of 4 while results come out of order."""
    budget = budgets.macs(spaces.load("pplcnet"), max_macs=300e6)
    own = searchers.create("nsga2" if name == "screened" else name, budget, seed=3, trials=trials)
    if name == "screened":
        own = predictor.Screened(own, budget, predictor.ScreeningOptions(start=20))
    proposals = searchers.Proposals(own, budget, seed=3, lag=4)
    waiting: list[Any] = []
    codes_of: list[Any] = []
    while len(codes_of) < trials:
        proposal = proposals.next()
        if proposal is None or len(waiting) > 3:
            number, codes = waiting.pop(0 if proposal is None else 1)
            cost = float(budget.costs(codes[None])[0])
            failed = number % 17 == 5
            value = None if failed else accuracy(codes, cost)
            proposals.record(
                Trial(number, tuple(codes.tolist()), "", cost / 1e6, value, "no" * failed)
            )
        if proposal is not None:
            waiting.append(proposal)
            codes_of.append(proposal[1])
    return hashlib.sha256(np.stack(codes_of).astype(np.int64).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", DIGESTS)
def test_proposals_are_those_of_the_version_before(name):
    assert digest(name, 30 if name == "tpe" else 60) == DIGESTS[name]
