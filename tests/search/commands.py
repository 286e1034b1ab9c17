"""The search command in processes of its own, on a small set with as many classes as the packaged table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import lcnas
from tests.search.small_table import small_table
from tests.training import tiny

CLASSES, TESTED = 10, 100  # classes and test images of the small set
# The small end of pplcnet_tail, all of whose entries the small table has: few layers compile sooner.
FEW_LAYERS = """
version = 1
resolution = [32]

[stem]
block = "conv"
width = 8
kernel = 3
stride = 2
act = "hard_swish"

[[stages]]
block = "depthwise_separable"
depth = 1
stride = 1
width = { choices = [8, 16] }
kernel = 3
act = "hard_swish"

[[stages]]
block = "depthwise_separable"
depth = 1
stride = 2
width = { choices = [16, 24, 32] }
kernel = 3
act = "hard_swish"

[[stages]]
block = "depthwise_separable"
depth = 1
stride = 2
width = { choices = [32, 48, 64] }
kernel = 3
act = "hard_swish"

[[stages]]
block = "depthwise_separable"
depth = { from = 2, to = 3 }
stride = 2
width = { choices = [64, 88, 128] }
kernel = 3
act = "hard_swish"

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [128, 176, 256] }
kernel = { choices = [3, 5], per = "block" }
se = { choices = [false, true], per = "block" }
act = "hard_swish"

[head]
block = "classifier"
width = { choices = [0, 640, 1280] }
act = "hard_swish"
"""
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": tiny.QUICK_FLAGS}  # for compiling


def small_set(path):
    """Write an npz file of tiny images whose colour is their class, and a table for them beside it.

    Returns how the set is named; :func:`table` gives the table.
    """
    rng = np.random.default_rng(0)

    def images(n):
        labels = np.arange(n) % CLASSES
        base = np.stack([labels % 5 * 50, labels // 5 * 120, 200 - labels % 3 * 80], -1)
        noise = rng.integers(0, 20, (n, 32, 32, 3))
        return (base[:, None, None, :] + noise).astype(np.uint8), labels.astype(np.int32)

    (train, train_labels), (test, test_labels) = images(500), images(TESTED)
    np.savez(path, x_train=train, y_train=train_labels, x_test=test, y_test=test_labels)
    small_table(path.parent)
    return f"npz:{path}"


def table(data):
    """Return the table beside a small set."""
    (path,) = Path(data.partition(":")[2]).parent.glob("*.json")
    return path


def few_layers(folder):
    """Write a space of networks of few layers; returns the options that take it."""
    path = folder / "few_layers.toml"
    path.write_text(FEW_LAYERS)
    return ["--space", str(path)]


def words(data, out, *more):
    cheap = "--evaluator proxy --score macs --no-remeasure --workers 2 --lag 12"
    known = ["--data", data, "--table", str(table(data)), "--out", str(out)]
    return [*known, *cheap.split(), *map(str, more)]


def begin(folder, data, out, *more):
    env = {**os.environ, **QUICK, "PYTHONPATH": str(steps_root())}
    command = [sys.executable, "-m", "search.run", *words(data, out, *more)]
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def begin_as(folder, data, out, *more):
    """Begin a search with an evaluator of the test's own choice; nothing of it is kept elsewhere."""
    env = {
        **os.environ,
        **QUICK,
        "PYTHONPATH": str(steps_root()),
        "XDG_CACHE_HOME": str(folder / "home"),
    }
    known = [
        "--data",
        data,
        "--table",
        str(table(data)),
        "--out",
        str(out),
        "--no-remeasure",
        "--workers",
        "2",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "search.run", *known, *more],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def steps_root():
    return Path(lcnas.__file__).parents[1]


def numbers(out):
    return [json.loads(line)["number"] for line in (out / "trials.jsonl").read_text().splitlines()]
