"""Published networks by name, one file per family, with sources and published figures.

Examples:
    >>> from lcnas import zoo
    >>> zoo.load("pplcnet_0.5x")
    Arch(pplcnet_0.5x ..., 224px, 15 blocks)
    >>> zoo.published("pplcnet_0.5x").top1
    63.14
"""

from __future__ import annotations

from lcnas.arch import Arch, Resolution
from lcnas.errors import ZooError
from lcnas.zoo import (
    efficientnet,
    fbnet,
    ghostnet,
    googlenet,
    hgnet_v2,
    mixnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    pplcnet,
    pplcnet_v2,
    resnet,
    shufflenet,
    vgg,
)
from lcnas.zoo._registry import (
    Family,
    Published,
    Reference,
    agrees,
    parse,
    printed_value,
    scale_text,
)

_MODULES = (
    pplcnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    efficientnet,
    mixnet,
    fbnet,
    shufflenet,
    ghostnet,
    pplcnet_v2,
    hgnet_v2,
    resnet,
    googlenet,
    vgg,
)
_FAMILIES: dict[str, Family] = {f.name: f for module in _MODULES for f in module.FAMILIES}


def names() -> tuple[str, ...]:
    """Return the names of all published networks, family by family."""
    return tuple(name for family in _FAMILIES.values() for name in family.names())


def families() -> tuple[Family, ...]:
    """Return the families, in the order of :func:`names`."""
    return tuple(_FAMILIES.values())


def load(name: str, resolution: Resolution | None = None) -> Arch:
    """Return a published network; a family with width scales has any scale.

    Args:
        name: such as "pplcnet_0.5x", "mobilenet_v3_large_0.35x" or "vgg16"; the default scale is 1.0.
        resolution: deployment resolution, pixels, a side or (height, width); None: the paper's.

    Raises:
        ZooError: unknown name; the message has the nearest one.

    Examples:
        >>> from lcnas import zoo
        >>> zoo.load("pplcnet_0.62x", resolution=128)
        Arch(pplcnet_0.62x 5c259866, 128px, 15 blocks)
    """
    family, scale = parse(name, _FAMILIES)
    arch = family.build(scale) if family.scales else family.build()
    full = f"{family.name}_{scale_text(scale)}x" if family.scales else family.name
    arch = arch.named(full)
    return arch if resolution is None else arch.at(resolution)


def published(name: str) -> Published:
    """Return the published figures of a network: ImageNet top-1, params, MACs, source and training.

    Raises:
        ZooError: unknown name, or nothing was published for that scale.

    Examples:
        >>> from lcnas import zoo
        >>> facts = zoo.published("pplcnet_0.5x")
        >>> facts.top1, facts.params
        (63.14, '1.9M')
    """
    family, scale = parse(name, _FAMILIES)
    if scale not in family.published:
        known = ", ".join(
            f"{family.name}_{scale_text(s)}x" if family.scales else family.name
            for s in family.published
        )
        raise ZooError(
            f"network: nothing was published of {name!r}; known of its family: {known or 'none'}"
        )
    return family.published[scale]


__all__ = [
    "Family",
    "Published",
    "Reference",
    "agrees",
    "families",
    "load",
    "names",
    "printed_value",
    "published",
]
