"""Supernet: weights for all networks of a space, and their outputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from lcnas import models, onnx_export
from lcnas.arch import Arch, Resolution, check_classes, check_resolution
from lcnas.blocks import Classifier
from lcnas.errors import ModelError, shorten
from lcnas.layers import Shape
from lcnas.models import layouts
from lcnas.models.supernet import _active, _buckets, _plan
from lcnas.models.supernet._active import Active
from lcnas.models.supernet._buckets import Widths
from lcnas.models.supernet._forward import BucketNetwork, Drop, Moments, Weights, forward
from lcnas.models.supernet._plan import Roles, SupernetPlan
from lcnas.spaces import Space

Array = jax.Array
Arrays = dict[str, NDArray[np.float32]]

_SAMPLE = 512  # networks by which buckets are chosen
_STATS = ("/mean", "/var")


@dataclass(frozen=True)
class Bucket:
    """A maximal network, in which all networks that it holds can run."""

    number: int
    widths: Widths  # of the stem and of each stage
    shapes: Mapping[str, Shape] = field(compare=False, repr=False)  # of its weights, by name
    network: BucketNetwork = field(compare=False, repr=False)

    def holds(self, active: Active) -> bool:
        """Return whether the bucket holds a network."""
        return bool((np.asarray(active.widths) <= np.array(self.widths)).all())

    def of(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return the bucket's weights (or statistics): leading slices of the whole supernet's."""
        return {
            name: value[tuple(slice(n) for n in self.shapes[name])]
            for name, value in weights.items()
        }


@dataclass(frozen=True)
class Supernet:
    """The networks of a space in one set of weights; see :meth:`of`.

    Weights have the names of :func:`lcnas.onnx_export.names` for the largest network, :attr:`arch`.
    If some networks have the head's 1x1 convolution and others do not, there is a second linear layer,
    on the pooled map, ``head/direct``. A narrower network has the leading channels, a smaller kernel
    is the centre of the largest, a shallower stage has the first blocks.
    """

    plan: SupernetPlan
    classes: int
    resolution: Resolution  # of training and evaluation, pixels
    bucket_widths: tuple[Widths, ...]  # cheapest first; the last holds every network
    dropout: float | None = None  # rate; None: the head's own
    layout: str = field(default_factory=layouts.default_layout)

    @classmethod
    def of(
        cls,
        space: Space,
        classes: int,
        *,
        resolution: Resolution,
        buckets: int = 3,
        sample: ArrayLike | None = None,
        dropout: float | None = None,
    ) -> Supernet:
        """Return the supernet of a space.

        Args:
            space: the space, preferably restricted: every network costs as much as its bucket.
            classes: outputs of the last layer.
            resolution: of training and evaluation, pixels; the space's own is for latency.
            buckets: maximum number of width buckets.
            sample: codes (n, genes) of typical networks, by which buckets are chosen; None: sampled
                uniformly over the space.
            dropout: rate before the last layer of the largest network; None: the head's.

        Raises:
            ModelError: masks cannot run the space's networks; says why.
        """
        if isinstance(buckets, bool) or not isinstance(buckets, int) or buckets < 1:
            raise ModelError(f"buckets: {shorten(buckets)} is not a whole number of at least 1")
        plan = _plan.plan_of(space)
        codes = space.sample_codes(_SAMPLE, np.random.default_rng(0)) if sample is None else sample
        drawn = [_active.active(plan, arch) for arch in space.decode(codes)]
        drawn += [_active.smallest(plan)] * max(1, len(drawn) // 2)  # as in training: one in three
        every = _active.stacked(drawn)
        widths = _buckets.choose(plan, buckets, every.widths, every.depths)
        size = check_resolution(resolution)
        return cls(plan, check_classes(classes), size, widths, dropout)

    # -- contents --

    @functools.cached_property
    def arch(self) -> Arch:
        """The largest network; it need not be in the space."""
        return self.plan.arch(self.plan.widest, self.resolution)

    @functools.cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets, cheapest first; the last one holds every network."""
        return tuple(self._bucket(i, widths) for i, widths in enumerate(self.bucket_widths))

    def _bucket(self, number: int, widths: Widths) -> Bucket:
        arch = self.plan.arch(widths, self.resolution)
        shapes = dict(onnx_export.names(arch, self.classes))
        roles = list(_plan.roles(arch, self.classes))
        if self.plan.optional_conv:
            direct = f"{self.plan.head.name}/direct"
            roles[-1] = {**roles[-1], "direct": direct}
            shapes[f"{direct}/kernel"] = (widths[-1], self.classes)
            shapes[f"{direct}/bias"] = (self.classes,)
        head = self.plan.head.block
        assert isinstance(head, Classifier)
        own = head.dropout if head.width else 0.0
        rate = own if self.dropout is None else self.dropout
        network = BucketNetwork(self.plan, widths, tuple(roles), layouts.LAYOUTS[self.layout], rate)
        return Bucket(number, widths, shapes, network)

    @functools.cached_property
    def params(self) -> dict[str, Shape]:
        """Name -> shape of all trained weights."""
        return {n: s for n, s in self.buckets[-1].shapes.items() if not n.endswith(_STATS)}

    def active(self, arch: Arch) -> Active:
        """Return a network's choices in the supernet.

        Raises:
            ModelError: the network does not fit; names the block and the allowed values.
        """
        return _active.active(self.plan, arch)

    def largest(self) -> Active:
        """Return the largest choice everywhere; it need not be a network of the space."""
        return _active.largest(self.plan)

    def smallest(self) -> Active:
        """Return the smallest choice everywhere; it need not be a network of the space."""
        return _active.smallest(self.plan)

    def bucket_of(self, active: Active) -> Bucket:
        """Return the cheapest bucket that holds a network."""
        return next(bucket for bucket in self.buckets if bucket.holds(active))

    # -- weights --

    def init(self, seed: int) -> Arrays:
        """Return initial weights: those of :func:`lcnas.models.build` for the largest network."""
        model = models.build(self.arch, self.classes, nnx.Rngs(seed))
        weights = {n: np.array(w) for n, w in model.weights().items() if not n.endswith(_STATS)}
        rng = np.random.default_rng((seed, 1))
        for name, shape in self.params.items():
            if name not in weights:  # Glorot's, as for every linear layer (network.py)
                limit = (6 / sum(shape)) ** 0.5 if len(shape) > 1 else 0.0
                weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        return {name: weights[name] for name in self.params}

    def started(self, seed: int, published: Mapping[str, Any], arch: Arch) -> tuple[Arrays, str]:
        """Return initial weights, with a published network's where they fit, and a note of what was used.

        Each weight gets the largest leading part (of kernels the centre) that both have; the rest is
        random. A last layer for another number of classes is not used.

        Args:
            seed: seed of the random weights.
            published: weights by the names of :func:`lcnas.onnx_export.names`, such as
                ``models.load_pretrained(path).weights()``.
            arch: the published network.

        Raises:
            ModelError: the network's stages are not the space's, or no weight fits.
        """
        weights = self.init(seed)
        classes = _classes(published, arch)
        taken: dict[str, int] = {}  # name -> values
        for name, theirs, full in self._pairs(arch, classes):
            if theirs.endswith(_STATS) or ("linear" in full and classes != self.classes):
                continue
            taken[name] = _paste(weights[name], np.asarray(published[theirs], np.float32))
        if not taken:
            raise ModelError(f"init: {arch.name or arch} has no weight that fits the supernet")
        every = sum(w.size for w in weights.values())
        note = (
            f"{len(taken)} of {len(weights)} weights begin with those of {arch.name or arch.id[:8]}: "
            f"{sum(taken.values()):,} of {every:,} values"
        )
        return weights, note

    def cut(self, weights: Mapping[str, Any], stats: Mapping[str, Any], arch: Arch) -> Arrays:
        """Return a network's weights, by the names of ``onnx_export.names(arch, classes)``.

        Args:
            weights: weights of the supernet, or of a bucket that holds the network.
            stats: its running statistics, by the supernet's names, at least as wide.
            arch: the network.
        """
        self.active(arch)
        shapes = onnx_export.names(arch, self.classes)
        both = {**weights, **stats}
        names_here = {theirs: name for name, theirs, _ in self._pairs(arch, self.classes)}
        return {name: _cropped(both[names_here[name]], shape) for name, shape in shapes.items()}

    def _pairs(self, arch: Arch, classes: int) -> list[tuple[str, str, str]]:
        """Return (name in the supernet, name in the network, role) of each weight of a network."""
        places = self._places(arch)
        names = list(onnx_export.names(arch, classes))
        pairs = []
        for ours, theirs in zip(places, _plan.roles(arch, classes), strict=True):
            for role, start in theirs.items():
                direct = role == "linear" and "conv" not in theirs and "direct" in ours
                here = ours.get("direct" if direct else role)
                pairs += [
                    (f"{here}{name.removeprefix(start)}", name, role)
                    for name in names
                    if name.startswith(f"{start}/") and here is not None
                ]
        return pairs

    def _places(self, arch: Arch) -> list[Roles]:
        """Return the supernet's roles of each block of a network."""
        roles, places = list(self.buckets[-1].network.roles), []
        if len(arch.stages) != len(self.plan.stages) + 2:
            raise ModelError(f"supernet: {arch.name or arch} has not the stages of the space")
        places.append(roles.pop(0))
        for stage, arch_stage in zip(self.plan.stages, arch.stages[1:-1], strict=True):
            here = [roles.pop(0) for _ in stage.places]
            if len(arch_stage.blocks) > len(here):
                raise ModelError(
                    f"supernet: {arch.name or arch} has {len(arch_stage.blocks)} blocks in {stage.name}, "
                    f"the space {len(here)} at most"
                )
            places += here[: len(arch_stage.blocks)]
        return [*places, roles.pop(0)]

    # -- computing --

    def apply(
        self,
        weights: Weights,
        stats: Weights | None,
        active: Active,
        images: Array,
        *,
        bucket: Bucket | None = None,
        dropout: Drop | None = None,
    ) -> tuple[Array, Moments]:
        """Return a network's logits (n, classes), and the mean and variance of each batch norm.

        A pure function for tracing; ``jax.vmap`` can map it over ``active`` (and ``stats``).

        Args:
            weights: by name, of the whole supernet or of the bucket, which uses its slices.
            stats: means and variances by name; None: the batch's, as in training.
            active: the network to run.
            images: (n, height, width, 3), float32, normalised.
            bucket: bucket to run in; None: the last one, which holds every network.
            dropout: key and whether it is on; None: off.
        """
        chosen = self.buckets[-1] if bucket is None else bucket
        known = None if stats is None else chosen.of(stats)
        return forward(chosen.network, chosen.of(weights), known, active, images, dropout)

    # -- serialisation --

    def to_data(self) -> dict[str, Any]:
        """Return a dict for JSON, without the layout, which depends on the machine."""
        resolution = self.resolution
        return {
            "plan": self.plan.to_data(),
            "classes": self.classes,
            "resolution": list(resolution) if isinstance(resolution, tuple) else resolution,
            "bucket_widths": [list(widths) for widths in self.bucket_widths],
            "dropout": self.dropout,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Supernet:
        """Return the supernet of a dict from :meth:`to_data`.

        Raises:
            ModelError: it is not one.
        """
        try:
            widths = tuple(tuple(w) for w in data["bucket_widths"])
            size = check_resolution(data["resolution"])
            return cls(
                SupernetPlan.from_data(data["plan"]), data["classes"], size, widths, data["dropout"]
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"supernet: no supernet: {shorten(str(error))}") from None


def _classes(weights: Mapping[str, Any], arch: Arch) -> int:
    start = _plan.roles(arch, 2)[-1].get("linear")
    name = f"{start}/bias"
    if start is None or name not in weights:
        raise ModelError(f"init: {arch.name or arch} does not end in a linear layer")
    return int(weights[name].shape[0])


def _inside(shape: Shape, inner: Shape) -> tuple[slice, ...]:
    """Return the slices of a smaller weight in one of ``shape``: central of a kernel, leading otherwise."""
    slices = [slice(n) for n in inner]
    if len(shape) == 4:
        for axis in (0, 1):
            start = (shape[axis] - inner[axis]) // 2
            slices[axis] = slice(start, start + inner[axis])
    return tuple(slices)


def _cropped(weight: Any, shape: Shape) -> NDArray[np.float32]:
    array = np.asarray(weight, np.float32)
    return np.ascontiguousarray(array[_inside(array.shape, shape)])


def _paste(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> int:
    """Write the part that both have into ours; return its number of values."""
    common = tuple(min(a, b) for a, b in zip(ours.shape, theirs.shape, strict=True))
    ours[_inside(ours.shape, common)] = theirs[_inside(theirs.shape, common)]
    return int(np.prod(common))
