"""The train command: a small run, what it refuses, and how it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest

from lcnas import train
from lcnas.errors import TrainingFailedError
from lcnas.training import Normalization, Result, TeacherFile, loop, metrics
from lcnas.training.data import MAX_BAD, MEMORY_MB
from tests.training import tiny

DATA = ["--data", "synthetic:classes=3,train=60,test=20", "--workers", "0", "--cache", "none"]
QUICK = [
    "--recipe",
    "proxy",
    "--resolution",
    "8",
    "--epochs",
    "1",
    "--batch",
    "16",
    "--log-steps",
    "2",
]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiling():
        yield


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.json"
    path.write_text(tiny.arch().to_json())
    return str(path)


def test_a_small_run(network, tmp_path, capsys):
    out = tmp_path / "runs" / "a"
    argv = [*DATA, *QUICK, "--arch", network, "--out", str(out), "--seed", "3"]
    argv += ["--augment.crop", "none", "--test", "last", "--threads", "1"]
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert train.main(argv) == 0
    printed = capsys.readouterr()
    assert "network  tiny, 8x8 px" in printed.out
    assert "1 epochs of 3 steps with 16 images" in printed.out
    assert "test (last network): " in printed.out
    assert "compiling: step" in printed.err
    assert "compiled: step, " in printed.err
    assert "step 2/3  loss " in printed.err
    result = Result.load(out)
    assert (result.seed, result.tested) == (3, "last")
    assert (result.recipe.batch, result.recipe.augment.crop) == (16, "none")
    assert (out / "best.onnx").is_file()
    if cores is not None:
        assert os.sched_getaffinity(0) == cores
    assert train.main(argv) == 0  # nothing to do, and it says the same
    again = capsys.readouterr()
    assert again.out == printed.out
    assert "step" not in again.err


def test_a_dry_run_checks_everything_and_writes_nothing(network, tmp_path, capsys):
    argv = [*DATA, *QUICK, "--arch", network, "--out", str(tmp_path / "r"), "--dry-run"]
    assert train.main(argv) == 0
    assert "all checks passed; nothing was trained or written" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "5"], "unknown argument '--epoch'; did you mean '--epochs'?"),
        (
            ["--augment.mixp", "1"],
            "unknown argument '--augment.mixp'; did you mean '--augment.mixup'?",
        ),
        (["--test", "first"], "invalid choice: 'first'"),
        (["--seed", "one"], "'one' is not a whole number from 0 to"),
        (["--keep", "0"], "'0' is not a whole number from 1 to"),
        (["--save-minutes", "nan"], "'nan' is not a number from 0 to"),
        (["--threads", "0"], "'0' is not a whole number from 1 to"),
        (["--max-bad", "2"], "'2' is not a number from 0 to 1"),
    ],
)
def test_unknown_options_and_values_exit_with_code_2_and_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(argv)
    assert caught.value.code == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "ten"], "recipe: epochs: 'ten' is not a whole number"),
        (["--recipe", "cifar"], "'cifar' is not among .*did you mean 'cifar10'"),
        (["--arch", "pplcnet_0.5"], "'pplcnet_0.5' is not among .*did you mean"),
        (["--data", "cifar10:nowhere"], "nowhere"),
        (["--data", "cifar"], "'cifar' is not among .*did you mean 'cifar10'"),
        (["--freeze", "steam"], "'steam' is not among .*did you mean 'stem'"),
        (["--teacher", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["--teacher-size", "8"], "--teacher-size requires --teacher FILE"),
        (
            ["--teacher", "a", "--teacher-std", "1,1,1"],
            "--teacher-std: give both --teacher-mean and",
        ),
        (
            ["--teacher", "a", "--teacher-mean", "0.5,0.5", "--teacher-std", "1,1,1"],
            "--teacher-mean: .* is not one number for each of the 3 channels",
        ),
        (
            ["--teacher", "a", "--teacher-mean", "123.675,116.28,103.53", "--teacher-std", "1,1,1"],
            "--teacher-mean: .* for pixels from 0 to 1 .*give 0.485,0.456,0.406",
        ),
        (["--teacher", "a", "--teacher-size", "big"], "'big' is neither a side such as 224"),
        (["--batch", "1000"], "batch: 1000 is more than the 48 training images"),
        (["--hosts", "2"], "hosts: several hosts need --coordinator"),
        (["--coordinator", "here", "--hosts", "2"], "coordinator: 'here' is not ADDRESS:PORT"),
        (["--beta1", "1"], "recipe: beta1: 1"),
        (["--augment.mixup", "-1"], "recipe: augment.mixup: -1"),
        (["--devices", "9"], "devices: 9 is not among 1 to 1"),
        (["--recipe", "pplcnet_ssld", "--warmup-epochs", "0"], "needs one"),
    ],
)
def test_what_does_not_fit_is_one_line_and_code_2(
    argv, message, network, tmp_path, capsys, monkeypatch
):
    from lcnas import commandline

    options = [*DATA, *QUICK, "--arch", network, "--out", str(tmp_path / "r"), *argv]
    monkeypatch.setattr(sys, "argv", ["train", *options])
    with pytest.raises(SystemExit) as caught:
        commandline.run(train.PROG, train.main)
    assert caught.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert re.search(message, stderr), stderr
    assert not (tmp_path / "r").exists()


def test_the_teachers_options_reach_the_training(network, tmp_path, monkeypatch):
    teachers = []

    def fit(*_, teacher, **__):
        teachers.append(teacher)
        raise TrainingFailedError("seen")

    monkeypatch.setattr(loop, "fit", fit)
    argv = [*DATA, *QUICK, "--arch", network, "--out", str(tmp_path / "r")]
    argv += ["--teacher", str(tmp_path / "a.onnx")]
    (tmp_path / "a.onnx").touch()
    more = ["--teacher-mean", "0.5,0.4,0.3", "--teacher-std", "1,1,0.5", "--teacher-size", "8x6"]
    for options in ([], more):
        assert train.main([*argv, *options]) == 1
    normalization = Normalization((0.5, 0.4, 0.3), (1, 1, 0.5))
    path = str(tmp_path / "a.onnx")
    assert teachers == [TeacherFile(path), TeacherFile(path, normalization, (8, 6))]


def test_a_training_that_fails_leaves_with_code_1(network, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise TrainingFailedError("the loss is nan at step 7")

    monkeypatch.setattr(loop, "fit", fail)
    argv = [*DATA, *QUICK, "--arch", network, "--out", str(tmp_path / "r")]
    assert train.main(argv) == 1
    stderr = capsys.readouterr().err
    assert stderr == "python -m lcnas.train: the loss is nan at step 7\n"


def test_sigterm_ends_the_command_with_143_and_a_stored_state(network, tmp_path, checkout):
    out = tmp_path / "r"
    argv = [*DATA, *QUICK, "--arch", network, "--out", str(out), "--epochs", "100000"]
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": tiny.QUICK_FLAGS}
    command = [sys.executable, "-m", "lcnas.train", *argv]
    with subprocess.Popen(
        command, cwd=checkout, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and len(metrics.read(out)) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stderr.count("SIGTERM: received; stopping") == 1
    last = stderr.splitlines()[-1]
    assert last.startswith("stopped by SIGTERM after step ")
    step = int(last.split("step ")[1].split(";")[0])
    assert (out / "checkpoints" / str(step)).is_dir()
    assert not (out / "result.json").exists()
    assert json.loads((out / "run.json").read_text())["identity"]["seed"] == 0


def test_help_shows_the_recipes_values(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--recipe", "modern", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "with their values in modern" in text
    assert "--beta1 V AdamW's decay of the mean gradient (a number; modern: 0.6)" in text
    assert "--coordinator" in text
    assert f"share of damaged images, which are left out (default: {MAX_BAD:g})" in text
    assert f"are read from their files in each epoch (default: {MEMORY_MB})" in text


def test_the_compile_cache_is_kept_by_machine(tmp_path, monkeypatch):
    import jax

    from lcnas.latency.machine import processor_key

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def now():
        return getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 - set at run time

    before = now()
    try:
        train._compile_cache("auto")
        own = f"{processor_key()}-jaxlib{metadata.version('jaxlib')}"
        assert now() == str(tmp_path / "lcnas" / "jax" / own)
        train._compile_cache(str(tmp_path / "mine"))
        assert now() == str(tmp_path / "mine" / own)  # which another machine may be given too
        train._compile_cache("none")
        assert now() == str(tmp_path / "mine" / own)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
