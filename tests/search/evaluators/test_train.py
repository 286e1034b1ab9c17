"""Short trainings: what they give, what fails, and what is given up."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from lcnas import blocks
from lcnas.arch import Arch
from lcnas.blocks import Block
from lcnas.errors import DataError, TrainingFailedError
from lcnas.latency import machine
from lcnas.training.compilation import keep_programs
from lcnas.training.devices import Devices
from lcnas.training.job import prepared
from lcnas.training.onnx_validation import state_accuracy
from search import recipes as recipes_
from search.evaluation import Candidate
from search.evaluators import early_stopping, train
from search.evaluators.train import TrainSpec, create, draw_seed
from search.finals import network_training
from search.packed import PackedImages, pack, unpack
from search.trials import Trial
from tests.training import tiny


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiling():
        yield


@pytest.fixture(scope="module")
def images() -> PackedImages:
    """As they come out of Ray's object store: read-only."""
    packed = pack(tiny.data(train=90))
    for array in vars(packed).values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return packed


def candidate(number=0, arch=None, stop_below=()):
    # At another resolution than that of the training, as networks of a search are.
    return Candidate(number, (number,), (arch or tiny.arch()).at(16), stop_below)


def recipe(**changes):
    # Without draws for each image it is compiled in half the time.
    return tiny.recipe(**{"augment.flip": 0.0, **changes})


def spec(**changes):
    return TrainSpec(tiny.SIDE, recipe(**changes), seed=7)


def fixed_head() -> Arch:
    """Return a network whose last layer has a weight for each pixel."""
    stages: dict[str, list[Block]] = {
        "stem": [blocks.ConvNormAct(4, stride=2)],
        "head": [blocks.DenseHead(pool=False)],
    }
    return Arch.of(stages, 16)


@pytest.fixture(scope="module")
def trained(images):
    """Return two candidates evaluated together by one evaluator."""
    return create(spec(), images).evaluate([candidate(0), candidate(1)])


def test_a_training_gives_accuracy_curve_and_times(trained, images):
    for actual in trained:
        details = actual.details
        assert actual.reason == ""
        assert actual.accuracy == details["curve"][-1]
        held = len(images.validation_labels)
        assert all((a * held) == pytest.approx(round(a * held)) for a in details["curve"])
        assert details["epochs"] == len(details["curve"]) == 2
        assert "stopped" not in details
        parts = [details[f"{what}_seconds"] for what in ("compile", "train", "evaluate")]
        assert 0 < sum(parts) <= actual.seconds + 0.01
        assert details["images_s"] > 0
        assert json.loads(json.dumps(details)) == details


def test_the_same_candidate_gives_the_same_in_any_company(trained, images):
    there = pickle.loads(pickle.dumps(spec()))
    other, first = create(there, images).evaluate([candidate(1), candidate(0)])
    assert first.details["curve"] == trained[0].details["curve"]
    assert other.details["curve"] == trained[1].details["curve"]


def test_draws_depend_on_seed_and_number():
    seeds = {draw_seed(seed, number) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert all(0 <= s < 2**31 for s in seeds)


def test_validation_counts_as_the_trainings_own_evaluation_does(images):
    data = unpack(images)
    job = prepared(tiny.arch(), data, recipe(), 3, None, (), None, Devices(None))
    state = job.start()
    for number, batch in enumerate(data.train.batches(16, seed=3, epoch=0)):
        state, _ = job.step(state, number, batch)
        actual = state_accuracy(job, state)
        assert actual == pytest.approx(job.scores(state, data.validation).accuracy, abs=1e-12)
    assert 0 < actual < 1


def test_images_of_another_size_are_resized_for_both(images):
    small = dataclasses.replace(images, size=(6, 6))
    data = unpack(small)
    job = prepared(tiny.arch(), data, recipe(resolution=6), 3, None, (), None, Devices(None))
    state = job.start()
    assert state_accuracy(job, state) == job.scores(state, data.validation).accuracy


# -- what fails ------------------------------------------------------------------------------------


def test_one_that_fails_leaves_the_others_alone(images, trained):
    evaluator = create(spec(), images)
    bad, good = evaluator.evaluate([candidate(5, fixed_head()), candidate(0)])
    assert bad.accuracy is None
    assert "its head does not pool" in bad.reason
    assert good.accuracy == trained[0].accuracy


def test_a_loss_that_is_no_number_is_a_failure(images):
    (actual,) = create(spec(learning_rate=1e30, warmup_epochs=0), images).evaluate([candidate()])
    assert actual.accuracy is None
    assert actual.reason.startswith("the loss is ")
    assert actual.reason.endswith(" in epoch 1")
    assert actual.seconds > 0


class _Failing(train._ShortTraining):
    """A training that runs out of memory so many times first."""

    left = 0

    def run(self, job, stop_below):
        del job, stop_below
        if _Failing.left:
            _Failing.left -= 1
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        self.curve = [0.25]


@pytest.mark.parametrize(("times", "accuracy"), [(0, 0.25), (1, 0.25), (2, None)])
def test_a_lack_of_memory_is_tried_again_once(images, monkeypatch, times, accuracy):
    monkeypatch.setattr(train, "_ShortTraining", _Failing)
    monkeypatch.setattr(_Failing, "left", times)
    (actual,) = create(spec(), images).evaluate([candidate()])
    assert actual.accuracy == accuracy
    assert actual.reason == ("" if accuracy else "out of memory, twice")


def test_other_faults_of_jax_are_told_in_a_line(images, monkeypatch):
    def run(self, job, stop_below):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such thing\nand more")

    monkeypatch.setattr(train._ShortTraining, "run", run)
    (actual,) = create(spec(), images).evaluate([candidate()])
    assert actual.reason == "JAX: 'INTERNAL: no such thing'"


def test_what_never_can_work_is_refused_at_once(images):
    with pytest.raises(DataError, match="batch: 128"):
        create(spec(batch=128), images)
    with pytest.raises(TrainingFailedError, match="needs a teacher"):
        create(spec(needs_teacher=True), images)


# -- what is given up ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_below", "epochs"),
    [
        ((), 4),
        ((0.0, 0.4, 0.4, 0.0), 4),
        ((0.0, 0.41, 0.0, 0.0), 2),
        ((0.0, 0.4, 0.41, 0.0), 3),
        ((0.0, 0.0, 0.0, 2.0), 4),  # after the last epoch nothing is left to give up
        ((0.0, 0.4), 4),
    ],
)
def test_a_network_below_the_threshold_is_stopped(monkeypatch, stop_below, epochs):
    monkeypatch.setattr(train._ShortTraining, "_epoch", lambda self, job, state, epoch: state)
    monkeypatch.setattr(train, "state_accuracy", lambda job, state: 0.4)
    job: Any = SimpleNamespace(start=lambda: None, recipe=recipe(epochs=4))
    course = train._ShortTraining()
    course.run(job, stop_below)
    actual = course.evaluation(1.0)
    assert actual.details["curve"] == [0.4] * epochs
    assert actual.details["epochs"] == epochs
    assert actual.details.get("stopped") == (epochs if epochs < 4 else None)


EDGES = (1.0, 2.0, 4.0)


def trial(number, latency, curve, stopped=None, accuracy: float | None = 0.5):
    details = {"curve": list(curve)} | ({"stopped": stopped} if stopped else {})
    return Trial(number, (number,), "a", latency, accuracy, details=details)


def test_thresholds_are_medians_of_mean_accuracies_in_the_band():
    rng = np.random.default_rng(0)
    curves = np.sort(rng.uniform(size=(7, 4)), axis=1)
    band = [trial(i, 1 + i / 8, curve) for i, curve in enumerate(curves)]
    slow = [trial(10 + i, 3.0, [0.9, 0.9, 0.9, 0.9]) for i in range(9)]
    stopped = [trial(30, 1.5, [0.0, 0.0], stopped=2), trial(31, 1.5, [], accuracy=None)]
    limits = early_stopping.limits([*slow, *band, *stopped], EDGES, 1.2)
    wanted = [np.median([np.mean(c[: e + 1]) for c in curves]) for e in range(4)]
    assert limits == pytest.approx((0.0, wanted[1], wanted[2], 0.0))
    low = early_stopping.limits([*slow, *band], EDGES, 1.9, quantile=0.25)
    assert low[1] == pytest.approx(np.quantile([np.mean(c[:2]) for c in curves], 0.25))
    assert early_stopping.limits([*slow, *band], EDGES, 2.0)[1:3] == pytest.approx((0.9, 0.9))


def test_a_fast_network_is_not_stopped_because_slow_ones_are_better():
    slow = [trial(i, 3.0, [0.9, 0.9, 0.9]) for i in range(20)]
    fast = [trial(20 + i, 1.5, [0.1, 0.2, 0.3]) for i in range(4)]
    assert early_stopping.limits([*slow, *fast], EDGES, 1.5) == ()
    one_more = trial(24, 0.5, [0.1, 0.2, 0.3])  # faster than the first band still belongs to it
    assert early_stopping.limits([*slow, *fast, one_more], EDGES, 1.5) == pytest.approx(
        (0.0, 0.15, 0.0)
    )


@pytest.mark.parametrize(
    ("curve", "n"), [([0.5, 0.6, 0.7], 4), ([0.5, 0.6], 9), ([0.5], 9), ([], 9)]
)
def test_nothing_is_stopped_before_enough_is_known(curve, n):
    assert early_stopping.limits([trial(i, 1.5, curve) for i in range(n)], EDGES, 1.5) == ()


# -- compiled programs -----------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[1], 0.0)
    yield tmp_path / "programs"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_in_a_folder_of_the_processor(cache):
    keep_programs(str(cache))
    jax.jit(lambda x: x * 3 + 1)(np.float32(2))
    (own,) = cache.iterdir()
    assert own.name == f"{machine.processor_key()}-jaxlib{metadata.version('jaxlib')}"
    assert any(own.iterdir())


def test_programs_of_another_processor_are_never_taken(cache, monkeypatch):
    """Two machines of one home: the same name and instruction set by ours, but other flags."""

    def compiled() -> set[str]:
        keep_programs(str(cache))
        jax.clear_caches()
        jax.jit(lambda x: x * 5 + 2)(np.float32(2))
        return {folder.name for folder in cache.iterdir() if any(folder.iterdir())}

    here = compiled()
    info = dict(machine._cpuinfo())
    monkeypatch.setattr(
        machine, "_cpuinfo", lambda: info | {"flags": info.get("flags", "") + " avx_x"}
    )
    assert len(here) == 1
    assert len(compiled() - here) == 1


def test_finals_that_train_as_long_take_up_the_step_of_the_search(cache, images, tmp_path):
    recipes = [
        recipes_.search_recipe(images, 1).override({"evaluate_epochs": 1}),
        recipes_.final_recipe(images, 1).override({"evaluate_epochs": 1}),
    ]
    search = create(TrainSpec(tiny.SIDE, recipes[0], 7, str(cache)), images)
    (actual,) = search.evaluate([candidate()])
    assert actual.accuracy is not None

    def steps():
        return {path.name for path in cache.rglob("jit_whole*-cache")}

    (compiled,) = steps()
    jax.clear_caches()
    arch, size = tiny.arch().at(16), tiny.SIDE
    network_training.train(
        arch, images, recipes[1], tmp_path / "one", 3, train_size=size, cache=str(cache)
    )
    assert steps() == {compiled}


def test_no_folder_changes_nothing():
    config: Any = jax.config
    before = config.jax_compilation_cache_dir
    keep_programs(None)
    assert config.jax_compilation_cache_dir == before


def test_validation_of_a_network_that_says_nothing_finite(images):
    """onnxruntime's classifier refuses it, and the candidate fails in words."""
    data = unpack(images)
    job = prepared(tiny.arch(), data, recipe(), 3, None, (), None, Devices(None))
    state = job.start()
    broken = {name: w * math.nan for name, w in state.average.items()}
    with pytest.raises(ValueError, match="not finite"):
        state_accuracy(job, state._replace(average=broken))
