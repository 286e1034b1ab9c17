"""docs/latency-results.md is what its script makes of the committed results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_up_to_date():
    path = ROOT / "scripts" / "make_latency_docs.py"
    spec = importlib.util.spec_from_file_location("make_latency_docs", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PATH.read_text(encoding="utf-8") == script.render(), (
        "docs/latency-results.md is out of date: run scripts/make_latency_docs.py"
    )
