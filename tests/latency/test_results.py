"""The scripts of two experiments, on networks of known latency and on a small file."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from lcnas import onnx_export, spaces, zoo
from lcnas.arch import walk
from lcnas.latency import TimingPlan, engines
from lcnas.latency.machine import Machine
from lcnas.latency.table import Entry, LatencyTable, MeasuredNetwork

from .synthetic import ENGINE, OVERHEAD_MS, hashed, inside_ms
from .test_profile import SPACE

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "results").is_dir(), reason="the source archive has no experiments"
)


def measured(study, pair_ms: float) -> LatencyTable:
    """Return a table of networks that cost the sum of their blocks and pairs, with 0.5 % of noise."""
    space = spaces.loads(SPACE, "synthetic")
    rng = np.random.default_rng(0)
    table = LatencyTable(Machine("Some CPU", "avx2", 2, ""), ENGINE, overhead_ms=OVERHEAD_MS)
    for placed in space.placed_blocks():
        ms = OVERHEAD_MS + inside_ms(placed)
        table.entries[placed] = Entry(ms, ms, ms, 6, 2)
    archs = space.decode(np.unique(space.sample_codes(220, rng), axis=0))
    for i, arch in enumerate(archs[:180]):
        blocks = walk(arch)
        pairs = [hashed(study.pair_kind(a, b), "pair") for a, b in itertools.pairwise(blocks)]
        ms = OVERHEAD_MS + sum(inside_ms(p) for p in blocks) + pair_ms * sum(pairs)
        first, again = ms * np.exp(0.005 * rng.standard_normal(2))
        role = "calibration" if i < 130 else "held_out"
        table.networks.append(
            MeasuredNetwork(blocks, role, "synthetic", first, first, first, float(again))
        )
    return table


def test_terms_of_pairs_help_where_pairs_cost_something_and_only_there():
    study = importlib.import_module("results.pair_terms")
    with_pairs = study.study(measured(study, pair_ms=0.02))
    errors = with_pairs["errors"]["synthetic"]["held_out"]
    assert errors["shrunk"]["n"] == 50
    assert errors["pairs"]["mape"] < 0.8 * errors["shrunk"]["mape"]
    assert errors["change"][2] < 0
    assert errors["noise floor"]["mape"] < 0.01
    tried = with_pairs["cross_validation"]
    assert min(tried.values()) == tried[with_pairs["chosen"]]
    without = study.study(measured(study, pair_ms=0.0))["errors"]["synthetic"]["held_out"]
    assert abs(without["change"][0]) < 0.001


def test_an_onnx_file_is_timed_by_lcnas_and_by_a_simple_loop(tmp_path, monkeypatch):
    study = importlib.import_module("results.third_party_onnx")
    path = tmp_path / "net.onnx"
    onnx_export.export(zoo.load("pplcnet_0.25x", 32), path, classes=10)
    monkeypatch.setattr(study, "TURNS", 2)
    monkeypatch.setattr(
        study, "PLAN", TimingPlan(sessions=1, rounds=2, most_rounds=2, visit_ms=1.0, least_runs=3)
    )
    result = study.compare(path, engines.engine("mlas"))
    assert result["n"] == 2
    assert 0.1 < result["ratio_median"] < 10
    assert result["agrees"] == (abs(result["ratio_median"] - 1) <= result["floor_mean"])
    assert len(study.plain_loop(path, engines.engine("mlas"))) == 2
