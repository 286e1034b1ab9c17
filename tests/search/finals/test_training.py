"""The end of a search: what the measurements of finalists are good for afterwards."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcnas import spaces
from lcnas.arch import walk
from lcnas.errors import TrainingFailedError
from lcnas.latency import Budget
from lcnas.latency.table import LatencyTable
from lcnas.training import recipes
from lcnas.training.interrupts import Stopped
from search.console import Console
from search.context import SearchContext
from search.distributed import cluster, worker
from search.distributed.worker import WorkerSetup
from search.errors import SearchFailedError
from search.finals import network_training, participants, testing, training
from search.finals.deployment import ApartError
from search.finals.measurement import FinalMeasurements
from search.outcome import PUBLISHED, FinalNetwork
from search.pipeline import front_of
from search.problem import SearchProblem
from search.run_dir import RunDir
from search.settings import ExecutionOptions, Settings
from tests.latency.synthetic import ENGINE
from tests.search.finals.test_selection import PLAN, ROUGH, Machine, trials_of
from tests.search.test_tables import SPACE, exact


@pytest.fixture
def space():
    return spaces.loads(SPACE, "small")


def chosen(space, tmp_path, monkeypatch, said, **asked):
    """Choose and measure finalists on the synthetic machine."""
    monkeypatch.chdir(tmp_path)
    machine = Machine()
    measurements = functools.partial(
        FinalMeasurements, plan=PLAN, rough_plan=ROUGH, measure_visits=machine.visits
    )
    monkeypatch.setattr(participants, "FinalMeasurements", measurements)
    trials = trials_of(space)
    table = exact(space)
    problem = SearchProblem(
        space=space,
        table=table,
        on_this_machine=asked.pop("here", True),
        classes=1000,
        max_ms=2 * max(t.latency_ms for t in trials),
        min_ms=min(t.latency_ms for t in trials),
        margin=0.0,
        budget=Budget(space, table, float("inf")),
    )
    front = front_of(trials)
    console, data = Console(), None
    monkeypatch.setattr(console, "detail", said.append)
    settings = Settings(resolution=32, finalists=2, bands=1, baselines=False, **asked).resolve(1)
    run_dir = RunDir(tmp_path / "run")
    context = SearchContext(settings, problem, data, run_dir, console, ExecutionOptions())  # type: ignore[arg-type]
    return participants.select(context, trials, front)


def test_measured_finalists_join_the_table_that_the_next_search_finds(space, tmp_path, monkeypatch):
    said: list[str] = []
    choice = chosen(space, tmp_path, monkeypatch, said)
    table = exact(space)
    path = Path("latency_tables") / table.file_name
    known = {n.placed: n.ms for n in LatencyTable.load(path).networks}
    assert known == {walk(f.arch): pytest.approx(f.measured.ms, rel=1e-4) for f in choice.finalists}
    assert len(known) == 2
    assert any(line.startswith(f"table: the measurements were added to {path}") for line in said)
    # A resumed search reads what it has measured, and adds nothing.
    before = path.read_bytes()
    assert chosen(space, tmp_path, monkeypatch, said) == choice
    assert path.read_bytes() == before
    assert sum(line.startswith("table: ") for line in said) == 1


def test_a_table_that_cannot_be_written_is_no_reason_to_stop(space, tmp_path, monkeypatch):
    said: list[str] = []
    (tmp_path / "latency_tables").write_text("a file stands in the way")
    choice = chosen(space, tmp_path, monkeypatch, said)
    assert all(f.measured is not None for f in choice.finalists)
    assert sum("table: the measurements were not added: " in line for line in said) == 1


@pytest.mark.parametrize("asked", [{"table": "given"}, {"here": False, "remeasure": True}])
def test_a_table_that_was_given_or_is_of_another_machine_stays_as_it_was(
    space, tmp_path, monkeypatch, asked
):
    said: list[str] = []
    monkeypatch.setattr(SearchProblem, "local_engine", ENGINE)
    choice = chosen(space, tmp_path, monkeypatch, said, **asked)
    assert all(f.measured is not None for f in choice.finalists)
    assert not Path("latency_tables").exists()
    assert not any(line.startswith("table: ") for line in said)


# -- training --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_lost_worker_had_left_to_train_is_given_to_another(tmp_path):
    script = Path(__file__).with_name("lost_trainings.py")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.search.finals.{script.stem}", str(tmp_path)],
        cwd=script.parents[3],
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("trained")]
    for i, name in enumerate("ab"):
        of_task = [line for line in lines if line.split()[1] == str(i)]
        assert of_task == [f"trained {i} {name} {seed} of images" for seed in range(3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-1", "b-1"]  # both workers did go away


IMAGES: Any = None  # nothing here looks at them


def task(arch, outs, **changes):
    result = training._Task(
        arch=arch,
        recipe=recipes.load("proxy"),
        outs=tuple(map(str, outs)),
        seeds=tuple(range(len(outs))),
        size=64,
        engine=ENGINE,
        cache="",
        setup=WorkerSetup(),
        remote=False,
    )
    return dataclasses.replace(result, **changes)


def test_a_worker_far_away_has_what_was_finished_before(space, tmp_path, monkeypatch):
    """A cluster's machine does not see the run's folder, where a killed search left its trainings."""
    seen = []

    def train(arch, images, recipe, place, seed, **options):
        seen.append((seed, network_training.finished_files(place), options["with_files"], place))
        if seed == 1:
            raise SearchFailedError("no memory")
        return f"trained {seed}"

    monkeypatch.setattr(network_training, "train", train)
    monkeypatch.setattr(worker, "prepare", lambda setup: None)
    arch = next(iter(space.enumerate())).to_json()
    outs = [tmp_path / f"seed-{seed}" for seed in range(3)]
    files = {"run.json": b"{}", "result.json": b"1"}
    network_training.write_files(outs[2], files)
    far = task(arch, outs, remote=True, finished=tuple(map(network_training.finished_files, outs)))
    assert list(training._train_seeds(far, IMAGES)) == ["trained 0", "no memory", "trained 2"]
    assert [(seed, kept) for seed, kept, _, _ in seen] == [(0, {}), (1, {}), (1, {}), (2, files)]
    assert all(bring and tmp_path not in place.parents for _, _, bring, place in seen)
    assert not any(place.parent.exists() for *_, place in seen)  # nothing is left on that machine
    assert list(training._train_seeds(far.rest(2), IMAGES)) == ["trained 2"]
    assert seen[-1][:2] == (2, files)


def test_a_worker_of_this_machine_trains_in_the_folder(space, tmp_path, monkeypatch):
    monkeypatch.setattr(network_training, "train", lambda *given, **_: given[3])
    monkeypatch.setattr(worker, "prepare", lambda setup: None)
    arch = next(iter(space.enumerate())).to_json()
    outs = [tmp_path / f"seed-{seed}" for seed in range(2)]
    assert list(training._train_seeds(task(arch, outs), IMAGES)) == outs


def test_a_training_that_fails_is_tried_once_more(space, tmp_path, monkeypatch):
    fails = iter([True, False, True, True])

    def train(*given, **_):
        if next(fails):
            raise SearchFailedError("no memory")
        return given[3]

    monkeypatch.setattr(network_training, "train", train)
    monkeypatch.setattr(worker, "prepare", lambda setup: None)
    outs = [tmp_path / f"seed-{seed}" for seed in range(2)]
    given = task(next(iter(space.enumerate())).to_json(), outs)
    assert list(training._train_seeds(given, IMAGES)) == [outs[0], "no memory"]


@pytest.mark.parametrize("far", [False, True])
def test_files_that_do_not_agree_are_kept_in_the_folder_of_the_run(
    space, tmp_path, monkeypatch, far
):
    """Also of a worker that does not see that folder; its network is named, and nothing more is trained."""
    tries = []

    def train(arch, images, recipe, place, seed, **options):
        tries.append(seed)
        network_training.write_files(place, {"result.json": b"{}", "network.onnx": b"wrong"})
        raise ApartError("they should be the same. The files are kept")

    monkeypatch.setattr(network_training, "train", train)
    monkeypatch.setattr(worker, "prepare", lambda setup: None)
    out = tmp_path / "seed-0"
    given = task(
        next(iter(space.enumerate())).to_json(),
        [out, tmp_path / "seed-1"],
        remote=far,
        finished=({}, {}),
    )
    (apart,) = training._train_seeds(given, IMAGES)
    assert tries == [0]
    assert isinstance(apart, training._Mismatch)
    assert bool(apart.files) == far
    one = dataclasses.replace(entry(space, "finalist-1", "finalist"), folder=tmp_path)
    with pytest.raises(ApartError, match=rf"^finalist-1: .* are kept in {out}$"):
        training._end_run(one, apart)
    assert (out / "network.onnx").read_bytes() == b"wrong"


def trained(validation, fp32, engine):
    result: Any = SimpleNamespace(validation=validation, fp32=fp32, engine=engine)
    return result


def test_validation_by_two_engines_is_not_compared(space):
    """A worker without the engine validates by another one: then fp32 decides, which all have."""
    first, second = (entry(space, f"finalist-{n}", "finalist") for n in (1, 2))
    results = [
        training.TrainedEntry(first, (trained(0.8, 0.7, "a"),)),
        training.TrainedEntry(second, (trained(0.7, 0.75, "a"),)),
    ]
    assert testing._winners(results) == {"finalist-1"}
    results[1] = training.TrainedEntry(second, (trained(0.7, 0.75, "mlas"),))
    assert testing._winners(results) == {"finalist-2"}


def entry(space, name, role, beside=()):
    final = FinalNetwork(
        name=name,
        role=role,
        arch=next(iter(space.enumerate())),
        band=0,
        beside=beside,
        params=1,
        macs=1,
        predicted_ms=None,
    )
    return training.FinalEntry(final, Path(name))


def test_networks_that_could_not_be_trained_are_left_out_and_named(space):
    entries = [
        entry(space, "finalist-1", "finalist"),
        entry(space, "finalist-2", "finalist"),
        entry(space, "pplcnet_0.5x", "pplcnet", ("finalist-1", "finalist-2")),
        entry(space, "pplcnet_1.0x", "pplcnet", ("finalist-2",)),
        entry(space, "mobilenet_v3_small_1.0x", PUBLISHED, ("finalist-1",)),
    ]
    runs: list[Any] = [[i] for i in range(5)]
    result, notes = training._complete(entries, runs, {})
    assert [t.entry for t in result] == entries
    assert [list(t.trainings) for t in result] == runs
    assert notes == []
    failed = {"finalist-2": "the loss is nan", "mobilenet_v3_small_1.0x": "no memory"}
    result, notes = training._complete(entries, runs, failed)
    assert [(t.entry.name, t.entry.network.beside) for t in result] == [
        ("finalist-1", ()),
        ("pplcnet_0.5x", ("finalist-1",)),
    ]
    assert [list(t.trainings) for t in result] == [runs[0], runs[2]]
    assert len(notes) == 2
    assert "finalist-2" in notes[0]
    assert "the loss is nan" in notes[0]
    with pytest.raises(SearchFailedError, match="finalist-1: the loss is nan"):
        training._complete(
            entries, runs, {"finalist-1": "the loss is nan", "finalist-2": "no memory"}
        )
    for why in (
        "run: the disk is full; free some",
        "x.onnx: cannot be written: No space left on device",
    ):
        with pytest.raises(
            SearchFailedError, match="finalist-2: "
        ):  # to be trained by the next try
            training._complete(entries, runs, {"finalist-2": why})


def test_a_signal_of_a_training_can_be_sent_from_process_to_process():
    copy = pickle.loads(pickle.dumps(Stopped(15, 7)))
    assert (copy.signal, copy.step, str(copy)) == (15, 7, str(Stopped(15, 7)))


def test_what_ended_a_task_is_told_in_a_line():
    import ray

    cause = TrainingFailedError("no memory")
    error = ray.exceptions.RayTaskError("train", "Traceback\n lots of lines", cause)
    assert cluster.reason(error) == "no memory"
    assert cluster.reason(error.as_instanceof_cause()) == "no memory"
    other = ray.exceptions.RayTaskError("train", "Traceback\n lots of lines", KeyError("x"))
    assert cluster.reason(other) == "KeyError: 'x'"
    assert "\n" not in cluster.reason(ray.exceptions.WorkerCrashedError())
