"""What an import brings along."""

import subprocess
import sys

import pytest

REPORT = """
import sys
before = set(sys.modules)
import {module}
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(loaded - set(sys.stdlib_module_names) - {{"lcnas"}}))
"""


def third_party(module):
    """What importing a module loads that is neither lcnas nor the standard library."""
    line = [sys.executable, "-c", REPORT.format(module=module)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("module", ["lcnas.spaces", "lcnas.cost", "lcnas.show"])
def test_spaces_and_costs_load_numpy_alone(module):
    assert third_party(module) == ["numpy"]


@pytest.mark.parametrize("module", ["lcnas", "lcnas.blocks", "lcnas.arch", "lcnas.zoo"])
def test_describing_networks_loads_nothing(module):
    assert third_party(module) == []


def test_what_is_loaded_is_seen():
    assert "pytest" in third_party("pytest")
