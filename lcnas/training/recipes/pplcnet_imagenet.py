"""PP-LCNet on ImageNet, as in the paper.

python -m lcnas.train --arch pplcnet_1.0x --data imagefolder:DIR --recipe pplcnet_imagenet --out runs/1.0x
python -m lcnas.train --arch pplcnet_1.5x --data imagefolder:DIR --recipe pplcnet_imagenet_large ...
python -m lcnas.train --arch pplcnet_2.5x --data imagefolder:DIR --recipe pplcnet_imagenet_2.5x ...

Cost: 360 epochs of 1.28 million images at 224 pixels. Not run here.
Outcome in the paper, top-1: 0.25x 51.86, 0.35x 58.09, 0.5x 63.14, 0.75x 68.18, 1.0x 71.32, 1.5x 73.71,
2.0x 75.18, 2.5x 76.60. This recipe keeps 20 % of the training images for validation, so expect slightly less.
Source: PP-LCNet (arXiv 2109.15099), section 4.1, and PaddleClas's configs `ImageNet/PPLCNet/PPLCNet_x*.yaml`
(batch 4 x 512, rate 0.8, L2 3e-5, 4e-5 from 1.5x up, crops and flips; 2.5x with AutoAugment). RandAugment,
whose policy needs no search, replaces AutoAugment: two operations of magnitude 9.
"""

import dataclasses

from lcnas.training.augment import Augment
from lcnas.training.recipes._recipe import Recipe

_SMALL = Recipe(
    name="pplcnet_imagenet",  # 0.25x to 1.0x
    resolution=224,
    epochs=360,
    batch=2048,
    augment=Augment(crop="resized", scale=(0.08, 1.0)),
    learning_rate=0.8,
    warmup_epochs=5,
    weight_decay=3e-5,
    label_smoothing=0.1,
)
_LARGE = dataclasses.replace(_SMALL, name="pplcnet_imagenet_large", weight_decay=4e-5)  # 1.5x, 2.0x
_LARGEST = dataclasses.replace(
    _LARGE,
    name="pplcnet_imagenet_2.5x",
    augment=dataclasses.replace(_LARGE.augment, rand_augment=2),
)

RECIPES = (_SMALL, _LARGE, _LARGEST)
