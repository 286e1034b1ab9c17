"""Versions and the state of the checkout, as result files record them. Standard library alone."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import lcnas


def record(libraries: Iterable[str], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the environment of a result.

    Args:
        libraries: names of distributions; all have to be installed.
        machine: the machine, as JSON data.
    """
    return {
        "lcnas": lcnas.__version__,
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in libraries},
        "machine": dict(machine),
    }


def git_state() -> str:
    """Return the commit of the checkout, with "+" if files have changed; "" outside a checkout."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return ""

    def git(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        return result.stdout.strip() if result.returncode == 0 else ""

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = git("rev-parse", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "-uno") else "")
    return ""
