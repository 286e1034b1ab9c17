"""Trainings of finalists: files, going on, reading back, and the test images."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from lcnas import blocks, models, onnx_export, training
from lcnas import files as files_
from lcnas.arch import Arch
from lcnas.blocks import Block
from lcnas.errors import DataError, LcnasError, TrainingError, TrainingFailedError
from lcnas.latency import engines
from lcnas.models import pretrained
from lcnas.training import Augment, deployed
from lcnas.training.onnx_validation import correct
from search import recipes, run_dir
from search.errors import SearchFailedError
from search.finals import deployment, network_training, testing
from search.finals import training as training_
from search.outcome import FinalNetwork
from search.packed import PackedImages, pack, unpack
from tests.training import tiny

DEPLOYED = 16  # pixels; images have 8, and runs of older versions trained at that
MLAS = engines.engine("mlas")


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiling():
        yield


@pytest.fixture(scope="module")
def data():
    return tiny.data(train=90)


def recipe(**changes):
    return tiny.recipe(**{"augment.flip": 0.0, "augment.evaluate_crop": 0.9, **changes})


def arch() -> Arch:
    return tiny.arch().at(DEPLOYED)


def run(data, out, **changes):
    return network_training.train(arch(), pack(data), recipe(), out, 3, **changes)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finals") / "run"
    return run(data, out, with_files=True), out


@pytest.fixture(scope="module")
def older(data, tmp_path_factory):
    """A training as runs of version 1 go on with: at another size than that of deployment."""
    out = tmp_path_factory.mktemp("finals") / "older"
    return run(data, out, train_size=tiny.SIDE), out


@pytest.fixture
def unable(monkeypatch):
    """No training: what is finished has to be read back."""

    def prepared(*_args, **_kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr("lcnas.training.loop._train", prepared)


def test_the_last_network_is_validated_and_exported(trained, data):
    actual, out = trained
    result = training.Result.load(out)
    assert actual.curve[-1] == result.epochs[-1]["validation_accuracy"]
    assert abs(actual.validation - actual.curve[-1]) <= 2 / 18
    assert actual.images == len(data.validation) == 18
    assert (actual.seed, actual.size, actual.is_deployed) == (3, DEPLOYED, True)
    assert len(actual.curve) == 2
    assert (result.tested, result.test) == ("", None)
    assert (actual.seconds, actual.compile_seconds) == (result.seconds, result.compile_seconds)
    assert actual.images_s > 0
    assert not [p.name for p in out.iterdir() if p.name.startswith(("checkpoints", "best"))]


def test_the_deployed_file_is_of_the_deployment_resolution(trained, data):
    actual, out = trained
    model = onnx_export.read(out / actual.onnx)
    interface = onnx_export.interface(model)
    assert (interface.size, interface.batch, interface.class_names) == (
        (16, 16),
        1,
        data.class_names,
    )
    about = {p.key: p.value for p in model.metadata_props}
    assert Arch.from_json(about["lcnas.arch"]) == arch()
    assert json.loads(about["lcnas.validation"]) == {
        "accuracy": actual.validation,
        "precision": "fp32",
        "pictures": 18,
        "resolution": DEPLOYED,
        "data": "synthetic",
        "epochs": 2,
        "seed": 3,
    }


def test_the_deployed_file_computes_what_the_trained_weights_do(trained):
    actual, out = trained
    weights = pretrained.read(out / "last.safetensors").weights
    model = models.build(arch(), 3)
    model.set_weights(weights)
    model.eval()
    x = np.random.default_rng(0).normal(size=(3, DEPLOYED, DEPLOYED, 3)).astype(np.float32)
    wanted = np.asarray(model(jnp.asarray(x)))
    given = onnx_export.Classifier.of(out / actual.onnx).logits(x)
    np.testing.assert_allclose(given, wanted, atol=1e-4 * np.abs(wanted).max())


def test_what_is_finished_is_read_back(trained, data, unable):
    actual, out = trained
    again = run(data, out)
    assert again == dataclasses.replace(actual, files={})


def test_a_kill_before_the_export_costs_no_training(trained, data, unable, tmp_path):
    actual, _ = trained
    files = {name: content for name, content in actual.files.items() if name != run_dir.NETWORK}
    network_training.write_files(tmp_path / "run", files)
    again = run(data, tmp_path / "run", with_files=True)
    assert again.files == actual.files  # the file is the same to the byte


def test_files_that_were_brought_are_a_finished_training(trained, data, unable, tmp_path):
    actual, out = trained
    there = tmp_path / "deep" / "run"
    network_training.write_files(there, actual.files)
    assert run(data, there) == dataclasses.replace(actual, files={})
    file = {"there": there / run_dir.NETWORK, "here": out / run_dir.NETWORK}
    hits = deployed.hits(file, data, engine=MLAS)
    np.testing.assert_array_equal(hits["there"].correct, hits["here"].correct)


def test_a_finished_training_is_written_last_of_all(trained, monkeypatch, tmp_path):
    """So that a kill in between leaves one that is not finished."""
    order = []
    monkeypatch.setattr(files_, "write", lambda path, content: order.append(path.name))
    network_training.write_files(tmp_path, trained[0].files)
    assert sorted(order) == sorted(trained[0].files)
    assert order[-1] == "result.json"


def test_other_things_in_the_folder_are_refused(trained, data):
    _, out = trained
    with pytest.raises(TrainingError, match="another run: seed is 3 there and 4 here"):
        network_training.train(arch(), pack(data), recipe(), out, 4)
    with pytest.raises(TrainingError, match="epochs is 2 there and 3 here"):
        network_training.train(arch(), pack(data), recipe(epochs=3), out, 3)


def test_a_head_that_needs_its_own_size_is_refused_before_anything(data, tmp_path):
    stages: dict[str, list[Block]] = {"head": [blocks.DenseHead(pool=False)]}
    with pytest.raises(TrainingFailedError, match="its head does not pool"):
        network_training.train(
            Arch.of(stages, 16), pack(data), recipe(), tmp_path / "run", 0, train_size=8
        )
    assert not (tmp_path / "run").exists()


def test_an_interrupted_training_goes_on(trained, data, tmp_path):
    """Stopped in the second epoch and repeated, it ends as one that was not stopped."""
    actual, _ = trained
    packed = pack(data)

    def stop(number):
        if number == 5:
            raise KeyboardInterrupt

    watched = tiny.watched(unpack(packed), stop)
    with pytest.raises(KeyboardInterrupt):
        network_training.train(arch(), watched, recipe(), tmp_path / "run", 3)
    again = network_training.train(arch(), packed, recipe(), tmp_path / "run", 3, with_files=True)
    for name in ("last.safetensors", "last.onnx", run_dir.NETWORK):
        assert again.files[name] == actual.files[name]
    assert again.curve == actual.curve


# -- the delivered file ----------------------------------------------------------------------------


def about(out):
    return json.loads((out / run_dir.DEPLOYED).read_text())


def test_what_is_known_of_the_file_is_the_files(trained, data):
    actual, out = trained
    messages = about(out)
    assert messages["validation"] == messages["fp32"] == actual.validation
    assert (messages["images"], messages["resolution"], messages["precision"]) == (
        18,
        DEPLOYED,
        "fp32",
    )
    view = (recipe().augment, data.normalization)
    classifier = onnx_export.Classifier.of(out / actual.onnx)
    assert correct(classifier, *view, data.validation).mean() == actual.validation


def test_a_file_that_does_not_compute_what_its_network_does_ends_the_run(
    trained, data, monkeypatch, tmp_path
):
    """Files are kept, and nothing is tried again or left out."""
    actual, _ = trained
    out = tmp_path / "run"
    kept = {n: c for n, c in actual.files.items() if n not in (run_dir.NETWORK, run_dir.DEPLOYED)}
    network_training.write_files(out, kept)
    model = onnx_export.read(actual.files[run_dir.NETWORK])
    images = next(data.validation.batches(18)).images
    prepared = onnx_export.interface(model).preprocessing()(images)
    said = onnx_export.Classifier.of(model).logits(prepared).argmax(axis=1)
    source = training.data.Memory(images, said.astype(np.int32), np.ones(18, np.float32))
    agrees = dataclasses.replace(data, validation=training.data.Validation(source, np.arange(18)))
    given = (arch(), agrees, training.Result.load(out), 1, MLAS)
    export = onnx_export.export
    monkeypatch.setattr(onnx_export, "export", lambda *a, **k: negated(export(*a, **k)))
    with pytest.raises(
        deployment.ApartError, match=r"of 18 validation images correctly, its network .* are kept$"
    ):
        deployment.deploy(*given)
    assert (out / run_dir.NETWORK).is_file()
    assert not (out / run_dir.DEPLOYED).exists()
    monkeypatch.setattr(onnx_export, "export", export)
    deployment.deploy(*given)
    assert about(out)["network"] > 0.9


def test_a_worker_passes_on_what_no_second_attempt_would_mend(monkeypatch):
    tries = []

    def train():
        tries.append(1)
        raise deployment.ApartError("they should be the same")

    with pytest.raises(deployment.ApartError):
        training_._with_retry(train)
    assert len(tries) == 1


def negated(model):
    """Return a model that gives its logits with the other sign."""
    (output,) = (value.name for value in model.graph.output)
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Neg", ["inner"], [output]))
    return model


@pytest.mark.parametrize(
    ("network", "file", "n", "apart"),
    [
        (0.700, 0.700, 1000, False),
        (0.700, 0.705, 1000, False),  # half a point
        (0.700, 0.694, 1000, True),
        (0.50, 0.70, 10, False),  # two images of ten
        (0.50, 0.80, 10, True),
    ],
)
def test_half_a_point_or_two_images_are_allowed(
    trained, data, monkeypatch, tmp_path, network, file, n, apart
):
    actual, _ = trained
    kept = {n: c for n, c in actual.files.items() if n != run_dir.DEPLOYED}
    network_training.write_files(tmp_path / "run", kept)
    monkeypatch.setattr(deployment, "_compare", lambda *_: (network, file))
    rows = np.resize(data.validation.rows, n)
    held = dataclasses.replace(data.validation, rows=rows)
    result = training.Result.load(tmp_path / "run")
    given = (arch(), dataclasses.replace(data, validation=held), result, 1, MLAS)
    if apart:
        with pytest.raises(deployment.ApartError):
            deployment.deploy(*given)
    else:
        deployment.deploy(*given)
        assert about(tmp_path / "run")["network"] == network


def test_int8_is_delivered_where_it_is_asked_for(trained, data, unable, tmp_path):
    actual, _ = trained
    kept = {n: c for n, c in actual.files.items() if n not in (run_dir.NETWORK, run_dir.DEPLOYED)}
    out = tmp_path / "run"
    network_training.write_files(out, kept)
    result = run(data, out, engine=dataclasses.replace(MLAS, precision="int8"), with_files=True)
    messages = about(out)
    assert messages["precision"] == "int8"
    assert onnx_export.is_quantised(onnx_export.read(out / run_dir.NETWORK))
    assert not onnx_export.is_quantised(onnx_export.read(out / run_dir.NETWORK_FP32))
    assert run_dir.NETWORK_FP32 in result.files
    view = (recipe().augment, data.normalization)
    for name, key in ((run_dir.NETWORK, "validation"), (run_dir.NETWORK_FP32, "fp32")):
        hits = correct(onnx_export.Classifier.of(out / name), *view, data.validation)
        assert hits.mean() == messages[key]
    assert result.validation == messages["validation"]
    recorded = onnx_export.interface(onnx_export.read(out / run_dir.NETWORK))
    assert recorded.precision == "int8"
    measured = json.loads(recorded.metadata["lcnas.validation"])
    assert (measured["accuracy"], measured["precision"]) == (messages["validation"], "int8")


class Kept:
    """A run's folder, as far as testing needs it."""

    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return self.path / name


def final(name):
    return FinalNetwork(name, "finalist", arch(), 0, (), 1, 1, None)


def end_of(folder: Any, data, precision, runs):
    """Return a final as the end of a search leaves it, and the notes."""
    engine = deployed.with_precision(MLAS, precision)
    problem = SimpleNamespace(table=SimpleNamespace(engine=engine))
    context: Any = SimpleNamespace(problem=problem, data=data, run_dir=folder)
    entry = training_.FinalEntry(final("finalist-1"), folder.path / "finals" / "finalist-1")
    (network,), notes = testing.test(context, [training_.TrainedEntry(entry, tuple(runs))])
    return network, notes


def test_the_printed_accuracy_is_the_delivered_files(trained, data, unable, tmp_path):
    """Over originals, prepared as for deployment; of int8 the fp32 twin's stands beside it."""
    actual, _ = trained
    folder: Any = Kept(tmp_path)
    out = tmp_path / "finals" / "finalist-1" / "seed-3"
    kept = {n: c for n, c in actual.files.items() if n not in (run_dir.NETWORK, run_dir.DEPLOYED)}
    network_training.write_files(out, kept)
    one = run(data, out, engine=deployed.with_precision(MLAS, "int8"))
    result, notes = end_of(folder, data, "int8", [one])
    (kept_run,) = result.runs
    for name, value in (
        (run_dir.NETWORK, kept_run.test),
        (run_dir.NETWORK_FP32, kept_run.test_fp32),
    ):
        interface = onnx_export.interface(onnx_export.read(out / name))
        batch = next(data.test.batches(20))
        x = interface.preprocessing()(batch.images)
        right_ = onnx_export.Classifier.of(out / name).logits(x).argmax(axis=1) == batch.labels
        assert right_.mean() == value
    assert (kept_run.precision, kept_run.resolution, notes) == ("int8", DEPLOYED, ())
    assert result.winner
    assert (tmp_path / "networks" / "finalist-1.onnx").read_bytes() == (
        out / run_dir.NETWORK
    ).read_bytes()
    # What has been read is not read again.
    (out / run_dir.NETWORK).write_bytes(b"")
    again = testing._run(training_.FinalEntry(result, out.parent), one, MLAS, folder)
    assert again.test == kept_run.test


# -- the test images of older runs ---------------------------------------------------------------


def test_an_older_run_goes_on_at_its_training_size(older, data, unable):
    actual, out = older
    assert (actual.size, actual.is_deployed) == (tiny.SIDE, False)
    assert actual.validation == actual.curve[-1]
    interface = onnx_export.interface(onnx_export.read(out / actual.onnx))
    assert interface.size == (DEPLOYED, DEPLOYED)
    assert json.loads(interface.metadata["lcnas.validation"])["resolution"] == tiny.SIDE
    assert not (out / run_dir.DEPLOYED).exists()
    assert run(data, out, train_size=tiny.SIDE) == actual


def test_hits_are_those_of_the_trainings_own_evaluation(older, data):
    _, out = older
    hits = testing.last_onnx_hits(out, data)
    assert hits.shape == (len(data.test),) == (20,)
    assert hits.dtype == bool
    model = models.load_pretrained(out / "last.safetensors")
    augment = Augment(crop="none", evaluate_crop=0.9)
    scores = training.evaluate(model, data.test, data.normalization, augment=augment)
    assert hits.mean() == scores.accuracy
    assert 0 < hits.sum() < 20  # else the comparison says little


def test_each_hit_is_the_image_in_its_place(older, data):
    _, out = older
    every = testing.last_onnx_hits(out, data)
    rows = np.array([7, 3, 11])
    some = dataclasses.replace(data, test=training.data.Test(data.test.source, rows))
    np.testing.assert_array_equal(testing.last_onnx_hits(out, some), every[rows])


def test_test_images_are_read_once_and_no_other(older, data):
    _, out = older
    reads: list[str] = []
    for split in ("train", "validation", "test"):
        held = getattr(data, split)

        class Source:
            labels, cropped = held.source.labels, False

            def __init__(self, inner, name):
                self.inner, self.name = inner, name

            def read(self, plan, view):
                reads.append(self.name)
                return self.inner.read(plan, view)

        watched = type(held)(Source(held.source, split), held.rows)
        data = dataclasses.replace(data, **{split: watched})
    testing.last_onnx_hits(out, data)
    assert reads == ["test"]


def test_the_validation_images_do_not_stand_in_for_them(older, data):
    swapped = dataclasses.replace(data, test=data.validation)
    with pytest.raises(DataError, match="the test split is needed here"):
        testing.last_onnx_hits(older[1], swapped)


def test_a_folder_without_a_network_is_refused(data, tmp_path):
    with pytest.raises(LcnasError, match=r"last\.onnx"):
        testing.last_onnx_hits(tmp_path, data)


def test_hits_are_kept_as_bools(tmp_path):
    hits = np.array([True, False, True])
    testing.save_hits(tmp_path / "hits.npy", hits)
    kept = np.load(tmp_path / "hits.npy", allow_pickle=False)
    assert kept.dtype == bool
    np.testing.assert_array_equal(kept, hits)
    assert [p.name for p in tmp_path.iterdir()] == ["hits.npy"]


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchFailedError, match="cannot be written"):
        testing.save_hits(tmp_path / "file" / "hits.npy", np.ones(2, bool))
    with pytest.raises(SearchFailedError, match="cannot be written"):
        network_training.write_files(tmp_path / "file" / "run", {"result.json": b"{}"})


# -- recipes ---------------------------------------------------------------------------------------


def shown(n, spec="synthetic:12", side=64) -> PackedImages:
    """Return n images without content."""
    few = pack(tiny.data())
    return dataclasses.replace(
        few,
        train_images=np.broadcast_to(np.uint8(0), (n, side, side, 3)),
        train_labels=np.zeros(n, np.int32),
        spec=spec,
    )


@pytest.mark.parametrize(
    ("n", "epochs", "batch"),
    [(3000, 2, 16), (4000, 4, 32), (8000, 4, 64), (20_000, 8, 128), (100, 1, 16), (10, 1, 10)],
)
@pytest.mark.parametrize("recipe_of", [recipes.search_recipe, recipes.final_recipe])
def test_the_batch_is_the_largest_that_leaves_enough_steps(recipe_of, n, epochs, batch):
    actual = recipe_of(shown(n), epochs)
    assert (actual.epochs, actual.batch) == (epochs, batch)
    assert n // actual.batch >= 1
    assert actual.warmup_epochs <= 0.1 * epochs
    assert actual.final_learning_rate == 0
    assert not actual.needs_teacher
    assert (actual.resolution, actual.train_resolution) in ((None, None), (32, None), (128, None))


@pytest.mark.parametrize(
    ("spec", "side", "crop", "weight_decay"),
    [
        ("synthetic", 64, "shift", 5e-4),
        ("cifar10:DIR", 32, "shift", 5e-4),
        ("npz:F", 64, "shift", 5e-4),
        ("npz:F", 65, "resized", 1e-4),
        ("imagefolder:DIR", 32, "resized", 1e-4),
    ],
)
def test_the_kind_of_data_decides_on_the_preset(spec, side, crop, weight_decay):
    actual = recipes.search_recipe(shown(1000, spec, side), 3)
    assert (actual.augment.crop, actual.weight_decay) == (crop, weight_decay)


def test_a_long_training_is_as_its_preset_says():
    actual = recipes.final_recipe(shown(40_000, "cifar10:DIR", 32), 30)
    preset = training.recipes.load("cifar10")
    assert actual.differences(preset) == ["evaluate_epochs is 1 there and 3 here"]
    short = recipes.search_recipe(shown(3000, "synthetic"), 2)
    assert (short.dropout, short.ema) == (0.0, 0.0)
