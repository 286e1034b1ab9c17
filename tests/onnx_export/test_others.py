"""Files of other exporters: newer versions, external weights, other floats; read, or one line of error."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper, numpy_helper

from lcnas import onnx_export
from lcnas.errors import OnnxError, reason
from lcnas.onnx_export import Classifier, _others

from . import tiny

X = np.random.default_rng(0).normal(size=(3, 8, 6, 3)).astype(np.float32)


def classifier(nodes=None, kind=TensorProto.FLOAT, opset=17, ir=8, functions=(), constants=()):
    """Return the tiny classifier, of operators that have not changed for long, after the given nodes."""
    nodes = [*(nodes or [helper.make_node("Identity", ["x"], ["i"])])]
    nodes += [
        helper.make_node("GlobalAveragePool", ["i"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = {"w": tiny.WEIGHTS.astype(dtype), "b": tiny.BIAS.astype(dtype), **dict(constants)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 6])],
        [helper.make_tensor_value_info("y", kind, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=ir, functions=functions)
    helper.set_model_props(model, {"lcnas.class_names": '["a", "b", "c", "d"]'})
    return model


def versions(model):
    return model.ir_version, _others._opset(model)


# -- versions --------------------------------------------------------------------------------------

NEWEST = {"opset": defs.onnx_opset_version(), "ir": onnx.IR_VERSION}
CAST = [
    helper.make_node("Cast", ["x"], ["c"], to=TensorProto.DOUBLE),
    helper.make_node("Cast", ["c"], ["i"], to=TensorProto.FLOAT),
]
FUNCTION = helper.make_function(
    "own", "Same", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])],
    [helper.make_opsetid("", defs.onnx_opset_version())],
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "numbers alone": {},
    "operators that changed": {"nodes": CAST},
    "functions": {
        "nodes": [helper.make_node("Same", ["x"], ["i"], domain="own")],
        "functions": [FUNCTION],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_the_default_versions_of_onnx_are_read(kind, tmp_path):
    """onnx 1.23 writes IR 14 and opset 28; onnxruntime 1.24 takes 13 and 25."""
    model = classifier(**KINDS[kind], **NEWEST)
    data = model.SerializeToString()
    onnx.save(model, tmp_path / "new.onnx")
    for source in (tmp_path / "new.onnx", model, data):
        loaded = Classifier.of(source)
        np.testing.assert_allclose(loaded.logits(X), tiny.expected(X), atol=1e-5)
        assert loaded.interface.class_names == ("a", "b", "c", "d")
        ir, opset = versions(onnx_export.read(source))
        assert ir == min(onnx.IR_VERSION, _others.newest_ir())
        assert opset == min(defs.onnx_opset_version(), _others.newest_opset())
    assert model.SerializeToString() == data  # the caller's model is not changed


def test_versions_that_the_runtime_loads_are_kept(tmp_path):
    for ir, opset in ((3, 7), (8, 17), (10, 21), (_others.newest_ir(), _others.newest_opset())):
        model = classifier(ir=ir, opset=opset)
        assert onnx_export.read(model) is model


def test_the_newest_versions_are_those_that_the_runtime_loads():
    ir, opset = _others.newest_ir(), _others.newest_opset()
    assert 10 <= ir <= onnx.IR_VERSION
    assert 21 <= opset <= defs.onnx_opset_version()
    assert _others._loads(_others._probe(ir, opset))
    for newer in ((ir + 1, opset), (ir, opset + 1)):
        known = newer[0] <= onnx.IR_VERSION and newer[1] <= defs.onnx_opset_version()
        assert not (known and _others._loads(_others._probe(*newer)))


def test_an_operator_that_older_sets_lack_is_named(monkeypatch):
    monkeypatch.setattr(_others, "newest_opset", lambda: 25)
    node = helper.make_node("SwiGLU", ["x"], ["i"])
    with pytest.raises(OnnxError) as caught:
        onnx_export.read(classifier([node], **NEWEST))
    message = str(caught.value)
    assert f"is of opset {defs.onnx_opset_version()}; onnxruntime here takes up to 25" in message
    assert "it has no 'SwiGLU'. Export it again with opset 25 or below" in message
    assert "\n" not in message


@pytest.mark.parametrize("version", [{"ir": 99}, {"opset": 999}])
def test_unknown_versions(version):
    with pytest.raises(
        OnnxError, match=r"is of IR version \d+ and opset \d+; known here are"
    ) as caught:
        onnx_export.read(classifier(**version))
    assert f"up to {onnx.IR_VERSION} and {defs.onnx_opset_version()}" in str(caught.value)


def test_reasons_are_not_cut_off():
    """onnxruntime starts a message with a line of its own source."""
    place = "/onnxruntime/core/graph/model.cc:181 onnxruntime::Model::Model(onnx::ModelProto&&, const int&) "
    text = "Unsupported model IR version: 14, max supported IR version: 13\n"
    assert reason(ValueError(f"[ONNXRuntimeError] : 1 : FAIL : {place}{text}")) == repr(
        text.strip()
    )
    assert reason(ValueError("[ONNXRuntimeError] : 1 : FAIL : Fatal error")) == "'Fatal error'"
    assert reason(ValueError("")) == repr(repr(ValueError("")))
    assert reason(ValueError("a\nb")) == "'a'"


# -- external weights ------------------------------------------------------------------------------


def save_externally(folder, **settings):
    folder.mkdir(exist_ok=True)
    options: dict[str, Any] = {
        "save_as_external_data": True,
        "location": "w.bin",
        "size_threshold": 0,
    }
    onnx.save(classifier(**settings), folder / "net.onnx", **options)
    return folder / "net.onnx"


def test_weights_beside_a_classifier(tmp_path, monkeypatch):
    path = save_externally(tmp_path / "ours")
    (tmp_path / "w.bin").write_bytes(bytes(200))  # of the same name in the current folder
    monkeypatch.chdir(tmp_path)
    for source in (path, str(path), "ours/net.onnx"):
        np.testing.assert_allclose(Classifier.of(source).logits(X), tiny.expected(X), atol=1e-5)


def test_weights_that_are_missing_or_elsewhere(tmp_path, monkeypatch):
    path = save_externally(tmp_path / "ours")
    (path.parent / "w.bin").rename(tmp_path / "w.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OnnxError, match=r"net\.onnx: its weights .*: there is no 'w\.bin' beside it"
    ):
        Classifier.of(path)
    data = path.read_bytes().replace(b"w.bin", b"../w.")
    (tmp_path / "w.").write_bytes((tmp_path / "w.bin").read_bytes())
    path.write_bytes(data)
    with pytest.raises(
        OnnxError, match=r"net\.onnx: its weights .*: '\.\./w\.' is not in its folder"
    ):
        Classifier.of(path)


def test_newer_versions_with_weights_beside_them(tmp_path):
    path = save_externally(tmp_path / "ours", nodes=CAST, **NEWEST)
    np.testing.assert_allclose(Classifier.of(path).logits(X), tiny.expected(X), atol=1e-5)


# -- other floats ----------------------------------------------------------------------------------


def float64_classifier():
    """Return a classifier with float64 input, for which onnxruntime has few kernels."""
    model = classifier([helper.make_node("Cast", ["x"], ["i"], to=TensorProto.FLOAT)])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


@pytest.mark.parametrize(
    ("model", "dtype", "error"),
    [
        (classifier(kind=TensorProto.FLOAT16), "float16", 2e-2),
        (float64_classifier(), "float64", 1e-5),
    ],
)
def test_other_floats_are_cast(model, dtype, error):
    loaded = Classifier.of(model)
    assert loaded.interface.dtype == dtype
    logits = loaded.logits(X)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, tiny.expected(X), atol=error)
    np.testing.assert_array_equal(logits.argmax(axis=1), tiny.expected(X).argmax(axis=1))


def test_shares_in_half_precision_are_probabilities():
    """Their sums are further from 1 than those of float32; without a softmax node nothing else shows it."""
    model = classifier(kind=TensorProto.FLOAT16)
    nodes = [
        helper.make_node("Exp", ["y"], ["e"]),
        helper.make_node("ReduceSum", ["e", "second"], ["s"], keepdims=1),
        helper.make_node("Div", ["e", "s"], ["shares"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "second"))
    model.graph.output[0].name = "shares"
    loaded = Classifier.of(model)
    assert loaded.softmax
    expected = tiny.expected(X)
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loaded.logits(X), expected, atol=5e-2)
