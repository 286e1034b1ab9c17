"""CIFAR-10 from scratch with a small network.

python -m lcnas.train --arch pplcnet_32_0.5x --data cifar10:DIR --recipe cifar10 --out runs/cifar10

Cost: 30 epochs of 40,000 images at 32 pixels, 2 minutes per epoch on one core.
Outcome: 8 epochs were run; see docs/reference/recipes.md.
Source: the usual recipe for CIFAR (He et al. 2015, section 4.2: SGD with momentum, shifts by 4 pixels,
flips), with a cosine schedule instead of steps, Nesterov momentum and label smoothing.
"""

from lcnas.training.augment import Augment
from lcnas.training.recipes._recipe import Recipe

RECIPES = (
    Recipe(
        name="cifar10",
        resolution=32,
        epochs=30,
        batch=128,
        augment=Augment(crop="shift", pad=4, evaluate_crop=1.0),
        learning_rate=0.1,
        warmup_epochs=1,
        nesterov=True,
        weight_decay=5e-4,
        label_smoothing=0.1,
    ),
)
