"""Supernets: one set of weights for all networks of a space, which run in it with masks.

from lcnas import spaces
from lcnas.models.supernet import Supernet

space = spaces.load("pplcnet_tail", 64).restrict(stage5_width=[128, 256])
supernet = Supernet.of(space, classes=10, resolution=64)
weights = supernet.init(seed=0)
logits, moments = supernet.apply(weights, None, supernet.active(arch), images)
"""

from lcnas import renamed
from lcnas.models.supernet._active import Active, largest, smallest, stacked
from lcnas.models.supernet._forward import Drop
from lcnas.models.supernet._narrow import narrowed
from lcnas.models.supernet._plan import SupernetPlan, maskable, plan_of
from lcnas.models.supernet._supernet import Bucket, Supernet

__all__ = [
    "Active",
    "Bucket",
    "Drop",
    "Supernet",
    "SupernetPlan",
    "largest",
    "maskable",
    "narrowed",
    "plan_of",
    "smallest",
    "stacked",
]

__getattr__ = renamed.in_module(__name__, {"Plan": "SupernetPlan"})
