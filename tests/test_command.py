"""The console script, its completion, and the output options that all commands share."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lcnas import commandline, outputs, zoo
from lcnas.errors import LcnasError
from search import command

SCRIPT = Path(sys.executable).parent / "lcnas"


@pytest.fixture(autouse=True)
def own_spellings(monkeypatch):
    monkeypatch.setattr(commandline, "_spellings", {})
    yield
    outputs.configure()


def run(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        command.main(args)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_without_a_command_it_prints_help(capsys):
    for args in ((), ("--help",), ("-h",)):
        code, out, err = run(capsys, *args)
        assert (code, err) == (0, "")
        assert all(f"\n  {name} " in out for name in (*command.COMMANDS, "completion"))


def test_version(capsys):
    import lcnas

    assert run(capsys, "--version") == (0, f"{lcnas.__version__}\n", "")


def test_an_unknown_command_is_one_line_with_the_nearest_one(capsys):
    code, out, err = run(capsys, "serch")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "did you mean 'search'?" in err


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_command_has_help_under_its_own_name(capsys, name):
    code, out, err = run(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: lcnas {name} [OPTIONS]")
    assert "--quiet" in out
    assert "--json [FILE]" in out
    assert out.index("--quiet") > out.index("--help")


def test_errors_name_the_command_as_it_was_called(capsys):
    code, out, err = run(capsys, "show", "pplcnet_9")
    assert (code, out) == (2, "")
    assert err.startswith("lcnas show: ")
    code, out, err = run(capsys, "show", "--lits")
    assert err.startswith("lcnas show: unknown argument '--lits'; did you mean '--list'?")


@pytest.mark.skipif(not SCRIPT.exists(), reason="lcnas is not installed beside this Python")
def test_a_search_py_in_the_folder_does_not_hide_the_package(tmp_path):
    (tmp_path / "search.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        [SCRIPT, "report", "nowhere"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "lcnas report: folder: nowhere is not a folder\n"


# -- completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", command.SHELLS)
def test_completion_scripts_know_commands_and_options(capsys, shell):
    code, out, err = run(capsys, "completion", shell)
    assert (code, err) == (0, "")
    for word in (*command.COMMANDS, "max-latency-ms", "calibrate", "top"):
        assert word in out, word
    program = shutil.which(shell)
    if program is not None:
        checked = subprocess.run([program, "-n"], input=out, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_an_option(capsys, tmp_path):
    _, script, _ = run(capsys, "completion", "bash")
    (tmp_path / "c.bash").write_text(script)
    lines = (
        "source c.bash; COMP_WORDS=(lcnas search --max-l); COMP_CWORD=2;"
        "f=$(complete -p lcnas | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f lcnas --max-l "
        "search; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", lines], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["--max-latency-ms"], done.stderr


@pytest.mark.parametrize(
    "args", [("completion",), ("completion", "csh"), ("completion", "bash", "zsh")]
)
def test_completion_of_no_or_another_shell_is_refused(capsys, args):
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert "is not among bash, zsh, fish" in err


# -- --json and --quiet ----------------------------------------------------------------------------


def test_json_to_stdout_and_to_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "show", "pplcnet_0.25x", "--json")
    (shown,) = json.loads(out)["shown"]
    assert (code, shown["id"]) == (0, zoo.load("pplcnet_0.25x").id)
    assert sum(block["params"] for block in shown["blocks"]) == shown["params"]
    code, out, err = run(capsys, "show", "pplcnet_0.25x", "--json", "x.json")
    assert "total" in out
    assert out.endswith("written: x.json\n")
    assert json.loads(Path("x.json").read_text())["shown"] == [shown]
    code, out, err = run(capsys, "show", "pplcnet_0.25x", "-q", "--json", "x.json")
    assert "total" in out
    assert "written" not in out + err


def test_json_of_a_space_a_list_and_two_networks(capsys):
    _, out, _ = run(capsys, "show", "--json", "pplcnet_tail")  # what follows is no file
    (space,) = json.loads(out)["shown"]
    assert space["size"] == 137642803200
    assert len(space["genes"]) == 24
    _, out, _ = run(capsys, "show", "--list", "--json")
    assert "pplcnet_tail" in json.loads(out)["spaces"]
    _, out, _ = run(capsys, "show", "--diff", "pplcnet_0.25x", "pplcnet_0.5x", "--json")
    assert len(json.loads(out)["compared"]) == 2


@pytest.mark.parametrize(
    ("args", "taken"),
    [
        (["a", "--json"], ["a", "--json=-"]),
        (["--json", "b.png"], ["--json=-", "b.png"]),
        (["--json", "b.json", "c"], ["--json", "b.json", "c"]),
        (["--json", "-"], ["--json", "-"]),
        (["--json", "--top", "1"], ["--json=-", "--top", "1"]),
    ],
)
def test_a_json_file_is_told_from_what_follows(args, taken):
    assert commandline._separated(args, lambda text: text.endswith(".json")) == taken


@pytest.mark.parametrize("name", ["", ".", "\0.json", "x" * 300 + ".json"])
def test_a_json_file_that_cannot_be_written_is_refused_before_any_work(name):
    with pytest.raises(LcnasError, match="json: "):
        commandline._check_json_file(name)


def test_messages_go_to_stderr_where_json_goes_to_stdout(capsys):
    outputs.configure(json_to_stdout=True)
    outputs.message("a")
    outputs.console().print("b")
    assert capsys.readouterr() == ("", "a\nb\n")
    outputs.configure(quiet=True)
    outputs.message("a")
    outputs.console().print("b")
    assert capsys.readouterr() == ("", "")
    outputs.configure()
    outputs.message("a")
    outputs.console().print("b")
    assert capsys.readouterr() == ("a\nb\n", "")


def test_a_command_through_the_script_is_quick_to_help():
    code = (
        "import sys; sys.argv = ['lcnas', '--help']\n"
        "from search import command\n"
        "try: command.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'ray', 'onnxruntime', 'flax') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.endswith("[]\n"), done.stderr
