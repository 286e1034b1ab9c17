"""A searcher and an evaluator of a user, as the how-to pages have them, through the command."""

import json
import os
import re
import subprocess
import sys

TABLE = "amd-epyc-avx512bf16-openvino1.24.1-fp32-t1-b1-48px"


def own_file(checkout, page, folder):
    """Write the file that a page shows; returns its name."""
    text = (checkout / "docs" / "how-to" / page).read_text(encoding="utf-8")
    code = re.search(r"^```python\n(# (\w+\.py)\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code is not None
    (folder / code[2]).write_text(code[1])
    return code[2]


def test_a_searcher_and_an_evaluator_of_a_file_reach_the_workers(checkout, tmp_path):
    searcher = own_file(checkout, "add-searcher.md", tmp_path)
    evaluator = own_file(checkout, "add-evaluator.md", tmp_path)
    options = (
        f"--space pplcnet_tail --table {TABLE} --max-latency-ms 0.6 --images 48 "
        "--data synthetic:train=60,test=12 "
        f"--searcher {searcher}:Climber --evaluator {evaluator}:prepare --trials 12 --finalists 1 --bands 1 "
        "--until search --out run"
    )
    command = [sys.executable, "-m", "search.run", *options.split()]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(t) for t in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert len(trials) == 12
    assert all(0 < trial["accuracy"] <= 1 for trial in trials)
    assert len({tuple(trial["codes"]) for trial in trials}) == 12


def test_a_file_that_fails_is_one_line(checkout, tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for option in ("--searcher", "--evaluator"):
        command = [sys.executable, "-m", "search.run", option, "broken.py:Any", "--out", "run"]
        env = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert "cannot be imported: 'ZeroDivisionError: division by zero'" in line
        assert not (tmp_path / "run").exists()
