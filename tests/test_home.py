"""A user whom the system does not know, as in `docker --user 12345`: without a name and a home."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import lcnas
from lcnas import _home
from tests.training import tiny

STRANGER = 12345
ROOT = Path(lcnas.__file__).parents[1]
UNKNOWN = """
import pwd

def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = getpwuid
"""


# -- in this process -------------------------------------------------------------------------------


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Make a system that does not know this user; gives what sets its environment."""

    def unknown(number):
        raise KeyError(number)

    def surrounded(**environment):
        monkeypatch.setattr(os, "environ", environment)
        return environment

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: _writable_for_others(path))
    _home._own_folder.cache_clear()
    yield surrounded
    _home._own_folder.cache_clear()


def _writable_for_others(path):
    """Root may write everywhere; the tests mean what the mode says."""
    return bool(Path(path).stat().st_mode & stat.S_IWUSR)


def _own(tmp_path):
    return tmp_path / f"lcnas-{os.geteuid()}"


def test_without_name_and_home_there_are_ones_of_the_users_own(system, tmp_path):
    found = system()
    _home.settle()
    own = _own(tmp_path)
    assert found == {"USER": f"uid{os.geteuid()}", "HOME": str(own)}
    assert own.stat().st_mode & 0o777 == 0o700
    _home.settle()  # the next command
    assert found["HOME"] == str(own)


def test_what_the_user_has_set_stays(system, tmp_path):
    given = {"LOGNAME": "me", "HOME": str(tmp_path / "home")}
    found = system(**given)
    _home.settle()
    assert found == given
    assert not _own(tmp_path).exists()


def test_a_home_that_cannot_be_written_keeps_all_but_the_caches(system, tmp_path):
    """Docker sets HOME to / for a user whom the image does not know."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    found = system(USER="me", HOME=str(home))
    _home.settle()
    own = _own(tmp_path)
    assert found == {
        "USER": "me",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(own / ".cache"),
        "MPLCONFIGDIR": str(own / "matplotlib"),
    }
    found = system(USER="me", HOME=str(home), XDG_CACHE_HOME="/kept", MPLCONFIGDIR="/too")
    _home.settle()
    assert (found["XDG_CACHE_HOME"], found["MPLCONFIGDIR"]) == ("/kept", "/too")


@pytest.mark.parametrize("kind", ["open to all", "a link", "a file"])
def test_a_folder_that_others_may_have_laid_there_is_not_taken(system, tmp_path, kind):
    """Compiled programs are read from it."""
    own = _own(tmp_path)
    if kind == "open to all":
        own.mkdir()
        own.chmod(0o777)
    elif kind == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "theirs")
    else:
        own.write_text("")
    found = system()
    _home.settle()
    made = Path(found["HOME"])
    assert made.parent == tmp_path
    assert made.name not in (own.name, "theirs")
    assert made.stat().st_mode & 0o777 == 0o700


def test_without_any_place_for_temporary_files_the_root_is_the_home(system, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    found = system(USER="me")
    _home.settle()
    assert found == {"USER": "me", "HOME": "/"}


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture
def place():
    """A folder that anybody may use; pytest's own are for this user alone."""
    made = Path(tempfile.mkdtemp(prefix="lcnas-test-"))
    for folder in (made, made / "tmp"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    yield made
    shutil.rmtree(made)


def run(place, *words, unknown=True, user=None, **environment):
    """Run Python in an environment that holds next to nothing."""
    hooks = place / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(UNKNOWN if unknown else "")
    more = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": f"{hooks}:{ROOT}",
            "TMPDIR": str(place / "tmp"),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": tiny.QUICK_FLAGS,
            **environment,
        },
        text=True,
        capture_output=True,
        timeout=300,
        **more,
    )


@pytest.mark.parametrize("home", [{}, {"HOME": "/proc"}], ids=["no home", "read-only home"])
def test_ray_tune_is_imported_by_a_user_whom_the_system_does_not_know(place, home):
    code = "import search.searchers, ray.tune, getpass; print(getpass.getuser())"
    done = run(place, "-c", code, **home)
    assert (done.returncode, done.stdout.strip()) == (0, f"uid{os.geteuid()}"), done.stderr


def train_words(place):
    arch = place / "tiny.json"
    arch.write_text(tiny.separable().to_json())
    arch.chmod(0o644)
    data = "synthetic:classes=3,train=60,test=20"
    words = f"--arch {arch} --data {data} --batch 16 --epochs 1 --workers 0 --out run"
    return ["-m", "lcnas.train", *words.split()]


def test_a_training_by_a_user_whom_the_system_does_not_know(place):
    done = run(place, *train_words(place))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (place / "run" / "best.onnx").is_file()
    kept = place / "tmp" / f"lcnas-{os.geteuid()}" / ".cache" / "lcnas"
    assert (kept / "jax").is_dir()  # the next start compiles nothing


@pytest.mark.parametrize("home", [{}, {"HOME": "/"}], ids=["no home", "home of root"])
def test_a_training_and_a_measurement_under_a_number_that_nobody_has(place, home):
    """Truly another user, where the tests may become one."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    try:
        probe = run(place, "-c", "import jax, lcnas", unknown=False, user=STRANGER)
    except PermissionError as error:
        pytest.skip(f"another user cannot run this Python: {error}")
    if probe.returncode:
        pytest.skip(f"another user cannot read this Python: {probe.stderr.strip()[-200:]}")
    done = run(place, *train_words(place), unknown=False, user=STRANGER, **home)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (place / "run" / "best.onnx").stat().st_uid == STRANGER
    words = "-m lcnas.measure run/best.onnx --rounds 1 --sessions 1 --time-budget 1"
    done = run(place, *words.split(), unknown=False, user=STRANGER, **home)
    assert done.returncode == 0, done.stderr
    assert "noise floor" in done.stdout
