"""Networks in Flax: building them from an arch, and loading published weights.

from flax import nnx
from lcnas import models, zoo

model = models.build(zoo.load("pplcnet_0.5x"), classes=10, rngs=nnx.Rngs(0))
logits = model(images, rngs=nnx.Rngs(dropout=1))     # (batch, height, width, 3) -> (batch, 10)
model.eval()                                           # running statistics, no dropout
"""

from lcnas.models.loading import load_pretrained
from lcnas.models.network import Feature, Network, build, decays, weight_name

__all__ = ["Feature", "Network", "build", "decays", "load_pretrained", "weight_name"]
