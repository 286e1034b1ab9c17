"""The end of a search: what the measurements of finalists are good for afterwards."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from lcnas import spaces
from lcnas.arch import walk
from lcnas.latency import Budget
from lcnas.latency.table import LatencyTable
from search import contest, steps
from search.finalists import Bench
from search.folder import Folder
from search.settings import Settings
from search.steps import Field
from search.telling import Told
from tests.search.test_finalists import PLAN, ROUGH, Machine, trials_of
from tests.search.test_tables import SPACE, exact


@pytest.fixture
def space():
    return spaces.loads(SPACE, "made_up")


def chosen(space, tmp_path, monkeypatch, said, **asked):
    """Choose and measure finalists on the made-up machine."""
    monkeypatch.chdir(tmp_path)
    machine = Machine()
    monkeypatch.setattr(
        contest,
        "Bench",
        functools.partial(Bench, plan=PLAN, rough=ROUGH, visits=machine.visits),
    )
    trials = trials_of(space)
    table = exact(space)
    field = Field(
        space=space,
        table=table,
        here=asked.pop("here", True),
        classes=1000,
        max_ms=2 * max(t.latency_ms for t in trials),
        min_ms=min(t.latency_ms for t in trials),
        margin=0.0,
        budget=Budget(space, table, float("inf")),
    )
    front = steps.front_of(trials)
    tell = Told()
    monkeypatch.setattr(tell, "line", said.append)
    settings = Settings(finalists=2, bands=1, baselines=False, **asked)
    return contest.chosen(settings, field, trials, front, Folder(tmp_path / "run"), tell)


def test_measured_finalists_join_the_table_that_the_next_search_finds(space, tmp_path, monkeypatch):
    said: list[str] = []
    made = chosen(space, tmp_path, monkeypatch, said)
    table = exact(space)
    path = Path("latency_tables") / table.file_name
    known = {n.rows: n.ms for n in LatencyTable.load(path).networks}
    assert known == {walk(f.arch): pytest.approx(f.measured.ms, rel=1e-4) for f in made.finalists}
    assert len(known) == 2
    assert any(line.startswith(f"table: what was measured joins {path}") for line in said)
    # A resumed search reads what it has measured, and adds nothing.
    before = path.read_bytes()
    assert chosen(space, tmp_path, monkeypatch, said) == made
    assert path.read_bytes() == before
    assert sum(line.startswith("table: ") for line in said) == 1


def test_a_table_that_cannot_be_written_is_no_reason_to_stop(space, tmp_path, monkeypatch):
    said: list[str] = []
    (tmp_path / "latency_tables").write_text("a file stands in the way")
    made = chosen(space, tmp_path, monkeypatch, said)
    assert all(f.measured is not None for f in made.finalists)
    assert sum("table: what was measured was not added: " in line for line in said) == 1


@pytest.mark.parametrize("asked", [{"table": "given"}, {"here": False, "remeasure": True}])
def test_a_table_that_was_given_or_is_of_another_machine_stays_as_it_was(
    space, tmp_path, monkeypatch, asked
):
    said: list[str] = []
    monkeypatch.setattr(contest, "_engine", lambda field: field.table.engine)
    made = chosen(space, tmp_path, monkeypatch, said, **asked)
    assert all(f.measured is not None for f in made.finalists)
    assert not Path("latency_tables").exists()
    assert not any(line.startswith("table: ") for line in said)
