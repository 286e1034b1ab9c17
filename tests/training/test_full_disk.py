"""A disk that is full: one line and exit code 1, wherever it fills up. A limit on files stands for it."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lcnas
from lcnas import commandline, errors, files, onnx_export, zoo
from lcnas.training import checkpoints, metrics
from tests.training import tiny

ROOT = Path(lcnas.__file__).parents[1]
# With a limit on the size of files the system says "File too large" where a full disk has no space left.
LIMITED = """
import functools, resource, sys
from lcnas import commandline, files, train
from lcnas.training import checkpoints, exporting, run

files.is_full = lambda error: True
limit = {limit}

def limited(function):
    def call(*args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return function(*args, **kwargs)
    return call

{place} = limited({place})
commandline.run(train.PROG, train.main)
"""


def run(folder, place, limit):
    """Train where files from a place in the code on have so many bytes at most."""
    (folder / "tiny.json").write_text(tiny.separable().to_json())
    data = "synthetic:classes=3,train=60,test=20"
    words = f"--arch tiny.json --data {data} --batch 16 --epochs 2 --cache none --out run"
    return subprocess.run(
        [sys.executable, "-c", LIMITED.format(place=place, limit=limit), *words.split()],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": tiny.QUICK_FLAGS,
        },
        text=True,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("place", "limit", "message"),
    [
        (
            "checkpoints.Checkpoints.save",
            700,
            r"run(/checkpoints)?: the disk is full; free some space and repeat the command, .*",
        ),
        ("exporting.export", 64, r"run/best\.safetensors: cannot be written: File too large"),
    ],
)
def test_a_training_ends_in_one_line_with_code_1(place, limit, message, tmp_path):
    done = run(tmp_path, place, limit)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "ERROR" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not re.match("epoch |compil", line)]
    assert len(lines) == 1, done.stderr
    assert re.fullmatch(rf"python -m lcnas\.train: (/.*/)?{message}", lines[0])


def test_what_cannot_be_written_is_no_bad_argument(monkeypatch, capsys, tmp_path):
    """Of every kind; bad arguments of the same families still are."""
    cases = [
        (errors.TableWriteError, 1),
        (errors.ExportWriteError, 1),
        (errors.PretrainedWriteError, 1),
        (errors.TrainingFailedError, 1),
        (errors.TableError, 2),
        (errors.ExportError, 2),
        (errors.PretrainedError, 2),
    ]
    for kind, code in cases:

        def main(argv, kind=kind):
            raise kind("it is so")

        with pytest.raises(SystemExit) as caught:
            commandline.run("some.command", main)
        assert (caught.value.code, kind) == (code, kind)
        assert capsys.readouterr().err == "python -m some.command: it is so\n"


def test_an_export_to_a_full_disk_says_so(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(errors.ExportWriteError, match=r"a\.onnx: cannot be written: No space left"):
        onnx_export.export(zoo.load("pplcnet_0.25x", 32), tmp_path / "a.onnx", classes=3)


def test_only_what_is_raised_as_well_is_kept_quiet():
    def fail():
        raise RuntimeError("Event loop is closed")

    try:
        fail()
    except RuntimeError as error:  # not by asyncio
        assert not checkpoints._is_of_closed_loop(error, error.__traceback__)
    import asyncio

    loop = asyncio.new_event_loop()
    loop.close()
    try:
        loop.call_soon_threadsafe(print)
    except RuntimeError as error:
        assert error.__traceback__ is not None
        inside = error.__traceback__.tb_next  # without the frame here, as if from no Python code
        assert checkpoints._is_of_closed_loop(error, inside)
        assert not checkpoints._is_of_closed_loop(error, error.__traceback__)


def test_without_shared_memory_there_are_metrics_and_no_tensorboard(monkeypatch, tmp_path):
    """Its queue needs a semaphore, which lies in /dev/shm."""

    def none(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Queue", none)
    with metrics.Log(tmp_path) as log:
        log.write("step", 1, {"loss": 0.5})
        log.sync()
    assert metrics.read(tmp_path) == [{"kind": "step", "step": 1, "loss": 0.5}]
    assert not (tmp_path / "tensorboard").exists()


def test_an_error_of_tensorboard_is_raised_at_the_next_sync_and_nothing_waits(tmp_path):
    """Its thread died before, and the eleventh value waited for ever."""

    class Full:
        def write(self, *_):
            raise OSError(28, "No space left on device")

        flush = close = write

    with metrics.Log(tmp_path) as log:
        assert log._records is not None
        log._records._records.close()
        log._records._records = Full()
        for step in range(30):
            log.write("step", step, {"loss": 0.5})
        until = time.monotonic() + 10
        while log._records.error is None and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(errors.TrainingFailedError, match="the disk is full"):
            log.sync()
