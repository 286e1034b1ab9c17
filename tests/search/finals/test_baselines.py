"""Baselines: the scale of PP-LCNet and the published network that are as fast as a finalist."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lcnas import cost, spaces, zoo
from lcnas.arch import walk
from lcnas.blocks import make_divisible
from search import tables
from search.finals import baselines
from search.finals.baselines import BaselineSearch, by_table, distinct_scales
from search.finals.selection import Finalist, choose, select
from search.outcome import PUBLISHED, MeasuredLatency
from search.trials import Trial
from tests.search.finals.test_selection import Machine, bench_of
from tests.search.test_tables import SPACE, exact


def still(slower: dict[str, float] | None = None) -> Machine:
    """Return a machine that always takes as long."""
    return Machine(slower or {}, noise=1e-4, drift=0.0, spread=0.0)


@pytest.fixture(scope="module")
def space():
    return spaces.load("pplcnet_tail", 64)


@pytest.fixture(scope="module")
def table(space):
    return exact(space)


def trials_of(space, table, n, seed=0):
    codes = space.sample_codes(n, np.random.default_rng(seed))
    archs = space.decode(codes)
    ms = table.predict(archs)
    return [
        Trial(i, tuple(map(int, row)), a.id, float(t), float(t))
        for i, (row, a, t) in enumerate(zip(codes, archs, ms, strict=True))
    ]


def raced(space, table, machine, path, trials, n=2, max_ms=1e9, **more):
    """Measure finalists with baselines; returns the finalists, the baselines, and the bench."""
    low, high = (f(t.latency_ms for t in trials) for f in (min, max))
    queues = choose(trials, (), low, high, bands=n, n=n)
    bench = bench_of(machine, path)
    search = BaselineSearch(space, table, **more)
    selection = select(queues, space, max_ms, bench, search)
    return selection.finalists, search.result(selection.finalists, bench), bench


# -- which networks there are ----------------------------------------------------------------------


def test_every_distinct_network_has_one_scale():
    actual = distinct_scales()
    assert list(actual) == sorted(actual)
    assert set(zoo.pplcnet.SCALES) <= set(actual)

    def widths(scale):
        return tuple(make_divisible(w * scale) for w in (16, 32, 64, 128, 256, 512))

    own = [widths(scale) for scale in actual]
    assert len(set(own)) == len(own)
    every = {widths(n / 1000) for n in range(50, 4001)}
    assert set(own) == every
    # Wider in some stage, narrower in none: so the order is one of latency as well.
    assert all(all(a <= b for a, b in zip(*two, strict=True)) for two in itertools.pairwise(own))
    # Its name is the plainest: no scale of fewer digits gives the same network.
    assert 0.62 in actual
    tenths = {widths(n / 10): n / 10 for n in range(1, 41)}
    assert all(scale in actual for w, scale in tenths.items() if widths(0.25) != w != widths(0.35))


def test_the_shelf_has_what_was_published_without_teacher_or_more_data():
    published = baselines._published(224)
    names = [s.arch.name for s in published]
    assert "mobilenet_v3_small_1.0x" in names
    assert "pplcnet_0.5x" in names
    assert "hgnet_v2_b0" not in names  # distilled
    assert not [n for n in names if n.startswith("pplcnet_32")]  # nothing published
    assert [s.top1 for s in published] == sorted((s.top1 for s in published), reverse=True)
    small = {s.arch.name for s in baselines._published(32)}
    assert set(names) - small == {"googlenet"}  # cannot be built at 32 px
    assert {s.arch.resolution for s in baselines._published(32)} == {32}


# -- with measurements -----------------------------------------------------------------------------


def best_scale(machine, ms):
    """Return the largest scale that fits by the truth, among all."""
    archs = baselines._scaled("pplcnet", 64)
    return max((i for i, a in enumerate(archs) if machine.truth(a) <= ms), default=-1)


def best_shelved(machine, ms):
    fits = [s for s in baselines._published(64) if machine.truth(s.arch) <= ms]
    return max(fits, key=lambda s: s.top1, default=None)


@pytest.mark.parametrize("seed", range(3))
def test_both_baselines_are_those_of_an_exhaustive_search(space, table, tmp_path, seed):
    machine = still()
    actual, result, bench = raced(
        space, table, machine, tmp_path / "m.json", trials_of(space, table, 8, seed)
    )
    assert len(actual) == 2
    archs = baselines._scaled("pplcnet", 64)
    for finalist in actual:
        ms = machine.truth(finalist.arch)
        own = [b for b in result.baselines if finalist.name in b.beside]
        scales = {b.arch.id for b in own if b.role == "pplcnet"}
        expected = archs[best_scale(machine, ms)]
        assert scales == {expected.id}
        shelved = best_shelved(machine, ms)
        assert shelved is not None
        others = {b.arch.id: b for b in own if b.role == PUBLISHED}
        if shelved.arch.id == expected.id:
            assert others == {}
        else:
            assert set(others) == {shelved.arch.id}
            assert others[shelved.arch.id].published_top1 == shelved.top1
        for b in own:
            assert b.measured == bench.latency(b.arch)
            assert b.measured is not None
            assert b.measured.ms <= finalist.ms
    # Not all published networks were measured in full.
    assert len({key for call in machine.calls[1:] for key in call}) < 30


def test_with_noise_what_is_printed_still_holds(space, table, tmp_path):
    machine = Machine(noise=0.05, drift=0.15, spread=0.01)
    trials = trials_of(space, table, 8, 5)
    actual, result, bench = raced(space, table, machine, tmp_path / "m.json", trials, n=3)
    archs = baselines._scaled("pplcnet", 64)
    ms = [None if (t := bench.latency(a)) is None else t.ms for a in archs]
    for finalist in actual:
        (scale,) = [
            b for b in result.baselines if b.role == "pplcnet" and finalist.name in b.beside
        ]
        place = next(i for i, a in enumerate(archs) if a.id == scale.arch.id)
        assert scale.measured is not None
        assert scale.measured.ms <= finalist.ms
        for above in range(place + 1, place + 5):
            known = ms[above]
            assert known is not None
            assert known > finalist.ms
        assert machine.truth(scale.arch) <= machine.truth(finalist.arch) * 1.15
    # A second process that does the same measures nothing and finds the same.
    again = Machine(seed=7)
    assert raced(space, table, again, tmp_path / "m.json", trials, n=3)[:2] == (actual, result)
    assert again.calls == []


def test_a_replaced_finalist_leaves_no_baseline(space, table, tmp_path):
    trials = trials_of(space, table, 6)
    best = max(trials, key=lambda t: t.accuracy or 0.0)
    machine = still(slower={best.arch: 3.0})
    most = max(t.latency_ms for t in trials) * 1.2
    actual, result, _ = raced(space, table, machine, tmp_path / "m.json", trials, n=1, max_ms=most)
    (finalist,) = actual
    assert finalist.trial.number != best.number
    assert {name for b in result.baselines for name in b.beside} == {finalist.name}
    assert all(b.measured and b.measured.ms <= finalist.ms for b in result.baselines)


def test_a_table_that_knows_no_pplcnet_only_takes_longer(space, tmp_path):
    table = exact(space)
    own = {a.name: a for a in tables.published_scales(space)}
    for arch in own.values():
        table.entries.pop(walk(arch)[-1], None)
    assert tables.predicted(table, own.values()) == {}
    machine = still()
    trials = trials_of(space, exact(space), 6, 1)
    actual, result, _ = raced(
        space, table, machine, tmp_path / "m.json", trials, n=1, published=False
    )
    expected = baselines._scaled("pplcnet", 64)[best_scale(machine, machine.truth(actual[0].arch))]
    assert [b.arch.id for b in result.baselines] == [expected.id]


def test_a_finalist_that_is_a_pplcnet_itself(space, table, tmp_path):
    arch = zoo.load("pplcnet_0.5x", 64)
    codes = space.encode([arch])[0]
    trial = Trial(0, tuple(map(int, codes)), arch.id, float(table.predict(arch)[0]), 0.5)
    actual, result, _ = raced(space, table, still(), tmp_path / "m.json", [trial], n=1)
    (scale,) = [b for b in result.baselines if b.role == "pplcnet"]
    assert (scale.name, scale.published_top1) == ("pplcnet_0.5x", 63.14)
    assert scale.measured == actual[0].measured
    assert "finalist-1 is pplcnet_0.5x itself" in result.notes


def test_one_network_beside_two_finalists_is_there_once(space, table, tmp_path):
    trials = trials_of(space, table, 1)
    (arch,) = space.decode(np.array([trials[0].codes]))
    bench = bench_of(still(), tmp_path / "m.json")
    search = BaselineSearch(space, table)
    select(choose(trials, (), 1.0, 9.0, bands=1, n=1), space, 1e9, bench, search)
    two = [Finalist(f"finalist-{i}", trials[0], arch, 0, bench.latency(arch)) for i in (1, 2)]
    result = search.result(two, bench)
    assert {b.beside for b in result.baselines} == {("finalist-1", "finalist-2")}
    assert len({b.arch.id for b in result.baselines}) == len(result.baselines)


def test_a_finalist_faster_than_all_is_said(tmp_path):
    space = spaces.loads(SPACE, "small")  # a few blocks: no published network is so short
    table = exact(space, archs=tables.published_scales(space))
    trials = trials_of(space, table, 3)
    actual, result, _ = raced(space, table, still(), tmp_path / "m.json", trials, n=1)
    assert len(actual) == 1
    assert result.baselines == ()
    assert result.notes == (
        "finalist-1: even the smallest pplcnet is slower",
        "finalist-1: no published network is as fast",
    )


def test_spaces_of_small_images_have_their_own_strides_and_a_warning(tmp_path):
    space = spaces.load("pplcnet_tail_32")
    table = exact(space)
    trials = trials_of(space, table, 2)
    actual, result, _ = raced(space, table, still(), tmp_path / "m.json", trials, n=1)
    roles = {b.role: b for b in result.baselines}
    assert roles["pplcnet"].name.startswith("pplcnet_32_")
    assert roles["pplcnet"].published_top1 is None
    assert roles["pplcnet"].arch.resolution == roles[PUBLISHED].arch.resolution == 32
    assert [n for n in result.notes if "run at 32 px" in n and "may be unfit" in n]
    assert cost.macs(roles[PUBLISHED].arch) <= baselines.MAX_MACS_RATIO * cost.macs(actual[0].arch)


# -- without measurements --------------------------------------------------------------------------


def test_by_the_table_it_is_the_largest_published_scale(space, table):
    archs = tables.published_scales(space)
    ms = table.predict(archs)
    trials = trials_of(space, table, 5)
    decoded = space.decode(np.array([t.codes for t in trials]))
    finalists = [
        Finalist(f"finalist-{i}", t, a, 0)
        for i, (t, a) in enumerate(zip(trials, decoded, strict=True), start=1)
    ]
    measured = by_table(finalists, space, table)
    assert "not measured on this machine" in measured.notes[0]
    for finalist in finalists:
        expected = archs[max(i for i in range(8) if ms[i] <= finalist.trial.latency_ms)]
        (own,) = [b for b in measured.baselines if finalist.name in b.beside]
        assert (own.arch.id, own.role, own.measured) == (expected.id, "pplcnet", None)
        assert own.published_top1 == zoo.published(own.name).top1
    # On the line counts as within; below the smallest there is none.
    exactly = Trial(9, trials[0].codes, "x", float(ms[2]), 0.5)
    below = Trial(8, trials[0].codes, "y", float(ms[0]) - 0.001, 0.5)
    two = [Finalist("a", exactly, decoded[0], 0), Finalist("b", below, decoded[0], 0)]
    measured = by_table(two, space, table)
    assert [(b.name, b.beside) for b in measured.baselines] == [("pplcnet_0.5x", ("a",))]
    assert (
        measured.notes[1] == "b: no published scale of PP-LCNet beside it; all of them are slower"
    )


def test_a_table_without_any_of_them_says_so():
    space = spaces.loads(SPACE, "small")
    table = exact(space)
    (trial,) = trials_of(space, table, 1)
    (arch,) = space.decode(np.array([trial.codes]))
    measured = by_table([Finalist("finalist-1", trial, arch, 0)], space, table)
    assert measured.baselines == ()
    assert measured.notes[1].endswith("the table has no entry of them")


class Known:
    """A bench on which the scales of some places were measured."""

    def __init__(self, ms):
        archs = baselines._scaled("pplcnet", 64)
        self.latencies = {archs[i].id: MeasuredLatency(t, t, t) for i, t in ms.items()}

    def ms(self, arch):
        latency = self.latencies.get(arch.id)
        return None if latency is None else latency.ms


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, [9, 10, 11, 12]),  # around the guess, 10
        ({9: 0.8, 10: 0.9, 11: 1.1, 12: 1.2, 13: 1.1, 14: 1.1}, []),
        ({9: 0.8, 10: 0.9, 11: 1.0, 12: 1.2}, [13, 14, 15]),  # four above the largest that fits
        ({9: 0.8, 10: 1.1, 11: 1.1, 12: 0.9}, [13, 14, 15, 16]),
        ({9: 1.1, 10: 1.1, 11: 1.1, 12: 1.1}, [7, 8]),  # none fits: below
        ({8: 1.1, 9: 1.1, 10: 1.1, 11: 1.1, 12: 1.1}, [6, 7]),
        ({8: 0.9, 9: 1.1, 10: 1.1, 11: 1.1, 12: 1.1}, []),
        ({3: 0.5, 4: 1.1, 5: 1.1, 9: 1.1, 10: 1.1, 11: 1.1, 12: 1.1}, [6, 7]),  # another's below
        (dict.fromkeys(range(13), 1.1), []),  # even the smallest is slower
    ],
)
def test_which_scales_are_measured_next(space, table, monkeypatch, known, wanted):
    search = BaselineSearch(space, table)
    archs = baselines._scaled("pplcnet", 64)
    guesses = [0.9 if i <= 10 else 1.1 for i in range(len(archs))]
    monkeypatch.setattr(search, "_guesses", lambda head, ms, bench: guesses)
    actual = search._scales_to_measure(zoo.load("pplcnet_0.5x", 64), 1.0, Known(known))  # type: ignore[arg-type]
    assert actual == [archs[i] for i in wanted]
