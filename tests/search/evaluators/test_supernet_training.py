"""Which supernet a search takes: its own copy, one of an earlier search, or a new one."""

import dataclasses

import numpy as np
import pytest

from lcnas import spaces
from lcnas.training import data as data_module
from lcnas.training import supernet as training
from search.distributed import worker
from search.evaluator_report import REUSED
from search.evaluators import supernet_training
from search.evaluators.supernet_training import LatencyLimits, SupernetTraining
from search.packed import pack
from search.recipes import search_recipe
from tests.search.evaluators.test_supernet import SIDE, SPACE

LIMITS = LatencyLimits("this machine's", "224", 1.0, 2.0)


@pytest.fixture(scope="module")
def images():
    return pack(
        data_module.load("synthetic:classes=3,train=60,test=10", size=SIDE, seed=0, workers=0)
    )


@pytest.fixture
def trained(monkeypatch):
    """The folders of all trainings, which take no time here."""
    folders = []

    def train(net, space, data, recipe, out, **how):
        folders.append(out)
        result = training.TrainedSupernet(net, net.init(len(folders)), {"step": 1})
        (out / "checkpoints").mkdir(parents=True)
        result.save(out)
        return result

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(worker, "prepare", lambda *_: None)
    return folders


@pytest.fixture
def job(tmp_path, images):
    space = spaces.loads(SPACE, "tiny")
    codes = space.sample_codes(20, np.random.default_rng(0))
    recipe, folder, cache = search_recipe(images, 1), str(tmp_path / "all"), str(tmp_path / "cache")
    return SupernetTraining(space, 3, SIDE, recipe, codes, 0, folder, cache, limits=LIMITS)


def other(job, **changes):
    """Return a search of other networks of the same space."""
    codes = job.space.sample_codes(20, np.random.default_rng(1))
    return dataclasses.replace(job, codes=codes, **changes)


def weights(spec):
    return {name: w.tobytes() for name, w in spec.weights.items()}


def test_a_search_within_the_limits_of_an_earlier_one_takes_its_supernet(job, images, trained):
    spec, about = supernet_training.train(job, images)
    for low, high in ((1.2, 1.9), (0.97, 2.05), (1.0, 2.0)):  # the last but one as a table learns
        actual, again = supernet_training.train(
            other(job, limits=dataclasses.replace(LIMITS, low=low, high=high)), images
        )
        assert again == {**about, REUSED: True}
        assert weights(actual) == weights(spec)
    _, again = supernet_training.train(job, images)
    assert again == {**about, REUSED: True}
    assert len(trained) == 1
    assert not list(trained[0].glob("checkpoints"))  # it is finished


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": dataclasses.replace(LIMITS, low=0.5)},
        {"limits": dataclasses.replace(LIMITS, high=3.0)},
        {"limits": dataclasses.replace(LIMITS, resolution="192")},
        {"limits": dataclasses.replace(LIMITS, table="another's")},
        {"limits": None},
        {"seed": 1},
        {"labels": 1.0},
    ],
)
def test_others_are_trained_anew(job, images, trained, changes):
    _, about = supernet_training.train(job, images)
    _, again = supernet_training.train(other(job, **changes), images)
    assert len(set(trained)) == 2
    assert again["id"] != about["id"]


def test_of_several_the_one_is_taken_that_was_drawn_the_least_beyond(job, images, trained):
    wide = dataclasses.replace(LIMITS, low=0.2, high=9.0)
    supernet_training.train(other(job, limits=wide), images)
    _, about = supernet_training.train(other(job, limits=wide, seed=1), images)  # another seed's
    near = dataclasses.replace(job, limits=dataclasses.replace(LIMITS, low=0.1, high=2.2))
    _, about = supernet_training.train(near, images)
    asked = dataclasses.replace(LIMITS, low=1.0, high=2.0)
    codes = job.space.sample_codes(20, np.random.default_rng(2))
    _, again = supernet_training.train(dataclasses.replace(job, codes=codes, limits=asked), images)
    assert len(trained) == 3
    assert again["id"] == about["id"]


def test_other_recipes_and_spaces_are_trained_anew(job, images, trained):
    supernet_training.train(job, images)
    supernet_training.train(other(job, recipe=search_recipe(images, 2)), images)
    smaller = job.space.restrict(stage1_width=[4])
    codes = smaller.sample_codes(4, np.random.default_rng(0))
    supernet_training.train(dataclasses.replace(job, space=smaller, codes=codes), images)
    assert len(set(trained)) == 3


def test_an_unfinished_or_damaged_supernet_is_not_taken(job, images, trained):
    supernet_training.train(job, images)
    (trained[0] / training.WEIGHTS).write_bytes(b"half of it")
    supernet_training.train(other(job), images)
    assert len(trained) == 2


def test_a_search_that_goes_on_reads_its_own_copy(job, images, trained, tmp_path):
    kept = dataclasses.replace(job, copy=str(tmp_path / "run" / "supernet"))
    spec, about = supernet_training.train(kept, images)
    moved = dataclasses.replace(kept, folder=str(tmp_path / "nothing-here"))
    actual, again = supernet_training.train(moved, images)
    assert len(trained) == 1
    assert again == about
    assert weights(actual) == weights(spec)
