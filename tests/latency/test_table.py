"""LatencyTable: files, invalid data, prediction, and two processes at once."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lcnas import spaces, zoo
from lcnas.arch import walk
from lcnas.errors import TableError
from lcnas.latency.machine import Machine, this_machine
from lcnas.latency.table import (
    Entry,
    LatencyTable,
    MeasuredNetwork,
    available,
    default,
    destination,
    of_engine,
    update,
    write_text,
)
from tests.spaces.small import KINDS, PER_BLOCK

from .synthetic import ENGINE, inside_ms

ELSEWHERE = Machine("Some CPU @ 3.0GHz", "avx2", 8, "Linux x86_64")


ERRORS = {"n": 40, "mape": 0.02, "rmse": 0.1, "within_5": 0.9, "within_10": 1.0}
ERRORS |= {"tau": 0.9, "tau_low": 0.8, "tau_high": 1.0}
BAND = {"from_ms": 0.5, "to_ms": 0.7, "n": 8, "mape": 0.03}


def synthetic_table(space: spaces.Space, machine: Machine = ELSEWHERE) -> LatencyTable:
    table = LatencyTable(machine, ENGINE, base=12, overhead_ms=0.012)
    for placed in space.placed_blocks(10):
        ms = inside_ms(placed)
        table.entries[placed] = Entry(ms + 0.012, ms, ms + 0.1, 6, 2, round(ms * 1000))
    arch = space.sample(np.random.default_rng(0))
    table.networks = [
        MeasuredNetwork(walk(arch, None, 10), "held_out", "kinds", 1.5, 1.4, 1.6, 1.55, 1.45)
    ]
    table.residuals = tuple(np.linspace(-0.1, 0.1, 99).tolist())
    table.errors = {"kinds": {"held_out": dict.fromkeys(("fit", "noise_floor", "sum"), ERRORS)}}
    table.errors["kinds"]["held_out"] |= {"coverage_90": 0.9, "bands": [BAND]}
    return table


@pytest.fixture(scope="module")
def space() -> spaces.Space:
    return spaces.loads(KINDS, "kinds")


@pytest.fixture
def table(space) -> LatencyTable:
    return synthetic_table(space)


def test_a_table_survives_its_file(table, tmp_path, space):
    path = table.save(tmp_path)
    assert path.name == "some-avx2-openvino0.0.0-fp32-t1-b1.json"
    again = LatencyTable.load(path)
    assert list(again.entries) == list(table.entries)
    assert [e.term for e in again.entries.values()] == [e.term for e in table.entries.values()]
    assert again.networks[0].placed == table.networks[0].placed
    assert (again.machine, again.engine, again.base) == (table.machine, table.engine, table.base)
    assert again.errors == table.errors
    assert np.allclose(again.residuals, table.residuals, atol=1e-5)
    assert again.to_data() == table.to_data()
    assert not list(tmp_path.glob("*.tmp"))


def test_times_in_context_are_kept_and_tables_without_them_still_load(table, tmp_path):
    first, *others = table.entries
    table.entries[first] = dataclasses.replace(table.entries[first], context_ms=0.0345)
    again = LatencyTable.load(table.save(tmp_path))
    assert again.entries[first].context_ms == 0.0345
    assert again.entries[first].inside_ms(0.01) == 0.0345
    other = again.entries[others[0]]
    assert other.context_ms is None
    assert other.inside_ms(0.01) == other.ms - 0.01
    data = table.to_data()
    del data["rows"][0]["context_ms"]
    (tmp_path / "old.json").write_text(json.dumps(data | {"version": 1}))
    old = LatencyTable.load(tmp_path / "old.json")
    assert list(old.entries) == list(table.entries)
    assert {entry.context_ms for entry in old.entries.values()} == {None}
    assert old.to_data()["version"] == 2


def test_prediction_is_the_base_and_the_sum_of_terms(table, space):
    rng = np.random.default_rng(1)
    codes = space.sample_codes(50, rng)
    archs = space.decode(codes)
    expected = [
        (12 + sum(round(inside_ms(p) * 1000) for p in walk(a, None, 10))) / 1000 for a in archs
    ]
    assert table.predict(archs, classes=10) == pytest.approx(expected, abs=1e-12)
    assert table.predict_codes(space, codes, classes=10) == pytest.approx(expected, abs=1e-12)
    assert table.predict(archs[0], classes=10).shape == (1,)


def test_intervals_are_the_conformal_quantiles_of_unseen_residuals(table, space):
    arch = space.sample(np.random.default_rng(2))
    (low,), (high,) = table.interval(arch, level=0.9, classes=10)
    (predicted,) = table.predict(arch, classes=10)
    # 99 residuals from -10 to 10 %: ranks 5 and 95 of 100
    assert low == pytest.approx(predicted * (1 + np.linspace(-0.1, 0.1, 99)[4]))
    assert high == pytest.approx(predicted * (1 + np.linspace(-0.1, 0.1, 99)[94]))
    for level in (1, 0.0, "x", None, True, float("nan")):
        with pytest.raises(TableError, match=f"level: {level!r} is not between 0 and 1"):
            table.bounds(level)
    assert table.bounds(np.float32(0.5)) == table.bounds(0.5)
    table.residuals = ()
    with pytest.raises(TableError, match="was not validated, so it has no intervals"):
        table.bounds()


def test_a_missing_entry_names_its_block_and_the_command_that_measures_it(table, space):
    other = spaces.loads(PER_BLOCK, "per_block")
    assert table.coverage(space, 10) == 1.0
    assert 0 < table.coverage(space, 1000) < 1  # the heads' entries are of 10 classes
    assert len(table.missing(space, 1000)) == 1
    with pytest.raises(
        TableError, match=r"no entry for classifier\(width=0\) 4x4x24 -> 1000; measure"
    ) as caught:
        table.predict(space.sample(np.random.default_rng(0)))
    command = (
        "python -m lcnas.profile_blocks --blocks-from NETWORK.json --engine openvino --threads 1"
    )
    assert command in str(caught.value)
    assert "--classes 1000" in str(caught.value)
    with pytest.raises(TableError, match=r"no entry for .*profile_blocks --space per_block\.toml "):
        table.terms(other, 10)
    assert table.coverage(other, 10) < 1


def command_of(caught: pytest.ExceptionInfo[TableError]) -> str:
    """Return the command that an error names, after a check of its form."""
    text = str(caught.value).partition("measure it with: ")[2]
    module, argv = text.split()[:3], text.partition(" (the network's")[0].split()[3:]
    assert module == ["python", "-m", "lcnas.profile_blocks"]
    assert all(len(part) > 0 for part in argv)
    return " ".join(argv)


def test_the_command_names_the_space_where_it_is_known(table):
    with pytest.raises(TableError) as caught:
        table.terms(spaces.load("pplcnet", 96), 7)
    engine = "--engine openvino --threads 1 --precision fp32 --batch 1"
    assert command_of(caught) == f"--space pplcnet --resolution 96 {engine} --classes 7"
    space = spaces.load("pplcnet", [64, (80, 160)])
    with pytest.raises(TableError) as caught:
        table.predict_codes(space, space.sample_codes(1, np.random.default_rng(0)))
    assert command_of(caught).startswith("--space pplcnet --resolution 64 ")
    # all entries at 64 exist: the missing ones are at 80x160
    for placed in space.restrict(resolution=64).placed_blocks():
        table.entries[placed] = Entry(1.0, 1.0, 1.0, 6, 2, 1000)
    with pytest.raises(TableError) as caught:
        table.terms(space)
    assert command_of(caught).startswith("--space pplcnet --resolution 80x160 ")


def test_the_command_names_the_network_where_the_zoo_has_it(table):
    arch = zoo.load("mobilenet_v3_small")
    with pytest.raises(TableError) as caught:
        table.predict(arch)
    assert command_of(caught).startswith("--blocks-from mobilenet_v3_small_1.0x --engine openvino")
    with pytest.raises(TableError) as caught:
        table.predict(arch.at((80, 160)))
    assert "--blocks-from mobilenet_v3_small_1.0x --resolution 80x160 --engine" in command_of(
        caught
    )
    for other in (arch.named(""), arch.named("mine"), zoo.load("pplcnet_0.5x").named(arch.name)):
        with pytest.raises(
            TableError, match=r"\(the network's to_json\(\), in a file\)$"
        ) as caught:
            table.predict(other)
        assert command_of(caught).startswith("--blocks-from NETWORK.json --engine openvino")


def test_a_table_of_another_machine_loads_and_predicts_and_names_the_machine(
    table, tmp_path, space
):
    again = LatencyTable.load(table.save(tmp_path))
    assert not again.of_this_machine()
    assert again.machine_label.startswith(
        "Some CPU @ 3.0GHz (avx2), openvino 0.0.0, fp32, 1 thread"
    )
    assert again.predict(space.sample(np.random.default_rng(0)), classes=10) > 0


def test_only_a_table_of_this_machine_is_taken_by_default(space, tmp_path, monkeypatch):
    monkeypatch.setenv("LCNAS_TABLES", str(tmp_path))
    synthetic_table(space).save(tmp_path)
    assert default(ENGINE) is None
    mine = synthetic_table(space, this_machine()).save(tmp_path)
    assert default(ENGINE) == mine
    more = mine.with_name(f"{mine.stem}-64px.json")
    more.write_bytes(mine.read_bytes())
    mine.with_name(f"{mine.stem}6.json").write_bytes(mine.read_bytes())  # batch 16, as names go
    assert default(ENGINE) == mine
    assert of_engine(ENGINE) == [more, mine]  # in the order of names
    assert set(available()) >= {"some-avx2-openvino0.0.0-fp32-t1-b1", mine.stem}
    assert LatencyTable.load("some-avx2-openvino0.0.0-fp32-t1-b1").machine == ELSEWHERE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": "other"}, "is 'other' version 2, not 'lcnas-latency-table' version 1 or 2"),
        (lambda d: d | {"version": 3}, "version 3, not"),
        (lambda d: _in_entry(d, context_ms=-0.1), r"rows\[0\].context_ms: -0.1 is not above 0"),
        (lambda d: d | {"rwos": []}, "unknown key 'rwos'; did you mean 'rows'"),
        (lambda d: {k: v for k, v in d.items() if k != "engine"}, "key 'engine' is missing"),
        (lambda d: d | {"machine": {"cpu": "x"}}, "machine: key 'isa' is missing"),
        (lambda d: d | {"engine": d["engine"] | {"threads": 0}}, "threads: 0 is not a whole number"),
        (lambda d: d | {"rows": 7}, "rows: 7 is not a list"),
        (lambda d: _in_entry(d, ms=-1.0), r"rows\[0\].ms: -1.0 is not above 0, as a time has to be"),
        (lambda d: _in_entry(d, ms=0), r"rows\[0\].ms: 0 is not above 0"),
        (lambda d: _in_entry(d, ms=float("nan")), r"rows\[0\].ms: nan is not a finite number"),
        (lambda d: _in_entry(d, ms="1"), r"rows\[0\].ms: '1' is not a finite number"),
        (lambda d: _in_entry(d, term_us=1.5), r"rows\[0\].term_us: 1.5 is not a whole number"),
        (lambda d: d | {"blocks": [{"type": "cnov"}]}, r"blocks\[0\]: block type: 'cnov' .*mean 'conv'"),
        (lambda d: _in_entry(d, block=999), r"rows\[0\].block: 999 is not one of the table's"),
        (lambda d: _in_entry(d, interval=[1]), r"rows\[0\].interval: \[1\] is not \[low, high\]"),
        (lambda d: d | {"networks": [d["networks"][0] | {"rows": [9999]}]}, "9999 is not one of the table's"),
        (lambda d: d | {"networks": [d["networks"][0] | {"role": "x"}]}, "role: 'x' is not among"),
        (lambda d: [], r"\[\] is not an object"),
        (lambda d: _in_entry(d, ms=0.001), r"rows\[0\].ms: 0.001 is not in its interval \["),
        (lambda d: _in_entry(d, interval=[2.0, 1.0]), r"rows\[0\].interval: \[2.0, 1.0\] is reversed"),
        (lambda d: _in_network(d, ms=1.7), r"networks\[0\].ms: 1.7 is not in its interval \[1.4, 1.6\]"),
        (lambda d: _in_network(d, rows=[]), r"networks\[0\].rows: is empty"),
        (lambda d: d | {"errors": []}, r"errors: \[\] is not an object"),
        (lambda d: d | {"errors": {"kinds": 7}}, r"errors\['kinds'\]: 7 is not an object"),
        (lambda d: d | {"errors": {"kinds": {"held": {}}}}, r"'held' is not among .*mean 'held_out'"),
        (lambda d: d | {"errors": {"kinds": {"held_out": {}}}}, r"held_out: key 'fit' is missing"),
        (lambda d: _in_errors(d, fit={"mape": 0.1}), "held_out.fit: key 'n' is missing"),
        (lambda d: _in_errors(d, fit=ERRORS | {"mape": float("nan")}), "fit.mape: nan is not a finite"),
        (lambda d: _in_errors(d, fit=ERRORS | {"tau": None}), "fit.tau: None is not a finite number"),
        (lambda d: _in_errors(d, fit=ERRORS | {"tau_low": -1.5}), "fit.tau_low: -1.5 is not from -1 to 1"),
        (lambda d: _in_errors(d, sum=ERRORS | {"n": 0}), "sum.n: 0 is not a whole number of at least 1"),
        (lambda d: _in_errors(d, macs=3), "held_out.macs: 3 is not an object"),
        (lambda d: _in_errors(d, coverage_90="0.9"), "held_out.coverage_90: '0.9' is not a finite number"),
        (lambda d: _in_errors(d, coverage_90=90), "held_out.coverage_90: 90 is not from 0 to 1"),
        (lambda d: _in_errors(d, bands=[BAND, {}]), r"held_out.bands\[1\]: key 'from_ms' is missing"),
        (lambda d: d | {"method": {"fit": 3}}, "method.fit: 3 is not a text"),
        (lambda d: d | {"method": {"settings": {"own": float("inf")}}}, "method.settings.own: inf is not"),
    ],
)  # fmt: skip
def test_an_edited_table_is_refused_in_one_line(table, tmp_path, change, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(change(table.to_data())))
    with pytest.raises(TableError, match=message) as caught:
        LatencyTable.load(path)
    assert "\n" not in str(caught.value)
    assert "t.json" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"base_us":', '"base_us":3,"base_us":', r"t\.json: key 'base_us' occurs twice"),
        ('"rounds":', '"rounds":7,"rounds":', r"t\.json: rows\[0\]: key 'rounds' occurs twice"),
        ('"role":', '"ms":1.5,"role":', r"t\.json: networks\[0\]: key 'ms' occurs twice"),
        (
            '"rmse":',
            '"mape":0.0,"rmse":',
            r"errors\.kinds\.held_out\.fit: key 'mape' occurs twice",
        ),
        (
            '"held_out":',
            '"held_out":{},"held_out":',
            r"errors\.kinds: key 'held_out' occurs twice",
        ),
    ],
)
def test_a_key_that_occurs_twice_is_refused_with_its_place(table, tmp_path, old, new, message):
    text = json.dumps(table.to_data(), separators=(",", ":"))
    path = tmp_path / "t.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TableError, match=message) as caught:
        LatencyTable.load(path)
    assert "\n" not in str(caught.value)


def _in_network(data, **fields):
    return data | {"networks": [data["networks"][0] | fields]}


def _in_errors(data, **fields):
    held = data["errors"]["kinds"]["held_out"]
    return data | {"errors": {"kinds": {"held_out": held | fields}}}


def _in_entry(data, **fields):
    return data | {"rows": [data["rows"][0] | fields, *data["rows"][1:]]}


def test_a_truncated_table_is_refused(table, tmp_path):
    path = table.save(tmp_path)
    text = path.read_text()
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_text(text[: int(len(text) * share)])
        with pytest.raises(TableError, match="not JSON, perhaps cut off"):
            LatencyTable.load(path)
    for name in ("nowhere", "", "a" * 300, "a/" * 3000, "a\0b"):
        with pytest.raises(TableError, match="there is no file or table ") as caught:
            LatencyTable.load(name)
        assert len(str(caught.value)) < 200


def test_a_full_disk_leaves_the_old_table_whole(table, tmp_path, monkeypatch):
    path = table.save(tmp_path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    table.base = 99
    with pytest.raises(TableError, match="cannot be written: No space left on device"):
        table.save(tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written(table, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot be written"):
        table.save(tmp_path / "file")
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.geteuid() == 0:  # root writes into read-only folders too
        monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(TableError, match="cannot be written: Permission denied"):
        table.save(tmp_path / "locked")


def test_a_link_is_followed_and_stays_a_link(table, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / table.file_name
    link.symlink_to(tmp_path / "real" / "mine.json")  # which does not exist yet
    for base in (3, 4):
        table.base = base
        assert table.save(tmp_path / "links") == link
        assert link.is_symlink()
        assert LatencyTable.load(tmp_path / "real" / "mine.json").base == base
    update(tmp_path / "links", table, lambda changed: setattr(changed, "base", 5))
    assert link.is_symlink()
    assert LatencyTable.load(link).base == 5
    assert [p.name for p in (tmp_path / "links").iterdir()] == [link.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_pipes_devices_and_folders_are_not_replaced(table, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "a pipe"), ("link", "a pipe"), ("folder", "a folder")):
        with pytest.raises(TableError, match=f"{name}: is {what}, not a file; it stays") as caught:
            write_text(tmp_path / name, "text")
        assert "\n" not in str(caught.value)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(TableError, match="is a device or a socket, not a file"):
        destination(Path(os.devnull))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(TableError, match="loop: cannot be written: "):
        write_text(tmp_path / "loop", "text")
    with pytest.raises(TableError, match="is not the name of a file"):
        destination(Path("a\0b"))
    assert {p.name for p in tmp_path.iterdir()} == {"pipe", "link", "folder", "loop"}


def test_the_file_that_a_command_prints_to_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"  # as /dev/stdout is in "command --json /dev/stdout > out.txt"
    path.write_text("printed")
    (tmp_path / "stdout").symlink_to(path)
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda n: path.stat() if n == 1 else fstat(n))
    with pytest.raises(TableError, match="stdout: is where this command prints"):
        write_text(tmp_path / "stdout", "text")
    assert path.read_text() == "printed"
    write_text(tmp_path / "other", "text")
    assert (tmp_path / "other").read_text() == "text"


def refused(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


ADD = """
import sys
from pathlib import Path
from tests.latency.test_table import synthetic_table, ELSEWHERE
from tests.spaces.small import KINDS
from lcnas import spaces
from lcnas.latency.table import LatencyTable, update
from tests.latency.synthetic import ENGINE
folder, part, parts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
entries = list(synthetic_table(spaces.loads(KINDS, "kinds")).entries.items())[part::parts]
for placed, entry in entries:
    update(folder, LatencyTable(ELSEWHERE, ENGINE), lambda table: table.entries.setdefault(placed, entry))
"""


def test_two_processes_add_to_one_table(tmp_path, table):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    jobs = [
        subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), str(i), "2"], cwd=root)
        for i in range(2)
    ]
    assert [job.wait(timeout=60) for job in jobs] == [0, 0]
    both = LatencyTable.load(tmp_path / table.file_name)
    assert set(both.entries) == set(table.entries)


def test_update_creates_the_table_where_there_is_none(table, tmp_path):
    def fill(fresh: LatencyTable) -> None:
        fresh.entries.update(table.entries)

    path = update(tmp_path / "new", dataclasses.replace(table, entries={}), fill)
    assert len(LatencyTable.load(path).entries) == len(table.entries)
