"""Intervals of paired differences: closed forms, a slow second way, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from search.comparison import compare, compare_accuracies
from search.errors import SearchError

# -- synthetic networks: an image is right where a normal variable is above 0 -----------------------

IMAGE, TASTE, TRAINING, LEVEL = 1.5, 0.6, 1.0, 1.0  # deviations, and how far above 0 the mean is


def trained(rng, seeds, images, gain, seed_sd):
    """Return hits (seeds, images) of two networks on images that are hard or easy for both.

    The first is better by `gain`; each has images to its taste, each seed its own luck with all images
    (`seed_sd`) and with each.
    """
    hard = IMAGE * rng.standard_normal(images)
    results = []
    for level in (LEVEL + gain, LEVEL):
        taste = TASTE * rng.standard_normal(images)
        luck = seed_sd * rng.standard_normal((seeds, 1))
        z = level + hard + taste + luck + TRAINING * rng.standard_normal((seeds, images))
        results.append(z > 0)
    return results


def true_difference(gain, seed_sd):
    """Return the difference of accuracy over all images and seeds: of two normal tails."""
    deviation = np.sqrt(IMAGE**2 + TASTE**2 + TRAINING**2 + seed_sd**2)
    return stats.norm.cdf((LEVEL + gain) / deviation) - stats.norm.cdf(LEVEL / deviation)


def simulated(seeds, gain, seed_sd, n=500, images=400):
    """Return the shares of intervals that hold the truth, and that exclude 0."""
    rng = np.random.default_rng(seeds)
    truth = true_difference(gain, seed_sd)
    held = excluded = 0
    for _ in range(n):
        comparison = compare(*trained(rng, seeds, images, gain, seed_sd))
        held += comparison.low <= truth <= comparison.high
        excluded += comparison.better or comparison.worse
    return held / n, excluded / n


@pytest.mark.parametrize("seed_sd", [0.0, 0.05, 0.1, 0.3])  # 0 to 6 points of accuracy
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, seed_sd):
    held, _ = simulated(seeds, gain=0.1, seed_sd=seed_sd)
    assert held >= 0.93  # of 95 %; the standard error is 1 point


@pytest.mark.parametrize("seed_sd", [0.0, 0.05, 0.1, 0.3])
def test_without_a_difference_it_seldom_finds_one(seed_sd):
    _, excluded = simulated(3, gain=0.0, seed_sd=seed_sd)
    assert excluded <= 0.07


def test_a_clear_difference_is_found():
    assert true_difference(0.4, 0.02) == pytest.approx(0.068, abs=0.001)
    _, excluded = simulated(3, gain=0.4, seed_sd=0.02, n=200, images=1000)
    assert excluded >= 0.95


def test_one_seed_covers_the_images_and_nothing_else():
    held, _ = simulated(1, gain=0.1, seed_sd=0.0)
    assert 0.93 <= held <= 0.975
    held, _ = simulated(1, gain=0.1, seed_sd=0.3)
    assert held < 0.75


# -- closed forms ----------------------------------------------------------------------------------


def mean_squares(d):
    """Return the mean squares of seeds, images and the rest, cell by cell."""
    seeds, images = d.shape
    m = d.mean()
    by_seed = sum((row.mean() - m) ** 2 for row in d for _ in range(images)) / (seeds - 1)
    by_image = sum(seeds * (column.mean() - m) ** 2 for column in d.T) / (images - 1)
    rest = sum(
        (d[i, j] - d[i].mean() - d[:, j].mean() + m) ** 2
        for i in range(seeds)
        for j in range(images)
    ) / ((seeds - 1) * (images - 1))
    return by_seed, by_image, rest


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.5), (3, 0.0), (4, 2.0)])
def test_half_the_width_is_that_of_the_mean_squares(seeds, seed_sd):
    rng = np.random.default_rng(3)
    a, b = trained(rng, seeds, 40, 0.2, seed_sd)
    comparison = compare(a, b)
    d = np.column_stack(
        [a.astype(float) - b, np.full(seeds, 0.5**0.5), np.full(seeds, -(0.5**0.5))]
    )
    s, p, rest = mean_squares(d)
    t, z = stats.t.ppf(0.975, [seeds - 1, 41])
    half = np.sqrt(max(t**2 * s + z**2 * max(p - rest, 0), z**2 * p) / (seeds * 42))
    assert comparison.difference == pytest.approx((a.mean() - b.mean()), abs=1e-12)
    assert comparison.low == pytest.approx(max(comparison.difference - half, -1))
    assert comparison.high == pytest.approx(min(comparison.difference + half, 1))
    assert (comparison.seeds, comparison.images, comparison.covers) == (
        seeds,
        40,
        "seeds and images",
    )


def test_one_seed_is_the_interval_of_paired_proportions():
    n, only_first, only_second = 200, 30, 12
    a, b = np.zeros((2, 1, n), bool)
    a[0, :only_first] = True
    b[0, only_first : only_first + only_second] = True
    comparison = compare(a, b, level=0.9)
    # Agresti and Min: half an image more in each of the four cells
    both = only_first + only_second + 1
    mean = (only_first - only_second) / (n + 2)
    variance = (both / (n + 2) - mean**2) / (n + 1)
    half = stats.t.ppf(0.95, n + 1) * np.sqrt(variance)
    assert comparison.difference == pytest.approx(0.09)
    assert [comparison.low, comparison.high] == pytest.approx([0.09 - half, 0.09 + half])
    assert comparison.better
    assert comparison.covers == "images"


def test_seeds_that_differ_alike_on_all_images_are_a_t_interval_over_seeds():
    rng = np.random.default_rng(0)
    seeds, images = 3, 20_000
    share = np.array([0.5, 0.6, 0.75])[:, None]
    a = rng.random((seeds, images)) < share
    b = np.zeros_like(a)
    comparison = compare(a, b)
    means = a.mean(axis=1)
    half = stats.t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert comparison.high - comparison.difference == pytest.approx(half, rel=1e-3)


def test_networks_that_never_differ_are_not_known_to_be_equal():
    hits = np.ones((3, 50), bool)
    comparison = compare(hits, hits)
    assert comparison.difference == 0
    assert comparison.low == pytest.approx(-comparison.high)
    assert 0.01 < comparison.high < 0.1
    assert not comparison.better
    assert not comparison.worse


def test_a_few_images_do_not_decide():
    a = np.zeros((1, 100), bool)
    a[0, :4] = True  # four of four: p = 0.125 by the sign test
    assert not compare(a, np.zeros_like(a)).better
    a[0, :12] = True
    assert compare(a, np.zeros_like(a)).better


def test_the_other_way_round_and_in_another_order():
    rng = np.random.default_rng(8)
    a, b = trained(rng, 3, 100, 0.3, 0.1)
    actual, back = compare(a, b), compare(b, a)
    assert [back.low, back.high] == pytest.approx([-actual.high, -actual.low])
    seeds, images = rng.permutation(3), rng.permutation(100)
    shuffled = compare(a[seeds][:, images], b[seeds][:, images])
    assert [shuffled.low, shuffled.high] == pytest.approx([actual.low, actual.high])
    assert back.worse == actual.better


def test_the_interval_stays_within_what_is_possible():
    a = np.ones((2, 3), bool)
    comparison = compare(a, ~a)
    assert (comparison.difference, comparison.high) == (1.0, 1.0)
    assert comparison.low < 1
    assert compare(a[:, :1], a[:, :1]).difference == 0  # one image is enough to be answered


# -- accuracies alone ------------------------------------------------------------------------------


def test_accuracies_of_seeds_are_a_paired_t_interval():
    first, second = [0.71, 0.735, 0.72, 0.70], [0.70, 0.71, 0.715, 0.69]
    comparison = compare_accuracies(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert [comparison.low, comparison.high] == pytest.approx([expected.low, expected.high])
    assert comparison.difference == pytest.approx(0.0125)
    assert (comparison.seeds, comparison.images, comparison.covers) == (4, 0, "seeds")


@pytest.mark.parametrize(("first", "second"), [([0.9], [0.1]), ([0.5, 0.6], [0.25, 0.35])])
def test_no_spread_no_verdict(first, second):
    comparison = compare_accuracies(first, second)
    assert (comparison.low, comparison.high, comparison.covers) == (-1, 1, "")
    assert comparison.difference == pytest.approx(first[0] - second[0])
    assert not comparison.better


# -- what is refused -------------------------------------------------------------------------------

HITS = np.ones((2, 5), bool)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (HITS, np.ones((3, 5), bool), r"\(2, 5\) and \(3, 5\) .* are not paired"),
        (HITS, HITS.astype(int), r"second: int64 of shape \(2, 5\) are not bools"),
        (HITS[0], HITS[0], r"first: bool of shape \(5,\)"),
        (HITS[:, :0], HITS[:, :0], r"first: bool of shape \(2, 0\)"),
    ],
)
def test_hits_that_are_refused(first, second, message):
    with pytest.raises(SearchError, match=message):
        compare(first, second)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], [], "0 and 0 accuracies"),
        ([0.5], [0.5, 0.6], "1 and 2 accuracies are not paired"),
        ([71.0], [0.5], r"71\.0 is no accuracy of 0 to 1"),
        ([0.5], [float("nan")], "nan is no accuracy"),
    ],
)
def test_accuracies_that_are_refused(first, second, message):
    with pytest.raises(SearchError, match=message):
        compare_accuracies(first, second)
