"""Latencies measured elsewhere find their networks, or are refused by name."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lcnas import measure, zoo
from lcnas.latency import Engine, TimingPlan, timing
from search.errors import SearchError
from search.outcome import MeasuredLatency
from search.reporting import measurements
from tests.search.reporting import sample_run

MACHINE = {"cpu": "Other CPU", "isa": "avx512", "cores": 8, "system": "Linux x86_64"}
ENGINE = Engine("mlas", "1.24", "avx512", threads=2)
WHOSE = "Other CPU (avx512), mlas 1.24, fp32, 2 threads, batch 1"


def network(name, ms=1.0, id_=None):
    return {"name": name, "id": id_, "ms": ms, "low": 0.9 * ms, "high": 1.2 * ms}


def file(path, *networks, **changes):
    data = {
        "format": "lcnas-measurements",
        "version": 2,
        "machine": MACHINE,
        "engine": dataclasses.asdict(ENGINE),
    }
    path.write_text(json.dumps(data | {"networks": list(networks)} | changes))
    return path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return sample_run.outcome(tmp_path_factory.mktemp("run"), n=30)


@pytest.fixture
def applied(tmp_path, outcome):
    """Return a function that gives the latencies which an outcome has by some measurements."""

    def apply(*networks):
        records = measurements.read(file(tmp_path / "there.json", *networks))
        replaced = measurements.apply(outcome, records)
        return {f.name: f.measured.ms for f in replaced.finals if f.measured is not None}

    return apply


@pytest.mark.parametrize(
    ("name", "by_id", "final"),
    [
        ("finalist-1", False, "finalist-1"),  # its own name
        ("anything", True, "finalist-1"),  # an arch file, by its content
        ("finalist-2-s0", False, "finalist-2"),  # the stem of one of its ONNX files
        ("runs/there/networks/finalist-2-s1.onnx", False, "finalist-2"),  # a path
        ("networks/finalist-2-s1.onnx", False, "finalist-2"),
        (r"networks\finalist-2-s1.onnx", False, "finalist-2"),
        ("elsewhere/finalist-2-s1.onnx", False, "finalist-2"),  # a path whose stem says enough
        ("copied/finalist-3.onnx", False, "finalist-3"),
        ("pplcnet_0.35x", True, "pplcnet_0.35x"),
        ("pplcnet_0.35x", False, "pplcnet_0.35x"),  # the dot belongs to the name
    ],
)
def test_networks_are_found(applied, outcome, name, by_id, final):
    ids = {f.name: f.arch.id for f in outcome.finals}
    assert applied(network(name, 0.7, ids[final] if by_id else None)) == {final: 0.7}


def test_latencies_of_another_precision_than_the_accuracies_are_refused(tmp_path, outcome):
    int8 = dataclasses.asdict(dataclasses.replace(ENGINE, precision="int8"))
    records = measurements.read(file(tmp_path / "there.json", network("finalist-1"), engine=int8))
    with pytest.raises(
        SearchError, match=r"is of int8, accuracies are of fp32; .*--precision fp32$"
    ):
        measurements.apply(outcome, records)


@pytest.mark.parametrize("own", [True, False])
def test_latencies_of_another_engine_than_the_accuracies_are_told(tmp_path, outcome, own):
    records = measurements.read(file(tmp_path / "there.json", network("finalist-1")))
    tested_by = ENGINE.label if own else "openvino 1.0, fp32"
    replaced = measurements.apply(dataclasses.replace(outcome, tested_by=tested_by), records)
    messages = f"Accuracies are of the files run by {tested_by}, latencies of {ENGINE.label}."
    assert (messages in replaced.notes) != own
    assert replaced.measured_by == ENGINE.label


def test_files_in_a_folder_a_network(outcome, tmp_path, monkeypatch):
    """As a search lays them out, under the names that the measure command gives them."""
    finals = [
        dataclasses.replace(f, runs=tuple(dataclasses.replace(r, onnx=where(f, r)) for r in f.runs))
        for f in outcome.finals
    ]
    files = [where(final, final.runs[0]) for final in finals]
    for name in files:
        (tmp_path / "run" / name).parent.mkdir(parents=True)
        (tmp_path / "run" / name).write_bytes(b"")

    def match(names):
        entries = [
            measurements.LatencyRecord(name, None, MeasuredLatency(1, 0.9, 1.1)) for name in names
        ]
        return [measurements.matching(entry, finals) for entry in entries]

    names = [[final.name] for final in finals]
    assert match(measure.find([str(tmp_path / "run" / name) for name in files])) == names
    monkeypatch.chdir(tmp_path / "run")
    assert match(measure.find(files)) == names
    monkeypatch.chdir(tmp_path / "run" / "finals")
    assert match(measure.find([name.removeprefix("finals/") for name in files])) == names
    alone = match(measure.find([files[0].removeprefix("finals/")]))  # "network" says nothing
    assert alone == [[final.name for final in finals]]


def where(final, run):
    return f"finals/{final.name}/seed-{run.seed}/network.onnx"


def test_of_several_measurements_of_a_network_the_middle_one_counts(applied):
    names = [network(f"finalist-1-s{i}", ms) for i, ms in enumerate((0.9, 0.7, 0.8))]
    assert applied(*names) == {"finalist-1": 0.8}
    assert applied(*names[:2]) == {"finalist-1": 0.7}


def test_what_was_measured_before_is_gone_and_the_notes_say_whose_the_rest_is(tmp_path, outcome):
    records = measurements.read(file(tmp_path / "there.json", network("finalist-1")))
    replaced = measurements.apply(outcome, records)
    assert replaced.finals[0].measured == MeasuredLatency(1.0, 0.9, 1.2)
    assert all(final.measured is None for final in replaced.finals[1:])
    assert records.machine == WHOSE
    assert replaced.notes[-2] == f"Measured latencies are those of {WHOSE} (there.json)."
    assert replaced.notes[-1].startswith(
        "Not among these measurements: finalist-2, finalist-3, pplcnet_0.35x"
    )


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([network("finalist-9"), network("finalist-1"), network("x")], "finalist-9, x: none of this"),
        ([network("finalst-1")], "did you mean 'finalist-1'"),
        ([network("pplcnet_0.35x", id_="0" * 20)], r"pplcnet_0.35x \(at another resolution, or another"),
        ([], "holds no network"),
    ],
)  # fmt: skip
def test_measurements_that_do_not_fit(applied, networks, message):
    with pytest.raises(SearchError, match=message) as caught:
        applied(*networks)
    assert "there.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_fits_more_than_one(tmp_path, outcome):
    finals = [
        dataclasses.replace(f, runs=(dataclasses.replace(f.runs[0], onnx=f"{f.name}/last.onnx"),))
        for f in outcome.finals
    ]
    records = measurements.read(file(tmp_path / "there.json", network("last")))
    with pytest.raises(
        SearchError, match=r"more than one network fits last \(finalist-1 or finalist-2"
    ):
        measurements.apply(dataclasses.replace(outcome, finals=tuple(finals)), records)


def test_a_network_under_two_names_has_one_latency(tmp_path, outcome):
    """A finalist may be one of the baselines: the same network, measured once."""
    first, *rest = outcome.finals
    twin = dataclasses.replace(rest[2], arch=first.arch)
    both = dataclasses.replace(outcome, finals=(first, twin))
    records = measurements.read(file(tmp_path / "a.json", network("it", 0.5, first.arch.id)))
    replaced = measurements.apply(both, records)
    assert [final.latency_ms for final in replaced.finals] == [0.5, 0.5]


def test_a_search_without_finalists(tmp_path, outcome):
    records = measurements.read(file(tmp_path / "there.json", network("x")))
    with pytest.raises(SearchError, match="no finalists that could be measured"):
        measurements.apply(dataclasses.replace(outcome, finals=()), records)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "is 'lcnas-measurements' version 3, not"),
        ({"format": "lcnas-run"}, "is 'lcnas-run' version 2, not"),
        ({"networks": [{"name": "x"}]}, "KeyError: \"'ms'\""),
        ({"networks": [network("x", -1.0)]}, "x: -1.0 ms"),
        ({"networks": 3}, "TypeError"),
        ({"machine": {"cpu": "x"}}, "TypeError"),
    ],
)
def test_files_of_another_kind(tmp_path, changes, message):
    with pytest.raises(SearchError, match=message):
        measurements.read(file(tmp_path / "there.json", **changes))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_as_shells_write_them(tmp_path, encoding):
    path = file(tmp_path / "there.json", network("finalist-1"))
    path.write_text(path.read_text("utf-8"), encoding=encoding)
    assert measurements.read(path).machine == WHOSE


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, '{"format": 1}'])
def test_files_that_are_none(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SearchError, match=r"x\.json is no file of python -m lcnas\.measure --json"):
        measurements.read(tmp_path / "x.json")
    with pytest.raises(SearchError, match=r"nowhere: cannot be read: No such file"):
        measurements.read(tmp_path / "nowhere")


def test_what_the_measure_command_writes_is_read(tmp_path):
    """By its own function, so that a change of the form is seen here."""
    visits = [
        timing.Visit("pplcnet_0.35x", session, float(n), 1.0 + 0.1 * run + 0.01 * n, run)
        for run in range(2)
        for session in range(2)
        for n in range(3)
    ]
    sources = {"pplcnet_0.35x": zoo.load("pplcnet_0.35x", 64)}
    result = measure.NetworkMeasurements(ENGINE, sources, TimingPlan(), 0, visits)
    path = tmp_path / "here.json"
    path.write_text(json.dumps(measure.to_data(result)))
    (entry,) = measurements.read(path).entries
    measured = result.measured["pplcnet_0.35x"]
    assert entry.id == sources["pplcnet_0.35x"].id
    assert (entry.timed.ms, entry.timed.low, entry.timed.high) == (
        measured.ms,
        measured.low,
        measured.high,
    )
