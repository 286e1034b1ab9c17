"""The command that makes a report again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from lcnas.errors import LcnasError, TrainingFailedError
from search import report
from tests.search.reporting import sample_run
from tests.search.reporting.test_measurements import WHOSE, file, network


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    return sample_run.save(folder, sample_run.outcome(folder, n=40))


def test_a_report_is_made_again(finished, capsys):
    before = (finished / "outcome.json").read_bytes()
    assert report.main([str(finished)]) == 0
    printed = capsys.readouterr().out
    assert "Better than the baselines beside it in 2 of 3 latency bands." in printed
    assert f"written: {finished}: report.md, report.html, front.json, front.png" in printed
    for name in ("report.md", "report.html", "front.json", "front.png"):
        assert (finished / name).stat().st_size > 1000
    assert (finished / "outcome.json").read_bytes() == before


def test_latencies_measured_elsewhere(finished, tmp_path, capsys):
    there = file(
        tmp_path / "there.json", network("finalist-1-s0", 5.0), network("pplcnet_0.35x", 4.0)
    )
    assert report.main([str(finished), "--measurements", str(there)]) == 0
    assert "at 5.00 ms against 4.00 ms" in " ".join(capsys.readouterr().out.split())
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "at 5.00 ms against 4.00 ms" in text
    assert f"Measured elsewhere: {WHOSE}." in text
    assert "0 of 1 measured finalist (0%) within the budget of 2.50 ms" in text
    assert "(by the table of Example CPU" in text
    data = json.loads((finished / "front.json").read_text())
    assert data["measured_on"] == WHOSE
    assert [f["measured"] is None for f in data["finals"]] == [False, True, True, False] + [
        True
    ] * 4
    assert report.main([str(finished)]) == 0  # and back
    assert json.loads((finished / "front.json").read_text())["measured_on"] == sample_run.TABLE


def test_a_folder_that_is_none(tmp_path):
    for name in ("nowhere", "x" * 300, "a\0b"):
        with pytest.raises(LcnasError, match=r"folder: .* is not a folder") as caught:
            report.main([str(tmp_path / name)])
        assert len(str(caught.value)) < 200
    with pytest.raises(LcnasError, match=r"holds no search \(no config\.json, no outcome\.json\)"):
        report.main([str(tmp_path)])


def test_a_search_that_is_not_finished(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LcnasError) as caught:
        report.main([str(tmp_path)])
    assert "is not finished (no outcome.json); python -m search.run --resume " in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"{", "not an outcome: "),
        (lambda data: b"\xff\xfe", "cannot be read"),
        (lambda data: json.dumps(data | {"version": 99}).encode(), "is not lcnas-search-outcome"),
        (lambda data: json.dumps(data | {"more": 1}).encode(), "not an outcome: .*more"),
        (lambda data: b"[]", "not an outcome"),
    ],
)
def test_a_broken_outcome(finished, tmp_path, damage, message):
    data = json.loads((finished / "outcome.json").read_text())
    (tmp_path / "outcome.json").write_bytes(damage(data))
    with pytest.raises(LcnasError, match=f"outcome.json: {message}") as caught:
        report.main([str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_measurements_of_other_networks_change_nothing(finished, tmp_path):
    before = (finished / "report.md").read_bytes() if (finished / "report.md").exists() else b""
    there = file(tmp_path / "there.json", network("resnet18"))
    with pytest.raises(LcnasError, match="resnet18: none of this search's networks"):
        report.main([str(finished), "--measurements", str(there)])
    after = (finished / "report.md").read_bytes() if (finished / "report.md").exists() else b""
    assert after == before


def test_a_full_disk_is_a_failure(finished, monkeypatch, capsys):
    def full(*args, **more):
        raise TrainingFailedError("no space is left")

    monkeypatch.setattr("search.reporting.write", full)
    assert report.main([str(finished)]) == 1
    assert capsys.readouterr().err == "python -m search.report: no space is left\n"


def test_a_network_of_no_runs_is_shown_all_the_same(tmp_path, capsys):
    result = sample_run.outcome(tmp_path, n=20, names=("finalist-1", "pplcnet_0.35x"))
    bare = dataclasses.replace(
        result, finals=tuple(dataclasses.replace(f, runs=()) for f in result.finals)
    )
    sample_run.save(tmp_path, bare)
    assert report.main([str(tmp_path)]) == 0
    assert "finalist-1 was not trained" in capsys.readouterr().out


def test_help_and_errors_from_a_shell(checkout, tmp_path):
    def run(*args):
        command = [sys.executable, "-m", "search.report", *args]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True)

    done = run("--help")
    assert done.returncode == 0
    for word in ("FOLDER", "--measurements FILE", "outcome.json does not change"):
        assert word in done.stdout
    done = run(str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python -m search.report: folder: ")
    assert done.stderr.count("\n") == 1


def test_unknown_options(capsys):
    with pytest.raises(SystemExit) as left:
        report.main(["--measurement", "x", "y"])
    assert left.value.code == 2
    assert (
        "unknown argument '--measurement'; did you mean '--measurements'?"
        in capsys.readouterr().err
    )
