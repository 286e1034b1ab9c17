"""Committed searches: accuracy and latency of one resolution, and accuracies that others can count."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results" / "searches"
FILES = sorted(RESULTS.glob("*.json"))


def apart(data):
    """Return the networks of a results file whose accuracies and latencies are of different resolutions."""
    named = {final["name"]: final for final in data["outcome"]["finals"]}
    wrong = [name for name in named if name not in data.get("resolutions", {})]
    for name, of in data.get("resolutions", {}).items():
        runs = {str(run.get("resolution")) for run in named[name]["runs"]}
        if of["accuracy"] != [of["latency"]] or runs != {of["latency"]}:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_search_names_one_resolution_of_accuracy_and_latency(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["outcome"]["finals"]
    assert apart(data) == []


def test_a_results_file_of_two_resolutions_is_refused():
    run = {"resolution": 64}
    data = {
        "outcome": {"finals": [{"name": "a", "runs": [run]}]},
        "resolutions": {"a": {"accuracy": ["64"], "latency": "64"}},
    }
    assert apart(data) == []
    assert apart(data | {"resolutions": {"a": {"accuracy": ["64"], "latency": "224"}}}) == ["a"]
    assert apart(data | {"resolutions": {}}) == ["a"]
    run["resolution"] = 32
    assert apart(data) == ["a"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_printed_accuracies_are_what_a_program_without_lcnas_counts(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    settings = data["outcome"]["settings"]
    if settings["data"].startswith("synthetic"):
        assert data["independently"] == []  # images that lcnas alone can make
        return
    runs = {run["onnx"]: run for final in data["outcome"]["finals"] for run in final["runs"]}
    assert {one["file"] for one in data["independently"]} == set(runs)
    for one in data["independently"]:
        assert abs(one["printed"] - one["independent"]) <= 0.2
        assert one["printed"] == pytest.approx(100 * runs[one["file"]]["test"], abs=1e-3)
