"""int8 files: which layers are quantised and how, and outputs that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcnas import blocks, onnx_export
from lcnas.arch import Arch, place
from lcnas.errors import EngineError, OnnxError
from lcnas.latency import machine, sources
from lcnas.models import pretrained
from lcnas.onnx_export import _quantise

from . import capped, engines, tiny

ARCH = Arch.of(
    {
        "stem": [blocks.ConvNormAct(8, stride=2, act="hard_swish")],
        "body": [
            blocks.DepthwiseSeparable(16, se=True, act="hard_swish"),
            blocks.DepthwiseSeparable(16, shortcut=True),
        ],
        "head": [blocks.Classifier(24, act="hard_swish")],
    },
    resolution=(16, 12),
)


def images(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 16, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def fp32():
    return onnx_export.export(
        ARCH,
        classes=5,
        batch=None,
        class_names=list("abcde"),
        normalization={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)},
    )


@pytest.fixture(scope="module")
def int8_models(fp32):
    """The int8 model of each scheme."""
    return {
        scheme: onnx.load_from_string(onnx_export.quantise(fp32, [images(32)], scheme=scheme))
        for scheme in onnx_export.SCHEMES
    }


@pytest.fixture(scope="module")
def int8(int8_models):
    return int8_models["dense"]


def makers(model):
    return {output: node for node in model.graph.node for output in node.output}


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("scheme", onnx_export.SCHEMES)
def test_an_int8_file_gives_nearly_the_same_and_not_the_same(fp32, int8_models, engine, scheme):
    if not engines.available(engine):
        pytest.skip(f"this onnxruntime has no {engine}")
    x = images(8, seed=1).transpose(0, 3, 1, 2)
    exact, rough = engines.run(fp32, x, engine), engines.run(int8_models[scheme], x, engine)
    error = np.abs(rough - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.15


def test_metadata_are_kept_and_record_the_calibration(fp32, int8):
    before, after = ({p.key: p.value for p in m.metadata_props} for m in (fp32, int8))
    added = {key: after[key] for key in after.keys() - before.keys()}
    assert before.items() <= after.items()
    assert added.pop("lcnas.precision") == "int8"
    assert json.loads(added.pop("lcnas.calibration")) == {
        "pictures": 32,
        "scheme": "dense",
        "ranges": "extremes",
        "weights": "7bit",
    }
    assert not added
    recorded = onnx_export.interface(int8)
    assert recorded.is_int8
    assert recorded.int8_weights == "7bit"
    assert onnx_export.interface(fp32).int8_weights is None
    assert recorded.class_names == tuple("abcde")


def test_equal_arguments_give_equal_bytes(fp32, int8):
    repeated = onnx_export.quantise(onnx_export.to_bytes(fp32), iter([images(32)]))
    assert repeated == onnx_export.to_bytes(int8)


@pytest.mark.parametrize("scheme", onnx_export.SCHEMES)
def test_which_convolutions_compute_in_integers(int8_models, scheme):
    """Dense ones with a scale per channel, depthwise ones in one scheme only, squeeze-and-excite never."""
    model = int8_models[scheme]
    source, weights = makers(model), arrays(model)
    floating = set()
    for conv in (n for n in model.graph.node if n.op_type == "Conv"):
        kernel = source.get(conv.input[1])
        if kernel is None:
            assert weights[conv.input[1]].dtype == np.float32
            floating.add(conv.name)
            continue
        quantised, scale, _ = (weights[i] for i in kernel.input)
        assert quantised.dtype == np.int8
        assert scale.shape == quantised.shape[:1]
        assert source[conv.input[0]].op_type == "DequantizeLinear"
    gates = {"body_block_1/1/reduce/Conv", "body_block_1/1/expand/Conv"}
    depthwise = {"body_block_1/0/Conv", "body_block_2/1/0/Conv"}
    assert floating == (gates | depthwise if scheme == "dense" else gates)


@pytest.mark.parametrize("scheme", onnx_export.SCHEMES)
def test_which_outputs_are_rounded(int8_models, scheme):
    """In "dense" the output of a convolution is float32; in "all" it has 256 values."""
    model = int8_models[scheme]
    source = makers(model)
    quantised = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    kinds = {source[name].op_type for name in quantised if name in source}
    assert ("Conv" in kinds) == (scheme == "all")


def test_logits_are_not_rounded(int8):
    last = makers(int8)[int8.graph.output[0].name]
    assert last.op_type == "Gemm"
    assert makers(int8)[last.input[1]].op_type == "DequantizeLinear"


def steep(act):
    """A 1x1 convolution that 7 bits hold exactly, with outputs far from 0, and images for it."""
    rng = np.random.default_rng(0)
    placed = place(blocks.ConvNormAct(8, kernel=1, norm=False, act=act), (16, 12, 3))
    kernel = rng.integers(-64, 65, (1, 1, 3, 8)).astype(np.float32)
    kernel[0, 0, 0] = 64
    weights = {"0/kernel": kernel / np.float32(500), "0/bias": np.zeros(8, np.float32)}
    x = rng.integers(0, 256, (16, 16, 12, 3)).astype(np.float32)
    return onnx_export.graph(placed, weights=weights, batch=None), x


def range_behind(model, op):
    """Return the range of the quantised values before an operation."""
    node = next(n for n in model.graph.node if n.op_type == op)
    dequantise = makers(model)[node.input[0]]
    weights = arrays(model)
    _, scale, zero = (weights.get(name) for name in dequantise.input)
    assert scale is not None
    assert zero is not None
    return float(-float(zero) * scale), float((255 - float(zero)) * scale)


@pytest.mark.parametrize(
    ("act", "op", "low", "high"),
    [("hard_swish", "HardSwish", -3, None), ("hard_sigmoid", "HardSigmoid", -3, 3)],
)
def test_ranges_end_where_activations_are_constant(act, op, low, high):
    fp32, x = steep(act)
    model = onnx.load_from_string(onnx_export.quantise(fp32, [x], scheme="all"))
    bottom, top = range_behind(model, op)
    exact = engines.run(fp32, x.transpose(0, 3, 1, 2))
    assert bottom == pytest.approx(low, abs=0.25)  # in whole steps, one of which is 0
    assert top == pytest.approx(exact.max() if high is None else high, abs=0.25)
    assert "Clip" not in [n.op_type for n in model.graph.node]
    # The remaining error is half a step of the convolution's output, times the steepest slope.
    slope = 1.5 if act == "hard_swish" else 1 / 6
    error = np.abs(engines.run(model, x.transpose(0, 3, 1, 2)) - exact).max()
    assert 0 < error < 1.01 * slope * (top - bottom) / 255 / 2


def test_other_activations_keep_their_range():
    fp32, x = steep("silu")
    model = onnx.load_from_string(onnx_export.quantise(fp32, [x], scheme="all"))
    assert range_behind(model, "Sigmoid")[0] < -10


def exact_layer(most=64):
    """A linear layer that 8 bits hold exactly: inputs are whole from 0 to 255, weights whole multiples of
    1 / ``most`` of the largest in their column."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-most, most + 1, (12, 3)).astype(np.float32)
    weights[0] = most
    weights *= np.array([1, 1 / 128, 16], np.float32)
    x = rng.integers(0, 256, (6, 12)).astype(np.float32)
    x[0], x[1] = 0, 255
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 12])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([5, 0, -32], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, x, x @ weights + np.array([5, 0, -32], np.float32)


@pytest.mark.parametrize(("weights", "most"), [("7bit", 64), ("8bit", 127)])
def test_weights_that_8_bits_hold_give_exact_outputs(weights, most):
    isa = machine.this_machine(capped=False).isa
    if weights == "8bit" and not onnx_export.has_vnni(isa):
        pytest.skip(f"this processor ({isa}) has no VNNI: products of 8-bit weights overflow")
    model, x, expected = exact_layer(most)
    int8 = onnx_export.quantise(model, [x], weights=weights)
    import onnxruntime

    session = onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-3)


def scales(data, name):
    model = onnx.load_from_string(data)
    return arrays(model)[f"{name}_scale"]


def test_ranges_are_of_all_images_or_the_mean_of_the_batches():
    """Values up to 1 in one batch and up to 3 in the other: extremes 3, mean 2."""
    model, x, _ = exact_layer()
    low, high = (x / np.float32(255), x * np.float32(3 / 255))
    extremes = scales(onnx_export.quantise(model, [low, high]), "x")
    mean = scales(onnx_export.quantise(model, [low, high], ranges="mean"), "x")
    assert float(extremes) == pytest.approx(3 / 255, rel=1e-5)
    assert float(mean) == pytest.approx(2 / 255, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 64),
        ({"weights": "7bit"}, 64),
        ({"weights": "8bit"}, 127),
        ({"reduce_range": True}, 64),
        ({"reduce_range": False}, 127),
    ],
)
def test_bits_of_the_weights(settings, most):
    model, x, _ = exact_layer()
    int8 = onnx.load_from_string(onnx_export.quantise(model, [x], **settings))
    assert np.abs(arrays(int8)["w_quantized"].astype(int)).max() == most
    calibration = {p.key: p.value for p in int8.metadata_props}["lcnas.calibration"]
    assert json.loads(calibration)["weights"] == {64: "7bit", 127: "8bit"}[most]


def test_bits_of_the_weights_are_given_once():
    model, x, _ = exact_layer()
    with pytest.raises(OnnxError, match="reduce_range: given beside weights '8bit'; give one"):
        onnx_export.quantise(model, [x], weights="8bit", reduce_range=False)


# -- biases ----------------------------------------------------------------------------------------


def layer(kind, rng):
    """A layer with weights that 7 bits do not hold, and whole inputs from 0 to 255."""
    x = rng.integers(0, 256, (32, 8, 5, 4) if kind != "Gemm" else (32, 8)).astype(np.float32)
    x[0], x[1] = 0, 255
    shapes = {"Conv": (6, 8, 1, 1), "grouped": (6, 4, 1, 1), "Gemm": (8, 6), "transposed": (6, 8)}
    weights = rng.normal(size=shapes[kind]).astype(np.float32)
    attributes: dict[str, Any] = {"grouped": {"group": 2}, "transposed": {"transB": 1}}.get(
        kind, {}
    )
    if kind == "transposed":
        x = x.mean(axis=(2, 3)).round()
    op = "Gemm" if x.ndim == 2 else "Conv"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["input", "w", "b"], ["output"], "layer", **attributes)],
        "g",
        [value("input", TensorProto.FLOAT, ["n", *x.shape[1:]])],
        [value("output", TensorProto.FLOAT, ["n", 6, *x.shape[2:]])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(rng.normal(size=6).astype(np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), x


@pytest.mark.parametrize("kind", ["Conv", "grouped", "Gemm", "transposed"])
def test_the_mean_of_each_output_is_kept_to_half_a_step_of_its_bias(kind):
    """Rounded weights shift it by many steps; the bias compensates for it."""
    model, x = layer(kind, np.random.default_rng(0))
    int8 = onnx.load_from_string(onnx_export.quantise(model, [x[:13], x[13:]]))
    axes = (0, *range(2, x.ndim))
    exact, rough = (engines.run(m, x).astype(np.float64).mean(axes) for m in (model, int8))
    bias = makers(int8)[int8.graph.node[-1].input[2]]
    step = arrays(int8)[bias.input[1]]
    node = int8.graph.node[-1]
    weight = makers(int8)[node.input[1]]
    quantised, scale = (arrays(int8)[name].astype(np.float64) for name in weight.input[:2])
    across = kind == "Gemm"
    shape = (1, -1) if across else (-1, *[1] * (quantised.ndim - 1))
    errors = quantised * scale.reshape(shape) - arrays(model)["w"]
    shifts = np.abs(errors.sum(axis=0 if across else tuple(range(1, errors.ndim)))) * x.mean()
    assert shifts.max() > 20 * step.max()  # otherwise this tests nothing
    np.testing.assert_array_less(np.abs(rough - exact), 0.51 * step + 1e-4)


def test_layers_without_a_bias_or_with_a_shared_one_are_quantised_too():
    model, x = layer("Conv", np.random.default_rng(0))
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.output[0] = "again", "other"
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "other"
    int8 = onnx.load_from_string(onnx_export.quantise(model, [x]))
    assert sum(n.op_type == "Conv" for n in int8.graph.node) == 2
    model, x = layer("Conv", np.random.default_rng(0))
    del model.graph.node[0].input[2]
    check_near(model, x)


def check_near(model, x):
    int8 = onnx.load_from_string(onnx_export.quantise(model, [x]))
    assert "QuantizeLinear" in [n.op_type for n in int8.graph.node]
    exact, rough = engines.run(model, x), engines.run(int8, x)
    assert np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()


def test_a_file_with_weights_in_constant_nodes():
    model, x = layer("Conv", np.random.default_rng(0))
    held = model.graph.initializer.pop(0)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], "held", value=held))
    check_near(model, x)


@pytest.mark.parametrize("batch", [1, 4, None])
def test_images_in_any_layout_and_number(batch):
    """The extremes do not depend on the batches; a batch that is not full is filled with its first images."""
    model = onnx_export.export(
        ARCH, classes=5, batch=batch, normalization={"mean": (0.5,) * 3, "std": (0.2,) * 3}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 12, 3), dtype=np.uint8)
    x = ((pixels / 255 - 0.5) / 0.2).astype(np.float32)
    # The same numbers as from uint8: normalised in one multiplication and one subtraction.
    x = onnx_export.Preprocessing((16, 12), (0.5,) * 3, (0.2,) * 3)(pixels)
    files = [
        onnx_export.quantise(model, batches)
        for batches in (
            [x],
            [x.transpose(0, 3, 1, 2)],
            [x[:3], x[3:]],
            [pixels],
            (x[i : i + 1] for i in range(7)),
        )
    ]
    assert all(file == files[0] for file in files)


def test_files_with_old_operators_and_no_names():
    model = tiny.copied(tiny.classifier())
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 11))
    int8 = onnx.load_from_string(
        onnx_export.quantise(
            model, [np.ones((2, 8, 6, 3), np.float32), np.zeros((1, 8, 6, 3), np.float32)]
        )
    )
    assert "QuantizeLinear" in [n.op_type for n in int8.graph.node]
    assert {o.domain: o.version for o in int8.opset_import}[""] >= 13


def test_console_and_log_stay_empty(fp32, capfd):
    import logging

    handlers = list(logging.root.handlers)
    onnx_export.quantise(fp32, [images(2)])
    assert capfd.readouterr() == ("", "")
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == 0


def interrupted() -> Iterator[np.ndarray]:
    yield images(2)
    raise KeyboardInterrupt


def test_an_interrupt_propagates_and_restores_logging(fp32):
    import logging

    with pytest.raises(KeyboardInterrupt):
        onnx_export.quantise(fp32, interrupted())
    assert logging.root.manager.disable == 0


@pytest.mark.parametrize(
    ("batches", "settings", "message"),
    [
        ([], {}, "calibration: there is no image"),
        ([images(2)[:0]], {}, r"calibration: float32 \(0, 16, 12, 3\) is neither"),
        (
            [images(2).astype(float)],
            {},
            r"calibration: float64 \(2, 16, 12, 3\) is neither float32 \(n, 3",
        ),
        ([np.zeros((2, 12, 16, 3), np.float32)], {}, r"float32 \(2, 12, 16, 3\) is neither"),
        ([np.zeros((2, 16, 12), np.float32)], {}, r"float32 \(2, 16, 12\) is neither"),
        (
            [images(2)],
            {"scheme": "al"},
            "scheme: 'al' is not among dense, all; did you mean 'all'",
        ),
        (
            [images(2)],
            {"weights": "7bits"},
            "weights: '7bits' is not among 7bit, 8bit; did you mean '7bit'",
        ),
        ([images(2)], {"ranges": "extreme"}, "ranges: 'extreme' is not among .*did you mean"),
    ],
)
def test_calibration_that_does_not_fit(fp32, batches, settings, message):
    with pytest.raises(OnnxError, match=message) as error:
        onnx_export.quantise(fp32, batches, **settings)
    assert "\n" not in str(error.value)


def test_whole_numbers_need_a_recorded_normalisation():
    with pytest.raises(OnnxError, match="does not record its normalisation"):
        onnx_export.quantise(tiny.classifier(), [tiny.constant(3)])


def test_models_that_cannot_be_quantised(int8, tmp_path):
    with pytest.raises(OnnxError, match="is quantised already"):
        onnx_export.quantise(int8, [images(1)])
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(OnnxError, match="is not an ONNX model"):
        onnx_export.quantise(tmp_path / "a.onnx", [images(1)])
    broken = tiny.copied(tiny.classifier())
    broken.graph.node[1].op_type = "Gemmm"
    with pytest.raises(OnnxError, match="cannot be quantised"):
        onnx_export.quantise(broken, [np.zeros((1, 8, 6, 3), np.float32)])


def test_latency_takes_an_int8_file_as_it_is(fp32, int8):
    data = onnx_export.to_bytes(int8)
    assert sources.quantized(data) == data
    assert onnx_export.is_quantised(onnx_export.read(sources.quantized(onnx_export.to_bytes(fp32))))
    with pytest.raises(EngineError, match="is not an ONNX model"):
        sources.quantized(b"no model")


def test_latency_is_of_what_is_exported(fp32):
    """The same nodes and weights; only the ranges, which do not affect latency, are of other inputs."""
    exported = onnx.load_from_string(onnx_export.quantise(fp32, [images(32)]))
    timed = onnx.load_from_string(sources.quantized(onnx_export.to_bytes(fp32)))
    kinds, weights = [], []
    for model in (exported, timed):
        kinds.append([(n.op_type, n.name, *n.input, *n.output) for n in model.graph.node])
        weights.append(
            {n: a for n, a in arrays(model).items() if a.dtype == np.int8 and a.ndim > 1}
        )
    assert kinds[0] == kinds[1]
    assert weights[0].keys() == weights[1].keys()
    assert weights[0]
    for name, values in weights[0].items():
        np.testing.assert_array_equal(values, weights[1][name])


# -- a trained network -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_line(shared_data):
    """A trained PP-LCNet 0.25x (is a line of text upright?), images, and their log-odds."""
    folder = shared_data / "weights" / "textline_ori"
    loaded = pretrained.read(folder / "inference.pdiparams")
    model = onnx_export.export(loaded.arch, weights=loaded.weights, classes=2, batch=None)
    with np.load(folder / "reference.npz") as reference:
        return model, reference["x"], reference["log_odds"]


def log_odds(model, x, engine="mlas"):
    logits = engines.run(model, x, engine)
    return logits[:, 0] - logits[:, 1]


def check_log_odds(actual, expected):
    """The four texts keep their predictions, with log-odds within 10 %; blends and noise are close."""
    error = np.abs(actual - expected)
    np.testing.assert_array_less(error[:4], 0.1 * np.abs(expected[:4]))
    np.testing.assert_array_equal(actual[:4] > 0, expected[:4] > 0)
    np.testing.assert_array_less(error, 0.05 * np.abs(expected) + 0.75)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_a_trained_network_keeps_its_predictions_with_dense_and_loses_them_with_all(
    text_line, engine
):
    """The reason for the default "dense". Calibrated on two of the images, tested on all."""
    if not engines.available(engine):
        pytest.skip(f"this onnxruntime has no {engine}")
    model, x, expected = text_line
    np.testing.assert_allclose(log_odds(model, x), expected, rtol=1e-3, atol=1e-3)
    int8_models = {
        scheme: onnx.load_from_string(onnx_export.quantise(model, [x[:2]], scheme=scheme))
        for scheme in onnx_export.SCHEMES
    }
    by_scheme = {
        scheme: log_odds(model_of_scheme, x, engine)
        for scheme, model_of_scheme in int8_models.items()
    }
    check_log_odds(by_scheme["dense"], expected)
    errors = {scheme: np.abs(values - expected).max() for scheme, values in by_scheme.items()}
    assert errors["all"] > 10 * errors["dense"]


def test_weights_of_7_bits_need_their_biases_corrected(text_line, monkeypatch):
    model, x, expected = text_line
    monkeypatch.setattr(_quantise, "correct", lambda *_: None)
    uncorrected = onnx.load_from_string(onnx_export.quantise(model, [x[:2]]))
    errors = np.abs(log_odds(uncorrected, x) - expected) / np.abs(expected)
    assert errors[:4].max() > 0.12


@pytest.mark.skipif(not engines.available("openvino"), reason="this onnxruntime has no openvino")
def test_a_trained_network_keeps_its_predictions_with_onednn_capped_to_avx2(text_line, tmp_path):
    model, x, expected = text_line
    (tmp_path / "int8.onnx").write_bytes(onnx_export.quantise(model, [x[:2]]))
    outputs = capped.outputs(tmp_path / "int8.onnx", x, "AVX2")
    check_log_odds(outputs[:, 0] - outputs[:, 1], expected)


def test_the_recorded_run_stays_within_a_point_of_fp32_on_every_engine(checkout):
    """results/int8-accuracy.json: the defaults, on a trained classifier and on the text-line network."""
    data = json.loads((checkout / "results" / "int8-accuracy.json").read_text())
    for entry in data["accuracy"]["found"]:
        assert entry["images"] == 10_000
        assert len(entry["accuracy"]) == 3
        for accuracy in entry["accuracy"].values():
            assert abs(accuracy["dense, extremes, 7bit"] - accuracy["fp32"]) < 0.01
    for errors in data["text-line"]["found"]["off"].values():
        assert errors["dense, extremes, 7bit"]["answers_kept"] == 4
        assert errors["dense, extremes, 7bit"]["relative"] < 0.1
