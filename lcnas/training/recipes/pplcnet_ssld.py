r"""PP-LCNet on ImageNet from a teacher, by SSLD.

python -m lcnas.train --arch pplcnet_1.0x --data imagefolder:DIR --recipe pplcnet_ssld \
    --teacher resnet50_vd.onnx --out runs/ssld

Cost: 200 epochs (1.0x; 100 for 2.5x) of 1.28 million images at 224 pixels, each also
evaluated by the teacher. Not run here.
Outcome in the paper, top-1: 0.5x 66.10, 1.0x 74.39, 2.5x 80.82.
Source: SSLD (arXiv 2103.05959) and PaddleClas's configs
`ImageNet/Distillation/PPLCNet_x{1_0,2_5}_ssld.yaml`: a ResNet50_vd that was itself distilled, labels not
used, dropout off for 1.0x, decay 1e-5 (4e-5 for 2.5x), rate 0.4 at 1,024 images (0.2 for 2.5x). What
SSLD calls its JS divergence is, in the code, the mean of both KL divergences (`ppcls/loss/dmlloss.py`);
it is the same here. Images without labels can be added (`--unlabelled`).
"""

import dataclasses

from lcnas.training.augment import Augment
from lcnas.training.recipes._recipe import Recipe

_SMALL = Recipe(
    name="pplcnet_ssld",  # up to 1.0x
    resolution=224,
    epochs=200,
    batch=1024,
    augment=Augment(crop="resized", scale=(0.08, 1.0)),
    learning_rate=0.4,
    warmup_epochs=5,
    weight_decay=1e-5,
    distill="symmetric_kl",
    distill_weight=1.0,
    needs_teacher=True,
    dropout=0.0,
)
_LARGE = dataclasses.replace(
    _SMALL,
    name="pplcnet_ssld_2.5x",
    epochs=100,
    learning_rate=0.2,
    weight_decay=4e-5,
    dropout=None,
)

RECIPES = (_SMALL, _LARGE)
