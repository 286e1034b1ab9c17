"""The words of docs/reference/glossary.md are used, and those that they replaced are gone."""

import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

import lcnas

ROOT = Path(lcnas.__file__).parent.parent
CODE = ("lcnas", "search", "benchmarks", "results", "scripts", "tests")

# Words of prose and code that the glossary replaces, in any form.
OLD = re.compile(
    r"\b(pictures?|made.?up|shel(?:f|ves)|put(?:ting)? up|rivals?|contests?|dealt|dear|plain"
    r"|told|telling|tells|reckoned)\b",
    re.IGNORECASE,
)
# Names of values that say nothing of what they hold.
NAMES = {"made", "found", "told", "whose", "shelf", "picture", "pictures", "put_up"}

# What stays, file by file: keys on disk, deprecated names, names in data, and words of others.
KEPT = {
    "lcnas/classify.py": {"pictures": "key of the JSON output"},
    "lcnas/onnx_export/_quantise.py": {"pictures": "key in the metadata of files"},
    "lcnas/training/data/_data.py": {"pictures": "key of the cache"},
    "lcnas/renamed.py": {"pictures": "an old option, as an example"},
    "lcnas/training/supernet/loop.py": {"told": "an old parameter"},
    "lcnas/latency/table.py": {"whose": "an old attribute"},
    "search/evaluator_report.py": {"pictures": "key of outcome.json"},
    "search/finals/deployment.py": {"pictures": "key of deployed.json"},
    "search/outcome.py": {"shelf": "a role on disk"},
    "search/run.py": {"pictures": "old options"},
    "search/settings.py": {"pictures": "keys of config.json of earlier versions"},
    "benchmarks/supernet.py": {"pictures": "key of a committed result"},
    "results/short_recipes.py": {"pictures": "key of a committed result"},
    "spaces/lcnet_next.toml": {"plain": "the name of a template, part of its networks' choices"},
    "tests/budgets/oracle.py": {"plain": "the name of a template"},
    "tests/spaces/small.py": {"plain": "the name of a template"},
    "tests/models/test_supernet.py": {"plain": "the name of a template"},
    "docs/results/latency.md": {"plain": "words of a committed result"},
    "docs/results/search.md": {"pictures": "options in the commands of committed results"},
    "tests/onnx_export/test_quantise.py": {"pictures": "key in the metadata of files"},
    "tests/search/finals/test_network_training.py": {"pictures": "key of deployed.json"},
    "tests/test_classify.py": {"pictures": "key of the JSON output"},
    "tests/test_independent_accuracy.py": {"pictures": "key of the JSON output"},
    "tests/test_measure.py": {"pictures": "key in the metadata of files"},
    "tests/training/data/test_imagefolder.py": {"pictures": "key of the cache"},
    "tests/test_renamed.py": None,
    "tests/test_words.py": None,
    "docs/reference/glossary.md": None,
    "docs/tutorials/deploy.md": {"pictures": "key of the JSON output"},
}


def files():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in listed:
        folder, suffix = name.partition("/")[0], Path(name).suffix
        code = suffix == ".py" and folder in CODE
        prose = suffix == ".md" and (folder == "docs" or name in ("README.md", "CONTRIBUTING.md"))
        if code or prose or name == "Makefile" or (folder == "spaces" and suffix == ".toml"):
            yield name


def words(name, text):
    """Yield (line, word) of old words in prose and code, and of names that say nothing."""
    for number, line in enumerate(text.split("\n"), start=1):
        for match in OLD.finditer(line):
            yield number, match[0].lower()
    if name.endswith(".py"):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string in NAMES:
                yield token.start[0], token.string


def left(name, text):
    kept = KEPT.get(name, {})
    if kept is None:
        return []
    return [f"{name}:{line}: {word}" for line, word in words(name, text) if word not in kept]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a checkout")
def test_the_old_words_are_gone():
    names = list(files())
    assert len(names) > 300
    old = [
        o
        for name in names
        if (ROOT / name).is_file()
        for o in left(name, (ROOT / name).read_text())
    ]
    assert not old, "\n".join(old)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a checkout")
def test_no_exception_is_for_nothing():
    for name, kept in KEPT.items():
        found_words = {word for _, word in words(name, (ROOT / name).read_text())}
        assert found_words, name
        assert kept is None or set(kept) <= found_words, name


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.py", "x = 1  # a picture", "picture"),
        ("a.py", '"""What is told."""', "told"),
        ("a.py", "made = 1", "made"),
        ("a.md", "Images that are made up.", "made up"),
        ("a.md", "Rivals of the contest", "rivals"),
    ],
)
def test_an_old_word_is_found(name, text, word):
    assert word in [w for _, w in words(name, text)]


@pytest.mark.parametrize(
    ("name", "text"), [("a.py", "# made by hand, found nowhere"), ("a.md", "made")]
)
def test_english_is_left_alone(name, text):
    assert left(name, text) == []
