"""Teachers: any classifier behind one call, with answers that are known."""

from __future__ import annotations

import types

import numpy as np
import pytest

from lcnas import blocks, onnx_export
from lcnas.arch import Arch
from lcnas.errors import EngineError, TeacherError
from lcnas.latency import engines
from lcnas.training import teachers
from lcnas.training.teachers import TeacherFile
from tests.onnx_export import tiny

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
NORMALIZATION = types.SimpleNamespace(mean=MEAN, std=STD)
HERE = ["mlas", *(["openvino"] if engines.default() == "openvino" else [])]


def sample_images(n, size=(8, 6), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *size, 3), dtype=np.uint8)


def expected(images, mean=MEAN, std=STD):
    return tiny.expected((images / 255 - np.array(mean)) / np.array(std))


def saved(tmp_path, **settings):
    path = tmp_path / "teacher.onnx"
    onnx_export.save(tiny.classifier(**settings), path)
    return path


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layout": "NHWC"},
        {"batch": None, "layout": "NHWC"},
        {"batch": 3, "end": "softmax"},
        {"batch": None, "end": "shares"},
    ],
    ids=str,
)
def test_any_classifier_gives_its_logits(tmp_path, engine, settings):
    teacher = teachers.load(
        saved(tmp_path, **settings), normalization=NORMALIZATION, engine=engine, classes=4
    )
    assert teacher.classes == 4
    for n in (1, 5):
        images = sample_images(n)
        logits, expected_logits = teacher.logits(images), expected(images)
        assert logits.dtype == np.float32
        if "end" in settings:
            logits, expected_logits = (
                y - y.mean(axis=1, keepdims=True) for y in (logits, expected_logits)
            )
        np.testing.assert_allclose(logits, expected_logits, atol=2e-4)


def test_floats_from_0_to_255_are_the_same_images(tmp_path):
    teacher = teachers.load(saved(tmp_path), normalization=NORMALIZATION, engine="mlas")
    images = sample_images(3)
    np.testing.assert_array_equal(teacher.logits(images), teacher.logits(images.astype(np.float32)))
    between = images.astype(np.float32) * np.float32(0.99)
    np.testing.assert_allclose(teacher.logits(between), expected(between), atol=1e-4)


@pytest.mark.parametrize("size", [(16, 12), (4, 3), (5, 20)])
def test_images_of_other_sizes_are_shown_whole(tmp_path, size):
    """Images of one colour have its logits at any size; an image in halves has those of the mean."""
    teacher = teachers.load(saved(tmp_path), normalization=NORMALIZATION, engine="mlas")
    images = tiny.constant((10, 200, 90), (0, 0, 0), size=size)
    np.testing.assert_allclose(teacher.logits(images), expected(images), atol=1e-4)
    halves = np.zeros((1, 32, 24, 3), np.float32)
    halves[:, :, :12] = 200
    np.testing.assert_allclose(teacher.logits(halves), expected(halves), atol=1e-3)


def test_a_size_that_the_file_leaves_open(tmp_path):
    path = saved(tmp_path, batch=None, size=(None, None))
    with pytest.raises(TeacherError, match="takes any height and width; give a size"):
        teachers.load(path, normalization=NORMALIZATION, engine="mlas")
    teacher = teachers.load(path, normalization=NORMALIZATION, size=7, engine="mlas")
    images = tiny.constant((10, 200, 90), size=(14, 14))
    np.testing.assert_allclose(teacher.logits(images), expected(images), atol=1e-4)


def test_what_a_file_records_precedes_the_default_and_must_agree(tmp_path):
    own = types.SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    path = saved(tmp_path, metadata=tiny.recorded(own.mean, own.std, list("abcd")))
    images = sample_images(2)
    logits = expected(images, own.mean, own.std)
    for normalization, size in ((None, None), (own, (8, 6))):
        teacher = teachers.load(
            path,
            normalization=normalization,
            size=size,
            default=NORMALIZATION,
            engine="mlas",
            class_names=list("abcd"),
        )
        np.testing.assert_allclose(teacher.logits(images), logits, atol=1e-4)
    with pytest.raises(
        TeacherError, match=r"records the mean \(0.1, 0.2, 0.3\), not \(.*leave out"
    ):
        teachers.load(path, normalization=NORMALIZATION, engine="mlas")
    other = types.SimpleNamespace(mean=own.mean, std=(0.5, 0.5, 0.4))
    with pytest.raises(TeacherError, match=r"records the std .*, not \(0.5, 0.5, 0.4\)"):
        teachers.load(path, normalization=other, engine="mlas")
    with pytest.raises(TeacherError, match="its images are 8x6 pixels, not 7x7"):
        teachers.load(path, size=7, engine="mlas")


def test_the_default_without_other_constants(tmp_path):
    path, images = saved(tmp_path), sample_images(2)
    teacher = teachers.load(path, default=NORMALIZATION, engine="mlas")
    np.testing.assert_allclose(teacher.logits(images), expected(images), atol=1e-4)
    zero = types.SimpleNamespace(mean=(0, 0, 0), std=(1, 1, 1))
    teacher = teachers.load(path, normalization=zero, default=NORMALIZATION, engine="mlas")
    logits = expected(images, zero.mean, zero.std)
    np.testing.assert_allclose(teacher.logits(images), logits, atol=1e-4)


def test_what_is_said_of_a_file_is_text_without_rounding():
    third = types.SimpleNamespace(mean=(1 / 3, 0, 0.5), std=(1, 1, 1))
    assert TeacherFile("a.onnx").settings == ""
    assert TeacherFile("a.onnx", third, 7).settings == "mean=0.333333333,0,0.5;std=1,1,1;size=7x7"
    assert TeacherFile("a.onnx", None, (7, 5)).settings == "size=7x5"
    with pytest.raises(TeacherError, match="size: 0 is outside"):
        _ = TeacherFile("a.onnx", None, 0).settings


def test_files_of_ours(tmp_path):
    arch = Arch.of(
        {"stem": [blocks.ConvNormAct(8, stride=2)], "head": [blocks.Classifier(8)]}, (8, 6)
    )
    model = tiny.Fake(arch)
    path = tmp_path / "ours.onnx"
    onnx_export.export(model, path, normalization={"mean": MEAN, "std": STD})
    images = sample_images(3)
    x = ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    for teacher in (
        teachers.load(path, engine="mlas"),
        teachers.from_model(model, NORMALIZATION, classes=5),
    ):
        assert teacher.classes == 5
        np.testing.assert_allclose(teacher.logits(images), model(x), rtol=1e-3, atol=1e-4)


def test_a_weights_file_is_read_by_the_reader(tmp_path):
    arch = Arch.of({"head": [blocks.Classifier(0)]}, (8, 6))
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    asked = []

    def read(file):
        asked.append(file)
        return tiny.Fake(arch), recorded

    recorded = types.SimpleNamespace(class_names=None, normalization=None)
    teacher = teachers.load(path, normalization=NORMALIZATION, size=(4, 4), read=read)
    assert asked == [path]
    assert teacher.logits(sample_images(2)).shape == (2, 5)
    with pytest.raises(TeacherError, match="has 5 classes, the data 4"):
        teachers.load(path, normalization=NORMALIZATION, classes=4, read=read)
    recorded.class_names = ("a", "b", "c", "d", "e")
    with pytest.raises(TeacherError, match="calls class 0 'a', the data 'b'"):
        teachers.load(path, class_names=["b", "a", "c", "d", "e"], read=read)
    with pytest.raises(TeacherError, match="does not record how its images are normalised"):
        teachers.load(path, read=read)
    recorded.normalization = NORMALIZATION
    assert teachers.load(path, size=(4, 4), read=read).classes == 5
    other = types.SimpleNamespace(mean=(0.1, 0.2, 0.3), std=STD)
    with pytest.raises(TeacherError, match="records the mean"):
        teachers.load(path, normalization=other, read=read)
    with pytest.raises(TeacherError, match="is not an ONNX model"):
        teachers.load(path, normalization=NORMALIZATION)


def test_a_model_sees_its_own_resolution_by_default():
    model = tiny.Fake(Arch.of({"head": [blocks.Classifier(0)]}, (8, 6)))
    for size, seen in ((None, (8, 6)), (5, (5, 5)), ((4, 7), (4, 7))):
        teachers.from_model(model, NORMALIZATION, size).logits(sample_images(1, (9, 9)))
        assert model.calls[-1].shape == (1, *seen, 3)


@pytest.mark.parametrize(
    ("settings", "asked", "message"),
    [
        ({}, {"classes": 10}, "has 4 classes, the data 10; .* train it on them first"),
        ({}, {"normalization": None}, r"does not record how its images are normalised.*\(0.485, 0"),
        ({}, {"size": 0}, "size: 0 is outside"),
        (
            {"metadata": tiny.recorded(names=list("abcd"))},
            {"class_names": list("abdc")},
            "calls class 2 'c', the data 'd'",
        ),
        (
            {"metadata": tiny.recorded(names=list("abc"))},
            {"class_names": list("abcd")},
            "has 3 class names, the data 4",
        ),
        ({"metadata": {"lcnas.normalization": "{"}}, {}, "lcnas.normalization is not JSON"),
        ({}, {"normalization": types.SimpleNamespace(mean=MEAN, std=(1, 1))}, "std: .* is not one"),
    ],
    ids=str,
)
def test_teachers_that_do_not_fit(tmp_path, settings, asked, message):
    path = saved(tmp_path, **settings)
    with pytest.raises(TeacherError, match=message) as error:
        teachers.load(path, **{"normalization": NORMALIZATION, "engine": "mlas", **asked})
    assert str(error.value).startswith("teacher")
    assert "\n" not in str(error.value)


def test_what_is_no_teacher(tmp_path):
    with pytest.raises(TeacherError, match=r"there is no file .*none\.onnx"):
        teachers.load(tmp_path / "none.onnx")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(TeacherError, match=r"teacher .*a\.onnx: is not an ONNX model"):
        teachers.load(tmp_path / "a.onnx")
    with pytest.raises(EngineError, match="engine: 'mlass' is not among"):
        teachers.load(saved(tmp_path), normalization=NORMALIZATION, engine="mlass")


def test_logits_that_are_none():
    arch = Arch.of({"head": [blocks.Classifier(0)]}, (8, 6))
    broken = teachers.from_model(tiny.Fake(arch, factor=np.nan), NORMALIZATION)
    with pytest.raises(TeacherError, match="returns logits that are not finite"):
        broken.logits(sample_images(1))

    class Short(tiny.Fake):
        def __call__(self, x):
            return super().__call__(x)[:1]

    with pytest.raises(TeacherError, match=r"returns \(1, 5\), not \(2, 5\)"):
        teachers.from_model(Short(arch), NORMALIZATION).logits(sample_images(2))
