"""The table that a search ends with."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from search import reporting
from tests.search.reporting import sample_run


def shown(outcome, folder=None, width=80, **more):
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, **more).print(reporting.table(outcome, folder))
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def outcome(folder):
    return sample_run.outcome(folder, n=30)


def test_finalists_stand_beside_their_baselines(outcome, folder):
    text = shown(outcome, folder, width=200)
    rows = text.splitlines()
    first = next(i for i, row in enumerate(rows) if row.startswith("* finalist-1 "))
    assert rows[first].split()[2:7] == ["66.0", "±", "0.1", "0.950", "0.920"]
    assert rows[first + 1].split() == ["0.902-1.01", "0.906-0.938"]
    assert rows[first + 2].startswith("  pplcnet_0.35x ")
    assert rows[first + 2].split()[-1] == "58.09"
    assert f"  finalist-1: {folder}/networks/finalist-1-s" in text
    assert "\nBetter than the baselines beside it in 2 of 3 latency bands.\n" in text
    assert "\n  band 1: finalist-1 is " in text
    assert "\n  note: Intervals are of 95 %, over seeds and test images.\n" in text
    assert "\n  note: finalist-3 was replaced" in text


def with_fp32(outcome):
    """Return an outcome of int8 files, each two points below its fp32 twin."""
    finals = tuple(
        dataclasses.replace(
            f,
            runs=tuple(
                dataclasses.replace(r, precision="int8", test_fp32=r.test + 0.02) for r in f.runs
            ),
        )
        for f in outcome.finals
    )
    return dataclasses.replace(outcome, finals=finals)


def test_the_accuracy_of_the_fp32_twins_stands_below(outcome, folder):
    rows = shown(with_fp32(outcome), folder, width=200).splitlines()
    first = next(i for i, row in enumerate(rows) if row.startswith("* finalist-1 "))
    assert rows[first].split()[2:5] == ["66.0", "±", "0.1"]
    assert rows[first + 1].split()[:4] == ["fp32", "68.0", "±", "0.1"]
    table = shown(with_fp32(outcome)).split("* winner of its band")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table


@pytest.mark.parametrize(
    ("measured_by", "expected"),
    [
        ("a", "accuracy and latency of the exported files at 64 px, run by a"),
        ("b", "accuracy of the exported files at 64 px, run by a; latencies measured by b"),
        ("", "accuracy of the exported files at 64 px, run by a"),
    ],
)
def test_what_ran_the_files_is_printed(outcome, folder, measured_by, expected):
    result = dataclasses.replace(outcome, tested_by="a", measured_by=measured_by)
    assert f"  {expected}\n" in shown(result, folder, width=200)


@pytest.mark.parametrize("soft", [False, True])
def test_it_fits_80_columns(outcome, soft):
    text = shown(outcome, soft_wrap=soft)
    table = text.split("* winner of its band")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert "…" not in text
    for word in ("74.6", "1.29-1.34", "mobilenet_v4_conv_", "    small_0.5x", "68.18"):
        assert any(word in line for line in table)


def test_names_are_not_taken_for_markup(outcome):
    odd = dataclasses.replace(outcome.finals[0], name="[red]x[/red]", runs=())
    text = shown(dataclasses.replace(outcome, finals=(odd,), notes=("[bold]",)), width=120)
    assert "[red]x[/red]" in text
    assert "note: [bold]" in text


def test_nothing_to_show(outcome):
    text = shown(dataclasses.replace(outcome, finals=(), notes=(), synthetic=True), width=200)
    assert text == (
        "No finalist was trained, so nothing better was found; "
        "a demonstration on synthetic images, that says nothing of real ones.\n"
    )


def test_what_was_not_measured_is_left_empty(tmp_path):
    outcome = sample_run.outcome(tmp_path, n=30, measured=False, test=False, names=("finalist-1",))
    rows = shown(outcome, width=120).splitlines()
    assert rows[1].split()[0] == "validation"
    row = next(row for row in rows if "finalist-1" in row)
    assert "0.950" in row
    assert "0.920" not in row
