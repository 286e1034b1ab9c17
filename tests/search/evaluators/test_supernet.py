"""The supernet as an evaluator: what a worker gets and reports."""

import pickle

import numpy as np
import pytest

from lcnas import spaces, zoo
from lcnas.models.supernet import Supernet
from lcnas.training import data as data_module
from lcnas.training.augment import Augment
from lcnas.training.supernet import TrainedSupernet
from search.evaluation import Candidate
from search.evaluators.supernet import SupernetSpec, create
from search.packed import pack
from tests.training.tiny import quick_compiling

SPACE = """
version = 1
resolution = [32]

[stem]
block = "conv"
width = { choices = [4, 6] }
kernel = 3
stride = 2
act = "relu"

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [4, 8] }
act = "relu"

[head]
block = "classifier"
width = 0
"""
SIDE = 8
AUGMENT = Augment(crop="none", evaluate_crop=1.0)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with quick_compiling():
        yield


@pytest.fixture(scope="module")
def images():
    data = data_module.load("synthetic:classes=3,train=60,test=10", size=SIDE, workers=0)
    return pack(data)


@pytest.fixture(scope="module")
def space():
    return spaces.loads(SPACE, "tiny")


@pytest.fixture(scope="module")
def spec(space):
    net = Supernet.of(space, 3, resolution=SIDE, buckets=1)
    return SupernetSpec.of(TrainedSupernet(net, net.init(0), {}), AUGMENT, calibration=16, batch=8)


@pytest.fixture(scope="module")
def evaluator(spec, images):
    return create(spec, images)


def candidates(space):
    return [
        Candidate(i, tuple(map(int, space.encode([arch])[0])), arch)
        for i, arch in enumerate(space.enumerate())
    ]


def test_each_network_gets_an_accuracy_and_nothing_is_compiled_for_it(space, evaluator):
    given = candidates(space)
    evaluations = evaluator.evaluate(given)
    assert len(evaluations) == 8
    assert all(
        e.accuracy is not None and 0 <= e.accuracy <= 1 and not e.reason for e in evaluations
    )
    assert all(e.details["bucket"] == 0 and e.details["loss"] > 0 for e in evaluations)
    assert len({e.details["loss"] for e in evaluations}) == 8
    assert [part._cache_size() for parts in evaluator.scorer.programs for part in parts] == [1, 1]
    compiling = [e.details["compile_seconds"] for e in evaluations]
    assert compiling[0] > 0
    assert compiling[1:] == [0] * 7  # the first network's programs do for all of them


def test_the_same_candidate_gets_the_same_in_another_worker(space, spec, images, evaluator):
    frozen = pickle.loads(pickle.dumps(spec))  # as Ray hands it over
    for weight in frozen.weights.values():
        weight.flags.writeable = False
    other = create(frozen, images)
    some = candidates(space)[2:4]
    for a, b in zip(evaluator.evaluate(some[::-1])[::-1], other.evaluate(some), strict=True):
        results = [{**e.details, "compile_seconds": None, "accuracy": e.accuracy} for e in (a, b)]
        assert results[0] == results[1]


def test_one_that_fails_does_not_keep_the_others_from_theirs(space, evaluator):
    good, bad = candidates(space)[0], Candidate(9, (), zoo.load("pplcnet_0.25x"))
    evaluations = evaluator.evaluate([bad, good])
    assert evaluations[0].accuracy is None
    assert "supernet: stages" in evaluations[0].reason
    assert evaluations[1].accuracy is not None


def test_several_at_once(space, spec, images, evaluator):
    import dataclasses

    together = create(dataclasses.replace(spec, together=3), images)
    given = candidates(space)
    bad = Candidate(9, (), zoo.load("pplcnet_0.25x"))
    for a, b in zip(evaluator.evaluate(given), together.evaluate(given), strict=True):
        assert a.details["loss"] == pytest.approx(b.details["loss"], rel=1e-4)
    assert [e.accuracy is None for e in together.evaluate([bad, *given[:2]])] == [
        True,
        False,
        False,
    ]


def test_a_spec_can_be_read_from_a_folder(spec, space, tmp_path):
    net = Supernet.of(space, 3, resolution=SIDE, buckets=1)
    TrainedSupernet(net, net.init(0), {"step": 1}).save(tmp_path)
    actual = SupernetSpec.of(tmp_path, AUGMENT, calibration=16, batch=8)
    assert actual.supernet == spec.supernet
    for name, value in spec.weights.items():
        np.testing.assert_array_equal(actual.weights[name], value)
