"""Eight simulated devices that share each batch compute what one computes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from lcnas.errors import TrainingError
from lcnas.training import devices
from lcnas.training import job as job_module
from lcnas.training.devices import Devices
from tests.training import tiny

ONE = Devices(None)

# Prints the losses of one device and of eight, the weights' largest difference, and what the compiled
# program of eight sends around.
SIMULATED = """
import json, re, sys
import jax, numpy as np
from lcnas.training import data, devices, views
from lcnas.training import job as job_module
from tests.training import tiny

arch = tiny.separable()
recipe = tiny.recipe(log_steps=1, **{"augment.mixup": 0.4, "augment.crop": "shift", "augment.pad": 2})
dataset = tiny.data()
losses, ends = [], []
for group in (devices.find(1), devices.find()):
    job = job_module.prepared(arch, dataset, recipe, 0, None, (), None, group)
    state = job.start()
    if group.count > 1:
        arrays = group.split(*views.arrays(next(dataset.train.batches(16, seed=0, epoch=0))))
        text = job.program.step.lower(state, job.seed, *arrays).compile().as_text()
    curve = []
    for epoch in range(2):
        for batch in dataset.train.batches(16, seed=0, epoch=epoch):
            state, report = job.step(state, int(state.step), batch)
            curve.append(float(report.window.loss))
    losses.append(curve)
    scores = job.scores(state, dataset.validation)
    ends.append((scores, {n: np.asarray(w) for n, w in {**state.params, **state.stats}.items()}))
worst = max(float(np.abs(ends[0][1][n] - ends[1][1][n]).max()) for n in ends[0][1])
sent = sorted(set(re.findall(r"(all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)", text)))
print(json.dumps({
    "devices": group.count, "one": losses[0], "eight": losses[1], "worst": worst, "sent": sent,
    "accuracy": [e[0].accuracy for e in ends], "images": [e[0].images for e in ends],
    "compiled": job.program.step._cache_size(),
}))
"""


@pytest.fixture(scope="module")
def simulated(checkout, tmp_path_factory):
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(
            tmp_path_factory.mktemp("cache")
        ),  # compiles its step once
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {tiny.QUICK_FLAGS}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-W", "error", "-c", SIMULATED]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_loss_curve_of_one(simulated):
    assert simulated["devices"] == 8
    assert len(simulated["one"]) == 6
    assert len(set(simulated["one"])) == 6
    np.testing.assert_allclose(simulated["eight"], simulated["one"], rtol=2e-5)
    assert simulated["worst"] < 1e-4
    assert simulated["compiled"] == 1


def test_nothing_but_sums_is_sent(simulated):
    """No gathering of activations: gradients, batch-norm sums and counts are added up, that is all."""
    assert simulated["sent"] == ["all-reduce"]


def test_evaluation_is_shared_as_well(simulated):
    assert simulated["accuracy"][0] == simulated["accuracy"][1]
    assert simulated["images"] == [12, 12]


HOST = """
import json, sys
from lcnas.training import data, devices, views
from lcnas.training import job as job_module
from tests.training import tiny

devices.join(sys.argv[1], 2, int(sys.argv[2]))
group = devices.find()
dataset = tiny.data()
job = job_module.prepared(tiny.arch(), dataset, tiny.recipe(log_steps=1), 0, None, (), None, group)
state, losses = job.start(), []
for number, batch in enumerate(dataset.train.batches(16, seed=0, epoch=0)):
    state, report = job.step(state, number, batch)
    losses.append(float(report.window.loss))
losses += [devices.any_host(group.leads), devices.any_host(False)]
print(json.dumps([group.hosts, group.leads, losses]))
"""


def test_two_hosts_compute_what_one_does(checkout):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": tiny.QUICK_FLAGS}
    commands = [[sys.executable, "-c", HOST, address, str(host)] for host in (0, 1)]
    begun = [
        subprocess.Popen(
            c, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for c in commands
    ]
    ends = [p.communicate(timeout=120) for p in begun]
    assert [p.returncode for p in begun] == [0, 0], ends
    (hosts, leads, losses), other = (json.loads(out.splitlines()[-1]) for out, _ in ends)
    assert (hosts, leads) == (2, True)
    assert other == [2, False, losses]
    with tiny.quick_compiling():
        data = tiny.data()
        job = job_module.prepared(
            tiny.arch(), data, tiny.recipe(log_steps=1), 0, None, (), None, ONE
        )
        state, alone = job.start(), []
        for number, batch in enumerate(data.train.batches(16, seed=0, epoch=0)):
            state, report = job.step(state, number, batch)
            alone.append(float(report.window.loss))
    np.testing.assert_allclose(losses[:-2], alone, rtol=2e-5)
    assert losses[-2:] == [True, False]


def test_a_batch_that_cannot_be_shared_equally(monkeypatch):
    monkeypatch.setattr(Devices, "count", 8)
    several = Devices(None)
    several.check_batch(32, 4)
    with pytest.raises(
        TrainingError, match=r"100 images cannot be shared equally by 8 devices .* is 96"
    ):
        several.check_batch(100, 2)
    with pytest.raises(TrainingError, match="the nearest that can is 8"):
        several.check_batch(1)
    several.check_batch(48, pairs=True)
    with pytest.raises(TrainingError, match=r"in pairs for mixup and cutmix; the nearest .* is 32"):
        several.check_batch(24, pairs=True)


def test_one_device_needs_no_mapping():
    single = devices.find()
    assert (single.count, single.axis, single.hosts, single.leads) == (1, None, 1, True)
    f = len
    assert single.mapped(f, shared=0) is f
    assert single.first(5) == 0
    with pytest.raises(TrainingError, match="devices: 2 is not among 1 to 1"):
        devices.find(2)


def test_hosts_out_of_range():
    with pytest.raises(TrainingError, match="host: 2 is not among 0 to 1"):
        devices.join("127.0.0.1:1", 2, 2)
    with pytest.raises(TrainingError, match=r"'nonsense' is not ADDRESS:PORT"):
        devices.join("nonsense", 2, 1)
    assert devices.any_host(True)
    assert not devices.any_host(False)


@pytest.mark.parametrize("name", ["cuda", "nonsense"])
@pytest.mark.parametrize("command", ["lcnas.train", "search.run"])
def test_a_platform_that_is_not_here_is_one_line(name, command, checkout, tmp_path):
    more = ["--batch", "16"] if command == "lcnas.train" else []
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            command,
            *more,
            "--data",
            "synthetic:train=60,test=12",
            "--out",
            "run",
        ],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": name, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"python -m {command}: JAX_PLATFORMS: JAX has no {name!r} here")
    assert not (tmp_path / "run").exists()
