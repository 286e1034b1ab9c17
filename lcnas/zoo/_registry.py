"""How published networks are named, built and described."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal

from lcnas.arch import Arch
from lcnas.errors import ZooError, not_among, shorten

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_PRINTED = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)")


def printed_value(text: str) -> int:
    """Return the number of a printed figure: 4_200_000 for "4.2M"."""
    number, unit = _split(text)
    return int(Decimal(number) * _UNITS[unit])


def agrees(count: int, text: str) -> bool:
    """Return whether ``count``, rounded to the printed digits, equals the printed figure."""
    number, unit = _split(text)
    step = Decimal(1).scaleb(Decimal(number).as_tuple().exponent)  # type: ignore[arg-type]
    return (Decimal(count) / _UNITS[unit]).quantize(step, ROUND_HALF_UP) == Decimal(number)


def _split(text: str) -> tuple[str, str]:
    match = _PRINTED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a printed figure such as '4.2M'")
    return match[1], match[2]


@dataclass(frozen=True)
class Reference:
    """A well-known implementation with the same counts as the zoo's network, where the paper's differ."""

    name: str  # such as "torchvision 0.20, mobilenet_v2"
    params: int  # exact
    macs: int | None = None  # of the implementation or its documentation; within 1 %
    note: str = ""  # why the paper's figure differs, if known
    training: bool = (
        False  # params are those of training, with all branches, as cost.params(training=True)
    )


@dataclass(frozen=True)
class Published:
    """The published figures of a network trained on ImageNet at its own resolution.

    Figures are stored as printed ("4.2M"), so that their precision is known.
    """

    top1: float | None = None  # ImageNet-1k validation accuracy, %
    params: str = ""  # as printed; empty: not given
    macs: str = ""  # multiply-accumulates, as printed
    paddle_flops: str = ""  # by the counter of paddle.flops, as printed
    source: str = ""  # paper and table, or the implementation's documentation
    top1_source: str = ""  # source of the accuracy, if it is another
    data: str = "ImageNet-1k"  # training data
    distilled: bool = False  # trained with a teacher
    recipe: str = "the paper's"  # training recipe
    reference: Reference | None = field(default=None)


@dataclass(frozen=True)
class Family:
    """A published network, or one at several width scales.

    ``build`` takes the scale if ``scales`` is not empty, otherwise nothing. ``published`` is keyed by the
    scale, or by 1.0 for a network without scales.
    """

    name: str
    build: Callable[..., Arch]
    scales: tuple[float, ...] = ()  # the paper's; others can be built as well
    published: Mapping[float, Published] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Return the names of the published members."""
        if not self.scales:
            return (self.name,)
        return tuple(f"{self.name}_{scale_text(s)}x" for s in self.scales)


def scale_text(scale: float) -> str:
    """Return a scale as it is written in names: "0.5", "1.0"."""
    return f"{scale:.4f}".rstrip("0") + ("0" if float(scale).is_integer() else "")


_SCALED = re.compile(r"(.+)_([0-9]{1,2}(?:\.[0-9]{1,4})?)x")
MIN_SCALE, MAX_SCALE = 0.05, 16.0


def parse(name: object, families: Mapping[str, Family]) -> tuple[Family, float]:
    """Return the family and scale of a name such as "pplcnet_0.62x", "vgg16" or "mobilenet_v2".

    A family's name without a scale stands for 1.0.
    """
    every = [n for family in families.values() for n in family.names()]
    if not isinstance(name, str):
        raise ZooError(not_among("network", name, every))
    if name in families:
        return families[name], 1.0
    match = _SCALED.fullmatch(name)
    family = families.get(match[1]) if match else None
    if match is None or family is None:
        raise ZooError(not_among("network", name, every))
    if not family.scales:
        raise ZooError(f"network: {family.name} has no scales, got {shorten(name)}")
    scale = float(match[2])
    if not MIN_SCALE <= scale <= MAX_SCALE or not math.isfinite(scale):
        raise ZooError(
            f"network: the scale of {shorten(name)} is outside {MIN_SCALE} to {MAX_SCALE}"
        )
    return family, scale
