"""No pair of 8-bit products overflows 16 bits; files in which one does get a warning."""

from __future__ import annotations

import platform

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcnas import blocks, onnx_export, zoo
from lcnas.arch import place

from . import capped, engines, tiny

VNNI = ("amx", "avx512bf16", "avx512fp16", "avx512vnni", "avxvnni", "avxvnniint8", "avxvnnicapped")
NONE = ("avx512", "avx512capped", "avx2", "avx", "sse42", "sse41", "x86_64", "amd64", "amd64-avx2")
ARM = ("neon", "dotprod", "sve", "aarch64", "arm64")


def test_which_instruction_sets_add_products_in_32_bits():
    assert all(onnx_export.has_vnni(isa) for isa in (*VNNI, *ARM))
    assert not any(onnx_export.has_vnni(isa) for isa in NONE)
    assert onnx_export.has_vnni("amd64-avx512vnni")


# -- exported files --------------------------------------------------------------------------------


def kernels(model):
    """Yield each int8 weight as (outputs, inputs of an output), read with NumPy alone."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        maker = makers.get(node.input[1]) if len(node.input) > 1 else None
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        weights = arrays.get(maker.input[0])
        if weights is None or weights.dtype != np.int8:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type in ("ConvTranspose", "MatMul") or (
            node.op_type == "Gemm" and not transposed
        ):
            weights = np.moveaxis(weights, 1, 0)
        yield weights.reshape(len(weights), -1).astype(np.int64)


def extremes(weights):
    """Return the largest and the smallest sum of two products, with each activation from 0 to 255."""
    two = np.sort(np.pad(weights, ((0, 0), (0, 2))), axis=1)
    return 255 * two[:, -2:].sum(axis=1).max(), 255 * two[:, :2].sum(axis=1).min()


def other_layers():
    """A file of another exporter: a grouped and a transposed convolution, a matrix product."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.normal(size=(8, 2, 3, 3)),
        "b1": rng.normal(size=8),
        "w2": rng.normal(size=(8, 6, 2, 2)),
        "w3": rng.normal(size=(6, 5)),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["a"], group=2),
        helper.make_node("ConvTranspose", ["a", "w2"], ["c"], strides=[2, 2]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w3"], ["output"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", TensorProto.FLOAT, ["n", 4, 8, 6])],
        [value("output", TensorProto.FLOAT, ["n", 5])],
        [
            numpy_helper.from_array(a if n == "axes" else a.astype(np.float32), n)
            for n, a in arrays.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def sources():
    """A network of ours and one of another exporter, each with calibration images."""
    rng = np.random.default_rng(0)
    ours = onnx_export.export(zoo.load("pplcnet_0.25x", resolution=32), classes=10, batch=None)
    images = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    return {"ours": (ours, images), "others": (other_layers(), images[:, :8, :6, :1].repeat(4, 3))}


@pytest.mark.parametrize("scheme", onnx_export.SCHEMES)
@pytest.mark.parametrize("source", ["ours", "others"])
def test_no_pair_of_products_overflows_16_bits(sources, source, scheme):
    model, images = sources[source]
    highest, lowest = {}, {}
    for weights in onnx_export.WEIGHTS:
        quantised = onnx_export.quantise(model, [images], scheme=scheme, weights=weights)
        sums = [extremes(kernel) for kernel in kernels(onnx.load_from_string(quantised))]
        assert len(sums) >= 3
        highest[weights] = max(high for high, _ in sums)
        lowest[weights] = min(low for _, low in sums)
    assert highest["7bit"] <= 32767
    assert lowest["7bit"] >= -32768
    assert highest["8bit"] > 32767  # the overflow in question
    assert lowest["8bit"] < -32768


# -- the cap ---------------------------------------------------------------------------------------


def one_convolution():
    """A 1x1 convolution with the largest weights, and inputs of 0 and 255: 7 and 8 bits hold it exactly."""
    placed = place(blocks.ConvNormAct(8, kernel=1, norm=False, act="identity"), (8, 8, 64))
    kernel = np.full((1, 1, 64, 8), 0.5, np.float32)
    kernel[..., 4:] = -0.5
    weights = {"0/kernel": kernel, "0/bias": np.arange(8, dtype=np.float32)}
    x = np.full((1, 64, 8, 8), 255, np.float32)
    x[:, :, 0, 0] = 0
    model = onnx_export.graph(placed, weights=weights)
    exact = 0.5 * x.sum(axis=1, keepdims=True) * np.array([1] * 4 + [-1] * 4).reshape(1, 8, 1, 1)
    return model, x, exact + np.arange(8).reshape(1, 8, 1, 1)


@pytest.mark.skipif(not engines.available("openvino"), reason="this onnxruntime has no openvino")
@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN is capped on x86-64 alone"
)
@pytest.mark.parametrize("scheme", onnx_export.SCHEMES)
def test_an_int8_file_is_correct_with_onednn_capped_to_avx2(tmp_path, scheme):
    """8 bits are off by half of the result there, so the cap works; 7 bits are exact."""
    model, x, exact = one_convolution()
    errors = {}
    for weights in onnx_export.WEIGHTS:
        path = tmp_path / f"{weights}.onnx"
        path.write_bytes(onnx_export.quantise(model, [x], scheme=scheme, weights=weights))
        errors[weights] = np.abs(capped.outputs(path, x, "AVX2") - exact).max()
        assert (onnx_export.int8_warning(path, "avx2") is None) == (weights == "7bit")
    step = 0 if scheme == "dense" else np.ptp(exact) / 255  # outputs are float32, or of 256 values
    assert errors["7bit"] < 0.51 * step + 0.05
    assert errors["8bit"] > 0.4 * exact.max()


# -- warnings --------------------------------------------------------------------------------------


def test_warnings_name_the_processor_and_the_solution(sources):
    model, images = sources["ours"]
    full = onnx_export.quantise(model, [images], weights="8bit")
    layers = sum(1 for _ in kernels(onnx.load_from_string(full)))
    for isa in NONE:
        text = onnx_export.int8_warning(full, isa)
        assert text is not None
        assert text.startswith(f"8-bit weights of the full range in {layers} of {layers} layers: ")
        assert f"without VNNI (here: {isa})" in text
        assert text.endswith("quantise it with 7-bit weights (-64 to 64)")
        assert "\n" not in text
    assert not any(onnx_export.int8_warning(full, isa) for isa in (*VNNI, *ARM))
    for fits in (model, onnx_export.quantise(model, [images])):
        assert not any(onnx_export.int8_warning(fits, isa) for isa in NONE)


def foreign(form, weights, activation=np.uint8, zero=None):
    """A linear layer in the forms of other exporters, with weights (12, 3)."""
    arrays = {
        "w": weights,
        "one": np.array(1, np.float32),
        "scale": np.array(0.01, np.float32),
        "zero": np.array(0, activation),
        "wzero": np.array(0 if zero is None else zero, weights.dtype),
        "float": weights.astype(np.float32) * np.float32(0.01),
        "turned": np.ascontiguousarray(weights.T),
    }
    node = helper.make_node
    quantised_input = [node("QuantizeLinear", ["x", "one", "zero"], ["q"])]
    quantised_input += [node("DequantizeLinear", ["q", "one", "zero"], ["d"])]
    dequantise = node("DequantizeLinear", ["w", "scale", "wzero"], ["v"])
    forms = {
        "qdq": [*quantised_input, dequantise, node("MatMul", ["d", "v"], ["y"])],
        "first": [*quantised_input, dequantise, node("MatMul", ["v", "d"], ["y"])],
        "weights alone": [dequantise, node("MatMul", ["x", "v"], ["y"])],
        "turned": [
            *quantised_input,
            node("DequantizeLinear", ["turned", "scale", "wzero"], ["v"]),
            node("Transpose", ["v"], ["t"], perm=[1, 0]),
            node("MatMul", ["d", "t"], ["y"]),
        ],
        "fake": [
            *quantised_input,
            node("QuantizeLinear", ["float", "scale", "wzero"], ["wq"]),
            node("DequantizeLinear", ["wq", "scale", "wzero"], ["v"]),
            node("Gemm", ["d", "v"], ["y"]),
        ],
        "constant": [
            *quantised_input,
            node("Constant", [], ["c"], value=numpy_helper.from_array(weights)),
            node("DequantizeLinear", ["c", "scale", "wzero"], ["v"]),
            node("MatMul", ["d", "v"], ["y"]),
        ],
        "dynamic": [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", ["q", "w", "z", "wzero"], ["y"]),
        ],
        "operator": [
            quantised_input[0],
            node(
                "QLinearMatMul",
                ["q", "one", "zero", "w", "scale", "wzero", "one", "zero"],
                ["y"],
            ),
        ],
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        forms[form],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 12])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def weights_up_to(largest):
    rng = np.random.default_rng(0)
    weights = rng.integers(-largest, largest + 1, (12, 3)).astype(np.int8)
    weights[3, 1] = -largest
    return weights


@pytest.mark.parametrize(
    "form", ["qdq", "first", "turned", "fake", "constant", "dynamic", "operator"]
)
def test_files_of_any_origin_are_checked_by_their_weights(form):
    for most in (63, 64):
        assert onnx_export.int8_warning(foreign(form, weights_up_to(most)), "avx2") is None
    for most in (65, 127):
        text = onnx_export.int8_warning(foreign(form, weights_up_to(most)), "avx2")
        assert text is not None
        assert "in 1 of 1 layers" in text


def test_signed_activations_overflow_too():
    """Kernels shift them to 0 to 255 first (measured: oneDNN's capped to AVX2, mlas emulated)."""
    full = foreign("qdq", weights_up_to(127), activation=np.int8)
    assert onnx_export.int8_warning(full, "avx2") is not None


def test_no_warning_where_products_are_not_added_in_16_bits():
    full = weights_up_to(127)
    wide = (full.astype(int) + 128).astype(np.uint8)  # unsigned weights: kernels widen both first
    for model in (
        foreign("weights alone", full),  # multiplied in float32
        foreign("qdq", full, activation=np.uint16),
        foreign("qdq", wide, zero=128),
        tiny.classifier(),
    ):
        assert onnx_export.int8_warning(model, "avx2") is None
