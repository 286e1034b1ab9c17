"""docs/results/latency.md is up to date with the committed results."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "scripts" / "make_latency_docs.py"
    spec = importlib.util.spec_from_file_location("make_latency_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_up_to_date(script):
    assert script.PATH.read_text(encoding="utf-8") == script.render(), (
        "docs/results/latency.md is out of date: run scripts/make_latency_docs.py"
    )


def measured(ms: float, low: float, high: float, paper: float | None = None) -> dict[str, Any]:
    return {"ms": ms, "interval": [low, high], "paper_ms": paper}


def test_a_cost_is_a_ratio_with_the_two_intervals_combined(script):
    results = {"with": measured(2.2, 2.2, 2.2), "without": measured(2.0, 2.0, 2.0)}
    assert script.cost(results, "with", "without") == pytest.approx((0.1, 0.1, 0.1))
    results["without"] = measured(2.0, 1.9, 2.1)
    assert script.cost(results, "with", "without") == pytest.approx(
        (0.1, 2.2 / 2.1 - 1, 2.2 / 1.9 - 1)
    )
    # two logarithms of one width each: the root of two times as wide
    width = np.exp(0.03 * 2**0.5)
    results = {
        k: measured(ms, ms * np.exp(-0.03), ms * np.exp(0.03))
        for k, ms in (("with", 3.0), ("without", 2.0))
    }
    expected = (0.5, 1.5 / width - 1, 1.5 * width - 1)
    assert script.cost(results, "with", "without") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("paper", "here", "word"),
    [
        (0.05, (0.05, 0.04, 0.06), "holds"),
        (0.05, (0.09, 0.07, 0.11), "holds"),  # within the margin of two points
        (0.05, (0.10, 0.071, 0.12), "dearer here"),
        (0.05, (0.01, 0.0, 0.031), "holds"),
        (0.05, (0.01, 0.0, 0.029), "cheaper here"),
        (0.05, (0.05, 0.0, 0.11), "undecided"),
        (0.05, (0.6, 0.3, 0.9), "dearer here"),  # wide, but far
    ],
)
def test_verdicts(script, paper, here, word):
    assert script.verdict(paper, here) == word


@pytest.mark.parametrize(
    ("here", "word"),
    [
        ((0.03, 0.021, 0.04), "costs"),
        ((-0.03, -0.04, -0.021), "saves"),
        ((0.0, -0.02, 0.02), "free"),
        ((0.0, -0.03, 0.02), "undecided"),
    ],
)
def test_prices(script, here, word):
    assert script.price(here) == word


def test_every_step_of_every_rule_is_described_in_words(script):
    names = {n for steps in script.RULES.values() for _, a, b in steps for n in (a, b)}
    names |= {n for _, a, b in script.LATER for n in (a, b)}
    results = {n: measured(1.0, 0.99, 1.01, 2.0) for n in names}
    results["SE at 1111111111111"] = measured(1.2, 1.19, 1.21, 3.8)
    text = "\n".join(script.rules({"openvino-t1-fp32": results, "mlas-t1-fp32": results}))
    assert text.count(": holds |") == 2 * (sum(map(len, script.RULES.values())) - 1)
    here = script.shown(script.cost(results, "SE at 1111111111111", script.FULL))
    assert here.startswith("+20.0 % (+18")
    assert f"+90.0 % | {here}: cheaper here | {here}: cheaper here |" in text
    words = "- **h-swish instead of ReLU** (paper: +0.0 % added to the BaseNet, +0.0 % taken away"
    assert f"{words} from the whole). openvino-t1-fp32: **holds**; mlas-t1-fp32: **holds**." in text
    mixed = "in the middle two **holds**, in all 13 **cheaper here**"
    assert f"openvino-t1-fp32: in the first two blocks **holds**, {mixed}; mlas-t1-fp32: " in text
    assert "2 points" in text
    assert text.count(": free |") == 2 * len(script.LATER)


def test_statements_of_the_notes_on_mlas_with_two_threads_match_the_page(script):
    text = " ".join((ROOT / "docs" / "results" / "notes.md").read_text(encoding="utf-8").split())
    page = script.PATH.read_text(encoding="utf-8")
    for _, data in script.results("latency-[!s]*.json"):
        wide = {s: script.percent(script.width(data["settings"][s]), 0) for s in script.SETTINGS}
        assert f"are wider than {wide['mlas-t2-fp32']} of the latency" in text
        assert f"(fp32; int8: {wide['mlas-t2-int8']})" in text
    counts = [int(n) for n in re.findall(r"fp32 (\d+)", page.partition("Undecided, of 13:")[2])[:4]]
    assert f"So {counts[3]} of the 13 verdicts" in text
    assert f"against {counts[0]}, {counts[1]} and {counts[2]} in the other" in text


def errors(n: int, coverage: float) -> dict[str, Any]:
    return {"fit": {"n": n}, "coverage_90": coverage}


def test_coverage_is_reported_in_total_and_where_it_is_off(script):
    results = {
        "a": {"held_out": errors(40, 0.9), "uniform": errors(20, 0.75)},
        "a 128px": {"held_out": errors(40, 1.0)},
    }
    (text,) = script.coverage(results)
    assert "hold 91 of these 100 networks (91.0 %)." in text
    assert (
        "Outside 85 % to 95 %: a, uniform (75.0 % of 20, too few); a 128px, bands (100.0 % of 40, "
        in text
    )
    assert "too many" in text
    assert (
        "7 points with 20 networks, 5 points with 40 networks, 3 points with 100 networks" in text
    )
    (text,) = script.coverage({"a": {"held_out": errors(40, 0.8)}})
    assert "hold 32 of these 40 networks (80.0 %, fewer than they should)." in text
    (text,) = script.coverage({"a": {"held_out": errors(40, 0.9)}})
    assert "Every set lies within 85 % to 95 %." in text
    assert list(script.coverage({})) == []
