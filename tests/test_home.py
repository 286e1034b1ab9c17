"""A user that the system does not know, as in `docker --user 12345`: without name and home."""

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
from lcnas import home as home_module
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
    """Simulate a system that does not know this user; returns a function that sets the environment."""

    def unknown(number):
        raise KeyError(number)

    def surrounded(**environment):
        monkeypatch.setattr(os, "environ", environment)
        return environment

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: _writable_for_others(path))
    home_module._temporary_home.cache_clear()
    yield surrounded
    home_module._temporary_home.cache_clear()


def _writable_for_others(path):
    """Root can write everywhere; the tests go by the mode."""
    return bool(Path(path).stat().st_mode & stat.S_IWUSR)


def _temporary_home(tmp_path):
    return tmp_path / f"lcnas-{os.geteuid()}"


def test_without_name_and_home_the_user_gets_both(system, tmp_path):
    environment = system()
    home_module.ensure_user()
    temporary_home = _temporary_home(tmp_path)
    assert environment == {"USER": f"uid{os.geteuid()}", "HOME": str(temporary_home)}
    assert temporary_home.stat().st_mode & 0o777 == 0o700
    home_module.ensure_user()  # the next command
    assert environment["HOME"] == str(temporary_home)


def test_variables_that_the_user_has_set_are_kept(system, tmp_path):
    before = {"LOGNAME": "me", "HOME": str(tmp_path / "home")}
    environment = system(**before)
    home_module.ensure_user()
    assert environment == before
    assert not _temporary_home(tmp_path).exists()


def test_a_read_only_home_is_kept_but_for_the_caches(system, tmp_path):
    """Docker sets HOME to / for a user that the image does not know."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    environment = system(USER="me", HOME=str(home))
    home_module.ensure_user()
    temporary_home = _temporary_home(tmp_path)
    assert environment == {
        "USER": "me",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(temporary_home / ".cache"),
        "MPLCONFIGDIR": str(temporary_home / "matplotlib"),
    }
    environment = system(USER="me", HOME=str(home), XDG_CACHE_HOME="/kept", MPLCONFIGDIR="/too")
    home_module.ensure_user()
    assert (environment["XDG_CACHE_HOME"], environment["MPLCONFIGDIR"]) == ("/kept", "/too")


@pytest.mark.parametrize("kind", ["open to all", "a link", "a file"])
def test_a_folder_that_others_may_have_created_is_not_used(system, tmp_path, kind):
    """Compiled programs are read from it."""
    temporary_home = _temporary_home(tmp_path)
    if kind == "open to all":
        temporary_home.mkdir()
        temporary_home.chmod(0o777)
    elif kind == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        temporary_home.symlink_to(tmp_path / "theirs")
    else:
        temporary_home.write_text("")
    environment = system()
    home_module.ensure_user()
    fallback = Path(environment["HOME"])
    assert fallback.parent == tmp_path
    assert fallback.name not in (temporary_home.name, "theirs")
    assert fallback.stat().st_mode & 0o777 == 0o700


def test_without_any_place_for_temporary_files_the_root_is_the_home(system, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    environment = system(USER="me")
    home_module.ensure_user()
    assert environment == {"USER": "me", "HOME": "/"}


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture
def place():
    """A folder that every user can use; pytest's own are private."""
    root = Path(tempfile.mkdtemp(prefix="lcnas-test-"))
    for folder in (root, root / "tmp"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    yield root
    shutil.rmtree(root)


def run(place, *words, unknown=True, user=None, **environment):
    """Run Python in a nearly empty environment."""
    hooks = place / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(UNKNOWN if unknown else "")
    as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
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
        **as_user,
    )


@pytest.mark.parametrize("home", [{}, {"HOME": "/proc"}], ids=["no home", "read-only home"])
def test_an_unknown_user_imports_ray_tune(place, home):
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


def test_an_unknown_user_trains(place):
    done = run(place, *train_words(place))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (place / "run" / "best.onnx").is_file()
    kept = place / "tmp" / f"lcnas-{os.geteuid()}" / ".cache" / "lcnas"
    assert (kept / "jax").is_dir()  # the next start compiles nothing


@pytest.mark.parametrize("home", [{}, {"HOME": "/"}], ids=["no home", "home of root"])
def test_a_user_number_without_a_name_trains_and_measures(place, home):
    """With another user id, if the tests may switch to it."""
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
