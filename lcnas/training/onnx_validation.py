"""Accuracy of an ONNX graph on a split in memory, over the arrays that training validates on.

Exported files are tested over their original images instead: :mod:`lcnas.training.deployed`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution
from lcnas.errors import TrainingFailedError

if TYPE_CHECKING:
    from lcnas.onnx_export import Classifier
    from lcnas.training.augment import Augment
    from lcnas.training.data import Normalization, Test, Validation
    from lcnas.training.job import TrainingJob
    from lcnas.training.step import State

_BATCH = 256  # images at once


def check_size(arch: Arch, size: Resolution, classes: int) -> None:
    """Refuse a network that cannot be trained at another resolution than its own.

    Raises:
        TrainingFailedError: its weights have other shapes there.
    """
    from lcnas import onnx_export

    if onnx_export.names(arch.at(size), classes) != onnx_export.names(arch, classes):
        raise TrainingFailedError(
            f"its head does not pool, so it cannot be trained at {size} instead of {arch.resolution} pixels"
        )


def state_accuracy(job: TrainingJob, state: State) -> float:
    """Return the validation accuracy of a training state, 0 to 1, with its network as an ONNX graph.

    onnxruntime compiles nothing, whereas XLA would compile a program for each network.
    """
    import jax

    from lcnas import onnx_export

    params, stats = job.program.tested(state)
    trained = {**jax.device_get(params), **jax.device_get(stats)}
    arch, classes = job.identity.arch, job.identity.classes
    names = onnx_export.names(arch, classes)
    weights = {name: np.ascontiguousarray(trained[name]) for name in names}
    model = onnx_export.export(arch, weights=weights, classes=classes, batch=None, check=False)
    view = (job.recipe.augment, job.data.normalization)
    return float(correct(onnx_export.Classifier.of(model), *view, job.data.validation).mean())


def correct(
    classifier: Classifier,
    augment: Augment,
    normalization: Normalization,
    split: Validation | Test,
) -> NDArray[np.bool_]:
    """Return which images of a split a classifier classifies correctly, in order, (n,).

    It sees what :mod:`lcnas.training.evaluation` would show it; the first of equal logits counts.

    Args:
        classifier: an ONNX file.
        augment: decides how much of an image is visible.
        normalization: normalisation of the set that it was trained on.
        split: the validation or the test images.
    """
    parts = [np.zeros(0, bool)]
    for x, labels in views(classifier, augment, normalization, split):
        parts.append(classifier.logits(x).argmax(axis=1) == labels)
    return np.concatenate(parts)


def views(
    classifier: Classifier, augment: Augment, normalization: Normalization, split: Validation | Test
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Yield batches of a split as :func:`correct` shows them, normalised, with their labels.

    Args:
        classifier: its resolution counts.
        augment, normalization, split: as in :func:`correct`.
    """
    view = _view(augment.evaluate_crop, classifier.size, normalization)
    for batch in split.batches(_BATCH):
        x = np.asarray(view(batch.images, batch.aspect))
        yield x[batch.mask], batch.labels[batch.mask]


@functools.lru_cache(maxsize=4)
def _view(crop: float, size: tuple[int, int], normalization: Normalization) -> Callable[..., Any]:
    """Return the compiled preprocessing, one for all networks."""
    import jax

    from lcnas.training.augment import Augment

    augment = Augment(evaluate_crop=crop)
    return jax.jit(
        lambda images, aspect: augment.evaluate(
            images, size=size, normalization=normalization, aspect=aspect
        )
    )
