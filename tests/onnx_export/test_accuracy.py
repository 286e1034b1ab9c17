"""Accuracies that are known by hand."""

from __future__ import annotations

import types

import numpy as np
import pytest

from lcnas import onnx_export
from lcnas.errors import OnnxError

from . import tiny

# Six classes: the logit of class i is the product of the mean colour and the i-th of these.
COLOURS = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [-1, -1, -1]], np.float32
).T


def by_colour(**settings):
    return tiny.classifier(
        weights=COLOURS, bias=np.zeros(6), metadata=tiny.recorded((0, 0, 0), (1, 1, 1)), **settings
    )


def labelled(examples):
    """Return a batch of (colour, label, mask)."""
    colours, labels, mask = zip(*examples, strict=True)
    return tiny.constant(*colours), np.array(labels, np.int32), np.array(mask)


RED, GREEN, BLUE = (200, 20, 10), (20, 200, 10), (10, 20, 200)
# In order of the logits: red 0, 3, 1, 4, 2, 5.
EXAMPLES = [
    (RED, 0, True),
    (RED, 3, True),
    (RED, 2, True),
    (RED, 5, True),
    (GREEN, 1, True),
    (BLUE, 2, True),
    (RED, 5, False),
    (BLUE, -1, True),
]


@pytest.mark.parametrize("batch", [1, 4, None])
def test_accuracy_by_hand(batch):
    accuracy = onnx_export.accuracy(
        by_colour(batch=batch), [labelled(EXAMPLES[:3]), labelled(EXAMPLES[3:])]
    )
    assert accuracy == onnx_export.Accuracy(6, 3 / 6, 5 / 6)
    assert str(accuracy) == "top-1 50.00%, top-5 83.33% of 6 images"


def test_batches_of_a_data_set_and_float_images():
    images, labels, mask = labelled(EXAMPLES)
    batch = types.SimpleNamespace(images=images, labels=labels, mask=mask)
    preprocessed = (images.astype(np.float32) / 255, labels, mask)
    for labelled_images in (batch, preprocessed):
        assert onnx_export.accuracy(by_colour(), [labelled_images]) == onnx_export.Accuracy(
            6, 3 / 6, 5 / 6
        )


def test_images_of_another_size_are_preprocessed_as_recorded():
    images, labels, mask = labelled(EXAMPLES)
    large = images.repeat(3, axis=1).repeat(3, axis=2)
    accuracy = onnx_export.accuracy(by_colour(), [(large, labels, mask)])
    assert accuracy == onnx_export.Accuracy(6, 3 / 6, 5 / 6)


def test_the_aspect_of_a_batch_is_used():
    """Red in the middle third, blue outside: of an original of aspect 2 only the middle half is seen."""
    images = tiny.constant(BLUE, size=(8, 12))
    images[:, :, 4:8] = RED
    recorded = tiny.recorded((0, 0, 0), (1, 1, 1), crop=0.9)
    model = tiny.classifier(weights=COLOURS, bias=np.zeros(6), size=(8, 8), metadata=recorded)
    for aspect, top1 in ((2.0, 1), (0.5, 0)):
        batch = types.SimpleNamespace(
            images=images,
            labels=np.zeros(1, np.int32),
            mask=np.ones(1, bool),
            aspect=np.array([aspect], np.float32),
        )
        assert onnx_export.accuracy(model, [batch]).top1 == top1


def test_of_equal_logits_the_first_class_is_predicted():
    """Of six equal logits class 0 is the top-1, and class 5 is not among the top-5."""
    examples = [((0, 0, 0), label, True) for label in range(6)]
    accuracy = onnx_export.accuracy(by_colour(), [labelled(examples)])
    assert accuracy == onnx_export.Accuracy(6, 1 / 6, 5 / 6)


def test_fp32_and_int8_side_by_side():
    images, labels, mask = labelled(EXAMPLES)
    int8 = onnx_export.quantise(by_colour(), [images])
    accuracies = onnx_export.compare(
        {"fp32": by_colour(), "int8": int8}, iter([(images, labels, mask)])
    )
    assert list(accuracies) == ["fp32", "int8"]
    assert accuracies["fp32"] == accuracies["int8"] == onnx_export.Accuracy(6, 3 / 6, 5 / 6)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "accuracy: there is no image"),
        ([labelled([(RED, 0, False)])], "accuracy: there is no image"),
        ([labelled([(RED, 6, True)])], "labels from 6 to 6, but it has 6 classes"),
        ([labelled([(RED, -2, True)])], "labels from -2 to -2"),
        ([(tiny.constant(RED), np.zeros(2, np.int32), np.ones(1, bool))], "1 images, 2 labels"),
        ([(tiny.constant(RED), np.zeros(1, np.int32), np.ones(1))], "a mask of 1 float64"),
    ],
)
def test_labels_that_do_not_fit(batches, message):
    with pytest.raises(OnnxError, match=message):
        onnx_export.accuracy(by_colour(), batches)
