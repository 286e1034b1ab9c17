"""Every zoo network and 30 networks of each space: does Flax compute what the exported ONNX file computes?

    python -m results.models_agree

For each network, with random weights and the statistics of a batch (random ones let signals grow without limit
in some networks, which then compute noise in float32 on any engine): the largest difference between the Flax model in
evaluation mode and the exported graph, run by onnxruntime's openvino and mlas engines, over the largest logit;
the Flax model's trained numbers beside cost.params(training=True), and what is left of them after merging beside
cost.params(). Images are normal noise at the network's own resolution, 10 classes. Writes
results/models-agree.json, a line a network; a network that is in the file already is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import _report
from lcnas import cost, models, onnx_export, spaces, zoo
from lcnas.arch import Arch, height_width
from lcnas.models import units
from tests.onnx_export import engines

CLASSES, SEED, PER_SPACE, LIMIT = 10, 0, 30, 1e-4
PATH = Path(__file__).with_name("models-agree.json")


def networks() -> Iterator[tuple[str, Arch]]:
    """Yield (name, network)."""
    for name in zoo.names():
        yield name, zoo.load(name)
    for name in spaces.available():
        space = spaces.load(name)
        rng = np.random.default_rng(SEED)
        for i in range(PER_SPACE):
            yield f"{name} #{i}", space.sample(rng)


def check(arch: Arch) -> dict[str, Any]:
    """Return the differences and counts of one network."""
    model = models.build(arch, CLASSES)
    weights = onnx_export.init(arch, np.random.default_rng(SEED), CLASSES)
    model.set_weights(weights)
    _take_statistics(model)
    weights = model.weights()
    size = height_width(arch.resolution)
    x = np.random.default_rng(SEED + 1).normal(size=(1, *size, 3)).astype(np.float32)
    graph, state = nnx.split(model)
    logits = np.asarray(jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, jnp.asarray(x)))
    exported = onnx_export.export(arch, weights=model.weights(), classes=CLASSES)
    largest = float(np.abs(logits).max())
    record: dict[str, Any] = {"largest_logit": largest}
    for engine in engines.ENGINES:
        other = engines.run(exported, x.transpose(0, 3, 1, 2), engine)
        record[engine] = float(np.abs(other - logits).max()) / largest
    trained = sum(v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))
    record["trained"] = trained == cost.params(arch, CLASSES, training=True)
    branches = cost.params(arch, CLASSES, training=True) - cost.params(arch, CLASSES)
    record["params"] = cost.params(arch, CLASSES)
    record["params_of_branches"] = branches
    record["merged"] = _merged(arch, weights) == cost.params(arch, CLASSES) + _norms_folded(arch)
    return record


def _take_statistics(model: models.Network) -> None:
    """Set the batch norms' running statistics to those of a batch of noise, and switch to evaluation."""
    size = height_width(model.arch.resolution)
    noise = np.random.default_rng(SEED + 2).normal(size=(8, *size, 3)).astype(np.float32)
    model.train()
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = states

    def seen(params: Any, stats: Any, x: Any) -> Any:
        net = nnx.merge(graph, params, stats, copy=True)
        net(x, nnx.Rngs(dropout=0))
        return nnx.state(net, nnx.BatchStat)

    moved = jax.jit(seen)(params, stats, jnp.asarray(noise))
    share = units.MOMENTUM  # of the old in the running ones
    batch = jax.tree.map(lambda new, old: (new - share * old) / (1 - share), moved, stats)
    nnx.update(model, batch)
    weights = model.weights()
    kept = {n: np.maximum(w, 1e-6) if n.endswith("/var") else w for n, w in weights.items()}
    model.set_weights(kept)
    model.eval()


def _merged(arch: Arch, weights: Any) -> int:
    """Return how many numbers the exported form has."""
    return sum(v.size for v in onnx_export.fold(arch, weights, CLASSES).values())


def _norms_folded(arch: Arch) -> int:
    """Return by how much a folded network differs in numbers: a norm's scale and shift become one bias."""
    from lcnas import layers
    from lcnas.arch import walk

    total = 0
    for placed in walk(arch, None, CLASSES):
        for leaf, shape, _ in layers.visit(placed.layer, placed.in_shape):
            conv = leaf.merged if isinstance(leaf, layers.Reparam) else leaf
            if isinstance(conv, layers.Conv) and conv.norm:
                total -= 2 * conv.width  # scale and shift go
                total += 0 if conv.bias else conv.width  # a bias comes
            del shape
    return total


def main() -> None:
    """Check, print and write."""
    rows: dict[str, Any] = {}
    if PATH.is_file():
        rows = json.loads(PATH.read_text())["networks"]
    for name, arch in networks():
        if name in rows:
            continue
        rows[name] = {"id": arch.id, **check(arch)}
        jax.clear_caches()
        print(name, rows[name], flush=True)
        worst = {e: max(r[e] for r in rows.values()) for e in engines.ENGINES}
        counts = all(r["trained"] and r["merged"] for r in rows.values())
        summary = {"n": len(rows), "worst": worst, "limit": LIMIT, "counts_all_equal": counts}
        _report.write(
            "models-agree", {**_report.conditions([SEED]), "summary": summary, "networks": rows}
        )
    wrong = [n for n, r in rows.items() if max(r[e] for e in engines.ENGINES) > LIMIT]
    print(f"{len(rows)} networks; beyond {LIMIT}: {wrong or 'none'}")


if __name__ == "__main__":
    main()
