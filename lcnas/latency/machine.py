"""This machine, as a latency table names it: processor, instruction set, cores that may be used."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# From the best downwards: (name in tables, the flags that Linux gives it, all of which must be there).
_X86 = (
    ("amx", ("amx_tile", "amx_bf16")),
    ("avx512bf16", ("avx512f", "avx512bw", "avx512vl", "avx512_bf16")),
    ("avx512vnni", ("avx512f", "avx512bw", "avx512vl", "avx512_vnni")),
    ("avx512", ("avx512f", "avx512bw", "avx512vl")),
    ("avxvnni", ("avx2", "avx_vnni")),
    ("avx2", ("avx2", "fma")),
    ("sse42", ("sse4_2",)),
)
_ARM = (("sve", ("sve",)), ("dotprod", ("asimddp",)), ("neon", ("asimd",)))


@dataclass(frozen=True)
class Machine:
    """A processor as far as latency depends on it."""

    cpu: str  # the processor's own name
    isa: str  # its best instruction set that inference engines use, such as "avx512bf16"
    cores: int  # logical cores that this process may use
    system: str  # "Linux x86_64"

    @property
    def slug(self) -> str:
        """The processor's name as a part of a file name."""
        kept = re.sub(r"\(r\)|\(tm\)|processor|cpu|\d+-core|@.*", " ", self.cpu.lower())
        return re.sub(r"[^a-z0-9]+", "-", kept).strip("-") or "cpu"

    def same_kind(self, other: Machine) -> bool:
        """Return whether latencies of one are meant for the other: processor and instruction set."""
        return (self.cpu, self.isa) == (other.cpu, other.isa)


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    info = _cpuinfo()
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        isa=instruction_set(info),
        cores=len(usable_cores()),
        system=f"{platform.system()} {platform.machine()}",
    )


def _cpuinfo() -> Mapping[str, str]:
    """Return the first processor's entries of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    out: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        out[key.strip()] = value.strip()
    return out


def instruction_set(info: Mapping[str, str]) -> str:
    """Return the best instruction set of /proc/cpuinfo's entries, or the architecture's plain name."""
    flags = set((info.get("flags") or info.get("Features") or "").split())
    for name, needed in (*_X86, *_ARM):
        if flags.issuperset(needed):
            return name
    return platform.machine().lower() or "unknown"


def has_bf16(isa: str) -> bool:
    """Return whether an instruction set multiplies bfloat16."""
    return isa in ("amx", "avx512bf16")


def usable_cores() -> tuple[int, ...]:
    """Return the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...] | None]:
    """Keep this process, and the threads that it starts inside, on as many cores as ``threads``.

    Yields the cores, the last of those allowed (the first take most of the system's interrupts), or None
    where the system has no such call; the former cores are given back at the end.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = usable_cores()
    chosen = before[-min(threads, len(before)) :]
    try:
        os.sched_setaffinity(0, chosen)
    except OSError:  # a sandbox may forbid it
        yield None
        return
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)
