"""Tables of spaces of one, two, three or a few dozen networks, and their errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lcnas import latency, profile_blocks
from lcnas.arch import walk
from lcnas.errors import TableError
from lcnas.latency import fitting
from lcnas.latency.profile import Builder, ProfileSettings, held_out_count, span
from lcnas.latency.table import LatencyTable
from lcnas.latency.timing import TimingPlan
from search import tables
from tests.spaces.test_few_networks import of_widths, restricted

from .synthetic import ENGINE, World, alone_ms, inside_ms

PLAN = TimingPlan(sessions=2, rounds=3, most_rounds=3, visit_ms=4.0)
WIDTHS = {1: (16,), 2: (16, 24), 3: (16, 24, 32)}


def build(space, folder: Path, **changes: object) -> tuple[LatencyTable, ProfileSettings]:
    settings = ProfileSettings(spaces=(space,), **changes)  # type: ignore[arg-type]
    world = World()
    builder = Builder(
        settings,
        ENGINE,
        folder,
        open_session=world.open,
        clock=world.clock,
        block_plan=PLAN,
        network_plan=PLAN,
    )
    return LatencyTable.load(builder.run()), settings


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_network_measures_the_error_of_the_sum_of_the_blocks(n, tmp_path):
    space = of_widths(*WIDTHS[n])
    table, settings = build(space, tmp_path)
    assert len(table.entries) == len(space.placed_blocks())
    assert [network.role for network in table.networks] == ["held_out"] * n
    assert table.method["fit"] == "sum"
    held = table.errors["few"]["held_out"]
    off = [m.ms / p - 1 for m, p in zip(table.networks, _predicted(table, space), strict=True)]
    assert held["fit"]["n"] == n
    assert held["fit"]["mape"] == pytest.approx(
        np.mean([abs(1 / (1 + o) - 1) for o in off]), rel=1e-3
    )
    assert table.residuals == pytest.approx(sorted(off), rel=1e-3)
    assert held["coverage_90"] == (
        1 / 3 if n == 3 else 0.0
    )  # by the others: of three, the middle one
    assert tables.margin(table, space=space) == pytest.approx(max(0, *table.residuals, 0))
    text = profile_blocks.summary(table, settings)
    networks = "the only network" if n == 1 else f"all {n} networks"
    assert f"few: {networks} of the space measured; there are no more" in text
    assert "an error over fewer than 10 networks is a hint, not an estimate" in text
    assert (
        f"no 90 % intervals, which take 19 networks: this table's reach as far as the errors of {n}"
        in text
    )
    assert "nothing is fitted, which takes 20 networks: the blocks are summed" in text
    assert "--calibrate" not in text


def _predicted(table, space):
    """Return the sum of the table's terms for each of its networks."""
    for network in table.networks:
        terms = [table.entries[p].term for p in network.placed]
        assert None not in terms
        yield (table.base + sum(terms)) / 1000


def test_it_resumes_after_a_stop_and_a_complete_repetition_changes_nothing(tmp_path):
    """The journal stores codes of no genes as empty lists."""
    space = of_widths(16)
    world = World()

    class StoppedError(Exception):
        pass

    def stop(step):
        if "again" in step.title:
            raise StoppedError

    def builder():
        settings = ProfileSettings(spaces=(space,))
        return Builder(
            settings,
            ENGINE,
            tmp_path,
            open_session=world.open,
            clock=world.clock,
            block_plan=PLAN,
            network_plan=PLAN,
        )

    first = builder()
    first.on_progress = stop
    with pytest.raises(StoppedError):
        first.run()
    first.journal.close()
    path = builder().run()
    table = LatencyTable.load(path)
    assert [n.role for n in table.networks] == ["held_out"]
    assert table.networks[0].again_ms is not None


def test_a_restriction_to_one_network_is_a_space_of_one(tmp_path):
    table, _ = build(restricted(), tmp_path)
    assert [network.role for network in table.networks] == ["held_out"]


def test_a_space_large_enough_for_both_is_divided(tmp_path):
    """Of 30 networks 20 are needed to fit; all were held out before, and none was fitted."""
    table, _ = build(of_widths(*range(8, 248, 8)), tmp_path)
    roles = [network.role for network in table.networks]
    assert (roles.count("calibration"), roles.count("held_out")) == (20, 10)
    assert table.method["fit"] == "shrunk"
    held = table.errors["few"]["held_out"]
    assert held["fit"]["n"] == 10
    assert held["fit"]["mape"] < held["sum"]["mape"]


@pytest.mark.parametrize(
    ("networks", "others", "changes", "held"),
    [
        (1, 0, {}, 1),
        (21, 0, {}, 21),  # only one would remain held out
        (22, 0, {}, 2),
        (40, 0, {}, 20),
        (59, 0, {}, 39),
        (60, 0, {}, 40),
        (280, 0, {}, 40),
        (40, 12, {}, 32),
        (50, 0, {"calibrate": 10}, 40),  # so few to fit that nothing is fitted
        (50, 0, {"validate": 0}, 0),
    ],
)
def test_how_many_are_held_out(networks, others, changes, held):
    assert held_out_count(networks, others, ProfileSettings(**changes)) == held


def test_a_table_without_networks_is_not_validated(tmp_path):
    table, settings = build(of_widths(16), tmp_path, validate=0, uniform=0, calibrate=0)
    assert (table.networks, table.errors, table.residuals) == ([], {}, ())
    assert "not validated: no network was held out (see --validate)" in profile_blocks.summary(
        table, settings
    )
    with pytest.raises(TableError, match="was not validated"):
        tables.margin(table)


def test_without_limits_a_search_begins_with_the_fastest_where_all_is_fast(tmp_path, monkeypatch):
    """PP-LCNet 0.25x is slower than all of the space."""
    monkeypatch.chdir(tmp_path)
    space = of_widths(16, 24)
    table, _ = build(space, tmp_path)
    budget = latency.Budget(space, table, float("inf"))
    for arch in span(space):
        for placed in walk(arch):
            if placed not in table.entries:
                ms, term = alone_ms(placed), round(inside_ms(placed) * 1000)
                entry = next(iter(table.entries.values()))
                table.entries[placed] = dataclasses.replace(
                    entry, ms=ms, low=ms, high=ms, term=term
                )
    limits = tables.span(space, table)
    assert limits.low == budget.lowest / 1000
    assert limits.note == "all of few is faster than PP-LCNet 0.25x: nothing is too fast"
    assert latency.Budget(space, table, limits.high, limits.low).count() == 2


def test_as_many_networks_are_announced_as_there_are():
    text = tables.TableJob(
        LatencyTable(latency.this_machine(), ENGINE),
        of_widths(16),
        ENGINE,
        1000,
        Path(),
        tables.FEW,
        tables.WHOLE,
    ).announcement()
    assert "and up to 1 whole network are measured now, about a minute" in text


def test_intervals_by_all_others():
    by_others = fitting._coverage_by_others
    assert by_others([0.1], [0.1]) == 0.0
    assert by_others([0.1, 0.2], [0.1, 0.2]) == 0.0
    assert by_others([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) == pytest.approx(1 / 3)
    twenty = [i / 100 for i in range(20)]
    assert by_others(twenty, twenty) == 0.9  # as a 90 % interval of 19 has to
