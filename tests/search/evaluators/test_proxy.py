"""The evaluator of zero-cost scores."""

import dataclasses
import json
import math

import numpy as np
import pytest

from lcnas import blocks, zoo
from lcnas.arch import Arch
from lcnas.training import data, proxies
from search.errors import SearchError
from search.evaluation import Candidate
from search.evaluators import proxy
from search.packed import pack

CLASSES = 4


@pytest.fixture(scope="module")
def images():
    with data.load(f"synthetic:classes={CLASSES},train=100,test=8", size=16) as actual:
        return pack(actual)


def spec(**changes):
    return dataclasses.replace(proxy.ProxySpec("zico", CLASSES, 16, seed=3, images=8), **changes)


def arch(width=8, **settings):
    stem = blocks.ConvNormAct(width, stride=2, act="hard_swish", **settings)
    return Arch.of({"stem": [stem], "head": [blocks.DenseHead()]}, 224)


def candidates(*archs):
    return [Candidate(number, (number,), a) for number, a in enumerate(archs)]


def test_accuracy_is_the_score_and_all_scores_are_beside(images):
    first, second = proxy.create(spec(), images).evaluate(candidates(arch(), arch(16)))
    assert first.accuracy == first.details["scores"]["zico"]
    assert list(first.details["scores"]) == list(proxies.NAMES)
    assert second.details["scores"]["params"] > first.details["scores"]["params"]
    assert json.loads(json.dumps(first.details)) == first.details


@pytest.mark.parametrize("score", proxies.NAMES)
def test_scores_are_those_of_the_images_drawn(images, score):
    evaluator = proxy.create(spec(score=score, names=()), images)
    (actual,) = evaluator.evaluate(candidates(arch()))
    seen = (evaluator.images * images.normalization.std + images.normalization.mean) * 255
    rows = [
        np.flatnonzero((np.abs(images.train_images - image) < 0.01).all(axis=(1, 2, 3)))
        for image in seen
    ]
    assert [images.train_labels[row[0]] for row in rows] == evaluator.labels.tolist()
    assert len({int(row[0]) for row in rows}) == 8
    assert evaluator.images.dtype == np.float32
    right = proxies.scores(arch(), evaluator.images, evaluator.labels, classes=CLASSES, seed=3)
    assert actual.accuracy == right[score]
    assert set(actual.details["scores"]) == {score, *proxies.TRIVIAL}


def test_the_same_in_every_process_and_for_every_number(images):
    one = proxy.create(spec(), images).evaluate(candidates(arch()))[0]
    result = proxy.create(spec(), images).evaluate(candidates(arch(16), arch(), arch()))
    assert one.accuracy == result[1].accuracy == result[2].accuracy
    other = proxy.create(spec(seed=4), images).evaluate(candidates(arch()))[0]
    assert other.accuracy != one.accuracy


def test_images_of_another_size_are_brought_to_it(images):
    evaluator = proxy.create(spec(train_size=8), images)
    assert evaluator.images.shape == (8, 8, 8, 3)
    assert evaluator.evaluate(candidates(arch()))[0].accuracy is not None


def test_images_may_be_read_only(images):
    frozen = dataclasses.replace(images, train_images=images.train_images.copy())
    frozen.train_images.setflags(write=False)
    (actual,) = proxy.create(spec(), frozen).evaluate(candidates(arch()))
    assert actual == dataclasses.replace(
        proxy.create(spec(), images).evaluate(candidates(arch()))[0], seconds=actual.seconds
    )


def test_one_that_fails_does_not_keep_the_others_from_theirs(images):
    small = zoo.load("googlenet")  # its poolings do not fit 8 pixels
    headless = Arch.of({"stem": [blocks.ConvNormAct(4)]})
    evaluator = proxy.create(spec(train_size=8), images)
    actual = evaluator.evaluate(candidates(small, arch(), headless))
    assert [f.accuracy is None for f in actual] == [True, False, True]
    assert "cannot take" in actual[0].reason
    assert "gives a map" in actual[2].reason
    assert not actual[1].reason


def test_a_score_that_is_no_number_is_a_failure(images):
    same = dataclasses.replace(
        images,
        train_images=np.broadcast_to(images.train_images[:1], images.train_images.shape),
    )
    (actual,) = proxy.create(spec(score="naswot"), same).evaluate(candidates(arch()))
    assert actual.accuracy is None
    assert actual.reason == "naswot is -inf"
    assert "naswot" not in actual.details["scores"]
    assert all(map(math.isfinite, actual.details["scores"].values()))


def test_images_without_labels_are_not_drawn(images):
    labels = images.train_labels.copy()
    labels[6:] = -1
    few = dataclasses.replace(images, train_labels=labels)
    evaluator = proxy.create(spec(), few)
    assert sorted(evaluator.labels.tolist()) == sorted(labels[:6].tolist())
    labels[3:] = -1
    with pytest.raises(SearchError, match="3 labelled training images are too few"):
        proxy.create(spec(), few)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"score": "swop"}, "did you mean 'swap'"),
        ({"names": ("macs", "flops")}, "'flops' is not among"),
        ({"images": 3}, "less than two for each"),
        ({"batches": 1}, "at least 2"),
    ],
)
def test_a_wrong_spec_is_refused(changes, complaint):
    with pytest.raises(SearchError, match=complaint):
        spec(**changes)


def test_more_labels_than_classes_are_refused(images):
    with pytest.raises(SearchError, match="there are 2 classes"):
        proxy.create(spec(classes=2), images)
