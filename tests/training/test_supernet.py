"""Training a tiny supernet: one program a bucket, exact resume, and scores against networks built alone."""

import dataclasses
import functools
import json
import os
from typing import Any

import numpy as np
import pytest

from lcnas import models, spaces
from lcnas.errors import DataError, TrainingError, TrainingFailedError
from lcnas.models.supernet import Supernet
from lcnas.training import data as data_module
from lcnas.training import evaluation, supernet
from lcnas.training.augment import Augment
from lcnas.training.data._memory import Memory
from lcnas.training.interrupts import Stopped
from lcnas.training.recipes import Recipe
from lcnas.training.supernet import Scorer, TrainedSupernet, content_id, loop, train
from lcnas.training.supernet.loop import SupernetJob, SupernetStatus
from tests.training.tiny import quick_compiling

SIDE = 8
SPACE = """
version = 1
resolution = [32]

[stem]
block = "conv"
width = { choices = [4, 5, 6] }
kernel = 3
stride = 2
act = "hard_swish"

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [4, 8, 12] }
se = { choices = [false, true], per = "block" }
act = "hard_swish"

[head]
block = "classifier"
width = { choices = [0, 6, 7, 8] }
act = "hard_swish"
"""
AUGMENT = Augment(crop="none", flip=0.5, evaluate_crop=1.0)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Compile fast, and each program once for all tests: most of their time is compiling."""
    with quick_compiling(), pytest.MonkeyPatch.context() as patch:
        built: Any = {}
        real = supernet.build

        def build(net, plan, length, view, seed, labels):
            program = real(net, plan, length, view, seed, labels)
            gradients = built.setdefault((net, seed), program.gradients)  # no recipe in them
            program = dataclasses.replace(program, gradients=gradients)
            return built.setdefault((net, plan, length, seed, labels), program)

        patch.setattr(loop, "build", build)
        yield


@functools.cache
def space():
    return spaces.loads(SPACE, "tiny")


@functools.cache
def net():
    return Supernet.of(space(), 3, resolution=SIDE, buckets=2)


@functools.cache
def sample_images():
    spec = "synthetic:classes=3,train=80,test=20"
    return data_module.load(spec, size=SIDE, seed=0, workers=0)


def recipe(**changes):
    base = Recipe(
        name="tiny",
        epochs=2,
        batch=16,
        augment=AUGMENT,
        learning_rate=0.02,
        warmup_epochs=1,
        label_smoothing=0.1,
        ema=0.9,
        log_steps=2,
    )
    return base.override(changes)


def draw(rng, n):
    return space().sample_codes(n, rng)


def run(out, **changes):
    how: Any = {"draw": draw, "seed": 1} | changes
    plan = how.pop("recipe", recipe())
    return train(net(), space(), how.pop("data", sample_images()), plan, out, **how)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("supernet"))


@functools.cache
def _scorer(**how):
    data = sample_images()
    splits = (data.train, data.validation, data.normalization)
    return Scorer(net(), net().init(0), *splits, augment=AUGMENT, batch=16, **how)


def scorer(weights, **how):
    """Return the scorer of these settings, compiled once for all tests, with these weights."""
    cached = _scorer(**{"calibration": 32} | how)
    cached.set_weights(weights)
    return cached


def equal(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# -- training --------------------------------------------------------------------------------------


def test_each_part_is_compiled_once_a_bucket_whatever_the_networks():
    job = SupernetJob(net(), space(), sample_images(), recipe(), 1, draw, 2, 0.5, None)
    assert len(net().buckets) == 2
    status, state = SupernetStatus(), job.start()
    zeros = job.zeros(state)
    seen: set[Any] = set()
    for arrays in job._batches(0):
        seen |= {
            tuple(np.concatenate([np.ravel(v) for v in a])) for a in job._networks(status.step)
        }
        state, _, zeros = job._timed(status, state, zeros, arrays)
    assert len(seen) > 12
    program = job.program
    compiled: list[Any] = [program.prepare, program.mix_targets, program.update, *program.gradients]
    assert [program._cache_size() for program in compiled] == [1] * 5

    evaluator = scorer(job.weights(state))
    drawn = space().decode(draw(np.random.default_rng(0), 4000))
    archs = list({arch.id: arch for arch in drawn}.values())[:200]
    assert len(archs) == 200
    scores = evaluator.scores(archs)
    assert {score.bucket for score in scores} == {0, 1}
    programs: Any = evaluator.programs
    sizes = [[part._cache_size() for part in parts] for parts in programs]
    assert sizes == [[1, 1], [1, 1]]


@pytest.mark.parametrize("labels", [0.0, 0.25, 1.0])
def test_all_but_the_largest_learn_from_labels_and_from_its_probabilities(labels):
    job = SupernetJob(net(), space(), sample_images(), recipe(), 1, draw, 2, labels, None)
    targets, probabilities = [], []

    def noted(real):
        def gradient(weights, total, active, images, mixed, step, dropout):
            targets.append(np.asarray(mixed))
            results = real(weights, total, active, images, mixed, step, dropout)
            probabilities.append(np.asarray(results[1]))
            return results

        return gradient

    gradients = tuple(map(noted, job.program.gradients))
    job.program = dataclasses.replace(job.program, gradients=gradients)
    state = job.start()
    job._timed(SupernetStatus(), state, job.zeros(state), next(job._batches(0)))
    assert len(targets) == 4  # largest, smallest, two that were drawn
    for mixed in targets[1:]:
        expected = labels * targets[0] + (1 - labels) * probabilities[0]
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def coloured():
    """Images each of whose classes has a colour of its own."""
    rng, source = np.random.default_rng(0), sample_images().train.source
    images = rng.integers(0, 150, (len(source.labels), SIDE, SIDE, 3), np.uint8)
    images[np.arange(len(images)), :, :, source.labels] += 100
    aspect = np.ones(len(images), np.float32)
    train = data_module.Train(Memory(images, source.labels, aspect), sample_images().train.rows)
    return dataclasses.replace(sample_images(), train=train)


def test_training_lowers_the_loss_of_all_networks(tmp_path):
    reports: list[Any] = []
    plan = recipe(epochs=24, learning_rate=0.05, ema=0)
    result = run(tmp_path, data=coloured(), recipe=plan, progress=reports.append)
    assert [m.step for m in reports] == list(range(2, 97, 2))
    assert reports[-1].loss < 0.7 * reports[0].loss
    archs = [space().sample(np.random.default_rng(i)) for i in range(4)]
    split = data_module.Validation(coloured().train.source, coloured().train.rows[:32])
    evaluator = Scorer(
        net(),
        net().init(1),
        coloured().train,
        split,
        sample_images().normalization,
        augment=AUGMENT,
    )
    before = evaluator.scores(archs)
    evaluator.set_weights(result.weights)
    after = evaluator.scores(archs)
    for a, b in zip(before, after, strict=True):
        assert b.loss < 0.8 * a.loss
    assert result.about["step"] == 96
    assert result.about["compile_seconds"] > 0
    assert result.about["images_s"] > 0


def test_a_finished_training_is_read_back(trained, tmp_path):
    trained.save(tmp_path)
    again = TrainedSupernet.load(tmp_path)
    assert again.supernet == net()
    equal(again.weights, trained.weights)
    assert again.about == trained.about


def test_the_same_call_does_nothing_a_second_time(tmp_path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.setattr(loop, "SupernetJob", None)
    equal(run(tmp_path).weights, first.weights)


def test_another_training_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "identity.json").write_text(json.dumps({"id": "0" * 20}))
    with pytest.raises(TrainingError, match="holds another training"):
        run(tmp_path)


class _KilledError(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_weights(trained, tmp_path):
    def killed(moment):
        if moment.step == 6:
            raise _KilledError

    with pytest.raises(_KilledError):
        run(tmp_path, save_minutes=0, progress=killed)
    stored = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert stored
    assert stored[-1] < 6
    equal(run(tmp_path).weights, trained.weights)


def test_a_signal_stores_the_state_first(trained, tmp_path):
    def asked(moment):
        if moment.step == 2:
            os.kill(os.getpid(), 15)

    with pytest.raises(Stopped, match="after step 2"):
        run(tmp_path, progress=asked)
    equal(run(tmp_path).weights, trained.weights)


def test_a_loss_that_is_not_finite_is_reported(tmp_path):
    with pytest.raises(TrainingFailedError, match="the loss is"):
        run(tmp_path, recipe=recipe(learning_rate=1e30, warmup_epochs=0, log_steps=1))
    assert not (tmp_path / supernet.ABOUT).exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"recipe": {"accumulate": 2}}, "accumulate"),
        ({"recipe": {"precision": "bfloat16"}}, "precision"),
        ({"random": -1}, "random"),
        ({"labels": 1.5}, "labels: 1.5 is not a share of 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, complaint):
    if "recipe" in changes:
        changes = {"recipe": recipe(**changes["recipe"])}
    with pytest.raises(TrainingError, match=complaint):
        run(tmp_path, **changes)


def test_only_the_training_split_is_trained_on(tmp_path):
    data = dataclasses.replace(sample_images(), train=sample_images().validation)
    with pytest.raises(DataError, match="training split is needed"):
        run(tmp_path, data=data)


def test_equal_trainings_have_one_id_and_others_have_others():
    def of(plan=None, **changes):
        how: Any = {"data": "d", "seed": 0} | changes
        return content_id(how.pop("net", net()), how.pop("space", space()), plan or recipe(), **how)

    small = space().restrict(stage1_width=[4, 8])
    others = [
        of(recipe(epochs=3)),
        of(data="e"),
        of(seed=1),
        of(random=3),
        of(labels=0.5),
        of(draws="at most 2 ms"),
        of(init="a"),
        of(space=small),
        of(net=Supernet.of(space(), 3, resolution=16)),
    ]
    assert of() == of(recipe(name="other"))
    assert len({of(), *others}) == 1 + len(others)


# -- scores ----------------------------------------------------------------------------------------


def test_a_network_cut_out_scores_alone_what_it_scores_inside(trained):
    asked = scorer(trained.weights)
    data = sample_images()
    for seed in range(3):
        arch = space().sample(np.random.default_rng(seed))
        (score,) = asked.scores([arch])
        alone = models.build(arch.at(SIDE), 3)
        alone.set_weights(asked.cut(arch))
        own = evaluation.evaluate(alone, data.validation, data.normalization, augment=AUGMENT)
        assert score.accuracy == own.accuracy
        assert score.loss == pytest.approx(own.loss, rel=1e-4)


def test_scores_do_not_depend_on_the_company(trained):
    archs = [space().sample(np.random.default_rng(i)) for i in range(5)]
    asked = scorer(trained.weights)
    assert asked.scores(archs) == [asked.scores([arch])[0] for arch in archs]
    together = scorer(trained.weights, together=2).scores(archs)
    for a, b in zip(together, asked.scores(archs), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)


def test_statistics_are_those_of_training_images(trained):
    data = sample_images()
    asked = scorer(trained.weights)
    rows = np.sort(np.random.default_rng(0).choice(len(data.train), 32, replace=False))
    batches = data.train.source.read([data.train.rows[rows[:16]], data.train.rows[rows[16:]]], None)
    seen = np.stack([batch.images for batch in batches])
    np.testing.assert_array_equal(asked._calibration[0], seen)
    with pytest.raises(DataError, match="training split is needed"):
        Scorer(net(), trained.weights, data.validation, data.validation, data.normalization)
    with pytest.raises(DataError, match="validation split is needed"):
        Scorer(net(), trained.weights, data.train, data.test, data.normalization)


def test_weights_that_are_damaged_are_refused(trained, tmp_path):
    trained.save(tmp_path)
    path = tmp_path / supernet.WEIGHTS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="no supernet"):
        TrainedSupernet.load(tmp_path)
    with pytest.raises(TrainingError, match="cannot be read"):
        TrainedSupernet.load(tmp_path / "nowhere")
