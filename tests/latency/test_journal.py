"""The journal: what it reads back, what counts as a cut, and what as damage."""

from __future__ import annotations

import errno
import gc
import json
import os
from pathlib import Path

import pytest

from lcnas.errors import TableError
from lcnas.latency.journal import Journal
from lcnas.latency.timing import Visit

HEADER = {"seed": 0, "spaces": [["a", "0123"]]}
DRAWN = {"calibration": [[0, 1]], "held_out": [], "uniform": [[1, 1]]}


def filled(path: Path) -> list[bytes]:
    """Write a journal of two runs; returns its lines."""
    for run in range(2):
        journal = Journal(path, HEADER)
        assert journal.run == run
        journal.visit(Visit("row:1", run, 100.0, 0.5))
        journal.visit(Visit("(reference)", 0, 101.5, 1.25))
        if run == 0:
            journal.note("draws:a", DRAWN)
        journal.sync()
        journal.close()
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".t.journal.jsonl"


def test_visits_and_notes_are_read_back_with_their_run(path):
    assert len(filled(path)) == 8
    again = Journal(path, HEADER)
    assert again.visits == [
        Visit("row:1", 0, 100.0, 0.5, run=0),
        Visit("(reference)", 0, 101.5, 1.25, run=0),
        Visit("row:1", 1, 100.0, 0.5, run=1),
        Visit("(reference)", 0, 101.5, 1.25, run=1),
    ]
    assert again.notes == {"draws:a": DRAWN}
    assert again.run == 2
    again.visit(Visit("row:2", 0, 3.0, 0.25))
    assert again.visits[-1].run == 2  # already now, as after the next start


def test_a_start_without_visits_writes_no_line(path):
    before = filled(path)
    Journal(path, HEADER).close()
    assert path.read_bytes().splitlines(keepends=True) == before


def test_a_cut_at_any_byte_loses_at_most_its_own_line(path):
    content = b"".join(filled(path))
    ends = [i for i in range(len(content) + 1) if content[:i].endswith(b"\n") or i == 0]
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        Journal(path, HEADER).close()
        kept = max(end for end in ends if end <= cut)
        assert path.read_bytes() == (content[:kept] or content[: ends[1]])


NONSENSE = [
    "\0\0\0", "12", "null", '"row:1"', "[]", "{}", "[" * 5000, '{"header":{}}',
    '["row:1",0,1.0]', '["row:1",0,1.0,2.0,3]', "[[1],0,1.0,2.0]",
    '["row:1","0",1.0,2.0]', '["row:1",true,1.0,2.0]', '["row:1",0,null,2.0]', '["row:1",0,1.0,-2.0]',
    '["row:1",0,1.0,NaN]', '["row:1",0,Infinity,1.0]', '["row:1",0,1.0,1' + "0" * 400 + "]",
    '{"run":"1"}', '{"run":[1]}', '{"run":true}', '{"other":1}',
    '{"draws:a":1}', '{"draws:a":{"held_out":[]}}',
    '{"draws:a":{"calibration":[[0,"1"]],"held_out":[],"uniform":[]}}',
    '{"draws:a":{"calibration":7,"held_out":[],"uniform":[]}}',
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_cut_off_at_the_end_and_damage_elsewhere(path, text):
    lines = filled(path)
    path.write_bytes(b"".join(lines) + text.encode() + b"\n")
    Journal(path, HEADER).close()
    assert path.read_bytes() == b"".join(lines)
    path.write_bytes(b"".join([*lines[:3], text.encode() + b"\n", *lines[3:]]))
    with pytest.raises(
        TableError, match=r"line 4 is damaged; remove that line, or the whole file"
    ) as caught:
        Journal(path, HEADER)
    assert "\n" not in str(caught.value)
    assert len(path.read_bytes().splitlines()) == 9  # and nothing is deleted


def test_a_journal_resumes_once_the_damaged_line_is_removed(path):
    lines = filled(path)
    for number in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        journal = Journal(path, HEADER)
        assert journal.run == (1 if number == 5 else 2)
        journal.close()


def test_the_journal_of_other_settings_and_one_without_a_header(path):
    lines = filled(path)
    with pytest.raises(TableError, match="is the journal of other settings; remove it"):
        Journal(path, HEADER | {"seed": 1})
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(TableError, match="line 1 is damaged; remove the file to go on"):
        Journal(path, HEADER)


def test_one_process_at_a_time(path):
    first = Journal(path, HEADER)
    with pytest.raises(TableError, match="another process is at work with the same settings"):
        Journal(path, HEADER)
    first.close()
    second = Journal(path, HEADER)
    second.remove()
    assert not path.exists()
    third = Journal(path, HEADER)
    assert path.exists()
    del third
    gc.collect()
    Journal(path, HEADER).remove()  # no process holds it any more


def test_a_full_disk_is_reported(path, monkeypatch):
    journal = Journal(path, HEADER)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(TableError, match="cannot be written: No space left on device"):
            journal.visit(Visit("row:1", 0, 1.0, 2.0))
        patched.setattr(os, "write", lambda *_: 3)  # room for three bytes
        with pytest.raises(TableError, match="cannot be written: No space left on device"):
            journal.note("draws:a", DRAWN)
        patched.setattr(os, "fsync", full)
        with pytest.raises(TableError, match="cannot be written: No space left on device"):
            journal.sync()
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"header": HEADER}]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", HEADER)
    with pytest.raises(TableError, match="cannot be written"):
        Journal(tmp_path, HEADER)
