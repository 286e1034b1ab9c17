"""Supernet: weights for all networks of a space, and what any of them computes."""

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
from lcnas.models import ops
from lcnas.models.supernet import _active, _buckets, _plan
from lcnas.models.supernet._active import Active
from lcnas.models.supernet._buckets import Widths
from lcnas.models.supernet._forward import BucketNetwork, Drop, Moments, Weights, forward
from lcnas.models.supernet._plan import Roles, SupernetPlan
from lcnas.spaces import Space

Array = jax.Array
Arrays = dict[str, NDArray[np.float32]]

_SAMPLE = 512  # networks that buckets are chosen for
_STATS = ("/mean", "/var")


@dataclass(frozen=True)
class Bucket:
    """A maximal network; what it holds runs in it."""

    number: int
    widths: Widths  # of the stem and of each stage
    shapes: Mapping[str, Shape] = field(compare=False, repr=False)  # of its weights, by name
    network: BucketNetwork = field(compare=False, repr=False)

    def holds(self, active: Active) -> bool:
        """Return whether a network fits."""
        return bool((np.asarray(active.widths) <= np.array(self.widths)).all())

    def of(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return its weights (or statistics) out of those of the whole supernet: the leading slices."""
        return {
            name: value[tuple(slice(n) for n in self.shapes[name])]
            for name, value in weights.items()
        }


@dataclass(frozen=True)
class Supernet:
    """The networks of a space in one set of weights; made by :meth:`of`.

    Weights are called as :func:`lcnas.onnx_export.names` calls those of the largest network, :attr:`arch`.
    Where some networks have the head's 1x1 convolution and others have not, there is a second linear layer,
    on the pooled map itself, ``head/direct``. A narrower network has the leading channels, a smaller kernel
    is the middle of the largest, a shallower stage has the first blocks.
    """

    plan: SupernetPlan
    classes: int
    resolution: Resolution  # of training and evaluation, pixels
    bucket_widths: tuple[Widths, ...]  # cheapest first; the last holds every network
    dropout: float | None = None  # rate; None: the head's own
    layout: str = field(default_factory=ops.default_layout)

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
            space: its networks; restricted, since all are trained at the cost of their bucket.
            classes: outputs.
            resolution: of training and evaluation, pixels; the space's own says what latency means.
            buckets: how many width buckets at most.
            sample: codes (n, genes) of networks such as will run, by which buckets are chosen; None: drawn
                uniformly over the space.
            dropout: rate in front of the last layer of the largest network; None: the head's own.

        Raises:
            ModelError: masks cannot run the space; names what they cannot.
        """
        if isinstance(buckets, bool) or not isinstance(buckets, int) or buckets < 1:
            raise ModelError(f"buckets: {shorten(buckets)} is not a whole number of at least 1")
        plan = _plan.plan_of(space)
        codes = space.sample_codes(_SAMPLE, np.random.default_rng(0)) if sample is None else sample
        drawn = [_active.active(plan, arch) for arch in space.decode(codes)]
        drawn += [_active.smallest(plan)] * max(1, len(drawn) // 2)  # one in three is, in training
        every = _active.stacked(drawn)
        widths = _buckets.choose(plan, buckets, every.widths, every.depths)
        size = check_resolution(resolution)
        return cls(plan, check_classes(classes), size, widths, dropout)

    # -- what there is --

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
        network = BucketNetwork(self.plan, widths, tuple(roles), ops.LAYOUTS[self.layout], rate)
        return Bucket(number, widths, shapes, network)

    @functools.cached_property
    def params(self) -> dict[str, Shape]:
        """Name -> shape of all that is trained."""
        return {n: s for n, s in self.buckets[-1].shapes.items() if not n.endswith(_STATS)}

    def active(self, arch: Arch) -> Active:
        """Return how a network lies in the supernet.

        Raises:
            ModelError: it does not; names the block and what it could be.
        """
        return _active.active(self.plan, arch)

    def largest(self) -> Active:
        """Return what is largest in each way."""
        return _active.largest(self.plan)

    def smallest(self) -> Active:
        """Return what is smallest in each way."""
        return _active.smallest(self.plan)

    def bucket_of(self, active: Active) -> Bucket:
        """Return the cheapest bucket that holds a network."""
        return next(bucket for bucket in self.buckets if bucket.holds(active))

    # -- weights --

    def init(self, seed: int) -> Arrays:
        """Return initial weights: those that :func:`lcnas.models.build` draws for the largest network."""
        model = models.build(self.arch, self.classes, nnx.Rngs(seed))
        weights = {n: np.array(w) for n, w in model.weights().items() if not n.endswith(_STATS)}
        rng = np.random.default_rng((seed, 1))
        for name, shape in self.params.items():
            if name not in weights:  # Glorot's, as of every linear layer (network.py)
                limit = (6 / sum(shape)) ** 0.5 if len(shape) > 1 else 0.0
                weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        return {name: weights[name] for name in self.params}

    def started(self, seed: int, published: Mapping[str, Any], arch: Arch) -> tuple[Arrays, str]:
        """Return initial weights with a published network's where they fit, and what was taken, in words.

        Each weight gets the largest leading part (of kernels the middle) that both have; all else is
        drawn. A last layer of other classes is not taken.

        Args:
            seed: of what is drawn.
            published: weights by the names of :func:`lcnas.onnx_export.names`, such as
                ``models.load_pretrained(path).weights()``.
            arch: the network that they are of.

        Raises:
            ModelError: the network has other stages than the space, or no weight fits.
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
        """Return a network's own weights, by the names of ``onnx_export.names(arch, classes)``.

        Args:
            weights: of the supernet, or of a bucket that holds the network.
            stats: its running statistics by the supernet's names, as wide or wider.
            arch: the network.
        """
        self.active(arch)
        shapes = onnx_export.names(arch, self.classes)
        both = {**weights, **stats}
        names_here = {theirs: name for name, theirs, _ in self._pairs(arch, self.classes)}
        return {name: _cropped(both[names_here[name]], shape) for name, shape in shapes.items()}

    def _pairs(self, arch: Arch, classes: int) -> list[tuple[str, str, str]]:
        """Return (name here, name in the network, role) of each of a network's weights."""
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
        """Return the roles here of each block of a network."""
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

        A pure function, to be traced; it maps over ``active`` (and ``stats``) by ``jax.vmap``.

        Args:
            weights: by name, of the whole supernet or of the bucket: it takes its slices.
            stats: means and variances by name; None: the batch's own, as in training.
            active: the network.
            images: (n, height, width, 3), float32, normalised.
            bucket: where it runs; None: the last, which holds every network.
            dropout: the key and whether it is on; None: off.
        """
        chosen = self.buckets[-1] if bucket is None else bucket
        known = None if stats is None else chosen.of(stats)
        return forward(chosen.network, chosen.of(weights), known, active, images, dropout)

    # -- plain data --

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON; the layout is the machine's affair and not in it."""
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
        """Return the supernet of such data.

        Raises:
            ModelError: it is none.
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
    """Return where in a weight of ``shape`` a smaller one lies: in the middle of a kernel, else in front."""
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
    """Write the part that both have into ours; return how many values that is."""
    common = tuple(min(a, b) for a, b in zip(ours.shape, theirs.shape, strict=True))
    ours[_inside(ours.shape, common)] = theirs[_inside(theirs.shape, common)]
    return int(np.prod(common))
