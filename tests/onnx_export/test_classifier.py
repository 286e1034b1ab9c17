"""Classifiers of any origin behind one call: the mean colour times a matrix, in every layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lcnas import onnx_export
from lcnas.errors import OnnxError
from lcnas.onnx_export import Classifier, Preprocessing

from . import tiny


def images(n, size=(8, 6), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("end", tiny.ENDS)
def test_every_layout_batch_and_end(layout, batch, end):
    """After a softmax logits are known up to a constant; any number of images fits any batch."""
    classifier = Classifier.of(tiny.classifier(layout, batch, end=end))
    assert (classifier.interface.layout, classifier.interface.batch) == (layout, batch)
    assert (classifier.classes, classifier.size) == (4, (8, 6))
    assert classifier.softmax == (end != "logits")
    for n in (1, 2, 3, 7, 40):
        x = images(n)
        expected = tiny.expected(x)
        if end != "logits":
            expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
        logits = classifier.logits(x)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_an_open_size_is_the_requested_one():
    for layout in ("NCHW", "NHWC"):
        model = tiny.classifier(layout, None, (None, None))
        with pytest.raises(OnnxError, match="takes any height and width; give a size"):
            Classifier.of(model)
        classifier = Classifier.of(model, (5, 9))
        x = images(2, (5, 9))
        np.testing.assert_allclose(classifier.logits(x), tiny.expected(x), atol=1e-5)
    half_open = Classifier.of(tiny.classifier("NCHW", 1, (None, 6)), (8, 99))
    assert half_open.size == (8, 6)


def test_the_size_of_a_file_takes_precedence_over_the_requested_one():
    assert Classifier.of(tiny.classifier(), (99, 99)).size == (8, 6)


def test_an_unlikely_class_is_finite_after_a_softmax():
    model = tiny.classifier(end="softmax", weights=1000 * tiny.WEIGHTS)
    x = images(4)
    logits = Classifier.of(model).logits(x)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits.argmax(axis=1), (x.mean((1, 2)) @ tiny.WEIGHTS).argmax(1))


@pytest.mark.parametrize("value", [-1, 0])
def test_batches_of_minus_1_or_0_are_open(value):
    """Paddle and old converters write these."""
    model = tiny.classifier(batch=None)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = value
    x = images(5)
    np.testing.assert_allclose(Classifier.of(model).logits(x), tiny.expected(x), atol=1e-5)


def test_weights_listed_among_the_inputs_are_not_inputs():
    model = tiny.classifier()
    value = helper.make_tensor_value_info("w", TensorProto.FLOAT, tiny.WEIGHTS.shape)
    inputs = [value, *model.graph.input]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    x = images(2)
    np.testing.assert_allclose(Classifier.of(model).logits(x), tiny.expected(x), atol=1e-5)


def test_files_bytes_and_models_are_the_same(tmp_path):
    model, x = tiny.classifier(), images(2)
    path = tmp_path / "a.onnx"
    onnx_export.save(model, path)
    logits = [Classifier.of(s).logits(x) for s in (model, onnx_export.to_bytes(model), path)]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


def test_if_both_ends_have_3_the_first_node_determines_the_layout():
    def model(perm):
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"], perm=perm),
            helper.make_node("ReduceMean", ["t"], ["m"], axes=[2, 3], keepdims=0),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, [1, 3, 7, 3])],
            [value("m", TensorProto.FLOAT, [1, None])],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    assert onnx_export.interface(model([0, 3, 1, 2])).layout == "NHWC"
    assert onnx_export.interface(model([0, 1, 3, 2])).layout == "NCHW"


def test_images_of_another_size_are_refused():
    classifier = Classifier.of(tiny.classifier())
    for x in (images(1, (6, 8)), images(1).transpose(0, 3, 1, 2), images(1)[:0]):
        with pytest.raises(OnnxError, match=r"takes \(n, 8, 6, 3\), got"):
            classifier.logits(x)


def test_values_that_are_not_finite_are_an_error():
    classifier = Classifier.of(tiny.classifier())
    with pytest.raises(OnnxError, match="gives values that are not finite"):
        classifier.logits(images(1) * np.float32(np.inf))


# -- files that are not image classifiers --------------------------------------------------------


def changed(change, **settings):
    model = tiny.classifier(**settings)
    change(model.graph)
    return model


def dims_of(graph, *values):
    shape = graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for v in values:
        shape.dim.add(dim_value=v)


def second_input(graph):
    graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))


def half(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def as_bytes(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def sequence(graph):
    """End in a list, as classifiers of scikit-learn do."""
    graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["s"]))
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    kind = helper.make_sequence_type_proto(tensor)
    graph.output[0].CopyFrom(helper.make_value_info("s", kind))


def external(graph):
    graph.initializer[0].data_location = TensorProto.EXTERNAL


def ends_in(*nodes):
    def change(graph):
        graph.node.extend(nodes)
        graph.output[0].CopyFrom(
            helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        )

    return change


def arg_max(graph):
    graph.node.append(helper.make_node("ArgMax", ["y"], ["i"], axis=1))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: dims_of(g, 1, 1, 8, 6), "its input is 1x1x8x6; colour images have 3 channels"),
        (lambda g: dims_of(g, 1, 8, 6, 4), "its input is 1x8x6x4; colour images have 3 channels"),
        (lambda g: dims_of(g, 1, 0, 8, 0), r"its input is 1x\?x8x\?, which leaves the position"),
        (lambda g: dims_of(g, 1, 3), "its input has 2 dimensions; a batch of images has 4"),
        (second_input, r"has 2 inputs, not one: \['x', 'z'\]"),
        (half, "onnxruntime refuses the model: .*float16"),
        (as_bytes, "its input 'x' is uint8, not float32 or float16 or float64"),
        (sequence, "its first output is a sequence, not a tensor"),
        (external, r"keeps its weights in other files; save it as one: onnx\.save"),
        (ends_in(helper.make_node("Transpose", ["y"], ["t"])), r"is \(4, 1\) for 1 images"),
        (ends_in(helper.make_node("ReduceMax", ["y"], ["t"], axes=[1])), r"is \(1, 1\) for 1"),
        (ends_in(helper.make_node("Identity", ["x"], ["t"])), r"is \(1, 3, 8, 6\) for 1 images"),
        (arg_max, r"its first output is int64, not of floats|is \(1, 1\)"),
        (lambda g: g.node[1].input.__setitem__(1, "b"), "onnxruntime refuses the model"),
    ],
)
def test_files_that_are_not_classifiers(change, message):
    with pytest.raises(OnnxError, match=message) as error:
        Classifier.of(changed(change))
    assert "\n" not in str(error.value)


def test_trailing_ones_are_ignored():
    """Some classifiers end in a global mean: (n, classes, 1, 1)."""
    model = tiny.classifier()
    model.graph.node.append(helper.make_node("Reshape", ["y", "four"], ["r"]))
    four = onnx.numpy_helper.from_array(np.array([0, -1, 1, 1], np.int64), "four")
    model.graph.initializer.append(four)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4, 1, 1])
    )
    x = images(2)
    np.testing.assert_allclose(Classifier.of(model).logits(x), tiny.expected(x), atol=1e-5)


def test_files_that_are_not_onnx(tmp_path):
    for name, data in (("a", b""), ("b", b"not a model"), ("c", b"\x89PNG\r\n\x1a\n" + bytes(99))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OnnxError, match="is not an ONNX model") as error:
            onnx_export.read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(OnnxError, match="cannot be read: "):
            onnx_export.read(path)


def test_any_truncated_file_is_refused_or_runs():
    """A prefix of a file, or a file with flipped bits, raises no error but ours."""
    data = onnx_export.to_bytes(tiny.classifier())
    rng = np.random.default_rng(0)
    broken = [data[:n] for n in range(0, len(data), 7)]
    for _ in range(60):
        flipped = bytearray(data)
        flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        broken.append(bytes(flipped))
    refused = 0
    for file in broken:
        try:
            Classifier.of(file, (8, 6)).logits(images(1))
        except OnnxError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 40


# -- metadata --------------------------------------------------------------------------------------


def interface(metadata):
    return onnx_export.interface(tiny.classifier(metadata=metadata), "a.onnx")


def test_recorded_and_missing_metadata():
    recorded = interface(tiny.recorded(names=["a", "b", "c", "ö"], crop=0.75))
    assert recorded.preprocessing() == Preprocessing(
        (8, 6), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), 0.75
    )
    assert recorded.class_names == ("a", "b", "c", "ö")
    assert recorded.has_normalization
    squashed = interface(tiny.recorded(squash=True)).preprocessing()
    assert squashed.squash
    empty = interface({})
    assert empty.preprocessing() == Preprocessing((8, 6))
    assert empty.class_names is None
    assert not empty.has_normalization
    assert empty.preprocessing().mean == onnx_export.IMAGENET_MEAN


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lcnas.normalization": "{"}, "lcnas.normalization is not JSON: '{'"),
        ({"lcnas.normalization": "[1]"}, "lcnas.normalization is not a JSON object"),
        ({"lcnas.normalization": '{"mean": [1, 2]}'}, "lcnas.normalization: mean: .* is not one"),
        (
            {"lcnas.normalization": '{"std": [1, 2, -1]}'},
            "lcnas.normalization: std: .* is not positive",
        ),
        (
            {"lcnas.normalization": '{"std": [1, 2, NaN]}'},
            "lcnas.normalization: std: .* is not one",
        ),
        ({"lcnas.resize": '{"crop": 7}'}, "lcnas.resize: crop: 7 is not a share"),
        ({"lcnas.resize": '{"crop": "a"}'}, "lcnas.resize: crop: 'a' is not a share"),
        ({"lcnas.class_names": '"ab"'}, "lcnas.class_names is not a list of texts"),
        ({"lcnas.class_names": "[1]"}, "lcnas.class_names is not a list of texts"),
        ({"lcnas.class_names": "[" * 100_000}, "lcnas.class_names is not JSON"),
    ],
)
def test_broken_metadata_are_named(metadata, message):
    broken = interface(metadata)
    with pytest.raises(OnnxError, match=f"a.onnx: metadata: {message}") as error:
        _ = broken.preprocessing(), broken.class_names
    assert "\n" not in str(error.value)
