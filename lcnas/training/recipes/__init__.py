"""Recipes: how a network is trained, as data. Each preset has a file with its command, cost and outcome.

Examples:
    >>> from lcnas.training import recipes
    >>> recipe = recipes.load("cifar10", epochs=5)
    >>> recipe.epochs, recipe.optimizer
    (5, 'sgd')
    >>> recipes.load("cifar10", epoch=5)
    Traceback (most recent call last):
    lcnas.errors.RecipeError: recipe: field: 'epoch' is not among name, ...; did you mean 'epochs'?
"""

from __future__ import annotations

from pathlib import Path

from lcnas.errors import RecipeError, not_among
from lcnas.training.recipes import (
    cifar10,
    imagenette,
    modern,
    pplcnet_imagenet,
    pplcnet_ssld,
    proxy,
)
from lcnas.training.recipes._recipe import Recipe, Setting, settings, values

__all__ = ["Recipe", "Setting", "load", "names", "settings", "values"]

_MODULES = (cifar10, imagenette, proxy, pplcnet_imagenet, pplcnet_ssld, modern)
_PRESETS: dict[str, Recipe] = {r.name: r for module in _MODULES for r in module.RECIPES}


def names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(_PRESETS)


def load(name: str | Path, /, **changes: object) -> Recipe:
    """Return a preset, or the recipe of a JSON file, with other values of some fields.

    Args:
        name: a name of :func:`names`, or the path of a ``.json`` file.
        changes: field -> value; ``**{"augment.mixup": 0.2}`` for fields of the augmentation.

    Raises:
        RecipeError: an unknown preset or field (with the nearest), or an invalid value.
    """
    text = str(name)
    if text.endswith(".json"):
        recipe = Recipe.load(text)
    elif text in _PRESETS:
        recipe = _PRESETS[text]
    else:
        raise RecipeError(not_among("recipe", text, names()))
    return recipe.override(changes)
