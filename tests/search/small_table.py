"""A latency table of another machine, by rule, so that searches in tests measure nothing."""

from lcnas import spaces
from lcnas.arch import walk
from lcnas.latency import LatencyTable, Machine
from lcnas.latency.table import Entry
from search import tables
from tests.latency import synthetic

TICKS = 1000  # of a ms


def small_table(folder, space="pplcnet_tail", size=32, classes=10):
    """Write a table with all entries of a space at a small resolution; returns its path."""
    result = spaces.load(space, size)
    wanted = dict.fromkeys(result.placed_blocks(classes))
    for arch in tables.published_scales(result):
        wanted.update(dict.fromkeys(walk(arch, None, classes)))
    table = LatencyTable(Machine("Example CPU", "avx2", 4, "Linux x86_64"), synthetic.ENGINE)
    for placed in wanted:
        ms = synthetic.inside_ms(placed)
        table.entries[placed] = Entry(
            ms, 0.98 * ms, 1.02 * ms, 3, 2, term=max(1, round(TICKS * ms))
        )
    table.base = round(TICKS * synthetic.OVERHEAD_MS)
    table.residuals = tuple(-0.05 + 0.1 * i / 59 for i in range(60))
    return table.save(folder)
