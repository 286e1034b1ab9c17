"""What a worker does with the networks of a trial."""

import pytest

from lcnas import zoo
from search.evaluation import Candidate, Evaluation
from search.evaluators.train import draw_seed

objective = pytest.importorskip("search.objective")


class Flaky:
    """Fails each network so many times."""

    def __init__(self, times):
        self.times = times
        self.asked = []

    def evaluate(self, candidates):
        results = []
        for one in candidates:
            self.asked.append((one.number, one.attempt))
            bad = one.number == 1 and one.attempt < self.times
            results.append(
                Evaluation(None, f"the loss is nan, attempt {one.attempt}", 2.0)
                if bad
                else Evaluation(0.5, seconds=1.0, details={"epochs": 2})
            )
        return results


def candidates():
    return [Candidate(i, (i,), zoo.load("pplcnet_0.25x")) for i in range(3)]


def test_what_fails_is_tried_again_with_other_draws_and_only_that():
    flaky = Flaky(times=1)
    evaluated = objective.evaluated(flaky, candidates())
    assert [e.accuracy for e in evaluated] == [0.5] * 3
    assert flaky.asked == [(0, 0), (1, 0), (2, 0), (1, 1)]
    assert evaluated[1].seconds == 3.0
    assert evaluated[1].details == {"epochs": 2, "first_failure": "the loss is nan, attempt 0"}
    assert draw_seed(0, 1, 1) != draw_seed(0, 1)


def test_what_fails_twice_is_a_failure_with_its_reason():
    evaluated = objective.evaluated(Flaky(times=2), candidates())
    assert [e.accuracy for e in evaluated] == [0.5, None, 0.5]
    assert evaluated[1].reason == "the loss is nan, attempt 1"
    assert evaluated[1].details["first_failure"] == "the loss is nan, attempt 0"
