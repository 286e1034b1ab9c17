"""Blocks in the user's own Python files."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from lcnas.errors import LcnasError, shorten_path


def load_files(files: Iterable[str | Path]) -> None:
    """Run Python files that register blocks, such as the file of ``--blocks``.

    Call it in every process that uses the blocks. Calling it again with the same files is allowed.

    Args:
        files: the Python files.

    Raises:
        LcnasError: there is no such file, it is not a Python file, or it fails; the message names the line.
    """
    for i, file in enumerate(files):
        name, path = str(file), Path(file)
        if not os.path.isfile(name):  # noqa: PTH113 - pathlib raises for names that are too long
            raise LcnasError(f"blocks: there is no file {shorten_path(name)}")
        spec = importlib.util.spec_from_file_location(f"lcnas_user_blocks_{i}_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise LcnasError(f"blocks: {name} is not a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their annotations up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # noqa: BLE001 - a user's file may raise errors of all kinds
            raise LcnasError(_error_message(name, spec.origin, error)) from None


def _error_message(name: str, origin: str | None, error: Exception) -> str:
    """Return file, line and reason of an error in a user's file, in one line."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == origin]
    line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
    where = f"{name}, line {line}" if line else name
    return f"blocks: {where}: {type(error).__name__}: {' '.join(str(error).split())}"
