"""Reports of a search: Markdown, HTML, a figure, JSON, and the table in the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from lcnas import files
from lcnas.errors import LcnasError, spelt
from lcnas.spaces import Space
from search.outcome import Outcome
from search.reporting import content, front, verdicts
from search.reporting.terminal import table
from search.run_dir import RunDir
from search.settings import Settings

NAMES = ("report.md", "report.html", front.NAME, content.FIGURE)


def write(
    outcome: Outcome, folder: str | Path, *, space: Space | None = None, measured_on: str = ""
) -> list[Path]:
    """Write report.md, report.html, front.json and front.png into the folder of a search.

    Args:
        outcome: what came out.
        folder: of the search, with its trials.jsonl and the files that the outcome names.
        space: that the trials' codes belong to; None: it is loaded by the outcome's settings.
        measured_on: machine and engine of the measured latencies, where they came from elsewhere.

    Raises:
        SearchError: trials.jsonl is damaged (a last line that was cut off is not).
        TrainingFailedError: the disk is full, or the folder cannot be written.
    """
    from search.reporting import figure, html, markdown

    path = Path(folder)
    material = content.Material(
        outcome=outcome,
        trials=tuple(sorted(RunDir(path).trials(), key=lambda trial: trial.number)),
        bands=verdicts.bands(outcome, path),
        measured_on=measured_on,
        command=_command(path),
        again=f"python -m search.report {shlex.quote(_shown(path))}",
    )
    page = content.page(material)
    png = figure.draw(material)
    contents: Mapping[str, bytes] = {
        content.FIGURE: png,
        front.NAME: front.to_json(material, front.networks(material, path, space)).encode(),
        "report.html": spelt(html.render(page, {content.FIGURE: png})).encode(),
        "report.md": spelt(markdown.render(page)).encode(),
    }
    from lcnas.training.run import unwritable

    with unwritable(path):
        for name, data in contents.items():
            files.write(path / name, data)
    return [path / name for name in NAMES]


def _shown(path: Path) -> str:
    """Return the folder as another machine may have it: a report names no place of this one."""
    return str(path) if not path.is_absolute() else f"runs/{path.name}"


def _command(path: Path) -> str:
    """Return the command that would repeat the search in a new folder; "" without its settings."""
    try:
        asked = RunDir(path).asked()
    except LcnasError:
        return ""
    return shlex.join(["python", "-m", "search.run", *_options(asked), "--out", "runs/again"])


def _options(asked: Settings) -> list[str]:
    """Return the options of what is not as it is by default."""
    options = []
    for text in asked.differences(Settings()):
        name = text.partition(" ")[0]
        value, option = getattr(asked, name), f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
        elif name == "blocks":
            options += [word for file in value for word in (option, str(file))]
        elif isinstance(value, tuple):
            options += [option, "x".join(map(str, value))]
        else:
            options += [option, str(value)]
    return options


__all__ = ["NAMES", "table", "write"]
