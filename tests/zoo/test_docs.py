"""docs/reference/zoo.md is what scripts/make_zoo_docs.py makes of the zoo."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lcnas import zoo

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_zoo_docs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_zoo_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_up_to_date(script):
    assert script.PATH.read_text(encoding="utf-8") == script.render(), (
        "docs/reference/zoo.md is out of date: run scripts/make_zoo_docs.py"
    )
    assert script.main(["--check"]) == 0


def test_every_network_has_a_row(script):
    text = script.render()
    for name in zoo.names():
        assert text.count(f"| `{name}` |") >= 1


def test_check_reports_and_writing_updates(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "PATH", tmp_path / "zoo.md")
    assert script.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert not script.PATH.exists()
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    with script.PATH.open("a") as file:
        file.write("\n")
    assert script.main(["--check"]) == 1


def test_a_figure_that_is_not_met_is_struck_out(script):
    assert script.printed(4_249_999, "4.2M") == "4.2M"
    assert script.printed(4_250_000, "4.2M") == "~~4.2M~~"
    assert script.printed(4_250_000, "") == ""
