"""Building a table on a synthetic machine: known costs are recovered, others show in the errors."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lcnas import spaces, zoo
from lcnas.arch import walk
from lcnas.errors import TableError
from lcnas.latency.chains import context_chains
from lcnas.latency.machine import this_machine
from lcnas.latency.profile import Builder, ProfileSettings, content_id, span
from lcnas.latency.table import LatencyTable
from lcnas.latency.timing import TimingPlan

from .synthetic import ENGINE, OVERHEAD_MS, World, alone_ms, inside_ms

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
[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 4 }
stride = 2
width = { choices = [32, 48, 64] }
kernel = { choices = [3, 5], per = "block" }
se = { choices = [false, true], per = "block" }
[head]
block = "classifier"
width = { choices = [0, 640] }
"""
BLOCKS = TimingPlan(sessions=2, rounds=3, most_rounds=3, visit_ms=4.0)
NETWORKS = TimingPlan(sessions=2, rounds=4, most_rounds=4, visit_ms=8.0)


def builder(world: World, folder: Path, **changes: object) -> Builder:
    settings = {"validate": 40, "uniform": 10, "calibrate": 90, "time_budget": 1e9} | changes
    return Builder(
        ProfileSettings(spaces=(spaces.loads(SPACE, "synthetic"),), **settings),  # type: ignore[arg-type]
        ENGINE,
        folder,
        open_session=world.open,
        clock=world.clock,
        block_plan=BLOCKS,
        network_plan=NETWORKS,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    folder = tmp_path_factory.mktemp("tables")
    return LatencyTable.load(builder(World(), folder).run())


def test_additive_costs_with_borders_drift_and_noise_are_recovered(built):
    held = built.errors["synthetic"]["held_out"]
    assert held["fit"]["n"] == 40
    assert held["fit"]["mape"] <= max(0.02, 1.25 * held["noise_floor"]["mape"])
    assert held["fit"]["mape"] <= held["sum"]["mape"] / 2
    assert held["fit"]["tau"] >= held["noise_floor"]["tau"] - 0.05
    assert 0.75 <= held["coverage_90"] <= 1.0


def test_terms_are_what_blocks_cost_inside_a_network_not_alone(built):
    # All terms are slow by one unknown factor, the usual pace of the synthetic machine.
    truth = np.array([inside_ms(p) for p in built.entries])
    alone = np.array([alone_ms(p) for p in built.entries])
    terms = np.array([entry.term or 0 for entry in built.entries.values()]) / 1000
    pace = np.median(terms / truth)
    assert pace == pytest.approx(1, abs=0.15)
    off = np.abs(terms / (pace * truth) - 1)
    assert np.median(off) < 0.05
    assert np.median(off) < 0.35 * np.median(np.abs(alone / truth - 1))
    assert built.overhead_ms == pytest.approx(minimal_network_ms(), rel=0.5)


def minimal_network_ms() -> float:
    from lcnas.latency.profile import _minimal_network

    return OVERHEAD_MS + sum(inside_ms(p) for p in walk(_minimal_network()))


def test_predictions_are_near_the_truth_of_networks_never_measured(built):
    space = spaces.loads(SPACE, "synthetic")
    archs = space.decode(space.sample_codes(200, np.random.default_rng(99)))
    truth = np.array([World().truth(a) for a in archs])
    predicted = built.predict(archs)
    assert np.abs(predicted / predicted.mean() / (truth / truth.mean()) - 1).mean() < 0.03


def test_a_cost_that_is_no_sum_shows_in_the_held_out_error(tmp_path):
    table = LatencyTable.load(builder(World(hidden=0.3), tmp_path).run())
    held = table.errors["synthetic"]["held_out"]
    assert held["fit"]["mape"] > 0.08
    assert held["fit"]["mape"] > 3 * held["noise_floor"]["mape"]
    low, high = table.bounds(0.9)
    assert high - low > 0.3  # and the intervals say it too


def test_the_three_sets_are_disjoint_and_complete(built):
    roles: dict[str, set[object]] = {}
    for network in built.networks:
        roles.setdefault(network.role, set()).add(network.placed)
        assert network.predicted_ms is not None
        assert (network.again_ms is not None) == (network.role != "calibration")
    assert {role: len(networks) for role, networks in roles.items()} == {
        "calibration": 90,
        "held_out": 40,
        "uniform": 10,
    }
    assert not roles["calibration"] & roles["held_out"]


def test_a_second_run_measures_nothing_again(tmp_path):
    first = builder(World(), tmp_path)
    path = first.run()
    before = LatencyTable.load(path)
    world = World(seed=5)
    again = builder(world, tmp_path, calibrate=30, validate=20, seed=1)
    assert again.missing == {}
    again.run()
    after = LatencyTable.load(path)
    assert {p: e.ms for p, e in after.entries.items()} == {
        p: e.ms for p, e in before.entries.items()
    }
    assert len(after.networks) > len(before.networks)
    assert [p.name for p in tmp_path.iterdir() if "journal" in p.name] == []


def test_blocks_of_given_networks_join_the_same_table(tmp_path):
    path = builder(World(), tmp_path, calibrate=30, validate=20, uniform=0).run()
    arch = zoo.load("pplcnet_0.25x", resolution=64)
    world = World()
    more = Builder(
        ProfileSettings(archs=(arch,), classes=10),
        ENGINE,
        tmp_path,
        open_session=world.open,
        clock=world.clock,
        block_plan=BLOCKS,
    )
    assert more.run() == path
    table = LatencyTable.load(path)
    assert all(p in table.entries for p in walk(arch, None, 10))
    assert table.predict(arch, classes=10) > 0


def test_too_few_networks_give_a_simple_sum_that_was_not_validated(tmp_path):
    table = LatencyTable.load(builder(World(), tmp_path, calibrate=0, validate=0, uniform=0).run())
    assert table.method["fit"] == "sum"
    assert table.errors == {}
    with pytest.raises(TableError, match="was not validated"):
        table.bounds()


def test_a_journal_that_was_cut_off_in_a_line_resumes(tmp_path):
    world = World()
    first = builder(world, tmp_path)
    assert list(first.stopwatch.measure([])) == []
    first.measure_blocks()
    path = first.journal.path
    content = path.read_bytes()
    first.journal.close()
    path.write_bytes(content[:-7])
    again = builder(World(), tmp_path)
    assert len(again.journal.visits) == len(first.journal.visits) - 1
    assert (first.stopwatch.run, again.stopwatch.run) == (0, 1)


def test_visits_of_two_runs_are_corrected_by_their_own_clocks(tmp_path):
    """The second start, after a reboot, sees a slower machine at the very times of the first one's clock."""
    first = builder(World(drift=0.0), tmp_path)
    first.measure_blocks()
    first.journal.close()
    fast = {key: m.ms for key, m in first._measurements().items()}
    world = World(drift=0.0, slow=1.6)
    again = builder(world, tmp_path)
    again.measure_networks(again.settings.spaces[0], float("inf"))
    assert {v.run for v in again.journal.visits} == {0, 1}
    measurements = again._measurements()
    blocks = [measurements[key].ms / ms for key, ms in fast.items()]
    space = again.settings.spaces[0]
    archs = space.decode(np.array(again.draws(space)["held_out"]))
    nets = [measurements[f"net:first:{a.id}"].ms / world.truth(a) for a in archs]
    # One pace for all: neither run's share shows in the ratio of blocks to networks.
    assert np.median(nets) == pytest.approx(np.median(blocks), rel=0.03)


def test_two_processes_with_one_journal(tmp_path):
    first = builder(World(), tmp_path)
    with pytest.raises(TableError, match="another process is at work with the same settings"):
        builder(World(), tmp_path)
    first.journal.close()
    builder(World(), tmp_path).run()


def test_an_edited_space_begins_a_new_journal(tmp_path):
    """The same name, size and genes, but another constant: the networks drawn before are not its networks."""
    texts = [SPACE, SPACE.replace("resolution = [64]", "resolution = [96]")]
    stage = "stride = 2\nwidth = { choices = [32"
    texts.append(SPACE.replace(stage, stage.replace("2", "[2, 1]", 1)))
    texts.append(SPACE.replace("kernel = { choices = [3, 5]", "kernel = { choices = [3, 7]", 1))
    edited = [spaces.loads(text, "synthetic") for text in texts]
    assert len({space.size for space in edited}) == 1
    assert len({content_id(space) for space in edited}) == len(edited)
    assert content_id(spaces.loads(SPACE, "synthetic")) == content_id(edited[0])
    assert content_id(edited[0].restrict(stem_width=8)) != content_id(edited[0])
    paths = set()
    for space in edited:
        job = Builder(
            ProfileSettings(spaces=(space,), validate=5, uniform=2, calibrate=5),
            ENGINE,
            tmp_path,
            open_session=World().open,
        )
        assert job.journal.notes == {}
        job.journal.note(f"draws:{space.name}", {"calibration": [], "held_out": [], "uniform": []})
        paths.add(job.journal.path)
    assert len(paths) == len(edited)


@pytest.mark.parametrize(
    "change",
    [
        {"machine": {"cpu": "Another CPU", "isa": "avx2", "cores": 2, "system": "Linux x86_64"}},
        {"engine": {"name": "openvino", "version": "0.0.0+openvino9", "isa": "synthetic",
                    "precision": "fp32", "threads": 1, "batch": 1}},
    ],
)  # fmt: skip
def test_measurements_of_this_machine_join_no_table_of_another(tmp_path, change):
    path = builder(World(), tmp_path, calibrate=0, validate=0, uniform=0).run()
    data = json.loads(path.read_text()) | change
    path.write_text(json.dumps(data))
    with pytest.raises(
        TableError, match=r"is of .*; this is .*\. Choose another folder with --out"
    ):
        builder(World(), tmp_path, calibrate=0, validate=0, uniform=0)
    assert json.loads(path.read_text()) == data
    assert not list(tmp_path.glob(".*journal*"))  # refused before there is one


def test_a_table_that_is_broken_or_no_file_leaves_no_journal(tmp_path):
    path = tmp_path / LatencyTable(this_machine(), ENGINE).file_name
    path.write_text("{")
    with pytest.raises(TableError, match="not JSON, perhaps cut off"):
        builder(World(), tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TableError, match="is a folder, not a file"):
        builder(World(), tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_bands_lie_between_the_networks_of_the_space_s_own_strides():
    for name, low in (
        ("pplcnet_tail", "pplcnet_0.25x"),
        ("lcnet_next", "pplcnet_0.25x"),
        ("pplcnet_tail_32", "pplcnet_32_0.25x"),
    ):
        assert span(spaces.load(name))[0].name == low


def test_int8_blocks_are_measured_in_chains_as_well(tmp_path):
    """Alone, a block carries a quantise/dequantise pair that may cost as much as it; in a chain, none."""
    world = World(quantise=1e-5, noise=0.002, drift=0.0)
    job = Builder(
        ProfileSettings(
            spaces=(spaces.loads(SPACE, "synthetic"),), validate=20, uniform=0, calibrate=40
        ),
        dataclasses.replace(ENGINE, precision="int8"),
        tmp_path,
        open_session=world.open,
        clock=world.clock,
        block_plan=BLOCKS,
        network_plan=NETWORKS,
    )
    table = LatencyTable.load(job.run())
    entries = table.entries
    truth = np.array([inside_ms(p) for p in entries])
    alone = np.array([entry.ms - OVERHEAD_MS for entry in entries.values()])
    inside = np.array([entry.context_ms for entry in entries.values()], dtype=float)
    same = np.array([p.in_shape == p.out_shape for p in entries])
    assert np.median(alone / truth) > 1.3
    assert np.median(np.abs(inside / truth - 1)[same]) < 0.05
    assert np.median(np.abs(inside / truth - 1)) < 0.3 * np.median(np.abs(alone / truth - 1))
    held = table.errors["synthetic"]["held_out"]
    assert held["fit"]["mape"] < 0.03 < held["sum"]["mape"]
    # ... and blocks of the table are not measured again, but may be in chains with new ones
    more = Builder(
        ProfileSettings(archs=(zoo.load("pplcnet_0.25x", resolution=64),), validate=0, calibrate=0),
        dataclasses.replace(ENGINE, precision="int8"), tmp_path,
        open_session=world.open, clock=world.clock, block_plan=BLOCKS,
    )  # fmt: skip
    after = LatencyTable.load(more.run())
    assert all(after.entries[p].ms == entry.ms for p, entry in entries.items())
    assert all(entry.context_ms for entry in after.entries.values())


def test_fp32_blocks_have_no_time_in_context(built):
    assert {entry.context_ms for entry in built.entries.values()} == {None}


def test_chains_of_two():
    arch = zoo.load("pplcnet_0.25x")
    blocks = walk(arch)
    chains = context_chains(blocks, blocks)
    assert list(chains) == list(dict.fromkeys(blocks))
    for placed, chain in chains.items():
        left, right = chain.blocks
        assert left.out_shape == right.in_shape
        assert placed in chain.blocks
        assert chain.other in chain.blocks
        if placed.in_shape == placed.out_shape:
            assert chain.blocks == (placed, placed)
        else:
            assert {placed, chain.other} == {left, right}
    assert chains[blocks[0]].blocks[0] == blocks[0]  # the stem has nothing in front
    assert chains[blocks[-1]].blocks[1] == blocks[-1]
    assert context_chains(blocks[:1], blocks[:1]) == {}


RUN = """
import sys, time
from pathlib import Path
from tests.latency.synthetic import World
from tests.latency.test_profile import builder
world = World()
open_session = world.open
def slow(*args):
    time.sleep(0.001)  # so that a kill can come between
    return open_session(*args)
world.open = slow
print("begun", flush=True)
builder(world, Path(sys.argv[1]), calibrate=25, validate=10, uniform=2).run()
"""


def run_and_kill(folder: Path, moment: float | None) -> bool:
    """Run the builder in a process, kill it after some seconds; returns whether it was still running."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", RUN, str(folder)]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"begun\n"  # imports take any time
        try:
            assert job.wait(timeout=moment) == 0
        except subprocess.TimeoutExpired:
            os.kill(job.pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no kill -9")
def test_killed_at_twenty_random_moments_and_resumed(tmp_path):
    """A run is resumed after every kill; once it is complete, the next begins in a folder of its own."""
    rng = random.Random(0)
    expected = spaces.loads(SPACE, "synthetic").placed_blocks()
    number = 0
    for kills in range(21):
        folder = tmp_path / str(number)
        if run_and_kill(folder, 0.02 + rng.random() * 1.5 if kills < 20 else None):
            for path in folder.glob("*.json"):
                json.loads(path.read_text())  # always whole
            if list(folder.glob(".*.journal.jsonl")) or not list(folder.glob("*.json")):
                continue  # else it was killed on its way out, with all its work done
        number += 1
        (path,) = folder.glob("*.json")
        table = LatencyTable.load(path)
        assert list(table.entries) == list(expected)  # none lost, none twice
        assert all(e.sessions >= 2 and e.rounds >= 6 for e in table.entries.values())
        assert len(table.networks) == 37
        assert [p for p in folder.iterdir() if "journal" in p.name] == []
