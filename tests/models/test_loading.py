"""Flax networks with weights from files."""

import numpy as np
import pytest
from flax import nnx

from lcnas import blocks, models, onnx_export
from lcnas.arch import Arch
from lcnas.errors import PretrainedError
from lcnas.models import pretrained
from tests.models.pretrained.test_textline import sample_pixels
from tests.models.test_network import TINY, alive, images, run
from tests.onnx_export import engines


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    pretrained.save(path, TINY, alive(TINY).weights())
    return path


def test_a_file_comes_back_in_evaluation_mode(file):
    model = models.load_pretrained(file)
    assert (model.arch, model.classes) == (TINY, 10)
    x = images((16, 16, 3))
    assert (run(model, x) == run(alive(TINY), x)).all()


def test_a_new_head_for_other_classes(file):
    model = models.load_pretrained(file, classes=3, rngs=nnx.Rngs(4))
    old, new = alive(TINY).weights(), model.weights()
    fresh = models.build(TINY, 3, nnx.Rngs(4)).weights()
    changed = {n for n in new if new[n].shape != old[n].shape or (new[n] != old[n]).any()}
    assert changed == {"head/4/kernel", "head/4/bias"}
    assert all((new[n] == fresh[n]).all() for n in changed)


def test_another_arch_is_refused(file):
    other = Arch.of({"stem": [blocks.ConvNormAct(4)], "head": [blocks.DenseHead()]}, 16)
    with pytest.raises(PretrainedError):
        models.load_pretrained(file, other)


@pytest.fixture
def textline(shared_data):
    return shared_data / "weights" / "textline_ori"


def log_odds(logits):
    return np.asarray(logits)[:, 0] - np.asarray(logits)[:, 1]


def test_a_trained_network_gives_its_own_answers(textline):
    """PaddleOCR's text-line network in Flax, and exported from there."""
    model = models.load_pretrained(textline / "inference.pdiparams")
    with np.load(textline / "reference.npz") as reference:
        x, expected = reference["x"], reference["log_odds"]
    computed = log_odds(run(model, x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(computed, expected, rtol=1e-3, atol=1e-3)
    graph = onnx_export.export(
        model.arch, weights=model.weights(), classes=model.classes, batch=len(x)
    )
    for engine in filter(engines.available, engines.ENGINES):
        exported = log_odds(engines.run(graph, x, engine))
        np.testing.assert_allclose(exported, expected, rtol=1e-3, atol=1e-3)


# The first image is upright in its file, the second upside down.
@pytest.mark.parametrize(("name", "sign"), [("test_0_0", 1), ("test_1_0", -1)])
def test_it_classifies_upright_and_turned(textline, name, sign):
    model = models.load_pretrained(textline / "inference.pdiparams")
    file = textline / "images" / f"textline_orientation_{name}.png"
    x = np.concatenate([sample_pixels(file), sample_pixels(file, turned=True)]).transpose(
        0, 2, 3, 1
    )
    odds = log_odds(run(model, x)) * sign
    assert odds[0] > 0 > odds[1]
