"""docs/results/search.md is what its script makes of the committed results."""

import importlib.util


def test_up_to_date(checkout):
    path = checkout / "scripts" / "make_search_docs.py"
    spec = importlib.util.spec_from_file_location("make_search_docs", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PATH.read_text(encoding="utf-8") == script.render(), (
        "docs/results/search.md is out of date: run scripts/make_search_docs.py"
    )
