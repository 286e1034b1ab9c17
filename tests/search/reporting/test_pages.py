"""The report's pages: what they say, and that nothing in them breaks out of its place."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from lcnas import spaces, zoo
from lcnas.arch import Arch
from search import reporting
from search.errors import SearchError
from search.outcome import MeasuredLatency
from search.reporting import content, figure, html, markdown
from search.reporting.page import Bullets, Code, Figure, Heading, Link, Part, Rows, Text
from search.run_dir import RunDir
from search.settings import Settings
from tests.search.reporting import sample_run

NASTY = 'a|b <i>*x*</i> [y](z) `c`\n"d" & \\e'
PAGE: list[Part] = [
    Heading("Title & more", 1),
    Text(NASTY),
    Text("strong", strong=True),
    Bullets((NASTY, "second")),
    Rows(("name", NASTY), ((NASTY, "1.0"), ("x", Link("a file", "net works/a.onnx"))), frozenset({1})),
    Code("ls <x> | wc"),
    Figure("front.png", "what it shows"),
]  # fmt: skip


def test_markdown():
    text = markdown.render(PAGE)
    assert text.startswith("# Title & more\n\n")
    assert r"a\|b \<i\>\*x\*\</i\> \[y\](z) \`c\` " in text
    assert "**strong**" in text
    assert "[a file](net%20works/a.onnx)" in text
    assert "```sh\nls <x> | wc\n```" in text
    assert "![what it shows](front.png)" in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 4
    for line in table:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert table[1] == "| --- | ---: |"


class Reader(HTMLParser):
    """Checks that tags close in order, and keeps texts, attributes and cells."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_html():
    text = html.render(PAGE, {"front.png": b"\x89PNG..."})
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert reader.texts.count(NASTY) == 4  # each in its place, as it was
    assert ("a", "href", "net%20works/a.onnx") in reader.attributes
    source = next(value for tag, name, value in reader.attributes if (tag, name) == ("img", "src"))
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == b"\x89PNG..."


# -- whole reports ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("some") / "first"


@pytest.fixture(scope="module")
def outcome(folder):
    return sample_run.outcome(folder)


@pytest.fixture(scope="module")
def written(folder, outcome):
    paths = reporting.write(outcome, folder)
    return {path.name: path for path in paths}


def test_all_files_are_written(written, folder):
    assert list(written) == ["report.md", "report.html", "front.json", "front.png"]
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    "said",
    [
        "# Search in pplcnet_tail\n",
        "Better than the baselines beside it in 2 of 3 latency bands.",
        "- Band 1: finalist-1 is ",
        "![Search in pplcnet_tail: accuracy over latency](front.png)",
        "| space | pplcnet_tail |",
        "| budget | 0.800 to 2.50 ms; the search kept to 2.38 ms, lower by the table's error |",
        "| networks in the budget | 123,456,789,012 |",
        "| latency table | Example CPU (avx2), openvino 1.0, fp32, 1 thread, batch 1 |",
        "| finalists | measured as whole networks on the table's machine |",
        "| evaluator | train: from scratch, 2 epochs |",
        "| searcher | nsga2 |",
        "| trials | 200, of which 198 were evaluated and 2 failed |",
        "| evaluator's speed | 2,346 images/s |",
        "points over chance (10.0 %); median ",
        "| networks/s | 0.4 |",
        "3 of 3 measured finalists (100%) within the budget of 2.50 ms when re-measured; 3 with the whole",
        "| search | 3 h 12 min |",
        "| **total** | **3 h 13 min** |",
        "Compilation took 1 min 1 s",
        "| 2 | the loss is no number |",
        "- finalist-3 was replaced",
        "| data | synthetic |",
        "| libraries.jax | 0.10.2 |",
        "python -m search.report runs/first\n",
        "[finalist-1-s",
        "| **winner of band 1** |",
        "| pplcnet_0.35x | PP-LCNet |",
        "| 58.09 | finalist-1 |",
    ],
)
def test_the_report_says(written, said):
    assert said in written["report.md"].read_text(encoding="utf-8")


def test_no_report_names_a_place_of_this_machine(written, folder):
    for name in ("report.md", "report.html", "front.json"):
        assert str(folder.parent) not in written[name].read_text(encoding="utf-8")


def test_the_html_page_stands_alone(written):
    text = written["report.html"].read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    loaded = [v for _, name, v in reader.attributes if name in ("src", "srcset", "data")]
    assert [value[:22] for value in loaded] == ["data:image/png;base64,"]
    assert base64.b64decode(loaded[0][22:]) == written["front.png"].read_bytes()
    assert not re.search(r"url\(|@import|<script|<link", text)


def test_the_same_again(written, outcome, folder):
    before = {name: path.read_bytes() for name, path in written.items()}
    reporting.write(outcome, folder)
    assert {name: path.read_bytes() for name, path in written.items()} == before


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take half a second each: for tests that look at the text."""
    monkeypatch.setattr(figure, "draw", lambda result: b"a figure")


@pytest.mark.usefixtures("undrawn")
def test_a_demonstration_calls_itself_one(tmp_path):
    outcome = sample_run.outcome(tmp_path, n=30, synthetic=True, names=("finalist-1",))
    reporting.write(outcome, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Search in pplcnet_tail (demonstration)\n")
    assert "This is a demonstration: its images are synthetic." in text
    assert json.loads((tmp_path / "front.json").read_text())["demonstration"] is True


def test_hardly_anything(tmp_path):
    outcome = sample_run.outcome(tmp_path, n=1, names=())
    bare = dataclasses.replace(
        outcome, times={}, evaluation={}, notes=(), front=(), on_this_machine=False
    )
    (tmp_path / "trials.jsonl").write_text("")
    reporting.write(bare, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for said in (
        "No finalist was trained",
        "None was trained.",
        "It is empty.",
        "not measured on the table's",
    ):
        assert said in text
    assert "## Times" not in text
    assert "## Failed trials" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_last_line_that_was_cut_off_is_no_trial(tmp_path):
    outcome = sample_run.outcome(tmp_path, n=20, names=())
    trials = tmp_path / "trials.jsonl"
    trials.write_text(trials.read_text()[:-30])
    reporting.write(outcome, tmp_path)
    trials.write_text("{}\n" + trials.read_text())
    with pytest.raises(SearchError, match=r"trials\.jsonl, line 1: no trial"):
        reporting.write(outcome, tmp_path)


def test_many_reasons_are_cut(tmp_path):
    trials = [
        dataclasses.replace(t, accuracy=None, reason=f"reason {t.number % 12}")
        for t in sample_run.trials(30)
    ]
    outcome = sample_run.outcome(tmp_path, n=30, names=())
    page = content.page(content.Material(outcome, tuple(trials), ()))
    (table,) = [p for p in page if isinstance(p, Rows) and p.head == ("trials", "reason")]
    assert len(table.rows) == 11
    assert table.rows[-1] == ("4", "2 other reasons")
    assert sum(int(str(row[0])) for row in table.rows) == 30


@pytest.mark.parametrize(
    ("ms", "high", "said"),
    [
        (
            2.4,
            2.45,
            "2 of 2 measured finalists (100%) within the budget of 2.50 ms when re-measured; 2 with",
        ),
        (
            2.5,
            2.6,
            "2 of 2 measured finalists (100%) within the budget of 2.50 ms when re-measured; 1 with",
        ),
        (
            2.51,
            2.6,
            "1 of 2 measured finalists (50%) within the budget of 2.50 ms when re-measured; 1 with",
        ),
    ],
)
def test_the_share_within_the_budget(ms, high, said):
    assert content.within_budget(
        [MeasuredLatency(1, 0.9, 1.1), MeasuredLatency(ms, 2.3, high)], 2.5
    ).startswith(said)


def test_the_share_within_the_budget_counts_those_that_made_room():
    kept = [MeasuredLatency(1, 0.9, 1.1), MeasuredLatency(2, 1.9, 2.1)]
    said = "2 of 5 candidates (40%) within the budget of 2.50 ms"
    assert content.within_budget(kept, 2.5, candidates=5).startswith(said)
    assert content.within_budget(kept, 2.5, candidates=2).startswith(
        "2 of 2 measured finalists (100%)"
    )


def test_baselines_stand_behind_the_last_finalist_that_they_are_beside(outcome):
    names = [final.name for final in content.in_order(outcome.finals[::-1])]
    assert names == [
        "finalist-1", "pplcnet_0.35x",
        "finalist-2", "pplcnet_0.62x",
        "finalist-3", "mobilenet_v3_small_1.0x", "mobilenet_v4_conv_small_0.5x", "pplcnet_0.75x",
    ]  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_a_search_is_repeated_by_what_was_asked_for(tmp_path):
    outcome = sample_run.outcome(tmp_path, n=20, names=())
    asked = Settings(
        resolution=(80, 160),
        max_latency_ms=2.5,
        baselines=False,
        predictor=True,
        data="npz:my file",
    )
    RunDir(tmp_path).begin(asked, asked.resolve(1))
    reporting.write(outcome, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "python -m search.run --resolution 80x160 --max-latency-ms 2.5 --data 'npz:my file' --predictor "
        "--no-baselines --out runs/again\n"
    ) in text


# -- front.json ------------------------------------------------------------------------------------


def test_the_front_holds_its_networks(written, outcome, folder):
    data = json.loads(written["front.json"].read_text())
    trials = {trial.number: trial for trial in sample_run.trials()}
    assert [item["number"] for item in data["front"]] == list(outcome.front)
    for item in data["front"]:
        trial = trials[item["number"]]
        assert Arch.from_data(item["arch"]).id == item["id"] == trial.arch
        assert (item["latency_ms"], item["accuracy"]) == (trial.latency_ms, trial.accuracy)
    first = data["finals"][0]
    assert Arch.from_data(first["arch"]) == outcome.finals[0].arch
    assert first["measured"]["ms"] == first["latency_ms"] == 0.92
    assert first["accuracy"] == pytest.approx(sum(r.test for r in outcome.finals[0].runs) / 3)
    assert first["split"] == "test"


@pytest.mark.usefixtures("undrawn")
def test_networks_of_a_space_that_is_not_at_hand(tmp_path):
    """The codes are those of a restricted space: given to write, then read back from front.json."""
    space = spaces.load("pplcnet_tail", 64).restrict(stem_width=[16])
    outcome = sample_run.outcome(tmp_path, n=1, names=())
    arch = space.decode(space.canonical(space.encode([zoo.load("pplcnet_1.0x", 64)])))[0]
    trial = dataclasses.replace(
        sample_run.trials(1)[0], arch=arch.id, codes=tuple(map(int, space.encode([arch])[0]))
    )
    (tmp_path / "trials.jsonl").write_text(json.dumps(trial.to_data()) + "\n")

    def written(**more):
        reporting.write(dataclasses.replace(outcome, front=(0,)), tmp_path, **more)
        (item,) = json.loads((tmp_path / "front.json").read_text())["front"]
        return item["arch"]

    assert written() is None  # the whole space gives another network for these codes
    assert Arch.from_data(written(space=space)) == arch
    assert Arch.from_data(written()) == arch
    (tmp_path / "front.json").write_text("{")
    assert written() is None
