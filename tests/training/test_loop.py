"""Whole trainings, small ones: what they leave behind, kills, and faults."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcnas import blocks, models
from lcnas.arch import Arch
from lcnas.blocks import Block
from lcnas.errors import TeacherError, TrainingError, TrainingFailedError
from lcnas.models import pretrained
from lcnas.training import Result, Stopped, check, fit, metrics, session
from lcnas.training import job as job_module
from lcnas.training.data import IMAGENET, Normalization
from lcnas.training.devices import Devices
from lcnas.training.functional import Functional
from lcnas.training.teachers import TeacherFile
from tests.training import tiny

ONE = Devices(None)
STEPS = 3  # an epoch of the tiny recipe
NAMES = ("best.onnx", "best.safetensors", "last.onnx", "last.safetensors")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compile each program once for all tests here, and for the process that is killed."""
    from jax.experimental.compilation_cache import compilation_cache

    folder = tmp_path_factory.mktemp("cache")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    jax.config.update(names[0], str(folder))
    jax.config.update(names[1], 0.0)
    with tiny.quick_compiling():
        yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def dataset():
    return tiny.data()


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """A training that nothing disturbed, and which splits it read."""
    out = tmp_path_factory.mktemp("straight")
    watched = tiny.watched(dataset)
    result = fit(tiny.arch(), watched, tiny.recipe(), out, seed=5, devices=ONE, quiet=True)
    return result, watched


def same_as(straight, out):
    """Assert that a folder holds the very weights and metrics of the undisturbed training."""
    for name in NAMES:
        assert (out / name).read_bytes() == (straight.out / name).read_bytes(), name
    assert tiny.lines(metrics.read(out)) == tiny.lines(metrics.read(straight.out))
    repeated, original = Result.load(out), Result.load(straight.out)
    for field in ("validation", "test", "best_epoch", "steps", "params", "tested"):
        assert getattr(repeated, field) == getattr(original, field)


# -- what is left behind ---------------------------------------------------------------------------


def test_the_result(straight):
    result, _ = straight
    assert result.steps == 2 * STEPS
    assert [e["epoch"] for e in result.epochs] == [1, 2]
    accuracies = [e["validation_accuracy"] for e in result.epochs]
    assert result.validation.accuracy == max(accuracies)
    assert accuracies[result.best_epoch - 1] == max(accuracies)
    assert result.tested == "best"
    assert result.test.images == 20
    assert result.params == sum(
        np.size(w)
        for name, w in pretrained.read(result.out / "best.safetensors").weights.items()
        if not name.endswith(("/mean", "/var"))
    )
    assert Result.load(result.out) == result
    data = json.loads((result.out / "result.json").read_text())
    assert data["surroundings"]["libraries"]["jax"] == jax.__version__
    assert data["surroundings"]["machine"]["cpu"]
    assert data["recipe"] == json.loads((result.out / "recipe.json").read_text())
    assert (data["seed"], data["arch_id"]) == (5, tiny.arch().id)


def test_the_lines_of_metrics(straight):
    lines = metrics.read(straight[0].out)
    assert [(x["kind"], x["step"]) for x in lines] == [
        ("step", 2),
        ("epoch", 3),
        ("step", 4),
        ("step", 6),
        ("epoch", 6),
    ]
    rates = [x["learning_rate"] for x in lines if x["kind"] == "step"]
    recipe = tiny.recipe()
    expected = [recipe.learning_rate * r for r in (2 / 3, 1.0, 0.5 * (1 + np.cos(np.pi * 2 / 3)))]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert {x["train_loss"] for x in lines if x["kind"] == "epoch"}


def test_the_test_images_are_read_once_at_the_end(straight):
    _, watched = straight
    assert watched.reads.count("test") == 1
    assert watched.reads[-1] == "test"
    assert watched.reads[:2] == ["validation", "validation"]


def test_what_is_exported_computes_the_same_and_says_what_it_is(straight, dataset):
    import onnx
    import onnxruntime

    result, _ = straight
    path = result.out / "best.onnx"
    about = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(about["lcnas.class_names"]) == list(dataset.class_names)
    assert json.loads(about["lcnas.normalization"])["mean"] == pytest.approx(
        dataset.normalization.mean
    )
    (batch,) = dataset.test.batches(len(dataset.test))
    mean, std = np.float32(dataset.normalization.mean), np.float32(dataset.normalization.std)
    x = ((batch.images / np.float32(255) - mean) / std).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": x.transpose(0, 3, 1, 2)})
    assert np.mean(logits.argmax(axis=-1) == batch.labels) == pytest.approx(result.test.accuracy)
    kept = pretrained.read(result.out / "best.safetensors")
    assert (kept.arch, kept.classes) == (tiny.arch(), 3)
    net = Functional.of(models.build(kept.arch, 3))
    flax = jax.jit(net.test)(*net.split(kept.weights), x)
    np.testing.assert_allclose(logits, flax, rtol=1e-4, atol=1e-5)


def test_asked_again_a_finished_run_answers_at_once(straight, dataset):
    result, _ = straight
    watched = tiny.watched(dataset)
    again = fit(tiny.arch(), watched, tiny.recipe(), result.out, seed=5, devices=ONE, quiet=True)
    assert again == result
    assert watched.train.read_count == 0
    assert watched.reads == []


def test_test_images_are_read_later_but_not_twice(dataset, tmp_path):
    def run(test):
        watched = tiny.watched(dataset)
        result = fit(
            tiny.arch(),
            watched,
            tiny.recipe(epochs=1),
            tmp_path,
            devices=ONE,
            quiet=True,
            test=test,
        )
        return result, watched

    first, _ = run("none")
    assert first.test is None
    (tmp_path / "recipe.json").unlink()  # as after a kill between two files
    later, watched = run("last")
    assert watched.train.read_count == 0
    assert (later.tested, watched.reads) == ("last", ["validation", "test"])
    assert (tmp_path / "recipe.json").is_file()
    with pytest.raises(TrainingError, match="has read the test images with its last network"):
        run("best")
    assert run("none")[0] == later


# -- stopping and going on -------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, 2), (signal.SIGTERM, 3)])
def test_a_signal_stores_the_state_and_leaves_and_the_same_call_goes_on(
    straight, dataset, tmp_path, number, at
):
    seen = tiny.watched(dataset, lambda i: signal.raise_signal(number) if i == at + 1 else None)
    settings: dict[str, Any] = {"seed": 5, "devices": ONE, "quiet": True}
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught:
        fit(tiny.arch(), seen, tiny.recipe(), tmp_path, **settings)
    assert (caught.value.signal, caught.value.step) == (number, at)
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoints" / str(at)).is_dir()
    fit(tiny.arch(), dataset, tiny.recipe(), tmp_path, **settings)
    same_as(straight[0], tmp_path)


class _Signals:
    """A split that is the last thing read before a signal comes."""

    def __init__(self, split, at):
        self._split, self._left = split, at

    def __getattr__(self, name):
        return getattr(self._split, name)

    def batches(self, *args, **kwargs):
        self._left -= 1
        if not self._left:
            signal.raise_signal(signal.SIGTERM)
        return self._split.batches(*args, **kwargs)


def test_a_signal_after_the_last_step_loses_nothing(straight, dataset, tmp_path):
    seen = tiny.watched(dataset)
    seen.validation = _Signals(dataset.validation, tiny.recipe().epochs)
    settings: dict[str, Any] = {"seed": 5, "devices": ONE, "quiet": True}
    with pytest.raises(Stopped) as caught:
        fit(tiny.arch(), seen, tiny.recipe(), tmp_path, **settings)
    assert caught.value.step == 6
    assert (tmp_path / "checkpoints" / "6").is_dir()
    assert not (tmp_path / "result.json").exists()
    seen = tiny.watched(dataset)
    fit(tiny.arch(), seen, tiny.recipe(), tmp_path, **settings)
    assert seen.train.read_count == 0
    same_as(straight[0], tmp_path)


KILLED = """
import os, signal, sys
from tests.training import tiny
from lcnas.training import fit
from lcnas.training.data import IMAGENET
from lcnas.training.devices import Devices
out, at = sys.argv[1], int(sys.argv[2])
die = lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == at + 1 else None
watched = tiny.watched(tiny.data(), die)
fit(tiny.arch(), watched, tiny.recipe(), out, seed=5, devices=Devices(None), save_minutes=0)
"""


def test_a_kill_at_any_step_changes_no_bit_of_the_result(
    straight, dataset, tmp_path, cache, checkout
):
    at = np.random.default_rng().integers(1, 2 * STEPS)
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(at)]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "result.json").exists()
    fit(tiny.arch(), dataset, tiny.recipe(), tmp_path, seed=5, devices=ONE, quiet=True)
    same_as(straight[0], tmp_path)


# -- starting from weights, freezing, a teacher ----------------------------------------------------


def test_weights_to_start_from_frozen_blocks_and_an_onnx_teacher(straight, dataset, tmp_path):
    source = straight[0].out
    start = pretrained.read(source / "last.safetensors").weights
    settings: dict[str, Any] = {
        "seed": 5,
        "devices": ONE,
        "quiet": True,
        "test": "none",
        "freeze": ["stem"],
    }
    recipe = tiny.recipe(epochs=1, ema=0.0, distill="js", distill_weight=0.9, evaluate_epochs=5)
    result = fit(
        tiny.arch(), dataset, recipe, tmp_path, init=start, teacher=source / "best.onnx", **settings
    )
    assert result.test is None
    assert result.best_epoch == 1
    after = pretrained.read(tmp_path / "last.safetensors").weights
    for name, value in after.items():
        assert np.array_equal(value, start[name]) == name.startswith("stem/"), name
    with pytest.raises(TrainingError) as caught:
        fit(tiny.arch(), dataset, recipe, tmp_path, **settings)
    assert "the initial weights differ" in str(caught.value)
    assert "the teacher differs" in str(caught.value)


def test_a_file_to_start_from_keeps_all_but_the_head_where_classes_are_others(straight):
    path = straight[0].out / "last.safetensors"
    kept = pretrained.read(path).weights
    arch = tiny.arch().at(12)  # another resolution is no other network to a file of weights
    for classes in (3, 4):
        more = tiny.data(classes=classes)
        job = job_module.prepared(arch, more, tiny.recipe(), 0, path, (), None, ONE)
        assert job.weights.keys() == kept.keys()
        for name, value in job.weights.items():
            same = value.shape == kept[name].shape and np.array_equal(value, kept[name])
            assert same == (classes == 3 or not name.startswith("head/")), name


def test_a_head_for_classes_of_other_names_is_new(straight, tmp_path, dataset):
    arch, weights = tiny.arch(), pretrained.read(straight[0].out / "last.safetensors").weights
    heads = {}
    for names in (dataset.class_names, dataset.class_names[::-1]):
        path = tmp_path / "named.safetensors"
        pretrained.save(path, arch, weights, class_names=names)
        job = job_module.prepared(arch, dataset, tiny.recipe(), 0, path, (), None, ONE)
        heads[names] = job.weights["head/2/kernel"]
        assert [note.startswith("init: the last layer is new") for note in job.notes] == (
            [] if names == dataset.class_names else [True]
        )
    kernel = weights["head/2/kernel"]
    assert np.array_equal(heads[dataset.class_names], kernel)
    assert not np.array_equal(heads[dataset.class_names[::-1]], kernel)
    with pytest.raises(TeacherError, match=r"calls class 0 .*, the data"):
        job_module.prepared(arch, dataset, tiny.recipe(), 0, None, (), path, ONE)


def test_weights_files_of_lcnas_are_teachers_as_well(straight, dataset):
    path = straight[0].out / "last.safetensors"
    job = job_module.prepared(tiny.arch(), dataset, tiny.recipe(), 0, None, (), path, ONE)
    images = next(dataset.validation.batches(4)).images
    net = Functional.of(models.build(tiny.arch(), 3))
    mean, std = np.float32(dataset.normalization.mean), np.float32(dataset.normalization.std)
    x = (images / np.float32(255) - mean) / std
    expected = jax.jit(net.test)(*net.split(pretrained.read(path).weights), x)
    assert job.teacher is not None
    np.testing.assert_allclose(job.teacher.logits(images), expected, rtol=1e-4, atol=1e-5)


def test_settings_of_a_teachers_file_are_part_of_the_run(straight, dataset, tmp_path):
    kept = pretrained.read(straight[0].out / "last.safetensors")
    assert kept.normalization is not None
    assert kept.normalization.mean == pytest.approx(dataset.normalization.mean)
    path = tmp_path / "silent.safetensors"  # that says nothing of its images itself
    pretrained.save(path, kept.arch, kept.weights)
    images = next(dataset.validation.batches(4)).images

    def run_of(teacher):
        job = job_module.prepared(tiny.arch(), dataset, tiny.recipe(), 0, None, (), teacher, ONE)
        assert job.teacher is not None
        return job.identity.teacher, job.teacher.logits(images)

    own = dataset.normalization
    other = Normalization((0.1, 0.2, 0.3), own.std)
    first, logits = run_of(path)
    for same in (TeacherFile(path), TeacherFile(path, own)):
        np.testing.assert_array_equal(run_of(same)[1], logits)
    names = [run_of(teacher)[0] for teacher in (TeacherFile(path), TeacherFile(path, other))]
    assert names == [first, f"{first}/mean=0.1,0.2,0.3;std={','.join(f'{v:.9g}' for v in own.std)}"]
    net = Functional.of(models.build(tiny.arch(), 3))
    mean, std = (np.array(v, np.float32) for v in (other.mean, other.std))
    x = (images / np.float32(255) - mean) / std
    expected = jax.jit(net.test)(*net.split(pretrained.read(path).weights), x)
    np.testing.assert_allclose(run_of(TeacherFile(path, other))[1], expected, rtol=1e-4, atol=1e-5)
    smaller, seen = run_of(TeacherFile(path, size=4))
    assert smaller == f"{first}/size=4x4"
    assert np.abs(seen - logits).max() > 1e-3


def test_a_network_with_weights_goes_on_from_them(straight, dataset):
    weights = pretrained.read(straight[0].out / "last.safetensors").weights
    model = models.build(tiny.arch(), 3)
    model.set_weights(weights)
    job = job_module.prepared(model, dataset, tiny.recipe(), 0, None, (), None, ONE)
    assert job.weights.keys() == weights.keys()
    for name, value in job.weights.items():
        np.testing.assert_array_equal(value, weights[name])
    with pytest.raises(TrainingError, match="it has 4 classes, the data have 3"):
        check(models.build(tiny.arch(), 4), dataset, tiny.recipe(), "nowhere", devices=ONE)


class Fixed:
    """A teacher of three classes that keeps what it saw."""

    classes = 3

    def logits(self, images):
        self.seen = images
        return np.zeros((len(images), 3), np.float32)


def test_a_teacher_sees_the_students_images_before_normalisation(dataset):
    teacher = Fixed()
    recipe = tiny.with_augment(tiny.recipe(), flip=0.0)
    job = job_module.prepared(tiny.arch(), dataset, recipe, 0, None, (), teacher, ONE)
    batch = next(dataset.train.batches(16, seed=0, epoch=0))
    job.step(job.start(), 0, batch)
    np.testing.assert_allclose(teacher.seen, batch.images, atol=1e-2)
    assert teacher.seen.dtype == np.float32


def test_a_teacher_that_does_not_fit_or_is_missing(dataset):
    teacher = Fixed()
    teacher.classes = 5
    for recipe, source, message in (
        (tiny.recipe(), teacher, "teacher: has 5 classes, the data 3; .*train it on them first"),
        (tiny.recipe(needs_teacher=True), None, "the recipe tiny needs one"),
    ):
        with pytest.raises(TrainingError, match=message):
            check(tiny.arch(), dataset, recipe, "nowhere", teacher=source, devices=ONE)


def test_images_without_labels_need_a_teacher(tmp_path):
    from PIL import Image

    from lcnas.training import load_data

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with load_data(
        "synthetic:classes=3,train=60,test=20", size=8, workers=0, unlabelled=tmp_path, cache=False
    ) as more:
        with pytest.raises(TrainingError, match="1 images have no label, and there is no teacher"):
            check(tiny.arch(), more, tiny.recipe(), "nowhere", devices=ONE)
        check(tiny.arch(), more, tiny.recipe(), "nowhere", teacher=Fixed(), devices=ONE)


# -- what is refused -------------------------------------------------------------------------------


def test_a_folder_of_another_run_names_what_differs(straight, dataset):
    out = straight[0].out
    cases = [
        (
            (tiny.arch(dropout=0.1), dataset, tiny.recipe(), 5),
            "the network is tiny .* there and tiny",
        ),
        ((tiny.arch(), tiny.data(seed=1), tiny.recipe(), 5), "the data or their split differ"),
        (
            (tiny.arch(), dataclasses.replace(dataset, normalization=IMAGENET), tiny.recipe(), 5),
            "the data or their split differ",
        ),
        ((tiny.arch(), dataset, tiny.recipe(epochs=3), 5), "epochs is 2 there and 3 here"),
        ((tiny.arch(), dataset, tiny.recipe(), 6), "seed is 5 there and 6 here"),
    ]
    for (arch, data, recipe, seed), message in cases:
        with pytest.raises(TrainingError, match=f"holds another run: {message}") as caught:
            fit(arch, data, recipe, out, seed=seed, devices=ONE)
        assert "\n" not in str(caught.value)


def test_folders_that_are_none_of_ours(dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TrainingError, match=r"holds files but no run of lcnas \(notes.txt"):
        fit(tiny.arch(), dataset, tiny.recipe(), tmp_path, devices=ONE)
    with pytest.raises(TrainingError, match="is not a folder"):
        check(tiny.arch(), dataset, tiny.recipe(), tmp_path / "notes.txt", devices=ONE)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run.json cannot be read"):
        check(tiny.arch(), dataset, tiny.recipe(), tmp_path, devices=ONE)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_two_trainings_in_one_folder(dataset, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process trains in"):
            fit(tiny.arch(), dataset, tiny.recipe(), tmp_path, devices=ONE)


def test_a_head_that_does_not_pool_trains_at_its_own_resolution(dataset, tmp_path):
    stages: dict[str, list[Block]] = {
        "stem": [blocks.ConvNormAct(4)],
        "head": [blocks.DenseHead(pool=False)],
    }
    arch = Arch.of(stages, resolution=tiny.SIDE)
    check(arch, dataset, tiny.recipe(train_resolution=tiny.SIDE), tmp_path, devices=ONE)
    with pytest.raises(TrainingError, match="train_resolution: 6 gives the network other weights"):
        check(arch, dataset, tiny.recipe(train_resolution=6), tmp_path, devices=ONE)


def test_arguments_out_of_range(dataset, tmp_path):
    for settings, message in (
        ({"seed": -1}, "seed: -1 is not a whole number of 0"),
        ({"keep": 0}, "keep: 0 is not a whole number of at least 1"),
        ({"save_minutes": float("nan")}, "save_minutes: nan is not a number"),
        ({"test": "first"}, "'first' is not among best, last, none"),
        ({"freeze": ["steam"]}, r"'steam' is not among .*did you mean 'stem'"),
    ):
        with pytest.raises(TrainingError, match=message):
            fit(tiny.arch(), dataset, tiny.recipe(), tmp_path, devices=ONE, **settings)
    wrong: list[tuple[Any, str]] = [
        (
            ("pplcnet_0.5x", dataset, tiny.recipe()),
            "network: 'pplcnet_0.5x' is of the wrong type; zoo.load",
        ),
        (
            (tiny.arch(), "synthetic", tiny.recipe()),
            "data: 'synthetic' is of the wrong type; training.load_data",
        ),
        ((tiny.arch(), dataset, "proxy"), "recipe: 'proxy' is of the wrong type; recipes.load"),
    ]
    for (network, data, recipe), message in wrong:
        with pytest.raises(TrainingError, match=message):
            fit(network, data, recipe, tmp_path, devices=ONE)
    assert list(tmp_path.iterdir()) == []


# -- faults ----------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_what_to_try_and_stores_nothing(dataset, tmp_path):
    recipe = tiny.recipe(learning_rate=1e30, log_steps=1)
    with pytest.raises(TrainingFailedError) as caught:
        fit(tiny.arch(), dataset, recipe, tmp_path, devices=ONE, quiet=True, save_minutes=0)
    message = str(caught.value)
    assert "the loss is nan at step" in message or "the loss is inf at step" in message
    assert "--learning-rate 3.3e+29" in message
    assert "--clip 1" in message
    for folder in (tmp_path / "checkpoints").glob("[0-9]*"):
        assert int(folder.name) <= 1  # the first step's loss was a number
    lines = metrics.read(tmp_path)
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_no_memory_is_one_line_on_what_to_lower():
    with pytest.raises(TrainingFailedError) as caught, session.memory(tiny.recipe()):
        jnp.zeros((1 << 45,), jnp.float32).block_until_ready()
    assert "out of memory" in str(caught.value)
    assert "--accumulate 2" in str(caught.value)
    assert "--batch 8" in str(caught.value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), session.memory(tiny.recipe()):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
