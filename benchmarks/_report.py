"""What every benchmark writes beside its numbers: command, versions, machine; and how it writes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lcnas import files

RESULTS = Path(__file__).resolve().parent.parent / "results"
PACKAGES = ("numpy", "jax", "flax", "onnx", "onnxruntime-openvino", "onnxruntime", "torch")


def conditions(seeds: list[int]) -> dict[str, Any]:
    """Return the command, seeds, versions and machine of a run."""
    return {
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "seeds": seeds,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()},
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's own name, if the system has it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(name: str, data: dict[str, Any]) -> Path:
    """Write a result file beside its final place, then rename it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    files.write(path, json.dumps(data, indent=1) + "\n")
    return path


# -- experiments that go on where they stopped -------------------------------------------------------


def lines(path: Path) -> list[Any]:
    """Return what stands in a file of JSON lines; nothing where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, entry: Any) -> None:
    """Add a line to such a file."""
    files.append_line(path, entry)


def on_each_core(cores: int = 2) -> None:
    """Run the command that runs now once per core, each with its number as ``--core``, to their end.

    Raises:
        SystemExit: one of them failed.
    """
    command = [sys.executable, "-m", _module(), *sys.argv[1:]]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = [subprocess.Popen([*command, "--core", str(core)], env=env) for core in range(cores)]
    codes = [process.wait() for process in begun]  # all of them, also where the first failed
    if any(codes):
        raise SystemExit("a worker failed; its message is above")


def of_data(seeds: list[int], data: str) -> dict[str, Any]:
    """Return :func:`conditions` without the place where the images lie, as in ``imagefolder:DIR``."""
    settings, place = conditions(seeds), data.partition(":")[2]
    return {
        **settings,
        "command": settings["command"].replace(place, "DIR") if place else settings["command"],
    }
