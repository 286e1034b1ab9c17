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
def loaded(folder):
    return pretrained.read(folder / "inference.pdiparams")


def log_odds(loaded, x, engine="mlas"):
    model = onnx_export.export(loaded.arch, weights=loaded.weights, classes=2, batch=len(x))
    logits = run(model, x, engine)
    return logits[:, 0] - logits[:, 1]


def test_the_program_identifies_the_network(loaded):
    assert loaded.arch == ARCH
    assert loaded.arch.name == "PP-LCNet_x0_25_textline_ori"
    assert [stage.name for stage in loaded.arch.stages] == [stage.name for stage in ARCH.stages]
    assert loaded.classes == 2
    assert loaded.class_names == ("0_degree", "180_degree")
    assert loaded.source == "Paddle's program inference.json with inference.pdiparams"


def test_every_tensor_is_used_once(loaded, folder):
    trained = [a.size for name, a in loaded.weights.items() if not name.endswith(("/mean", "/var"))]
    assert sum(trained) == cost.params(ARCH, 2, training=True)
    values = sum(array.size for array in loaded.weights.values())
    # Each of the 145 tensors has a head of 20 bytes and a description of 4 to 12.
    rest = (folder / "inference.pdiparams").stat().st_size - 4 * values
    assert 24 * len(loaded.weights) <= rest <= 32 * len(loaded.weights)


@pytest.mark.parametrize("engine", ["mlas", "openvino"])
def test_the_reference(loaded, folder, engine):
    if not available(engine):
        pytest.skip(f"{engine} is not here")
    with np.load(folder / "reference.npz") as reference:
        x, log_odds_of_paddle = reference["x"], reference["log_odds"]
    np.testing.assert_allclose(
        log_odds(loaded, x, engine), log_odds_of_paddle, rtol=1e-3, atol=1e-3
    )


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
def test_the_images(loaded, folder, name, stored, turned):
    x = sample_pixels(folder / "images" / f"{name}.png", turned)
    answer = UPRIGHT if log_odds(loaded, x)[0] > 0 else TURNED
    assert answer == stored ^ turned


def test_with_and_without_a_given_arch(loaded, folder):
    with_arch = pretrained.read(folder / "inference.json", ARCH)
    assert with_arch.arch is ARCH
    for name, array in loaded.weights.items():
        np.testing.assert_array_equal(with_arch.weights[name], array)


def test_as_a_file_of_our_own(loaded, tmp_path):
    file = tmp_path / "w.safetensors"
    pretrained.save(file, loaded.arch, loaded.weights, class_names=loaded.class_names)
    again = pretrained.read(file)
    assert (again.arch, again.class_names) == (loaded.arch, loaded.class_names)
    assert all(np.array_equal(again.weights[k], a) for k, a in loaded.weights.items())
