"""Trained models as sources of an export, and the check that the file computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch, Resolution, height_width
from lcnas.errors import ExportError, reason
from lcnas.onnx_export._classifier import mlas_runner

Array = NDArray[np.float32]
TOLERANCE = 1e-4  # largest difference over largest logit
_IMAGES = 2  # of noise, if no images are given


class Model(Protocol):
    """A model that can be exported with its weights, such as those of :func:`lcnas.models.build`."""

    @property
    def arch(self) -> Arch:
        """The network."""

    @property
    def classes(self) -> int:
        """Number of outputs."""

    def weights(self) -> Mapping[str, Array]:
        """Return the weights, as listed by :func:`lcnas.onnx_export.names`."""

    def __call__(self, x: Array, /) -> Any:
        """Return logits (n, classes) for normalised images (n, height, width, 3), as in evaluation."""


def is_model(source: object) -> TypeGuard[Model]:
    """Return whether a source has weights of its own."""
    return callable(source) and all(hasattr(source, n) for n in ("arch", "classes", "weights"))


def check_agreement(
    data: bytes,
    model: Model,
    inputs: Array | None,
    resolution: Resolution,
    batch: int | None,
    tolerance: float,
) -> None:
    """Check that a file computes the same as the model.

    Raises:
        ExportError: inputs have another shape, logits are not finite, or the difference exceeds ``tolerance``
            times the largest logit.
    """
    x = _check_inputs(inputs, height_width(resolution))
    expected = np.asarray(model(x), np.float64)
    actual = _run_file(data, x, batch)
    if expected.shape != actual.shape:
        raise ExportError(f"the model gives {expected.shape}, its export {actual.shape}")
    largest = np.abs(expected).max()
    if not np.isfinite(expected).all() or largest == 0:
        raise ExportError("the model's logits are not finite, or all 0; there is nothing to check")
    difference = float(np.abs(actual - expected).max() / largest)
    if not difference <= tolerance:
        raise ExportError(
            f"the export differs from the model by {difference:.2g} of the largest logit, more than "
            f"{tolerance:g}; is the model in evaluation mode (model.eval()) and does it compute in float32?"
        )


def _check_inputs(inputs: Array | None, size: tuple[int, int]) -> Array:
    if inputs is None:
        shape = (_IMAGES, *size, 3)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    x = np.asarray(inputs)
    if x.ndim != 4 or x.shape[1:] != (*size, 3) or not len(x) or x.dtype != np.float32:
        raise ExportError(
            f"inputs: {x.dtype} {x.shape} is not float32 (n, {size[0]}, {size[1]}, 3) of at least one image"
        )
    return x


def _run_file(data: bytes, x: Array, batch: int | None) -> NDArray[np.float64]:
    """Return the outputs of an exported file for images (n, height, width, 3)."""
    run, batch_size = mlas_runner(data), batch or len(x)
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    # Full batches: the last one repeats the first images.
    order = np.arange(-(-len(x) // batch_size) * batch_size) % len(x)
    try:
        outputs = [run(images[order[i : i + batch_size]]) for i in range(0, len(order), batch_size)]
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        raise ExportError(f"onnxruntime does not run the export: {reason(error)}") from None
    return np.concatenate(outputs)[: len(x)].astype(np.float64)
