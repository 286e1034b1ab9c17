"""Under which key errors are counted, and that sets of different sizes stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from lcnas import spaces
from lcnas.arch import walk
from lcnas.latency.fitting import keys_of, refit
from lcnas.latency.machine import Machine
from lcnas.latency.predict import METHODS
from lcnas.latency.table import LatencyTable, Network, Row

from .synthetic import ENGINE, ENTRY_MS, inside_ms
from .test_profile import SPACE


def networks(space: spaces.Space, n: int, classes: int = 1000, name: str = "") -> list[Network]:
    """Return n networks of a space, whose latency is that of the synthetic machine with 1 % of noise."""
    rng = np.random.default_rng(n)
    codes = np.unique(space.sample_codes(2 * n, rng), axis=0)
    out = []
    for arch in space.decode(rng.permutation(codes)[:n]):
        rows = walk(arch, None, classes)
        ms = ENTRY_MS + sum(inside_ms(p) for p in rows)
        first, again = ms * np.exp(0.01 * rng.standard_normal(2))
        network = Network(rows, "held_out", name or space.name, first, first, first, float(again))
        out.append(network)
    return out


@pytest.mark.parametrize(
    ("resolution", "classes", "key"),
    [
        (None, 1000, "pplcnet_tail"),
        (224, 1000, "pplcnet_tail"),  # the space's own
        (128, 1000, "pplcnet_tail 128px"),
        ((80, 160), 1000, "pplcnet_tail 80x160px"),
        (None, 10, "pplcnet_tail 10 classes"),
        (128, 10, "pplcnet_tail 128px 10 classes"),
    ],
)
def test_a_key_is_the_space_and_what_is_not_its_own(resolution, classes, key):
    space = spaces.load("pplcnet_tail", resolution)
    assert keys_of(networks(space, 2, classes)) == [key, key]


def test_a_space_of_small_images_goes_by_its_name_at_its_own_resolution():
    assert keys_of(networks(spaces.load("pplcnet_tail_32"), 1)) == ["pplcnet_tail_32"]
    at = spaces.load("pplcnet_tail_32", 224)
    assert keys_of(networks(at, 1)) == ["pplcnet_tail_32 224px"]


def test_a_space_of_a_user_s_goes_by_its_name_as_long_as_it_has_one_size():
    small = networks(spaces.loads(SPACE, "mine"), 2)
    large = networks(spaces.loads(SPACE.replace("[64]", "[96]"), "mine"), 1)
    assert keys_of(small) == ["mine", "mine"]
    assert keys_of([*small, *large]) == ["mine 64px", "mine 64px", "mine 96px"]
    assert keys_of([*large, *small]) == ["mine 96px", "mine 64px", "mine 64px"]


def test_errors_of_two_sizes_are_not_pooled():
    """The larger images' networks are all 30 % slower than any sum can tell: only their errors show it."""
    table = LatencyTable(Machine("Some CPU", "avx2", 2, ""), ENGINE, overhead_ms=ENTRY_MS)
    sizes = {
        64: spaces.loads(SPACE, "mine"),
        96: spaces.loads(SPACE.replace("[64]", "[96]"), "mine"),
    }
    for size, space in sizes.items():
        for placed in space.placed_blocks():
            ms = ENTRY_MS + inside_ms(placed)
            table.rows[placed] = Row(ms, ms, ms, 6, 2)
        for i, network in enumerate(networks(space, 60 + size)):
            held = i < 25
            slower = 1.3 if held and size == 96 else 1.0
            ms, again = network.ms * slower, (network.again_ms or 0) * slower
            role = "held_out" if held else "calibration"
            made = Network(network.rows, role, "mine", ms, ms, ms, again if held else None)
            table.networks.append(made)
    refit(table)
    assert list(table.errors) == ["mine 64px", "mine 96px"]
    near, far = (table.errors[key]["held_out"] for key in table.errors)
    assert near["fit"]["n"] == far["fit"]["n"] == 25
    assert set(METHODS) < set(near)
    assert near["fit"]["mape"] < 0.05 < 0.15 < far["fit"]["mape"]
    assert far["coverage_90"] < 0.1 < 0.6 < near["coverage_90"]
    read = LatencyTable.from_data(table.to_data())  # it is what a file may say
    assert read.errors == table.errors
