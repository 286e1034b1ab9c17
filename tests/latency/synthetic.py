"""A synthetic engine with known latencies: additive costs, drift and noise, and its own clock."""

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
OVERHEAD_MS = 0.012  # of entering a session


def hashed(placed: PlacedBlock, salt: str = "") -> float:
    """Return a number from -1 to 1 for each block, the same in every process."""
    digest = hashlib.sha256(f"{salt}{placed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**31 - 1


def inside_ms(placed: PlacedBlock) -> float:
    """Return what a block costs inside a network, ms: work, memory, and a deviation of up to 5 %."""
    c = cost.of(placed)
    return (0.04 + c.macs * 2e-7 + c.activations * 3e-7) * (1 + 0.05 * hashed(placed))


def alone_ms(placed: PlacedBlock) -> float:
    """Return what a block costs alone, ms: the overhead, and borders, more for some kinds than for others."""
    settings = str(placed.block)
    border = 1.35 if " se" in settings or "se=True" in settings else 1.15
    return OVERHEAD_MS + inside_ms(placed) * border


@dataclass
class World:
    """A synthetic machine: its clock, its drift and its noise."""

    noise: float = 0.01  # of a run, one-sided: interference only adds
    drift: float = 0.15  # of the whole machine, slowly up and down
    spread: float = 0.005  # of a session
    hidden: float = 0.0  # a cost that is no sum: relative, of a network, by its id
    quantise: float = 0.0  # ms per value at both ends of anything that is run, as of an int8 engine
    slow: float = 1.0  # factor on all times
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
        total = OVERHEAD_MS + sum(inside_ms(p) for p in chain) + self.quantise * ends
        deviation = int(source.id[:6], 16) / 2**23 - 1 if isinstance(source, Arch) else 0.0
        return total * (1 + self.hidden * deviation)

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
