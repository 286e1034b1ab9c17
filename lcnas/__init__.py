"""Neural architecture search for fast networks on CPUs.

Nothing is imported here: `from lcnas import spaces, cost` takes what it names and no more, so that
sampling a space needs neither JAX nor Ray nor an engine.
"""

import sys as _sys
from importlib import metadata as _metadata
from typing import Any as _Any

try:
    __version__ = _metadata.version("lcnas")
except _metadata.PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def _tell(kind: type[BaseException], error: BaseException, trace: _Any) -> None:
    """Say of Ctrl-C that it was heard, in a line; of all else what Python says."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=_sys.stderr)
    else:
        _sys.__excepthook__(kind, error, trace)


if _sys.argv[:1] == ["-m"]:  # a command of this package is imported, which takes a second
    _sys.excepthook = _tell
