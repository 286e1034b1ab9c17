"""The code in README.md, docs/ and docstrings runs, and prints what it says."""

import doctest
import importlib
import pkgutil
import re
import sys
import types
from pathlib import Path

import pytest

import lcnas
import search
from lcnas.blocks import _base

ROOT = Path(lcnas.__file__).parent.parent
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.is_file()
]
MODULES = [
    *("lcnas", *(m.name for m in pkgutil.walk_packages(lcnas.__path__, "lcnas."))),
    *("search", *(m.name for m in pkgutil.walk_packages(search.__path__, "search."))),
]


def code_blocks(text):
    """Return (language, line, code) of each fenced block."""
    fence = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(m[1], text[: m.start(2)].count("\n") + 1, m[2]) for m in fence.finditer(text)]


def file_name(code):
    """Return the name that a block begins with, where it stands for a file: "# my_block.py"."""
    match = re.match(r"# (\w+\.(?:py|toml|json))\n", code)
    return match[1] if match else None


def run(code, page, line, namespace):
    """Run a block at its place in the page, so that a traceback points there."""
    if not re.search(r"^>>> ", code, re.MULTILINE):
        exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(code, namespace, page, page, line - 1)
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
        test, out=said.append, clear_globs=False
    )
    namespace.update(test.globs)
    assert not outcome.failed, "".join(said)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, and a vocabulary that forgets what is added."""
    monkeypatch.setattr(_base, "_vocabulary", dict(_base._vocabulary))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is not None and Path(origin).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, workplace, monkeypatch):
    module = types.ModuleType("page")  # a real one, since dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for language, line, code in code_blocks((ROOT / page).read_text(encoding="utf-8")):
        name = file_name(code)
        if name:
            (workplace / name).write_text(code, encoding="utf-8")
        elif language == "python":
            run(code, page, line, module.__dict__)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_print_what_they_say(name, capsys):
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not outcome.failed, capsys.readouterr().out


def test_there_are_pages_and_examples():
    assert "docs/reference/blocks.md" in PAGES
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(t.examples) for m in modules for t in doctest.DocTestFinder().find(m)) > 10


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("code", "complaint"),
    [(">>> 1 + 1\n3\n", AssertionError), ("raise KeyError", KeyError), ("x = = 1", SyntaxError)],
)
def test_wrong_code_is_found(code, complaint):
    with pytest.raises(complaint):
        run(code, "page.md", 7, {})
