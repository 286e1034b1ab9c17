"""The site builds with warnings as errors, and its generated parts are up to date."""

import importlib.util
import re
import subprocess
import sys

import pytest

GENERATED = {
    "make_command_docs": "docs/reference/commands.md",
    "make_figures": "docs/explanation/figures",
}


def script(checkout, name):
    spec = importlib.util.spec_from_file_location(name, checkout / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory):
    """The folder of the built site; links and anchors are checked, and a warning ends the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def test_every_page_has_a_place(checkout, site):
    pages = {p.relative_to(checkout / "docs") for p in (checkout / "docs").rglob("*.md")}
    assert len(pages) > 40
    for page in pages:
        assert (site / page.with_suffix(".html")).is_file(), page


def test_api_pages_have_signatures_and_examples(site):
    text = (site / "reference" / "api" / "spaces.html").read_text(encoding="utf-8")
    assert 'id="lcnas.spaces.Space.sample_codes"' in text
    assert "rng" in text
    assert "&gt;&gt;&gt;" in text
    assert ":class:" not in text
    assert "__reduce__" not in text


def test_no_page_asks_another_host_for_anything(site):
    asked = re.compile(
        r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?:https?:)?//([^"'/]+)"""
    )
    for page in site.rglob("*.html"):
        hosts = set(asked.findall(page.read_text(encoding="utf-8")))
        assert not hosts, f"{page}: {hosts}"


def test_figures_have_texts(checkout):
    for page in (checkout / "docs").rglob("*.md"):
        for text in re.findall(r"!\[([^\]]*)\]\(", page.read_text(encoding="utf-8")):
            assert len(text) > 15, page


@pytest.mark.parametrize("name", GENERATED)
def test_generated_parts_are_up_to_date(checkout, name):
    module = script(checkout, name)
    if name == "make_command_docs":  # help texts wrap a little differently in each Python
        actual = module.PATH.read_text(encoding="utf-8").split()
        assert actual == module.render().split(), f"run scripts/{name}.py"
    else:
        for figure in module.FIGURES:
            text = (module.FOLDER / f"{figure}.svg").read_text(encoding="utf-8")
            assert len(text) < 60_000
            assert _words(text) == _words(module.render(figure)), f"run scripts/{name}.py"


def _words(svg):
    """The texts of a figure: coordinates may differ in the last digits between versions of libraries."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)
