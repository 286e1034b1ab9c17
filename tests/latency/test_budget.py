"""latency.Budget: budgets in milliseconds over a table, exact to the microsecond."""

from __future__ import annotations

import numpy as np
import pytest

from lcnas import latency, spaces
from lcnas.errors import BudgetError, TableError
from lcnas.latency.table import LatencyTable
from tests.spaces.small import KINDS

from .test_table import synthetic_table


@pytest.fixture(scope="module")
def space() -> spaces.Space:
    return spaces.loads(KINDS, "kinds")


@pytest.fixture(scope="module")
def table(space) -> LatencyTable:
    return synthetic_table(space)


def test_count_and_draws_agree_with_predictions_exactly(space, table):
    archs = list(space.enumerate())
    times = table.predict(archs, classes=10)
    limit = float(np.sort(times)[len(times) // 3])
    budget = latency.Budget(space, table, max_ms=limit, classes=10)
    assert budget.count() == int((times <= limit).sum())
    drawn = space.decode(budget.sample_codes(500, np.random.default_rng(0)))
    assert (table.predict(drawn, classes=10) <= limit).all()
    assert table.predict(budget.slowest(), classes=10)[0] == limit
    assert table.predict(budget.fastest(), classes=10)[0] == times.min()


def test_a_lower_limit_holds_as_well(space, table):
    times = table.predict(list(space.enumerate()), classes=10)
    low, high = np.quantile(times, [0.4, 0.6])
    budget = latency.Budget(space, table, max_ms=float(high), min_ms=float(low), classes=10)
    assert budget.count() == int(((times >= low) & (times <= high)).sum())


def test_a_budget_that_nothing_meets_says_what_exists_in_ms(space, table):
    least = table.predict(list(space.enumerate()), classes=10).min()
    with pytest.raises(BudgetError, match=f"{least:.3f} ms") as caught:
        latency.Budget(space, table, max_ms=0.001, classes=10)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"({table.machine_label})")  # a result names its machine


@pytest.mark.parametrize("value", [float("nan"), "2", None, True])
def test_limits_that_are_no_numbers(space, table, value):
    with pytest.raises(BudgetError, match=r"max_ms: .* is not a number of milliseconds"):
        latency.Budget(space, table, max_ms=value, classes=10)


def test_a_table_that_lacks_entries_is_reported(space, table):
    with pytest.raises(TableError, match="no entry for"):
        latency.Budget(space, table, max_ms=2.0, classes=1000)
