"""The devices that train: one, or many that share each batch.

With several devices, each holds all weights and a part of the batch; gradients, the sums of batch norms and
counts are summed explicitly, by ``psum`` inside ``jax.shard_map``.
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
SHARED: P = P()  # type: ignore[no-untyped-call] # replicated on every device
SPLIT: P = P(AXIS)  # type: ignore[no-untyped-call] # split along the first axis


def programs_folder(shared: Path) -> Path:
    """Return the sub-folder of a shared folder for programs compiled for this processor and compiler.

    A program compiled for another processor may execute an illegal instruction, and not all versions of JAX
    have the processor in their cache keys.
    """
    return shared.absolute() / f"{processor_key()}-jaxlib{metadata.version('jaxlib')}"


@dataclass(frozen=True)
class Devices:
    """One device, or several that share each batch."""

    mesh: Mesh | None  # None: one device, and no mapping

    @property
    def count(self) -> int:
        """The number of devices, over all hosts."""
        return 1 if self.mesh is None else math.prod(self.mesh.devices.shape)

    @property
    def axis(self) -> str | None:
        """The axis name to sum over, or None with one device."""
        return None if self.mesh is None else AXIS

    @property
    def hosts(self) -> int:
        """The number of processes that train together."""
        count: int = jax.process_count()
        return count

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return jax.process_index() == 0

    def total(self, tree: T) -> T:
        """Return the arrays summed over devices; call it in traced code."""
        if self.axis is None:
            return tree
        sums: T = jax.lax.psum(tree, self.axis)  # type: ignore[no-untyped-call]
        return sums

    def first(self, part: int) -> Any:
        """Return the index in the whole batch of this device's first image; call it in traced code.

        Args:
            part: images of the batch on each device.
        """
        return 0 if self.axis is None else jax.lax.axis_index(self.axis) * part

    def check_batch(self, batch: int, micro_batches: int = 1, *, pairs: bool = False) -> None:
        """Raise TrainingError for a batch that does not divide into equal parts.

        Args:
            batch: images of a step.
            micro_batches: micro-batches per device.
            pairs: whether neighbours are mixed, so that each device needs an even number of images.
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
        """Return a tree of arrays, replicated on every device, in memory of their own."""
        sharding = self._sharding(SHARED)
        if self.hosts == 1:
            # A state is donated to its step, so it must not alias other arrays.
            return jax.device_put(tree, sharding, may_alias=False)
        return jax.tree.map(lambda x: _global(np.asarray(x), sharding), tree)

    def split(self, *arrays: NDArray[Any]) -> tuple[jax.Array, ...]:
        """Return arrays (n, ...), split equally over the devices.

        Every host passes the whole batch; it moves only its own part to its devices.
        """
        sharding = self._sharding(SPLIT)
        if self.hosts == 1:
            return tuple(jax.device_put(arrays, sharding))
        return tuple(_global(a, sharding) for a in arrays)

    def mapped(self, f: Callable[..., Any], shared: int, result: P = SHARED) -> Callable[..., Any]:
        """Return ``f``, mapped over the devices.

        Args:
            f: a function that sums over :attr:`axis` the results that are replicated.
            shared: number of leading arguments that are replicated; the rest are split.
            result: sharding of the result: :data:`SHARED` or :data:`SPLIT`.
        """
        if self.mesh is None:
            return f
        mesh = self.mesh

        def run(*arguments: Any) -> Any:
            specs = (SHARED,) * shared + (SPLIT,) * (len(arguments) - shared)
            # Without check_vma, a gradient is that of the device's own part until it is summed explicitly;
            # batch norm's custom gradient (lcnas.models.ops) relies on that.
            mapped = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=result, check_vma=False)
            return mapped(*arguments)

        return run


def _global(array: NDArray[Any], sharding: Sharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def find(limit: int | None = None) -> Devices:
    """Return all devices, including those of other hosts, or the first ``limit``.

    Raises:
        TrainingError: there are fewer than ``limit`` devices, or JAX cannot use the platform that
            ``JAX_PLATFORMS`` names.
    """
    all_devices = _all()
    if limit is not None and not 1 <= limit <= len(all_devices):
        raise TrainingError(
            f"devices: {limit} is not among 1 to {len(all_devices)}, the devices here"
        )
    chosen = all_devices[:limit]
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
    """Join the processes that train together; call it in every process, before JAX is used.

    Args:
        coordinator: address and port of the first process, "10.0.0.1:1234".
        hosts: number of processes.
        host: index of this process, from 0.
    """
    if not 0 <= host < hosts:
        raise TrainingError(f"host: {host} is not among 0 to {hosts - 1}")
    name, _, port = coordinator.rpartition(":")
    if not name or not (port.isascii() and port.isdigit()):
        raise TrainingError(
            f"coordinator: {coordinator!r} is not ADDRESS:PORT, such as 10.0.0.1:1234"
        )
    try:
        jax.distributed.initialize(coordinator, hosts, host)
    except (RuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"coordinator: {coordinator}: {first}") from None


def any_host(flag: bool) -> bool:
    """Return whether the flag is set on any host; all hosts must call it at the same step."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
