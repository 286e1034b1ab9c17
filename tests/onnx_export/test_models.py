"""Export of models with weights: folded, merged, and compared with the model itself."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from lcnas import blocks, onnx_export
from lcnas.arch import Arch
from lcnas.errors import ExportError

from . import engines, tiny

ARCH = Arch.of(
    {
        "stem": [blocks.ConvNormAct(8, stride=2, branches=(3, 1))],
        "body": [
            blocks.DepthwiseSeparable(8, shortcut=True, se=True, branches=(3, 0)),
            blocks.DepthwiseSeparable(12, kernel=5, stride=2),
        ],
        "head": [blocks.Classifier(16)],
    },
    resolution=(12, 16),
    name="tiny",
)


def images(n, seed=3):
    return np.random.default_rng(seed).normal(size=(n, 12, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("name", engines.ENGINES)
@pytest.mark.parametrize("batch", [1, 2, None])
def test_the_file_computes_what_the_model_computes(name, batch):
    if not engines.available(name):
        pytest.skip(f"this onnxruntime has no {name}")
    model = tiny.Fake(ARCH)
    file = onnx_export.export(model, batch=batch)
    x = images(batch or 3)
    y = engines.run(file, x.transpose(0, 3, 1, 2), name)
    np.testing.assert_allclose(y, model(x), rtol=0, atol=1e-4 * np.abs(model(x)).max())


def test_a_model_has_arch_weights_and_classes():
    model = tiny.Fake(ARCH, classes=7)
    file = onnx_export.export(model, class_names=[f"c{i}" for i in range(7)])
    by_hand = onnx_export.export(
        ARCH, weights=model.weights(), classes=7, class_names=[f"c{i}" for i in range(7)]
    )
    assert onnx_export.to_bytes(file) == onnx_export.to_bytes(by_hand)


def test_the_passed_images_are_compared_in_batches_of_the_file():
    model, x = tiny.Fake(ARCH), images(5)
    onnx_export.export(model, inputs=x, batch=2)
    (seen,) = model.calls
    np.testing.assert_array_equal(seen, x)


def test_without_images_noise_of_the_same_seed_is_used():
    model = tiny.Fake(ARCH)
    for _ in range(2):
        onnx_export.export(model)
    assert model.calls[0].shape == (2, 12, 16, 3)
    assert model.calls[0].std() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(model.calls[0], model.calls[1])


def test_another_resolution():
    model = tiny.Fake(ARCH)
    file = onnx_export.export(model, resolution=20)
    assert model.calls[0].shape == (2, 20, 20, 3)
    assert [d.dim_value for d in file.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 20, 20]


@pytest.mark.parametrize(("factor", "passes"), [(1 + 0.7e-4, True), (1 + 1.4e-4, False)])
def test_the_difference_is_relative_to_the_largest_logit(factor, passes, tmp_path):
    """If all logits are larger by a share, they differ by that share of the largest."""
    model = tiny.Fake(ARCH, factor=factor)
    path = tmp_path / "a.onnx"
    if passes:
        onnx_export.export(model, path, inputs=images(3))
        return
    with pytest.raises(ExportError, match=r"differs from the model by 0\.00014 of the largest"):
        onnx_export.export(model, path, inputs=images(3))
    onnx_export.export(model, path, inputs=images(3), tolerance=1e-3)


def test_a_file_that_differs_is_not_written_and_an_older_one_stays(tmp_path):
    model = tiny.Fake(ARCH, factor=1.1)
    with pytest.raises(ExportError, match="is the model in evaluation mode"):
        onnx_export.export(model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.onnx").write_bytes(b"older")
    with pytest.raises(ExportError, match="differs"):
        onnx_export.export(model, tmp_path / "a.onnx")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"older"]
    onnx_export.export(model, tmp_path / "a.onnx", check=False)
    assert (tmp_path / "a.onnx").stat().st_size > 1000


@pytest.mark.parametrize("factor", [np.nan, np.inf, 0.0])
def test_logits_that_cannot_be_compared_are_refused(factor):
    with pytest.raises(ExportError, match="not finite, or all 0"):
        onnx_export.export(tiny.Fake(ARCH, factor=factor))


def test_outputs_of_another_shape_are_refused():
    class Twice(tiny.Fake):
        def __call__(self, x):
            return np.concatenate([super().__call__(x)] * 2, axis=1)

    with pytest.raises(ExportError, match=r"the model gives \(2, 10\), its export \(2, 5\)"):
        onnx_export.export(Twice(ARCH))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": images(2).transpose(0, 3, 1, 2)}, r"inputs: float32 \(2, 3, 12, 16\) is not"),
        ({"inputs": images(2).astype(np.float64)}, r"inputs: float64 .* is not float32 \(n, 12"),
        ({"inputs": images(2)[:0]}, "of at least one image"),
        ({"classes": 6}, "classes: 6, but the model has 5"),
        ({"weights": {}}, "weights: the model brings its own"),
    ],
)
def test_arguments_that_do_not_fit_a_model(arguments, message):
    with pytest.raises(ExportError, match=message) as error:
        onnx_export.export(tiny.Fake(ARCH), **arguments)
    assert "\n" not in str(error.value)


def test_images_without_a_model_to_compare_with():
    with pytest.raises(ExportError, match="no model to compare with"):
        onnx_export.export(ARCH, inputs=images(1))


def test_importing_the_export_loads_neither_an_engine_nor_pillow(checkout):
    code = "import sys, lcnas.onnx_export; print({'onnxruntime', 'PIL', 'jax'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


# -- recorded preprocessing ----------------------------------------------------------------------

NORMALIZATION = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}


class MeanStd:
    mean = np.array([0.5, 0.4, 0.3])
    std = np.array([0.2, 0.2, 0.1])


@pytest.mark.parametrize("normalization", [NORMALIZATION, MeanStd()])
@pytest.mark.parametrize("resize", [{}, {"crop": 1.0}, {"crop": 0.9}, {"squash": True}], ids=str)
def test_a_reader_preprocesses_images_as_exported(normalization, resize):
    file = onnx_export.export(ARCH, classes=2, normalization=normalization, **resize)
    recorded = onnx_export.interface(file)
    assert recorded.preprocessing() == onnx_export.Preprocessing(
        (12, 16), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), **resize
    )
    props = {p.key: p.value for p in file.metadata_props}
    assert json.loads(props["lcnas.resize"])["filter"] == "bilinear"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 0.0, "normalization": NORMALIZATION}, "crop: 0.0 is not a share above 0"),
        ({"crop": 1.5, "normalization": NORMALIZATION}, "crop: 1.5 is not a share above 0"),
        ({"crop": True, "normalization": NORMALIZATION}, "crop: True is not a share above 0"),
        ({"crop": 1.0}, "are recorded beside a normalization"),
        ({"squash": True}, "are recorded beside a normalization"),
    ],
)
def test_invalid_preprocessing(arguments, message):
    with pytest.raises(ExportError, match=message):
        onnx_export.export(ARCH, **arguments)
