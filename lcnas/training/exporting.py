"""Export of trained weights: ONNX and safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from lcnas import models, onnx_export
from lcnas.arch import Arch
from lcnas.models import Network, pretrained
from lcnas.training import views
from lcnas.training.augment import Augment
from lcnas.training.data import Data
from lcnas.training.functional import Functional

Array = NDArray[np.float32]
_CHECKED = 8  # validation images on which a file must agree with the network


@dataclass(frozen=True)
class _TrainedNetwork:
    """A network with weights, as the export expects one: arch, classes, weights, and a call."""

    arch: Arch
    classes: int
    values: Mapping[str, Array]
    forward: Callable[[Mapping[str, Array], Array], Any]

    def weights(self) -> Mapping[str, Array]:
        return self.values

    def __call__(self, x: Array) -> Any:
        return self.forward(self.values, x)


def export(
    folder: Path, named: Mapping[str, Mapping[str, Array]], arch: Arch, data: Data, augment: Augment
) -> None:
    """Write ``NAME.onnx`` and ``NAME.safetensors`` for each set of weights.

    Each ONNX file is compared with the network on validation images before it is written.

    Args:
        folder: folder of the files.
        named: file name -> weights by name.
        arch: the network that all weights belong to.
        data: data of the training; the files record its class names and normalisation.
        augment: augmentation of the recipe; the files record its ``evaluate_crop``.

    Raises:
        ExportError: a file does not agree with its network, or cannot be written.
    """
    forward = _forward(arch, data.classes)
    images = _images(arch, data, augment)
    for name, weights in named.items():
        source = f"lcnas training, the {name} network on {data.spec.partition(':')[0]}"
        pretrained.save(
            folder / f"{name}.safetensors",
            arch,
            weights,
            class_names=data.class_names,
            normalization=data.normalization,
            source=source,
        )
        onnx_export.export(
            _TrainedNetwork(arch, data.classes, weights, forward),
            folder / f"{name}.onnx",
            batch=None,
            class_names=data.class_names,
            normalization=data.normalization,
            crop=augment.evaluate_crop,
            training_resolution=arch.resolution,
            inputs=images,
        )


def compiled(model: Network) -> onnx_export.Model:
    """Return a network in evaluation mode, compiled as a whole."""
    net = Functional.of(model)
    test = jax.jit(net.test)
    weights = model.weights()
    return _TrainedNetwork(model.arch, model.classes, weights, lambda w, x: test(*net.split(w), x))


def read(path: Path) -> tuple[onnx_export.Model, pretrained.Pretrained]:
    """Return the network of a file of weights, compiled in evaluation mode, and the file's contents."""
    loaded = pretrained.read(path)
    model = models.build(loaded.arch, loaded.classes)
    model.set_weights(loaded.weights)
    return compiled(model), loaded


def _forward(arch: Arch, classes: int) -> Callable[[Mapping[str, Array], Array], Any]:
    """Return the compiled network in float32, whatever precision it was trained in."""
    net = Functional.of(models.build(arch, classes))
    test = jax.jit(net.test)
    return lambda weights, x: test(*net.split(weights), x)


def _images(arch: Arch, data: Data, augment: Augment) -> Array:
    batch = next(data.validation.batches(_CHECKED))
    images, _, aspect = views.arrays(batch)
    view = views.testing(augment, arch, data.normalization)
    return np.asarray(jax.jit(view)(images, aspect))
