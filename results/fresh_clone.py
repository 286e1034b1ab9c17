"""What a new user gets: ``make search`` in a fresh clone, into a new environment, stopped once and given again.

    python -m results.fresh_clone
    python -m results.searches default

Clones this checkout's last commit into a temporary folder, gives ``make search`` there, stops it by Ctrl-C when three
networks are evaluated, and gives it again, to the end. Writes results/fresh-clone.json: the commit, exit codes, seconds
of the set-up (until the command speaks) and of each step, and leaves the search's folder as runs/default, from
which the second command makes results/searches/default.*. Needs the package registries; run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _report

ROOT = Path(__file__).parents[1]
OUT = Path("runs") / "default"
PATIENCE = 3600.0


def make(clone: Path, log: Path, stop_at: tuple[str, ...] = ()) -> dict[str, Any]:
    """Give ``make search``; stop it where its output holds one of some texts.

    Args:
        clone: where.
        log: file for what it prints.
        stop_at: Ctrl-C when one of them is printed; none: let it end.
    """
    began = time.monotonic()
    spoke, stopped = None, None
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["make", "search", f"ARGS=--out {OUT}"],
            cwd=clone,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
        )
        while process.poll() is None and time.monotonic() < began + PATIENCE:
            time.sleep(0.2)
            said = log.read_text(errors="replace")
            if spoke is None and f"run: {OUT}" in said:
                spoke = time.monotonic()
            if stopped is None and any(text in said for text in stop_at):
                os.killpg(process.pid, signal.SIGINT)
                stopped = time.monotonic()
        code = process.wait(60)
    return {
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 1),
        "setup_seconds": None if spoke is None else round(spoke - began, 1),
        "stopped_after_seconds": None if stopped is None else round(stopped - began, 1),
        "last_lines": log.read_text(errors="replace").strip().splitlines()[-3:],
    }


def main() -> None:
    """Clone, search, stop, search, write."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    with tempfile.TemporaryDirectory(prefix="lcnas-fresh-") as name:
        clone = Path(name) / "lcnas"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        first = make(clone, Path(name) / "first.log", ("networks: 3 of", "networks: 4 of"))
        print(json.dumps(first, indent=1), flush=True)
        if first["stopped_after_seconds"] is None or not any(
            "goes on" in line for line in first["last_lines"]
        ):
            raise SystemExit("it was not stopped in the search")
        second = make(clone, Path(name) / "second.log")
        print((Path(name) / "second.log").read_text(), flush=True)
        if second["exit_code"]:
            raise SystemExit(1)
        times = json.loads((clone / OUT / "times.json").read_text())
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.parent.mkdir(exist_ok=True)
        shutil.copytree(clone / OUT, OUT)
    total = round(sum(times.values()), 1)
    about = {"commit": commit, "first": first, "second": second, "steps": times, "total": total}
    _report.write("fresh-clone", {**_report.conditions([0]), **about})


if __name__ == "__main__":
    main()
