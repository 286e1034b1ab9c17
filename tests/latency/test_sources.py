"""Sources of models: ONNX files with weights in other files, and files that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcnas.errors import EngineError
from lcnas.latency import engines, sources
from lcnas.onnx_export import _others

HERE = [
    name
    for name in ("openvino", "mlas")
    if not (name == "openvino" and engines.default() != "openvino")
]
MLAS = engines.engine("mlas")
X = np.arange(8, dtype=np.float32).reshape(1, 8)


def saved(model: onnx.ModelProto, path: Path, **options: Any) -> Path:
    onnx.save(model, path, **options)
    return path


def model_of(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], out: int = 8
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", TensorProto.FLOAT, [1, 8])],
        [value("output", TensorProto.FLOAT, [1, out])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scaled(factor: float, path: Path) -> Path:
    """Write a model that multiplies by a constant, which is in scale.bin beside it."""
    path.parent.mkdir(exist_ok=True)
    model = model_of(
        [helper.make_node("Mul", ["input", "scale"], ["output"])],
        {"scale": np.full((1, 8), factor, dtype=np.float32)},
    )
    return saved(model, path, save_as_external_data=True, location="scale.bin", size_threshold=0)


@pytest.mark.parametrize("name", HERE)
def test_weights_in_other_files_are_those_beside_the_model(name, tmp_path, monkeypatch):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    others = scaled(5.0, tmp_path / "others" / "net.onnx")
    monkeypatch.chdir(others.parent)  # where a file of the same name lies
    engine = engines.engine(name)
    assert np.allclose(sources.open_fresh(ours, engine).outputs(X), 3 * X)
    assert np.allclose(sources.open_fresh(Path("net.onnx"), engine).outputs(X), 5 * X)


def test_weights_that_are_not_beside_the_model_are_not_read_from_elsewhere(tmp_path, monkeypatch):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    (ours.parent / "scale.bin").rename(tmp_path / "scale.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"net\.onnx: its weights in other files") as caught:
        sources.open_fresh(ours, MLAS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["../scale.bin", "/etc/hostname", "inner/../../scale.bin", ""])
def test_weights_outside_of_the_models_folder_are_refused(place, tmp_path):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    (ours.parent / "scale.bin").rename(tmp_path / "scale.bin")
    (ours.parent / "inner").mkdir()
    model = onnx.load(ours, load_external_data=False)
    for item in model.graph.initializer[0].external_data:
        if item.key == "location":
            item.value = place
    ours.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"net\.onnx: its weights .* is not in its folder"):
        sources.open_fresh(ours, MLAS)


def test_a_link_to_weights_elsewhere_is_not_followed(tmp_path):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    (ours.parent / "scale.bin").rename(tmp_path / "scale.bin")
    (ours.parent / "scale.bin").symlink_to(tmp_path / "scale.bin")
    with pytest.raises(EngineError, match=r"'scale\.bin' is not in its folder"):
        sources.open_fresh(ours, MLAS)


def test_weights_in_a_folder_of_the_models_folder(tmp_path):
    (tmp_path / "data").mkdir()
    model = model_of(
        [helper.make_node("Mul", ["input", "scale"], ["output"])],
        {"scale": np.full((1, 8), 3.0, dtype=np.float32)},
    )
    path = tmp_path / "net.onnx"
    saved(model, path, save_as_external_data=True, location="data/scale.bin", size_threshold=0)
    assert np.allclose(sources.open_fresh(path, MLAS).outputs(X), 3 * X)


def test_weights_of_a_cut_file_are_refused(tmp_path):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    (ours.parent / "scale.bin").write_bytes(b"\0" * 5)
    with pytest.raises(EngineError, match=r"net\.onnx: its weights in other files"):
        sources.open_fresh(ours, MLAS)


def test_weights_inside_attributes_are_read_as_well(tmp_path, monkeypatch):
    """A constant's value, and those of both branches of an If, may lie in other files too."""
    constant = numpy_helper.from_array(np.full((1, 8), 7.0, dtype=np.float32), "inner")
    branch = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=constant),
            helper.make_node("Mul", ["input", "c"], ["o"]),
        ],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 8])],
    )
    nodes = [helper.make_node("If", ["yes"], ["output"], then_branch=branch, else_branch=branch)]
    path = tmp_path / "net.onnx"
    model = model_of(nodes, {"yes": np.array(True)})
    saved(
        model, path, save_as_external_data=True, location="inner.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert b"inner.bin" in path.read_bytes()
    monkeypatch.chdir("/")
    assert np.allclose(sources.open_fresh(path, MLAS).outputs(X), 7 * X)


def test_a_model_that_is_too_large_in_one_piece(tmp_path, monkeypatch):
    path = scaled(3.0, tmp_path / "ours" / "net.onnx")
    monkeypatch.setattr(_others, "MAX_BYTES", 100)
    with pytest.raises(EngineError, match=r"net\.onnx: has \d+ bytes of weights; 2 GB can be"):
        sources.open_fresh(path, MLAS)


def test_a_file_in_one_piece_goes_to_the_engine_as_it_is(tmp_path):
    model = model_of([helper.make_node("Relu", ["input"], ["output"])], {})
    path = saved(model, tmp_path / "net.onnx")
    assert sources.onnx_bytes(path, MLAS) == path.read_bytes()


def failing(path: Path) -> Path:
    """Write a model that is loaded, but whose indices are out of range as soon as it runs."""
    nodes = [
        helper.make_node("Relu", ["input"], ["r"]),
        helper.make_node("ArgMax", ["r"], ["best"], axis=1, keepdims=1),
        helper.make_node("Add", ["best", "far"], ["index"]),
        helper.make_node("Gather", ["r", "index"], ["g"], axis=1),
        helper.make_node("Reshape", ["g", "shape"], ["output"]),
    ]
    weights = {"far": np.array([[1000]]), "shape": np.array([1, 1])}
    return saved(model_of(nodes, weights, out=1), path)


def test_a_file_that_fails_when_it_is_run_is_named_in_one_line(tmp_path):
    path = failing(tmp_path / "net.onnx")
    session = sources.open_fresh(path, MLAS)
    for call in (session.run, lambda: session.outputs(X)):
        with pytest.raises(EngineError, match=r"net\.onnx: engine mlas: cannot run the") as caught:
            call()
        assert "Gather" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_file_that_fails_when_it_is_quantised_is_named(tmp_path):
    path = failing(tmp_path / "net.onnx")
    with pytest.raises(EngineError, match=r"net\.onnx: ") as caught:
        sources.open_fresh(path, engines.engine("mlas", precision="int8"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HERE)
def test_a_file_that_the_engine_rejects_is_named(name, tmp_path):
    path = saved(
        model_of([helper.make_node("Foo", ["input"], ["output"])], {}), tmp_path / "net.onnx"
    )
    with pytest.raises(EngineError, match=rf"net\.onnx: engine {name}: refuses the model: .*Foo"):
        sources.open_fresh(path, engines.engine(name))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 40])
def test_a_file_that_is_no_model_is_named(content, tmp_path):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"net\.onnx: is not an ONNX model") as caught:
        sources.open_fresh(tmp_path / "net.onnx", MLAS)
    assert "\n" not in str(caught.value)


# -- inputs of other shapes and types --------------------------------------------------------------


def doubled(shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return a model that adds its input to itself."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        "g",
        [value("input", kind, shape)],
        [value("output", kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "shape", [["n", 3, "h", "w"], ["n", "h", "w", 3], [-1, 1, -1, 0], ["n", 3, 4, "w"]]
)
def test_open_sides_get_the_size_and_batch(name, shape, tmp_path):
    path = saved(doubled(shape), tmp_path / "net.onnx")
    engine = engines.engine(name, batch=2)
    with pytest.raises(
        EngineError, match=r"net\.onnx: its input 'input' is .*height and width are open"
    ):
        sources.open_fresh(path, engine)
    size = {"n": 2, -1: 2, "h": 4, "w": 6}
    expected = [size.get(side, side) for side in shape]
    expected = [2, 1, 4, 6] if shape[1] == 1 else expected
    session = sources.open_fresh(sources.OnnxFile(path, (4, 6)), engine)
    session.run()
    x = np.random.default_rng(0).standard_normal(expected, dtype=np.float32)
    np.testing.assert_allclose(session.outputs(x), 2 * x, rtol=1e-6)
    data = onnx.load_model_from_string(sources.onnx_bytes(sources.OnnxFile(path, (4, 6)), engine))
    assert [d.dim_value for d in data.graph.input[0].type.tensor_type.shape.dim] == expected


@pytest.mark.parametrize("name", HERE)
def test_an_open_batch_is_the_engines(name, tmp_path):
    path = saved(doubled(["n", 8]), tmp_path / "net.onnx")
    for batch in (1, 5):
        session = sources.open_fresh(path, engines.engine(name, batch=batch))
        session.run()
        assert session.outputs(np.ones((batch, 8), np.float32)).tolist() == [[2] * 8] * batch


@pytest.mark.parametrize("name", HERE)
def test_half_precision_is_cast_on_the_way(name, tmp_path):
    path = saved(doubled([1, 8], TensorProto.FLOAT16), tmp_path / "net.onnx")
    session = sources.open_fresh(path, engines.engine(name))
    session.run()
    assert session.outputs(X).dtype == np.float16
    assert session.outputs(X).tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]


def test_double_precision_is_cast_where_the_engine_has_it(tmp_path):
    path = saved(doubled([1, 8], TensorProto.DOUBLE), tmp_path / "net.onnx")
    assert sources.open_fresh(path, MLAS).outputs(X).tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]
    if "openvino" in HERE:
        with pytest.raises(EngineError, match="does not run the operator Add"):
            sources.open_fresh(path, engines.engine("openvino"))


def inputs_of(*values: onnx.ValueInfoProto) -> onnx.ModelProto:
    model = model_of([helper.make_node("Constant", [], ["output"], value_float=1.0)], {})
    del model.graph.input[:]
    model.graph.input.extend(values)
    return model


TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 8])


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (inputs_of(), "has no input"),
        (
            inputs_of(*(helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "ab")),
            r"has 2 inputs, not one: \['a', 'b'\]",
        ),
        (
            inputs_of(helper.make_value_info("a", helper.make_sequence_type_proto(TENSOR))),
            "its input 'a' is a sequence, not float32 or float16 or float64",
        ),
        (
            inputs_of(
                helper.make_value_info("a", helper.make_map_type_proto(TensorProto.INT64, TENSOR))
            ),
            "its input 'a' is a map, not",
        ),
        (
            inputs_of(helper.make_value_info("a", helper.make_optional_type_proto(TENSOR))),
            "its input 'a' is a optional|an optional",
        ),
        (doubled([1, 8], TensorProto.UINT8), "its input 'input' is uint8, not float32"),
        (doubled([1, 8], TensorProto.BFLOAT16), "its input 'input' is bfloat16, not float32"),
        (doubled([1, "length", 8]), r"its input 'input' is 1x\?x8; only height and width of"),
        (doubled([1, "c", "h", "w"]), r"its input is 1x\?x\?x\?, which leaves the position"),
    ],
)
def test_inputs_that_cannot_be_measured(model, complaint, tmp_path):
    file = sources.OnnxFile(saved(model, tmp_path / "net.onnx"), (4, 6))
    with pytest.raises(EngineError, match=rf"net\.onnx: {complaint}") as caught:
        sources.open_fresh(file, MLAS)
    assert "\n" not in str(caught.value)
