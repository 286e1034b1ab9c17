"""Wheel, editable install and bare checkout each find their data, used from elsewhere."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_REPORT = """
import json
import lcnas
from lcnas import paths, spaces
from lcnas.latency.table import LatencyTable, available
for name in spaces.available():
    spaces.load(name)
print(json.dumps({
    "package": lcnas.__file__,
    "version": lcnas.__version__,
    "spaces": spaces.available(),
    "spaces_dir": str(paths.spaces_dir()),
    "table_dirs": [str(folder) for folder in paths.table_dirs()],
    "tables": {name: len(LatencyTable.load(name).entries) for name in available()},
}))
"""


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def _report(path: list[Path] | None, cwd: Path) -> dict:
    """What lcnas finds, run from `cwd` with these entries on the path (None: as it is installed).

    Without `site` no `.pth` file counts, so the editable install, whose `.pth` points to the
    checkout, can't help.
    """
    if path is None:
        return json.loads(_run(sys.executable, "-I", "-c", _REPORT, cwd=cwd))
    entries = f"import sys; sys.path[:0] = {[str(entry) for entry in path]!r}\n"
    return json.loads(_run(sys.executable, "-I", "-S", "-c", entries + _REPORT, cwd=cwd))


@pytest.fixture(scope="module")
def site_packages() -> Path:
    """Where numpy is."""
    return Path(np.__file__).parent.parent


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that was built from that archive."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def space_names(checkout: Path) -> set[str]:
    names = {path.stem for path in (checkout / "spaces").glob("*.toml")}
    assert names
    return names


@pytest.fixture(scope="module")
def table_rows(checkout: Path) -> dict[str, int]:
    """The tables that the package brings, and how many rows each has."""
    files = (checkout / "latency_tables").glob("*.json")
    return {path.stem: len(json.loads(path.read_text())["rows"]) for path in files}


def test_the_wheel_works_outside_the_checkout(
    wheel, tmp_path, site_packages, space_names, table_rows
):
    target = tmp_path / "target"
    pip = [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    _run(*pip, "--target", target, wheel, cwd=tmp_path)
    (tmp_path / "cwd").mkdir()
    report = _report([target, site_packages], cwd=tmp_path / "cwd")
    assert report["package"] == str(target / "lcnas" / "__init__.py")
    assert report["version"] == "0.1.0"
    assert set(report["spaces"]) == space_names
    assert report["spaces_dir"] == str(target / "lcnas" / "_data" / "spaces")
    assert report["table_dirs"] == [str(target / "lcnas" / "_data" / "latency_tables")]
    assert report["tables"] == table_rows


def test_the_editable_install_works_outside_the_checkout(
    checkout, tmp_path, space_names, table_rows
):
    report = _report(None, cwd=tmp_path)
    assert report["package"] == str(checkout / "lcnas" / "__init__.py")
    assert report["version"] == "0.1.0"
    assert set(report["spaces"]) == space_names
    assert report["spaces_dir"] == str(checkout / "spaces")
    assert report["table_dirs"] == [str(checkout / "latency_tables")]
    assert report["tables"] == table_rows


def test_the_bare_checkout_works_from_elsewhere(checkout, tmp_path, site_packages, space_names):
    report = _report([checkout, site_packages], cwd=tmp_path)
    assert report["package"] == str(checkout / "lcnas" / "__init__.py")
    assert set(report["spaces"]) == space_names
    assert report["spaces_dir"] == str(checkout / "spaces")


def test_a_checkout_that_was_never_installed_has_a_version(checkout, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(checkout)!r}); import lcnas; print(lcnas.__version__)"
    )
    assert _run(sys.executable, "-I", "-S", "-c", code, cwd=tmp_path) == "0+unknown\n"


def test_the_wheel_installs_our_two_packages_and_nothing_else(wheel, checkout):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {
        "lcnas",
        "search",
        "lcnas-0.1.0.dist-info",
    }
    assert {"lcnas/py.typed", "search/py.typed"} <= names
    sources = [p for package in ("lcnas", "search") for p in (checkout / package).rglob("*.py")]
    assert {p.relative_to(checkout).as_posix() for p in sources} <= names
    data = {name for name in names if name.startswith("lcnas/_data/")}
    assert all(re.fullmatch(r"lcnas/_data/(spaces/\w+\.toml|latency_tables/.+)", n) for n in data)


def test_the_source_archive_can_be_tested(built, checkout):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    tests = {p.relative_to(checkout).as_posix() for p in (checkout / "tests").rglob("*.py")}
    assert tests | {"Makefile", "constraints.txt", "scripts/setup_venv.sh", "LICENSE"} <= names


def _constraints(checkout: Path) -> list[Requirement]:
    lines = (checkout / "constraints.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(not r.url and not r.extras for r in wanted), "a constraint is a name and a version"
    return [r for r in wanted if r.marker is None or r.marker.evaluate()]


def _installed(name: str, extras: frozenset[str]) -> dict[str, str]:
    """Name and version of all that `name` needs with these extras, itself left out."""
    results: dict[str, str] = {}
    waiting, visited = [(name, extras)], set()
    while waiting:
        current = waiting.pop()
        if current in visited:
            continue
        visited.add(current)
        for need in map(Requirement, metadata.requires(current[0]) or ()):
            marker, extras = need.marker, current[1] | {""}
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                results[canonicalize_name(need.name)] = metadata.version(need.name)
                waiting.append((need.name, frozenset(need.extras)))
    return results


def test_all_that_is_installed_is_pinned(checkout):
    pins: dict[str, str] = {
        canonicalize_name(r.name): str(r.specifier) for r in _constraints(checkout)
    }
    installed = _installed("lcnas", frozenset({"dev"}))
    assert len(installed) > 50
    loose = {n: v for n, v in installed.items() if pins.get(n) != f"=={v.partition('+')[0]}"}
    assert not loose, "not at the version of constraints.txt: run `make setup`, or pin them"


def test_onnxruntime_is_installed_once(checkout):
    """The two wheels share one module: the constraints let only one in."""
    runtimes = [d.name for d in metadata.distributions() if d.name.startswith("onnxruntime")]
    assert len(runtimes) == 1
    by_name = {r.name: r for r in _constraints(checkout)}
    if runtimes == ["onnxruntime-openvino"]:
        assert str(by_name["onnxruntime"].specifier) == "<0"
