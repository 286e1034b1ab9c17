"""Training: data, augmentation, recipes and the loop.

Names are imported on first access, so processes that only decode images and commands that only print
their help do not load JAX.

Example::

    from lcnas import training, zoo

    with training.load_data("cifar10:DIR") as data:
        arch = zoo.load("pplcnet_32_0.5x", 32)
        result = training.fit(arch, data, training.recipes.load("cifar10"), "runs/first")
    print(result.test)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcnas.training import recipes
    from lcnas.training.augment import Augment
    from lcnas.training.data import Data, Normalization
    from lcnas.training.data import load as load_data
    from lcnas.training.devices import Devices, join
    from lcnas.training.devices import find as find_devices
    from lcnas.training.evaluation import Scores, evaluate
    from lcnas.training.interrupts import Stopped
    from lcnas.training.loop import check, fit
    from lcnas.training.recipes import Recipe
    from lcnas.training.run import Result
    from lcnas.training.teachers import TeacherFile

__all__ = [
    "fit",
    "check",
    "evaluate",
    "load_data",
    "recipes",
    "Recipe",
    "Augment",
    "Data",
    "Normalization",
    "Result",
    "Scores",
    "Stopped",
    "TeacherFile",
    "Devices",
    "find_devices",
    "join",
]

_LOCATIONS = {
    "fit": "loop.fit",
    "check": "loop.check",
    "evaluate": "evaluation.evaluate",
    "load_data": "data.load",
    "recipes": "recipes",
    "Recipe": "recipes.Recipe",
    "Augment": "augment.Augment",
    "Data": "data.Data",
    "Normalization": "data.Normalization",
    "Result": "run.Result",
    "Scores": "evaluation.Scores",
    "Stopped": "interrupts.Stopped",
    "TeacherFile": "teachers.TeacherFile",
    "Devices": "devices.Devices",
    "find_devices": "devices.find",
    "join": "devices.join",
}


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LOCATIONS[name].partition(".")
    imported = importlib.import_module(f"{__name__}.{module}")
    return getattr(imported, attribute) if attribute else imported
