"""What exported files are worth: run by an engine over images prepared as at deployment."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from lcnas import onnx_export
from lcnas.errors import EngineError, OnnxError
from lcnas.latency import engines
from lcnas.latency.engines import Engine
from lcnas.training import data as data_module
from lcnas.training import deployed

MLAS = engines.engine("mlas")
COLOURS = {"blue": (0, 0, 220), "green": (0, 200, 0), "red": (230, 0, 0)}


def colour_file(names, *, size=8, meta=True):
    """Return a classifier whose logits are the mean of each channel, in the order of the names."""
    order = [{"red": 0, "green": 1, "blue": 2}[name] for name in names]
    weight = np.zeros((len(names), 3, size, size), np.float32)
    for out, channel in enumerate(order):
        weight[out, channel] = 1 / size**2
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"]),
            helper.make_node("Flatten", ["c"], ["output"]),
        ],
        "colours",
        [helper.make_tensor_value_info("input", 1, [1, 3, size, size])],
        [helper.make_tensor_value_info("output", 1, [1, len(names)])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if meta:
        about = {
            "lcnas.class_names": str(list(names)).replace("'", '"'),
            "lcnas.normalization": '{"mean": [0, 0, 0], "std": [1, 1, 1]}',
            "lcnas.resize": '{"crop": 1.0}',
        }
        helper.set_model_props(model, about)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of one colour; two test images of "red" are green."""
    root = tmp_path_factory.mktemp("colours")
    for part, n in (("train", 5), ("val", 4)):
        for name, colour in COLOURS.items():
            place = root / part / name
            place.mkdir(parents=True)
            for i in range(n):
                shown = COLOURS["green"] if (part, name) == ("val", "red") and i < 2 else colour
                Image.new("RGB", (12 + i, 10), shown).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(folder):
    return data_module.load(f"imagefolder:{folder}", size=8, workers=0, cache=False)


def test_accuracy_is_what_a_reader_would_count(data):
    hits = deployed.hits({"a": colour_file(sorted(COLOURS))}, data, engine=MLAS)["a"]
    wrong = [p for p, hit in zip(paths(data), hits.correct, strict=True) if not hit]
    assert [p.rsplit("/", 2)[1:] for p in wrong] == [["red", "0.png"], ["red", "1.png"]]
    assert (hits.images, hits.accuracy, hits.top5) == (12, 10 / 12, 1.0)
    assert hits.engine.name == "mlas"


def paths(data):
    return [data.test.source.original(int(row)) for row in data.test.rows]


def test_classes_are_matched_by_name(data):
    """A file may list the classes in another order, or more of them."""
    files = {"other": colour_file(("red", "blue", "green"))}
    assert deployed.hits(files, data, engine=MLAS)["other"].accuracy == 10 / 12
    with pytest.raises(OnnxError, match="lacks classes of the images: red"):
        deployed.hits({"few": colour_file(("green", "blue"))}, data, engine=MLAS)
    nameless = colour_file(("green", "blue"), meta=False)
    with pytest.raises(OnnxError, match="has 2 classes, the images have 3"):
        deployed.hits({"few": nameless}, data, engine=MLAS)


@pytest.mark.parametrize(
    ("own", "class_names", "outputs", "columns"),
    [
        (None, ("a", "b"), 2, [0, 1]),
        (("a", "b"), ("a", "b"), 2, [0, 1]),
        (("b", "a"), ("a", "b"), 2, [1, 0]),
        (("c", "b", "a"), ("a", "b"), 3, [2, 1]),
        (("x", "y"), ("0", "1"), 2, [0, 1]),  # numbers are no names
        (("a", "b", "a"), ("a", "b"), 3, [0, 1]),  # the first of two alike
    ],
)
def test_which_output_each_class_is(own, class_names, outputs, columns):
    assert deployed.columns_of(own, class_names, outputs, "file").tolist() == columns


def test_files_of_the_same_preprocessing_read_the_split_once(data):
    counts = []

    class Counted:
        test = data.test
        class_names = data.class_names

        def prepared(self, split, preparation, batch):
            counts.append(preparation.size)
            return data.prepared(split, preparation, batch)

    files = {"a": colour_file(sorted(COLOURS)), "b": colour_file(("red", "green", "blue"))}
    files["c"] = colour_file(sorted(COLOURS), size=4)
    hits = deployed.hits(files, Counted(), engine=MLAS)  # type: ignore[arg-type]
    assert list(hits) == ["a", "b", "c"]
    assert sorted(counts) == [(4, 4), (8, 8)]


def test_a_quantised_file_runs_as_such_on_any_engine(data):
    x = np.random.default_rng(0).random((32, 3, 8, 8), np.float32)
    int8 = onnx_export.quantise(colour_file(sorted(COLOURS)), [x])
    files = {"int8": int8, "fp32": colour_file(sorted(COLOURS))}
    for precision in ("fp32", "int8"):
        engine = deployed.with_precision(MLAS, precision)
        hits = deployed.hits(files, data, engine=engine)
        assert {name: h.engine.precision for name, h in hits.items()} == {
            "int8": "int8",
            "fp32": "fp32",
        }


def test_another_split_can_be_asked_for(data):
    hits = deployed.hits({"a": colour_file(sorted(COLOURS))}, data, data.validation, engine=MLAS)
    assert (hits["a"].images, hits["a"].accuracy) == (3, 1.0)


def test_an_engine_that_is_not_available_is_replaced_with_a_note(monkeypatch):
    def absent(name=None, **_):
        if name != "mlas":
            raise EngineError("engine openvino: this onnxruntime has no OpenVINO provider")
        return MLAS

    monkeypatch.setattr(engines, "engine", absent)
    engine, note = deployed.local_engine(Engine("openvino", "1", "avx2"))
    assert engine.name == "mlas"
    assert "run by mlas in fp32, since openvino in fp32 is not available here" in note


def test_the_tables_engine_is_taken_where_it_is_here():
    asked = dataclasses.replace(MLAS, threads=2, batch=3)
    assert deployed.local_engine(asked) == (asked, "")


def test_another_version_of_the_tables_engine_is_reported():
    engine, note = deployed.local_engine(dataclasses.replace(MLAS, version="0", isa="avx"))
    assert engine == MLAS
    assert note == f"accuracies are of {MLAS.version} ({MLAS.isa}) of mlas, latencies of 0 (avx)"


def test_the_file_is_checked_as_an_onnx_model(data):
    assert isinstance(colour_file(sorted(COLOURS)), onnx.ModelProto)
    onnx.checker.check_model(colour_file(sorted(COLOURS)))
