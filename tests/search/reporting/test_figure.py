"""The figure: it is drawn whatever is there, and its names do not lie on one another."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from search.reporting import content, figure
from tests.search.reporting import sample_run


def material(outcome, trials):
    return content.Material(outcome, tuple(trials), ())


def size(png):
    with Image.open(io.BytesIO(png)) as figure:
        assert figure.format == "PNG"
        assert np.asarray(figure.convert("L")).std() > 5  # not empty
        return figure.size


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return sample_run.outcome(tmp_path_factory.mktemp("run"), n=60)


def test_search_and_trained_networks_stand_side_by_side(outcome):
    png = figure.draw(material(outcome, sample_run.trials(60)))
    assert size(png) == (1980, 780)
    assert png == figure.draw(material(outcome, sample_run.trials(60)))


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_trials_and_nothing_trained(outcome, n):
    trials = sample_run.trials(n, failed=()) if n else []
    front = tuple(range(n))
    bare = dataclasses.replace(outcome, finals=(), front=front)
    assert size(figure.draw(material(bare, trials))) == (1200, 780)


def test_scores_are_drawn_as_they_are(outcome):
    trials = [
        dataclasses.replace(t, accuracy=None if t.failed else 700 * t.accuracy)
        for t in sample_run.trials(60)
    ]
    result = material(outcome, trials)
    assert result.is_score
    assert result.unit == "score"
    assert size(figure.draw(result)) == (1980, 780)
    assert material(dataclasses.replace(outcome, evaluator="proxy: swap", settings={}), []).is_score


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 60, [1, 3, 10, 30]),
        (0.8, 5.5, [1, 1.5, 2, 3, 5]),
        (0.8, 5.5e3, [1, 10, 100, 1000]),
        (0.78, 1.65, [0.8, 1, 1.2, 1.4, 1.6]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert figure.ticks(low, high) == expected


def test_there_are_always_a_few_ticks():
    rng = np.random.default_rng(0)
    for _ in range(60):
        low = 10 ** rng.uniform(-2, 2)
        high = low * 10 ** rng.uniform(0.1, 2.5)
        actual = figure.ticks(low, high)
        assert 3 <= len(actual) <= 9
        assert actual == sorted(set(actual))
        assert low <= actual[0] < actual[-1] <= high
        gaps = np.diff(np.log(actual)) / np.log(high / low)
        assert gaps.min() > 0.05, "labels that lie on one another"


def test_boxes():
    assert figure.place((10, 20), (6, 4), (1, 1), 2) == (12, 22, 18, 26)
    assert figure.place((10, 20), (6, 4), (-1, 0), 2) == (2, 18, 8, 22)
    assert figure.place((10, 20), (6, 4), (0, -1), 2) == (7, 14, 13, 18)
    assert figure.overlap((0, 0, 4, 4), (2, 3, 9, 9)) == 2
    assert figure.overlap((0, 0, 4, 4), (4, 0, 9, 9)) == 0


def test_names_keep_off_each_other_and_the_marks():
    drawn = Figure(figsize=(6, 5), dpi=100)
    FigureCanvasAgg(drawn)
    ax = drawn.subplots()
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 10)
    points = [(5, 5), (5.3, 5.1), (5.1, 5.4), (9.8, 9.8), (0.1, 0.1), (5, 1), (9.9, 5)]
    marks = [figure._Mark(x, y, f"network number {i}", reach=3) for i, (x, y) in enumerate(points)]
    drawn.draw_without_rendering()
    figure._name(ax, marks)
    boxes = [corners(text) for text in texts_of(ax)]
    assert len(boxes) == len(points)
    for a, b in itertools.combinations(boxes, 2):
        assert figure.overlap(a, b) == 0
    frame = corners(ax)
    for box in boxes:
        assert figure.overlap(box, frame) == pytest.approx((box[2] - box[0]) * (box[3] - box[1]))
        for mark in marks:
            assert figure.overlap(box, figure._around(ax, mark, 100 / 72)) == 0


def corners(artist):
    box = artist.get_window_extent()
    return (box.x0, box.y0, box.x1, box.y1)


def texts_of(ax):
    """Return the names without their lines, which count into an annotation's own extent."""
    texts = list(ax.texts)
    for text in texts:
        if text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)
            text.arrow_patch = None
    return texts
