"""Workers keep to cores of their own."""

import json
import os
import subprocess
import sys
import threading

import pytest

TAKES = """
import json, os, sys
from search.distributed import worker
print(json.dumps([sorted(worker.take_cores(int(sys.argv[1]))), sorted(os.sched_getaffinity(0))]), flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to a core"
)


def taken(tmp_path, most):
    """Start a process that takes cores and keeps them; returns it, those taken and those it may run on."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKES, str(most)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    cores, may = json.loads(process.stdout.readline())
    return process, set(cores), set(may)


def test_no_two_workers_have_the_same_core(tmp_path):
    usable = os.sched_getaffinity(0)
    begun = [taken(tmp_path, 1) for _ in range(len(usable) + 1)]
    for process, _, _ in begun:
        process.communicate("")
    assert sorted(core for _, cores, _ in begun for core in cores) == sorted(usable)
    assert all(may == cores for _, cores, may in begun[:-1])
    assert begun[-1][1:] == (set(), usable)  # none was left: it may run anywhere


def test_a_worker_waits_for_the_core_of_the_one_before(tmp_path):
    usable = os.sched_getaffinity(0)
    process, cores, _ = taken(tmp_path, len(usable))
    assert cores == usable
    timer = threading.Timer(0.5, process.communicate, [""])
    timer.start()
    after, again, may = taken(tmp_path, 1)
    after.communicate("")
    timer.join()
    assert len(again) == 1
    assert may == again


def test_the_only_worker_takes_all_that_it_may(tmp_path):
    usable = os.sched_getaffinity(0)
    process, cores, may = taken(tmp_path, len(usable) + 3)
    process.communicate("")
    assert cores == may == usable
