"""Finalists: who is chosen, who holds the budget when it is measured, and who takes the place of whom."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from lcnas import spaces, zoo
from lcnas.arch import walk
from lcnas.latency import TimingPlan, timing
from lcnas.latency.table import MeasuredNetwork
from lcnas.latency.timing import Item, Stopwatch
from search.errors import SearchError
from search.finals import measurement
from search.finals.measurement import FinalMeasurements
from search.finals.selection import choose, select
from search.outcome import MeasuredLatency
from search.trials import Trial
from tests.latency.synthetic import ENGINE, World
from tests.search.test_tables import SPACE, exact

PLAN = TimingPlan(sessions=2, rounds=3, most_rounds=3, visit_ms=2.0)
ROUGH = TimingPlan(sessions=1, rounds=1, most_rounds=1, visit_ms=1.0, least_runs=2, warm_up=1)


@dataclass
class Machine:
    """A synthetic machine on which some networks are slower than the sum of their blocks, by their ids."""

    slower: dict[str, float] = field(default_factory=dict)
    noise: float = 0.002
    drift: float = 0.05
    spread: float = 0.002
    seed: int = 0
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def visits(self, sources, engine, *, classes, plan, seed, run):
        """Measure as lcnas.latency.visits_of does it."""
        assert engine == ENGINE
        self.calls.append(tuple(sources))
        world = World(noise=self.noise, drift=self.drift, spread=self.spread, seed=seed + self.seed)
        mark = zoo.load("pplcnet_0.5x")
        reference = Item(timing.REFERENCE, lambda: world.open(mark, ENGINE))
        watch = Stopwatch(reference, plan, np.random.default_rng(seed), clock=world.clock, run=run)

        def item(name):
            return Item(name, lambda: self.opened(world, sources[name]))

        return list(watch.measure([item(name) for name in sources]))

    def opened(self, world, arch):
        session = world.open(arch, ENGINE)
        session.ms *= self.slower.get(arch.id, 1.0)
        return session

    def truth(self, arch) -> float:
        return World().truth(arch) * self.slower.get(arch.id, 1.0)


def bench_of(machine: Machine, path: Path, **more) -> FinalMeasurements:
    return FinalMeasurements(
        path, ENGINE, plan=PLAN, rough_plan=ROUGH, measure_visits=machine.visits, **more
    )


@pytest.fixture(scope="module")
def space():
    return spaces.loads(SPACE, "small")


def trials_of(space, accuracy=None):
    """Return a trial of every network of a space, its latency by the true sum."""
    archs = list(space.enumerate())
    ms = exact(space).predict(archs)
    codes = space.encode(archs)
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=len(archs)) if accuracy is None else accuracy(archs, ms)
    return [
        Trial(i, tuple(map(int, row)), arch.id, float(t), float(score))
        for i, (row, arch, t, score) in enumerate(zip(codes, archs, ms, scores, strict=True))
    ]


def build(number, ms, accuracy, arch=None) -> Trial:
    reason = "" if accuracy is not None else "no"
    return Trial(number, (number,), arch or f"n{number}", ms, accuracy, reason)


# -- choosing --------------------------------------------------------------------------------------


def numbers(queues):
    return {q.band: [t.number for t in q.trials] for q in queues}


def test_bands_are_equal_parts_of_log_latency_and_the_front_comes_first():
    trials = [
        build(0, 1.0, 0.5), build(1, 1.9, 0.6), build(2, 1.95, 0.7),  # 1 to 2 ms
        build(3, 2.0, 0.55), build(4, 3.9, 0.9), build(5, 3.0, 0.8),  # 2 to 4 ms
        build(6, 8.0, 0.85), build(7, 5.0, None),  # 4 to 8 ms
    ]  # fmt: skip
    queues = choose(trials, {0, 4, 5}, 1.0, 8.0, bands=3, n=3)
    assert numbers(queues) == {0: [0, 2, 1], 1: [4, 5, 3], 2: [6]}
    assert [q.places for q in queues] == [1, 1, 1]
    edges = [edge for q in queues for edge in (q.low, q.high)]
    assert edges == pytest.approx([1, 2, 2, 4, 4, 8])


def test_latencies_beyond_the_ends_belong_to_the_last_bands():
    queues = choose([build(0, 0.9, 0.5), build(1, 8.1, 0.5)], (), 1.0, 8.0, bands=3, n=2)
    assert numbers(queues) == {0: [0], 2: [1]}


def test_ties_go_to_the_faster_then_to_the_earlier():
    trials = [build(3, 1.2, 0.5), build(2, 1.1, 0.5), build(1, 1.2, 0.5)]
    assert numbers(choose(trials, (), 1.0, 2.0, bands=1, n=1)) == {0: [2, 1, 3]}


def test_a_network_that_was_proposed_twice_has_one_place():
    trials = [build(0, 1.2, 0.5, "a"), build(1, 1.2, 0.6, "a"), build(2, 1.2, None, "a")]
    (queue,) = choose(trials, (), 1.0, 2.0, bands=1, n=2)
    assert ([t.number for t in queue.trials], queue.places) == ([1], 1)


@pytest.mark.parametrize(
    ("sizes", "n", "places"),
    [
        ((5, 5, 5), 3, (1, 1, 1)),
        ((5, 5, 5), 4, (1, 1, 2)),
        ((5, 5, 5), 1, (0, 0, 1)),
        ((5, 0, 5), 3, (1, 0, 2)),
        ((1, 1, 9), 6, (1, 1, 4)),
        ((1, 0, 1), 6, (1, 0, 1)),
        ((0, 0, 0), 6, (0, 0, 0)),
    ],
)
def test_places_are_dealt_out_from_the_slowest_band_on(sizes, n, places):
    middles = (1.5, 3.0, 6.0)
    trials = [
        build(100 * band + i, middles[band], 0.5) for band, k in enumerate(sizes) for i in range(k)
    ]
    queues = choose(trials, (), 1.0, 8.0, bands=3, n=n, spare=2)
    results = {q.band: q.places for q in queues}
    assert tuple(results.get(band, 0) for band in range(3)) == places
    for q in queues:
        assert len(q.trials) == min(q.places + 2, sizes[q.band])


@pytest.mark.parametrize(
    "wrong", [{"bands": 0}, {"n": 0}, {"low": 0.0}, {"low": 3.0}, {"high": float("inf")}]
)
def test_what_makes_no_sense_is_refused(wrong):
    args = {"low": 1.0, "high": 2.0, "bands": 1, "n": 1} | wrong
    with pytest.raises(SearchError, match="finalists:"):
        choose(
            [build(0, 1.2, 0.5)], (), args["low"], args["high"], bands=args["bands"], n=args["n"]
        )


# -- the bench -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some(space):
    return list(space.enumerate())[::20]


def test_the_bench_finds_what_is_true_up_to_one_pace(some, tmp_path):
    machine = Machine()
    bench = bench_of(machine, tmp_path / "measured.json")
    assert bench.latency(some[0]) is None
    assert bench.reference_ms() is None
    bench.measure(some)
    actual = np.array([bench.latency(a).ms for a in some])  # type: ignore[union-attr]
    truth = np.array([machine.truth(a) for a in some])
    assert actual / actual.mean() == pytest.approx(truth / truth.mean(), rel=0.02)
    mark = World().truth(zoo.load("pplcnet_0.5x"))
    assert bench.reference_ms() == pytest.approx(mark, rel=0.1)
    table = exact(None, archs=[zoo.load("pplcnet_0.5x")])
    assert measurement.pace_of(bench, table) == pytest.approx(1, rel=0.1)
    assert measurement.pace_of(bench, exact(None, archs=[some[0]])) is None


def test_the_same_calls_again_read_the_file(some, tmp_path):
    path = tmp_path / "measured.json"
    first = Machine()
    said: list[str] = []

    def work(bench):
        bench.measure(some[:3])
        early = bench.latency(some[0])
        bench.measure(some[3:5], rough=True)
        bench.measure(some[:5])
        return early, [bench.latency(a) for a in some[:5]], [bench.rough_ms(a) for a in some[:5]]

    before = work(bench_of(first, path, message=said.append))
    assert len(first.calls) == 3
    assert "measuring 3 networks, interleaved" in said[0]
    assert "measuring 2 networks, roughly" in said[1]
    assert before[0] != before[1][0]  # more visits, another estimate
    assert [ms is None for ms in before[2]] == [True] * 3 + [False] * 2
    second = Machine(seed=9)
    assert work(bench_of(second, path, message=said.append)) == before
    assert (second.calls, len(said)) == ([], 3)
    # A call that differs is measured, and what came behind it is given up.
    third = Machine(seed=9)
    bench = bench_of(third, path)
    bench.measure(some[:3])
    bench.measure(some[6:8])
    bench.measure(some[:5])
    assert [len(call) for call in third.calls] == [2, 5]
    assert len(json.loads(path.read_text())["batches"]) == 3


def test_what_is_rough_counts_for_nothing_else(some, tmp_path):
    bench = bench_of(Machine(), tmp_path / "measured.json")
    bench.measure(some[:2], rough=True)
    assert bench.latency(some[0]) is None
    assert bench.rough_ms(some[0]) == pytest.approx(Machine().truth(some[0]), rel=0.2)


def test_nothing_to_measure_is_no_batch(tmp_path):
    bench = bench_of(Machine(), tmp_path / "measured.json")
    bench.measure([])
    assert not (tmp_path / "measured.json").exists()


def test_the_file_can_be_read_by_people(some, tmp_path):
    path = tmp_path / "measured.json"
    bench = bench_of(Machine(), path)
    bench.measure(some[:2])
    data = json.loads(path.read_text())
    known = data["networks"][some[0].id]
    assert MeasuredLatency(known["ms"], known["low"], known["high"]) == bench.latency(some[0])
    assert (known["n"], data["engine"]["version"], data["classes"]) == (6, "0.0.0", 1000)


def test_a_file_of_other_settings_or_a_damaged_one_is_refused(some, tmp_path):
    path = tmp_path / "measured.json"
    bench_of(Machine(), path).measure(some[:2])
    with pytest.raises(SearchError, match="was measured with another classes: 1000; remove it"):
        bench_of(Machine(), path, classes=10)
    with pytest.raises(SearchError, match="another seed"):
        bench_of(Machine(), path, seed=1)
    whole = path.read_text()
    for text in ("", whole[:-40], "[]", "{}", whole.replace('"rough":false', '"rouhg":false'),
                 whole.replace('"visits":[[', '"visits":[["x",0,0,-1],[')):  # fmt: skip
        path.write_text(text)
        with pytest.raises(SearchError, match="not a file of measurements"):
            bench_of(Machine(), path)


# -- re-measuring ----------------------------------------------------------------------------------


def whole_band(space, n=2, **more):
    """Return one queue of a space's networks between two latencies, and the budget above them."""
    trials = trials_of(space)
    low, high = (float(np.quantile([t.latency_ms for t in trials], q)) for q in (0.4, 0.6))
    inside = [t for t in trials if low <= t.latency_ms <= high]
    return choose(inside, (), low, high, bands=1, n=n, **more), high * 1.15


def test_heads_that_hold_the_budget_are_the_finalists(space, tmp_path):
    queues, max_ms = whole_band(space)
    machine = Machine()
    selection = select(queues, space, max_ms, bench_of(machine, tmp_path / "m.json"))
    assert {f.trial.number for f in selection.finalists} == {t.number for t in queues[0].trials[:2]}
    assert [f.name for f in selection.finalists] == ["finalist-1", "finalist-2"]
    assert selection.notes == ()
    assert len(machine.calls) == 1
    one, two = selection.finalists
    assert one.ms <= two.ms <= max_ms
    for f in selection.finalists:
        assert f.arch.id == f.trial.arch
        assert f.measured is not None
        assert f.measured.low <= f.measured.ms <= f.measured.high <= max_ms
        assert f.ms == pytest.approx(machine.truth(f.arch), rel=0.1)
    assert {a.id for a in selection.measured} == {f.arch.id for f in selection.finalists}


def test_one_beyond_the_budget_makes_room_for_the_next(space, tmp_path):
    queues, max_ms = whole_band(space)
    order = queues[0].trials
    machine = Machine(slower={order[0].arch: 2.0, order[2].arch: 2.0})
    path = tmp_path / "m.json"
    selection = select(queues, space, max_ms, bench_of(machine, path))
    assert {f.trial.number for f in selection.finalists} == {order[1].number, order[3].number}
    assert len(selection.notes) == 2
    assert f"trial {order[0].number} (predicted {order[0].latency_ms:.3f} ms)" in selection.notes[0]
    assert f"beyond the budget of {max_ms:.3f} ms" in selection.notes[0]
    assert selection.notes[0].endswith(f"replaced by trial {order[2].number}")
    assert selection.notes[1].endswith(f"replaced by trial {order[3].number}")
    assert {a.id for a in selection.measured} == {t.arch for t in order[:4]}
    # Each batch has all heads of its time, so that they are interleaved.
    assert [set(call) for call in machine.calls] == [
        {order[0].arch, order[1].arch},
        {order[1].arch, order[2].arch},
        {order[1].arch, order[3].arch},
    ]
    # The same again measures nothing.
    again = Machine(seed=5)
    assert select(queues, space, max_ms, bench_of(again, path)) == selection
    assert again.calls == []


def test_it_is_the_interval_that_has_to_hold(space, tmp_path):
    queues, _ = whole_band(space, n=1)
    first = queues[0].trials[0]
    noisy = Machine(noise=0.3, spread=0.05)
    bench = bench_of(noisy, tmp_path / "a.json")
    arch = space.decode(np.array([first.codes]))[0]
    bench.measure([arch])
    known = bench.latency(arch)
    assert known is not None
    assert known.ms < known.high
    between = (known.ms + known.high) / 2
    selection = select(queues, space, between, bench_of(noisy, tmp_path / "a.json"))
    assert first.number not in {f.trial.number for f in selection.finalists}
    held = select(queues, space, known.high, bench_of(noisy, tmp_path / "b.json"))
    assert [f.trial.number for f in held.finalists] == [first.number]
    assert held.finalists[0].measured == known  # the same seed, the same batch


def test_a_short_queue_leaves_fewer_finalists(space, tmp_path):
    queues, max_ms = whole_band(space, spare=1)
    order = queues[0].trials
    assert len(order) == 3
    machine = Machine(slower={t.arch: 2.0 for t in order[:2]})
    selection = select(queues, space, max_ms, bench_of(machine, tmp_path / "m.json"))
    assert [f.trial.number for f in selection.finalists] == [order[2].number]
    assert selection.notes[1].endswith("no other network of band 1 is left to replace it")


def test_nothing_that_fits_is_said(space, tmp_path):
    queues, max_ms = whole_band(space, spare=1)
    machine = Machine(slower={t.arch: 2.0 for t in queues[0].trials})
    selection = select(queues, space, max_ms, bench_of(machine, tmp_path / "m.json"))
    assert selection.finalists == ()
    assert selection.notes[-1] == f"no network was measured within {max_ms:.3f} ms: no finalists"
    assert len(selection.notes) == 4
    assert len(selection.measured) == 3


def test_bands_do_not_help_each_other_out(space, tmp_path):
    trials = trials_of(space)
    low, high = min(t.latency_ms for t in trials), max(t.latency_ms for t in trials)
    queues = choose(trials, (), low, high, bands=2, n=2, spare=1)
    slow = queues[1].trials
    machine = Machine(slower={slow[0].arch: 3.0})
    selection = select(queues, space, high * 1.2, bench_of(machine, tmp_path / "m.json"))
    assert [(f.band, f.trial.number) for f in selection.finalists] == [
        (0, queues[0].trials[0].number),
        (1, slow[1].number),
    ]


def test_without_a_bench_the_heads_are_the_finalists(space):
    queues, max_ms = whole_band(space)
    selection = select(queues, space, max_ms, None)
    assert {f.trial.number for f in selection.finalists} == {t.number for t in queues[0].trials[:2]}
    assert all(f.measured is None and f.ms == f.trial.latency_ms for f in selection.finalists)
    assert (selection.notes, selection.measured) == ((), ())


def test_no_queue_is_no_finalist(space, tmp_path):
    machine = Machine()
    selection = select([], space, 1.0, bench_of(machine, tmp_path / "m.json"))
    assert selection.finalists == ()
    assert machine.calls == []


def test_rivals_are_measured_beside_the_heads(space, tmp_path):
    queues, max_ms = whole_band(space, n=1)
    others = [zoo.load(name, 64) for name in ("pplcnet_0.25x", "pplcnet_0.35x")]

    class Some:
        def to_measure(self, finalists, measurements):
            seen.append([ms for _, ms in finalists])
            return [a for a in others if measurements.latency(a) is None][:1]

    seen: list[list[float]] = []
    machine = Machine()
    selection = select(queues, space, max_ms, bench_of(machine, tmp_path / "m.json"), Some())
    head = queues[0].trials[0]
    assert machine.calls == [(head.arch, others[0].id), (head.arch, others[1].id)]
    assert seen[0] == [head.latency_ms]  # by the table at first,
    assert seen[1] != seen[0]  # then as it was measured
    assert len(seen) == 3
    assert selection.measured[0].id == head.arch


# -- what the table learns -------------------------------------------------------------------------


def test_measured_networks_are_put_up_to_teach_the_table(space, tmp_path):
    queues, max_ms = whole_band(space, n=3)
    bench = bench_of(Machine(), tmp_path / "m.json")
    selection = select(queues, space, max_ms, bench)
    table = exact(space)
    # One of the three is held out by the table: it stays so.
    held = MeasuredNetwork(walk(selection.measured[0]), "held_out", "small", 1.0, 1.0, 1.0, 1.0)
    old = MeasuredNetwork(walk(selection.measured[1]), "calibration", "small", 9.0, 9.0, 9.0)
    table.networks = [held, old]
    before = table.to_data()
    outside = zoo.load("vgg16", 64)
    bench.measure([outside])
    never = next(a for a in space.enumerate() if bench.latency(a) is None)
    entries = measurement.for_table(table, bench, [*selection.measured, outside, never], space)
    assert {n.role for n in entries} == {"calibration"}
    assert (
        {n.placed: n.ms for n in entries}
        == {
            walk(a): bench.latency(a).ms  # type: ignore[union-attr]
            for a in selection.measured[1:]
        }
    )
    assert table.to_data() == before  # untouched


def test_a_machine_of_another_pace_teaches_nothing(space, tmp_path, monkeypatch):
    queues, max_ms = whole_band(space, n=3)
    bench = bench_of(Machine(), tmp_path / "m.json")
    selection = select(queues, space, max_ms, bench)
    for slow, some in ((None, True), (1.1, True), (0.9, True), (1.2, False), (0.8, False)):
        monkeypatch.setattr(measurement, "pace_of", lambda _bench, _table, slow=slow: slow)
        entries = measurement.for_table(exact(space), bench, selection.measured, space)
        assert bool(entries) is some
