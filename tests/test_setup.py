"""`scripts/setup_venv.sh` with synthetic Pythons: what it takes, when it does nothing, what it mends.

The Pythons say what version they are; their `-m venv` and `-m pip` leave a line in `log` and a
minimal environment.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

_TOOLS = ("cat", "cksum", "cp", "dirname", "ls", "mkdir", "rm", "sed", "sh", "sleep")

_PYTHON = """#!/bin/sh
case " $* " in
*" -m venv "*)
    echo "venv {version}" >>log
    mkdir -p .venv/bin .venv/lib/python3/site-packages
    cp "$0" .venv/bin/python
    exit ;;
*" -m pip "*)
    echo "pip {version}" >>log
    [ ! -e pip-fails ] || exit 1
    [ ! -e pip-is-slow ] || sleep 0.3
    echo >.venv/lib/python3/site-packages/numpy.py
    exit ;;
esac
while [ "$1" != -c ]; do shift; done
code=$2
shift 2
exec "{real}" -I -S -c "import site, sys
site.getsitepackages = lambda: []  # not those of the real one, which Debian leaves incomplete
sys.version_info = {version_info!r}
sys.base_prefix = sys._base_executable = '{executable}'
{lacking}
$code" "$@"
"""

BUILT = ["venv", "pip", "pip"]  # pip once for hatchling, once for the package
UPDATED = ["pip", "pip"]


@dataclass(frozen=True)
class Sandbox:
    """A checkout with next to nothing in it, and a PATH that has only what is put there."""

    root: Path

    @property
    def path(self) -> str:
        folders = sorted(p for p in self.root.parent.iterdir() if p.name.startswith("path"))
        return ":".join(map(str, folders))

    def add_python(self, name: str, version: str, folder: str = "path1", venv: bool = True) -> Path:
        executable = self.root.parent / folder / name
        text = _PYTHON.format(
            version=version,
            version_info=(*map(int, version.split(".")), "final", 0),
            real=sys.executable,
            executable=executable,
            lacking="" if venv else "sys.modules['ensurepip'] = None",
        )
        return self.add_program(executable, text)

    def add_program(self, executable: Path, text: str) -> Path:
        executable.parent.mkdir(exist_ok=True)
        executable.write_text(text)
        executable.chmod(0o755)
        return executable

    def start(self, python: str | None = None) -> subprocess.Popen[str]:
        environment = {"PATH": self.path} | ({} if python is None else {"PYTHON": python})
        script = self.root / "scripts" / "setup_venv.sh"
        return subprocess.Popen(
            ["/bin/sh", str(script)], env=environment, stderr=subprocess.PIPE, text=True
        )

    def run(self, python: str | None = None) -> tuple[int, str]:
        process = self.start(python)
        _, message = process.communicate(timeout=60)
        return process.returncode, message

    def steps(self) -> list[str]:
        """What was done since the last call: `venv` is a new environment, `pip` an installation."""
        log = self.root / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def chosen(self) -> str:
        """The version of Python that .venv was made with."""
        return (self.root / ".venv" / "stamp" / "interpreter").read_text().splitlines()[0]


@pytest.fixture
def sandbox(tmp_path: Path, checkout: Path) -> Sandbox:
    sandbox = Sandbox(tmp_path / "checkout")
    (sandbox.root / "scripts").mkdir(parents=True)
    shutil.copy(checkout / "scripts" / "setup_venv.sh", sandbox.root / "scripts")
    (sandbox.root / "pyproject.toml").write_text("[project]\n")
    (sandbox.root / "constraints.txt").write_text("numpy==2.0\n")
    tools = tmp_path / "path0"
    tools.mkdir()
    for name in _TOOLS:
        actual = shutil.which(name)
        assert actual, name
        (tools / name).symlink_to(actual)
    return sandbox


@pytest.fixture
def installed(sandbox: Sandbox) -> Sandbox:
    """A sandbox whose .venv is up to date."""
    sandbox.add_python("python3.12", "3.12.1")
    assert sandbox.run()[0] == 0
    assert sandbox.steps() == BUILT
    return sandbox


def test_the_newest_fitting_python_is_taken_whatever_its_name(sandbox):
    sandbox.add_python("python3.11", "3.11.9")
    sandbox.add_python("python3", "3.13.0")
    sandbox.add_python("python", "3.14.0")
    assert sandbox.run()[0] == 0
    assert sandbox.chosen() == "3.13.0"


def test_what_fails_when_run_or_lacks_venv_is_passed_over(sandbox):
    shim = "#!/bin/sh\necho python3.13: command not found >&2\nexit 127\n"
    sandbox.add_program(sandbox.root.parent / "path1" / "python3.13", shim)
    sandbox.add_python("python3.12", "3.12.5", venv=False)
    sandbox.add_python("python3.11", "3.11.2", folder="path1")
    sandbox.add_python("python3.12", "3.12.1", folder="path2")  # behind the one without venv
    code, message = sandbox.run()
    assert code == 0
    assert sandbox.chosen() == "3.12.1"
    assert "command not found" not in message


def test_only_misfits_are_named_in_one_line(sandbox):
    for name, version in (("python2", "2.7.18"), ("python", "3.8.18"), ("python3", "3.14.0")):
        sandbox.add_python(name, version)
    sandbox.add_python("python3", "3.10.13", folder="path2")
    sandbox.add_python("python3.10", "3.10.13", folder="path2")
    sandbox.add_python("python3.12", "3.12.3", venv=False)
    code, message = sandbox.run()
    assert code == 2
    assert message == (
        "setup: needs Python 3.11 to 3.13 with its venv module; "
        "found 3.12.3 without venv, 3.14.0, 3.10.13, 3.8.18, 2.7.18\n"
    )
    assert sandbox.steps() == []
    assert not (sandbox.root / ".venv").exists()


def test_a_missing_venv_module_is_named_where_nothing_else_is_wrong(sandbox):
    sandbox.add_python("python3", "3.11.2", venv=False)
    code, message = sandbox.run()
    assert code == 2
    assert message.count("\n") == 1
    assert "found 3.11.2 without venv: install that module" in message


def test_no_python_at_all(sandbox):
    code, message = sandbox.run()
    assert code == 2
    assert message.endswith("found no Python on PATH\n")


def test_the_python_that_was_named_is_taken(sandbox):
    sandbox.add_python("python3.13", "3.13.0")
    named = sandbox.add_python("some python", "3.11.4", folder="elsewhere")
    assert sandbox.run(python=str(named))[0] == 0
    assert sandbox.chosen() == "3.11.4"


@pytest.mark.parametrize(
    ("version", "venv", "complaint"),
    [
        ("3.10.13", True, "is 3.10.13"),
        ("3.14.1", True, "is 3.14.1"),
        ("3.12.0", False, "is 3.12.0 without venv"),
        (None, True, "does not run"),
    ],
)
def test_an_unfit_python_that_was_named_is_refused(sandbox, version, venv, complaint):
    sandbox.add_python("python3.13", "3.13.0")
    if version:
        sandbox.add_python("mine", version, venv=venv)
    assert sandbox.run(python="mine") == (
        2,
        f"setup: needs Python 3.11 to 3.13 with its venv module; PYTHON=mine {complaint}\n",
    )
    assert sandbox.steps() == []


def test_nothing_is_done_when_nothing_changed(installed):
    assert installed.run() == (0, "")
    assert installed.run(python="python3.12") == (0, "")
    installed.add_python("python3.13", "3.13.0")  # a newer one turned up: no reason to start afresh
    assert installed.run() == (0, "")
    (installed.root / ".venv" / "lib" / "python3" / "site-packages" / "extra.py").touch()
    assert installed.run() == (0, "")
    assert installed.steps() == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_is_installed_into_the_same_environment(installed, name):
    with (installed.root / name).open("a") as file:
        file.write("# changed\n")
    code, message = installed.run()
    assert code == 0
    assert "updating" in message
    assert installed.steps() == UPDATED
    assert installed.run() == (0, "")


def test_naming_another_python_starts_afresh(installed):
    installed.add_python("python3.11", "3.11.9")
    assert installed.run(python="python3.11")[0] == 0
    assert installed.steps() == BUILT
    assert installed.chosen() == "3.11.9"
    assert installed.run() == (0, "")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize(
    "part",
    [
        "stamp",
        "stamp/files",
        "stamp/interpreter",
        "stamp/installed",
        "bin",
        "bin/python",
        "lib",
        "lib/python3/site-packages",
        "lib/python3/site-packages/numpy.py",
    ],
)
def test_a_broken_environment_is_built_anew(installed, part):
    _remove(installed.root / ".venv" / part)
    assert installed.run()[0] == 0
    assert installed.steps() == BUILT
    assert installed.run() == (0, "")


def test_whatever_is_called_venv_is_replaced(installed):
    venv = installed.root / ".venv"
    _remove(venv)
    venv.write_text("a file")
    assert installed.run()[0] == 0
    _remove(venv)
    venv.mkdir()
    assert installed.run()[0] == 0
    _remove(venv)
    venv.symlink_to(installed.root / "nowhere")
    assert installed.run()[0] == 0
    assert installed.steps() == BUILT * 3


def test_a_python_that_went_away_is_replaced(installed):
    shim = installed.root / ".venv" / "bin" / "python"
    _remove(shim)
    shim.symlink_to(installed.root / "gone")
    assert installed.run()[0] == 0
    assert installed.steps() == BUILT


def test_a_copied_checkout_gets_its_own_environment(installed):
    copy = Sandbox(installed.root.parent / "copy")
    shutil.copytree(installed.root, copy.root)
    assert copy.run()[0] == 0
    assert copy.steps() == BUILT
    assert installed.run() == (0, "")


@pytest.mark.parametrize("changed", [False, True])
def test_after_a_failed_installation_it_starts_afresh(installed, changed):
    if changed:
        (installed.root / "pyproject.toml").write_text("[project]\n# changed\n")
    else:
        _remove(installed.root / ".venv")
    fails = installed.root / "pip-fails"
    fails.touch()
    code, message = installed.run()
    assert code == 1
    assert "pip failed" in message
    fails.unlink()
    installed.steps()
    assert installed.run()[0] == 0
    assert installed.steps() == BUILT


def test_two_runs_at_once_build_one_environment(sandbox):
    sandbox.add_python("python3", "3.12.1")
    (sandbox.root / "pip-is-slow").touch()
    runs = [sandbox.start() for _ in range(2)]
    for run in runs:
        run.communicate(timeout=60)
    assert [run.returncode for run in runs] == [0, 0]
    assert sandbox.steps() == BUILT


def test_a_run_that_has_to_wait_says_so(sandbox):
    fcntl = pytest.importorskip("fcntl", reason="without it there is no lock")
    sandbox.add_python("python3", "3.12.1")
    with (sandbox.root / "scripts" / "setup_venv.sh").open() as script:
        fcntl.flock(script, fcntl.LOCK_EX)
        run = sandbox.start()
        assert run.stderr
        assert "waiting" in run.stderr.readline()
        assert sandbox.steps() == []
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert sandbox.steps() == BUILT


def test_the_script_asks_for_the_versions_that_the_package_declares(checkout):
    script = (checkout / "scripts" / "setup_venv.sh").read_text()
    bounds = re.search(r"^oldest=(\d+) newest=(\d+)$", script, re.MULTILINE)
    names = re.search(r"^names='(.*)'$", script, re.MULTILINE)
    assert bounds
    assert names
    oldest, newest = map(int, bounds.groups())
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">=3.{oldest},<3.{newest + 1}"
    versions = [f"python3.{minor}" for minor in range(newest, oldest - 1, -1)]
    assert names[1].split() == [*versions, "python3", "python"]
    declared = {c for c in project["classifiers"] if re.search(r":: 3\.\d", c)}
    assert declared == {f"Programming Language :: Python :: {v[6:]}" for v in versions}
