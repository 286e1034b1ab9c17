"""The devices that train: one, or many that share each batch.

With many, every device holds all weights and a part of the batch; what they add up (gradients, the sums of
batch norms, counts) is added explicitly, by ``psum`` inside ``jax.shard_map``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from lcnas.errors import TrainingError
from lcnas.latency.machine import processor_key

T = TypeVar("T")

AXIS = "data"  # name of the mapped axis
SHARED: P = P()  # type: ignore[no-untyped-call] # held whole by every device
SPLIT: P = P(AXIS)  # type: ignore[no-untyped-call] # cut along the first axis


def programs_folder(shared: Path) -> Path:
    """Return where compiled programs of this processor and compiler lie in a folder that others may share.

    What was compiled for another processor may end in an illegal instruction; JAX's own keys differ from
    version to version in what they say of it.
    """
    return shared.absolute() / f"{processor_key()}-jaxlib{metadata.version('jaxlib')}"


@dataclass(frozen=True)
class Devices:
    """One device, or a row of them."""

    mesh: Mesh | None  # None: one device, and no mapping

    @property
    def count(self) -> int:
        """How many there are, over all hosts."""
        return 1 if self.mesh is None else math.prod(self.mesh.devices.shape)

    @property
    def axis(self) -> str | None:
        """The name to sum over, None with one device."""
        return None if self.mesh is None else AXIS

    @property
    def hosts(self) -> int:
        """Processes that train together."""
        count: int = jax.process_count()
        return count

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return jax.process_index() == 0

    def total(self, tree: T) -> T:
        """Return the sums of all devices' arrays; traced."""
        if self.axis is None:
            return tree
        made: T = jax.lax.psum(tree, self.axis)  # type: ignore[no-untyped-call]
        return made

    def first(self, part: int) -> Any:
        """Return the place of a device's first image in the whole batch, of which it has ``part``; traced."""
        return 0 if self.axis is None else jax.lax.axis_index(self.axis) * part

    def check_batch(self, batch: int, micro_batches: int = 1, *, pairs: bool = False) -> None:
        """Refuse a batch that cannot be cut into equal parts.

        Args:
            batch: images.
            micro_batches: into which each device cuts its part.
            pairs: whether neighbours are mixed, so that a device's part has to be even.
        """
        parts = self.count * micro_batches
        if pairs and self.count > 1:
            parts = math.lcm(parts, 2 * self.count)
        if batch % parts:
            nearest = max(parts, round(batch / parts) * parts)
            even = ", in pairs for mixup and cutmix" if pairs else ""
            raise TrainingError(
                f"batch: {batch} images cannot be shared equally by {self.count} devices with "
                f"{micro_batches} micro-batches each{even}; the nearest that can is {nearest}"
            )

    def _sharding(self, spec: P) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(jax.local_devices()[0])
        return NamedSharding(self.mesh, spec)

    def share(self, tree: Any) -> Any:
        """Return a tree of arrays that every device holds whole, in memory of its own."""
        sharding = self._sharding(SHARED)
        if self.hosts == 1:
            # A state is donated to its step, so it may share memory with nothing.
            return jax.device_put(tree, sharding, may_alias=False)
        return jax.tree.map(lambda x: _global(np.asarray(x), sharding), tree)

    def split(self, *arrays: NDArray[Any]) -> tuple[jax.Array, ...]:
        """Return arrays (n, ...) of which each device holds an equal part.

        Every host is given the whole batch; it moves only its own part to its devices.
        """
        sharding = self._sharding(SPLIT)
        if self.hosts == 1:
            return tuple(jax.device_put(arrays, sharding))
        return tuple(_global(a, sharding) for a in arrays)

    def mapped(self, f: Callable[..., Any], shared: int, result: P = SHARED) -> Callable[..., Any]:
        """Return ``f`` run by every device on its part of the arguments.

        Args:
            f: a function that sums over :attr:`axis` what is to be the same on all.
            shared: how many of its first arguments every device has whole; the rest are split.
            result: whether its result is the same on all devices, or each has its part of it.
        """
        if self.mesh is None:
            return f
        mesh = self.mesh

        def run(*arguments: Any) -> Any:
            specs = (SHARED,) * shared + (SPLIT,) * (len(arguments) - shared)
            # Without check_vma a gradient is that of the device's own part, until it is summed by hand:
            # batch norm's own gradient (lcnas.models.ops) is written to that rule.
            over = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=result, check_vma=False)
            return over(*arguments)

        return run


def _global(array: NDArray[Any], sharding: Sharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def find(limit: int | None = None) -> Devices:
    """Return all devices, those of other hosts included, or the first ``limit`` of them.

    Raises:
        TrainingError: there are not as many, or JAX cannot use the platform that ``JAX_PLATFORMS`` names.
    """
    every = _all()
    if limit is not None and not 1 <= limit <= len(every):
        raise TrainingError(f"devices: {limit} is not among 1 to {len(every)}, which are here")
    chosen = every[:limit]
    return Devices(None if len(chosen) == 1 else Mesh(np.array(chosen), (AXIS,)))


def check_platforms() -> None:
    """Refuse a value of ``JAX_PLATFORMS`` that JAX cannot use, before a worker does.

    JAX is started only where the variable names something other than the processor.

    Raises:
        TrainingError: JAX cannot use it.
    """
    if os.environ.get("JAX_PLATFORMS", "") not in ("", "cpu"):
        _all()


def _all() -> list[jax.Device]:
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter: a known one without its plug-in
        asked = os.environ.get("JAX_PLATFORMS", "")
        if not asked:
            raise
        why = f": {str(error).splitlines()[0]}" if str(error) else ""
        raise TrainingError(
            f"JAX_PLATFORMS: JAX has no {asked!r} here{why}; unset it, or set it to cpu"
        ) from None


def join(coordinator: str, hosts: int, host: int) -> None:
    """Join the processes that train together; every one calls it, before JAX is used.

    Args:
        coordinator: address and port of the first one, "10.0.0.1:1234".
        hosts: how many there are.
        host: which one this is, from 0.
    """
    if not 0 <= host < hosts:
        raise TrainingError(f"host: {host} is not among 0 to {hosts - 1}")
    name, _, port = coordinator.rpartition(":")
    if not name or not (port.isascii() and port.isdigit()):
        raise TrainingError(
            f"coordinator: {coordinator!r} is no ADDRESS:PORT such as 10.0.0.1:1234"
        )
    try:
        jax.distributed.initialize(coordinator, hosts, host)
    except (RuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"coordinator: {coordinator}: {first}") from None


def any_host(flag: bool) -> bool:
    """Return whether the flag is set on any host; all hosts must ask at the same step."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
