"""Neural architecture search for fast networks on CPUs.

Nothing is imported here: `from lcnas import spaces, cost` takes what it names and no more, so that
sampling a space needs neither JAX nor Ray nor an engine.
"""

from importlib import metadata as _metadata

try:
    __version__ = _metadata.version("lcnas")
except _metadata.PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
