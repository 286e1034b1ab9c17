"""An accuracy predictor on the codes of a space, and a strategy that screens another one's proposals by it.

The predictor is a small ensemble of Gaussian processes: on 50 to 500 results they need no tuning by hand,
say how sure they are, and can be tested on results that they have not seen at hardly any cost. Whether it
knows anything is measured all along: :attr:`Predictor.tau` and, above all, :attr:`Predictor.tau_at_cost`,
since an accuracy that only follows the latency needs no predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcnas import cost, renamed
from lcnas.budgets import Budget
from lcnas.spaces import Gene
from search.errors import SearchError
from search.searchers.base import Codes, Strategy, checked_integer, checked_share, key_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5  # parts of the results, each predicted from the others
FEWEST = 2 * FOLDS  # results that can be fitted
_KEPT = 3  # members of an ensemble, at most
_LEAST = 0.05  # weight of the least of them, in that of the likeliest
_CHOSEN_ON = 150  # results on which members are chosen
_CONSTANT = 100.0  # prior variance of the mean, in variances of the accuracies

# What a member assumes: the share of its kernel that is linear, the length scale of the rest (in typical
# distances between networks), and the variance of the noise (in variances of what it explains).
_SHAPES = ((1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (0.0, 0.5), (0.0, 1.0))
_NOISES = (0.02, 0.1, 0.3, 1.0, 4.0)


# -- features --------------------------------------------------------------------------------------


class Features:
    """Turns codes into numbers that predict accuracy.

    For each gene the choice taken, as a column each and, where choices are numbers (widths, depths), as its
    place among them; then the logarithms of the budget's cost, of params and of MACs. Each of the three
    groups has the same weight in the distance between two networks.

    Args:
        budget: the space, and the cost (latency, say).
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._genes = budget.space.genes

    def cost(self, codes: ArrayLike) -> Floats:
        """Return the natural logarithm of each network's cost by the budget, (n,)."""
        return _logarithm(self.budget.costs(codes))

    def __call__(self, codes: ArrayLike) -> Floats:
        """Return the features (n, columns) of codes (n, genes)."""
        rows = np.asarray(codes, dtype=np.int64)
        space = self.budget.space
        costs = [
            self.budget.costs(rows),
            cost.params_codes(space, rows),
            cost.macs_codes(space, rows),
        ]
        groups = [
            _choices(self._genes, rows),
            _places(self._genes, rows),
            np.stack([_logarithm(values) for values in costs], axis=1),
        ]
        return np.concatenate(groups, axis=1)

    def weights(self) -> Floats:
        """Return the weight of each column in the squared distance of standardised features."""
        sizes = (
            sum(len(g.choices) for g in self._genes),
            sum(map(_is_ordered, self._genes)),
            3,
        )
        return np.concatenate([np.full(size, 1 / size) for size in sizes if size])


def _logarithm(values: NDArray[Any]) -> Floats:
    result: Floats = np.log(np.maximum(values, 1).astype(np.float64))
    return result


def _is_ordered(gene: Gene) -> bool:
    """Return whether a gene's choices are rising numbers."""
    values = gene.choices
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and list(values) == sorted(values)


def _choices(genes: Sequence[Gene], codes: Ints) -> Floats:
    columns = [codes[:, i, None] == np.arange(len(g.choices)) for i, g in enumerate(genes)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _places(genes: Sequence[Gene], codes: Ints) -> Floats:
    return codes[:, [i for i, g in enumerate(genes) if _is_ordered(g)]].astype(np.float64)


# -- Gaussian processes ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Features and accuracies with mean 0 and variance 1, as those that were fitted have."""

    x_mean: Floats
    x_scale: Floats  # weights of the columns included
    y_mean: float
    y_std: float

    @classmethod
    def of(cls, x: Floats, y: Floats, weights: Floats) -> _Scaled:
        std = x.std(axis=0)
        used = std > 1e-9
        scale = np.where(used, np.sqrt(weights) / np.where(used, std, 1.0), 0.0)
        return cls(x.mean(axis=0), scale, float(y.mean()), float(y.std()))

    def features(self, x: Floats) -> Floats:
        return (x - self.x_mean) * self.x_scale


@dataclass(frozen=True)
class _Kernel:
    """What a member assumes of the covariance between networks."""

    linear: float
    length: float
    noise: float

    def between(self, a: Floats, b: Floats) -> Floats:
        """Return the covariance of scaled features (n, d) and (m, d), without noise, (n, m)."""
        products = a @ b.T
        spread = float(len(_GROUPS))  # of the squared distance from the middle, on average
        covariance: Floats = _CONSTANT + self.linear * products / spread
        if self.linear < 1:
            squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2 * products
            near = np.exp(-np.maximum(squares, 0) / (4 * spread * self.length**2))
            covariance += (1 - self.linear) * near
        return covariance

    def at(self, a: Floats) -> Floats:
        """Return the variance of each row, (n,)."""
        spread = float(len(_GROUPS))
        variance: Floats = (
            _CONSTANT + self.linear * (a * a).sum(axis=1) / spread + (1 - self.linear)
        )
        return variance


_GROUPS = ("choices", "places", "costs")


@dataclass(frozen=True, eq=False)
class _Member:
    """A Gaussian process fitted to results."""

    kernel: _Kernel
    weight: float  # in the ensemble
    x: Floats  # scaled features of the results
    inverse: Floats  # of their covariance, noise included
    solved: Floats  # the inverse times the scaled accuracies
    variance: float  # of what is explained, in the accuracies' own

    @classmethod
    def of(cls, kernel: _Kernel, weight: float, x: Floats, y: Floats) -> _Member:
        inverse = _inverse(kernel.between(x, x) + kernel.noise * np.eye(len(x)))
        solved = inverse @ y
        return cls(kernel, weight, x, inverse, solved, float(y @ solved) / len(y))

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance at scaled features, (n,) each; without noise."""
        between = self.kernel.between(x, self.x)
        left = self.kernel.at(x) - ((between @ self.inverse) * between).sum(axis=1)
        return between @ self.solved, self.variance * np.maximum(left, 0.0)

    def held_out(self, y: Floats, folds: Sequence[NDArray[np.intp]]) -> Floats:
        """Return what the results of each fold are predicted to be from those of the others.

        No fit is repeated: with the inverse covariance at hand the residuals of a part that is left out
        are a small system of equations (Rasmussen and Williams 2006, section 5.4.2, for one result).
        """
        predicted = y.copy()
        for fold in folds:
            part = self.inverse[np.ix_(fold, fold)]
            predicted[fold] -= np.linalg.solve(part, self.solved[fold])
        return predicted


def _inverse(matrix: Floats) -> Floats:
    from scipy.linalg import lapack

    factor, _ = lapack.dpotrf(matrix, lower=1)
    lower, _ = lapack.dpotri(factor, lower=1)
    inverse: Floats = np.tril(lower)
    return inverse + np.tril(inverse, -1).T


def _evidence(covariance: Floats, y: Floats) -> float:
    """Return the log marginal likelihood, with the variance that makes it largest, up to a constant."""
    from scipy.linalg import lapack

    factor, solved, _ = lapack.dposv(covariance, y, lower=1)
    explained = float(y @ solved) / len(y)
    return float(-len(y) / 2 * np.log(explained) - np.log(np.diag(factor)).sum())


def _chosen(x: Floats, y: Floats) -> list[tuple[_Kernel, float]]:
    """Return the likeliest kernels and their weights, judged by results spread evenly over all."""
    rows = np.unique(np.linspace(0, len(y) - 1, min(len(y), _CHOSEN_ON)).round().astype(np.intp))
    kernels, evidence = [], []
    for shape in _SHAPES:
        noiseless = _Kernel(*shape, 0.0).between(x[rows], x[rows])
        for noise in _NOISES:
            kernels.append(_Kernel(*shape, noise))
            evidence.append(_evidence(noiseless + noise * np.eye(len(rows)), y[rows]))
    best = np.argsort(-np.array(evidence), kind="stable")[:_KEPT]
    weights = {i: float(np.exp(evidence[i] - evidence[best[0]])) for i in best.tolist()}
    kept = {i: weight for i, weight in weights.items() if weight >= _LEAST}
    return [(kernels[i], weight / sum(kept.values())) for i, weight in kept.items()]


# -- the predictor ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts the accuracy of networks from the results of others; made by :func:`fit`."""

    features: Features
    scaled: _Scaled
    members: tuple[_Member, ...]
    held_out: Floats  # (n,) accuracy of each result, predicted from those of other folds
    tau: float  # Kendall's tau of these with the accuracies, mean over folds
    tau_at_cost: float  # the same of what a quadratic in log cost leaves of both

    @property
    def n(self) -> int:
        """How many results it rests on."""
        return len(self.held_out)

    def predict(self, codes: ArrayLike) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the accuracies of codes (n, genes), (n,) each.

        The deviation is that of the accuracy without the noise of measuring it.
        """
        x = self.scaled.features(self.features(codes))
        each = [member.predict(x) for member in self.members]
        weights = np.array([member.weight for member in self.members])
        means = np.stack([mean for mean, _ in each])
        mean = weights @ means
        variance = weights @ (np.stack([v for _, v in each]) + (means - mean) ** 2)
        std, middle = self.scaled.y_std, self.scaled.y_mean
        return mean * std + middle, np.sqrt(variance) * std


def fit(features: Features, codes: ArrayLike, accuracy: ArrayLike) -> Predictor:
    """Return a predictor of accuracies from those of some networks.

    Members are chosen, and weighted, by their marginal likelihood on all results, so the held-out taus are
    of fits that have not seen a result, but of assumptions that have.

    Args:
        features: of the space.
        codes: integers (n, genes).
        accuracy: (n,), larger is better.

    Raises:
        SearchError: fewer than 10 results, other shapes, values that are not finite or all the same.
    """
    rows, y = np.asarray(codes, dtype=np.int64), np.asarray(accuracy, dtype=np.float64)
    if rows.ndim != 2 or y.shape != (len(rows),) or len(y) < FEWEST:
        raise SearchError(
            f"predictor: codes {rows.shape} and accuracies {y.shape} are not at least {FEWEST} results"
        )
    if not np.isfinite(y).all() or np.ptp(y) == 0:
        raise SearchError("predictor: accuracies are not finite, or all the same")
    raw = features(rows)
    scaled = _Scaled.of(raw, y, features.weights())
    x, unit = scaled.features(raw), (y - scaled.y_mean) / scaled.y_std
    members = tuple(_Member.of(kernel, weight, x, unit) for kernel, weight in _chosen(x, unit))
    folds = _folds(len(y))
    held_out = sum(m.weight * m.held_out(unit, folds) for m in members)
    guesses = np.asarray(held_out) * scaled.y_std + scaled.y_mean
    at_cost = _without(features.cost(rows), np.stack([guesses, y], axis=1))
    return Predictor(
        features,
        scaled,
        members,
        guesses,
        _tau(guesses, y, folds),
        _tau(at_cost[:, 0], at_cost[:, 1], folds),
    )


def _folds(n: int) -> list[NDArray[np.intp]]:
    order = np.random.default_rng(0).permutation(n)
    return [np.sort(order[i::FOLDS]) for i in range(FOLDS)]


def _without(cost: Floats, values: Floats) -> Floats:
    """Return what a quadratic in the log cost leaves of each column of values (n, m)."""
    unit = (cost - cost.mean()) / (cost.std() or 1.0)
    design = np.stack([np.ones_like(unit), unit, unit**2], axis=1)
    residual: Floats = values - design @ np.linalg.lstsq(design, values)[0]
    return residual


def _tau(predicted: Floats, accuracy: Floats, folds: Sequence[NDArray[np.intp]]) -> float:
    """Return Kendall's tau-b, mean over folds.

    Pairs of different folds are not compared: where nothing can be known, a fold of high accuracies is
    predicted to be low, from the lower mean of the others.
    """
    from scipy.stats import kendalltau

    taus = [float(kendalltau(predicted[f], accuracy[f]).statistic) for f in folds]
    return float(np.mean(np.nan_to_num(taus)))  # NaN: all predicted alike


# -- screening -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScreeningOptions:
    """How proposals are screened."""

    candidates: int = 8  # drawn for each proposal, of which the most promising one is passed on
    start: int = 30  # results before the first fit
    every: int = 8  # results from fit to fit, or a tenth of those so far where that is more
    threshold: float = 0.2  # of tau_at_cost, below which nothing is screened
    unscreened: float = 0.25  # share of the proposals that stay as the strategy makes them
    most: int = 500  # of the latest results that a fit rests on

    def __post_init__(self) -> None:
        checked_integer("predictor: candidates", self.candidates, 2)
        checked_integer("predictor: start", self.start, FEWEST)
        checked_integer("predictor: every", self.every, 1)
        checked_integer("predictor: most", self.most, FEWEST)
        checked_share("predictor: threshold", self.threshold)
        checked_share("predictor: unscreened", self.unscreened)


class Screened:
    """A strategy that passes on the most promising of several proposals of another one.

    Promising is what is expected to widen the front most: the expected gain in hypervolume, of accuracy over
    log cost, where the cost is known and the accuracy predicted (Emmerich et al. 2011; with one objective
    known it is a sum of expected improvements over the steps of the front). Nothing is screened before
    there are results enough, and :attr:`Predictor.tau_at_cost` on them is above a threshold; and some
    proposals never are, so that a wrong predictor cannot lead the search astray for good.

    Fits come after fixed numbers of results, and all draws from the generator that is handed in, so proposals
    depend on what a strategy's proposals may depend on alone.

    Args:
        strategy: which proposes.
        budget: the networks.
        options: how.
    """

    def __init__(
        self, strategy: Strategy, budget: Budget, options: ScreeningOptions | None = None
    ) -> None:
        self.predictor: Predictor | None = None  # the latest
        self.screened = 0  # proposals so far that were chosen among several
        self._options = options or ScreeningOptions()
        self._strategy = strategy
        self._features = Features(budget)
        self._codes: list[Codes] = []
        self._accuracies: list[float] = []
        self._seen: set[tuple[int, ...]] = set()
        self._due = self._options.start  # results at which the next fit is made
        self._wanted = 0  # results on which the latest fit has to rest
        self._fitted = 0  # and on which it does

    def ask(self, rng: np.random.Generator) -> Codes:
        """Return the codes (genes,) of a network in the budget."""
        predictor = self._ready()
        if predictor is None or rng.random() < self._options.unscreened:
            return self._strategy.ask(rng)
        drawn = [self._strategy.ask(rng) for _ in range(self._options.candidates)]
        fresh = [codes for codes in drawn if key_of(codes) not in self._seen]
        if not fresh:
            return drawn[0]
        self.screened += 1
        return fresh[int(np.argmax(self._gains(predictor, np.stack(fresh))))]

    def tell(self, number: int, codes: Codes, accuracy: float | None, latency_ms: float) -> None:
        """Take note of a result, and pass it on."""
        self._strategy.tell(number, codes, accuracy, latency_ms)
        self._seen.add(key_of(codes))
        if accuracy is None:
            return
        self._codes.append(codes)
        self._accuracies.append(accuracy)
        if len(self._accuracies) == self._due:
            self._wanted = self._due
            self._due += max(self._options.every, self._due // 10)

    def describe(self) -> str:
        """Return in words what it rests on and how well it ranks, for whoever watches the search."""
        predictor = self.predictor
        if predictor is None:
            return f"predictor: none yet; the first after {self._options.start} networks"
        use = (
            "in use" if self._trusted(predictor) else f"not used below {self._options.threshold:g}"
        )
        return (
            f"predictor: held-out tau {predictor.tau:.2f}, {predictor.tau_at_cost:.2f} at equal cost "
            f"({predictor.n} networks; {use}, {self.screened} proposals screened)"
        )

    def _trusted(self, predictor: Predictor) -> bool:
        return predictor.tau_at_cost >= self._options.threshold

    def _ready(self) -> Predictor | None:
        """Return the predictor to screen by, fitted anew where that is due; None: do not."""
        if self._wanted > self._fitted:
            self._fitted = self._wanted
            latest = slice(max(0, self._wanted - self._options.most), self._wanted)
            accuracies = self._accuracies[latest]
            if len(set(accuracies)) > 1:
                self.predictor = fit(self._features, np.stack(self._codes[latest]), accuracies)
        predictor = self.predictor
        return predictor if predictor is not None and self._trusted(predictor) else None

    def _gains(self, predictor: Predictor, codes: Ints) -> Floats:
        """Return how much each network is expected to widen the front of all results."""
        mean, std = predictor.predict(codes)
        budget = self._features.budget
        lowest, highest = _logarithm(np.array([budget.min_cost, budget.max_cost]))
        # A little beyond the budget, or the slowest networks would have nothing to gain.
        end = highest + 0.05 * (highest - lowest)
        costs, tops = self._front()
        return gains(mean, std, self._features.cost(codes), costs, tops, end)

    def _front(self) -> tuple[Floats, Floats]:
        """Return the steps of the front of all results: from which log cost on which accuracy is reached.

        The first step, from -inf on, is the lowest accuracy so far.
        """
        costs, reached = self._features.cost(np.stack(self._codes)), np.array(self._accuracies)
        order = np.lexsort((-reached, costs))
        costs, tops = costs[order], np.maximum.accumulate(reached[order])
        rises = np.flatnonzero(np.diff(tops, prepend=-np.inf) > 0)
        return np.r_[-np.inf, costs[rises]], np.r_[reached.min(), tops[rises]]


__getattr__ = renamed.in_module(__name__, {"Options": "ScreeningOptions"})


def gains(
    mean: Floats, std: Floats, cost: Floats, costs: Floats, tops: Floats, end: float
) -> Floats:
    """Return the expected gain in the area under a front, (n,).

    Args:
        mean: of the accuracy of each candidate, (n,).
        std: of the same, (n,).
        cost: of each candidate, known, (n,).
        costs: where the front's steps begin, rising, (m,); the first may be -inf.
        tops: accuracy that the front reaches from there on, (m,).
        end: cost at which the area ends.

    Examples:
        >>> sure = np.array([0.0])
        >>> gains(
        ...     np.array([0.7]),
        ...     sure,
        ...     np.array([1.0]),
        ...     np.array([-np.inf, 2.0]),
        ...     np.array([0.5, 0.6]),
        ...     4.0,
        ... )
        array([0.4])
    """
    from scipy.special import ndtr

    ends = np.r_[costs[1:], end]
    widths = np.minimum(ends, end)[None, :] - np.maximum(costs[None, :], cost[:, None])
    above = mean[:, None] - tops[None, :]
    spread = np.maximum(std, 1e-12)[:, None]
    z = above / spread
    expected = above * ndtr(z) + spread * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    improvement: Floats = (np.maximum(widths, 0.0) * np.maximum(expected, 0.0)).sum(axis=1)
    return improvement
