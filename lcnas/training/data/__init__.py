"""Data sets of labelled images: synthetic, CIFAR-10, folders of files, or arrays.

:func:`load` returns a :class:`Data` with three splits of distinct types. Training images are uint8, in an
order that depends on seed and epoch; :mod:`lcnas.training.augment` augments them on the device.

Examples:
    >>> data = load("synthetic:classes=8,train=100,test=16", size=32)
    >>> len(data.train), len(data.validation), len(data.test)
    (80, 20, 16)
    >>> batch = next(data.train.batches(16, seed=0, epoch=0))
    >>> batch.images.shape, batch.images.dtype.name, batch.labels.dtype.name
    ((16, 32, 32, 3), 'uint8', 'int32')
"""

from lcnas.training.data._cache import folder as cache_folder
from lcnas.training.data._data import Data
from lcnas.training.data._decode import CROP_ATTEMPTS, open_rgb
from lcnas.training.data._load import (
    KINDS,
    MAX_BAD,
    MEMORY_MB,
    PLACES,
    anywhere,
    load,
    own_size,
)
from lcnas.training.data._memory import Memory
from lcnas.training.data._order import TEST, VALIDATION
from lcnas.training.data._types import (
    IMAGENET,
    Batch,
    Normalization,
    Test,
    Train,
    Validation,
    require,
)

__all__ = [
    "load",
    "anywhere",
    "own_size",
    "Data",
    "Train",
    "Validation",
    "Test",
    "Memory",
    "cache_folder",
    "require",
    "Batch",
    "Normalization",
    "IMAGENET",
    "open_rgb",
    "CROP_ATTEMPTS",
    "KINDS",
    "MAX_BAD",
    "MEMORY_MB",
    "PLACES",
    "TEST",
    "VALIDATION",
]
