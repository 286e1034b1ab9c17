"""A classifier in an ONNX file, ours or anybody's, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import OnnxError, reason
from lcnas.onnx_export._file import NCHW, File, Interface, called, closed, interface, read

Array = NDArray[np.float32]
Run = Callable[[Array], NDArray[Any]]  # from the input, in the file's layout, to its first output
Start = Callable[[bytes, Interface], Run]  # from a file's bytes and what it is

_OPEN_BATCH = 32  # images at once where the file takes any number
_TINY = 1e-30  # probabilities below count as this: the logarithm of 0 is no logit


def start(model: bytes, threads: int = 1) -> Run:
    """Return what runs a model on onnxruntime's own CPU kernels (mlas).

    Raises:
        OnnxError: onnxruntime refuses the model, or another provider took it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is told by exceptions
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
    """A classifier of images, ready to run."""

    interface: Interface
    size: tuple[int, int]  # pixels of its input, (height, width)
    classes: int
    softmax: bool  # whether its outputs are probabilities
    run: Run

    @classmethod
    def of(
        cls, source: File, size: tuple[int, int] | None = None, begin: Start | None = None
    ) -> Classifier:
        """Return the classifier of a file.

        Layout and batch are found from the graph. Two noise images are run to see the outputs: their
        number is that of the classes, and where all are shares that sum to 1 they are taken as probabilities.

        Args:
            source: the file, its bytes, or the model.
            size: (height, width) in pixels where the file leaves them open.
            begin: what to run it with; None: onnxruntime's own kernels, one thread.

        Raises:
            OnnxError: not ONNX, not a classifier of colour images, or it does not run.
        """
        model, what = read(source), called(source)
        told = interface(model, what)
        size = told.preprocessing(size).size
        data = closed(model, size, what).SerializeToString(deterministic=True)
        run = start(data) if begin is None else begin(data, told)
        noise = np.random.default_rng(0).standard_normal((2, *size, 3), dtype=np.float32)
        outputs = _in_pieces(run, told, noise)
        classes = outputs.shape[1]
        slack = 1e-2 if told.dtype == "float16" else 1e-3
        sums = np.abs(outputs.sum(axis=1) - 1).max() < slack and outputs.min() >= 0
        return cls(told, size, classes, bool(told.softmax or sums), run)

    def logits(self, x: Array) -> Array:
        """Return the logits (n, classes), or what differs from them by a constant an image.

        Args:
            x: images (n, height, width, 3), normalised, of the classifier's size.

        Raises:
            OnnxError: images of another shape, or outputs that are not finite.
        """
        if x.ndim != 4 or x.shape[1:] != (*self.size, 3) or not len(x):
            raise OnnxError(
                f"{self.interface.what}: takes (n, {self.size[0]}, {self.size[1]}, 3), got {x.shape}"
            )
        outputs = _in_pieces(self.run, self.interface, x)
        if not np.isfinite(outputs).all():
            raise OnnxError(f"{self.interface.what}: gives values that are not finite")
        return np.log(np.maximum(outputs, _TINY)) if self.softmax else outputs


def _in_pieces(run: Run, told: Interface, x: Array) -> Array:
    """Return the outputs (n, classes) for images (n, height, width, 3), run at the file's batch."""
    if told.layout == NCHW:
        x = x.transpose(0, 3, 1, 2)
    size = told.batch or _OPEN_BATCH
    made = []
    for first in range(0, len(x), size):
        piece = x[first : first + size]
        missing = 0 if told.batch is None else size - len(piece)
        if missing:
            piece = np.concatenate([piece, np.zeros((missing, *x.shape[1:]), np.float32)])
        made.append(_rows(_ran(run, told, np.ascontiguousarray(piece)), len(piece), told))
        made[-1] = made[-1][: size - missing]
    return np.concatenate(made)


def _ran(run: Run, told: Interface, piece: Array) -> NDArray[Any]:
    try:
        return np.asarray(run(piece.astype(told.dtype, copy=False)))
    except OnnxError:
        raise
    except Exception as error:  # noqa: BLE001 - engines' exceptions have no base of their own
        raise OnnxError(f"{told.what}: does not run: {reason(error)}") from None


def _rows(outputs: NDArray[Any], images: int, told: Interface) -> Array:
    """Return outputs as (images, classes), or refuse what is something else."""
    shape = outputs.shape
    flat = len(shape) >= 2 and all(n == 1 for n in shape[2:])
    if not flat or shape[0] != images or shape[1] < 2:
        raise OnnxError(
            f"{told.what}: its first output is {shape} for {images} images; "
            "a classifier gives (images, classes), of at least 2 classes"
        )
    if outputs.dtype.kind != "f":
        raise OnnxError(f"{told.what}: its first output is {outputs.dtype}, not of floats")
    return np.asarray(outputs, np.float32).reshape(shape[:2])
