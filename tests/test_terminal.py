"""Output of the commands: other encodings, closed pipes and streams, narrow terminals."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest

from lcnas import show, terminal, zoo
from lcnas.arch import Arch

COMMANDS = (
    "lcnas.classify",
    "lcnas.measure",
    "lcnas.profile_blocks",
    "lcnas.show",
    "lcnas.train",
    "search.report",
    "search.run",
)
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


@pytest.fixture
def shell(checkout, monkeypatch):
    """Runs a line of sh in which $PY is Python; returns (exit code, stdout, stderr) as bytes."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(line, **environment):
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=checkout,
            capture_output=True,
            env={**os.environ, "PY": sys.executable, **environment},
        )
        return done.returncode, done.stdout, done.stderr

    return run


# -- streams ---------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_not_an_error(shell, command):
    gone = f'{{ sleep 0.3; "$PY" -m {command} --help; echo $? >&2; }} | true'
    assert shell(gone)[2] == b"0\n"


@posix
def test_a_stdout_that_is_closed_changes_no_exit_code(shell):
    assert shell('"$PY" -m lcnas.show --list >&-') == (0, b"", b"")
    code, out, err = shell('"$PY" -m lcnas.show nonesuch >&-')
    assert (code, out, err.count(b"\n")) == (2, b"", 1)
    assert b"nonesuch" in err


@posix
@pytest.mark.parametrize("flag", ["", "-u"])
def test_work_continues_when_the_output_is_closed(shell, flag, tmp_path):
    """The output is lost; the file and the exit code are the usual ones."""
    (tmp_path / "job.py").write_text(JOB)
    file = tmp_path / "made"
    job = f'"$PY" {flag} {tmp_path / "job.py"} {file}'
    for line in (
        f"{{ {job}; echo $? >&2; }} | true",
        f"{{ {job} 2>&1; echo $? >{file}2; }} | true",
    ):
        shell(line)
        assert file.read_text() == "done"
        file.unlink()
    assert (tmp_path / "made2").read_text() == "2\n"
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        code, out, err = shell(f"{job} {closed}")
        assert code == 2
        assert file.read_text() == "done"  # without any output in it
        file.unlink()
        assert (out == b"") == (closed != "2>&-")
        assert b"Traceback" not in err


JOB = """
import sys, time
from pathlib import Path
from lcnas import commandline
from lcnas.errors import LcnasError

def main(argv):
    with open(argv[0], "w") as file:
        time.sleep(0.3)
        for _ in range(3):
            print("x" * 70_000, flush=True)
            print("y", file=sys.stderr)
        file.write("done")
    raise LcnasError("in the end")

commandline.run("job", main)
"""


@posix
def test_a_closed_stderr_does_not_move_errors_to_stdout(shell):
    code, out, err = shell('"$PY" -m lcnas.show nonesuch 2>&-')
    assert (code, out, err) == (2, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("argument", ["pplcnet_0.25x", "--help"])
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_1(shell, argument):
    code, _, err = shell(f'"$PY" -m lcnas.show {argument} >/dev/full')
    assert code == 1
    assert re.fullmatch(rb"python -m lcnas\.show: .*No space left on device\n", err)
    assert shell('"$PY" -m lcnas.show nonesuch 2>/dev/full') == (2, b"", b"")


@posix
@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp1252"])
def test_characters_that_an_encoding_lacks_are_escaped(shell, encoding, tmp_path):
    (tmp_path / "job.py").write_text(WORDS)
    line = f'"$PY" {tmp_path / "job.py"} "$(printf "caf\\351")"'
    code, out, err = shell(line, PYTHONIOENCODING=encoding)
    assert code == 0
    e = b"\xe9" if encoding in ("latin-1", "cp1252") else b"\\xe9"
    assert out.splitlines()[:2] == [b"caf\\xe9", e + b" \\u84dd"]
    assert err == e + b" \\u84dd\n"
    assert b"caf\\xe9" in out.splitlines()[-2]  # of a table
    assert out.splitlines()[-2].isascii()  # and its frame too


def test_utf8_is_not_changed(shell, tmp_path):
    (tmp_path / "job.py").write_text(WORDS)
    code, out, err = shell(f'"$PY" {tmp_path / "job.py"} ok', PYTHONIOENCODING="utf-8")
    assert (code, err.decode()) == (0, "é 蓝\n")
    assert out.decode().splitlines()[:2] == ["ok", "é 蓝"]
    assert "│ ok" in out.decode()


WORDS = """
import sys
from rich.console import Console
from rich.table import Table
from lcnas import commandline

def main(argv):
    print(argv[0])
    print("\\xe9 \\u84dd")
    print("\\xe9 \\u84dd", file=sys.stderr)
    table = Table("name")
    table.add_row(argv[0])
    Console().print(table)
    return 0

commandline.run("job", main)
"""


def test_printable_text_has_no_control_characters():
    assert (
        terminal.printable("a\x1b[2J\nb\u202e", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        == "a?[2J?b?"
    )
    texts = {
        encoding: terminal.printable("é蓝\udce9", io.TextIOWrapper(io.BytesIO(), encoding))
        for encoding in ("utf-8", "latin-1", "ascii")
    }
    assert texts == {
        "utf-8": "é蓝\\xe9",
        "latin-1": "é\\u84dd\\xe9",
        "ascii": "\\xe9\\u84dd\\xe9",
    }


# -- narrow terminals ------------------------------------------------------------------------------


def test_columns_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal.columns() == 20


@posix
def test_without_a_terminal_any_number_of_columns_fits(shell, tmp_path):
    code = "from lcnas import terminal; print(terminal.columns())"
    assert shell(f"\"$PY\" -c '{code}' </dev/null 2>{tmp_path / 'err'} | cat")[1] == b"None\n"


ROWS = (
    ("block", "type", "params", "%"),
    ("stem", "conv", "232", "0.1"),
    ("total", "", "1,234", ""),
)


def test_a_table_is_stacked_where_it_does_not_fit():
    wide = [
        "block  type  params    %",
        "------------------------",
        "stem   conv     232  0.1",
        "total         1,234",
    ]
    for columns in (None, 200, 24):
        assert terminal.table(ROWS, (2, 3), (1,), columns=columns) == wide
    assert terminal.table(ROWS, (2, 3), (1,), columns=23) == [
        "stem",
        "  type: conv",
        "  params: 232 (0.1%)",
        "total",
        "  params: 1,234",
    ]
    long = [("name", "value"), ("a", "b" * 100)]
    assert len(terminal.table(long, columns=80)) == 2  # a terminal of a usual width wraps it
    assert terminal.table(long, columns=59)[0] == "a"


def words_of(text):
    return re.findall(r"[\w.,]*\w", text)


@pytest.mark.parametrize("name", ["pplcnet_0.25x", "pplcnet_tail"])
def test_show_at_20_columns_is_complete_and_keeps_words_whole(name):
    described = show.find(name)
    narrow = show.describe(described, columns=20)
    part = 1 if isinstance(described, Arch) else 2  # of a space, under a title
    table = narrow.split("\n\n")[part].removeprefix("what may vary (24 genes)\n")
    for line in table.splitlines():  # words that are too long are not split
        assert len(line) <= 20 or max(map(len, line.split())) > 12
    full_table = show.describe(described).split("\n\n")[part]
    missing = set(words_of(full_table)) - set(words_of(table))
    assert missing <= {"block", "what", "may", "vary", "24", "genes"}  # the first head, the title


def test_a_difference_at_20_columns():
    a, b = zoo.load("pplcnet_0.25x"), zoo.load("pplcnet_0.5x")
    lines = show.difference(a, b, columns=20).splitlines()
    assert lines[:5] == [
        "stage1",
        "  pplcnet_0.25x:",
        "    width 8",
        "  pplcnet_0.5x:",
        "    width 16",
    ]


def test_show_fits_the_columns(monkeypatch, capsys):
    outputs = {}
    for columns in ("20", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert show.main(["pplcnet_0.25x"]) == 0
        outputs[columns] = capsys.readouterr().out
    assert outputs["200"].rstrip("\n") == show.describe(show.find("pplcnet_0.25x"))
    assert outputs["20"].rstrip("\n") == show.describe(show.find("pplcnet_0.25x"), columns=20)
