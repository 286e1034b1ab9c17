"""A search over folders as people have them: damaged images, names that are no UTF-8, what is left out."""

import dataclasses
import os
import shlex
import sys

import pytest
from PIL import Image

from lcnas.errors import DataError
from search import data_sets, packed, reporting, run
from search.distributed import cluster
from search.run_dir import RunDir
from search.settings import Settings
from tests.search.reporting import sample_run
from tests.search.small_table import small_table

ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCNAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Two classes of ten images, one of them damaged, and a text."""
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), (20 * i, 90, 90)).save(tmp_path / "set" / name / f"{i}.png")
    (tmp_path / "set" / "a" / "3.png").write_bytes(b"damaged")
    (tmp_path / "set" / "a" / "notes.txt").write_text("")
    return tmp_path / "set"


def test_the_option_that_the_message_names_is_there_and_helps(root):
    asked = Settings(data=f"imagefolder:{root}")
    with pytest.raises(DataError, match=r"1 of 20 images .* 1 % allowed: a/3.png .*\(--max-bad\)"):
        data_sets.load(asked, 32)
    given = run.make_parser().parse_args(["--max-bad", "0.1"])
    assert given.setting_max_bad == 0.1
    with data_sets.load(Settings(data=asked.data, max_bad=0.1), 32) as data:
        assert data_sets.describe(data)[1:] == [
            "note: 1 damaged images are left out",
            "note: 1 file left out: 1 .txt",
        ]


def test_a_dry_run_takes_names_that_are_no_utf8(root, tmp_path, monkeypatch, capsys):
    odd = root.with_name(ODD)
    try:
        root.rename(odd)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    monkeypatch.chdir(tmp_path)
    table = small_table(tmp_path, classes=2)
    words = ["--data", f"imagefolder:{odd}", "--table", str(table), "--max-bad", "0.1"]
    assert run.main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    printed.encode()
    assert rf"data: imagefolder:{tmp_path}/caf\xe9" in printed
    assert "note: 1 file left out: 1 .txt" in printed


def test_what_does_not_fit_for_the_finals_is_refused_before_anything(
    root, tmp_path, monkeypatch, capsys
):
    """Not after hours of searching on a share that fits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packed, "memory_mb_here", lambda: 0.01)
    words = ["--data", f"imagefolder:{root}", "--table", str(small_table(tmp_path, classes=2))]
    words += ["--max-bad", "0.1", "--images", "4", "--out", "run"]
    for more in ([], ["--dry-run"]):
        with pytest.raises(DataError, match=r"\(--resolution\), or on .* \(--final-images\)$"):
            run.main([*words, *more])
        assert "table" not in capsys.readouterr().out
        assert not list(tmp_path.glob("run/*.json"))


def test_ray_is_told_the_command_in_valid_text(monkeypatch):
    from ray._private import utils

    original = utils.get_entrypoint_name
    monkeypatch.setattr(sys, "argv", ["search.run", f"imagefolder:{ODD}"])
    monkeypatch.setattr(utils, "get_entrypoint_name", lambda: shlex.join(sys.argv))
    with cluster._command_as_text():
        assert utils.get_entrypoint_name() == r"search.run 'imagefolder:caf\xe9'"
    assert utils.get_entrypoint_name() == f"search.run 'imagefolder:{ODD}'"
    monkeypatch.setattr(sys, "argv", ["search.run"])
    monkeypatch.setattr(utils, "get_entrypoint_name", original)
    with cluster._command_as_text():
        assert utils.get_entrypoint_name is original


def test_a_report_spells_them(tmp_path, monkeypatch):
    monkeypatch.setattr("search.reporting.figure.draw", lambda _: b"png")
    outcome = sample_run.outcome(tmp_path, n=20, names=())
    asked = Settings(data=f"imagefolder:/{ODD}")
    RunDir(tmp_path).begin(asked, dataclasses.replace(asked, resolution=32).resolve(1))
    assert RunDir(tmp_path).asked() == asked  # kept as the system has it
    reporting.write(outcome, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert r"--data 'imagefolder:/caf\xe9' --out runs/again" in text
    assert (tmp_path / "report.html").read_text(encoding="utf-8")
