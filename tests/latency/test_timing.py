"""Timing on a synthetic machine of known latencies."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from lcnas import zoo
from lcnas.arch import walk
from lcnas.errors import EngineError
from lcnas.latency import timing
from lcnas.latency.timing import Item, Stopwatch, TimingPlan, Visit

from .synthetic import ENGINE, World

NAMES = ("pplcnet_0.25x", "pplcnet_0.5x", "pplcnet_1.0x", "mobilenet_v3_small", "mobilenet_v1_1.0x")


def stopwatch(world: World, plan: TimingPlan, seed: int = 0) -> Stopwatch:
    reference = zoo.load("pplcnet_0.5x")
    item = Item(timing.REFERENCE, lambda: world.open(reference, ENGINE))
    return Stopwatch(item, plan, np.random.default_rng(seed), clock=world.clock)


def items(world: World) -> list[Item]:
    archs = {name: zoo.load(name) for name in NAMES}
    return [Item(name, functools.partial(world.open, arch, ENGINE)) for name, arch in archs.items()]


PLAN = TimingPlan(sessions=3, rounds=10, most_rounds=10, reference_every=2)


def test_estimates_are_corrected_for_drift_and_noise():
    world = World(drift=0.2, noise=0.02)
    measurements = timing.estimates(list(stopwatch(world, PLAN).measure(items(world))))
    # All are slow by the same unknown factor (the usual pace of the machine): only ratios are known.
    scale = measurements["pplcnet_0.5x"].ms / world.truth(zoo.load("pplcnet_0.5x"))
    assert scale == pytest.approx(1, abs=0.1)
    for name in NAMES:
        assert measurements[name].ms == pytest.approx(scale * world.truth(zoo.load(name)), rel=0.03)


def test_the_correction_by_the_reference_lowers_the_spread():
    world = World(drift=0.2, noise=0.005)
    visits = list(stopwatch(world, PLAN).measure(items(world)))
    for name in NAMES[:3]:
        raw = np.array([v.ms for v in visits if v.key == name])
        corrected = np.array([v.ms for v in timing.drift_corrected(visits) if v.key == name])
        assert corrected.std() / corrected.mean() < 0.6 * raw.std() / raw.mean()


def test_clocks_of_two_runs_are_not_mixed():
    """The machine was started anew between two runs: their clocks show the same times, their paces differ."""
    visits = []
    for run, pace in ((0, 1.0), (1, 2.0)):
        for i in range(40):
            key = timing.REFERENCE if i % 2 else "a"
            visits.append(Visit(key, run, float(i), 3.0 * pace, run))
    corrected = timing.drift_corrected(visits)
    assert {v.ms for v in corrected} == {4.5}  # the median of all reference visits
    as_one_run = timing.drift_corrected([dataclasses.replace(v, run=0) for v in visits])
    assert len({v.ms for v in as_one_run}) > 1


def test_a_run_without_reference_visits_stays_as_it_is():
    references = [Visit(timing.REFERENCE, 0, float(i), 1.0 + i % 2) for i in range(20)]
    (visit,) = timing.drift_corrected([*references, Visit("a", 0, 3.0, 5.0, run=1)])
    assert visit.ms == 5.0


def test_sessions_of_two_runs_are_different_sessions():
    measurement = timing.estimate([Visit("a", 0, 0.0, 1.0), Visit("a", 0, 0.0, 2.0, run=1)])
    assert measurement.sessions == 2


def test_intervals_widen_with_the_spread_between_sessions():
    narrow, wide = (
        timing.estimates(list(stopwatch(world, PLAN).measure(items(world))))
        for world in (World(drift=0, spread=0.001), World(drift=0, spread=0.05))
    )
    for name in NAMES:
        assert narrow[name].low <= narrow[name].ms <= narrow[name].high
    assert np.mean([wide[n].half_width for n in NAMES]) > 3 * np.mean(
        [narrow[n].half_width for n in NAMES]
    )


def test_every_item_is_loaded_afresh_in_each_session_and_visited_in_each_round():
    world = World()
    plan = TimingPlan(sessions=2, rounds=4, most_rounds=4, at_once=2)
    visits = [v for v in stopwatch(world, plan).measure(items(world)) if v.key != timing.REFERENCE]
    assert world.opened == 2 * len(NAMES) + 1
    for name in NAMES:
        sessions = [v.session for v in visits if v.key == name]
        assert sorted(sessions) == [0] * 4 + [1] * 4


def test_the_order_of_visits_is_random_and_follows_the_seed():
    def order(seed: int) -> list[object]:
        world = World()
        plan = TimingPlan(sessions=1, rounds=3, most_rounds=3)
        return [v.key for v in stopwatch(world, plan, seed).measure(items(world))]

    assert order(0) == order(0) != order(1)


def test_known_visits_are_not_measured_again():
    world = World()
    plan = TimingPlan(sessions=2, rounds=3, most_rounds=3)
    first = list(stopwatch(world, plan).measure(items(world)))
    assert [v for v in stopwatch(world, plan).measure(items(world), first) if v.key in NAMES] == []
    half = first[: len(first) // 2]
    rest = list(stopwatch(world, plan).measure(items(world), half))
    for name in NAMES:
        visits = [v for v in [*half, *rest] if v.key == name]
        assert len(visits) >= 6
        assert len({v.session for v in visits}) >= 2


def test_a_noisy_item_gets_more_rounds_than_a_quiet_one():
    plan = TimingPlan(sessions=1, rounds=4, most_rounds=30, target=0.004, reference_every=1000)
    quiet = list(stopwatch(world := World(drift=0, noise=1e-6), plan).measure(items(world)))
    noisy = list(stopwatch(world := World(drift=0, noise=0.3), plan).measure(items(world)))
    assert len(quiet) < 0.5 * len(noisy)


def test_a_visit_is_a_low_quantile():
    world = World(drift=0, noise=0.0, spread=0)
    arch = zoo.load("pplcnet_0.5x")
    ms = timing.run_visit(world.open(arch, ENGINE), TimingPlan(visit_ms=200.0), world.clock)
    # One run in fifty is 50 % late; the low quantile does not notice.
    assert ms == pytest.approx(world.truth(arch), rel=1e-9)


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(ms):
    with pytest.raises(EngineError, match="is no time; the clock is broken"):
        timing.estimate([Visit("a", 0, 0.0, 1.0), Visit("a", 0, 1.0, ms)])
    with pytest.raises(EngineError, match="there is no visit"):
        timing.estimate([])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    arch = zoo.load("pplcnet_0.25x")
    for seed in range(60):
        world = World(drift=0, noise=0.002, spread=0.01, seed=seed)
        plan = TimingPlan(sessions=6, rounds=4, most_rounds=4)
        item = Item("a", functools.partial(world.open, arch, ENGINE))
        watch = Stopwatch(None, plan, np.random.default_rng(seed), clock=world.clock)
        measurement = timing.estimate(list(watch.measure([item])))
        hits += measurement.low <= world.truth(arch) * 1.0004 <= measurement.high
    assert 40 <= hits <= 60  # a bootstrap over six sessions is a little narrow


def test_the_synthetic_truth_is_a_sum():
    world = World()
    arch = zoo.load("pplcnet_0.5x")
    assert world.truth(arch) == pytest.approx(0.012 + sum(_inside(p) for p in walk(arch)))


def _inside(placed: object) -> float:
    from .synthetic import inside_ms

    return inside_ms(placed)  # type: ignore[arg-type]
