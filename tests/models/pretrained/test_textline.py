"""The trained text-line model of PaddleOCR: is a line upright, or upside down?

Its reference output was computed from the same weights by another runtime.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lcnas import cost, onnx_export
from lcnas.models import pretrained
from lcnas.zoo.pplcnet import pplcnet
from tests.onnx_export.engines import available, run

STRIDES = ((1, 2), 1, (2, 1), (2, 1), (2, 1), (2, 1))
ARCH = pplcnet(0.25, last=0, strides=STRIDES).at((80, 160))
UPRIGHT, TURNED = 0, 1


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "weights" / "textline_ori"


@pytest.fixture(scope="module")
def found(folder):
    return pretrained.read(folder / "inference.pdiparams")


def log_odds(found, x, engine="mlas"):
    model = onnx_export.export(found.arch, weights=found.weights, classes=2, batch=len(x))
    logits = run(model, x, engine)
    return logits[:, 0] - logits[:, 1]


def test_the_program_tells_the_network(found):
    assert found.arch == ARCH
    assert found.arch.name == "PP-LCNet_x0_25_textline_ori"
    assert [stage.name for stage in found.arch.stages] == [stage.name for stage in ARCH.stages]
    assert found.classes == 2
    assert found.class_names == ("0_degree", "180_degree")
    assert found.source == "Paddle's program inference.json with inference.pdiparams"


def test_every_tensor_is_used_once(found, folder):
    trained = [a.size for name, a in found.weights.items() if not name.endswith(("/mean", "/var"))]
    assert sum(trained) == cost.params(ARCH, 2, training=True)
    values = sum(array.size for array in found.weights.values())
    # Each of the 145 tensors has a head of 20 bytes and a description of 4 to 12.
    rest = (folder / "inference.pdiparams").stat().st_size - 4 * values
    assert 24 * len(found.weights) <= rest <= 32 * len(found.weights)


@pytest.mark.parametrize("engine", ["mlas", "openvino"])
def test_the_reference(found, folder, engine):
    if not available(engine):
        pytest.skip(f"{engine} is not here")
    with np.load(folder / "reference.npz") as reference:
        x, wanted = reference["x"], reference["log_odds"]
    np.testing.assert_allclose(log_odds(found, x, engine), wanted, rtol=1e-3, atol=1e-3)


def sample_pixels(file, turned=False):
    """Return a file's pixels as inference.yml prepares them: (1, 3, 80, 160)."""
    with Image.open(file) as image:
        pixels = image.convert("RGB").resize((160, 80), Image.Resampling.BILINEAR)
    if turned:
        pixels = pixels.rotate(180)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    scaled = (np.asarray(pixels, np.float32) / 255 - mean) / std
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)


# The first image is upright in its file, the second upside down.
@pytest.mark.parametrize(
    ("name", "stored"),
    [("textline_orientation_test_0_0", UPRIGHT), ("textline_orientation_test_1_0", TURNED)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_images(found, folder, name, stored, turned):
    x = sample_pixels(folder / "images" / f"{name}.png", turned)
    answer = UPRIGHT if log_odds(found, x)[0] > 0 else TURNED
    assert answer == stored ^ turned


def test_with_and_without_a_given_arch(found, folder):
    given = pretrained.read(folder / "inference.json", ARCH)
    assert given.arch is ARCH
    for name, array in found.weights.items():
        np.testing.assert_array_equal(given.weights[name], array)


def test_as_a_file_of_our_own(found, tmp_path):
    file = tmp_path / "w.safetensors"
    pretrained.save(file, found.arch, found.weights, class_names=found.class_names)
    again = pretrained.read(file)
    assert (again.arch, again.class_names) == (found.arch, found.class_names)
    assert all(np.array_equal(again.weights[k], a) for k, a in found.weights.items())
