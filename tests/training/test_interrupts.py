"""Signals at any moment of a training: acknowledged at once, never lost, and a second one ends it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lcnas
from lcnas.training import interrupts
from lcnas.training.interrupts import Interrupts, SignalListener, check, may_be_stopped
from tests.training import tiny

ROOT = Path(lcnas.__file__).parents[1]
AT_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and self in sys.meta_path:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{sign})
        return None

sys.meta_path.insert(0, Finder())
"""
BUSY = """
import hashlib
from lcnas.training.interrupts import SignalListener
with SignalListener():
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)  # no handler of Python's runs meanwhile
"""


@pytest.mark.parametrize("command", ["lcnas.train", "lcnas.classify", "search.run"])
def test_a_signal_while_a_command_is_imported_is_told_in_a_line(command, tmp_path):
    script = AT_IMPORT.format(module="lcnas.arch", sign="SIGINT")
    # What a shell starts in the background ignores Ctrl-C.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "sitecustomize.py").write_text(script + heard)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("", "stopped\n")
    assert done.returncode == -signal.SIGINT  # as shells expect of a process that Ctrl-C ended


@pytest.mark.parametrize(
    ("module", "sign", "code"),
    [
        ("jax", "SIGINT", 130),
        ("flax.nnx", "SIGTERM", 143),
        ("orbax.checkpoint", "SIGINT", 130),
    ],
)
def test_a_signal_in_the_first_seconds_is_not_lost(module, sign, code, tmp_path):
    """While a library is imported, before anything is trained."""
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT.format(module=module, sign=sign))
    (tmp_path / "tiny.json").write_text(tiny.separable().to_json())
    words = "--arch tiny.json --data synthetic:classes=3,train=60,test=20 --batch 16 --cache none"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lcnas.train",
            *words.split(),
            "--epochs",
            "1000000",
            "--out",
            "run",
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": tiny.QUICK_FLAGS,
        },
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    word = "Ctrl-C" if sign == "SIGINT" else sign
    line = f"{word}: received; stopping once finished work is saved (repeat it to stop at once)"
    assert done.stderr.splitlines().count(line) == 1
    assert "to resume" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "result.json").exists()


def test_the_first_is_answered_at_once_and_the_second_ends_all_whatever_runs():
    """As while a step compiles; that this takes minutes shows that it was not waited for."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert select.select([process.stderr], [], [], 10)[0], "no line"
        assert process.stderr.readline().startswith(b"Ctrl-C: received")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(10) == 130
        finally:
            process.kill()


# -- in this process -------------------------------------------------------------------------------


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs the handler


@pytest.fixture
def listener(capfd):
    before = {number: signal.getsignal(number) for number in interrupts._SIGNALS}
    with SignalListener() as signals:
        yield signals
    assert {number: signal.getsignal(number) for number in interrupts._SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1
    assert SignalListener.current is None


def test_one_that_was_heard_before_stops_the_training(listener):
    send(signal.SIGTERM)  # raises nothing
    assert listener.received == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):
        check()
    with Interrupts() as noted:
        assert noted.received == signal.SIGTERM


def test_one_during_the_training_is_kept_for_what_follows(listener):
    with Interrupts() as noted:
        seen = [noted.received]
        send(signal.SIGINT)
        seen.append(noted.received)
    assert seen == [None, signal.SIGINT]
    assert listener.received == signal.SIGINT


def test_what_may_be_stopped_is_stopped_in_its_midst(listener):
    with pytest.raises(KeyboardInterrupt), may_be_stopped():
        send(signal.SIGINT)
    assert not listener.raises
    assert listener.received == signal.SIGINT


def test_without_a_listener_nothing_is_checked():
    check()
    with may_be_stopped():
        pass
