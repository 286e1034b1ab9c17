"""A classifier in an ONNX file of any origin, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import OnnxError, reason
from lcnas.onnx_export._file import (
    NCHW,
    File,
    Interface,
    display_name,
    interface,
    read,
    with_fixed_shape,
)

Array = NDArray[np.float32]
ModelRunner = Callable[[Array], NDArray[Any]]  # input, in the file's layout -> first output
RunnerFactory = Callable[[bytes, Interface], ModelRunner]  # a file's bytes, its interface -> runner

_OPEN_BATCH = 32  # batch size of files that take any
_TINY = 1e-30  # lower bound of probabilities, so that their logarithm is finite


def mlas_runner(model: bytes, threads: int = 1) -> ModelRunner:
    """Return a function that runs a model on onnxruntime's own CPU kernels (mlas).

    Raises:
        OnnxError: onnxruntime refuses the model, or another provider runs it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        raise OnnxError(f"onnxruntime refuses the model: {reason(error)}") from None
    if session.get_providers()[0] != "CPUExecutionProvider":
        raise OnnxError(
            f"onnxruntime: {session.get_providers()} took the model, not its CPU kernels"
        )
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x})[0])


@dataclass(frozen=True)
class Classifier:
    """An image classifier, ready to run."""

    interface: Interface
    size: tuple[int, int]  # (height, width) of its input, pixels
    classes: int
    softmax: bool  # whether its outputs are probabilities
    run: ModelRunner

    @classmethod
    def of(
        cls, source: File, size: tuple[int, int] | None = None, begin: RunnerFactory | None = None
    ) -> Classifier:
        """Return the classifier of a file.

        Layout and batch follow from the graph. Two noise images are run: the number of outputs is the number
        of classes, and outputs that are not negative and sum to 1 are taken as probabilities.

        Args:
            source: the file, its bytes, or the model.
            size: (height, width) in pixels if the file leaves them open.
            begin: function that makes the runner; None: onnxruntime's own kernels with one thread.

        Raises:
            OnnxError: the file is not ONNX or not a classifier of colour images, or it does not run.
        """
        model, what = read(source), display_name(source)
        file_interface = interface(model, what)
        size = file_interface.preprocessing(size).size
        data = with_fixed_shape(model, size, what).SerializeToString(deterministic=True)
        run = mlas_runner(data) if begin is None else begin(data, file_interface)
        noise = np.random.default_rng(0).standard_normal((2, *size, 3), dtype=np.float32)
        outputs = _run_batches(run, file_interface, noise)
        classes = outputs.shape[1]
        tolerance = 1e-2 if file_interface.dtype == "float16" else 1e-3
        sums_to_one = np.abs(outputs.sum(axis=1) - 1).max() < tolerance and outputs.min() >= 0
        return cls(file_interface, size, classes, bool(file_interface.softmax or sums_to_one), run)

    def logits(self, x: Array) -> Array:
        """Return logits (n, classes), up to a constant for each image.

        Args:
            x: normalised images of the classifier's size, (n, height, width, 3).

        Raises:
            OnnxError: the images have another shape, or the outputs are not finite.
        """
        if x.ndim != 4 or x.shape[1:] != (*self.size, 3) or not len(x):
            raise OnnxError(
                f"{self.interface.what}: takes (n, {self.size[0]}, {self.size[1]}, 3), got {x.shape}"
            )
        outputs = _run_batches(self.run, self.interface, x)
        if not np.isfinite(outputs).all():
            raise OnnxError(f"{self.interface.what}: gives values that are not finite")
        return np.log(np.maximum(outputs, _TINY)) if self.softmax else outputs


def _run_batches(run: ModelRunner, file_interface: Interface, x: Array) -> Array:
    """Return the outputs (n, classes) for images (n, height, width, 3), run at the file's batch size."""
    if file_interface.layout == NCHW:
        x = x.transpose(0, 3, 1, 2)
    batch_size = file_interface.batch or _OPEN_BATCH
    outputs = []
    for first in range(0, len(x), batch_size):
        images = x[first : first + batch_size]
        missing = 0 if file_interface.batch is None else batch_size - len(images)
        if missing:
            images = np.concatenate([images, np.zeros((missing, *x.shape[1:]), np.float32)])
        batch = _run(run, file_interface, np.ascontiguousarray(images))
        outputs.append(_checked_outputs(batch, len(images), file_interface))
        outputs[-1] = outputs[-1][: batch_size - missing]
    return np.concatenate(outputs)


def _run(run: ModelRunner, file_interface: Interface, images: Array) -> NDArray[Any]:
    try:
        return np.asarray(run(images.astype(file_interface.dtype, copy=False)))
    except OnnxError:
        raise
    except Exception as error:  # noqa: BLE001 - engines' exceptions have no base of their own
        raise OnnxError(f"{file_interface.what}: does not run: {reason(error)}") from None


def _checked_outputs(outputs: NDArray[Any], images: int, file_interface: Interface) -> Array:
    """Return outputs as (images, classes), or raise an error if they have another shape."""
    shape = outputs.shape
    is_flat = len(shape) >= 2 and all(n == 1 for n in shape[2:])
    if not is_flat or shape[0] != images or shape[1] < 2:
        raise OnnxError(
            f"{file_interface.what}: its first output is {shape} for {images} images; "
            "a classifier gives (images, classes), of at least 2 classes"
        )
    if outputs.dtype.kind != "f":
        raise OnnxError(
            f"{file_interface.what}: its first output is {outputs.dtype}, not of floats"
        )
    return np.asarray(outputs, np.float32).reshape(shape[:2])
