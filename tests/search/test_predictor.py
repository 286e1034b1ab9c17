"""The accuracy predictor, and the screening of proposals by it."""

import numpy as np
import pytest
from scipy.stats import kendalltau, norm

from lcnas import latency, spaces
from lcnas.latency import LatencyTable
from search import pareto, predictor, searchers
from search.errors import SearchError
from search.predictor import Features, Screened, ScreeningOptions
from search.trials import Trial


@pytest.fixture(scope="module")
def budget(checkout):
    (path,) = (checkout / "latency_tables").glob("*openvino*fp32-t1-b1.json")
    table = LatencyTable.load(path)
    return latency.Budget(spaces.load("pplcnet_tail"), table, max_ms=3.5, min_ms=0.7)


@pytest.fixture(scope="module")
def features(budget):
    return Features(budget)


def drawn(budget, n, seed=0):
    return budget.sample_codes(n, np.random.default_rng(seed), bands=5)


def additive(budget, seed):
    """Return an accuracy that is a sum over the genes' choices, of codes (n, genes)."""
    rng = np.random.default_rng(seed)
    worth = [rng.normal(size=len(gene.choices)) for gene in budget.space.genes]
    return lambda codes: sum(w[codes[:, i]] for i, w in enumerate(worth))


# -- prediction ------------------------------------------------------------------------------------


def test_an_additive_accuracy_is_predicted(budget, features):
    accuracy = additive(budget, 1)
    codes, others = drawn(budget, 200), drawn(budget, 300, seed=1)
    result = predictor.fit(features, codes, accuracy(codes))
    mean, std = result.predict(others)
    right = accuracy(others)
    assert kendalltau(mean, right).statistic > 0.9
    assert result.tau == pytest.approx(kendalltau(mean, right).statistic, abs=0.1)
    assert result.tau_at_cost > 0.85
    assert 0.1 < np.std((right - mean) / std) < 2  # the deviation says how wrong it is


def test_noise_is_not_predicted(budget, features):
    results = []
    for seed in range(8):
        codes = drawn(budget, 60, seed)
        result = predictor.fit(features, codes, np.random.default_rng(seed).normal(size=60))
        results.append((result.tau, result.tau_at_cost))
    assert np.abs(np.mean(results, axis=0)).max() < 0.1
    # Of 8 means of 5 taus over 12 results each; one of these has a deviation of about 0.2.
    assert np.abs(results).max() < 0.35


def test_what_only_follows_the_cost_is_told_apart(budget, features):
    codes = drawn(budget, 150)
    noise = 0.1 * np.random.default_rng(0).normal(size=150)
    result = predictor.fit(features, codes, features.cost(codes) + noise)
    assert result.tau > 0.7
    assert abs(result.tau_at_cost) < 0.15


def test_predictions_near_a_result_are_sure(budget, features):
    accuracy = additive(budget, 2)
    codes = drawn(budget, 100)
    result = predictor.fit(features, codes, accuracy(codes))
    mean, std = result.predict(codes)
    other = result.predict(drawn(budget, 100, seed=5))[1]
    assert std.mean() < 0.75 * other.mean()
    np.testing.assert_allclose(mean, accuracy(codes), atol=0.5 * np.std(accuracy(codes)))


def test_held_out_predictions_are_those_of_fits_without_the_fold(budget, features):
    codes = drawn(budget, 40)
    y = additive(budget, 3)(codes) + np.random.default_rng(0).normal(size=40)
    result = predictor.fit(features, codes, y)
    x, unit = result.members[0].x, (y - y.mean()) / y.std()
    folds = predictor._folds(40)
    assert sorted(np.concatenate(folds).tolist()) == list(range(40))
    total = np.zeros(40)
    for member in result.members:
        kernel = member.kernel
        for fold in folds:
            rest = np.setdiff1d(np.arange(40), fold)
            within = kernel.between(x[rest], x[rest]) + kernel.noise * np.eye(len(rest))
            guess = kernel.between(x[fold], x[rest]) @ np.linalg.solve(within, unit[rest])
            total[fold] += member.weight * guess
    np.testing.assert_allclose(result.held_out, total * y.std() + y.mean(), rtol=1e-5, atol=1e-5)
    taus = [kendalltau(result.held_out[f], y[f]).statistic for f in folds]
    assert result.tau == pytest.approx(np.mean(taus))


def test_mean_and_deviation_of_one_process_are_the_textbook_ones(budget, features):
    codes, others = drawn(budget, 30), drawn(budget, 5, seed=9)
    y = additive(budget, 4)(codes)
    result = predictor.fit(features, codes, y)
    member = result.members[0]
    x, new = member.x, result.scaled.features(features(others))
    covariance = member.kernel.between(x, x) + member.kernel.noise * np.eye(30)
    between = member.kernel.between(new, x)
    unit = (y - y.mean()) / y.std()
    mean, variance = member.predict(new)
    np.testing.assert_allclose(
        mean, between @ np.linalg.solve(covariance, unit), rtol=1e-5, atol=1e-6
    )
    scale = unit @ np.linalg.solve(covariance, unit) / 30
    own = np.diag(member.kernel.between(new, new))
    left = own - np.einsum("ij,ij->i", between, np.linalg.solve(covariance, between.T).T)
    np.testing.assert_allclose(member.kernel.at(new), own)
    np.testing.assert_allclose(variance, scale * left, rtol=1e-4, atol=1e-6)


def test_evidence_is_the_density_of_the_accuracies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=6)
    results = {}
    for noise in (0.1, 2.0):
        covariance = predictor._Kernel(0.5, 1.0, noise).between(x, x) + noise * np.eye(6)
        scale = y @ np.linalg.solve(covariance, y) / 6
        _, logdet = np.linalg.slogdet(scale * covariance)
        density = -(y @ np.linalg.solve(scale * covariance, y) + logdet) / 2
        results[noise] = (predictor._evidence(covariance, y), density)
    ours, theirs = (results[2.0][i] - results[0.1][i] for i in range(2))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_features_are_choices_places_and_costs(budget, features):
    codes = drawn(budget, 7)
    result = features(codes)
    sizes = [len(gene.choices) for gene in budget.space.genes]
    assert len(features.weights()) == result.shape[1]
    assert result[:, : sum(sizes)].sum(axis=1).tolist() == [len(sizes)] * 7
    assert np.argmax(result[:, : sizes[0]], axis=1).tolist() == codes[:, 0].tolist()
    np.testing.assert_allclose(np.exp(result[:, -3]), budget.costs(codes))
    assert features.weights().sum() == pytest.approx(3)


@pytest.mark.parametrize(
    ("n", "accuracy", "complaint"),
    [
        (9, np.arange(9.0), "not at least 10 results"),
        (12, np.arange(11.0), "not at least 10 results"),
        (12, np.full(12, 0.5), "all the same"),
        (12, np.r_[np.nan, np.arange(11.0)], "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(budget, features, n, accuracy, complaint):
    with pytest.raises(SearchError, match=complaint):
        predictor.fit(features, drawn(budget, n), accuracy)


# -- expected gains --------------------------------------------------------------------------------


def test_expected_gain_is_the_mean_gain_in_hypervolume():
    rng = np.random.default_rng(0)
    costs, tops = np.array([-np.inf, 1.0, 2.0, 3.0]), np.array([0.2, 0.5, 0.6, 0.8])
    front = np.stack([tops[1:], -costs[1:]], axis=1)
    reference = (0.2, -4.0)
    before = pareto.hypervolume(front, reference)
    for mean, std, cost in ((0.7, 0.1, 1.5), (0.3, 0.2, 0.5), (0.9, 0.05, 3.5)):
        (ours,) = predictor.gains(
            np.array([mean]), np.array([std]), np.array([cost]), costs, tops, 4.0
        )
        draws = norm.ppf((np.arange(400) + rng.random(400)) / 400, mean, std)
        after = [pareto.hypervolume(np.r_[front, [[a, -cost]]], reference) for a in draws]
        assert ours == pytest.approx(np.mean(after) - before, rel=0.03)


def test_a_sure_gain_is_an_area():
    actual = predictor.gains(
        np.array([0.9, 0.55, 0.4]), np.zeros(3), np.array([1.0, 1.0, 3.9]),
        np.array([-np.inf, 2.0]), np.array([0.5, 0.6]), 4.0,
    )  # fmt: skip
    np.testing.assert_allclose(actual, [0.4 * 1 + 0.3 * 2, 0.05 * 1, 0.0], atol=1e-12)


# -- screening -------------------------------------------------------------------------------------


def run(budget, strategy, accuracy, n, seed, lag=2):
    """Return the trials of a search."""
    proposals = searchers.Proposals(strategy, budget, seed, lag)
    waiting: list[Trial] = []
    done: list[Trial] = []
    while len(done) < n:
        result = proposals.next() if proposals.asked < n else None
        if result is None:
            trial = waiting.pop(0)
            proposals.record(trial)
            done.append(trial)
            continue
        number, codes = result
        value = accuracy(codes[None])[0]
        actual = None if value is None else float(value)
        ms = float(budget.costs(codes[None])[0]) / 1000
        waiting.append(Trial(number, tuple(codes.tolist()), "", ms, actual))
    return done


def volume(trials):
    return pareto.hypervolume(
        [(t.accuracy, -np.log(t.latency_ms)) for t in trials if t.accuracy is not None],
        (-4.0, -np.log(3.6)),
    )


def a_search(budget, seed, n, options=None, truth=None):
    accuracy = truth or smooth(budget, seed)
    strategy = searchers.create("random", budget, seed, trials=n)
    if options is not None:
        strategy = Screened(strategy, budget, options)
    return run(budget, strategy, accuracy, n, seed), strategy


def smooth(budget, seed):
    """Return an accuracy between about 0 and 3 that rises with the cost, and depends on the choices."""
    by_gene, features = additive(budget, seed), Features(budget)
    return lambda codes: features.cost(codes) - 6.5 + 0.3 * by_gene(codes)


def test_screening_finds_better_networks_with_as_many_evaluations(budget):
    unscreened = [volume(a_search(budget, seed, 80)[0]) for seed in range(4)]
    screened, strategies = zip(
        *(a_search(budget, seed, 80, ScreeningOptions()) for seed in range(4)), strict=True
    )
    better = np.array([volume(trials) for trials in screened]) / np.array(unscreened)
    assert better.min() > 1
    assert better.mean() > 1.05
    assert all(20 < s.screened < 50 for s in strategies)
    assert all("in use" in s.describe() for s in strategies)


def test_without_knowledge_nothing_is_screened(budget):
    def noise(codes):
        return np.array([np.random.default_rng(row).normal() for row in codes.tolist()])

    unscreened, _ = a_search(budget, 0, 60, truth=noise)
    screened, strategy = a_search(budget, 0, 60, ScreeningOptions(threshold=0.4), truth=noise)
    assert strategy.predictor is not None
    assert strategy.screened == 0
    assert [t.codes for t in screened] == [t.codes for t in unscreened]
    assert "not used below 0.4" in strategy.describe()


def test_nothing_changes_before_there_are_results_enough(budget):
    options = ScreeningOptions(start=30)
    unscreened, _ = a_search(budget, 1, 50)
    screened, strategy = a_search(budget, 1, 50, options)
    same = [a.codes == b.codes for a, b in zip(unscreened, screened, strict=True)]
    assert all(same[:30])
    assert not all(same[32:])
    fresh = Screened(strategy, budget, options)
    assert fresh.describe() == "predictor: none yet; the first after 30 networks"


def test_proposals_are_the_same_when_repeated_and_when_resumed(budget):
    whole, _ = a_search(budget, 2, 60, ScreeningOptions(start=20, every=4))
    again, _ = a_search(budget, 2, 60, ScreeningOptions(start=20, every=4))
    assert [t.codes for t in whole] == [t.codes for t in again]
    strategy = Screened(
        searchers.create("random", budget, 2, trials=60),
        budget,
        ScreeningOptions(start=20, every=4),
    )
    known = [t for t in whole if t.number < 45]
    proposals = searchers.Proposals(strategy, budget, 2, 2, known)
    proposal = proposals.next()
    assert proposal is not None
    number, codes = proposal
    assert tuple(codes.tolist()) == whole[number].codes


def test_failed_networks_are_no_results(budget):
    good = smooth(budget, 5)

    def some_fail(codes):
        return [None] if codes[0].sum() % 2 else good(codes)

    trials, strategy = a_search(budget, 5, 60, ScreeningOptions(start=10), truth=some_fail)
    finished = sum(t.accuracy is not None for t in trials)
    assert 10 < finished < 50
    assert 10 <= strategy.predictor.n <= finished


def test_all_of_one_accuracy_is_no_fault(budget):
    _, strategy = a_search(
        budget, 0, 30, ScreeningOptions(start=10), truth=lambda codes: np.full(len(codes), 0.1)
    )
    assert strategy.predictor is None
    assert strategy.screened == 0


class Counting:
    """A strategy that proposes given networks in turn, and counts what is reported to it."""

    def __init__(self, codes):
        self.codes, self.asked, self.reported = codes, 0, []

    def ask(self, rng):
        self.asked += 1
        return self.codes[(self.asked - 1) % len(self.codes)]

    def tell(self, number, codes, accuracy, latency_ms):
        self.reported.append((number, accuracy, latency_ms))


def test_fits_come_after_fixed_numbers_of_results_and_rest_on_the_latest(budget):
    codes = drawn(budget, 200)
    accuracy = smooth(budget, 0)(codes)
    inner = Counting(codes)
    result = Screened(
        inner, budget, ScreeningOptions(start=20, every=10, most=60, candidates=3, unscreened=0.0)
    )
    fitted: list = []
    for number in range(200):
        result.tell(number, codes[number], float(accuracy[number]), 1.0)
        result.ask(np.random.default_rng(number))
        if result.predictor is not None and (not fitted or result.predictor is not fitted[-1][1]):
            fitted.append((number + 1, result.predictor))
    counts = [n for n, _ in fitted]
    assert counts == [*range(20, 110, 10), 110, 121, 133, 146, 160, 176, 193]
    assert [p.n for _, p in fitted] == [min(n, 60) for n in counts]
    assert len(inner.reported) == 200
    last = codes[133:193]
    right = predictor.fit(Features(budget), last, accuracy[133:193])
    np.testing.assert_array_equal(fitted[-1][1].held_out, right.held_out)


def test_the_most_promising_of_the_candidates_is_passed_on(budget):
    codes, pool, accuracy = drawn(budget, 300), drawn(budget, 100, seed=7), smooth(budget, 0)
    known, others = (
        np.stack([accuracy(c), -Features(budget).cost(c)], axis=1) for c in (codes, pool)
    )
    reference = (known[:, 0].min(), -np.log(3800.0))
    gains = [pareto.hypervolume(np.r_[known, [point]], reference) for point in others]
    order = np.argsort(gains)
    inner = Counting(np.r_[pool[order[:5]], pool[order[-1:]], codes[:2]])
    result = Screened(inner, budget, ScreeningOptions(start=300, candidates=8, unscreened=0.0))
    for number, (row, value) in enumerate(zip(codes, accuracy(codes), strict=True)):
        result.tell(number, row, float(value), 1.0)
    assert result.ask(np.random.default_rng(0)).tolist() == pool[order[-1]].tolist()
    assert inner.asked == 8
    assert result.screened == 1


def test_known_networks_alone_are_passed_on_as_they_are(budget):
    codes = drawn(budget, 40)
    inner = Counting(codes[:1])
    result = Screened(inner, budget, ScreeningOptions(start=40, unscreened=0.0))
    for number, (row, value) in enumerate(zip(codes, smooth(budget, 0)(codes), strict=True)):
        result.tell(number, row, float(value), 1.0)
    assert result.ask(np.random.default_rng(0)).tolist() == codes[0].tolist()
    assert result.screened == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"candidates": 1}, "candidates: 1 is not a whole number of at least 2"),
        ({"start": 9}, "at least 10"),
        ({"every": 0}, "at least 1"),
        ({"threshold": 1.5}, "a number from 0 to 1"),
        ({"unscreened": -0.1}, "a number from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(options, complaint):
    with pytest.raises(SearchError, match=complaint):
        ScreeningOptions(**options)
