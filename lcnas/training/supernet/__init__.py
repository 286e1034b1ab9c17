"""Training of a supernet, and scores of its networks with its weights.

Each step trains the largest network on the labels, and the smallest and a few random ones on the outputs of
the largest for the same images: the sandwich rule and in-place distillation (Yu and Huang 2019, "Universally
Slimmable Networks and Improved Training Techniques", arXiv 1903.05134). The gradients are summed, as there.
Only the largest network has dropout (Yu et al. 2020, BigNAS, arXiv 2003.11142). The others may learn from the
labels as well, as in Once-for-all (Cai et al. 2020, arXiv 1908.09791).

Programs are compiled once per width bucket: the gradient of a network in it, its batch-norm statistics, its
predictions. A few integers, which are arguments of the program, describe each network.
"""

from lcnas import renamed
from lcnas.training.supernet.identity import (
    ABOUT,
    LABELS,
    VERSION,
    WEIGHTS,
    TrainedSupernet,
    check_weights,
    content_id,
    fingerprint,
)
from lcnas.training.supernet.loop import Draw, SupernetProgress, train
from lcnas.training.supernet.program import Array, SupernetProgram, Weights, build
from lcnas.training.supernet.scorer import BATCH, CALIBRATION, Score, Scorer

__all__ = [
    "train",
    "Scorer",
    "Score",
    "TrainedSupernet",
    "SupernetProgress",
    "SupernetProgram",
    "build",
    "check_weights",
    "content_id",
    "fingerprint",
    "Array",
    "Draw",
    "Weights",
    "ABOUT",
    "BATCH",
    "CALIBRATION",
    "LABELS",
    "VERSION",
    "WEIGHTS",
]

__getattr__ = renamed.in_module(
    __name__,
    {
        "Trained": "TrainedSupernet",
        "Moment": "SupernetProgress",
        "Program": "SupernetProgram",
    },
)
