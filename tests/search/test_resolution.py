"""The one resolution of a search, and what is said of runs that had two."""

import dataclasses
import json
import re

import numpy as np
import pytest

from lcnas import paths
from lcnas.errors import SpaceError
from lcnas.training import data as data_module
from search import preflight, resolution, run
from search.outcome import FinalRun, Outcome
from search.pipeline import SearchPipeline
from search.run_dir import CONFIG, RunDir
from search.settings import ExecutionOptions, Settings
from tests.search.commands import TESTED, begin, small_set
from tests.search.reporting import sample_run


def of(monkeypatch, side, **asked):
    monkeypatch.setattr(data_module, "own_size", lambda spec: side)
    return resolution.resolve(Settings(**asked)).resolution


@pytest.mark.parametrize(
    ("side", "wanted"),
    [(None, 48), (28, 32), (32, 32), (47, 32), (48, 64), (128, 128), (150, 160), (375, 224)],
)
def test_images_own_size_decides_where_a_packaged_space_lists_224_alone(monkeypatch, side, wanted):
    assert of(monkeypatch, side) == wanted
    assert of(monkeypatch, side, space="lcnet_next") == wanted


def test_a_packaged_space_is_one_by_its_path_too(monkeypatch):
    path = paths.spaces_dir() / "pplcnet_tail.toml"
    assert of(monkeypatch, 128, space=str(path)) == 128


def test_what_is_asked_for_comes_first(monkeypatch):
    assert of(monkeypatch, 128, resolution=96) == 96
    assert of(monkeypatch, 128, space="pplcnet_tail_32", resolution=(64, 96)) == (64, 96)


def test_a_spaces_own_list_comes_second(monkeypatch, tmp_path):
    assert of(monkeypatch, 128, space="pplcnet_tail_32") == 32
    packaged = (paths.spaces_dir() / "pplcnet_tail.toml").read_text()
    mine = tmp_path / "pplcnet_tail.toml"
    mine.write_text(packaged)  # a file of one's own means what it says
    assert of(monkeypatch, 128, space=str(mine)) == 224
    mine.write_text(re.sub(r"resolution = \[224\]", "resolution = [96]", packaged))
    assert of(monkeypatch, 128, space=str(mine)) == 96
    mine.write_text(re.sub(r"resolution = \[224\]", "resolution = [96, 128]", packaged))
    with pytest.raises(SpaceError, match=r"has several \(96, 128\); choose one"):
        of(monkeypatch, 128, space=str(mine))


# -- runs that had two -----------------------------------------------------------------------------


def outcome(folder, trained_at, deployed_at):
    result = sample_run.outcome(folder)
    finals = tuple(
        dataclasses.replace(
            f,
            arch=f.arch.at(deployed_at),
            runs=tuple(dataclasses.replace(r, resolution=trained_at) for r in f.runs),
        )
        for f in result.finals
    )
    return dataclasses.replace(result, finals=finals)


def test_accuracies_and_latencies_of_two_sizes_are_warned_of_in_the_first_lines(tmp_path):
    from rich.console import Console

    from search import reporting

    outcome_ = outcome(tmp_path, 64, 224)
    assert "trained and tested at 64 px, latencies and ONNX files of 224 px" in outcome_.warning
    reporting.write(outcome_, tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[2].startswith("**Warning: accuracies here are of networks trained")
    assert json.loads((tmp_path / "front.json").read_text())["warning"] == outcome_.warning
    console = Console(width=200)
    with console.capture() as shown:
        console.print(reporting.table(outcome_, tmp_path))
    assert shown.get().startswith("warning: accuracies here are")
    assert outcome(tmp_path, 64, 64).warning == ""
    assert outcome(tmp_path, (64, 64), 64).warning == ""


def test_an_outcome_of_before_says_nothing_of_its_runs_so_its_settings_do(tmp_path):
    outcome_ = outcome(tmp_path, 64, 224)
    data = json.loads(outcome_.to_json())
    data["settings"]["train_size"] = 64
    for final in data["finals"]:
        for one in final["runs"]:
            for name in ("resolution", "precision", "test_fp32"):
                del one[name]
    del data["tested_by"]
    read = Outcome.from_json(json.dumps(data))
    assert {r.resolution for f in read.finals for r in f.runs} == {64}
    assert read.warning == outcome_.warning
    data["settings"]["train_size"] = 224
    assert Outcome.from_json(json.dumps(data)).warning == ""


def test_latencies_of_int8_beside_accuracies_of_fp32_are_warned_of(tmp_path):
    """As runs were before the delivered file was the tested one, which no engine had run."""
    outcome_ = outcome(tmp_path, 64, 64)
    settings = {**outcome_.settings, "precision": "int8"}
    before = dataclasses.replace(outcome_, settings=settings, tested_by="")
    assert before.warning.startswith("accuracies here are of fp32 files, latencies of int8: ")
    assert dataclasses.replace(before, tested_by="mlas, int8").warning == ""


def test_a_dry_run_of_a_begun_search_is_at_its_resolution(tmp_path, monkeypatch):
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    folder.begin(Settings(), Settings(resolution=64).resolve(1))
    asked: list[object] = []

    def dry_run(given, address):
        asked.append(given.resolution)
        return ""

    monkeypatch.setattr(preflight, "dry_run", dry_run)
    assert run.main(["--resume", str(folder.path), "--dry-run"]) == 0
    assert asked == [64]


def test_a_run_keeps_its_resolution_and_precision(tmp_path):
    outcome_ = outcome(tmp_path, (80, 160), 224)
    one = FinalRun(0, 0.5, 0.4, "x.onnx", resolution=(80, 160), precision="int8", test_fp32=0.45)
    finals = (dataclasses.replace(outcome_.finals[0], runs=(one,)), *outcome_.finals[1:])
    outcome_ = dataclasses.replace(outcome_, finals=finals)
    assert Outcome.from_json(outcome_.to_json()).finals[0].runs == (one,)


@pytest.mark.parametrize(
    ("version", "space", "asked", "size", "warned"),
    [
        (1, "pplcnet_tail", None, 64, True),
        (1, "pplcnet_tail", 64, 64, False),
        (1, "pplcnet_tail_32", None, 32, False),
        (2, "pplcnet_tail", 224, 64, False),  # 64 is the evaluator's alone
    ],
)
def test_only_an_older_run_of_two_sizes_is_warned_of(
    tmp_path, monkeypatch, version, space, asked, size, warned
):
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    settings = Settings(space=space, resolution=asked)
    resolved = settings.resolve(1)
    folder.begin(settings, dataclasses.replace(resolved, train_size=size))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"version": version}))
    said: list[str] = []
    search = SearchPipeline(folder, settings, ExecutionOptions())
    monkeypatch.setattr(search.console, "detail", said.append)
    search._warn_of_resolutions()
    assert bool(said) == warned
    assert not warned or "trained and tested at 64 px, and timed and exported for 224" in said[0]


@pytest.mark.slow
def test_a_run_begun_before_goes_on_at_its_training_size_and_says_so(tmp_path):
    """Searched by this version, then turned into what the version before left, and resumed."""
    data = small_set(tmp_path / "small.npz")
    small = "--trials 4 --finalists 1 --final-epochs 1 --final-seeds 1 --max-latency-ms 0.9"
    small += " --final-images 100 --no-baselines --bands 1"
    process = begin(tmp_path, data, "run", *small.split(), "--until", "search")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    config = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert (config["version"], config["settings"]["resolution"]) == (2, 32)
    config["version"] = 1
    config["settings"]["train_size"] = 24
    (tmp_path / "run" / CONFIG).write_text(json.dumps(config))
    folder = RunDir(tmp_path / "run")
    assert folder.final_size() == 24
    process = begin(tmp_path, data, "run", *small.split())
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    lines = said.splitlines()
    assert "begun before accuracy and latency were of one resolution" in " ".join(lines[:4])
    assert "warning: accuracies here are of networks trained and tested at 24 px" in said
    result = Outcome.from_json((tmp_path / "run" / "outcome.json").read_text())
    (final,) = result.finals
    assert (final.runs[0].resolution, final.arch.resolution) == (24, 32)
    hits = np.load(tmp_path / "run" / final.runs[0].hits, allow_pickle=False)
    assert hits.shape == (TESTED,)
