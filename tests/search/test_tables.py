"""Which table a search takes, what is measured first, and what it says of a space."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from lcnas import paths, spaces, zoo
from lcnas.arch import walk
from lcnas.errors import TableError
from lcnas.latency import TimingPlan, fitting, predict
from lcnas.latency.machine import Machine, this_machine
from lcnas.latency.profile import ProfileStep
from lcnas.latency.table import Entry, LatencyTable, MeasuredNetwork
from search import tables
from search.errors import SearchError
from search.pipeline import SearchPipeline
from search.run_dir import TABLE, TABLE_INFO, RunDir
from search.settings import ExecutionOptions, Settings
from search.tables import lookup
from tests.latency.synthetic import ENGINE, OVERHEAD_MS, World, alone_ms, inside_ms

SPACE = """
version = 1
resolution = [64]
[stem]
block = "conv"
width = { choices = [8, 16] }
stride = 2
[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 3 }
stride = 2
width = { choices = [16, 24, 32] }
kernel = { choices = [3, 5], per = "block" }
[head]
block = "classifier"
width = { choices = [0, 640] }
"""
FAST = {
    "block_plan": TimingPlan(sessions=2, rounds=2, most_rounds=2, visit_ms=2.0),
    "network_plan": TimingPlan(sessions=2, rounds=3, most_rounds=3, visit_ms=4.0),
}
WHOLE = tables.Amount(validate=8, uniform=4, calibrate=40, seconds=1e9)
FEW = tables.Amount(validate=4, uniform=0, calibrate=6, seconds=1e9)


@pytest.fixture
def space():
    return spaces.loads(SPACE, "small")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own to work in, where no table lies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LCNAS_TABLES", raising=False)


def find(space, classes=1000, world=None, said=None, steps=None, **more):
    """Find a table on the synthetic machine."""
    world = world or World()
    options = {"open_session": world.open, "clock": world.clock, "few": FEW, "whole": WHOLE, **FAST}
    lines: list[str] = [] if said is None else said
    seen: list[ProfileStep] = [] if steps is None else steps
    more.setdefault("engine", None if "table" in more else ENGINE)
    return tables.resolve(
        space, classes=classes, message=lines.append, on_progress=seen.append, **options, **more
    )


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """The file of a whole profile of the space, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("profiled")
    said: list[str] = []
    steps: list[ProfileStep] = []
    resolved = find(spaces.loads(SPACE, "small"), said=said, steps=steps, folder=folder)
    return resolved, said, steps


@pytest.fixture
def base(profiled, tmp_path) -> LatencyTable:
    """The same in the folder where it is looked for."""
    Path("latency_tables").mkdir()
    return LatencyTable.load(shutil.copy(profiled[0].table.source, "latency_tables"))


def exact(space, classes=1000, archs=(), **changes) -> LatencyTable:
    """Return a table that knows the truth of the synthetic machine."""
    placed = dict.fromkeys(space.placed_blocks(classes)) if space else {}
    for arch in archs:
        placed.update(dict.fromkeys(walk(arch, None, classes)))
    rows = {
        p: Entry(alone_ms(p), alone_ms(p), alone_ms(p), 6, 2, round(inside_ms(p) * 1000))
        for p in placed
    }
    result = LatencyTable(
        this_machine(), ENGINE, rows, base=round(OVERHEAD_MS * 1000), overhead_ms=0.05
    )
    return dataclasses.replace(result, **changes)


# -- finding and extending -------------------------------------------------------------------------


def test_no_table_means_a_whole_profile_that_is_announced(space, profiled):
    actual, said, steps = profiled
    assert actual.on_this_machine
    assert actual.table.missing(space) == []
    assert Path(actual.table.source).name == actual.table.file_name
    roles = [n.role for n in actual.table.networks]
    assert 30 <= roles.count("calibration") <= 40  # of a small space, some are drawn twice
    assert roles.count("held_out") == 8
    (line,) = said
    lacking = len(tables.missing_entries(LatencyTable(this_machine(), ENGINE), space, 1000))
    assert f"does not exist yet and needs {lacking} entries" in line
    assert "up to 52 whole networks" in line
    assert "about" in line
    assert steps[-1].done == steps[-1].total
    assert actual.notes == (
        f"{lacking} entries of small for 1000 classes were measured first, into {actual.table.source}",
    )
    # The same again measures nothing and says nothing.
    world, said = World(), []
    again = find(space, world=world, said=said, folder=Path(actual.table.source).parent)
    assert (again.notes, said, world.opened) == ((), [], 0)
    assert again.table.to_data() == actual.table.to_data()


def test_rows_of_other_classes_are_added_with_a_few_networks_only(space, base):
    first = base
    said: list[str] = []
    world = World(seed=3)
    resolved = find(space, classes=10, world=world, said=said)
    heads = len(first.missing(space, 10))
    assert heads > tables.FEW_SHARE * len(space.placed_blocks(10))  # heads are always few
    assert resolved.table.missing(space, 10) == []
    assert all(resolved.table.entries[p].ms == row.ms for p, row in first.entries.items())
    assert len(resolved.table.networks) == len(first.networks) + FEW.validate + FEW.calibrate
    assert "up to 10 whole networks are measured now" in said[0]
    assert "about a minute" in said[0]
    # Rows twice, networks twice (held-out ones four times), the reference and the two ends of the span.
    lacking = len(resolved.table.entries) - len(first.entries)
    assert world.opened <= 2 * (lacking + 2 * FEW.validate + FEW.calibrate) + 5
    assert set(resolved.table.errors) == {"small", "small 10 classes"}
    assert set(resolved.table.errors["small"]["held_out"]) >= {"macs", "kinds"}  # kept
    assert resolved.table.method["settings"] == first.method["settings"]
    arch = space.decode(space.sample_codes(1, np.random.default_rng(0)))[0]
    truth = OVERHEAD_MS + sum(inside_ms(p) for p in walk(arch, None, 10))
    assert resolved.table.predict(arch, 10)[0] == pytest.approx(truth, rel=0.15)
    LatencyTable.load(resolved.table.source)  # a table like any other


def test_a_kill_in_between_loses_nothing(space, base):
    class KilledError(Exception):
        pass

    steps: list[ProfileStep] = []

    class Once(list):
        def append(self, step):
            steps.append(step)
            if len(steps) == 50:
                raise KilledError

    with pytest.raises(KilledError):
        find(space, classes=10, steps=Once())
    (journal,) = Path("latency_tables").glob(".*journal*")
    before = journal.read_text()
    world = World()
    after: list[ProfileStep] = []
    resolved = find(space, classes=10, world=world, steps=after)
    assert resolved.table.missing(space, 10) == []
    assert before.count("\n") > 50
    assert 0 < steps[-1].done <= after[0].done
    assert not list(Path("latency_tables").glob(".*journal*"))


def test_the_packaged_table_is_never_written(space, profiled, monkeypatch, tmp_path):
    packaged = tmp_path / "package" / "latency_tables"
    (tmp_path / "package" / "spaces").mkdir(parents=True)
    monkeypatch.setattr(paths, "spaces_dir", lambda: tmp_path / "package" / "spaces")
    monkeypatch.setattr(paths, "table_dirs", lambda: (packaged,))
    packaged.mkdir()
    table = profiled[0].table
    path = table.save(packaged)
    before = path.read_bytes()
    resolved = find(space, classes=10)
    assert path.read_bytes() == before
    assert Path(resolved.table.source) == Path("latency_tables") / table.file_name
    assert resolved.table.missing(space) == resolved.table.missing(space, 10) == []
    # In a checkout ./latency_tables is the packaged folder.
    monkeypatch.chdir(tmp_path / "package")
    assert tables.own_folder() == Path("runs/latency_tables")
    assert Path(find(space, classes=10).table.source).parent == Path("runs/latency_tables")
    assert path.read_bytes() == before
    with pytest.raises(SearchError, match="packaged tables, which are never written"):
        find(space, classes=12, folder=packaged)


def test_what_a_search_measured_is_in_the_table_that_the_next_one_finds(
    space, profiled, monkeypatch, tmp_path
):
    packaged = tmp_path / "package" / "latency_tables"
    packaged.mkdir(parents=True)
    monkeypatch.setattr(paths, "table_dirs", lambda: (packaged,))
    path = profiled[0].table.save(packaged)
    before = path.read_bytes()
    used = find(space).table
    assert used.source == str(path)
    seen = {n.placed for n in used.networks}
    archs = [a for a in space.enumerate() if walk(a) not in seen][:2]
    slow = [1.2 * float(used.predict(a)[0]) for a in archs]
    new = [
        MeasuredNetwork(walk(a), "calibration", "small", ms, ms, ms)
        for a, ms in zip(archs, slow, strict=True)
    ]
    assert tables.learn(used, []) is None
    learned = tables.learn(used, new)
    assert learned is not None
    assert learned == Path("latency_tables") / used.file_name
    assert path.read_bytes() == before  # the packaged one stays
    after = find(space).table
    assert Path(after.source).resolve() == learned.resolve()
    assert len(after.networks) == len(used.networks) + 2
    for arch, ms in zip(archs, slow, strict=True):  # it has learnt, if not all of it
        assert used.predict(arch)[0] < after.predict(arch)[0] <= ms * 1.001
    # A repeated command adds nothing; another measurement of the same network replaces the first.
    assert tables.learn(used, new) is None
    twice = 2 * slow[0]
    tables.learn(used, [dataclasses.replace(new[0], ms=twice, low=twice, high=twice)])
    times = {n.placed: n.ms for n in find(space).table.networks}
    assert times[new[0].placed] == pytest.approx(twice, rel=1e-4)
    assert times[new[1].placed] == pytest.approx(slow[1], rel=1e-4)


def test_the_own_folder_says_where_tables_are_written(checkout, monkeypatch, tmp_path):
    assert tables.own_folder() == Path("latency_tables")
    monkeypatch.chdir(checkout)
    if (checkout / "latency_tables").samefile(paths.spaces_dir().parent / "latency_tables"):
        assert tables.own_folder() == Path("runs/latency_tables")


def test_a_table_by_name_or_file_is_taken_as_it_is(space, tmp_path):
    table = exact(space)
    path = table.save(tmp_path / "latency_tables")
    for given in (path, str(path), path.stem):
        resolved = find(space, table=given, engine=ENGINE)
        # The two ends of the span are rows of its own, not of the space: measured, as it is of this machine.
        assert resolved.on_this_machine
        assert resolved.table.missing(space) == []
    with pytest.raises(TableError, match="there is no file or table"):
        find(space, table="no_such_table")


def test_a_table_of_another_machine_is_labelled_and_never_added_to(space, tmp_path):
    other = Machine("Other CPU", "avx2", 8, "Linux x86_64")
    path = exact(space, machine=other).save(tmp_path)
    before = path.read_bytes()
    said: list[str] = []
    resolved = find(space, table=path, engine=ENGINE, said=said)
    assert not resolved.on_this_machine
    assert "Other CPU (avx2)" in resolved.notes[0]
    assert said == []
    with pytest.raises(SearchError) as caught:
        find(space, classes=10, table=path, engine=ENGINE)
    text = str(caught.value)
    assert "is of Other CPU (avx2)" in text
    missing = resolved.table.missing(space, 10)
    assert (
        f"lacks {len(missing)} of the {len(space.placed_blocks(10))} entries of small for 10"
        in text
    )
    assert resolved.table.command_for(missing[0], space, 10) in text
    assert "--classes 10" in text
    assert path.read_bytes() == before
    assert not Path("latency_tables").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"threads": 2}, "threads 1, not 2"), ({"name": "mlas"}, "name openvino, not mlas"),
     ({"precision": "int8", "batch": 8}, "precision fp32, not int8, batch 1, not 8")],
)  # fmt: skip
def test_a_table_of_another_engine_than_was_asked_for_is_refused(space, tmp_path, changes, words):
    path = exact(space).save(tmp_path)
    with pytest.raises(SearchError, match=words):
        find(space, table=path, engine=dataclasses.replace(ENGINE, **changes))


def test_another_version_of_the_engine_is_not_here(space, tmp_path):
    path = exact(space).save(tmp_path)
    newer = dataclasses.replace(ENGINE, version="0.0.1")
    assert not find(space, table=path, engine=newer).on_this_machine
    assert not find(space, table=path).on_this_machine  # its engine is synthetic


def test_the_table_that_lacks_fewest_is_taken(space, monkeypatch, tmp_path):
    some = exact(space)
    some.entries = dict(list(some.entries.items())[:3])
    some.save(tmp_path / "latency_tables")
    whole = tmp_path / "whole"
    from lcnas.latency import profile

    path = exact(space, archs=profile.span(space)).save(whole)
    monkeypatch.setattr(lookup, "of_engine", lambda engine: [path])
    resolved = find(space)
    assert Path(resolved.table.source) == path
    assert resolved.notes == ()


def test_a_small_table_of_ones_own_is_merged_with_the_packaged_one(
    space, profiled, monkeypatch, tmp_path
):
    base = profiled[0].table
    monkeypatch.setattr(lookup, "of_engine", lambda engine: [Path(base.source)])
    arch = zoo.load("vgg16", 64)
    own = exact(None, archs=[arch])
    own.save(tmp_path / "latency_tables")
    resolved = find(space, classes=10)
    assert set(resolved.table.entries) > set(own.entries) | set(base.entries)
    assert resolved.table.predict(arch)[0] > 0
    assert len(resolved.table.networks) == len(base.networks) + FEW.validate + FEW.calibrate


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_that_goes_on_elsewhere_says_whose_latencies_it_has(space, tmp_path, elsewhere):
    """Another machine, or this one under a cap of its instruction set."""
    machine = dataclasses.replace(this_machine(), cpu="Other CPU") if elsewhere else this_machine()
    table = exact(space)
    table.machine = machine
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    table.save(folder / TABLE)
    folder.save(TABLE_INFO, {"here": True, "notes": ["as before"]})
    going_on = SearchPipeline(folder, Settings(), ExecutionOptions())._table_of_run()
    assert going_on is not None
    assert going_on.on_this_machine != elsewhere
    assert going_on.notes[0] == "as before"
    assert ["Other CPU" in note for note in going_on.notes[1:]] == [True] * elsewhere


# -- fitting with the widths that are known --------------------------------------------------------


def test_a_quick_fit_is_the_whole_fit_with_the_same_widths(base):
    table = base
    whole = LatencyTable.load(table.source)
    fitting.refit(whole, keep_widths=True)
    assert whole.method == table.method
    assert {p: r.term for p, r in whole.entries.items()} == pytest.approx(
        {p: r.term for p, r in table.entries.items()}, abs=1
    )
    assert whole.residuals == pytest.approx(table.residuals, abs=2e-3)
    assert whole.errors["small"]["held_out"].keys() == table.errors["small"]["held_out"].keys()
    # Its rows are in the file with five digits, so that terms may differ by one.


def test_a_table_without_widths_is_fitted_whole(base):
    table = LatencyTable.load(base.source)
    table.method = {**table.method, "settings": {}}
    table.errors = {}
    fitting.refit(table, keep_widths=True)
    assert table.method["settings"] == pytest.approx(base.method["settings"], rel=0.05)
    assert set(table.errors["small"]["held_out"]) >= set(predict.METHODS) - {"shrunk"}


# -- what a table says of a space ------------------------------------------------------------------


def test_the_span_is_that_of_pplcnet():
    for name, low, high in (
        ("pplcnet_tail", "pplcnet_0.25x", "pplcnet_1.0x"),
        ("pplcnet_tail_32", "pplcnet_32_0.25x", "pplcnet_32_1.0x"),
    ):
        space = spaces.load(name)
        table = exact(space, classes=10)
        span = tables.span(space, table, 10)
        assert span.note == ""
        size = space.resolutions[0]
        assert (span.low, span.high) == tuple(
            table.predict([zoo.load(n, size) for n in (low, high)], 10)
        )
        assert tables.family(space) == low.rpartition("_")[0]


def test_without_these_rows_the_span_is_the_nearest_that_is_known(space):
    archs = tables.published_scales(space)
    assert [a.name for a in archs[:2]] == ["pplcnet_0.25x", "pplcnet_0.35x"]
    assert {a.resolution for a in archs} == {64}
    some = exact(space, archs=archs[1:4])
    span = tables.span(space, some)
    assert (span.low, span.high) == tuple(some.predict([archs[1], archs[3]]))
    assert "lacks entries of pplcnet_0.25x or pplcnet_1.0x" in span.note
    assert "pplcnet_0.35x to pplcnet_0.75x" in span.note
    bare = exact(space)
    span = tables.span(space, bare)
    every = bare.predict(list(space.enumerate()))
    assert (span.low, span.high) == (every.min(), every.max())
    assert "fastest and slowest" in span.note


def test_the_margin_is_the_conformal_rank_of_what_lies_above():
    table = LatencyTable(this_machine(), ENGINE)
    rng = np.random.default_rng(0)
    for n in (9, 10, 19, 480):
        off = np.sort(rng.normal(0.02, 0.05, n))
        table.residuals = tuple(off.tolist())
        # At least 90 % of n + 1 equally likely places of a new one lie at or below it, and no rank less does.
        margin = tables.margin(table)
        rank = int(np.searchsorted(off, margin)) + 1
        assert rank / (n + 1) >= 0.9 - 1e-12 or rank == n
        assert (rank - 1) / (n + 1) < 0.9
        assert margin == max(0.0, table.bounds(0.8)[1])
    assert tables.margin(table, 0.5) == pytest.approx(max(0.0, float(np.median(off))), abs=5e-3)


def test_the_margin_is_never_below_zero():
    table = LatencyTable(this_machine(), ENGINE, residuals=(-0.3, -0.2, -0.1))
    assert tables.margin(table) == 0.0


def test_the_margin_goes_by_networks_of_the_same_size_if_there_are_enough(space):
    table = exact(space, residuals=(0.5,) * 50)
    rows = walk(space.decode(space.sample_codes(1, np.random.default_rng(0)))[0])
    results = [
        MeasuredNetwork(rows, "calibration", "small", 1.0 + i / 1000, 1.0, 1.2, predicted_ms=1.0)
        for i in range(tables.OWN_NETWORKS)
    ]
    table.networks = results[1:]
    assert tables.margin(table, space=space) == 0.5
    table.networks = results
    n = tables.OWN_NETWORKS
    assert tables.margin(table, space=space) == pytest.approx((np.ceil((n + 1) * 0.9) - 1) / 1000)
    assert tables.margin(table, space=spaces.load("pplcnet_tail")) == 0.5
    assert tables.margin(table) == 0.5


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_a_margin_has_a_level(level):
    table = LatencyTable(this_machine(), ENGINE, residuals=(0.1,))
    with pytest.raises(TableError, match="not between 0 and 1"):
        tables.margin(table, level)


def test_a_table_that_was_not_validated_has_no_margin():
    with pytest.raises(TableError, match="was not validated"):
        tables.margin(LatencyTable(this_machine(), ENGINE))


def test_the_estimate_grows_with_what_is_measured(space):
    empty = LatencyTable(this_machine(), ENGINE)
    job = tables.TableJob(empty, space, ENGINE, 1000, Path("x"), tables.FEW, tables.WHOLE)
    tail = dataclasses.replace(job, space=spaces.load("pplcnet_tail"))
    assert job.seconds() < tail.seconds()
    assert 180 < tail.seconds() < 600  # "about five minutes"
    assert "minutes" in tail.announcement()
    assert "are measured now" in tail.announcement()
    assert "would be measured first" in tail.announcement("would be measured first")
