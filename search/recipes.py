"""Recipes of a search: of the evaluators' short trainings, and of the final trainings."""

from __future__ import annotations

from typing import Any

from lcnas.training import recipes
from lcnas.training.recipes import Recipe
from search.packed import PackedImages

# Presets by the kind of data: shifts keep small images whole, crops suit photographs.
_PRESETS = {"synthetic": "proxy", "cifar10": "cifar10", "imagefolder": "imagenette"}
_SMALL = 64  # pixels up to which images in arrays count as small
# Besides the preset's own batch; fewer than 16 images do not fill the processor's vectors.
_BATCHES = (64, 32, 16)
_STEPS = 400  # minimum steps of a training, if necessary by smaller batches
_SHORT = 2000  # steps below which dropout and an average of the weights hold a network back
_WARMUP = 0.1  # share of the epochs, at most


def search_recipe(images: PackedImages, epochs: int) -> Recipe:
    """Return the recipe of short trainings, for the evaluators ``train`` and ``supernet``.

    The kind of data selects a preset, which has the augmentation, the optimizer and the weight decay. The
    accuracy of a short training depends on its number of steps, so the batch is the largest with enough
    steps. The learning rate is the preset's all the same; it falls to 0 along half a cosine, after a warm-up
    of at most a tenth: no other rate or optimizer was better after 4 epochs, on 2 widths of PP-LCNet with
    3 seeds each (``results/short-recipes-synthetic.json``).

    In each step of a supernet the gradients of four networks are added. The learning rate is the same even
    so: of a half and three times as much, of clipping, and of AdamW none was better after 6 epochs
    (``docs/decisions.md``).

    Args:
        images: training images; their number, kind and size count.
        epochs: number of epochs.
    """
    return _recipe(images, epochs, "search")


def final_recipe(images: PackedImages, epochs: int) -> Recipe:
    """Return the recipe of finalists and baselines: that of the preset, if the training is long.

    Args:
        images: training images; their number, kind and size count.
        epochs: number of epochs.
    """
    return _recipe(images, epochs, "final")


def _recipe(images: PackedImages, epochs: int, what: str) -> Recipe:
    kind = images.spec.partition(":")[0]
    small = max(images.train_images.shape[1:3]) <= _SMALL
    preset = recipes.load(_PRESETS.get(kind, "cifar10" if small else "imagenette"))
    n = len(images.train_labels)
    batches = [b for b in (preset.batch, *_BATCHES) if b <= preset.batch]
    enough = [b for b in batches if epochs * (n // b) >= _STEPS]
    batch = min(max(enough, default=min(batches)), n)
    changes: dict[str, Any] = {
        "name": f"{what}-{preset.name}",
        "epochs": epochs,
        "batch": batch,
        "warmup_epochs": min(preset.warmup_epochs, _WARMUP * epochs),
        "evaluate_epochs": max(1, epochs // 10),
    }
    if epochs * (n // batch) < _SHORT:
        changes |= {"dropout": 0.0, "ema": 0.0}
    return preset.override(changes)
