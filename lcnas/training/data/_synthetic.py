"""Synthetic images, whose classes depend on shape, texture and position together.

Each image shows a textured main shape and a small untextured disc beside, above or
below it, on a noisy gradient.
The class is the triple (shape, texture, place of the disc). Everything else is random: position, size, tilt,
colours, phase and period of the texture, gradient and noise. Shapes cover equal areas and textures equal
shares of them, so colours carry no information. Shape and disc are brighter than the ground: with either
sign, as in a first version, networks learned nothing for hundreds of steps. The mean image of a class thus
shows a little of the place of the disc, and no more. "Above", "below" and "beside" survive mirroring and most
crops.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.training.data import _order
from lcnas.training.data._decode import Shape
from lcnas.training.data._order import Indices
from lcnas.training.data._types import Batch, Images, Labels, View

VERSION = 2  # of the generator: changes with the images
_CHUNK_PIXELS = 1 << 15  # pixels per chunk, so that intermediate values stay in the CPU's cache

Floats = NDArray[np.floating[Any]]  # float32; Python scalars do not widen it


def _disc(u: Floats, v: Floats) -> Floats:
    return np.sqrt(u * u + v * v) - 1


def _square(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - math.sqrt(math.pi) / 2


def _triangle(u: Floats, v: Floats) -> Floats:
    inner = math.sqrt(math.pi / (3 * math.sqrt(3)))
    return np.maximum(math.sqrt(3) / 2 * np.abs(u) - 0.5 * v, v) - inner


def _cross(u: Floats, v: Floats) -> Floats:
    long = math.sqrt(9 * math.pi / 20)
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - long, np.minimum(a, b) - long / 3)


def _ring(u: Floats, v: Floats) -> Floats:
    outer = math.sqrt(4 / 3)
    r = np.sqrt(u * u + v * v)
    return np.maximum(r - outer, outer / 2 - r)


def _wave(x: Floats) -> Floats:
    """Return bars of period 1 between -1 and 1, their edges a little soft."""
    tooth = np.abs(x - np.floor(x) - 0.5) * 4 - 1
    bars: Floats = np.clip(3 * tooth, -1, 1)
    return bars


def _level(u: Floats, v: Floats, a: Floats, b: Floats) -> Floats:
    del u, a
    return _wave(v + b)


def _upright(u: Floats, v: Floats, a: Floats, b: Floats) -> Floats:
    del v, b
    return _wave(u + a)


def _checks(u: Floats, v: Floats, a: Floats, b: Floats) -> Floats:
    half = 0.5  # squares as wide as the bars of the other textures
    return _wave(half * u + a) * _wave(half * v + b)


def _rings(u: Floats, v: Floats, a: Floats, b: Floats) -> Floats:
    del b
    return _wave(np.sqrt(u * u + v * v) + a)


# Signed distances to the edge, negative inside, in units in which each shape covers pi; v points down.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": _disc,
    "triangle": _triangle,
    "square": _square,
    "cross": _cross,
    "ring": _ring,
}
TEXTURES: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "level": _level,
    "upright": _upright,
    "checked": _checks,
    "ringed": _rings,
}
PLACES = ("above", "below", "beside")
MOST_CLASSES = len(SHAPES) * len(TEXTURES) * len(PLACES)

# Numbers of shapes, textures and places in use: the first that have enough combinations.
_LEVELS = ((2, 2, 2), (3, 2, 2), (3, 3, 2), (3, 3, 3), (4, 3, 3), (4, 4, 3), (5, 4, 3))
_REACH = 2.6  # from the middle of the main shape to the far edge of the disc
_DISC = 0.4  # radius of the disc
_BULK = 1.6  # from the middle of the main shape to its farthest point


def triples(classes: int) -> NDArray[np.intp]:
    """Return shape, texture and place of each class, (classes, 3), all different, over all levels."""
    levels = next(counts for counts in _LEVELS if math.prod(counts) >= classes)
    total = math.prod(levels)
    step = next(s for s in range(int(0.6 * total), total) if math.gcd(s, total) == 1)
    return np.stack(np.unravel_index(np.arange(classes) * step % total, levels), axis=1)


def class_names(classes: int) -> tuple[str, ...]:
    """Return "level_disc_above" and so on."""
    shapes, textures = tuple(SHAPES), tuple(TEXTURES)
    return tuple(f"{textures[t]}_{shapes[s]}_{PLACES[p]}" for s, t, p in triples(classes))


_FIELDS = 20  # random numbers per image


@dataclass(frozen=True)
class ImageGenerator:
    """Generates the images of a data set; each depends on the seed, its index and its class only."""

    shape: Shape  # height, width in pixels
    classes: int
    seed: int

    def __call__(self, indices: Indices, labels: Labels) -> Images:
        """Return the images at some indices, (n, height, width, 3)."""
        out = np.empty((len(indices), *self.shape, 3), np.uint8)
        chunk = max(1, _CHUNK_PIXELS // (self.shape[0] * self.shape[1]))
        for i in range(0, len(indices), chunk):
            part = slice(i, i + chunk)
            out[part] = self._chunk(indices[part], triples(self.classes)[labels[part]])
        return out

    def _chunk(self, indices: Indices, triple: NDArray[np.intp]) -> Images:
        draws = _uniform(self.seed, indices, _FIELDS)
        radius = _between(draws[0], 0.16, 0.2)
        tilt = _between(draws[1], -0.2, 0.2)
        disc = _disc_at(triple[:, 2], draws[2])
        x = self._middle(disc[0], radius, draws[3], self.shape[1])
        y = self._middle(disc[1], radius, draws[4], self.shape[0])
        u, v = self._coordinates(x, y, radius, tilt)
        pixel = (1 / (min(self.shape) * radius))[:, None, None]  # in the units of u and v
        main = _cover(_grouped(SHAPES, triple[:, 0], u, v), pixel)
        pattern = self._pattern(triple[:, 1], u, v, draws[5:8])
        small = np.sqrt((u - disc[0][:, None, None]) ** 2 + (v - disc[1][:, None, None]) ** 2)
        cover = np.maximum(main, _cover(small - _DISC, pixel))
        return self._coloured(cover, main * pattern, draws[8:])

    def _coordinates(
        self, x: Floats, y: Floats, radius: Floats, tilt: Floats
    ) -> tuple[Floats, Floats]:
        """Return (u, v) of each pixel, (n, height, width): from the shape's middle, in its radii, tilted."""
        rows, columns = (
            (np.arange(side, dtype=np.float32) + 0.5) / min(self.shape) for side in self.shape
        )
        across = (columns[None, None, :] - x[:, None, None]) / radius[:, None, None]
        down = (rows[None, :, None] - y[:, None, None]) / radius[:, None, None]
        cos, sin = np.cos(tilt)[:, None, None], np.sin(tilt)[:, None, None]
        return across * cos + down * sin, down * cos - across * sin

    def _middle(self, offset: Floats, radius: Floats, draw: Floats, side: int) -> Floats:
        """Return the middle of the main shape along a side, in short sides of the image.

        It is uniform over the places with shape and disc inside; ``offset`` is the direction of the disc.
        """
        far = np.sign(offset)
        low = np.where(far < 0, _REACH, _BULK).astype(np.float32) * radius
        end = side / min(self.shape)
        high = end - np.where(far > 0, _REACH, _BULK).astype(np.float32) * radius
        return low + draw * (high - low)

    def _pattern(self, textures: NDArray[np.intp], u: Floats, v: Floats, draws: Floats) -> Floats:
        waves = (1 / _between(draws[0], 0.75, 0.95))[:, None, None]  # periods in radii
        a, b = draws[1][:, None, None], draws[2][:, None, None]
        return _grouped(TEXTURES, textures, u * waves, v * waves, a, b)

    def _coloured(self, cover: Floats, pattern: Floats, draws: Floats) -> Images:
        """Return cover (0: ground, 1: shape) and pattern (-1 to 1) in random colours, on a noisy gradient."""
        ground = self._ground(draws[6:10])
        contrast = _between(draws[0:3], 0.08, 0.25)
        texture = _between(draws[3:6], 0.1, 0.22)
        cover = cover * 2 - 1
        out = np.empty((*cover.shape, 3), np.uint8)
        for c in range(3):
            value = contrast[c][:, None, None] * cover
            value += texture[c][:, None, None] * pattern
            value += ground
            out[..., c] = np.clip(value * 255 + 128, 0.5, 255.5)
        return out

    def _ground(self, draws: Floats) -> Floats:
        """Return a gradient with noise around 0, (n, height, width)."""
        down, across = (np.linspace(-1, 1, side, dtype=np.float32) for side in self.shape)
        slopes = _between(draws[:2], -0.06, 0.06)[:, :, None, None]
        ground: Floats = slopes[0] * across + slopes[1] * down[:, None]
        tile = _noise(self.shape, self.seed)
        for image, (top, left) in zip(ground, (draws[2:] * _SPARE).astype(int).T, strict=True):
            image += tile[top : top + self.shape[0], left : left + self.shape[1]]
        return ground


_SPARE = 64  # offsets in each direction at which an image's noise may begin


@functools.lru_cache(maxsize=4)
def _noise(shape: Shape, seed: int) -> Floats:
    sides = [side + _SPARE for side in shape]
    values = np.random.default_rng((seed, *shape)).standard_normal(sides, np.float32)
    return values * 0.04


def _uniform(seed: int, indices: Indices, fields: int) -> Floats:
    """Return numbers from 0 to 1 that depend on seed, index and field only, (fields, n).

    The indices are counters that splitmix64 scrambles (Steele et al. 2014), so each can be computed alone.
    """
    (start,) = np.random.SeedSequence((seed, VERSION)).generate_state(1, np.uint64)
    counters = np.arange(fields, dtype=np.uint64)[:, None] + np.uint64(fields) * indices.astype(
        np.uint64
    )
    z = start + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    uniform: Floats = (z >> np.uint64(40)).astype(np.float32) / (1 << 24)
    return uniform


def _between(draw: Floats, low: float, high: float) -> Floats:
    return low + draw * (high - low)


def _disc_at(places: NDArray[np.intp], draw: Floats) -> tuple[Floats, Floats]:
    """Return (u, v) of the middle of the small disc, in radii; "beside" is left or right."""
    away = _REACH - _DISC
    side = np.where(draw < 0.5, -away, away)
    u = np.where(places == PLACES.index("beside"), side, 0)
    v = np.select([places == 0, places == 1], [-away, away], 0)
    return u.astype(np.float32), v.astype(np.float32)


def _cover(distance: Floats, pixel: Floats) -> Floats:
    """Return the share of a pixel inside, from the distance of its middle to the edge."""
    share: Floats = np.clip(0.5 - distance / pixel, 0, 1)
    return share


def _grouped(
    functions: dict[str, Callable[..., Floats]], which: NDArray[np.intp], *values: Floats
) -> Floats:
    """Return for each image the result of the function with its number, of its values."""
    out = np.empty_like(values[0])
    for i, function in enumerate(functions.values()):
        chosen = np.flatnonzero(which == i)
        if len(chosen):
            out[chosen] = function(*(value[chosen] for value in values))
    return out


@dataclass(eq=False)
class SyntheticImages:
    """A source of synthetic images, made on first access and kept in memory if they fit."""

    generator: ImageGenerator
    first: int  # index of the first image among all that the generator can make
    true_labels: Labels = field(repr=False)  # classes that the images show
    labels: Labels = field(repr=False)  # the same, or permuted for a control
    keep: bool
    cropped: bool = False

    def __post_init__(self) -> None:
        n = len(self.labels) if self.keep else 0
        # Takes no memory before it is written to.
        self._kept = np.empty((n, *self.generator.shape, 3), np.uint8)
        self._done = np.zeros(n, bool)

    def original(self, index: int) -> Images:
        """Return the pixels of an image."""
        pixels: Images = self.images(np.array([index]))[0]
        return pixels

    def read(self, plan: Sequence[Indices], view: View) -> Iterator[Batch]:
        """Yield a batch for each part of the plan."""
        del view
        for indices in plan:
            height, width = self.generator.shape
            aspect = np.full(len(indices), width / height, np.float32)
            yield Batch(self.images(indices), self.labels[indices], aspect > 0, aspect)

    def images(self, indices: Indices) -> Images:
        """Return the images at some indices."""
        if not self.keep:
            return self._make(indices)
        new = np.unique(indices[~self._done[indices]])
        self._kept[new] = self._make(new)
        self._done[new] = True
        return np.take(self._kept, indices, axis=0)

    def _make(self, indices: Indices) -> Images:
        return self.generator(indices + self.first, self.true_labels[indices])


def balanced_labels(n: int, classes: int, *entropy: int) -> Labels:
    """Return n labels in random order, each class equally often (to within one)."""
    return (_order.permutation(n, *entropy) % classes).astype(np.int32)
