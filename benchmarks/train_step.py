"""Training speed on a CPU: lcnas beside PyTorch (channels_last) and beside XLA's own convolution.

    python -m benchmarks.train_step                         # all settings, about 25 minutes
    python -m benchmarks.train_step --scale 0.5 --side 64   # one of them

The same network, weights, batch and recipe (SGD with momentum, label smoothing, decay of kernels) in every
column; random images that stay in memory. Two ways to use two cores: two processes of one thread, each on a
core of its own, their images/s summed; and one process with two threads. The columns take turns, some seconds
each, for some rounds; the median of the ratios counts. "torch-kept" is PyTorch in a process that keeps
its freed memory in large pages, as lcnas's training commands do (lcnas/models/memory.py). Needs the extra
``bench`` (PyTorch). Writes results/train-step.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = {32: 128, 64: 64, 128: 32}  # side in pixels -> images a step
SCALES = (0.25, 0.5, 1.0)
COLUMNS = ("torch", "lcnas", "xla", "torch-kept")
CLASSES = 10
RATE, MOMENTUM, DECAY, SMOOTHING = 0.05, 0.9, 3e-5, 0.1


# -- what a worker does ----------------------------------------------------------------------------


def _problem(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    from lcnas import zoo

    rng = np.random.default_rng(0)
    arch = zoo.load(f"pplcnet_{args.scale:g}x", args.side)
    images = rng.normal(size=(args.batch, args.side, args.side, 3)).astype(np.float32)
    return arch, images, rng.integers(0, CLASSES, args.batch).astype(np.int32)


def _weights(arch: Any) -> dict[str, Any]:
    from flax import nnx

    from lcnas import models

    return models.build(arch, CLASSES, nnx.Rngs(0)).weights()


def torch_step(args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that does one step of PyTorch and returns the loss."""
    import torch

    from benchmarks import _torch

    if args.column == "torch-kept":
        _keep_memory()
    torch.set_num_threads(args.threads)
    arch, images, labels = _problem(args)
    model = _torch.network(arch, CLASSES)
    model.load(dict(np.load(args.weights)))
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    x = x.to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels.astype(np.int64))
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def jax_step(args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that does one step of lcnas and returns the loss."""
    compiled, carry, x = jax_program(args)

    def step() -> float:
        nonlocal carry
        carry, loss = compiled(carry, x)
        return float(loss)

    return step


def jax_program(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return the jitted step of lcnas, what it carries, and the images."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from lcnas import models

    _keep_memory()
    if args.column == "xla":
        _use_xla()
    arch, images, labels = _problem(args)
    model = models.build(
        arch, CLASSES, nnx.Rngs(0), layout="NHWC" if args.column == "xla" else None
    )
    model.set_weights(dict(np.load(args.weights)))
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = states
    mask = nnx.map_state(lambda path, _: models.decays(models.weight_name(path)), params)
    decay = optax.add_decayed_weights(DECAY, mask)
    optimizer = optax.chain(decay, optax.sgd(RATE, MOMENTUM))
    x, y = jnp.asarray(images), jnp.asarray(labels)
    goal = jax.nn.one_hot(y, CLASSES) * (1 - SMOOTHING) + SMOOTHING / CLASSES

    def loss_of(params: Any, stats: Any, x: Any, key: Any) -> tuple[Any, Any]:
        net = nnx.merge(graph, params, stats, copy=True)
        logits = net(x, nnx.Rngs(dropout=key))
        loss = -(jax.nn.log_softmax(logits) * goal).sum(axis=1).mean()
        return loss, nnx.state(net, nnx.BatchStat)

    def one(carry: Any, x: Any) -> tuple[Any, Any]:
        params, stats, state, key = carry
        key, now = jax.random.split(key)
        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params, stats, x, now)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), stats, state, key), loss

    compiled = jax.jit(one, donate_argnums=0)
    return compiled, (params, stats, optimizer.init(params), jax.random.key(0)), x


def _keep_memory() -> None:
    from lcnas.models import memory

    memory.keep_freed_memory()


def _use_xla() -> None:
    """Put XLA's own convolution and a standard batch norm in the place of our operations."""
    from jax import lax

    from lcnas.models import ops

    def xla(x: Any, scale: Any, shift: Any, name: str, layout: Any, eps: float, _: Any) -> Any:
        mean, var = x.mean(layout.others()), x.var(layout.others())
        at = layout.per_channel
        y = (x - at(mean)) * at(lax.rsqrt(var + eps) * scale) + at(shift)
        return ops.act(y, name), lax.stop_gradient(mean), lax.stop_gradient(var)

    ops.convolution = ops._xla
    setattr(ops, "norm_act", xla)  # noqa: B010 - mypy knows the name as an operation with a gradient of its own


def worker(args: argparse.Namespace) -> None:
    """Compile, then do steps for as long as each line of the input says; a line of JSON for each."""
    os.sched_setaffinity(0, set(args.cores))
    start = time.perf_counter()
    step = torch_step(args) if args.column.startswith("torch") else jax_step(args)
    losses = [step()]
    print(json.dumps({"ready_s": time.perf_counter() - start}), flush=True)
    losses += [step() for _ in range(4)]
    print(json.dumps({"losses": losses}), flush=True)
    for line in sys.stdin:
        until = time.perf_counter() + float(line)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() < until:
            step()
            steps += 1
        rate = steps * args.batch / (time.perf_counter() - start)
        print(json.dumps({"images_per_s": rate}), flush=True)


# -- the driver ------------------------------------------------------------------------------------


class Team:
    """The processes of one column: two of one thread, or one of two."""

    def __init__(
        self, column: str, scale: float, side: int, batch: int, two: bool, weights: str
    ) -> None:
        shares = [[0], [1]] if two else [[0, 1]]
        command = [sys.executable, "-m", "benchmarks.train_step", "--worker", column]
        command += ["--scale", str(scale), "--side", str(side), "--batch", str(batch)]
        command += ["--weights", weights]
        self.processes = []
        for cores in shares:
            threads = str(len(cores))
            env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            argv = [*command, "--threads", threads, "--cores", *map(str, cores)]
            self.processes.append(
                subprocess.Popen(
                    argv, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
        self.ready_s = max(self._answer(p)["ready_s"] for p in self.processes)
        losses = [self._answer(p)["losses"] for p in self.processes]
        self.losses = losses[0]

    @staticmethod
    def _answer(process: Any) -> dict[str, Any]:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("a worker died; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, seconds: float) -> float:
        """Return the images/s of all processes over some seconds."""
        for process in self.processes:
            process.stdin.write(f"{seconds}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return sum(float(self._answer(p)["images_per_s"]) for p in self.processes)

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()


def measure(
    scale: float, side: int, two: bool, rounds: int, seconds: float, columns: list[str]
) -> dict[str, Any]:
    """Return the images/s of every column in every round, and the median of the ratios to PyTorch."""
    import tempfile

    from lcnas import zoo

    batch = BATCHES[side]
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.npz")
        np.savez(weights, **_weights(zoo.load(f"pplcnet_{scale:g}x", side)))
        teams = {c: Team(c, scale, side, batch, two, weights) for c in columns}
        rates: dict[str, list[float]] = {c: [] for c in columns}
        for _ in range(rounds):
            for column, team in teams.items():
                rates[column].append(team.run(seconds))
        for team in teams.values():
            team.close()
    first = columns[0]
    return {
        "scale": scale,
        "side": side,
        "batch": batch,
        "processes": 2 if two else 1,
        "threads_each": 1 if two else 2,
        "images_per_s": {c: [round(r, 1) for r in v] for c, v in rates.items()},
        f"ratio_to_{first}": {
            c: round(float(np.median(np.array(v) / np.array(rates[first]))), 3)
            for c, v in rates.items()
        },
        "build_and_first_step_s": {c: round(t.ready_s, 2) for c, t in teams.items()},
        "losses": {c: [round(v, 5) for v in t.losses] for c, t in teams.items()},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--side", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS))
    parser.add_argument("--ways", nargs="+", type=int, default=[2, 1], help="processes")
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--worker", dest="column", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.column:
        args.scale, args.side = args.scale[0], args.side[0]
        worker(args)
        return
    from benchmarks import _report

    rows = []
    for side in args.side:
        for scale in args.scale:
            for processes in args.ways:
                row = measure(scale, side, processes == 2, args.rounds, args.seconds, args.columns)
                rows.append(row)
                ratios = row[f"ratio_to_{args.columns[0]}"]
                print(f"{scale:g}x {side} px, {processes} process(es): {ratios}", flush=True)
                if not args.dry:
                    _report.write("train-step", {**_report.conditions([0]), "rows": rows})


if __name__ == "__main__":
    main()
