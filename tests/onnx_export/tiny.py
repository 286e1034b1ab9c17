"""Small classifiers with a closed form: the mean colour of an image, times a matrix."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lcnas import onnx_export
from lcnas.arch import Arch, walk

from . import reference

WEIGHTS = np.array([[3, -1, 0.5, 0], [0.25, 2, -1, 1], [-2, 0.5, 4, 1.5]], np.float32)  # (3, 4)
BIAS = np.array([0.1, -0.2, 0.3, 0], np.float32)


def expected(x):
    """Return the logits (n, 4) for (n, height, width, 3)."""
    return np.asarray(x, np.float64).mean(axis=(1, 2)) @ WEIGHTS + BIAS


def classifier(
    layout="NCHW", batch=1, size=(8, 6), end="logits", metadata=None, weights=WEIGHTS, bias=BIAS
):
    """Return the ONNX model; None in ``batch`` or ``size`` leaves them open.

    ``end``: "logits", "softmax", "late softmax" (followed by a reshape) or "shares" (a softmax of primitive
    operators).
    """
    height, width = size
    first = "n" if batch is None else batch
    sides = ["h" if height is None else height, "w" if width is None else width]
    shape = [first, 3, *sides] if layout == "NCHW" else [first, *sides, 3]
    nodes = [
        helper.make_node(
            "ReduceMean", ["x"], ["m"], axes=[2, 3] if layout == "NCHW" else [1, 2], keepdims=0
        ),
        helper.make_node("Gemm", ["m", "w", "b"], ["y"]),
        *ENDS[end],
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("x", TensorProto.FLOAT, shape)],
        [value(nodes[-1].output[0], TensorProto.FLOAT, [first, weights.shape[1]])],
        [
            numpy_helper.from_array(np.asarray(array, np.float32), name)
            for name, array in (("w", weights), ("b", bias))
        ]
        + [
            numpy_helper.from_array(np.array(values, np.int64), name)
            for name, values in (("shape", [0, -1]), ("second", [1]))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


ENDS = {
    "logits": [],
    "softmax": [helper.make_node("Softmax", ["y"], ["p"], axis=1)],
    "late softmax": [
        helper.make_node("Softmax", ["y"], ["q"], axis=1),
        helper.make_node("Reshape", ["q", "shape"], ["p"]),
    ],
    "shares": [
        helper.make_node("Exp", ["y"], ["e"]),
        helper.make_node("ReduceSum", ["e", "second"], ["s"], keepdims=1),
        helper.make_node("Div", ["e", "s"], ["p"]),
    ],
}


def recorded(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), names=None, **resize):
    """Return metadata in the format of `export`."""
    metadata = {"lcnas.normalization": json.dumps({"mean": mean, "std": std})}
    if resize:
        metadata["lcnas.resize"] = json.dumps(resize)
    if names:
        metadata["lcnas.class_names"] = json.dumps(names)
    return metadata


def constant(*colours, size=(8, 6)):
    """Return images of one colour each, (n, *size, 3) uint8."""
    return np.stack([np.full((*size, 3), c, np.uint8) for c in colours])


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


class Fake:
    """A trained model: an arch and weights, run by the NumPy reference."""

    def __init__(self, arch: Arch, classes: int = 5, seed: int = 0, factor: float = 1.0) -> None:
        self.arch = arch
        self.classes = classes
        self.factor = factor
        self._weights = onnx_export.init(arch, np.random.default_rng(seed), classes)
        self.calls: list[np.ndarray] = []

    def weights(self):
        return self._weights

    def __call__(self, x):
        self.calls.append(x)
        placed = walk(self.arch, x.shape[1:3], self.classes)
        names = onnx_export.block_names(self.arch)
        y = reference.run(placed, names, self._weights, x.transpose(0, 3, 1, 2))
        return (self.factor * y).astype(np.float32)
