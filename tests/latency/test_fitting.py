"""The keys of errors, and that networks of different resolutions are not pooled."""

from __future__ import annotations

import numpy as np
import pytest

from lcnas import spaces
from lcnas.arch import walk
from lcnas.latency.fitting import error_keys, refit
from lcnas.latency.machine import Machine
from lcnas.latency.predict import METHODS
from lcnas.latency.table import Entry, LatencyTable, MeasuredNetwork

from .synthetic import ENGINE, OVERHEAD_MS, inside_ms
from .test_profile import SPACE


def networks(
    space: spaces.Space, n: int, classes: int = 1000, name: str = ""
) -> list[MeasuredNetwork]:
    """Return n networks of a space, with the latencies of the synthetic machine and 1 % of noise."""
    rng = np.random.default_rng(n)
    codes = np.unique(space.sample_codes(2 * n, rng), axis=0)
    out = []
    for arch in space.decode(rng.permutation(codes)[:n]):
        placed = walk(arch, None, classes)
        ms = OVERHEAD_MS + sum(inside_ms(p) for p in placed)
        first, again = ms * np.exp(0.01 * rng.standard_normal(2))
        out.append(
            MeasuredNetwork(
                placed, "held_out", name or space.name, first, first, first, float(again)
            )
        )
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
def test_a_key_is_the_space_and_what_differs_from_its_default(resolution, classes, key):
    space = spaces.load("pplcnet_tail", resolution)
    assert error_keys(networks(space, 2, classes)) == [key, key]


def test_a_space_of_small_images_has_its_name_as_key_at_its_own_resolution():
    assert error_keys(networks(spaces.load("pplcnet_tail_32"), 1)) == ["pplcnet_tail_32"]
    at = spaces.load("pplcnet_tail_32", 224)
    assert error_keys(networks(at, 1)) == ["pplcnet_tail_32 224px"]


def test_a_user_s_space_has_its_name_as_key_while_it_has_one_resolution():
    small = networks(spaces.loads(SPACE, "mine"), 2)
    large = networks(spaces.loads(SPACE.replace("[64]", "[96]"), "mine"), 1)
    assert error_keys(small) == ["mine", "mine"]
    assert error_keys([*small, *large]) == ["mine 64px", "mine 64px", "mine 96px"]
    assert error_keys([*large, *small]) == ["mine 96px", "mine 64px", "mine 64px"]


def test_errors_of_two_resolutions_are_not_pooled():
    """At the larger resolution networks are 30 % slower than any sum predicts: only their errors show it."""
    table = LatencyTable(Machine("Some CPU", "avx2", 2, ""), ENGINE, overhead_ms=OVERHEAD_MS)
    sizes = {
        64: spaces.loads(SPACE, "mine"),
        96: spaces.loads(SPACE.replace("[64]", "[96]"), "mine"),
    }
    for size, space in sizes.items():
        for placed in space.placed_blocks():
            ms = OVERHEAD_MS + inside_ms(placed)
            table.entries[placed] = Entry(ms, ms, ms, 6, 2)
        for i, network in enumerate(networks(space, 60 + size)):
            held = i < 25
            slower = 1.3 if held and size == 96 else 1.0
            ms, again = network.ms * slower, (network.again_ms or 0) * slower
            role = "held_out" if held else "calibration"
            table.networks.append(
                MeasuredNetwork(network.placed, role, "mine", ms, ms, ms, again if held else None)
            )
    refit(table)
    assert list(table.errors) == ["mine 64px", "mine 96px"]
    small, large = (table.errors[key]["held_out"] for key in table.errors)
    assert small["fit"]["n"] == large["fit"]["n"] == 25
    assert set(METHODS) < set(small)
    assert small["fit"]["mape"] < 0.05 < 0.15 < large["fit"]["mape"]
    assert large["coverage_90"] < 0.1 < 0.6 < small["coverage_90"]
    reread = LatencyTable.from_data(table.to_data())  # a file may contain it
    assert reread.errors == table.errors
