import subprocess
import sys
from pathlib import Path

import pytest

from lcnas import paths


def _package(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `lcnas.paths` believe that the package lies in `root`."""
    package = root / "lcnas"
    package.mkdir(parents=True)
    monkeypatch.setattr(paths, "_PACKAGE", package)
    return package


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Site-packages with lcnas installed from a wheel. There are no tables elsewhere."""
    package = _package(tmp_path / "site-packages", monkeypatch)
    (package / "_data" / "spaces").mkdir(parents=True)
    (package / "_data" / "latency_tables").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("LCNAS_TABLES", raising=False)
    return package


def test_finds_the_folders_of_this_checkout(checkout, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LCNAS_TABLES", raising=False)
    assert paths.spaces_dir() == checkout / "spaces"
    assert paths.table_dirs() == (checkout / "latency_tables",)


def test_finds_the_folders_of_a_wheel(wheel):
    assert paths.spaces_dir() == wheel / "_data" / "spaces"
    assert paths.table_dirs() == (wheel / "_data" / "latency_tables",)


def test_a_folder_in_site_packages_is_not_taken_for_ours(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch)
    (tmp_path / "spaces").mkdir()  # of the other package of that name
    with pytest.raises(
        FileNotFoundError, match=r"'spaces' of lcnas is missing.*install lcnas again"
    ):
        paths.spaces_dir()


def test_a_checkout_without_the_folder_says_where_it_looked(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch)
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(FileNotFoundError) as error:
        paths.table_dirs()
    assert str(tmp_path / "latency_tables") in str(error.value)
    assert str(tmp_path / "lcnas" / "_data" / "latency_tables") in str(error.value)


def test_tables_are_looked_up_in_order(wheel, tmp_path, monkeypatch):
    explicit, named, here = tmp_path / "explicit", tmp_path / "named", Path("latency_tables")
    for folder in (explicit, named, here):
        folder.mkdir()
    monkeypatch.setenv("LCNAS_TABLES", str(named))
    packaged = wheel / "_data" / "latency_tables"
    assert paths.table_dirs(explicit) == (explicit, named, here.resolve(), packaged)
    assert paths.table_dirs() == (named, here.resolve(), packaged)


def test_missing_and_repeated_table_folders_are_left_out(wheel, tmp_path, monkeypatch):
    packaged = wheel / "_data" / "latency_tables"
    monkeypatch.setenv("LCNAS_TABLES", str(tmp_path / "nowhere"))
    assert paths.table_dirs(tmp_path / "nowhere either") == (packaged,)
    monkeypatch.setenv("LCNAS_TABLES", str(wheel / ".." / "lcnas" / "_data" / "latency_tables"))
    assert paths.table_dirs(packaged) == (packaged,)
    monkeypatch.setenv("LCNAS_TABLES", "")
    assert paths.table_dirs() == (packaged,)


def test_a_package_called_spaces_is_still_importable(checkout, tmp_path):
    """Our `spaces/` has no `__init__.py`, so a package of that name wins from further back."""
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").write_text("whose = 'theirs'\n")
    assert (checkout / "spaces").is_dir()
    assert not (checkout / "spaces" / "__init__.py").exists()
    path = [str(checkout), str(tmp_path)]
    code = f"import sys; sys.path[:0] = {path!r}; import spaces; print(spaces.whose)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "theirs\n", done.stderr


def test_paths_needs_only_the_standard_library(checkout):
    code = (
        f"import sys; sys.path.insert(0, {str(checkout)!r})\n"
        "from lcnas import paths; paths.spaces_dir()\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "['__main__', 'lcnas']\n", done.stderr
