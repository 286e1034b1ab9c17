"""A network as a pure function of its weights, which are flat mappings of names to arrays.

Compiled steps, gradients, averages and checkpoints handle only names and arrays; Flax is split once, here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
from flax import nnx

from lcnas import layers, models, onnx_export
from lcnas.arch import Arch
from lcnas.errors import TrainingError, not_among
from lcnas.models import Network

Array = jax.Array
Weights = dict[str, Array]


@dataclass(frozen=True)
class _Tree:
    """The structure of a state, and the names of its leaves in order."""

    names: tuple[str, ...]
    structure: Any

    @classmethod
    def of(cls, state: Any) -> _Tree:
        leaves, structure = jax.tree.flatten(state)
        names = tuple(models.weight_name(path) for path, _ in nnx.to_flat_state(state))
        assert len(names) == len(leaves) == len(set(names))
        return cls(names, structure)

    def filled(self, weights: Mapping[str, Array]) -> Any:
        return jax.tree.unflatten(self.structure, [weights[name] for name in self.names])

    def flat(self, state: Any) -> Weights:
        return dict(zip(self.names, jax.tree.leaves(state), strict=True))


@dataclass(frozen=True)
class Functional:
    """The functions that a network computes in training and in evaluation mode."""

    training: Any  # NNX's graph of the network in training mode
    testing: Any  # NNX's graph of the network in evaluation mode
    params: _Tree
    stats: _Tree

    @classmethod
    def of(cls, model: Network, frozen: Iterable[str] = ()) -> Self:
        """Return the functions of a network; the network itself is left unchanged.

        Args:
            model: the network.
            frozen: names of blocks that stay in evaluation mode: no dropout, and running statistics
                that are used and not updated.
        """
        model = nnx.clone(model)
        model.train()  # type: ignore[no-untyped-call]
        for name in frozen:
            model.blocks[name].eval()  # type: ignore[no-untyped-call]
        training, params, stats = _split(model)
        model.eval()  # type: ignore[no-untyped-call]
        testing, _, _ = _split(model)
        return cls(training, testing, _Tree.of(params), _Tree.of(stats))

    def train(
        self, params: Weights, stats: Weights, images: Array, key: Array
    ) -> tuple[Array, Weights]:
        """Return the logits in training mode, and the updated running statistics.

        Args:
            params: trained weights by name.
            stats: running means and variances by name.
            images: (n, height, width, 3), float32, normalised.
            key: key of the dropout.
        """
        model = nnx.merge(self.training, self.params.filled(params), self.stats.filled(stats))
        logits = model(images, rngs=nnx.Rngs(dropout=key))
        return logits, self.stats.flat(nnx.state(model, nnx.BatchStat))

    def test(self, params: Weights, stats: Weights, images: Array) -> Array:
        """Return the logits in evaluation mode."""
        model = nnx.merge(self.testing, self.params.filled(params), self.stats.filled(stats))
        logits: Array = model(images)
        return logits

    def split(self, weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all weights by name, split into (params, stats)."""
        return (
            {name: weights[name] for name in self.params.names},
            {name: weights[name] for name in self.stats.names},
        )


def _split(model: Network) -> tuple[Any, Any, Any]:
    """Return NNX's graph, the parameters and the statistics."""
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = states
    return graph, params, stats


def with_dropout(model: Network, rate: float | None) -> Network:
    """Set the rate of all dropout layers (None: leave it unchanged) and return the network."""
    modules: Iterator[tuple[Any, Any]] = nnx.iter_modules(model)
    for _, module in modules:
        layer = getattr(module, "layer", None)
        if rate is not None and isinstance(layer, layers.Dropout):
            module.layer = dataclasses.replace(layer, rate=rate)
    return model


def blocks_of(arch: Arch, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of blocks, in order, that names of stages or blocks refer to.

    Args:
        arch: the network.
        names: stages ("stem", "stage4": all its blocks) or blocks ("stage4_block_2").

    Raises:
        TrainingError: no such stage or block, with the nearest; or no block is left to train.
    """
    block_names = iter(onnx_export.block_names(arch))
    stages = {stage.name: [next(block_names) for _ in stage.blocks] for stage in arch.stages}
    all_blocks = [name for blocks in stages.values() for name in blocks]
    chosen: set[str] = set()
    for name in names:
        if name not in stages and name not in all_blocks:
            raise TrainingError(not_among("freeze", name, dict.fromkeys([*stages, *all_blocks])))
        chosen.update(stages.get(name, [name]))
    if len(chosen) == len(all_blocks):
        raise TrainingError("freeze: all blocks are frozen, so there is nothing to train")
    return tuple(name for name in all_blocks if name in chosen)


def is_in(name: str, blocks: Iterable[str]) -> bool:
    """Return whether a weight belongs to one of the blocks."""
    return name.partition("/")[0] in blocks
