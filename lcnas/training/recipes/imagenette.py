"""Imagenette (ten classes of ImageNet) at 128 pixels from scratch.

python -m lcnas.train --arch pplcnet_0.5x --data imagefolder:DIR --recipe imagenette --out runs/imagenette

Cost: 40 epochs of about 7,600 images; at 96 pixels (``--resolution 96``) about 13 minutes on one core.
Outcome: run at 96 pixels; see docs/reference/recipes.md.
Source: our own, a short version of ImageNet's usual recipe: crops of at least 35 % of the area, as in
fast.ai's examples of this data set; stronger augmentation needs more epochs.
"""

from lcnas.training.augment import Augment
from lcnas.training.recipes._recipe import Recipe

RECIPES = (
    Recipe(
        name="imagenette",
        resolution=128,
        epochs=40,
        batch=64,
        augment=Augment(crop="resized", scale=(0.35, 1.0)),
        learning_rate=0.1,
        warmup_epochs=2,
        nesterov=True,
        weight_decay=1e-4,
        label_smoothing=0.1,
    ),
)
