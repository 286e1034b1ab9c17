"""The command as a user runs it, on a small set with as many classes as the packaged table has rows for."""

import dataclasses
import errno
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from lcnas import zoo
from lcnas.errors import LcnasError, TableWriteError, TrainingFailedError
from lcnas.training import data as training_data
from search import data_sets, preflight, report, run, tables
from search.distributed import cluster
from search.errors import SearchFailedError
from search.outcome import Outcome
from search.pipeline import SearchPipeline
from search.run_dir import RunDir
from search.settings import Settings
from search.tables import lookup
from tests.search.commands import (
    TESTED,
    begin,
    begin_as,
    few_layers,
    small_set,
    table,
    words,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_set(tmp_path_factory.mktemp("data") / "small.npz")


# -- what is refused before anything runs ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--searcher", "nsga3"], "did you mean 'nsga2'"),
        (["--max-latency-ms", "0.05"], "measured within 0.05 ms: predictions are limited to 0.048"),
        (["--data", "imagefolder:nothing-here"], "nothing-here"),
        (["--space", "pplcnet_tial"], "did you mean 'pplcnet_tail'"),
        (["--table", "no-such-table"], "no-such-table"),
        (["--address", "127.0.0.1:1"], "nothing answers at '127.0.0.1:1'"),
        (["--address", "somewhere"], "is not HOST:PORT"),
        (["--address", "auto"], "no Ray cluster at 'auto'"),
        (["--address", "127.0.0.1:1", "--dry-run"], "nothing answers at '127.0.0.1:1'"),
        (["--address", "ray://127.0.0.1:10001"], "is of Ray Client"),
        (["--evaluator", "supernet", "--score", "zico"], "score"),
        (["--space", "lcnet_next", "--evaluator", "supernet"], "a supernet cannot hold lcnet_next"),
        (
            ["--space", "mobilenetv3", "--evaluator", "supernet", "--dry-run"],
            "cannot hold mobilenetv3",
        ),
        (["--min-latency-ms", "1.95", "--max-latency-ms", "2"], "1.95 is not below 1.920"),
        (["--bands", "5"], "5 are more than the 2 finalists"),
        (["--evaluator", "supernet", "--init", "no-weights.safetensors"], "no file 'no-weights"),
        (
            ["--evaluator", "train", "--init", "x.safetensors"],
            "for the evaluator supernet, not train",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path, monkeypatch, data, arguments, said):
    monkeypatch.chdir(tmp_path)
    given = ["--data", data, "--table", str(table(data)), "--out", "run", *arguments]
    with pytest.raises(LcnasError) as caught:
        run.main(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()  # so that the corrected command is taken


def test_the_budget_that_a_refused_one_is_told_is_the_least_that_is_taken(
    tmp_path, monkeypatch, data
):
    monkeypatch.chdir(tmp_path)

    def dry(max_ms):
        given = [
            "--data",
            data,
            "--table",
            str(table(data)),
            "--dry-run",
            "--max-latency-ms",
            f"{max_ms:g}",
        ]
        run.main(given)

    with pytest.raises(LcnasError, match="the lowest is 0") as caught:
        dry(0.01)
    least = float(str(caught.value).partition("give ")[2].partition(" or more")[0])
    dry(least)
    with pytest.raises(LcnasError, match="or more"):
        dry(0.99 * least)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--space", "pplcnet_tial"],
        ["--address", "127.0.0.1:1"],
        ["--space", "lcnet_next", "--evaluator", "supernet"],
    ],
)
def test_a_refused_command_names_no_run_and_leaves_no_folder(
    tmp_path, monkeypatch, data, capsys, arguments
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LcnasError):
        run.main(["--data", data, "--table", str(table(data)), *arguments])
    assert not capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device", "run/networks/finalist-1.onnx"),
        TableWriteError("run/measured.json: cannot be written: No space left on device"),
        TrainingFailedError("run/finals: cannot be written: No space left on device"),
        SearchFailedError("run/front.json: cannot be written: No space left on device"),
    ],
)
def test_whatever_cannot_be_written_is_told_with_how_to_go_on(
    tmp_path, monkeypatch, data, capsys, failure
):
    monkeypatch.chdir(tmp_path)

    def fail(pipeline):
        settings = dataclasses.replace(pipeline.asked, resolution=32).resolve(1)
        pipeline.run_dir.begin(pipeline.asked, settings)
        raise failure

    monkeypatch.setattr(SearchPipeline, "run", fail)
    assert run.main(words(data, "run")) == 1
    messages = capsys.readouterr().err.strip().splitlines()
    assert len(messages) == 2
    assert "No space left on device" in messages[0]
    assert "--resume run resumes from there" in messages[1]


def test_what_listens_and_is_no_cluster_is_told_within_a_while(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "_JOIN_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LcnasError, match=r"did not answer as a Ray cluster within 3 s"):
            run.main([*words(data, "run"), "--address", address])
    assert not (tmp_path / "run").exists()


def test_what_names_files_is_kept_with_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("")
    actual = run._absolute_paths({"data": "npz:set.npz", "space": "mine.toml", "table": "by-name"})
    assert actual == {"data": f"npz:{tmp_path / 'set.npz'}", "space": str(tmp_path / "mine.toml")}


@pytest.mark.parametrize(
    "spelt",
    ["synthetic", "synthetic:400", "synthetic:train=400", "synthetic:train=400,test=80,classes=8"],
)
def test_what_names_no_place_is_kept_as_it_is_spelt(spelt, tmp_path, monkeypatch):
    """As docs/reference/data.md spells it; what the search then loads has the numbers that were asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "400").mkdir()  # a place of that name means nothing
    (kept,) = run._absolute_paths({"data": spelt}).values()
    actual = data_sets.load(Settings(data=kept), 32)
    train, test, classes = {
        "synthetic": (10_000, 2_000, 12),
        "synthetic:400": (400, 2_000, 12),
        "synthetic:train=400": (400, 2_000, 12),
        "synthetic:train=400,test=80,classes=8": (400, 80, 8),
    }[spelt]
    assert kept == spelt
    assert len(actual.train) + len(actual.validation) == train
    assert (len(actual.test), actual.classes) == (test, classes)


def test_every_kind_of_place_is_kept_with_its_whole_path(tmp_path, monkeypatch):
    """A kind of data whose rest is a place, or is none, is one or the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert {*training_data.PLACES, "synthetic"} == set(training_data.KINDS)
    for kind in training_data.PLACES:
        for place, whole in (
            ("sets/a,b=c", tmp_path / "sets" / "a,b=c"),
            ("~/x", tmp_path / "me" / "x"),
            ("/at:port", Path("/at:port")),
        ):
            assert run._absolute_paths({"data": f"{kind}:{place}"}) == {"data": f"{kind}:{whole}"}


def test_the_home_of_nobody_is_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (kept,) = run._absolute_paths({"data": "imagefolder:~nobody-of-that-name/x"}).values()
    with pytest.raises(LcnasError, match=r"the folder .*~nobody-of-that-name/x does not exist"):
        data_sets.load(Settings(data=kept), 32)


def test_a_cluster_of_the_environment_is_named_and_left_alone(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(LcnasError, match="no_such_space"):
        run.main(["--space", "no_such_space"])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(
        "RAY_ADDRESS: '10.0.0.1:6379' is not used, the search runs on this machine"
    )
    with pytest.raises(LcnasError):
        run.main(["--space", "no_such_space", "--address", "auto"])
    assert not capsys.readouterr().err


def test_the_address_that_is_asked_for_is_the_one_that_is_checked(monkeypatch):
    """Ray itself takes the environment's before it."""
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(LcnasError, match=r"'ray://127.0.0.1:1' is of Ray Client"):
        cluster.check("auto")
    with pytest.raises(LcnasError, match=r"nothing answers at '127.0.0.1:1'"):
        cluster.check("127.0.0.1:1")


def test_dry_run_tells_what_a_table_lacks_and_measures_nothing(tmp_path, monkeypatch, data, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "_is_here", lambda *_: True)
    monkeypatch.setattr(tables.TableJob, "run", lambda *_: pytest.fail("it measures"))
    given = ["--data", data, "--table", str(table(data)), "--space", "mobilenetv3", "--dry-run"]
    assert run.main(given) == 0
    assert "entries for mobilenetv3" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_a_supernets_training_is_in_the_estimate(data):
    with data_sets.load(Settings(data=data), 32) as images:
        typical = zoo.load("pplcnet_0.5x", 32)
        few, many = (
            preflight.estimate(
                Settings(data=data, evaluator="supernet", epochs=n, resolution=32).resolve(2),
                typical,
                len(images.train),
                images.classes,
            )
            for n in (1, 4000)
        )
    results = [re.match(r"about (\d+) min of searching", text) for text in (few, many)]
    minutes = [int(match[1]) for match in results if match]
    assert minutes[1] > 10 * (minutes[0] + 1)


def test_an_unknown_option_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as caught:
        run.main(["--max-latency", "2"])
    assert caught.value.code == 2
    assert "did you mean '--max-latency-ms'" in capsys.readouterr().err


def test_dry_run_tells_all_and_does_nothing(tmp_path, monkeypatch, capsys, data):
    monkeypatch.chdir(tmp_path)
    assert run.main([*words(data, "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    for part in (
        "networks of pplcnet_tail within",
        "10 classes",
        "resolution: 32",
        "min of searching",
        "lag: 12",
    ):
        assert part in said
    assert list(tmp_path.iterdir()) == []


# -- the whole way -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_by_a_supernet(tmp_path, data):
    small = few_layers(tmp_path)
    small += ["--evaluator", "supernet", "--images", "400", "--epochs", "1", "--trials", "40"]
    size = ["--min-latency-ms", "0.38", "--max-latency-ms", "0.74"]
    process = begin_as(tmp_path, data, "run", *small, *size, "--until", "search")
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "the supernet holds widths up to those of pplcnet_0.25x" in said
    assert "supernet: step " in said
    assert "networks_a_step 4" in said
    assert "predictor: " in said
    assert re.search(
        r"evaluator supernet: 1 epochs, [\d,]+ images/s on all its cores, best -?[\d.]+% over chance",
        said,
    )
    assert "compiling: " in said
    trials = RunDir(tmp_path / "run").trials()
    assert sorted(t.number for t in trials) == list(range(40))
    assert not any(t.failed for t in trials)
    assert json.loads((tmp_path / "run" / "predictor.json").read_text())["says"] in said
    assert json.loads((tmp_path / "run" / "supernet.json").read_text())["networks_a_step"] == 4


@pytest.mark.slow
def test_from_a_space_to_trained_exported_and_reported_networks(
    tmp_path, monkeypatch, data, capsys
):
    small = "--trials 6 --finalists 1 --final-epochs 1 --final-seeds 2 --max-latency-ms 0.9"
    small += " --final-images 100"
    # a file of blocks, which every process has to run that reads networks
    mine, seen = tmp_path / "mine.py", tmp_path / "seen"
    mine.write_text(
        "import ray, sys\n"
        "where = 'command'\n"
        "if 'default_worker' in sys.argv[0]:\n"
        "    where = 'trains' if ray.get_runtime_context().get_actor_id() is None else 'evaluates'\n"
        f"with open({str(seen)!r}, 'a') as file:\n    print(where, file=file)\n"
    )
    asked = [*small.split(), "--blocks", str(mine)]
    process = begin(tmp_path, data, "run", *asked)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    out = tmp_path / "run"
    result = Outcome.from_json((out / "outcome.json").read_text())
    assert {f.role for f in result.finals} == {"finalist", "pplcnet"}
    for final in result.finals:
        assert [r.seed for r in final.runs] == [0, 1]
        for one in final.runs:
            hits = np.load(out / one.hits, allow_pickle=False)
            assert hits.shape == (TESTED,)
            assert one.test == hits.mean()
            assert (out / one.onnx).is_file()
    kept = {path.stem for path in (out / "networks").iterdir()}
    assert kept == {final.name for final in result.finals}
    (winner,) = (f for f in result.finals if f.winner)
    assert winner.role == "finalist"
    assert winner.measured is None  # as asked
    assert winner.predicted_ms is not None
    assert winner.predicted_ms <= result.searched_max_ms <= result.max_latency_ms == 0.9
    for name in ("report.md", "report.html", "front.json", "front.png", "config.json"):
        assert (out / name).stat().st_size > 0
    assert "finalist-1" in said
    assert list((out / "cache").iterdir())
    assert set(seen.read_text().split()) == {"command", "evaluates", "trains"}
    assert json.loads((out / "table.json").read_text())["here"] == result.on_this_machine
    # repeated, it shows the same and trains nothing; with other settings it is refused
    monkeypatch.chdir(tmp_path)
    before = (out / "outcome.json").read_bytes()
    assert run.main(words(data, "run", *asked)) == 0
    assert (out / "outcome.json").read_bytes() == before
    assert "finalist-1" in capsys.readouterr().out
    with pytest.raises(LcnasError, match="trials is 6 there and 7 here"):
        run.main(["--resume", "run", "--trials", "7"])
    (out / "report.md").unlink()
    assert report.main(["run"]) == 0
    assert (out / "report.md").is_file()
