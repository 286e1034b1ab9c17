"""A long training with AdamW, which raises the accuracy of old networks by several points.

python -m lcnas.train --arch mobilenet_v1_1.0x --data imagefolder:DIR --recipe modern --out runs/modern

Cost: 3,600 epochs of 1.28 million images at 224 pixels as published; begin with a
tenth (`--epochs 360`). Not run here.
Outcome elsewhere, top-1: MobileNetV1 1.0x 75.4 in timm (`mobilenetv1_100.ra4_e3600_r224_in1k`) against
70.9 as published; MobileNetV4-conv-small 73.8 after 9,600 epochs (its authors) and after 2,400 (timm).
Source: R. Wightman, "MobileNet Baselines" (huggingface.co/blog/rwightman/mobilenet-baselines), which
takes the recipe of MobileNetV4-conv-small: AdamW with a first moment as short as 0.6, high dropout,
RandAugment, very many epochs. Our values are those that MobileNetV4's authors give (tensorflow/models,
`imagenet_mobilenetv4_conv_small_tpu.yaml`): rate 0.002 at 4,096 images, 5 epochs of warm-up, decay
0.01, label smoothing 0.1, dropout 0.3, an average with decay 0.9999. There each of two operations is
applied with probability 0.5, here one is applied always. timm's model cards point
to a list of their own values (the series `ra4_e3600`), which was not read.
"""

from lcnas.training.augment import Augment
from lcnas.training.recipes._recipe import Recipe

RECIPES = (
    Recipe(
        name="modern",
        resolution=224,
        epochs=3600,
        batch=4096,
        augment=Augment(crop="resized", scale=(0.08, 1.0), rand_augment=1),
        optimizer="adamw",
        learning_rate=0.002,
        warmup_epochs=5,
        beta1=0.6,
        epsilon=1e-6,
        weight_decay=0.01,
        label_smoothing=0.1,
        dropout=0.3,
        ema=0.9999,
    ),
)
