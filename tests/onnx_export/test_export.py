"""The model around the graph: arguments, metadata, bytes, files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

import lcnas
from lcnas import blocks, layers, onnx_export, zoo
from lcnas.arch import Arch, PlacedBlock, place
from lcnas.errors import ExportError, LcnasError

ARCH = Arch.of(
    {
        "stem": [blocks.ConvNormAct(8, stride=2, branches=(3, 1))],
        "body": [blocks.DepthwiseSeparable(8, shortcut=True), blocks.ShuffleV2Unit(8)],
        "head": [blocks.Classifier(16)],
    },
    resolution=(16, 20),
    name="tiny",
)
BLOCK = place(blocks.DepthwiseSeparable(8, se=True), (4, 4, 8))


def shape_of(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def metadata_of(model):
    return {p.key: p.value for p in model.metadata_props}


def test_the_model_of_a_network():
    model = onnx_export.export(ARCH, classes=5)
    onnx.checker.check_model(model, full_check=True)
    (x,), (y,) = model.graph.input, model.graph.output
    assert (x.name, shape_of(x)) == ("input", [1, 3, 16, 20])
    assert (y.name, shape_of(y)) == ("output", [1, 5])
    assert [(o.domain, o.version) for o in model.opset_import] == [("", onnx_export.OPSET)]
    assert model.ir_version == 8
    assert (model.producer_name, model.producer_version) == ("lcnas", lcnas.__version__)
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_names_in_the_graph():
    model = onnx_export.export(ARCH, classes=5)
    weights = onnx_export.init(ARCH, np.random.default_rng(0), 5)
    folded = onnx_export.fold(ARCH, weights, classes=5)
    initializers = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert [name for name in initializers if not name.startswith("constant/")] == list(folded)
    np.testing.assert_array_equal(
        initializers["stem/kernel"], folded["stem/kernel"].transpose(3, 2, 0, 1)
    )
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert names[:2] == ["stem/Conv", "stem/Relu"]
    assert all(name.split("/")[0] in onnx_export.block_names(ARCH) for name in names)


def test_another_resolution_and_any_batch():
    model = onnx_export.export(ARCH, resolution=24, batch=None)
    assert shape_of(model.graph.input[0]) == ["batch", 3, 24, 24]
    assert shape_of(model.graph.output[0]) == ["batch", 1000]
    assert metadata_of(model)["lcnas.id"] == ARCH.at(24).id


def test_metadata_of_a_network():
    model = onnx_export.export(
        ARCH,
        classes=2,
        class_names=["Katze", "Hund ö"],
        normalization={"mean": (0.5, 0.4, 0.3), "std": [0.2, 0.2, 0.1]},
    )
    metadata = metadata_of(model)
    assert Arch.from_json(metadata["lcnas.arch"]) == ARCH
    assert metadata["lcnas.version"] == lcnas.__version__
    assert metadata["lcnas.id"] == ARCH.id
    assert metadata["lcnas.classes"] == "2"
    assert json.loads(metadata["lcnas.class_names"]) == ["Katze", "Hund ö"]
    assert json.loads(metadata["lcnas.normalization"]) == {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
    }
    assert set(metadata_of(onnx_export.export(ARCH))) == {
        "lcnas.version",
        "lcnas.arch",
        "lcnas.id",
        "lcnas.classes",
    }


def test_metadata_of_blocks():
    metadata = metadata_of(onnx_export.graph([BLOCK, BLOCK]))
    assert set(metadata) == {"lcnas.version", "lcnas.blocks"}
    (first, _) = json.loads(metadata["lcnas.blocks"])
    assert blocks.from_data(first["block"]) == BLOCK.block
    assert tuple(first["in_shape"]) == BLOCK.in_shape
    head = place(blocks.Classifier(8), (4, 4, 8), 7)
    assert metadata_of(onnx_export.graph([BLOCK, head]))["lcnas.classes"] == "7"


# -- bytes and files -------------------------------------------------------------------------------


def test_equal_arguments_give_equal_bytes():
    files = [onnx_export.to_bytes(onnx_export.export(ARCH, seed=seed)) for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]


def test_the_bytes_are_the_same_in_another_process(checkout):
    code = (
        "import hashlib; from lcnas import onnx_export, zoo;"
        "m = onnx_export.export(zoo.load('mobilenet_v3_small_0.35x', resolution=32), classes=3);"
        "print(hashlib.sha256(onnx_export.to_bytes(m)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    arch = zoo.load("mobilenet_v3_small_0.35x", resolution=32)
    data = onnx_export.to_bytes(onnx_export.export(arch, classes=3))
    assert done.stdout.strip() == hashlib.sha256(data).hexdigest(), done.stderr


def test_a_file_is_written_atomically(tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"an older file")
    model = onnx_export.export(ARCH, path)
    assert path.read_bytes() == onnx_export.to_bytes(model)
    assert onnx.load(path) == model
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    for path in (tmp_path / "none" / "a.onnx", tmp_path):
        with pytest.raises(ExportError, match="cannot be written: ") as error:
            onnx_export.export(ARCH, path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# -- wrong arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch: 0 is neither"),
        ({"batch": True}, "batch: True is neither"),
        ({"opset": 16}, "opset: 16 is not among 17, 18, 19, 20, 21; the nearest is 17"),
        ({"class_names": ["a"]}, "1 names for 1000 classes"),
        ({"class_names": "ab", "classes": 2}, "not a list of texts"),
        ({"class_names": [1, 2], "classes": 2}, "not a list of texts"),
        ({"normalization": {"mean": [0, 0, 0]}}, "its keys are mean and std"),
        ({"normalization": {"mean": [0, 0], "std": [1, 1, 1]}}, "mean: .* is not one number"),
        ({"normalization": {"mean": [0] * 3, "std": [1, 1, 0]}}, "std: .* is not positive"),
        ({"normalization": {"mean": ["a"] * 3, "std": [1] * 3}}, "not one number"),
        ({"classes": 0}, "classes: 0"),
        ({"resolution": 0}, "resolution: 0"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(LcnasError, match=message) as error:
        onnx_export.export(ARCH, **arguments)
    assert "\n" not in str(error.value)


def test_wrong_blocks():
    other = place(blocks.ConvNormAct(8), (5, 4, 8))
    head = place(blocks.Classifier(8), (4, 4, 8), 7)
    with pytest.raises(ExportError, match=r"block 0 gives 4x4x8, block 1 \(conv.* takes 5x4x8"):
        onnx_export.graph([BLOCK, other])
    with pytest.raises(ExportError, match="no block"):
        onnx_export.graph([])
    with pytest.raises(ExportError, match="only for an Arch"):
        onnx_export.export(BLOCK, resolution=4)
    with pytest.raises(ExportError, match="classes: 5, but the last block gives 7"):
        onnx_export.export([BLOCK, head], classes=5)
    with pytest.raises(ExportError, match="the outputs are not classes"):
        onnx_export.export(BLOCK, class_names=["a"])


def test_layers_that_onnx_cannot_express():
    with pytest.raises(ExportError, match="odd sizes only, got 4"):
        onnx_export.graph(place(blocks.LocalResponseNorm(4), (4, 4, 8)))

    @dataclass(frozen=True)
    class Novel(layers.Layer):
        pass

    for layer, message in (
        (Novel(), "the layer Novel"),
        (layers.Act("tanhshrink"), "'tanhshrink'"),
    ):
        placed = PlacedBlock(BLOCK.block, (4, 4, 8), (4, 4, 8), layer, depends_on_classes=False)
        with pytest.raises(ExportError, match=message):
            onnx_export.graph(placed, weights={})


def test_a_shape_other_than_the_walks_is_an_error():
    wrong = PlacedBlock(BLOCK.block, (4, 4, 8), (4, 5, 8), BLOCK.layer, depends_on_classes=False)
    with pytest.raises(ExportError, match=r"gives \[1, 8, 4, 4\], the network \[1, 8, 4, 5\]"):
        onnx_export.graph(wrong, check=True)
    onnx_export.graph(wrong)  # unchecked
