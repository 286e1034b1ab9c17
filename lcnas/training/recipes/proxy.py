"""A short training that distinguishes networks within minutes on two cores, for searches and first tries.

python -m lcnas.train --arch pplcnet_32_0.5x --data cifar10:DIR --recipe proxy --test none --out runs/proxy

Cost: 5 epochs of 40,000 images at 32 pixels. Not run here.
It ranks networks by how fast they learn; the order after a long training may differ.
Source: our own.
"""

from lcnas.training.augment import Augment
from lcnas.training.recipes._recipe import Recipe

RECIPES = (
    Recipe(
        name="proxy",
        resolution=32,
        epochs=5,
        batch=128,
        augment=Augment(crop="shift", pad=4, evaluate_crop=1.0),
        learning_rate=0.1,
        warmup_epochs=0.5,
        nesterov=True,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema=0.99,
    ),
)
