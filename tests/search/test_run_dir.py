import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcnas.errors import LcnasError
from search.errors import SearchError
from search.run_dir import CONFIG, TRIALS, RunDir, new_path
from search.settings import Settings
from search.trials import Trial


def trial(number, accuracy=0.5):
    return Trial(number, (1, 2, number), f"id{number}", 1.0 + number, accuracy, seconds=2.0)


@pytest.fixture
def folder(tmp_path):
    result = RunDir(tmp_path / "run")
    result.path.mkdir()
    return result


def test_trials_come_back_as_they_were_added(folder):
    added = [trial(3), trial(0, None), trial(1)]
    for one in added:
        folder.add(one)
    assert folder.trials() == added


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_a_kill_cut_off_is_no_trial_and_the_next_one_begins_anew(folder, cut):
    folder.add(trial(0))
    folder.add(trial(1))
    path = folder / TRIALS
    path.write_bytes(path.read_bytes()[:-cut])
    assert folder.trials() == [trial(0)]
    folder.repair()
    folder.add(trial(1))
    assert folder.trials() == [trial(0), trial(1)]


def test_a_trial_that_is_there_twice_is_refused(folder):
    folder.add(trial(0))
    folder.add(trial(0))
    with pytest.raises(SearchError, match="line 2: trial 0 is repeated"):
        folder.trials()


@pytest.mark.parametrize("line", ["{", "[]", '{"number": 0}', '{"number": "x", "codes": 3}'])
def test_a_line_that_is_no_trial_is_named(folder, line):
    folder.add(trial(0))
    with (folder / TRIALS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SearchError, match="line 2"):
        folder.trials()


def test_other_settings_are_refused_and_named(folder):
    asked = Settings(trials=5)
    folder.begin(asked, replace(asked, resolution=64).resolve(2))
    folder.check(Settings(trials=5))
    with pytest.raises(SearchError, match=r"trials is 5 there and 6 here; seed is 0 there and 1"):
        folder.check(Settings(trials=6, seed=1))
    assert folder.asked() == asked
    assert folder.settings().trials == 5


def test_a_folder_of_other_files_is_refused(folder):
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(SearchError, match="holds files and no search"):
        folder.check(Settings())


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(SearchError, match="is not a folder"):
        RunDir(tmp_path / "run").check(Settings())


def test_a_broken_config_is_named(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(SearchError, match=r"config\.json: cannot be read"):
        folder.asked()
    (folder / CONFIG).write_text(json.dumps({"format": "x", "version": 1}))
    with pytest.raises(SearchError, match="not lcnas-search version 2"):
        folder.asked()


def test_a_folder_without_a_search_cannot_be_resumed(tmp_path):
    with pytest.raises(SearchError, match="is not a folder"):
        RunDir(tmp_path / "nothing").asked()


def _tries(path: Path, messages: Any) -> None:
    try:
        with RunDir(path).held():
            messages.put("held")
    except LcnasError as error:
        messages.put(str(error))


def test_a_second_process_in_the_same_folder_is_refused(folder):
    messages = multiprocessing.get_context("spawn").Queue()
    with folder.held():
        other = multiprocessing.get_context("spawn").Process(
            target=_tries, args=(folder.path, messages)
        )
        other.start()
        assert "another process searches in" in messages.get(timeout=60)
        other.join()
    with folder.held():
        pass


def test_times_add_up_over_sessions(folder):
    folder.begin(Settings(), Settings())
    folder.add_time("search", 2.0)
    folder.add_time("search", 3.0)
    folder.add_time("data", 1.0)
    assert RunDir(folder.path).times() == {"search": 5.0, "data": 1.0}


def test_until_the_search_is_begun_nothing_is_written(folder):
    folder.add_time("data", 1.0)
    folder.add_time("data", 2.0)
    assert list(folder.path.iterdir()) == []
    folder.begin(Settings(), Settings())
    assert RunDir(folder.path).times() == {"data": 3.0}


def test_a_folder_is_forgotten_only_where_no_search_was_begun(folder):
    with folder.held():
        folder.forget()
    assert not folder.path.exists()
    folder.path.mkdir()
    (folder / "of-others").write_text("")
    folder.forget()
    assert (folder / "of-others").is_file()
    (folder / "of-others").unlink()
    folder.begin(Settings(), Settings())
    folder.forget()
    assert folder.begun


def test_a_new_name_is_new(tmp_path):
    first = new_path("pplcnet_tail", tmp_path)
    first.mkdir()
    second = new_path("pplcnet_tail", tmp_path)
    assert first != second
    assert first.name.startswith("pplcnet_tail-")
    assert new_path("my/own.toml", tmp_path).name.startswith("own-")


FULL = """
import resource, sys
from pathlib import Path
from lcnas.errors import LcnasError
from search.run_dir import RunDir
from tests.search.test_run_dir import trial

folder = RunDir(Path(sys.argv[1]))
folder.add(trial(0))
size = (folder.path / "trials.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))  # room for a part of a line
try:
    folder.add(trial(1))
except LcnasError as error:
    print(error)
assert [t.number for t in folder.trials()] == [0]
assert (folder.path / "trials.jsonl").stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
folder.add(trial(2))
assert [t.number for t in folder.trials()] == [0, 2]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process there")
def test_a_full_disk_leaves_no_part_of_a_line(folder):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder.path)],
        cwd=Path(__file__).parents[2],
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
