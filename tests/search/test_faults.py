"""The command where something goes wrong in its midst: signals, a machine that goes away, a full disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.distributed import cluster
from search.pipeline import front_of
from search.run_dir import RunDir
from tests.search.commands import QUICK, begin, numbers, small_set, steps_root, words


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_set(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.mark.slow
def test_interrupted_killed_and_resumed_it_ends_as_if_nothing_had_been(tmp_path, data):
    """One search straight through to its front; one interrupted by Ctrl-C, then killed, then repeated."""
    small = ("--trials", 16, "--until", "search")
    straight = begin(tmp_path, data, "straight", *small)
    said, _ = straight.communicate(timeout=300)
    assert straight.returncode == 0, said
    out = tmp_path / "broken"
    for sign, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = begin(tmp_path, data, "broken", *small)
        known = len(numbers(out)) if (out / "trials.jsonl").exists() else 0
        until = time.monotonic() + 200
        while time.monotonic() < until and process.poll() is None:
            if (out / "trials.jsonl").exists() and len(numbers(out)) > known + 1:
                break
            time.sleep(0.05)
        process.send_signal(sign)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == code, said
        if sign == signal.SIGINT:
            assert "waiting for the networks in flight" in said
            assert "--resume broken" in said
    again = begin(tmp_path, data, "broken", *small)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert sorted(numbers(out)) == list(range(16))
    actual, whole = (
        sorted(RunDir(tmp_path / name).trials(), key=lambda t: t.number)
        for name in ("broken", "straight")
    )
    assert [(t.arch, t.accuracy) for t in actual] == [(t.arch, t.accuracy) for t in whole]
    assert front_of(actual) == front_of(whole)


@pytest.mark.slow
def test_a_machine_of_a_cluster_that_goes_away_takes_nothing_with_it(tmp_path, data):
    """As results/kills.py does it at length."""
    nodes = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("distributed") / "three_nodes.py")],
        env={**os.environ, **cluster._ENVIRONMENT},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with nodes:
        assert nodes.stdin is not None
        assert nodes.stdout is not None
        address = next(line for line in nodes.stdout if line.startswith("address ")).split()[1]
        small = ("--score", "swap", "--trials", 30, "--until", "search")
        process = begin(tmp_path, data, "run", *small, "--address", address)
        out = tmp_path / "run"
        until = time.monotonic() + 200
        while time.monotonic() < until and process.poll() is None:
            if (out / "trials.jsonl").exists() and len(numbers(out)) >= 8:
                break
            time.sleep(0.05)
        running = process.poll() is None
        nodes.stdin.write("kill\n")
        nodes.stdin.flush()
        killed = any(line.startswith("killed") for line in nodes.stdout)
        said, _ = process.communicate(timeout=300)
        nodes.stdin.close()
    assert running, said
    assert killed
    assert process.returncode == 0, said
    assert sorted(numbers(out)) == list(range(30))
    assert not any(t.failed for t in RunDir(out).trials())


FULL = """
import sys
from lcnas.errors import TrainingFailedError
from search import run, run_dir

class Full(run_dir.RunDir):
    def add(self, trial):
        if len(self.trials()) == 7:
            raise TrainingFailedError(f"{self.path}: cannot be written: No space left on device")
        super().add(trial)

run.RunDir = run_dir.RunDir = Full
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_full_disk_ends_a_search_in_one_line_and_it_goes_on_from_there(tmp_path, data):
    """The environment names a cluster that is not there, which is said and does not matter."""
    named = {"RAY_ADDRESS": "127.0.0.1:1"}
    env = {**os.environ, **QUICK, **named, "PYTHONPATH": str(steps_root())}
    small = ("--trials", 30, "--until", "search")
    done = subprocess.run(
        [sys.executable, "-c", FULL, *words(data, "run", *small)],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    ignored, *said = done.stderr.strip().splitlines()
    assert len(said) == 2, done.stderr
    assert ignored.startswith("RAY_ADDRESS: '127.0.0.1:1' is not used")
    assert "No space left on device" in said[0]
    assert "--resume" in said[1]
    assert len(numbers(tmp_path / "run")) == 7
    process = begin(tmp_path, data, "run", *small)
    messages, _ = process.communicate(timeout=200)
    assert process.returncode == 0, messages
    assert sorted(numbers(tmp_path / "run")) == list(range(30))
