"""A space restricted to a network's widths; wider choices would cost time with every image."""

from __future__ import annotations

from typing import Any

from lcnas.arch import Arch
from lcnas.errors import ModelError, SpaceError, listing
from lcnas.models.supernet._plan import plan_of
from lcnas.spaces import Space


def narrowed(space: Space, arch: Arch) -> tuple[Space, str]:
    """Return the space's networks that are nowhere wider than ``arch``, and a note of excluded choices.

    Args:
        space: space whose networks masks can run.
        arch: has as many stages as the space; for example the largest PP-LCNet within a budget. Its last
            1x1 convolution is ignored.

    Raises:
        ModelError: masks cannot run the space, the stages differ in number, or no network is as narrow.

    Examples:
        >>> from lcnas import spaces, zoo
        >>> space, note = narrowed(spaces.load("pplcnet"), zoo.load("pplcnet_0.5x"))
        >>> note
        'scale: 0.75, 1.0, 1.5, 2.0, 2.5 left out'
    """
    plan = plan_of(space)
    names = (plan.stem.name, *(stage.name for stage in plan.stages))
    if len(arch.stages) != len(names) + 1:
        raise ModelError(
            f"{space.name} has {len(names) - 1} stages, {arch.name or arch} {len(arch.stages) - 2}"
        )
    most = tuple(stage.blocks[0].width for stage in arch.stages[:-1])  # type: ignore[attr-defined]
    kept: dict[str, Any] = {}
    for gene in space.genes:
        fits = [c for c in gene.choices if _fits(space, gene.name, c, names, most)]
        if not fits:
            raise ModelError(
                f"{space.name}: no choice of {gene.name} is as narrow as {arch.name or arch}"
            )
        if len(fits) < len(gene.choices):
            kept[gene.name] = fits
    if not kept:
        return space, ""
    out = {
        g.name: [c for c in g.choices if c not in kept.get(g.name, g.choices)] for g in space.genes
    }
    notes = [f"{name}: {listing(choices)} left out" for name, choices in out.items() if choices]
    return space.restrict(**kept), "; ".join(notes)


def _fits(
    space: Space, gene: str, choice: Any, names: tuple[str, ...], most: tuple[int, ...]
) -> bool:
    """Return whether a choice of one gene allows networks of at most these widths."""
    for name, width in zip(names, most, strict=True):
        if gene == f"{name}_width":
            return bool(choice <= width)
    if isinstance(choice, bool) or not isinstance(choice, int | float):
        return True
    if any(gene.startswith(f"{element}_") for element in space.elements):
        return True
    try:  # a network-wide number, such as a scale
        plan = plan_of(space.restrict(**{gene: [choice]}))
    except SpaceError:
        return False
    least = (plan.stem.widths[0], *(stage.widths[0] for stage in plan.stages))
    return all(a <= b for a, b in zip(least, most, strict=True))
