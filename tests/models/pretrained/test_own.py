"""lcnas's own files of weights, and the weights without the head."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lcnas import blocks, files, onnx_export, zoo
from lcnas.arch import Arch
from lcnas.errors import PretrainedError
from lcnas.models import pretrained

# One of each kind of weight: branches, affine, squeeze-and-excite, norm alone.
ARCH = Arch.of(
    {
        "stem": [blocks.ConvNormAct(8, stride=2, branches=(3, 1, 0), affine=True)],
        "body": [blocks.DepthwiseSeparable(8, se=True, shortcut=True, branches=(3, 1, 0))],
        "head": [blocks.Classifier(16, bias=True)],
    },
    (24, 32),
    "a network",
)
WEIGHTS = onnx_export.init(ARCH, np.random.default_rng(0), 3)


def test_a_file_comes_back(tmp_path):
    file = tmp_path / "net.safetensors"
    pretrained.save(file, ARCH, WEIGHTS, class_names=("cat", "dog ö", "3"), source="a test")
    loaded = pretrained.read(str(file))
    assert (loaded.arch, loaded.arch.name, loaded.arch.stages) == (ARCH, "a network", ARCH.stages)
    assert (loaded.classes, loaded.class_names, loaded.source) == (
        3,
        ("cat", "dog ö", "3"),
        "a test",
    )
    assert list(loaded.weights) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(loaded.weights[name], array)
        assert loaded.weights[name].shape == np.shape(array)
        assert loaded.weights[name].dtype == np.float32
    assert list(tmp_path.iterdir()) == [file]
    assert {name: a.shape for name, a in load_file(file).items()} == onnx_export.names(ARCH, 3)


def test_equal_arguments_give_equal_bytes(tmp_path):
    for name, weights in (("a", WEIGHTS), ("b", dict(reversed(WEIGHTS.items())))):
        pretrained.save(tmp_path / name, ARCH, weights, class_names=["a", "b", "c"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_arrays_that_are_not_contiguous(tmp_path):
    """safetensors itself would save them wrongly, and silently."""
    turned = {name: np.asarray(a).T.copy().T for name, a in WEIGHTS.items()}
    assert not turned["head/1/kernel"].flags.c_contiguous
    pretrained.save(tmp_path / "w.safetensors", ARCH, turned)
    loaded = pretrained.read(tmp_path / "w.safetensors").weights
    np.testing.assert_array_equal(loaded["head/1/kernel"], WEIGHTS["head/1/kernel"])


def test_a_given_arch(tmp_path):
    file = tmp_path / "w.safetensors"
    pretrained.save(file, ARCH, WEIGHTS)
    assert pretrained.read(file, ARCH.at(64)).arch.resolution == 64
    with pytest.raises(PretrainedError, match=r"its network is a network, not pplcnet_0\.25x"):
        pretrained.read(file, zoo.load("pplcnet_0.25x"))
    with pytest.raises(PretrainedError, match="which has its own"):
        pretrained.read(file, epsilon=1e-3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stem/branch0/kernel": None}, "missing 1: 'stem/branch0/kernel'"),
        ({"more": np.zeros(3, np.float32)}, "unexpected 1: 'more'"),
        ({"stem/gain": np.zeros(1, np.float32)}, r"another shape 1: 'stem/gain' \(1,\) for \(\)"),
        ({"stem/gain": np.array(np.inf, np.float32)}, "not finite"),
        ({"stem/branch1/var": -np.ones(8, np.float32)}, "negative"),
        ({"head/4/kernel": None}, "'head/4/kernel' is missing"),
        ({"head/4/kernel": np.zeros((16, 0), np.float32)}, "or not a matrix"),
        ({"head/4/bias": np.zeros(3, np.int64)}, "int64"),
    ],
)
def test_weights_that_do_not_fit_are_not_saved(change, complaint, tmp_path):
    weights = {k: v for k, v in (WEIGHTS | change).items() if v is not None}
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.save(tmp_path / "w.safetensors", ARCH, weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", ["abc", ["a", "b"], ["a", "b", 3], 3])
def test_names_of_classes_that_are_none(names, tmp_path):
    with pytest.raises(PretrainedError, match="class_names: "):
        pretrained.save(tmp_path / "w.safetensors", ARCH, WEIGHTS, class_names=names)


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(PretrainedError, match="cannot be written"):
        pretrained.save(tmp_path / "missing" / "w.safetensors", ARCH, WEIGHTS)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    pretrained.save(file, ARCH, WEIGHTS)
    before = file.read_bytes()

    @contextlib.contextmanager
    def half(path, **_):
        with replacing(path) as stream:
            stream.write(b"half of it")
            yield stream
            raise OSError(28, "No space left on device")

    replacing = files.replacing
    monkeypatch.setattr(files, "replacing", half)
    with pytest.raises(PretrainedError, match="cannot be written: No space left"):
        pretrained.save(file, ARCH, WEIGHTS)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    pretrained.save(file, ARCH, WEIGHTS)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(
        PretrainedError, match=r"w\.safetensors: cannot be read: Input/output error"
    ):
        pretrained.read(file)


GOOD = {"version": 1, "arch": json.loads(ARCH.to_json()), "classes": 3, "source": ""}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "version 2 is not 1"),
        ({"arch": {}}, "arch: key 'format' is missing"),
        ({"arch": None}, "arch: None is not an object"),
        ({"classes": "3"}, "classes or source"),
        ({"source": 3}, "classes or source"),
        ({"classes": 4}, "of another shape"),
        ({"class_names": ["a"]}, "1 names of classes for 3"),
        ({"class_names": "abc"}, "is not a list of texts"),
    ],
)
def test_metadata_that_are_none(change, complaint, tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors", {"lcnas": json.dumps(GOOD | change)})
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "[" * 10_000])
def test_metadata_that_are_no_json(text, tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors", {"lcnas": text})
    with pytest.raises(PretrainedError, match="not a file of lcnas's weights"):
        pretrained.read(tmp_path / "w.safetensors")


# -- heads -----------------------------------------------------------------------------------------


def test_the_names_of_the_head():
    assert pretrained.head_names(ARCH) == ("head/4/kernel", "head/4/bias")
    whole = ("head/1/kernel", "head/1/bias", "head/4/kernel", "head/4/bias")
    assert pretrained.head_names(ARCH, whole=True) == whole
    assert pretrained.head_names(zoo.load("mobilenet_v2_1.0x")) == ("head/3/kernel", "head/3/bias")


@pytest.mark.parametrize(
    "name", ["pplcnet_0.25x", "mobilenet_v4_conv_small_0.5x", "vgg16", "resnet18"]
)
def test_without_the_head_weights_fit_any_number_of_classes(name):
    arch = zoo.load(name)
    few, many = onnx_export.names(arch, 2), onnx_export.names(arch, 1000)
    kept = pretrained.without_head({k: np.zeros(1, np.float32) for k in many}, arch)
    assert {k: few[k] for k in kept} == {k: many[k] for k in kept}
    assert len(many) - len(kept) == 2


def test_the_whole_head():
    kept = pretrained.without_head(WEIGHTS, ARCH, whole=True)
    assert set(WEIGHTS) - set(kept) == {k for k in WEIGHTS if k.startswith("head/")}
    assert all(kept[k] is WEIGHTS[k] for k in kept)


def test_a_network_without_classes_has_no_head():
    headless = Arch.of({"stem": [blocks.ConvNormAct(8)]}, 8)
    with pytest.raises(PretrainedError, match="no weight depends on the classes"):
        pretrained.head_names(headless)
