"""Memory that is kept: what was freed is used again without new pages from the system."""

import json
import platform
import subprocess
import sys

import pytest

# Minor page faults of filling 64 MB a second time, in pages of 4 kB at worst 16,384.
PROGRAM = """
import json, resource, sys
import numpy as np
from lcnas.models import memory

if sys.argv[1] == "keep":
    assert memory.keep_freed_memory()
    assert memory.keep_freed_memory()  # a second time it is as before

def filled():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(1 << 24, np.float32).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(json.dumps([filled() for _ in range(3)]))
"""


def faults(checkout, how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_kept(checkout):
    *_, kept = faults(checkout, "keep")
    assert kept < 100
    *_, given_back = faults(checkout, "leave")
    assert given_back > 5 * kept  # what it is for: otherwise nothing would have to be done


def test_importing_changes_nothing(checkout):
    code = "import lcnas.models, lcnas.training; from lcnas.models import memory;"
    code += "print(memory.keep_freed_memory.cache_info().currsize)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.stdout == "0\n", done.stderr
