"""Are the gradients of a training step right? lcnas and PyTorch in float32, both beside PyTorch in float64.

    python -m results.gradients_agree

For each network: some steps of training on synthetic images by lcnas, and before the first, the sixth and the
last of them the gradients of the mean loss over one batch, by all weights, without dropout. An error is that of
one array of weights: the norm of the difference over the norm in float64; arrays whose gradient is 0 but for
rounding (a shift before another batch norm, say) do not count. The file has the median and the largest over the
arrays of a network. Needs the extra ``bench``. Writes results/gradients-agree.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from benchmarks import _report, _torch
from lcnas import models, training, zoo
from lcnas.arch import Arch
from lcnas.training import functional, recipes, step

NETWORKS = (("pplcnet_0.25x", 64), ("pplcnet_0.5x", 96), ("mobilenet_v3_small_0.5x", 64))
BATCH, STEPS, LATER, SEED, SMOOTHING, ZERO = 32, 40, 5, 0, 0.1, 1e-9

Arrays = dict[str, np.ndarray[Any, Any]]


def ours(net: functional.Functional, params: Any, stats: Any, x: Any, y: Any) -> Arrays:
    """Return lcnas's gradients."""

    def loss(params: Any) -> jax.Array:
        logits, _ = net.train(params, stats, x, jax.random.key(0))
        return jnp.mean(-(y * jax.nn.log_softmax(logits)).sum(-1))

    return {k: np.asarray(v, np.float64) for k, v in jax.jit(jax.grad(loss))(params).items()}


def theirs(
    arch: Arch, classes: int, weights: Mapping[str, Any], x: Any, y: Any, kind: torch.dtype
) -> Arrays:
    """Return PyTorch's gradients, under lcnas's names and in its shapes."""
    model = _torch.network(arch, classes)
    model.load(weights)
    model = model.to(kind)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    images = torch.from_numpy(np.array(x).transpose(0, 3, 1, 2)).to(
        kind, memory_format=torch.channels_last
    )
    goal = torch.from_numpy(np.array(y)).to(kind)
    (-(torch.log_softmax(model(images), 1) * goal).sum(1).mean()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data = parameter.grad
    return {k: np.asarray(v, np.float64) for k, v in model.export().items()}


def errors(gradients: Arrays, right: Arrays, names: tuple[str, ...]) -> dict[str, float]:
    """Return the median and largest relative error over weight arrays."""
    sizes = {n: float(np.linalg.norm(right[n])) for n in names}
    counted = [n for n in names if sizes[n] > ZERO * max(sizes.values())]
    each = [np.linalg.norm(gradients[n] - right[n]) / sizes[n] for n in counted]
    return {"median": float(np.median(each)), "largest": float(np.max(each))}


def prepared(x: Any, y: Any, key: Any, first: Any) -> tuple[Any, Any]:
    """Return images and targets as they are."""
    del key, first
    return x, y


def check(arch: Arch, side: int) -> Iterator[dict[str, Any]]:
    """Yield the errors before some steps of one network's training."""
    data = training.load_data("synthetic", size=side)
    recipe = recipes.load(
        "imagenette", epochs=1, resolution=side, batch=BATCH, dropout=0.0, warmup_epochs=0
    )
    model = models.build(arch, data.classes, nnx.Rngs(SEED))
    weights = model.weights()
    net = functional.Functional.of(functional.with_dropout(model, 0.0))
    params, stats = net.split({k: jnp.asarray(v) for k, v in weights.items()})
    program = step.build(
        net,
        recipe,
        step.Length.of(recipe, STEPS),
        augment=prepared,
        devices=training.Devices(None),
    )
    state = program.start(params, stats)
    batches = data.train.batches(BATCH, seed=SEED, epoch=0)
    for i, batch in zip(range(STEPS), batches, strict=False):
        x = jnp.asarray((np.asarray(batch.images, np.float32) / 255 - 0.45) / 0.25)
        y = jax.nn.one_hot(batch.labels, data.classes)
        if i in (0, LATER, STEPS - 1):
            held = {k: np.array(v) for k, v in {**state.params, **state.stats}.items()}
            smooth = y * (1 - SMOOTHING) + SMOOTHING / data.classes
            split = net.split({k: jnp.asarray(v) for k, v in held.items()})
            right = theirs(arch, data.classes, held, x, smooth, torch.float64)
            single = theirs(arch, data.classes, held, x, smooth, torch.float32)
            mine = ours(net, *split, x, smooth)
            yield {
                "step": i,
                "lcnas": errors(mine, right, net.params.names),
                "torch": errors(single, right, net.params.names),
            }
        state, _ = program.step(state, jnp.int32(SEED), x, y)


def main() -> None:
    """Check all networks, write, print."""
    torch.set_num_threads(1)
    rows = []
    for name, side in NETWORKS:
        for errors in check(zoo.load(name, side), side):
            rows.append({"network": name, "side": side, **errors})
            print(json.dumps(rows[-1]), flush=True)
    _report.write("gradients-agree", {**_report.conditions([SEED]), "rows": rows})


if __name__ == "__main__":
    main()
