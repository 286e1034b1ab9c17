"""From networks and files to sessions: files of others, with their weights elsewhere, and those that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcnas.errors import EngineError
from lcnas.latency import engines, models

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


def made(
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
    model = made(
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
    assert np.allclose(models.open_fresh(ours, engine).outputs(X), 3 * X)
    assert np.allclose(models.open_fresh(Path("net.onnx"), engine).outputs(X), 5 * X)


def test_weights_that_are_not_beside_the_model_are_taken_from_nowhere_else(tmp_path, monkeypatch):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    (ours.parent / "scale.bin").rename(tmp_path / "scale.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"net\.onnx: its weights in other files") as caught:
        models.open_fresh(ours, MLAS)
    assert "\n" not in str(caught.value)


def test_weights_of_a_cut_file_are_refused(tmp_path):
    ours = scaled(3.0, tmp_path / "ours" / "net.onnx")
    (ours.parent / "scale.bin").write_bytes(b"\0" * 5)
    with pytest.raises(EngineError, match=r"net\.onnx: its weights in other files"):
        models.open_fresh(ours, MLAS)


def test_weights_inside_attributes_are_found_as_well(tmp_path, monkeypatch):
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
    model = made(nodes, {"yes": np.array(True)})
    saved(
        model, path, save_as_external_data=True, location="inner.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert b"inner.bin" in path.read_bytes()
    monkeypatch.chdir("/")
    assert np.allclose(models.open_fresh(path, MLAS).outputs(X), 7 * X)


def test_a_model_that_is_too_large_in_one_piece(tmp_path, monkeypatch):
    path = scaled(3.0, tmp_path / "ours" / "net.onnx")
    monkeypatch.setattr(models, "_MOST_BYTES", 100)
    with pytest.raises(EngineError, match=r"net\.onnx: has \d+ bytes of weights; 2 GB can be"):
        models.open_fresh(path, MLAS)


def test_a_file_in_one_piece_goes_to_the_engine_as_it_is(tmp_path):
    model = made([helper.make_node("Relu", ["input"], ["output"])], {})
    path = saved(model, tmp_path / "net.onnx")
    assert models.onnx_bytes(path, MLAS) == path.read_bytes()


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
    return saved(made(nodes, weights, out=1), path)


def test_a_file_that_fails_when_it_is_run_is_named_in_one_line(tmp_path):
    path = failing(tmp_path / "net.onnx")
    session = models.open_fresh(path, MLAS)
    for call in (session.run, lambda: session.outputs(X)):
        with pytest.raises(EngineError, match=r"net\.onnx: engine mlas: cannot run the") as caught:
            call()
        assert "Gather" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_file_that_fails_when_it_is_quantised_is_named(tmp_path):
    path = failing(tmp_path / "net.onnx")
    with pytest.raises(EngineError, match=r"net\.onnx: ") as caught:
        models.open_fresh(path, engines.engine("mlas", precision="int8"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HERE)
def test_a_file_that_the_engine_rejects_is_named(name, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(EngineError, match=rf"net\.onnx: engine {name}: refuses the model"):
        models.open_fresh(path, engines.engine(name))
