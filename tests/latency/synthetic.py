"""A made-up engine whose truth is known: additive costs, drift and noise, a clock of its own."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lcnas import cost
from lcnas.arch import Arch, PlacedBlock, walk
from lcnas.latency.engines import Engine

ENGINE = Engine("openvino", "0.0.0", "synthetic", "fp32", 1, 1)
ENTRY_MS = 0.012  # of a session


def own(placed: PlacedBlock, salt: str = "") -> float:
    """Return a number from -1 to 1 that belongs to a block, the same in every process."""
    digest = hashlib.sha256(f"{salt}{placed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**31 - 1


def inside_ms(placed: PlacedBlock) -> float:
    """Return what a block costs inside a network: work, memory, and 5 % of its own."""
    c = cost.of(placed)
    return (0.04 + c.macs * 2e-7 + c.activations * 3e-7) * (1 + 0.05 * own(placed))


def alone_ms(placed: PlacedBlock) -> float:
    """Return what it costs alone: the session's entry, and borders, more for some kinds than for others."""
    settings = str(placed.block)
    border = 1.35 if " se" in settings or "se=True" in settings else 1.15
    return ENTRY_MS + inside_ms(placed) * border


@dataclass
class World:
    """The machine: its clock, its drift and its noise."""

    noise: float = 0.01  # of a run, one-sided: interference only adds
    drift: float = 0.15  # of the whole machine, slowly up and down
    spread: float = 0.005  # of a session
    hidden: float = 0.0  # a cost that is no sum: relative, of a network, by its id
    quantise: float = 0.0  # ms a value at both ends of whatever is run, as an int8 engine takes
    slow: float = 1.0  # times as long for everything
    seed: int = 0
    now: float = 0.0
    opened: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def clock(self) -> float:
        return self.now

    def truth(self, source: Any) -> float:
        """Return the latency of a block, a chain or a network, in ms, without drift and noise."""
        if isinstance(source, Path):
            raise TypeError("the synthetic engine has no files")
        if isinstance(source, Arch):
            chain = walk(source)
        else:
            chain = (source,) if isinstance(source, PlacedBlock) else tuple(source)
        if not isinstance(source, Arch) and not self.quantise:
            (placed,) = chain
            return alone_ms(placed)
        ends = math.prod(chain[0].in_shape) + math.prod(chain[-1].out_shape)
        total = ENTRY_MS + sum(inside_ms(p) for p in chain) + self.quantise * ends
        own_way = int(source.id[:6], 16) / 2**23 - 1 if isinstance(source, Arch) else 0.0
        return total * (1 + self.hidden * own_way)

    def open(self, source: Any, engine: Engine, classes: int = 1000) -> _Session:
        self.opened += 1
        return _Session(self, self.truth(source) * (1 + self.spread * self.rng.standard_normal()))


@dataclass
class _Session:
    world: World
    ms: float

    def run(self) -> None:
        w = self.world
        pace = w.slow * (1 + w.drift * math.sin(w.now * 2 * math.pi / 20.0))
        late = w.rng.exponential(w.noise) + (0.5 if w.rng.random() < 0.02 else 0.0)
        w.now += self.ms * 1e-3 * pace * (1 + late)

    def outputs(self, inputs: Any) -> Any:
        return inputs
